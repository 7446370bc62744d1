"""A host of embeddings on loopback: a text's vector has a dimension for each of its words."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class EmbeddingHost:
    """What the host does, and what it was sent.

    Attributes:
        dimensions: of the vectors.
        salt: another one makes another model of it.
        seconds: how long it takes to answer.
        status: of its answers.
        texts: what it was sent, one list for each request.
        url: its base URL.
    """

    def __init__(self) -> None:
        self.dimensions = 32
        self.salt = ""
        self.seconds = 0.0
        self.status = 200
        self.texts: list[list[str]] = []
        self.url = ""

    def vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dimensions
        for word in text.split():
            digest = hashlib.sha256(f"{self.salt}{word}".encode()).digest()
            vector[int.from_bytes(digest[:4]) % self.dimensions] += 1.0
        return vector


@contextmanager
def embedding_host() -> Iterator[EmbeddingHost]:
    host = EmbeddingHost()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            host.texts.append(texts)
            time.sleep(host.seconds)
            data = [
                {"object": "embedding", "index": n, "embedding": host.vector(text)}
                for n, text in enumerate(texts)
            ]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            answer = {"object": "list", "data": data, "model": "words", "usage": usage}
            encoded = json.dumps(answer if host.status == 200 else {"error": {}}).encode()
            self.send_response(host.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
