// What pages do in a browser beyond htmx. Everything that can be read works without it.
(() => {
  "use strict";

  // On a phone the menu scrolls: the page's own entry is in its middle.
  const menu = document.querySelector("header nav ul");
  const here = menu?.querySelector("[aria-current]");
  if (here) {
    const [around, entry] = [menu.getBoundingClientRect(), here.getBoundingClientRect()];
    menu.scrollLeft += entry.left - around.left - (around.width - entry.width) / 2;
  }

  // A form or button with data-confirm asks before it does something that cannot be undone.
  document.addEventListener("submit", (event) => {
    const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
    if (question && !window.confirm(question)) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);

  // A form that was sent is not sent again before its answer: a second click would do it twice.
  const sent = new Set();
  const buttons = (form) => [...form.elements].filter((control) => control.type === "submit");
  const free = (form) => {
    if (!sent.delete(form)) return;
    form.removeAttribute("aria-busy");
    for (const button of buttons(form)) button.removeAttribute("aria-disabled");
  };
  document.addEventListener("submit", (event) => {
    if (!sent.has(event.target)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);
  // After all others: what a script sends itself, it guards itself.
  window.addEventListener("submit", (event) => {
    const form = event.target;
    const isBoosted = form.hasAttribute("hx-boost");
    if (form.getAttribute("method") !== "post" || (event.defaultPrevented && !isBoosted)) return;
    sent.add(form);
    form.setAttribute("aria-busy", "true");
    // Not `disabled`, which would take the keyboard's focus away, and the button's own value.
    for (const button of buttons(form)) button.setAttribute("aria-disabled", "true");
    // No event says that a person stopped the loading of a page; htmx gives up after as long.
    if (!isBoosted) window.setTimeout(free, 60_000, form);
  });
  document.addEventListener("htmx:finally:request", (event) => free(event.detail.ctx.request.form));
  // Come back to by the browser's Back button, a page is as it was left.
  window.addEventListener("pageshow", () => { for (const form of sent) free(form); });

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

  // htmx may have begun before its extension for events was there, which then follows nothing.
  document.addEventListener("DOMContentLoaded", () => {
    // After htmx's own beginning, which waits in the same way.
    window.setTimeout(() => htmx.process(document.body));
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
