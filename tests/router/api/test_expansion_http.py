"""What is posted may not grow in the server: templates, datasets and documents over HTTP."""

import json
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import gateway

FOR_EVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"input": "a"}\n{"input": "b"}\n')
    with gateway("server: {port: 0}") as url:
        yield url


def document(**changes):
    return {"dataset": "data.jsonl", "routes": ["baseline/echo"], "metrics": []} | changes


def refused(response, param=None):
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert param is None or error["param"] == param
    assert len(error["message"]) < 600
    return error["message"]


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_templates(server, http, query):
    for content in ("{{ input.ljust(10 ** 10) }}", "{{ [[1]] | tojson(indent=10 ** 9) }}"):
        messages = [{"role": "user", "content": content}]
        told = refused(
            http.post(f"{server}/eval{query}", json=document(messages=messages)),
            "messages[0].content",
        )
        assert told.startswith("messages[0].content: row 1 (id '1'): ")
        assert "memory" in told
    # A task's templates are no other.
    assert http.post(f"{server}/eval{query}", json=document()).is_success


def test_live_requests_go_on_while_a_template_loops(server, http):
    with ThreadPoolExecutor(4) as threads:
        posts = [
            threads.submit(http.post, f"{server}/eval", json=document(prompt=FOR_EVER), timeout=120)
            for _ in range(2)
        ]
        answered = 0
        while not all(one.done() for one in posts):
            body = {"model": "baseline/echo", "messages": [{"role": "user", "content": "hi"}]}
            assert http.post(f"{server}/v1/chat/completions", json=body).is_success
            answered += 1
            time.sleep(0.05)
    assert answered > 20
    for one in posts:
        told = refused(one.result(), "prompt")
        assert told.startswith("prompt: row 1: rendering the template took longer than 10")


def test_deep_documents(server, http):
    for depth in (90, 300, 900, 3000, 100_000):
        deep = "[" * depth + "]" * depth
        for path, name in (
            ("/eval", "parameters"),
            ("/eval", "columns"),
            ("/eval", "metrics"),
            ("/eval", "messages"),
            ("/eval?dry_run=true", "parameters"),
            ("/datasets", "columns"),
        ):
            whole = document() if path != "/datasets" else {"source": "data.jsonl"}
            whole = {key: value for key, value in whole.items() if key != name}
            value = f'{{"x": {deep}}}' if name in ("parameters", "columns") else f"[{deep}]"
            body = json.dumps(whole)[:-1] + f', "{name}": {value}}}'
            response = http.post(
                server + path, content=body, headers={"content-type": "application/json"}
            )
            assert response.status_code in (202, 200, 400), (depth, name, response.text[:300])
            if response.status_code == 400:
                refused(response)
    assert http.get(f"{server}/eval").is_success


def test_uploads(server, http):
    bombs = {
        "quote.csv": b'input\n"' + b"x" * 20_000_000,
        "columns.csv": b",".join(b"c%d" % n for n in range(1_500_000)) + b"\n",
        "line.jsonl": b'{"input": "' + b"x" * 20_000_000,
        "deep.jsonl": b'{"input": ' + b"[" * 1_000_000,
        "deep.json": b"[" * 1_000_000,
        "value.json": b'[{"input": [' + b"{}," * 44_000_000 + b"{}]}]",
        "zeros.parquet": bytes(10_000_000),
        "gzip.jsonl": zlib.compress(bytes(10_000_000)),
    }
    for name, content in bombs.items():
        response = http.put(
            f"{server}/datasets/bomb", params={"filename": name}, content=content, timeout=200
        )
        told = refused(response)
        assert told.startswith(name), told
        assert "/tmp" not in told
    assert http.get(f"{server}/datasets").json()["data"] == []
    good = http.put(f"{server}/datasets/good", params={"filename": "d.csv"}, content=b"input\nx\n")
    assert good.json()["rows"] == 1
