// A button with data-copy="ID" copies the text of that element.
document.addEventListener("click", async (event) => {
  "use strict";
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    // Without TLS a browser gives no access to the clipboard: the text is selected instead.
    window.getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
});
