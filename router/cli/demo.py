"""`evalrouter demo`: a real server, a real chat completion, a real evaluation, all offline."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request

import msgspec
from rich.console import Console
from rich.syntax import Syntax

from evaluators.reports.table import to_table
from router.config.loading import embedded
from router.config.server import Server
from router.evals.results import Outcome
from router.server import background
from router.store.runs import ENDED

QUESTION = (
    "The harbour bridge closes tonight at nine. Divers will look at its third pier, which a barge "
    "struck in May. Buses will go round by the mill. The bridge opens again at five in the "
    "morning. Nobody was hurt in May."
)

DOCUMENT = """\
name: demo
dataset: evalrouter:summaries          # 68 shipped articles with references
routes: [baseline/lead-1, baseline/lead-3, baseline/textrank]
baseline: baseline/lead-3
metrics: [rouge, chrf, length]
messages:
  - {role: system, content: "Summarize the text in one to three sentences."}
  - {role: user, content: "{{ input }}"}
"""

NEXT = """\
What next:
- Open the page: evalrouter serve, then http://127.0.0.1:4000/ shows this run.
- Add a key: export OPENAI_API_KEY=..., and openai/gpt-4o-mini is a model, for
  clients and in run documents.
- Name a route, in evalrouter.yaml:
    routes:
      summarizer:
        targets:
          - {model: openai/gpt-4o-mini, weight: 90}
          - {model: baseline/lead-3, weight: 10}
- Evaluate your own data: evalrouter eval run DOCUMENT.yaml; the document above
  is a complete one."""


def show(console: Console) -> None:
    """Start a server on a free port, send it a request, evaluate through it, print the report."""
    began = time.perf_counter()
    config = msgspec.structs.replace(embedded({}), server=Server(port=0))
    with background(config) as url:
        ready = time.perf_counter() - began
        console.print(f"A server is up at {url} after {ready:.1f} s.\n", highlight=False)
        console.print("A chat completion through it:\n")
        _chat(console, url)
        console.print("\nAn evaluation of three routes through it, from this document:\n")
        console.print(Syntax(DOCUMENT, "yaml", background_color="default"))
        outcome = _evaluate(url)
    console.print(to_table(outcome.report, width=console.width))
    console.print(
        f"\nDone in {time.perf_counter() - began:.1f} s; stored as {outcome.run.id} in "
        f"{config.storage.sqlite_path()}.\n",
        highlight=False,
    )
    console.print(NEXT, highlight=False, markup=False)


def _chat(console: Console, url: str) -> None:
    """Send a request, with curl if it is installed, so that a reader sees a command to copy."""
    body = msgspec.json.encode(
        {"model": "baseline/lead-3", "messages": [{"role": "user", "content": QUESTION}]}
    )
    path = f"{url}/v1/chat/completions"
    if curl := shutil.which("curl"):
        console.print(
            f"$ curl {path} -H 'content-type: application/json' -d '{body.decode()}'",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        command = [curl, "-sS", path, "-H", "content-type: application/json", "-d", "@-"]
        answer = subprocess.run(command, input=body, capture_output=True, check=True).stdout  # noqa: S603  # our own server
    else:
        answer = _post(path, body)
    console.print(answer.decode(), highlight=False, markup=False)


def _evaluate(url: str) -> Outcome:
    import yaml  # noqa: PLC0415

    document = msgspec.json.encode(yaml.safe_load(DOCUMENT))
    run_id = msgspec.json.decode(_post(f"{url}/eval", document))["id"]
    while True:
        outcome = msgspec.json.decode(_get(f"{url}/eval/{run_id}"), type=Outcome)
        if outcome.run.state in ENDED:
            return outcome
        time.sleep(0.2)


def _post(url: str, body: bytes) -> bytes:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310  # our own server
    return _get(request)


def _get(request: str | urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310  # our own server
        body: bytes = reply.read()
        return body
