"""What becomes of request fields, seen by a client, by an evaluation and in the store."""

import json
import time

import httpx
import msgspec
import pytest
from fake_hosts import KEY, MODEL, FakeHost, MistralDialect
from raw_host import DONE, answer, by_model, chat, event, raw_host
from raw_host import stream as raw_stream
from servers import gateway, in_thread

from evaluators.base import Answer, Cell
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.report import summarise
from providers.base import AS_IT_CAME, Translation


@pytest.fixture
def host(tmp_path, monkeypatch):
    # A server reads datasets below its working directory only.
    monkeypatch.chdir(tmp_path)
    with in_thread(FakeHost(MistralDialect())) as server:
        yield server


def config(host, tmp_path, more=""):
    return (
        f'storage: {{database: "sqlite:///{tmp_path / "e.db"}"}}\n'
        "providers:\n"
        f'  mistral: {{kind: mistral, base_url: "{host.url}", api_key: {KEY}{more}}}\n'
    )


FIELDS = {"seed": 7, "logprobs": True, "max_completion_tokens": 20}


@pytest.mark.parametrize("stream", [False, True])
def test_serving_drops_and_says_so_in_a_header(host, tmp_path, http, stream):
    body = {"model": f"mistral/{MODEL}", "messages": [{"role": "user", "content": "hi"}], **FIELDS}
    with gateway(config(host, tmp_path)) as url:
        reply = http.post(f"{url}/v1/chat/completions", json={**body, "stream": stream})
        plain = http.post(f"{url}/v1/chat/completions", json={**body, "logprobs": False})
    assert reply.status_code == 200
    assert reply.headers["x-evalrouter-dropped"] == "logprobs"
    sent = host.received[0]
    assert (sent["random_seed"], sent["max_tokens"]) == (7, 20)
    assert sent.keys() & FIELDS.keys() == set()
    assert plain.status_code == 200
    assert "x-evalrouter-dropped" not in plain.headers


def test_a_provider_can_be_told_to_refuse(host, tmp_path, http):
    body = {"model": f"mistral/{MODEL}", "messages": [{"role": "user", "content": "hi"}], **FIELDS}
    with gateway(config(host, tmp_path, ", on_unsupported: error")) as url:
        reply = http.post(f"{url}/v1/chat/completions", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "logprobs")
    assert host.received == []


def evaluate(url, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(
        "".join(json.dumps({"input": f"n{i}", "reference": "x"}) + "\n" for i in range(3))
    )
    document = {
        "dataset": path.name,
        "routes": [f"mistral/{MODEL}", "baseline/lead-1"],
        "parameters": {"seed": 7, "presence_penalty": 0.1, "logit_bias": {"1": 1}},
        "metrics": ["length"],
    }
    with httpx.Client(timeout=30) as http:
        started = http.post(f"{url}/eval", json=document)
        assert started.status_code < 300, started.text
        run = started.json()
        identifier = run.get("id") or run["run"]["id"]
        for _ in range(300):
            shown = http.get(f"{url}/eval/{identifier}").json()
            if (shown.get("run") or shown)["state"] in ("completed", "failed"):
                samples = http.get(f"{url}/eval/{identifier}/samples").json()
                return shown, samples
            time.sleep(0.05)
    raise AssertionError("the run did not end")


def test_an_evaluation_refuses_what_a_target_cannot_express(host, tmp_path):
    with gateway(config(host, tmp_path)) as url:
        shown, _ = evaluate(url, tmp_path)
    assert host.received == [], "nothing was paid for"
    dumped = json.dumps(shown)
    assert "cannot express logit_bias" in dumped


def test_an_evaluation_that_drops_keeps_the_record_and_the_report_says_so(host, tmp_path):
    with gateway(config(host, tmp_path, ", on_unsupported: drop")) as url:
        shown, samples = evaluate(url, tmp_path)
    assert len(host.received) == 3
    assert f"mistral/{MODEL}: 3 of 3 answers were made without logit_bias" in json.dumps(shown)
    dumped = json.dumps(samples)
    assert '"renamed": {"seed": "random_seed"}' in dumped
    assert "Mistral's API has no such parameter" in dumped


def test_a_report_names_the_routes_that_were_asked_everything():
    scores_of_run = ScoreAccumulator(routes=["a", "b"], metrics=(), expected={"a": 1, "b": 1})
    lost = Answer(text="x", translation=Translation(dropped={"seed": "no such thing"}))
    scores_of_run.add(Cell("a", "1", 0), lost)
    scores_of_run.add(Cell("b", "1", 0), Answer(text="x"))
    report = summarise(scores_of_run)
    assert report.routes[0].dropped == {"seed": 1}
    warnings = [warning for warning in report.warnings if "without seed" in warning]
    assert len(warnings) == 1
    assert warnings[0].startswith("a: 1 of 1")
    assert warnings[0].endswith("did not get the same request as b.")


def test_the_record_survives_json():
    done = Translation(passed=("a",), renamed={"b": "c"}, converted={"d": "e"}, dropped={"f": "g"})
    assert msgspec.json.decode(msgspec.json.encode(done), type=Translation) == done
    assert msgspec.json.decode(b"{}", type=Translation) == AS_IT_CAME


def test_the_header_is_bounded_however_much_is_left_out(host, tmp_path, http):
    odd = {f"field_{n}": n for n in range(2000)}
    body = {"model": f"mistral/{MODEL}", "messages": [{"role": "user", "content": "hi"}], **odd}
    with gateway(config(host, tmp_path)) as url:
        reply = http.post(f"{url}/v1/chat/completions", json=body)
        assert reply.status_code == 200
        assert 1000 < len(reply.headers["x-evalrouter-dropped"]) <= 2048


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": ["not a call"]},
        {"tool_calls": [{"function": "not an object"}]},
        {"tool_calls": 7},
        {"content": [{"type": "thinking", "thinking": "not a list"}]},
        "not a message",
    ],
    ids=str,
)
def test_an_answer_of_odd_types_is_no_fault_of_ours(tmp_path, http, caplog, message, stream):
    choice = {"index": 0, "finish_reason": "stop"}
    whole = answer(chat(choices=[{**choice, "message": message}]))
    events = raw_stream(event({"choices": [{**choice, "delta": message}]}), DONE)
    with (
        raw_host(by_model({"odd": [events if stream else whole]})) as raw,
        gateway(config(raw, tmp_path)) as url,
    ):
        body = {"model": "mistral/odd", "messages": [{"role": "user", "content": "hi"}]}
        reply = http.post(f"{url}/v1/chat/completions", json={**body, "stream": stream})
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_invalid_response")
    assert "Traceback" not in caplog.text
