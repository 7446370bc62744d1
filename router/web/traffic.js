// Draws requests over time from the numbers of a table, and stops a list that is followed while it is read.
(() => {
  "use strict";

  const drawn = new Map();

  function draw(box) {
    const table = document.getElementById(box.dataset.chart);
    if (!table || !window.uPlot) return;
    const rows = [...table.tBodies[0].rows];
    const numbers = (name) => rows.map((row) => Number(row.dataset[name]));
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const step = Number(box.dataset.step);
    const time = (seconds) => new Date(seconds * 1000).toISOString().slice(step > 3600 ? 5 : 11, 16).replace("T", " ");
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
    const bars = uPlot.paths.bars({ size: [0.8, 60], align: 1 });
    const series = (label, name) => ({ label, stroke: colour(name), fill: colour(name), width: 0, paths: bars, points: { show: false } });
    drawn.get(box)?.destroy();
    box.replaceChildren();
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const requests = numbers("requests");
    const failures = numbers("failures");
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `${sum(requests)} requests over time, ${sum(failures)} failed; the table below has the numbers`);
    drawn.set(box, new uPlot({
      width: box.clientWidth,
      height: 160,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      scales: { x: { range: (_, low, high) => [low, high + step] }, y: { range: (_, low, high) => [0, Math.max(1, high)] } },
      axes: [{ ...axis, values: (_, seconds) => seconds.map(time) }, { ...axis, size: 56, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6, 1e7, 1e8] }],
      series: [{ label: "From (UTC)", value: (_, seconds) => (seconds === null ? "-" : time(seconds)) }, series("Requests", "--link"), series("Failed", "--bad")],
    }, [numbers("at"), requests, failures], box));
  }

  function drawAll() {
    for (const box of drawn.keys()) if (!box.isConnected) { drawn.get(box).destroy(); drawn.delete(box); }
    for (const box of document.querySelectorAll("[data-chart]")) if (!drawn.has(box)) draw(box);
  }

  document.addEventListener("htmx:after:swap", drawAll);
  document.addEventListener("DOMContentLoaded", drawAll);
  if (document.readyState !== "loading") drawAll();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const box of drawn.keys()) draw(box); });
  let resizing;
  window.addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => { for (const box of drawn.keys()) draw(box); }, 150);
  });

  // Rows that move while someone reads further down would be a nuisance. The newest part waits.
  const isReading = () => window.scrollY > 200;
  const state = () => document.getElementById("tail-state");
  let following = "";
  let waiting = null;
  document.addEventListener("htmx:sse:before:message", (event) => {
    if (event.target.id !== "tail") return;
    following ||= state().textContent;
    if (isReading()) {
      state().textContent = "Paused while you read further down; it goes on at the top of the page.";
      waiting = event.detail.message.data;
      event.preventDefault();
    } else {
      state().textContent = following;
      waiting = null;
    }
  });
  window.addEventListener("scroll", () => {
    const tail = document.getElementById("tail");
    if (waiting === null || isReading() || !tail) return;
    htmx.swap({ sourceElement: tail, target: tail, swap: "innerMorph", text: waiting });
    waiting = null;
    state().textContent = following;
  }, { passive: true });
})();
