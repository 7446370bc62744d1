"""The provider `ray_serve`: cold starts are told from failures. The real host: tests/serve."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from hosts import config, transport
from servers import gateway

from providers.base import ModelFacts
from providers.kinds import make


class Host(BaseHTTPRequestHandler):
    """Lists a model in the server's `state`; answers completions never, or with `error`."""

    def do_GET(self):
        if self.path.endswith("/facts"):
            self._answer(*self.server.facts)
            return
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
def host(state, error=None, facts=None):
    with ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.state, server.error, server.over = state, error, threading.Event()
        server.facts = facts
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


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"bits_per_weight": 4.5}),
        (200, {"bits_per_weight": 4500}),
        (200, {"bits_per_weight": "4.5"}),
        (200, {"parameters": -1}),
        (200, {"file": "x" * 1000}),
        (200, []),
        (200, {"object": "list", "data": []}),
    ],
)
async def test_facts_that_cannot_be_are_no_facts(status, body):
    with host("ready", facts=(status, body)) as server:
        async with transport() as client:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            gpu = make("gpu", config("ray_serve", base_url=url), client)
            assert await gpu.facts("m") == ModelFacts()


async def test_facts_of_a_host_that_is_down_say_so():
    async with transport() as client:
        gpu = make("gpu", config("ray_serve", base_url="http://127.0.0.1:9/v1"), client)
        facts = await gpu.facts("m")
    assert facts.note
    assert facts.bits_per_weight is None
