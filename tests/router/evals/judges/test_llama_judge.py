"""A real llama.cpp server with a tiny random model as judge: it says nothing that can be read."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import tiny_gguf
from servers import gateway, reserved_port

from providers import local_servers

SERVER = Path(local_servers.__file__).with_name("xllamacpp_server.py")


@pytest.fixture
def port():
    with reserved_port() as port:
        yield port


def test_a_judge_that_talks_nonsense_leaves_no_score_and_the_run_says_so(
    tmp_path, monkeypatch, port
):
    monkeypatch.chdir(tmp_path)
    # An answer that chance ends at its first token has no text.
    model = tiny_gguf.write(tmp_path / "tiny.gguf", ends=False)
    rows = "".join(json.dumps({"input": f"Say {n}.", "reference": f"{n}"}) + "\n" for n in range(6))
    (tmp_path / "data.jsonl").write_text(rows)
    server = subprocess.Popen(
        [sys.executable, SERVER, "-m", model, "--port", str(port)], stdout=subprocess.DEVNULL
    )
    config = f"""
providers: {{laptop: {{kind: compatible, base_url: "http://127.0.0.1:{port}/v1"}}}}
"""
    metric = {
        "name": "prometheus",
        "judge": "laptop/tiny",
        # The prompt in the tiny model's tokens, and a short answer.
        "rubric": {"criteria": "Short?", "scores": {"1": "no", "2": "yes"}},
        "parameters": {"max_tokens": 12, "seed": 1},
        "reference": "never",
        "retries": 1,
    }
    document = {
        "dataset": "data.jsonl",
        "routes": ["baseline/echo"],
        "metrics": [metric, "length"],
        "limits": {"concurrency": 2},
    }
    try:
        with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
            while True:
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            run_id = http.post("/eval", json=document).json()["id"]
            while True:
                outcome = http.get(f"/eval/{run_id}").json()
                if outcome["run"]["state"] not in ("queued", "running"):
                    break
                time.sleep(0.1)
            said = http.get(f"/eval/{run_id}/judgements").json()["data"]
    finally:
        server.terminate()
        server.wait()
    assert outcome["run"]["state"] == "completed", outcome["run"]
    [judge] = outcome["judges"]
    assert judge["failed"] == 0, said[0]
    assert judge["calls"] == len(said)
    assert all(one["judgement"]["answer"]["text"] for one in said)
    found = {one["output"]: one for one in outcome["report"]["routes"][0]["scores"]}
    # Nearly nothing of it can be read; what was not is no number, and the rest stays useful.
    assert found["prometheus_unparsed"]["estimate"] > 0.8
    assert found["prometheus"]["n"] <= 1
    assert (found["words"]["n"], found["prometheus_unparsed"]["n"]) == (6, 6)
    told = " ".join(outcome["report"]["warnings"])
    assert "answers have no prometheus" in told
    assert "could not be read" in told
    assert "laptop/tiny has not been calibrated" in told
