"""Everything that has spans, sent through the real server: for Phoenix, and for looking at it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
VERDICT = "Feedback: The answer says when it rains. [RESULT] 4"
MODELS: dict[str, list[dict[str, Any]]] = {
    "small": [{"answer": "It rains from nine to eleven.", "usage": USAGE}],
    "moody": [
        {"times": 1, "status": 503, "headers": {"retry-after-ms": 1}},
        {"answer": "It rains until noon.", "usage": USAGE},
    ],
    "judge": [{"answer": VERDICT, "usage": {"prompt_tokens": 50, "completion_tokens": 10}}],
}
SECRET = "sk-live-0123456789abcdefghij"
QUESTION = "When does it rain tomorrow?"
RUN = {
    "name": "weather",
    "dataset": "weather.jsonl",
    "routes": ["weather"],
    "metrics": [
        {"name": "exact_match"},
        {"name": "prometheus", "judge": "up/judge", "retries": 0},
    ],
}
ROWS = [
    {"id": "tomorrow", "input": QUESTION, "reference": "It rains from nine to eleven."},
    {"id": "sunday", "input": "Does it rain on Sunday?", "reference": "No."},
]


def config(upstream: str, collector: str, database: Path, **telemetry: Any) -> str:
    """Return the config of a server that sends its spans to a collector."""
    section = {"otlp_endpoint": collector, "service_name": "evalrouter", **telemetry}
    return f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{database}"}}
datasets: {{roots: ["{database.parent}"]}}
providers: {{up: {{kind: vllm, base_url: "{upstream}", api_key: "{SECRET}"}}}}
prices: {{up/small: {{input: 1, output: 2}}, up/moody: {{input: 1, output: 2}}}}
record: full
telemetry: {json.dumps(section)}
routes:
  weather: {{targets: [{{model: up/small}}]}}
  moody: {{targets: [{{model: up/moody}}], retries: {{attempts: 2, backoff: 0.01}}}}
  cached: {{targets: [{{model: up/small}}], cache: {{ttl: 600}}}}
"""


def ask(http: httpx.Client, url: str, model: str, text: str, **fields: Any) -> httpx.Response:
    """Send a chat of the conversation `outing`; return its answer."""
    messages = [
        {"role": "system", "content": "You know the weather."},
        {"role": "user", "content": text},
    ]
    headers = {"x-evalrouter-conversation": "outing"}
    body = {"model": model, "messages": messages, "user": "jo", **fields}
    reply = http.post(f"{url}/v1/chat/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


def send_all(http: httpx.Client, url: str, folder: Path) -> dict[str, str]:
    """Send requests of every kind, feedback and an evaluation; return records by what they are."""
    records = {}
    for name, model, fields in (
        ("retried", "moody", {}),
        ("streamed", "weather", {"stream": True}),
        ("miss", "cached", {}),
        ("hit", "cached", {}),
        ("private", "weather", {"store": False}),
    ):
        reply = ask(http, url, model, f"{QUESTION} My key is {SECRET}.", **fields)
        records[name] = reply.headers["x-evalrouter-record"]
    given = http.post(
        f"{url}/feedback",
        json={
            "request_id": records["streamed"],
            "name": "helpful",
            "value": True,
            "comment": "Dry!",
        },
    )
    assert given.status_code < 300, given.text
    rows = folder / RUN["dataset"]
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run = http.post(f"{url}/eval", json={**RUN, "dataset": str(rows)})
    assert run.status_code < 300, run.text
    records["run"] = run.json()["run"]["id"] if "run" in run.json() else run.json()["id"]
    while True:
        state = http.get(f"{url}/eval/{records['run']}").json()["run"]
        if state["finished_at"]:
            assert state["state"] == "completed", state
            return records
        time.sleep(0.05)
