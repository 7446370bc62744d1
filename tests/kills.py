"""Two servers on one database, killed again and again under runs and live traffic.

    python tests/kills.py --kills 100 --database sqlite postgresql --seed 7      # make test-outages

Each kill takes a random server, or now and then both, and starts it again. All the time, runs are
created, clients send requests that are answered whole and as streams, and each server has a key of
its own that they use. What must hold at the end:

- Every run that was accepted, or may have been, is complete: no sample is missing, none has two
  answers, no answer has two scores.
- A request of a run reached the upstream once; more often only if it was in flight at a kill. One
  of a client's reached it once.
- No request record is there twice. What was stored before a kill is there after it.
- What a key spent is the sum of its requests. A server that was killed may have lost the records
  and the spend of what it answered in its last moments, and nothing that is older.

The moments come from the seed, which is printed. Exit code 1: something did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from postgres_server import a_server, folder_of_programs
from servers import process, scripted

from providers.offline.scripted import ScriptedServer
from router.config.storage import Storage
from router.gateway.key_administration import create
from router.store.protocol import Store
from router.store.selection import open_store
from router.store.traffic import TrafficFilter

ROUTES = ("up/one", "up/two")
RUNS = 3
CLIENTS = 3
# Dollars of a million tokens of a client's request.
PRICE = 1000.0
# What a server writes down ten times, or once, a second may be this old on a busy machine.
LOSS_S = 5.0
PATIENCE_S = 300.0
# Slow enough for a kill to meet requests in flight.
MODELS = {name: [{"delay_s": 0.04}] for name in ("one", "two", "live")}


@dataclass
class Life:
    """A server from its start to its end.

    Attributes:
        key: the key that clients use at it.
        killed_at: monotonic; None while it lives, and where it ended by itself.
        answered: when each request was answered, by its id.
        unanswered: requests that the kill cut off.
    """

    key: str
    key_id: str
    url: str = ""
    server: Any = None
    killed_at: float | None = None
    answered: dict[str, float] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)


@dataclass
class Outcome:
    """What a series of kills came to; each of `faults` is something that did not hold."""

    kills: int = 0
    runs: int = 0
    cells: int = 0
    interrupted: int = 0
    sent_again: int = 0
    requests: int = 0
    cut_off: int = 0
    lost_records: int = 0
    lost_spend: int = 0
    oldest_lost_s: float = 0.0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in {self.seconds:.0f} s: {self.runs} runs of {self.cells} cells, "
            f"of which {self.interrupted} were in flight at a kill and {self.sent_again} were sent "
            f"again; {self.requests} requests of clients answered and {self.cut_off} cut off; of "
            f"those answered, {self.lost_records} have no record and {self.lost_spend} no spend, "
            f"the oldest answered {self.oldest_lost_s:.2f} s before the kill; "
            f"{len(self.faults)} faults"
        )


class Kills:
    """One series: servers in `folder`, over the database at `address`."""

    def __init__(
        self, folder: Path, address: str, upstream: ScriptedServer, *, seed: int, samples: int
    ) -> None:
        self.outcome = Outcome()
        self._folder = folder
        self._address = address
        self._upstream = upstream
        self._moments = random.Random(seed)
        self._samples = samples
        self._sent: Counter[tuple[str, str]] = Counter()
        self._lives: list[Life] = []
        self._stored: set[str] = set()
        self._datasets: list[str] = []
        self._accepted: set[str] = set()
        self._stop = threading.Event()
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self._config()

    def _config(self) -> None:
        (self._folder / "evalrouter.yaml").write_text(f"""
