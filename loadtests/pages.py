"""Measure the pages over a million requests and a thousand runs: time, bytes, and live updates.

    python -m loadtests.pages                                            # some ten minutes
    python -m loadtests.pages --records 10000 --loads 2 --rounds 2 --seconds 1   # does it work?

A SQLite file is filled as by `loadtests.traffic`, with requests of the last thirty days, and with
runs, of which one was executed. A server over it sends every page of `router/api/access.py` some
times, on one connection, to an administrator who is signed in. The bytes of a first load are those
of the page and of every file that it refers to.

Then the server gets 200 requests a second, in short turns without and with ten tabs that show the
home page. What the tabs take is the difference of the CPU times of two turns that follow each
other: a machine's speed varies by more than that from one minute to the next. How late an update is
counts from the answer to a request until a tab has got the page with it.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import http.client
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import httpx
from litestar.handlers import HTTPRouteHandler

import router.api
from evaluators.base import Sample
from loadtests.client import MODEL, NOT_SUSTAINED, NotSustained
from loadtests.processes import cpu_clock
from loadtests.traffic import (
    KEY_5,
    ROOT,
    conditions,
    fill,
    index,
    measure_in_folder,
    serving,
    write_report,
)
from router.api.access import ACCESS
from router.api.page_layout import PAGE
from router.gateway.key_administration import create
from router.gateway.keys import digest_of
from router.store.keys import KeyRow
from router.store.runs import Run
from router.store.sqlite import SqliteStore

RATE = 200
TABS = 10
# Of the turns, while other programs take the machine.
ATTEMPTS = 5
# After tabs were opened or closed.
SETTLING_S = 0.7
MAX_KB, MAX_MS = 100.0, 150.0
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "accept-encoding": "gzip, br"}
_FILES = re.compile(r'(?:href|src)="(/static/[^"]+)"')


class PageLoad(NamedTuple):
    """What it took to load a page.

    Attributes:
        status: of the answer.
        ms: milliseconds until its last byte, of each time.
        cpu_ms: milliseconds of CPU time that the server took meanwhile, of each time.
        sent: its bytes as they were sent.
        packed: the same, compressed by gzip.
        files: the bytes of the files that it refers to, as they were sent.
    """

    status: int
    ms: list[float]
    cpu_ms: list[float]
    sent: int
    packed: int
    files: int


async def add_rest(path: Path, runs: int) -> str:
    """Add runs and keys to a file that has requests; return an administrator's key."""
    store = SqliteStore(path)
    await store.open()
    samples = [Sample(id=f"s{n}", messages=({"role": "user", "content": "x"},)) for n in range(3)]
    now = time.time()
    for n in range(runs - 1):
        run = Run(
            id=f"run_{n:06}",
            name=f"nightly {n}",
            state="completed",
            document={"routes": ["bench", "probe"], "metrics": ["length"]},
            dataset=f"d{n % 7}.jsonl",
            dataset_hash="ab" * 32,
            dataset_rows=3,
            metrics={"length": "length|v:1"},
            created_at=now - 60.0 * (runs - n),
            experiment=f"e{n % 5}",
        )
        await store.add_run(run, samples)
    for n in range(40):
        key = KeyRow(id=f"key_{n:016x}", name=f"team-{n}", created_at=now - 1e6)
        await store.add_key(key, digest_of(f"team {n}".encode()))
    secret, _ = await create(store, "admin", now=now, role="admin")
    await store.close()
    return secret


def sign_in(http_client: httpx.Client, key: str) -> None:
    """Begin a session."""
    form = http_client.get("/login")
    token = re.findall(r'name="csrf_token" value="([^"]+)"', form.text)[0]
    answer = http_client.post("/login", data={"key": key, "csrf_token": token})
    if answer.status_code != 303:
        raise SystemExit(f"could not sign in: {answer.status_code}")


