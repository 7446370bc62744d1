"""A server of the Hugging Face hub's endpoints for datasets, on loopback, and plain files beside.

with hub({"org/name": {"main": {"data/train-00000-of-00001.parquet": b"..."}}}) as url: ...
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

# repository -> revision -> path -> content
Repositories = Mapping[str, Mapping[str, Mapping[str, bytes]]]

_INFO = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
_FILE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


def commit_of(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def hub(
    repositories: Repositories,
    *,
    cards: Mapping[str, Any] | None = None,
    files: Mapping[str, tuple[int, dict[str, str], bytes]] | None = None,
    tokens: Collection[str] | None = None,
    received: list[str] | None = None,
) -> Iterator[str]:
    """Yields the base URL.

    Args:
        repositories: what there is.
        cards: of a repository, the metadata of its README.
        files: answers to plain paths: status, headers, body.
        tokens: those that let somebody see the repositories; None where they are public.
        received: gets the `Authorization` of every request, "" for none.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "content-length" not in headers:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                # A client that has had enough leaves.
                with suppress(ConnectionError):
                    self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            authorization = self.headers.get("authorization", "")
            if received is not None:
                received.append(authorization)
            if tokens is not None and authorization.removeprefix("Bearer ") not in tokens:
                self.answer(404, b"", {"x-error-code": "RepoNotFound"})
            elif files and path in files:
                status, headers, body = files[path]
                self.answer(status, body, headers)
            elif match := _INFO.fullmatch(path):
                self.info(match["repo"], match["revision"] or "main")
            elif match := _FILE.fullmatch(path):
                self.file(match["repo"], match["revision"], match["path"])
            else:
                self.answer(404, b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def info(self, repo: str, revision: str) -> None:
            if repo == "org/gated":
                self.answer(403, b"", {"x-error-code": "GatedRepo"})
                return
            if repo not in repositories:
                self.answer(404, b"", {"x-error-code": "RepoNotFound"})
                return
            by_commit = {commit_of(name): name for name in repositories[repo]}
            revision = by_commit.get(revision, revision)
            if revision not in repositories[repo]:
                self.answer(404, b"", {"x-error-code": "RevisionNotFound"})
                return
            there = repositories[repo][revision]
            told = {
                "id": repo,
                "sha": commit_of(revision),
                "siblings": [
                    {"rfilename": path, "size": len(body), "blobId": "0" * 40}
                    for path, body in there.items()
                ],
                "cardData": (cards or {}).get(repo),
            }
            self.answer(200, json.dumps(told).encode(), {"content-type": "application/json"})

        def file(self, repo: str, revision: str, path: str) -> None:
            for name, there in repositories.get(repo, {}).items():
                if revision == commit_of(name) and path in there:
                    body = there[path]
                    etag = hashlib.sha256(body).hexdigest()
                    self.answer(200, body, {"etag": f'"{etag}"', "x-repo-commit": revision})
                    return
            self.answer(404, b"", {"x-error-code": "EntryNotFound"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
