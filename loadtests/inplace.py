"""Samples per second of a run: its model in its own actors, and the same model over HTTP.

    python -m loadtests.inplace MODEL --samples 1000 --concurrency 32

MODEL is a folder, or a name on the hub, for the transformers engine. Both runs send the same
samples, greedily, one after the other, on this machine: `models/m` in place, then `host/m` as
`evalrouter models serve` hosts it, with one copy each. The rate counts from the first request to
the last answer; what comes before and after (Ray, loading) is shown beside it. Needs the extras
`ray` and `local`.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from loadtests.processes import free_port
from loadtests.serving import command

TEXT = "The ferry was late because fog lay on the river, and nobody knew when it would lift. "


class Measured(msgspec.Struct, frozen=True):
    """What a run took.

    Attributes:
        route: the route that it was over.
        samples_per_second: from the first request to the last answer.
        around_s: seconds before and after that.
    """

    route: str
    samples_per_second: float
    around_s: float


def run(folder: Path, route: str, concurrency: int, tokens: int) -> Measured:
    """Execute a run over the route in a process of its own."""
    document: dict[str, Any] = {
        "dataset": "data.jsonl",
        "routes": [route],
        "prompt": "{{ input }}",
        "metrics": [],
        "parameters": {"temperature": 0, "max_tokens": tokens},
        "limits": {"concurrency": concurrency},
        "cache": False,
    }
    if route.startswith("models/"):
        document["execution"] = {"workers": 1, "cpus": 0.1}
    (folder / "run.json").write_text(json.dumps(document))
    began = time.perf_counter()
    command = [sys.executable, "-m", "router", "eval", "run", "run.json", "--json"]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
    took = time.perf_counter() - began
    run_id = json.loads(done.stdout)["run"]["id"]
    with closing(sqlite3.connect(folder / "evalrouter.db")) as db:
        [(count, first, last)] = db.execute(
            "SELECT count(*), min(asked_at), max(answered_at) FROM answers WHERE state = 'answered'"
            " AND run = (SELECT number FROM runs WHERE id = ?)",
            [run_id],
        )
    return Measured(route, count / (last - first), took - (last - first))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    hosted = str(free_port())
    model = {
        "engine": "transformers",
        "source": given.source,
        "concurrency": max(16, 2 * given.batch),
        "options": {"max_batch_size": given.batch},
    }
    config = {
        "models": {"m": model},
        "providers": {"host": {"kind": "ray_serve", "base_url": f"http://127.0.0.1:{hosted}/v1"}},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "evalrouter.yaml").write_text(json.dumps(config))
        lines = (
            json.dumps({"id": str(n), "input": TEXT * (1 + n % 4) + str(n)})
            for n in range(given.samples)
        )
        (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
        rows = [run(folder, "models/m", given.concurrency, given.tokens)]
        with command(folder, "models", "serve", "evalrouter.yaml", "--port", hosted):
            rows.append(run(folder, "host/m", given.concurrency, given.tokens))
    print("| route | samples/s | of HTTP | before and after, s |")
    print("| --- | --- | --- | --- |")
    for row in rows:
        share = row.samples_per_second / rows[-1].samples_per_second
        print(f"| {row.route} | {row.samples_per_second:.1f} | {share:.0%} | {row.around_s:.0f} |")


if __name__ == "__main__":
    main()
