"""Calls every operation of `/schema` with what it allows and what it does not, by Schemathesis.

    python tests/fuzz/schema.py --seconds 120

The server runs in a process of its own, over a scripted upstream, in an empty folder. No answer
may have a status of 500 or more but 502 to 504, and every error must be OpenAI's object.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from isolation import isolate  # noqa: E402
from servers import process, scripted  # noqa: E402

CONFIG = """
providers:
  up: {{kind: compatible, base_url: "{url}"}}
routes:
  r: {{targets: [{{model: up/m}}], fallback: [baseline/lead-1]}}
storage: {{database: "sqlite:///fuzz.db", artifacts: ./artifacts}}
"""


def main() -> int:
    """Call operations until the time is up; return 1 if an answer was wrong."""
    import schemathesis

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    until = time.monotonic() + parser.parse_args().seconds
    isolate()
    wrong: dict[str, str] = {}
    statuses: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as folder, scripted({"m": [{"answer": "Hi"}]}) as upstream:
        config = Path(folder) / "evalrouter.yaml"
        config.write_text(CONFIG.format(url=upstream.url))
        with process(Path(folder), "--config", str(config), "--port", "0") as (server, url):
            schema = schemathesis.openapi.from_url(f"{url}/schema/openapi.json")
            schema.config.update(base_url=url)
            operations = [one.ok() for one in schema.get_all_operations()]
            rounds = 0
            while time.monotonic() < until and server.poll() is None:
                for operation in operations:
                    call_some(operation, rounds, wrong, statuses)
                rounds += 1
            if server.poll() is not None:
                wrong["the server"] = f"ended with {server.returncode}"
    counts = dict(sorted(statuses.items()))
    sys.stdout.write(f"{len(operations)} operations, {rounds} rounds, statuses {counts}\n")
    for name, what in wrong.items():
        sys.stdout.write(f"{name}: {what}\n")
    return 1 if wrong else 0


def call_some(operation: Any, number: int, wrong: dict[str, str], statuses: Counter[int]) -> None:
    """Call an operation with some inputs, count the statuses, and note a wrong answer."""

    @seed(number)
    @settings(
        max_examples=5,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def once(case: Any) -> None:
        # Streams of events and drawn bodies may take their time.
        answer = case.call(timeout=20)
        statuses[answer.status_code] += 1
        name = f"{case.method} {case.path} {answer.status_code}"
        if answer.status_code >= 500 and answer.status_code not in (502, 503, 504):
            wrong.setdefault(name, f"{case.body!r} {case.query!r}: {answer.text[:300]}")
        elif answer.status_code >= 400 and case.method != "HEAD" and not is_openai_error(answer):
            wrong.setdefault(name, f"no OpenAI error: {answer.text[:300]}")

    try:
        once()
    except Exception as error:  # noqa: BLE001  # whatever Schemathesis cannot draw or send
        name = f"{operation.method} {operation.path} {type(error).__name__}"
        wrong.setdefault(name, str(error)[:300])


def is_openai_error(answer: Any) -> bool:
    """Return whether an answer is `{"error": {"message", "type", "param", "code"}}`."""
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(error, dict) and set(error) >= {"message", "type", "param", "code"}


if __name__ == "__main__":
    raise SystemExit(main())
