// Makes a dataset of recorded requests, and says how far it is. Without it the form does the same.
(() => {
  "use strict";

  let stop = null;
  const within = (id) => document.getElementById(id);
  const count = (number) => number.toLocaleString("en");

  function complain(text) {
    const notice = document.createElement("p");
    notice.className = "notice";
    notice.setAttribute("role", "alert");
    notice.textContent = text;
    within("from-traffic-problem").replaceChildren(notice);
  }

  function selection(form) {
    const fields = new FormData(form);
    const text = (name) => (fields.get(name) ?? "").trim();
    const chosen = { where: text("where"), mask: fields.has("mask"), dedupe: fields.has("dedupe"), review: fields.has("review") };
    for (const name of ["name", "route", "since", "until"]) if (text(name)) chosen[name] = text(name);
    if (text("sample")) chosen.sample = /^\d+$/.test(text("sample")) ? Number(text("sample")) : text("sample");
    const by = text("stratify").split(/[\s,]+/).filter(Boolean);
    if (by.length) chosen.stratify = by;
    return chosen;
  }

  function take(kind, data) {
    if (kind === "progress") {
      within("from-traffic-status").textContent = `${count(data.records)} requests read, ${count(data.rows)} rows written`;
    } else if (kind === "error") {
      complain(data.error.message);
    } else if (kind === "end") {
      const made = data.dataset;
      window.location.assign(made ? `/datasets/${made.name}@${made.hash.slice(0, 12)}` : "/review");
    }
  }

  async function read(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (text + value).replaceAll("\r\n", "\n").split("\n\n");
      text = events.pop();
      for (const event of events) {
        const lines = event.split("\n");
        const of = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2)).join("\n");
        if (of("event")) take(of("event"), JSON.parse(of("data")));
      }
    }
  }

  async function make(form) {
    const button = form.querySelector("button[type=submit]");
    const headers = { "content-type": "application/json", accept: "text/event-stream" };
    if (form.elements.csrf_token.value) headers["x-csrf-token"] = form.elements.csrf_token.value;
    stop = new AbortController();
    button.disabled = true;
    within("from-traffic-stop").hidden = false;
    within("from-traffic-problem").replaceChildren();
    within("from-traffic-status").textContent = "Reading requests…";
    try {
      const answer = await fetch("/datasets/from-traffic", { method: "POST", headers, body: JSON.stringify(selection(form)), signal: stop.signal });
      if (answer.ok) await read(answer);
      else complain((await answer.json()).error.message);
    } catch (error) {
      if (error.name !== "AbortError") complain("The server does not answer. What you chose is still here.");
    }
    button.disabled = false;
    within("from-traffic-stop").hidden = true;
    within("from-traffic-status").textContent = "";
  }

  document.addEventListener("submit", (event) => {
    if (event.target.id !== "from-traffic") return;
    if (event.submitter?.name === "count") {
      within("from-traffic-status").textContent = "Counting requests…";
      return;
    }
    event.preventDefault();
    make(event.target);
  });
  document.addEventListener("click", (event) => {
    if (event.target.id === "from-traffic-stop") stop?.abort();
  });
})();
