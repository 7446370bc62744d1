"""Live requests reach their route's shadow, and clients notice nothing of it."""

from __future__ import annotations

import time

import httpx
import pytest
from servers import gateway, scripted

CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  live: {{kind: compatible, base_url: "{url}"}}
  other: {{kind: compatible, base_url: "{url}"}}
prices: {{live/dear: {{input: 1, output: 1}}, other/cheap: {{input: 1, output: 1}}}}
routes:
  chat: {{targets: [{{model: live/dear}}], record: {record}, share_bodies_with: [other],
    shadow: {{targets: [other/cheap], sample: {sample}, metrics: [length],
      limits: {{rps: 1000, usd_per_day: 5}}}}}}
  plain: {{targets: [{{model: live/dear}}], record: {record}}}
"""
LONG = " ".join(f"word {n}" for n in range(3000))
MODELS = {"dear": [{"answer": LONG}], "cheap": [{"answer": "cheap {n}"}]}


@pytest.mark.parametrize("record", ["full", "metadata"])
def test_a_request_is_sent_to_the_candidate_after_its_answer(tmp_path, record):
    with (
        scripted(MODELS) as upstream,
        gateway(CONFIG.format(folder=tmp_path, url=upstream.url, record=record, sample=1)) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):

        def ask(model: str, text: str, **fields) -> httpx.Response:
            body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
            return http.post("/v1/chat/completions", json=body)

        def sent() -> set[bytes]:
            return {bytes(one.body) for one in upstream.log.requests if one.model == "cheap"}

        # The server reads which routes have a shadow once a second, and then takes their requests.
        while not sent():
            ask("chat", "before")
            # Few enough that none has to wait for its turn at the candidate.
            time.sleep(0.3)
        ask("plain", "of another route")
        ask("chat", "not to be stored", store=False)
        replies = [ask("chat", "whole"), ask("chat", "streamed", stream=True)]
        assert all(reply.status_code == 200 for reply in replies)
        texts = b""
        while not (b"whole" in texts and b"streamed" in texts):
            time.sleep(0.02)
            texts = b"".join(sent())
        for other in (b"of another route", b"not to be stored"):
            assert other not in texts
        for reply in replies:
            row = http.get(f"/traffic/{reply.headers['x-evalrouter-record']}").json()
            assert row["bodies"] is (record == "full")
