// The playground: sends a conversation to several routes, by the path that every client uses, and
// shows the answers as they come. Texts of models are text; what is Markdown comes from the server.
(() => {
  "use strict";

  const STORED = "evalrouter playground";
  const FIELDS = ["temperature", "top_p", "max_tokens", "seed", "stop", "reasoning_effort", "response_format"];
  const IN_ADDRESS = 200; // characters of a prompt
  const SHOWN = 100_000; // characters of an answer, until a person shows more of it
  const RECORD_TRIES = 20;

  const form = document.getElementById("playground");
  const fields = form.elements;
  const messages = document.getElementById("messages");
  const columns = document.getElementById("columns");
  const formError = document.getElementById("form-error");
  const maxBytes = Number(form.dataset.maxBytes);
  const maxColumns = Number(form.dataset.maxColumns);
  const copyOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
  const shown = (element, isShown) => { element.hidden = !isShown; };
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const element = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

  const headers = () => {
    const made = { "content-type": "application/json" };
    if (fields.csrf_token.value) made["x-csrf-token"] = fields.csrf_token.value;
    return made;
  };

  // What went wrong, in words, with what to do about it.
  class Failure extends Error {}

  const ADVICE = {
    401: "You are no longer signed in. Sign in again in another tab, then send again: what you typed stays here.",
    413: "The request is too large: leave pictures out, or shorten the conversation.",
    429: "Wait, then send again.",
    502: "Send again, or choose another route.",
    503: "Send again in a moment, or choose another route.",
    504: "Send again, or choose another route.",
  };

  const failureOf = (status, error, wait) => {
    let advice = ADVICE[status] ?? (status >= 500 ? ADVICE[502] : "");
    if (error.code === "csrf_token") advice = "Load the page again: what you typed stays here.";
    if (status === 429 && wait) advice = `Wait ${wait} s, then send again.`;
    return new Failure(`${error.message ?? "The server gave no reason."}${status ? ` (${status})` : ""}\n${advice}`.trim());
  };

  const refusalOf = async (response) => {
    let error = {};
    try { error = (await response.json()).error ?? {}; } catch { /* No JSON: the status says it. */ }
    const failure = failureOf(response.status, error, response.headers.get("retry-after"));
    return Object.assign(failure, { headers: response.headers });
  };

  const LOST = "The server does not answer. What you typed is still here; send again when it is back.";

  const request = async (path, options) => {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure(LOST);
    }
    if (!response.ok) throw await refusalOf(response);
    return response;
  };

  const post = (path, body) => request(path, { method: "POST", headers: headers(), body: JSON.stringify(body) });

  // Server-sent events, as the data of each.
  async function* eventsOf(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = "";
    for (;;) {
      let read;
      try {
        read = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Failure("The connection broke off before the answer's end. Send again.");
      }
      if (read.done) return;
      waiting += read.value;
      const lines = waiting.split(/\r\n|\n|\r(?!$)/);
      waiting = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }

  // The conversation.

  const pictures = new WeakMap();

  const label = (message) => {
    const role = message.querySelector(".role").value;
    message.classList.toggle("is-user", role === "user");
    message.querySelector(".content").setAttribute("aria-label", `Text of the ${role} message`);
  };

  const showPictures = (message) => {
    const list = message.querySelector(".pictures");
    list.replaceChildren();
    for (const picture of pictures.get(message) ?? []) {
      const item = document.createElement("li");
      const image = document.createElement("img");
      image.src = picture.url;
      image.alt = picture.name;
      const remove = element("button", `Remove ${picture.name}`);
      remove.type = "button";
      remove.className = "plain";
      remove.addEventListener("click", () => {
        pictures.set(message, pictures.get(message).filter((each) => each !== picture));
        showPictures(message);
        changed();
      });
      item.append(image, remove);
      list.append(item);
    }
  };

  const addMessage = (role, text, images = []) => {
    const message = copyOf("message-template");
    message.querySelector(".role").value = role;
    message.querySelector(".content").value = text;
    pictures.set(message, images);
    messages.append(message);
    label(message);
    showPictures(message);
    return message;
  };

  const read = (file) => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve({ name: file.name, url: reader.result }));
    reader.addEventListener("error", () => reject(new Failure(`${file.name} cannot be read.`)));
    reader.readAsDataURL(file);
  });

  const attach = async (message, input) => {
    try {
      for (const file of input.files) {
        if (!file.type.startsWith("image/")) throw new Failure(`${file.name} is not a picture.`);
        // In base64, three bytes are four characters.
        if (file.size * 4 / 3 > maxBytes * 0.9) {
          throw new Failure(`${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MiB; a request of this server has at most ${(maxBytes / 2 ** 20).toFixed(0)} MiB, and a picture takes a third more.`);
        }
        pictures.set(message, [...(pictures.get(message) ?? []), await read(file)]);
      }
      complain("");
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      complain(error.message);
    }
    input.value = "";
    showPictures(message);
    changed();
  };

  const conversation = () => [...messages.children].flatMap((message) => {
    const role = message.querySelector(".role").value;
    const text = message.querySelector(".content").value;
    const images = role === "user" ? pictures.get(message) ?? [] : [];
    if (!text.trim() && !images.length) return [];
    if (!images.length) return [{ role, content: text }];
    const parts = images.map((image) => ({ type: "image_url", image_url: { url: image.url } }));
    return [{ role, content: text.trim() ? [{ type: "text", text }, ...parts] : parts }];
  });

  // The request, from the form's fields.

  const complain = (text, field) => {
    for (const each of form.querySelectorAll("[aria-invalid]")) each.removeAttribute("aria-invalid");
    formError.textContent = text;
    shown(formError, Boolean(text));
    if (!field) return;
    const folded = field.closest("details");
    if (folded) folded.open = true;
    field.setAttribute("aria-invalid", "true");
    field.focus();
  };

  class FieldError extends Failure {
    constructor(message, field) {
      super(message);
      this.field = field;
    }
  }

  const numberIn = (name, what, isWhole) => {
    const text = fields[name].value.trim();
    if (!text) return undefined;
    const value = Number(text);
    if (!Number.isFinite(value) || (isWhole && !Number.isInteger(value))) {
      throw new FieldError(`${what} is a ${isWhole ? "whole " : ""}number, not “${text}”.`, fields[name]);
    }
    return value;
  };

  const jsonIn = (name, what, isRight) => {
    let value;
    try {
      value = JSON.parse(fields[name].value);
    } catch (error) {
      throw new FieldError(`${what}: this is not JSON (${error.message}).`, fields[name]);
    }
    if (!isRight(value)) throw new FieldError(`${what} as in the example.`, fields[name]);
    return value;
  };

  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

  const requestBody = () => {
    const body = { messages: conversation(), stream: true, stream_options: { include_usage: true } };
    if (!body.messages.length) throw new FieldError("Write a message first.", messages.querySelector(".is-user .content") ?? messages.querySelector(".content"));
    const given = {
      temperature: numberIn("temperature", "Temperature"),
      top_p: numberIn("top_p", "Top p"),
      max_tokens: numberIn("max_tokens", "The number of tokens", true),
      seed: numberIn("seed", "Seed", true),
    };
    for (const [name, value] of Object.entries(given)) if (value !== undefined) body[name] = value;
    if (fields.stop.value) body.stop = [fields.stop.value];
    if (fields.reasoning_effort.value) body.reasoning_effort = fields.reasoning_effort.value;
    if (fields.response_format.value === "json_object") body.response_format = { type: "json_object" };
    if (fields.response_format.value === "json_schema") {
      const schema = jsonIn("schema", "The schema is a JSON object", isObject);
      body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
    }
    if (fields.tools.value.trim()) {
      body.tools = jsonIn("tools", "Tools are a JSON list of objects", (value) => Array.isArray(value) && value.every(isObject));
    }
    return body;
  };

  // An answer and its column.

  class Column {
    constructor(section) {
      this.section = section;
      this.find = (selector) => section.querySelector(selector);
      this.model = this.find(".model");
      this.text = "";
      this.isComplete = false;
      this.find(".stop").addEventListener("click", () => this.stop());
      this.find(".whole").addEventListener("click", () => { this.shownLength = Infinity; this.draw(); });
      this.find(".as-markdown").addEventListener("click", () => this.toggleMarkdown());
      this.find(".with-images").addEventListener("click", () => this.renderMarkdown(true));
      this.find(".go-on").addEventListener("click", () => {
        addMessage("assistant", this.text);
        addMessage("user", "").querySelector(".content").focus();
        changed();
      });
      this.find(".remove-column").addEventListener("click", () => {
        this.stop();
        all.delete(section);
        section.remove();
        number();
        changed();
        document.getElementById("add-column").focus();
      });
    }

    get isUsable() {
      return this.isComplete && Boolean(this.text);
    }

    stop() {
      this.control?.abort();
    }

    clear() {
      Object.assign(this, { text: "", reasoning: "", calls: [], headers: undefined, first: undefined, isComplete: false, shownLength: SHOWN, usage: undefined, finish: "", record: "" });
      this.find(".answer").replaceChildren();
      for (const selector of [".failure", ".reasoning", ".calls", ".facts", ".verdict", ".markdown", ".whole", ".as-markdown", ".with-images", ".go-on"]) shown(this.find(selector), false);
      shown(this.find(".answer"), true);
      this.find(".as-markdown").setAttribute("aria-pressed", "false");
    }

    say(state) {
      this.find(".state").textContent = state;
    }

    fail(message) {
      this.find(".failure").textContent = message;
      shown(this.find(".failure"), true);
    }

    // Text that has come since the last time is added; a browser paints at its own pace.
    draw() {
      const place = this.find(".answer");
      const wanted = this.text.slice(0, this.shownLength);
      place.append(wanted.slice(place.textContent.length));
      const left = this.text.length - wanted.length;
      shown(this.find(".whole"), left > 0);
      if (left > 0) this.find(".whole").textContent = `Show ${left.toLocaleString("en")} more characters`;
      if (this.reasoning) {
        shown(this.find(".reasoning"), true);
        const thoughts = this.find(".reasoning .text");
        thoughts.textContent = this.reasoning.slice(0, SHOWN);
      }
    }

    plan() {
      if (this.isPlanned) return;
      this.isPlanned = true;
      setTimeout(() => { this.isPlanned = false; this.draw(); }, 30);
    }

    async send(body) {
      this.clear();
      const control = this.control = new AbortController();
      const model = this.model.value.trim();
      const began = performance.now();
      shown(this.find(".stop"), true);
      this.say("Waiting for the first token");
      try {
        const options = { method: "POST", headers: headers(), body: JSON.stringify({ model, ...body }), signal: control.signal };
        const response = await request("/v1/chat/completions", options);
        this.note(response.headers);
        await this.take(response, began);
        this.isComplete = true;
        this.say("Complete");
      } catch (error) {
        if (error.name === "AbortError") {
          this.say("Stopped");
        } else if (error instanceof Failure) {
          if (error.headers) this.note(error.headers);
          this.say("Failed");
          this.fail(error.message);
        } else {
          this.say("Failed");
          this.fail(`This page could not read the answer: ${error.message}`);
          console.error(error);
        }
      }
      this.control = undefined;
      this.total = performance.now() - began;
      shown(this.find(".stop"), false);
      this.draw();
      this.showCalls();
      shown(this.find(".as-markdown"), Boolean(this.text));
      shown(this.find(".go-on"), this.isUsable);
      this.showFacts();
      updated();
      await this.addCost();
    }

    note(answered) {
      this.headers = answered;
      this.record = answered.get("x-evalrouter-record") ?? "";
    }

    async take(response, began) {
      let isDone = false;
      for await (const data of eventsOf(response)) {
        if (data === "[DONE]") { isDone = true; continue; }
        let chunk;
        try { chunk = JSON.parse(data); } catch { throw new Failure("The target sent something that is not JSON. Send again, or choose another route."); }
        if (chunk.error) throw failureOf(0, chunk.error);
        this.usage = chunk.usage ?? this.usage;
        const choice = chunk.choices?.[0];
        if (!choice) continue;
        const delta = choice.delta ?? {};
        const thought = delta.reasoning_content ?? delta.reasoning ?? "";
        if (this.first === undefined && (delta.content || thought || delta.tool_calls || delta.refusal)) {
          this.first = performance.now() - began;
          this.say("Answering");
        }
        if (typeof delta.content === "string") this.text += delta.content;
        if (typeof delta.refusal === "string") this.text += delta.refusal;
        if (typeof thought === "string") this.reasoning += thought;
        for (const call of delta.tool_calls ?? []) {
          const known = this.calls[call.index ?? 0] ??= { name: "", arguments: "" };
          known.name += call.function?.name ?? "";
          known.arguments += call.function?.arguments ?? "";
        }
        this.finish = choice.finish_reason ?? this.finish;
        this.plan();
      }
      if (!isDone && !this.finish) throw new Failure("The answer broke off before its end. Send again.");
    }

    showCalls() {
      const list = this.find(".calls");
      list.replaceChildren();
      for (const call of this.calls.filter(Boolean)) {
        const item = element("li", `Calls ${call.name}`);
        let given = call.arguments;
        try { given = JSON.stringify(JSON.parse(given), null, 2); } catch { /* Shown as it came. */ }
        item.append(element("pre", given.slice(0, SHOWN)));
        list.append(item);
      }
      shown(list, list.childElementCount > 0);
    }

    showFacts(record) {
      const facts = this.find(".facts");
      facts.replaceChildren();
      const add = (name, value) => {
        if (value === undefined || value === null || value === "") return;
        facts.append(element("dt", name), element("dd", value));
      };
      const seconds = (ms) => ms < 999.5 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`;
      // As all pages show money: to the cent, or to two digits below a dollar.
      const dollars = (usd) => `$${usd <= 0 || usd >= 1 ? usd.toFixed(2) : usd.toFixed(1 - Math.floor(Math.log10(usd)))}`;
      add("Target", this.headers?.get("x-evalrouter-target"));
      const prompt = record?.prompt_tokens ?? this.usage?.prompt_tokens;
      const completion = record?.completion_tokens ?? this.usage?.completion_tokens;
      if (prompt !== undefined && prompt !== null) add("Tokens", `${prompt.toLocaleString("en")} in, ${(completion ?? 0).toLocaleString("en")} out${record?.estimated ? " (estimated)" : ""}`);
      if (record) add("Cost", record.cost_usd === null ? "not known" : dollars(record.cost_usd));
      if (this.text || this.calls.length || this.reasoning) add("First token", seconds(this.first));
      add("Total", seconds(this.total));
      if (this.finish === "length") add("Ended", "cut off at the number of tokens");
      else if (this.finish && this.finish !== "stop") add("Ended", this.finish);
      add("Left out for the target", this.headers?.get("x-evalrouter-dropped"));
      if ((record?.attempts?.length ?? 0) > 1) add("Attempts", this.headers.get("x-evalrouter-attempts"));
      if (this.record) {
        const link = element("a", "as it was recorded");
        link.href = `/traffic/${this.record}`;
        const place = document.createElement("dd");
        place.append(link);
        facts.append(element("dt", "Request"), place);
      }
      shown(facts, facts.childElementCount > 0);
    }

    // Records appear a moment after the answer's end, and not for every route.
    async addCost() {
      const id = this.record;
      for (let tries = 0; id && tries < RECORD_TRIES && this.record === id; tries += 1) {
        await pause(300);
        try {
          // One that is not there yet is an empty list; as an address of its own it would be an error.
          const response = await fetch(`/traffic?request_id=${id}&limit=1`, { headers: { accept: "application/json" } });
          if (!response.ok) return;
          const [record] = (await response.json()).data;
          if (!record) continue;
          if (this.record === id) this.showFacts(record);
        } catch { /* The cost is not shown. */ }
        return;
      }
    }

    async toggleMarkdown() {
      const button = this.find(".as-markdown");
      if (button.getAttribute("aria-pressed") === "true") {
        button.setAttribute("aria-pressed", "false");
        shown(this.find(".markdown"), false);
        shown(this.find(".with-images"), false);
        shown(this.find(".answer"), true);
      } else {
        await this.renderMarkdown(false);
      }
    }

    // The server makes the HTML, by its sanitizer.
    async renderMarkdown(pictures) {
      try {
        const response = await post("/pages/playground/markdown", { text: this.text, pictures });
        const { html, hidden_pictures: hidden } = await response.json();
        this.find(".markdown").innerHTML = html;
        shown(this.find(".markdown"), true);
        shown(this.find(".answer"), false);
        shown(this.find(".whole"), false);
        shown(this.find(".with-images"), hidden > 0);
        this.find(".as-markdown").setAttribute("aria-pressed", "true");
        shown(this.find(".failure"), false);
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        this.fail(error.message);
      }
    }
  }

  const all = new Map();
  const number = () => [...columns.children].forEach((section, index) => section.setAttribute("aria-label", `Answer ${index + 1}`));

  const addColumn = (name) => {
    const section = copyOf("column-template");
    section.querySelector(".model").value = name;
    columns.append(section);
    all.set(section, new Column(section));
    number();
    return section;
  };

  const answers = () => [...columns.children].map((section) => all.get(section));
  const complete = () => answers().filter((column) => column.isUsable);

  // What can be done with answers changes as they come.
  const updated = () => {
    document.getElementById("stop-all").disabled = !answers().some((column) => column.control);
    const choice = document.getElementById("reference");
    if (!choice) return;
    const chosen = choice.value;
    choice.replaceChildren(new Option("none", ""));
    answers().forEach((column, index) => {
      if (column.isUsable) choice.append(new Option(`answer ${index + 1}, ${column.model.value.trim()}`, String(index)));
    });
    choice.value = [...choice.options].some((option) => option.value === chosen) ? chosen : "";
  };

  const send = async () => {
    let body;
    try {
      if (answers().some((column) => column.control)) {
        throw new Failure("Answers are still on their way. Wait for them, or stop them first; what they have taken may be charged.");
      }
      body = requestBody();
      const unnamed = answers().find((column) => !column.model.value.trim());
      if (!columns.childElementCount) throw new FieldError("Add a route first.", document.getElementById("add-column"));
      if (unnamed) throw new FieldError("Name a route or a model, or remove its column.", unnamed.model);
      const size = JSON.stringify(body).length;
      if (size > maxBytes) throw new Failure(`The request has ${(size / 2 ** 20).toFixed(1)} MiB; this server takes at most ${(maxBytes / 2 ** 20).toFixed(0)} MiB. Leave pictures out, or shorten the conversation.`);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      complain(error.message, error.field);
      return;
    }
    complain("");
    const sent = answers().map((column) => column.send(body));
    updated();
    await Promise.allSettled(sent);
  };

  // The address, and what survives a reload.

  const save = () => {
    const query = new URLSearchParams();
    for (const column of answers()) if (column.model.value.trim()) query.append("route", column.model.value.trim());
    for (const name of FIELDS) if (fields[name].value) query.set(name, fields[name].value);
    const users = [...messages.children].filter((message) => message.querySelector(".role").value === "user");
    const prompt = users.length === 1 ? users[0].querySelector(".content").value : "";
    if (prompt && prompt.length <= IN_ADDRESS) query.set("prompt", prompt);
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
    const typed = {
      messages: [...messages.children].map((message) => ({
        role: message.querySelector(".role").value,
        text: message.querySelector(".content").value,
        pictures: pictures.get(message) ?? [],
      })),
      fields: Object.fromEntries([...FIELDS, "schema", "tools"].map((name) => [name, fields[name].value])),
      routes: answers().map((column) => column.model.value),
    };
    try {
      sessionStorage.setItem(STORED, JSON.stringify(typed));
    } catch {
      // Pictures may be more than a browser stores.
      for (const message of typed.messages) message.pictures = [];
      try { sessionStorage.setItem(STORED, JSON.stringify(typed)); } catch { /* Nothing is stored. */ }
    }
  };

  // Browsers refuse addresses that change with every key, and pictures are much to store.
  let saving;
  const changed = () => {
    clearTimeout(saving);
    saving = setTimeout(save, 300);
  };
  window.addEventListener("pagehide", save);

  const restore = () => {
    let typed;
    try { typed = JSON.parse(sessionStorage.getItem(STORED)); } catch { return; }
    if (!typed) return;
    const query = new URLSearchParams(location.search);
    // A prompt in the address, as a link from another person has one, comes before what was typed here.
    const own = typed.messages.find((message) => message.role === "user")?.text;
    if (!query.has("prompt") || query.get("prompt") === own) {
      messages.replaceChildren();
      for (const message of typed.messages) addMessage(message.role, message.text, message.pictures);
    }
    for (const [name, value] of Object.entries(typed.fields)) if (!query.size || ["schema", "tools"].includes(name)) fields[name].value = value;
    if (!query.has("route") && typed.routes.length) {
      columns.replaceChildren();
      all.clear();
      for (const name of typed.routes) addColumn(name);
    }
  };

  // Judging and keeping.

  const reason = (error, place) => {
    if (!(error instanceof Failure)) throw error;
    place.textContent = error.message;
  };

  // A second click before the first is answered would do it twice.
  const once = (work) => {
    let isUnderWay = false;
    return async (event) => {
      event.preventDefault();
      if (isUnderWay) return;
      isUnderWay = true;
      event.submitter?.setAttribute("aria-disabled", "true");
      try {
        await work(event);
      } finally {
        isUnderWay = false;
        event.submitter?.removeAttribute("aria-disabled");
      }
    };
  };

  const judge = once(async (event) => {
    const place = document.getElementById("judging-state");
    const judged = complete();
    if (!judged.length) { place.textContent = "No answer is complete yet. Send first."; return; }
    for (const column of judged) shown(column.find(".verdict"), false);
    try {
      place.textContent = "The judge reads the answers.";
      const begun = await post("/pages/playground/judge", {
        messages: conversation(),
        answers: judged.map((column) => column.text),
        judge: event.target.elements.judge.value.trim(),
        rubric: event.target.elements.rubric.value,
      });
      const { run } = await begun.json();
      const json = { headers: { accept: "application/json" } };
      let state;
      do {
        await pause(500);
        state = (await (await request(`/eval/${run}`, json)).json()).run;
      } while (!state.finished_at && !["paused", "canceled", "failed"].includes(state.state));
      const { data: rows } = await (await request(`/eval/${run}/samples`, json)).json();
      const { data: judgements } = await (await request(`/eval/${run}/judgements`, json)).json();
      for (const row of rows) {
        const column = judged[Number(row.sample.id) - 1];
        const verdict = column.find(".verdict");
        verdict.replaceChildren();
        const [score] = row.scores;
        verdict.append(element("strong", score?.value === null || !score ? `No score: ${score?.error || state.error || "the run was stopped"}` : `${score.output}: ${score.value}`));
        const said = judgements.filter((each) => each.sample_id === row.sample.id).at(-1)?.judgement.answer;
        verdict.append(element("p", (said?.text ?? said?.error?.message ?? "").slice(0, SHOWN)));
        shown(verdict, true);
      }
      const link = element("a", state.name);
      link.href = `/runs/${run}`;
      place.replaceChildren(`The run is ${state.state}${state.error ? `: ${state.error}` : ""}: `, link);
    } catch (error) {
      reason(error, place);
    }
  });

  const keep = once(async (event) => {
    const place = document.getElementById("keeping-state");
    const { dataset, reference } = event.target.elements;
    const chosen = reference.value === "" ? null : answers()[Number(reference.value)].text;
    try {
      const kept = await post("/pages/playground/sample", { dataset: dataset.value.trim(), messages: conversation(), reference: chosen });
      const row = await kept.json();
      const link = element("a", `${row.name}@${row.hash.slice(0, 12)}`);
      link.href = `/datasets/${row.name}@${row.hash}`;
      place.replaceChildren("It is a row of ", link, `, which has ${row.rows.toLocaleString("en")} ${row.rows === 1 ? "row" : "rows"}.`);
    } catch (error) {
      reason(error, place);
    }
  });

  // The page. Without this script its buttons would do nothing, so they are disabled until here.

  const roots = [document, ...[...document.querySelectorAll("template")].map((template) => template.content)];
  for (const root of roots) for (const button of root.querySelectorAll("[data-needs-script]")) button.disabled = false;
  for (const section of columns.children) all.set(section, new Column(section));
  for (const message of messages.children) label(message);
  document.getElementById("no-script").remove();
  restore();
  changed();

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  form.addEventListener("input", changed);
  form.addEventListener("change", (event) => {
    const message = event.target.closest(".message");
    if (message && event.target.matches(".role")) label(message);
    if (message && event.target.matches(".picture")) attach(message, event.target);
  });
  messages.addEventListener("click", (event) => {
    if (!event.target.matches(".remove-message")) return;
    event.target.closest(".message").remove();
    document.getElementById("add-message").focus();
    changed();
  });
  columns.addEventListener("input", changed);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  document.getElementById("add-message").addEventListener("click", () => {
    const last = messages.lastElementChild?.querySelector(".role").value;
    addMessage(last === "user" ? "assistant" : "user", "").querySelector(".content").focus();
    changed();
  });
  document.getElementById("add-column").addEventListener("click", () => {
    if (columns.childElementCount >= maxColumns) { complain(`At most ${maxColumns} routes are compared here; a run compares more.`); return; }
    addColumn("").querySelector(".model").focus();
    changed();
  });
  document.getElementById("stop-all").addEventListener("click", () => { for (const column of answers()) column.stop(); });
  document.getElementById("clear").addEventListener("click", () => {
    messages.replaceChildren();
    addMessage("system", "");
    addMessage("user", "").querySelector(".content").focus();
    changed();
  });
  document.getElementById("judge")?.addEventListener("submit", judge);
  document.getElementById("keep")?.addEventListener("submit", keep);

  // Hosts take their time to list their models.
  (async () => {
    try {
      const response = await fetch("/v1/models");
      if (!response.ok) return;
      const list = document.getElementById("models");
      const known = new Set([...list.options].map((option) => option.value));
      for (const model of (await response.json()).data.slice(0, 2000)) {
        if (!known.has(model.id)) list.append(Object.assign(document.createElement("option"), { value: model.id }));
      }
    } catch { /* The routes are listed anyway. */ }
  })();
})();
