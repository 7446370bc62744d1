"""Decides about the rollout of a route, and is killed between the decision and its effect.

    python rollout_process.py FOLDER person|rules

The store is the one that servers have; it kills the process where it is to write the effect.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from router.config.loading import load
from router.gateway.prices import PriceBook
from router.gateway.route_table import Routes
from router.loop.assignment import Assignments
from router.loop.rollout_controller import RolloutController
from router.loop.rollouts import RolloutAction, Rollouts
from router.records import Record, Target
from router.store.rollouts import RolloutChange
from router.store.sqlite import SqliteStore


class KilledBeforeTheEffect(SqliteStore):
    """A store whose process ends before it writes what a decision brings about."""

    async def change_rollout(self, change: RolloutChange) -> None:
        if change.decision.rule == "effect":
            os.kill(os.getpid(), signal.SIGKILL)
        await super().change_rollout(change)


async def decide(folder: Path, who: str) -> None:
    config = load(folder / "evalrouter.yaml")
    store = KilledBeforeTheEffect(folder / "e.db")
    await store.open()
    routes = Routes(config, None, store, PriceBook(config.prices, config.providers))
    await routes.follow()
    rollouts = Rollouts(store, routes, config)
    if who == "person":
        await rollouts.act("r", "rollback", RolloutAction(reason="slow"), actor="cli ann")
    assignments = Assignments(store, routes, config.providers)
    await assignments.follow()
    controller = RolloutController(store, rollouts, assignments, owner="killed")
    for number in range(10_000):
        await store.keep_traffic([_request(assignments, routes, number) for _ in range(50)])
        await controller.run_once()


def _request(assignments: Assignments, routes: Routes, number: int) -> Record:
    """Return the record of a request that its arm has answered well."""
    user = b"user %d %d" % (number, time.time_ns())
    chooser = assignments.by_route.get("r")
    assert chooser is not None
    assignment, unit = chooser.choose(routes.table.routes["r"], user)
    assert assignment is not None
    record = Record(id=user.decode(), at=time.time(), route="r", status=200, unit=unit)
    record.target = assignment.target or Target("up", "old")
    assignment.note(record)
    return record


if __name__ == "__main__":
    asyncio.run(decide(Path(sys.argv[1]), sys.argv[2]))
