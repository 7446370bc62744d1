// What pages do in a browser beyond htmx. Everything that can be read works without it.
(() => {
  "use strict";

  // A form or button with data-confirm asks before it does something that cannot be undone.
  document.addEventListener("submit", (event) => {
    const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
    if (question && !window.confirm(question)) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);

  // A link or button with data-key="n" is what this key does, outside of fields.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input, select, textarea, [contenteditable]")) return;
    const control = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (!control) return;
    event.preventDefault();
    control.focus();
    if (!/^(INPUT|SELECT|TEXTAREA)$/.test(control.tagName)) control.click();
  });

  // A server that does not answer: say so, leave what was typed, and go on when it is back.
  const banner = () => document.getElementById("connection");
  const lost = () => { const shown = banner(); if (shown) shown.hidden = false; };
  const back = () => { const shown = banner(); if (shown) shown.hidden = true; };
  document.addEventListener("htmx:sse:error", lost);
  document.addEventListener("htmx:error", (event) => {
    if (event.detail?.error?.name !== "AbortError") lost();
  });
  document.addEventListener("htmx:sse:after:connection", back);
  document.addEventListener("htmx:after:request", back);
})();
