// Swagger UI over this server's own description of its API.
(() => {
  "use strict";

  const place = document.getElementById("operations");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", follow);
  follow();
  window.SwaggerUIBundle({
    url: place.dataset.schema,
    domNode: place,
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: -1,
    filter: true,
    // Swagger UI would otherwise send the document's address to another host, which checks it.
    validatorUrl: null,
    // A session's request is refused without its token.
    requestInterceptor: (request) => {
      if (place.dataset.csrfToken) request.headers["x-csrf-token"] = place.dataset.csrfToken;
      return request;
    },
  });
})();
