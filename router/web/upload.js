// Uploads a dataset: shows its first rows and what its columns can be, and stores it when the form is sent.
// What was chosen stays in the form whatever the server says.
(() => {
  "use strict";

  const LINES = /\.(jsonl|ndjson|csv|tsv)$/i;
  let request = null;

  const form = () => document.getElementById("upload");
  const within = (id) => document.getElementById(id);

  function show(id, visible) {
    within(id).hidden = !visible;
  }

  function say(text) {
    within("upload-status").textContent = text;
  }

  function complain(text) {
    const notice = document.createElement("p");
    notice.className = "notice";
    notice.setAttribute("role", "alert");
    notice.textContent = text;
    within("upload-problem").replaceChildren(notice);
  }

  // The form with the file or its beginning, without what says nothing.
  function content(blob, file) {
    const data = new FormData();
    for (const control of form().elements) {
      if (["name", "delimiter", "column"].includes(control.name) && control.value.trim()) {
        data.append(control.name, control.value.trim());
      }
    }
    data.append("file", blob, file.name);
    return data;
  }

  function send(path, data, onProgress) {
    request?.abort();
    const sent = request = new XMLHttpRequest();
    sent.open("POST", path);
    sent.setRequestHeader("accept", "text/html");
    if (form().dataset.csrfToken) sent.setRequestHeader("x-csrf-token", form().dataset.csrfToken);
    sent.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(Math.round(100 * event.loaded / event.total));
    };
    return new Promise((resolve) => {
      sent.onload = () => resolve(sent);
      sent.onerror = () => resolve({ status: 0, responseText: "" });
      sent.onabort = () => resolve(null);
      sent.send(data);
    });
  }

  // What the server says is wrong: a part of a page, or an error as programs get it.
  function refuse(answer) {
    const type = answer.getResponseHeader?.("content-type") ?? "";
    if (answer.status === 0) {
      complain("The file could not be sent: the server does not answer, or the file has changed. What you chose is still here.");
    } else if (type.startsWith("text/html") && !answer.responseText.startsWith("<!doctype")) {
      within("upload-problem").innerHTML = answer.responseText;
    } else {
      let message = `The server answered ${answer.status}.`;
      try { message = JSON.parse(answer.responseText).error.message; } catch { /* no JSON */ }
      complain(message);
    }
  }

  function chosen() {
    const file = within("file").files[0];
    if (!file) return null;
    const most = Number(form().dataset.maxBytes);
    if (file.size > most) {
      complain(`${file.name} has ${file.size.toLocaleString("en")} bytes; at most ${most.toLocaleString("en")} are taken.`);
      return null;
    }
    return file;
  }

  async function preview() {
    const file = chosen();
    show("upload-store", false);
    if (!file) return;
    const most = Number(form().dataset.beginningBytes);
    const part = LINES.test(file.name) && file.size > most;
    show("upload-fields", true);
    say("Looking at the file…");
    const data = content(part ? file.slice(0, most) : file, file);
    const answer = await send(`/pages/datasets/preview?part=${part}`, data, () => {});
    if (!answer) return;
    say("");
    if (answer.status !== 200) {
      refuse(answer);
      return;
    }
    within("upload-problem").replaceChildren();
    // A menu that the user has open by now stays open.
    await htmx.swap({
      sourceElement: form(), target: within("preview"), text: answer.responseText, swap: "innerMorph",
    });
    show("upload-store", true);
  }

  async function store() {
    const file = chosen();
    if (!file) return;
    const progress = within("upload-progress");
    progress.value = 0;
    show("upload-progress", true);
    show("upload-cancel", true);
    within("upload-store").disabled = true;
    say("Sending…");
    const answer = await send("/pages/datasets/upload", content(file, file), (percent) => {
      progress.value = percent;
      say(percent === 100 ? "Checking every row…" : `Sending: ${percent} %`);
    });
    within("upload-store").disabled = false;
    show("upload-progress", false);
    show("upload-cancel", false);
    say(answer ? "" : "Stopped. Nothing was saved.");
    if (!answer) return;
    if (answer.status === 200 && answer.responseURL.includes("/datasets/")) {
      window.location.assign(answer.responseURL);
    } else {
      refuse(answer);
    }
  }

  document.addEventListener("change", (event) => {
    if (event.target.form !== form() || !form()) return;
    if (event.target.id === "file") {
      within("preview").replaceChildren();
      within("upload-problem").replaceChildren();
    }
    preview();
  });

  document.addEventListener("submit", (event) => {
    if (event.target.id !== "upload") return;
    event.preventDefault();
    store();
  });

  document.addEventListener("click", (event) => {
    if (event.target.id === "upload-cancel") request?.abort();
  });

  // Anywhere on the page: a file that misses the box would replace the page.
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!form() || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      form().classList.toggle("dropping", kind === "dragover");
      if (kind !== "drop") return;
      if (event.dataTransfer.files.length !== 1) {
        complain("Drop one file at a time.");
        return;
      }
      within("file").files = event.dataTransfer.files;
      within("file").dispatchEvent(new Event("change", { bubbles: true }));
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) form()?.classList.remove("dropping");
  });
})();
