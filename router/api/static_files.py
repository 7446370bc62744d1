"""`/static/{version}/{name}`: stylesheets and scripts of the pages, from `router/web`.

The version is a hash of all files, so a browser may store each as long as it likes. Files of other
projects are in `router/web/vendor` with a manifest, unmodified.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import brotli
from litestar import Request, Response, get
from litestar.params import FromPath

from providers.errors import NotFoundError

WEB = Path(__file__).parent.parent / "web"
# Litestar adds the charset to those that are text.
_MEDIA_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_FOREVER = "public, max-age=31536000, immutable"

Coding = Literal["br", "gzip", "identity"]


class StaticFile(NamedTuple):
    """A file as it is sent.

    Attributes:
        media_type: its Content-Type.
        etag: its entity tag without quotation marks and coding.
        bodies: its bytes by content coding.
    """

    media_type: str
    etag: str
    bodies: Mapping[Coding, bytes]


@cache
def version() -> str:
    """Return a hash of all files, which changes when one does."""
    digest = hashlib.sha256()
    for name, body in _contents().items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(body).digest())
    return digest.hexdigest()[:16]


@cache
def _contents() -> Mapping[str, bytes]:
    paths = (path for folder in (WEB, WEB / "vendor") for path in folder.iterdir())
    return {path.name: path.read_bytes() for path in sorted(paths) if path.suffix in _MEDIA_TYPES}


@cache
def _compressed(name: str) -> StaticFile:
    """Return one of the files, which takes a third of a second for the largest."""
    body = _contents()[name]
    bodies: dict[Coding, bytes] = {
        "br": brotli.compress(body, mode=brotli.MODE_TEXT, quality=9),
        "gzip": gzip.compress(body, mtime=0),
        "identity": body,
    }
    etag = hashlib.sha256(body).hexdigest()[:16]
    return StaticFile(_MEDIA_TYPES[Path(name).suffix], etag, bodies)


def accepted_coding(header: str) -> Coding:
    """Return the best coding that an Accept-Encoding header allows."""
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        name, _, parameter = part.partition(";")
        try:
            weights[name.strip()] = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            weights[name.strip()] = 0.0
    codings: tuple[Coding, ...] = ("br", "gzip")
    for coding in codings:
        if weights.get(coding, 0.0) > 0:
            return coding
    return "identity"


@get("/static/{files_version:str}/{name:str}", include_in_schema=False)
async def static_file(
    request: Request[Any, Any, Any], files_version: FromPath[str], name: FromPath[str]
) -> Response[bytes]:
    """Send a stylesheet or a script.

    A page of another version, such as one that was loaded before an upgrade, gets the file as it
    is now, which no browser stores under that version.
    """
    if name not in await asyncio.to_thread(_contents):
        raise NotFoundError(f"This server has no file {name!r} for its pages.")
    file = await asyncio.to_thread(_compressed, name)
    coding = accepted_coding(request.headers.get("accept-encoding", ""))
    etag = f'"{file.etag}-{coding}"'
    headers = {
        "cache-control": _FOREVER if files_version == version() else "no-cache",
        "etag": etag,
        "vary": "accept-encoding",
        "x-content-type-options": "nosniff",
    }
    known = request.headers.get("if-none-match", "")
    if etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(b"", status_code=304, headers=headers)
    if coding != "identity":
        headers["content-encoding"] = coding
    return Response(file.bodies[coding], media_type=file.media_type, headers=headers)
