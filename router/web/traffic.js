// Draws requests over time from the numbers of a table, and stops a list that is followed while it is read.
(() => {
  "use strict";

  const drawn = new Map();

  // The lowest of 2, 4, 6, 8, 10, 20, … that no bar is above: it has a tick, and so has the half.
  function top(highest) {
    let unit = 1;
    while (unit * 10 < highest) unit *= 10;
    return unit * [2, 4, 6, 8, 10].find((each) => unit * each >= highest);
  }

  const numbersOf = (box) => document.getElementById(box.dataset.chart);
  // What a chart shows; a table that is followed has others later.
  const shownBy = (table) => [...table.tBodies[0].rows].map((row) => `${row.dataset.at} ${row.dataset.requests} ${row.dataset.failures}`).join();

  function draw(box) {
    const table = numbersOf(box);
    if (!table || !window.uPlot) return;
    const rows = [...table.tBodies[0].rows];
    const numbers = (name) => rows.map((row) => Number(row.dataset[name]));
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const step = Number(table.dataset.step);
    const time = (seconds) => new Date(seconds * 1000).toISOString().slice(step > 3600 ? 5 : 11, 16).replace("T", " ");
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
    const bars = uPlot.paths.bars({ size: [0.8, 60], align: 1 });
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const requests = numbers("requests");
    const failures = numbers("failures");
    const highest = top(Math.max(...requests, ...failures));
    // Where no bar is pointed at, the legend has the sums.
    const series = (label, name, values) => ({ label, value: (_, value) => (value ?? sum(values)).toLocaleString("en"), stroke: colour(name), fill: colour(name), width: 0, paths: bars, points: { show: false } });
    drawn.get(box)?.plot.destroy();
    box.replaceChildren();
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `${sum(requests)} requests over time, ${sum(failures)} failed; the table below has the numbers`);
    const plot = new uPlot({
      width: box.clientWidth,
      height: 160,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      scales: { x: { range: (_, low, high) => [low, high + step] }, y: { range: [0, highest] } },
      axes: [{ ...axis, values: (_, seconds) => seconds.map(time) }, { ...axis, size: 64, splits: [0, highest / 2, highest] }],
      series: [{ label: "From (UTC)", value: (_, seconds) => time(seconds ?? Number(rows[0].dataset.at)) }, series("Requests", "--link", requests), series("Failed", "--bad", failures)],
    }, [numbers("at"), requests, failures], box);
    drawn.set(box, { plot, shown: shownBy(table) });
  }

  function drawAll() {
    for (const box of drawn.keys()) if (!box.isConnected) { drawn.get(box).plot.destroy(); drawn.delete(box); }
    for (const box of document.querySelectorAll("[data-chart]")) {
      const table = numbersOf(box);
      if (table && drawn.get(box)?.shown !== shownBy(table)) draw(box);
    }
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