server: {{port: 0, drain_seconds: 5}}
storage: {{database: "{self._address}"}}
providers: {{up: {{kind: compatible, base_url: "{self._upstream.url}"}}}}
prices: {{up/live: {{input: {PRICE}, output: 0}}}}
""")

    def execute(self, kills: int, pause_s: float) -> Outcome:
        """Kill so many times, pausing up to `pause_s` in between; then compare everything."""
        began = time.monotonic()
        keys = self._keys(2 + 2 * kills)
        with ExitStack() as started:
            servers = [self._start(started, *next(keys)) for _ in range(2)]
            clients = [
                threading.Thread(target=self._client, args=(servers, n)) for n in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            try:
                while self.outcome.kills < kills:
                    self._keep_runs_going(servers)
                    time.sleep(self._moments.uniform(0.0, pause_s))
                    self._stored |= self._in_store(_newest_ids)
                    both = self.outcome.kills + 2 <= kills and self._moments.random() < 0.1
                    for n in (0, 1) if both else (self._moments.randrange(2),):
                        self._kill(servers[n])
                        self.outcome.kills += 1
                    self._count_sent()
                    for n, life in enumerate(servers):
                        if life.killed_at is not None:
                            servers[n] = self._start(started, *next(keys))
            finally:
                self._stop.set()
                for client in clients:
                    client.join()
            self._check_runs(servers[0])
            for life in servers:
                life.server.send_signal(signal.SIGTERM)
                if life.server.wait(60):
                    self._fault(f"a server ended with exit code {life.server.returncode}")
        self._count_sent()
        self._check_sent()
        self._check_records()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _fault(self, text: str) -> None:
        self.outcome.faults.append(text)

    # the database itself

    def _in_store(self, work: Callable[[Store], Awaitable[Any]]) -> Any:
        async def open_and_work() -> Any:
            async with open_store(Storage(database=self._address)) as store:
                return await work(store)

        return asyncio.run(open_and_work())

    def _keys(self, count: int) -> Iterator[tuple[str, str]]:
        async def make(store: Store) -> list[tuple[str, str]]:
            made = []
            for n in range(count):
                key, row = await create(store, f"k{n}", now=0.5, role="admin", budget_usd=1e6)
                made.append((key, row.id))
            return made

        return iter(self._in_store(make))

    # servers

    def _start(self, started: ExitStack, key: str, key_id: str) -> Life:
        life = Life(key, key_id)
        life.server, life.url = started.enter_context(process(self._folder))
        self._lives.append(life)
        return life

    def _kill(self, life: Life) -> None:
        life.killed_at = time.monotonic()
        life.server.send_signal(signal.SIGKILL)
        life.server.wait()

    # runs

    def _keep_runs_going(self, servers: Sequence[Life]) -> None:
        life = self._moments.choice(servers)
        page = self._get(life, "/eval", limit=10)["data"]
        under_way = sum(run["state"] in {"queued", "running"} for run in page)
        for _ in range(RUNS - under_way):
            name = f"data{len(self._datasets)}.jsonl"
            self._datasets.append(name)
            rows = [{"input": f"{name}, {n}", "reference": "x"} for n in range(self._samples)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (self._folder / name).write_text(text)
            self._create(life, name)

    def _create(self, life: Life, name: str) -> None:
        body = {"dataset": name, "routes": ROUTES, "metrics": ["exact_match"],
                "limits": {"concurrency": 4}}  # fmt: skip
        reply = httpx.post(f"{life.url}/eval", json=body, headers=_key(life), timeout=60)
        reply.raise_for_status()
        self._accepted.add(reply.json()["id"])

    def _get(self, life: Life, path: str, **params: Any) -> Any:
        reply = httpx.get(life.url + path, params=params, headers=_key(life), timeout=60)
        return reply.raise_for_status().json()

    def _check_runs(self, life: Life) -> None:
        """Every run ends by itself, with each cell once."""
        until = time.monotonic() + PATIENCE_S
        while any(run["state"] in {"queued", "running"} for run in self._all_runs(life)):
            if time.monotonic() > until:
                self._fault("runs were not resumed")
                return
            time.sleep(0.1)
        runs = {run["id"]: run for run in self._all_runs(life)}
        if lost := self._accepted - runs.keys():
            self._fault(f"accepted runs are gone: {sorted(lost)}")
        for run_id in runs:
            document = self._get(life, f"/eval/{run_id}")
            self.outcome.interrupted += document["run"]["interrupted"]
            if document["run"]["state"] != "completed":
                self._fault(f"{run_id} is {document['run']['state']}: {document['run']['error']}")
                continue
            for row in document["report"]["routes"]:
                counts = row["answered"], row["failed"], row["missing"], row["scores"][0]["scored"]
                if counts != (self._samples, 0, 0, self._samples):
                    self._fault(
                        f"{run_id}: {row['route']}: answered, failed, missing, scored: {counts}"
                    )
            self._check_samples(life, run_id)
        self.outcome.runs = len(runs)

    def _all_runs(self, life: Life) -> list[Any]:
        runs: list[Any] = self._get(life, "/eval", limit=1000)["data"]
        assert len(runs) < 1000
        return runs

    def _check_samples(self, life: Life, run_id: str) -> None:
        cells: Counter[tuple[str, str]] = Counter()
        after: int | None = 0
        while after is not None:
            page = self._get(life, f"/eval/{run_id}/samples", after=after, limit=1000)
            for row in page["data"]:
                cells[row["route"], row["sample"]["id"]] += 1
                if row["answer"]["text"] != row["sample"]["fields"]["input"]:
                    self._fault(f"{run_id}: {row['sample']['id']} has another sample's answer")
                if len(row["scores"]) != 1:
                    self._fault(f"{run_id}: {row['sample']['id']} has {len(row['scores'])} scores")
            after = page["next"]
        self.outcome.cells += len(cells)
        if len(cells) != self._samples * len(ROUTES) or cells.total() != len(cells):
            self._fault(f"{run_id}: {len(cells)} cells in {cells.total()} rows")

    # clients

    def _client(self, servers: Sequence[Life], number: int) -> None:
        choose = random.Random(number)
        with httpx.Client(timeout=60) as http:
            while not self._stop.is_set():
                with self._lock:
                    request_id = f"live-{next(self._numbers)}"
                self._request(http, choose.choice(servers), request_id, streams=number % 2 == 1)

    def _request(self, http: httpx.Client, life: Life, request_id: str, *, streams: bool) -> None:
        body = {"model": "up/live", "messages": [{"role": "user", "content": request_id}],
                "stream": streams}  # fmt: skip
        headers = _key(life) | {"x-request-id": request_id}
        try:
            reply = http.post(f"{life.url}/v1/chat/completions", json=body, headers=headers)
        except httpx.ConnectError:
            # It has not started again yet.
            self._stop.wait(0.05)
            return
        except httpx.TransportError:
            life.unanswered.add(request_id)
            if life.killed_at is None:
                # It is on its way to be.
                self._stop.wait(0.2)
                if life.killed_at is None:
                    self._fault(f"{request_id} was cut off by a server that was not killed")
            return
        life.answered[request_id] = time.monotonic()
        if reply.status_code != 200 or (streams and "[DONE]" not in reply.text):
            self._fault(f"{request_id}: {reply.status_code} {reply.text[:200]}")

    # the end

    def _count_sent(self) -> None:
        """Take what the upstream has received: it does not keep all of a long series."""
        received = self._upstream.log.requests
        while received:
            request = received.popleft()
            text = json.loads(bytes(request.body))["messages"][-1]["content"]
            self._sent[request.model, text] += 1

    def _check_sent(self) -> None:
        again = {what: times - 1 for what, times in self._sent.items() if times > 1}
        if live := sorted(text for model, text in again if model == "live"):
            self._fault(f"sent twice: {live[:5]}")
        self.outcome.sent_again = sum(
            times for (model, _), times in again.items() if model != "live"
        )
        if self.outcome.sent_again > self.outcome.interrupted:
            self._fault(
                f"{self.outcome.sent_again} sent again, {self.outcome.interrupted} in flight"
            )
        if self._sent.total() != self._upstream.log.total:
            self._fault("the upstream's log is not whole")

    def _check_records(self) -> None:
        ids, costs, spent = self._in_store(_records)
        if twice := [name for name, times in ids.items() if times > 1]:
            self._fault(f"recorded twice: {twice[:5]}")
        if gone := self._stored - ids.keys():
            self._fault(f"records that were stored are gone: {sorted(gone)[:5]}")
        known = {name for life in self._lives for name in (*life.answered, *life.unanswered)}
        if unknown := ids.keys() - known:
            self._fault(f"records of no request: {sorted(unknown)[:5]}")
        for life in self._lives:
            self._check_life(life, ids.keys(), costs, spent.get(life.key_id, (0, 0.0)))

    def _check_life(
        self, life: Life, ids: Any, costs: dict[str, float], spent: tuple[int, float]
    ) -> None:
        self.outcome.requests += len(life.answered)
        self.outcome.cut_off += len(life.unanswered)
        missing = [at for name, at in life.answered.items() if name not in ids]
        requests, usd = spent
        # Those that were cut off may have been charged.
        unspent = max(0, len(life.answered) - requests)
        latest = sorted(life.answered.values())[len(life.answered) - unspent :]
        self.outcome.lost_records += len(missing)
        self.outcome.lost_spend += unspent
        if requests > len(life.answered) + len(life.unanswered):
            self._fault(f"{life.key_id} was charged for {requests} of {len(life.answered)}")
        if life.killed_at is None:
            total = sum(costs.get(name, 0.0) for name in life.answered)
            if missing or requests != len(life.answered) or abs(usd - total) > 1e-6 * total:
                self._fault(
                    f"a server that was not killed: {len(missing)} of {len(life.answered)} records "
                    f"are missing; {requests} charged; {usd} of {total} dollars"
                )
            return
        for at in (*missing, *latest):
            self.outcome.oldest_lost_s = max(self.outcome.oldest_lost_s, life.killed_at - at)


def _key(life: Life) -> dict[str, str]:
    return {"authorization": f"Bearer {life.key}"}


async def _newest_ids(store: Store) -> set[str]:
    return {row.request_id for row in await store.traffic(TrafficFilter(), limit=1000)}


async def _records(
    store: Store,
) -> tuple[Counter[str], dict[str, float], dict[str, tuple[int, float]]]:
    """Return how often each request is recorded, what it cost, and what each key spent."""
    ids: Counter[str] = Counter()
    costs: dict[str, float] = {}
    before: int | None = None
    while rows := await store.traffic(TrafficFilter(), limit=1000, before=before):
        ids.update(row.request_id for row in rows)
        costs |= {row.request_id: row.cost_usd or 0.0 for row in rows}
        before = rows[-1].number
    spent = (await store.key_state()).spent
    return ids, costs, {key: (spend.requests, spend.usd) for key, spend in spent.items()}


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)  # noqa: T201 - what this program is for


def main() -> int:
    """Kill as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], nargs="+",
                        default=["sqlite", "postgresql"])  # fmt: skip
    parser.add_argument("--seed", type=int, default=random.randrange(1, 10**6))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between kills, at most")
    arguments = parser.parse_args()
    say(f"--kills {arguments.kills} --seed {arguments.seed}")
    failed = False
    for name in arguments.database:
        with ExitStack() as started:
            folder = Path(started.enter_context(tempfile.TemporaryDirectory()))
            address = f"sqlite:///{folder}/evalrouter.db"
            if name == "postgresql":
                programs = folder_of_programs()
                assert programs is not None, "PostgreSQL is not installed"
                server = started.enter_context(a_server(programs))
                address = started.enter_context(server.fresh_database())
            upstream = started.enter_context(scripted(MODELS))
            series = Kills(
                folder, address, upstream, seed=arguments.seed, samples=arguments.samples
            )
            outcome = series.execute(arguments.kills, arguments.pause)
            if outcome.oldest_lost_s > LOSS_S:
                outcome.faults.append(f"something was lost that was older than {LOSS_S} s")
            say("\n    ".join([f"{name}: {outcome}", *outcome.faults]))
            failed = failed or bool(outcome.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
