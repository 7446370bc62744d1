"""The provider `ray_serve`: cold starts are told from failures. The real host: tests/serve."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from servers import gateway


class Host(BaseHTTPRequestHandler):
    """Lists a model in the server's `state`; answers completions never, or with `error`."""

    def do_GET(self):
        rows = [{"id": "m", "object": "model", "state": self.server.state}]
        self._answer(200, {"object": "list", "data": rows})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if self.server.error is not None:
            self._answer(503, {"error": self.server.error})
            return
        # Never an answer: the client leaves first.
        self.server.over.wait(20)

    def _answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def host(state, error=None):
    with ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.state, server.error, server.over = state, error, threading.Event()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


CONFIG = """
providers:
  gpu: {{kind: ray_serve, base_url: "http://127.0.0.1:{port}/v1"}}
routes:
  r:
    targets: [{{model: gpu/m}}]
    retries: {{attempts: 1}}
    breaker: {{failures: 1}}
    timeout: {{first_byte: 2.5}}
"""


def ask(url):
    body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)


def breaker_is_open(url):
    metrics = httpx.get(f"{url}/metrics", timeout=10).text
    [line] = re.findall(r'breaker_open\{class="live",target="gpu/m"\} (\S+)', metrics)
    return float(line) == 1


def test_a_time_out_says_that_the_model_is_starting():
    with host("starting") as server, gateway(CONFIG.format(port=server.server_port)) as url:
        failed = ask(url)
        assert failed.status_code == 504
        error = failed.json()["error"]
        assert error["code"] == "target_starting"
        assert "it is being started" in error["message"]
        # It is not held against the target.
        assert breaker_is_open(url) is False


def test_a_time_out_of_a_ready_model_is_a_failure():
    with host("ready") as server, gateway(CONFIG.format(port=server.server_port)) as url:
        assert ask(url).json()["error"]["code"] == "upstream_timeout"
        assert breaker_is_open(url) is True


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [("model_starting", 504, "target_starting"), ("model_failed", 503, "model_failed")],
)
def test_the_hosts_own_word_counts(code, status, told):
    error = {"message": "m: so it is", "code": code}
    with host("starting", error) as server, gateway(CONFIG.format(port=server.server_port)) as url:
        failed = ask(url)
        assert (failed.status_code, failed.json()["error"]["code"]) == (status, told)
        assert "m: so it is" in failed.json()["error"]["message"]
