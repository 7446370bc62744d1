"""`/docs`: the API's operations as Swagger UI shows them, where they can be tried.

Litestar's plugin for Swagger UI would send a page with a script of its own in it, whose requests
lack the token that a session needs; so this page has a template of ours. Swagger UI is in
`router/web/vendor`. Under the page's policy only scripts run that have its nonce.
"""

from __future__ import annotations

import secrets

from litestar import Response

from router.api.access import InjectedCaller
from router.api.page_layout import page, rendered

# Pictures in Swagger UI's stylesheet are data.
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


@page("/docs")
async def documentation(caller: InjectedCaller) -> Response[str]:
    """Show what `/schema` describes."""
    nonce = secrets.token_urlsafe(16)
    response = await rendered("documentation.html", caller, title="API", nonce=nonce)
    response.headers["content-security-policy"] = _POLICY.format(nonce=nonce)
    response.headers["cache-control"] = "no-store"
    return response
