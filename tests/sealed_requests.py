"""Requests of several days, and what a server has to seal them: for tests of sealed requests."""

from __future__ import annotations

import random

from router.records import Attempt, Odds, Record, Target
from router.sealing.files import SealedFiles
from router.sealing.job import DAY_S, Sealing
from router.sealing.traffic import RecordedTraffic
from router.store.protocol import Store
from router.store.traffic import TrafficFilter

DAYS = 4
NOW = 20_000 * DAY_S + 1000.0
FIRST = NOW - 1000.0 - DAYS * DAY_S
COUNT = 1000
TARGETS = [Target("a", "m"), Target("b", "m"), None]
ODDS = Odds({Target("a", "m"): 0.7, Target("b", "m"): 0.3})


def a_record(n: int, draw: random.Random) -> Record:
    """Request n of COUNT; the last ones are of today, and some came later than the next."""
    target = draw.choice(TARGETS)
    bodies = n % 10 == 0
    return Record(
        id=f"req_{n}",
        at=FIRST + n / COUNT * (DAYS * DAY_S + 900.0) - draw.choice([0.0, 0.0, 30.0, 40_000.0]),
        route="rare" if n % 301 == 5 else draw.choice(["x", "y"]),
        target=target,
        status=draw.choice([200, 200, 200, 404, 503]),
        key_id=draw.choice(["", "key_1", "key_2"]),
        user=f"user_{n % 90}" if n % 3 == 0 else "",
        traffic_class="eval" if 400 < n < 500 else "live",
        prompt_tokens=n if n % 7 else None,
        completion_tokens=n % 50,
        cost_usd=n / 1024 if n % 11 else None,
        attempts=[Attempt("a/m", "ok", 200, 0.5)],
        unit=f"{n % 40:016x}" if n % 5 else "",
        first=TARGETS[n % 2],
        odds=ODDS if n % 5 else None,
        total_s=n / 7,
        keep="full" if bodies else "metadata",
        request=f"question {n} \0 é".encode() if bodies else None,
        response=f"answer {n}".encode() * 20 if bodies else None,
        request_id="" if n % 5 else f"mine_{n % 100}",
        response_id=f"chatcmpl-{n // 2}" if n % 4 else "",
        conversation=f"talk_{n % 30}" if n % 8 == 1 else "",
        rollout="rollout_1" if n % 6 == 1 else "",
        arm=("", "control", "", "candidate")[n // 6 % 4] if n % 6 == 1 else "",
    )


def records() -> list[Record]:
    draw = random.Random(3)
    return [a_record(n, draw) for n in range(COUNT)]


class Server:
    """What a process has: the store, the files, and the job."""

    def __init__(self, store: Store, artifacts, *, days: float = 1.0, outdated=()) -> None:
        self.store = store
        self.artifacts = artifacts
        self.files = SealedFiles(lambda: artifacts, store)
        self.recorded = RecordedTraffic(store, self.files, self._delete_live)
        self.outdated = list(outdated)
        self.now = NOW
        self.sealing = Sealing(
            store,
            self.files,
            self.recorded,
            owner=f"owner {id(self)}",
            days=days,
            outdated=lambda: self.outdated,
            clock=lambda: self.now,
        )

    async def _delete_live(self, matching: TrafficFilter, at_most: int | None) -> int:
        return await self.store.forget_traffic(matching, 100_000 if at_most is None else at_most)

    async def listed(self, matching: TrafficFilter = TrafficFilter(), size: int = 400) -> list[str]:  # noqa: B008 - frozen
        """Return the ids of all that match, page by page."""
        ids: list[str] = []
        before = None
        while rows := await self.recorded.page(matching, limit=size, before=before):
            ids += [row.id for row in rows]
            before = rows[-1].number
        return ids

    async def stored_files(self) -> list[str]:
        return [file.key async for file in self.artifacts.list("traffic/")]


async def seal_partly(server: Server, since: float = FIRST - DAY_S) -> None:
    """Seal all of a day as a process does that dies halfway: some of the file is not visible."""
    end = since // DAY_S * DAY_S + 2 * DAY_S
    chosen = await server.store.traffic_to_seal(since, end, after=-1, limit=COUNT)
    numbers = [request.number for request in chosen]

    async def fill(writer):
        yield writer.add_rows(await server.store.traffic_columns(numbers))

    file = await server.files.write(since, fill, server.store.seal_file)
    assert await server.store.move_to_file(file, numbers[: max(1, len(numbers) // 2)])