def add_by_http(http_client: httpx.Client, key: str) -> dict[str, str]:
    """Execute a run, and add what some pages show; return what paths have in their places."""
    headers = {"authorization": f"Bearer {key}", "accept": "application/json"}
    document = {
        "dataset": "evalrouter:summaries",
        "routes": ["baseline/lead-3", "baseline/echo"],
        "metrics": ["rouge", "length"],
        "baseline": "baseline/echo",
    }
    begun = http_client.post("/eval", json=document, headers=headers)
    if begun.status_code != 202:
        raise SystemExit(f"no run: {begun.text}")
    run = begun.json()["id"]
    while not http_client.get(f"/eval/{run}", headers=headers).json()["run"]["finished_at"]:
        time.sleep(0.2)
    samples = http_client.get(f"/eval/{run}/samples", headers=headers).json()["data"]
    requests = http_client.get("/traffic", headers=headers).json()["data"]
    rows = "".join(f"{json.dumps({'input': f'text {n}'})}\n" for n in range(1000))
    upload = {"filename": "small.jsonl"}
    stored = http_client.put("/datasets/small", content=rows, params=upload, headers=headers)
    stored.raise_for_status()
    datasets = http_client.get("/datasets", headers=headers).json()["data"]
    [small] = [dataset for dataset in datasets if dataset["name"] == "small"]
    reviewed = {"rows": [{"messages": [{"role": "user", "content": "hi"}]}], "dataset": "d"}
    http_client.post("/review", json=reviewed, headers=headers)
    queue = http_client.get("/review", headers=headers).json().get("data") or [{}]
    return {
        "run_id": run,
        "sample_id": samples[0].get("sample_id") or samples[0].get("id", ""),
        "request_id": requests[0]["id"],
        "key_id": KEY_5,
        "row_id": str(queue[0].get("id", "")),
        "/routes": MODEL,
        "/experiments": "e1",
        "/datasets": f"small@{small['hash']}",
        "position": "1",
        "/settings": "baseline",
    }


def operations() -> list[str]:
    """Return the paths of all pages, as the table of `access.py` has them."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(router.api.__path__, "router.api."):
        for handler in vars(importlib.import_module(module.name)).values():
            if isinstance(handler, HTTPRouteHandler) and PAGE in handler.opt:
                for typed in handler.paths:
                    path = re.sub(r"\{(\w+):\w+\}", r"{\1}", typed)
                    found |= {f"{method} {path}": path for method in handler.http_methods}
    listed = [operation for operation in ACCESS if operation.startswith("GET ")]
    return [found[operation] for operation in listed if operation in found]


def address_of(path: str, known: Mapping[str, str]) -> str | None:
    """Return the address of a page; None where no value of its parameters is known."""
    path = path.removeprefix("/pages") or "/"
    place = "/" + path.split("/")[1]
    for name in re.findall(r"{(\w+)}", path):
        value = known.get(name) or known.get(place)
        if not value:
            return None
        path = path.replace(f"{{{name}}}", quote(value, safe="@"))
    return path


def load(http_client: httpx.Client, pid: int, path: str, times: int) -> PageLoad | None:
    """Load a page some times; None where the answer is no HTML."""
    ms: list[float] = []
    cpu_ms: list[float] = []
    for _ in range(times):
        used, began = cpu_clock(pid), time.perf_counter()
        with http_client.stream("GET", path) as answer:
            if not answer.headers.get("content-type", "").startswith("text/html"):
                return None
            raw = b"".join(answer.iter_raw())
        ms.append((time.perf_counter() - began) * 1000)
        cpu_ms.append((cpu_clock(pid) - used) * 1000)
    body = raw if "content-encoding" not in answer.headers else http_client.get(path).content
    files = 0
    for file in dict.fromkeys(_FILES.findall(body.decode())):
        with http_client.stream("GET", file) as sent:
            files += sum(map(len, sent.iter_raw()))
    return PageLoad(answer.status_code, ms, cpu_ms, len(raw), len(gzip.compress(body)), files)


class Tab:
    """A tab that shows the home page: reads what the server sends whenever it has changed.

    Args:
        url: the server's address.
        cookie: of the session.
    """

    def __init__(self, url: str, cookie: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._cookie = cookie
        self._changed = threading.Condition()
        self.events = 0
        self.text = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        headers = {"cookie": self._cookie, "accept": "text/event-stream"}
        self._connection.request("GET", "/pages/live/home", headers=headers)
        lines: list[str] = []
        try:
            answer = self._connection.getresponse()
            while line := answer.readline():
                text = line.decode().rstrip("\r\n")
                if text:
                    lines.append(text)
                    continue
                with self._changed:
                    self.events += 1
                    self.text = "\n".join(lines)
                    self._changed.notify_all()
                lines = []
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            return  # closed

    def probes(self) -> int:
        """Return how many requests of the route `probe` the page shows."""
        found = re.search(r'>probe</a></td><td class="number">(\d+)<', self.text)
        return int(found[1]) if found else 0

    def wait_for_first(self) -> None:
        """Wait until it shows the page."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.events, 30):
                raise SystemExit("a tab has not shown the page within 30 seconds")

    def wait_for(self, probes: int, seconds: float) -> bool:
        """Wait until the page shows that many requests of `probe`; return whether it did."""
        with self._changed:
            return self._changed.wait_for(lambda: self.probes() >= probes, seconds)

    def close(self) -> None:
        """Leave."""
        if self._connection.sock is not None:
            self._connection.sock.shutdown(2)
        self._connection.close()
        self._thread.join(5)


