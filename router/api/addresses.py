"""The addresses that clients of OpenAI's API use, and the paths that they mean here.

    canonical("/chat/completions/")                        # ("/v1/chat/completions", "")
    canonical("/openai/deployments/r/chat/completions")    # ("/v1/chat/completions", "r")

Azure's clients put `/openai` in front, and the name of a deployment, which is a model here; clients
from before `model` was a field put it behind `/engines`.
"""

from __future__ import annotations

import re
from typing import Any

from litestar.types import Receive

from providers.off_loop import off_loop
from router.api.request_parsing import PATHS, with_model

# Clients whose base URL has no `/v1`.
_WITHOUT_V1 = frozenset(path.removeprefix("/v1") for path in PATHS) | {"/models"}
# Not OpenAI's; a route of such a name is found under /v1.
_ABOUT_MODELS = frozenset({"/models/versions", "/models/retirements"})
_SLASHES = re.compile(r"//+")
_AZURE = "/openai"
# `/v1` may stand before either, or between the model and the rest.
_NAMING = re.compile(
    r"(?:/v1)?/(?:openai/deployments|engines)/(?P<model>.+?)(?:/v1)?"
    r"(?P<path>/chat/completions|/completions|/embeddings)",
    # A name with a line feed is refused as a name, not as a path.
    re.DOTALL,
)


def canonical(path: str) -> tuple[str, str]:
    """Return the path as it is registered, and the model that the address names; "" for none.

    A registered path has single slashes, none at the end, and `/v1` in front.
    """
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if len(path) > 1 and path.endswith("/"):
        path = path.rstrip("/")
    if (naming := _NAMING.fullmatch(path)) is not None:
        return "/v1" + naming["path"], naming["model"]
    below = path.removeprefix(_AZURE)
    if below != path and (below.startswith("/v1/") or _lacks_v1(below)):
        path = below
    if _lacks_v1(path):
        return "/v1" + path, ""
    # A base URL of `…/v1/` and a client that adds another one.
    return (path.removeprefix("/v1") if path.startswith("/v1/v1/") else path), ""


def _lacks_v1(path: str) -> bool:
    return path in _WITHOUT_V1 or (path.startswith("/models/") and path not in _ABOUT_MODELS)


def naming_model(receive: Receive, model: str, max_bytes: int) -> Receive:
    """Return a `receive` that gives the request's body with another `model`, in one piece.

    Nothing is read before it is called. A body that is too large comes as it is, for whoever reads
    it to refuse.
    """
    given = False

    async def receive_named() -> Any:
        nonlocal given
        if given:
            return await receive()
        parts, size, more = [], 0, True
        while more:
            message: Any = await receive()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > max_bytes:
                given = True
                return {**message, "body": b"".join(parts)}
        given = True
        body = await off_loop(size, with_model, b"".join(parts), model)
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_named
