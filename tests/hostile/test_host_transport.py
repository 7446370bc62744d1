"""Hosts that break HTTP, one row per fault: what the client gets, and what the record says."""

import pytest
from raw_host import FRAMINGS, READ, answer, by_model, chat_stream, config, raw_host, stream
from servers import gateway


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_good_answer_in_every_framing(http, tmp_path, framing):
    events = chat_stream(usage=False)
    scripts = {"m": [answer(framing=framing)], "s": [stream(*events, framing=framing)]}
    with raw_host(by_model(scripts)) as host, gateway(config(host.url, tmp_path)) as url:
        for _ in range(2):
            reply = http.post(f"{url}/v1/chat/completions", json={"model": "up/m", "messages": []})
            assert reply.json()["choices"][0]["message"]["content"] == "Hello"
            body = {"model": "r-s", "messages": [], "stream": True}
            reply = http.post(f"{url}/v1/chat/completions", json=body)
            assert reply.content == b"".join(events)
        assert [request.json["model"] for request in host.requests] == ["m", "s", "m", "s"]
        assert len(host.connections) == (4 if framing == "close" else 1)


def test_one_script_for_all_requests(http, tmp_path):
    with (
        raw_host([READ, *answer()]) as host,
        gateway(config(host.url, tmp_path)) as url,
    ):
        for _ in range(3):
            reply = http.post(f"{url}/v1/chat/completions", json={"model": "up/m", "messages": []})
            assert reply.status_code == 200
        assert len(host.requests) == 3