@contextmanager
def under_load(url: str, key: str, seconds: float) -> Iterator[None]:
    """Send requests at a fixed rate until they have all been sent."""
    command = [sys.executable, "-m", "loadtests.open_loop", f"{url}/v1/chat/completions"]
    command += ["--rate", str(RATE), "--seconds", str(seconds), "--warm-up", "2"]
    command += ["--header", f"authorization: Bearer {key}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as generator:
        yield
        output, _ = generator.communicate()
    if generator.returncode == NOT_SUSTAINED:
        raise NotSustained(f"{RATE} requests a second")
    if generator.returncode or json.loads(output)["failed"]:
        raise SystemExit(f"requests failed: {output!r}")


class Pair(NamedTuple):
    """CPU seconds of the server a second, in two turns that follow each other."""

    without: float
    with_tabs: float


def pairs(url: str, pid: int, key: str, cookie: str, args: argparse.Namespace) -> list[Pair]:
    """Measure turns with tabs and without, the order of each pair the other way round."""
    measured = []
    with under_load(url, key, 4 + args.rounds * 2 * (args.seconds + SETTLING_S)):
        time.sleep(3)
        for n in range(args.rounds):
            used = {}
            for with_tabs in (n % 2 == 0, n % 2 != 0):
                tabs = [Tab(url, cookie) for _ in range(TABS if with_tabs else 0)]
                for tab in tabs:
                    tab.wait_for_first()
                time.sleep(SETTLING_S)
                before, began = cpu_clock(pid), time.perf_counter()
                time.sleep(args.seconds)
                used[with_tabs] = (cpu_clock(pid) - before) / (time.perf_counter() - began)
                for tab in tabs:
                    tab.close()
            measured.append(Pair(used[False], used[True]))
    return measured


def sustained(url: str, pid: int, key: str, cookie: str, args: argparse.Namespace) -> list[Pair]:
    """Return what `pairs` does, the first time that the machine has time for all requests."""
    for _ in range(ATTEMPTS - 1):
        try:
            return pairs(url, pid, key, cookie, args)
        except NotSustained:
            time.sleep(5)
    return pairs(url, pid, key, cookie, args)


def delays(http_client: httpx.Client, tabs: list[Tab], key: str, count: int) -> list[float]:
    """Return how late a tab shows a request, in seconds, of some requests."""
    late = []
    body = {"model": "probe", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    for n in range(count):
        tab = tabs[n % len(tabs)]
        tab.wait_for_first()
        before = tab.probes()
        http_client.post("/v1/chat/completions", json=body, headers=headers).raise_for_status()
        answered = time.perf_counter()
        if not tab.wait_for(before + 1, 30):
            raise SystemExit("a tab has not shown a request within 30 seconds")
        late.append(time.perf_counter() - answered)
        # Not in step with the server's pauses.
        time.sleep(0.13 * (n % 7))
    return late


def live(http_client: httpx.Client, pid: int, key: str, args: argparse.Namespace) -> Iterator[str]:
    """Yield the part of the report about live updates."""
    url = str(http_client.base_url)
    cookie = f"evalrouter_session={http_client.cookies['evalrouter_session']}"
    measured = sustained(url, pid, key, cookie, args)
    tabs = [Tab(url, cookie) for _ in range(TABS)]
    late: list[float] = []
    for attempt in range(ATTEMPTS):
        try:
            with under_load(url, key, 4 + args.probes):
                time.sleep(3)
                late = delays(http_client, tabs, key, args.probes)
            break
        except NotSustained:
            if attempt == ATTEMPTS - 1:
                raise
    for tab in tabs:
        tab.close()
    differences = [pair.with_tabs - pair.without for pair in measured]
    low, usual, high = quantiles(differences, n=4)
    base = median(pair.without for pair in measured)
    yield (
        f"{RATE} requests a second to one server, without and with {TABS} tabs of the home page, "
        f"in {len(measured)} pairs of turns of {args.seconds:g} s that follow each other. The "
        f"router takes {base:.4f} s of CPU a second without them (median), and {usual:.4f} s more "
        f"with them (median of the differences within the pairs; quartiles {low:.4f} and "
        f"{high:.4f}): {usual / (base + usual):.1%} of what it takes then (the aim: at most 3 %), "
        f"and {usual:.2%} of a core."
    )
    yield ""
    yield (
        f"Of {len(late)} requests meanwhile, a tab showed each {median(late):.2f} s after its "
        f"answer (median; at most {max(late):.2f} s; the aim: less than 1 s)."
    )


def pages(
    http_client: httpx.Client, pid: int, known: Mapping[str, str], times: int
) -> Iterator[str]:
    """Yield the part of the report about loading pages."""
    yield "| page | ms, median | first | CPU, median | first | page | gzip | files | first load |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    absent = []
    for operation in operations():
        address = address_of(operation, known)
        if address is None:
            absent.append(operation)
            continue
        loaded = load(http_client, pid, address, times)
        if loaded is not None and loaded.status == 200:
            yield _row(operation, loaded)
        elif loaded is not None:
            absent.append(f"{address} (status {loaded.status})")
    yield ""
    yield f"Not measured: {', '.join(absent) or 'none'}."


def report(args: argparse.Namespace, folder: Path) -> str:
    """Fill a file, measure, and return the report."""
    path = folder / "e.db"
    asyncio.run(fill(path, args.records, time.time()))
    asyncio.run(index(path))
    key = asyncio.run(add_rest(path, args.runs))
    storage = f'artifacts: "{folder}/artifacts", traffic_days: 0'
    lines = [
        f"# Pages: {args.records:,} requests and {args.runs:,} runs in one SQLite file",
        "",
        conditions("pages"),
        "",
        f"Milliseconds of {args.loads} loads on one connection, from the request to the last byte "
        "of the page; the median and the first load, and the same of the CPU time that the server "
        "took meanwhile, which other programs do not lengthen as much. KB of 1,000 bytes: the page "
        "as it is sent and compressed by gzip, the files that it refers to as they are sent, and "
        "the first load: the compressed page with the files. **Bold** is beyond the aim.",
        "",
    ]
    with (
        serving(path, storage, routes=(MODEL, "probe")) as (url, pid),
        httpx.Client(base_url=url, headers=BROWSER, timeout=120) as http_client,
    ):
        sign_in(http_client, key)
        known = add_by_http(http_client, key)
        if args.loads:
            lines += pages(http_client, pid, known, args.loads)
        lines.append("")
        try:
            lines += live(http_client, pid, key, args)
        except NotSustained as reason:
            lines.append(f"Live updates were not measured: the server did not sustain {reason}.")
    return "\n".join([*lines, ""])


def _row(operation: str, loaded: PageLoad) -> str:
    total = (loaded.packed + loaded.files) / 1000
    shown = [f"`{operation.removeprefix('/pages') or '/'}`"]
    for times in (loaded.ms, loaded.cpu_ms):
        shown += [_marked(median(times), MAX_MS), _marked(times[0], MAX_MS)]
    shown += [f"{size / 1000:.1f}" for size in (loaded.sent, loaded.packed, loaded.files)]
    shown.append(_marked(total, MAX_KB))
    return f"| {' | '.join(shown)} |"


def _marked(value: float, limit: float) -> str:
    return f"{value:.1f}" if value < limit else f"**{value:.1f}**"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the pages.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--loads", type=int, default=7, help="of each page; 0 for none")
    parser.add_argument("--rounds", type=int, default=20, help="pairs of turns; 2 at least")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--probes", type=int, default=15, help="requests whose delay is measured")
    args, text = measure_in_folder(parser, report)
    write_report(text, args.out, "pages")


if __name__ == "__main__":
    main()
