"""Measures 320 answers judged 3 times each, killed once and resumed: time, requests, result.

    python -m loadtests.judging                      # prints, and writes results/
    python -m loadtests.judging --concurrency 8

The answers are the 80 Vicuna questions times 4 models of tests/data. The judge is a stand-in
over HTTP that takes 20 ms and says what GPT-4 said of each answer, a point less for a third of the
answers (by their hash, so that it is the same judge every time) and, one time in 64, nothing that
can be read. Three things are measured:

- the ideal: a loop that sends the same requests, that many at a time, and does nothing else;
- `evalrouter judge calibrate`, uninterrupted, over the same requests: its overhead over the ideal;
- the same, killed with SIGKILL halfway and resumed: the requests that were sent twice.

Ideal and engine take turns, so that what else the machine does hits both.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import msgspec
import uvloop
from aiohttp import web

from evaluators.judge import prometheus
from loadtests.processes import free_port, started

DATA = Path(__file__).parents[1] / "tests" / "data" / "prometheus" / "vicuna_eval.json"
RESULTS = Path(__file__).with_name("results")
DELAY_S = 0.020
REPEATS = 3
# Dollars per million tokens, of no real host.
CONFIG = """
providers: {{host: {{kind: compatible, base_url: "http://127.0.0.1:{port}/v1"}}}}
prices: {{host/judge: {{input: 0.5, output: 1.5}}}}
"""


def rows() -> list[dict[str, Any]]:
    """Return the data, one row for each answer."""
    answers: list[dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))
    return answers


def bodies() -> list[dict[str, Any]]:
    """Return the requests that the engine sends, without fields that do not matter to the host."""
    requests = []
    for row in rows():
        parts = prometheus.read_prompt(row["instruction"])
        question = prometheus.absolute(
            parts.rubric,
            instruction=parts.instruction,
            response=parts.response,
            reference=parts.reference,
        )
        messages = prometheus.messages(question, "prometheus-2")
        requests.append({"model": "judge", "messages": messages, **prometheus.SAMPLING})
    return requests


# The judge


def serve(port: int) -> None:
    """Serve the stand-in for a judge. `GET /count` is the number of requests so far."""
    says: dict[str, tuple[list[int], list[str]]] = {}
    for body, row in zip(bodies(), rows(), strict=True):
        content = body["messages"][0]["content"]
        digest = hashlib.sha256(content.encode()).hexdigest()
        harsh = int(digest[0], 16) < 5
        scores = [max(1, score - harsh) for score in row["gpt4_score"]]
        says[content] = (scores, row["gpt4_feedback"])
    times: Counter[str] = Counter()
    received = 0

    async def chat(request: web.Request) -> web.Response:
        nonlocal received
        received += 1
        number = received
        body = msgspec.json.decode(await request.read())
        content = body["messages"][0]["content"]
        scores, feedback = says[content]
        n = times[content] % len(scores)
        times[content] += 1
        text = f"{feedback[n]} [RESULT] {scores[n]}" if number % 64 else "I cannot decide."
        answer = {
            "id": "chatcmpl-judge",
            "object": "chat.completion",
            "created": 1,
            "model": "prometheus-stand-in",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": len(content) // 4,
                "completion_tokens": len(text) // 4,
                "total_tokens": (len(content) + len(text)) // 4,
            },
        }
        await asyncio.sleep(DELAY_S)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def count(_: web.Request) -> web.Response:
        return web.json_response(received)

    app = web.Application(client_max_size=2**24)
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/count", count)])
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


async def count(port: int) -> int:
    """Return the number of requests that the judge has received so far."""
    async with aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/count") as answer:
                    return int(await answer.json())
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)


# The ideal


async def ideal(port: int, requests: int, concurrency: int) -> float:
    """Return the seconds that a bare loop takes for so many requests, so many at a time."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    encoded = [msgspec.json.encode(body) for body in bodies() for _ in range(REPEATS)]
    waiting = (encoded * 2)[:requests]
    headers = {"content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def send() -> None:
            while waiting:
                async with http.post(url, data=waiting.pop(), headers=headers) as answer:
                    await answer.read()

        began = time.monotonic()
        await asyncio.gather(*(send() for _ in range(concurrency)))
        return time.monotonic() - began


# The engine


def evalrouter(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "router", "judge", *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "100"},
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    if process.returncode:
        sys.exit(err)
    return out


def options(concurrency: int) -> list[str]:
    return [
        *("--judge", "host/judge", "--dataset", str(DATA), "--repeats", str(REPEATS)),
        *("--column", "gpt4_score=score", "--column", "response_source=model"),
        *("--concurrency", str(concurrency)),
    ]


def killed_and_resumed(folder: Path, port: int, concurrency: int) -> tuple[str, dict[str, Any]]:
    """Kill a calibration halfway and resume it; return its id, and what the host received."""
    before = asyncio.run(count(port))
    process = evalrouter(folder, "calibrate", *options(concurrency))
    while asyncio.run(count(port)) - before < 480:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, output = process.communicate()
    match = re.search(r"cal_\w+", output)
    assert match is not None, output
    study_id = match[0]
    sent = asyncio.run(count(port)) - before
    study = json.loads(finished(evalrouter(folder, "resume", study_id, "--json")))
    [use] = study["report"]["use"]
    host = asyncio.run(count(port)) - before
    return study_id, {
        "sent before the kill": sent,
        "sent in all": host,
        "stored": use["calls"],
        "sent again because no verdict could be read": use["asked_again"],
        "paid for twice": host - use["calls"],
    }


def measure(concurrency: int, rounds: int) -> str:
    """Return the whole report, as Markdown."""
    lines = [
        f"320 answers judged {REPEATS} times, {1000 * DELAY_S:.0f} ms each, "
        f"{concurrency} at a time; {os.cpu_count()} cores, Python {sys.version.split()[0]}.",
        "",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "evalrouter.yaml").write_text(CONFIG.format(port=port), encoding="utf-8")
        serving = [sys.executable, "-m", "loadtests.judging", "--serve", str(port)]
        with started(serving, log=folder / "judge.log", cwd=Path(__file__).parents[1]):
            asyncio.run(count(port))
            overheads, table = [], []
            for number in range(1, rounds + 1):
                command = evalrouter(folder, "calibrate", *options(concurrency), "--json")
                attempt = json.loads(finished(command))["report"]["this_attempt"]
                requests, engine = attempt["requests"], attempt["seconds"]
                bare = asyncio.run(ideal(port, requests, concurrency))
                overheads.append(engine / bare - 1)
                table.append(
                    f"| {number} | {requests} | {requests * DELAY_S / concurrency:.2f} | "
                    f"{bare:.2f} | {engine:.2f} | {requests / engine:.1f} | {overheads[-1]:+.1%} |"
                )
            lines += [
                "| round | requests | only waiting, s | bare loop, s | engine, s | requests/s "
                "| overhead |",
                "| --- | --- | --- | --- | --- | --- | --- |",
                *table,
                "",
                f"Median overhead over the bare loop: {median(overheads):+.1%}.",
                "",
                "Killed halfway and resumed:",
                "",
            ]
            study_id, saw = killed_and_resumed(folder, port, concurrency)
            lines += [f"- {name}: {number:,}" for name, number in saw.items()]
            shown = finished(evalrouter(folder, "show", study_id))
            lines += ["", "```", shown.rstrip(), "```", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="a Markdown file to write as well")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve is not None:
        serve(given.serve)
        return
    report = measure(given.concurrency, given.rounds)
    print(report)
    if given.write is not None:
        given.write.write_text(f"# Judging\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()
