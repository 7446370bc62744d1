"""Feedback waits for records that are not written yet, and is deleted when they are too old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from providers.errors import NotFoundError, RateLimitError
from router.config.loading import parse
from router.loop import feedback
from router.loop.feedback import About, FeedbackDraft, FeedbackIntake, Giver
from router.records import Record, new_record_id
from router.sealing.deletion import Deletion
from router.services import Services
from router.store.feedback import FeedbackFilter
from router.store.protocol import Store
from router.store.traffic import TrafficFilter

OPERATOR = Giver("", None)
# Longer than a test may take.
FOR_EVER = 3600.0
CONFIG = """
storage: {{database: "sqlite:///{folder}/f.db", traffic_days: 0}}
routes: {{r: {{targets: [{{model: baseline/echo}}]}}}}
"""


def about(request: str, **changes: Any) -> FeedbackDraft:
    given = {"name": "thumb", "value": True, "kind": "bool", "about": (About("request", request),)}
    return FeedbackDraft(**(given | changes))


class World(NamedTuple):
    store: Store
    intake: FeedbackIntake
    outdated: list[TrafficFilter]


@asynccontextmanager
async def serving(tmp_path, pauses: Sequence[float] = (0.0,)) -> AsyncIterator[World]:
    async with Services(parse(CONFIG.format(folder=tmp_path), "f.yaml", {})) as services:
        outdated: list[TrafficFilter] = []
        intake = FeedbackIntake(
            services.store,
            services.recorded,
            lambda: services.routes.table,
            lambda: list(outdated),
            pauses=pauses,
        )
        yield World(services.store, intake, outdated)


async def test_a_record_that_is_written_late_is_waited_for(tmp_path):
    async with serving(tmp_path, [0.0, *([0.01] * 10_000)]) as (store, intake, _):
        record = Record(id=new_record_id(), at=1.0, route="r")
        adding = asyncio.create_task(intake.add([about(record.id)], OPERATOR))
        await asyncio.sleep(0.05)
        assert not adding.done()
        await store.keep_traffic([record])
        [stored] = await adding
        assert stored.row.record_id == record.id


async def test_a_record_that_does_not_come_is_not_found(tmp_path):
    async with serving(tmp_path, [0.0, 0.001]) as (_, intake, _):
        with pytest.raises(NotFoundError):
            await intake.add([about(new_record_id())], OPERATOR)
    async with serving(tmp_path, [0.0, FOR_EVER]) as (_, intake, _):
        # Its id says that it is old, so that nothing can come any more.
        with pytest.raises(NotFoundError):
            await intake.add([about(f"req_{1:016x}{1:016x}")], OPERATOR)


async def test_not_too_many_wait_at_once(tmp_path):
    async with serving(tmp_path, [0.0, FOR_EVER]) as (store, intake, _):
        waiting = [
            asyncio.create_task(intake.add([about(f"x{n}")], OPERATOR))
            for n in range(feedback.WAITING + 1)
        ]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [type(task.exception()) for task in done] == [RateLimitError]
        # What is there needs no wait.
        await store.keep_traffic([Record(id="req_1", at=1.0, route="r")])
        await intake.add([about("req_1")], OPERATOR)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        # Those that waited have made room.
        another = asyncio.create_task(intake.add([about("x")], OPERATOR))
        await asyncio.wait([another], timeout=0.1)
        assert not another.done()
        another.cancel()


async def test_feedback_stays_as_long_as_the_record(tmp_path):
    async with serving(tmp_path) as (store, intake, outdated):
        records = [Record(id=f"req_{n}", at=float(n), route="r") for n in range(4)]
        await store.keep_traffic(records)
        await intake.add([about(record.id) for record in records], OPERATOR)
        outdated.append(TrafficFilter(route="r", until=2.0))
        await intake.open()
        while len(rows := await store.feedback(FeedbackFilter())) > 2:
            await asyncio.sleep(0.001)
        await intake.close()
        assert [row.record_id for row in rows] == ["req_3", "req_2"]


async def test_a_deletion_has_as_many_steps_as_it_needs(tmp_path):
    async with serving(tmp_path) as (store, intake, _):
        await store.keep_traffic([Record(id="req_1", at=1.0, route="r")])
        await intake.add([about("req_1", user=f"u{n}") for n in range(5)], OPERATOR)
        everything = TrafficFilter(route="r")
        assert await intake.delete(everything, at_most=3) == Deletion(related=3, complete=False)
        assert await intake.delete(everything, at_most=3) == Deletion(related=2)
        assert await intake.delete(everything) == Deletion()


async def test_labels_of_metrics_are_bounded(tmp_path):
    async with serving(tmp_path) as (store, intake, _):
        await store.keep_traffic(
            [Record(id="req_1", at=1.0, route="r"), Record(id="req_2", at=1.0, route="made up")]
        )
        names = [f"n{n}" for n in range(feedback.MAX_LABELS + 5)]
        await intake.add([about("req_1", name=name) for name in names], OPERATOR)
        await intake.add([about("req_2", name="n0", value=0.5, kind="number")], OPERATOR)
        assert len(intake.counts) == feedback.MAX_LABELS + 2
        assert intake.counts["r", "other", "true"] == 5
        assert intake.counts["other", "n0", "number"] == 1
