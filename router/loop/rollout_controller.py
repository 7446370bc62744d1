"""Decides about rollouts: one process at a time, for all.

    controller = RolloutController(store, rollouts, assignments, owner=this_owner())
    await controller.open()       # every second, where a rollout is under way
    await controller.close()

    await controller.run_once()   # or once

In each round, the process with the lease reads what has not been counted of each rollout, lets the
rules observe it and decide, and stores all of that in one transaction: which requests are counted,
the rules' state after them, and the decision. A process that is killed has done all of it or none.
Another one takes the lease over when it has run out. Should a process that was only stopped for a
while go on, its transaction is refused, because what it read has been counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from providers.errors import ConflictError, StoreError
from router.config.rollouts import RolloutSettings
from router.loop.assignment import Assignments
from router.loop.rollout_counting import (
    audited,
    count_batch,
    is_change,
    observations_of,
    sample_of_rollout,
)
from router.loop.rollout_plan import feedback_names, plan_of, settings_of
from router.loop.rollout_rules import Decision, RolloutRules, SignalReading
from router.loop.rollout_sample import sample_of
from router.loop.rollout_statistics import Statistics, statistics_of, text_of
from router.loop.rollouts import Rollouts, changed
from router.rounds import Rounds
from router.store.leases import Lease
from router.store.rollouts import Rollout, RolloutBatch, RolloutChange, RolloutStore, Uncounted

log = logging.getLogger("evalrouter")

EVERY_S = 1.0
LEASE = "decide about rollouts"
LEASE_S = 10.0
AT_ONCE = 2000
# Statistics of many users take up to hundreds of kilobytes: they are written less often then.
BYTES_PER_S = 64 * 1024
# Nothing new is noted so often, for the time of a step.
IDLE_S = 10.0
# A step's traffic is taken over this time at least, so that a burst is not a rate.
MIN_RATE_S = 60.0
# Time that passes while no process looks is not part of a step: nobody knows what happened then.
MAX_UNSEEN_S = 60.0


class RolloutController:
    """Counts requests of rollouts, and decides.

    Args:
        store: has the rollouts and their requests.
        rollouts: brings decisions into effect.
        assignments: follow what was decided.
        owner: a name for this part of the process, which no other has.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: RolloutStore,
        rollouts: Rollouts,
        assignments: Assignments,
        *,
        owner: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._rollouts = rollouts
        self._assignments = assignments
        self._actor = f"server {owner}"
        self._clock = clock
        self._rounds = Rounds(
            self.run_once, every=EVERY_S, name="evalrouter-rollouts", failing="rollouts wait"
        )
        self._lease = Lease(store, LEASE, owner, LEASE_S)
        # When each rollout has its next turn, on the event loop's clock.
        self._turns: dict[str, float] = {}
        self._readings: dict[str, Sequence[SignalReading]] = {}

    async def open(self) -> None:
        """Begin."""
        self._rounds.open()

    async def close(self) -> None:
        """Stop, and leave the lease to another process."""
        await self._rounds.close()
        with suppress(StoreError):
            await self._lease.release()

    def e_values(self) -> list[tuple[tuple[str, ...], float]]:
        """Return the e-values of the last round for metrics; none in a process without the lease.

        Each with its route, signal, and what it is evidence of: `worse`, or `shown` of a goal.
        """
        active = self._assignments.active
        return [
            ((route, reading.signal, evidence), value)
            for route, readings in self._readings.items()
            if route in active
            for reading in readings
            for evidence, value in (("worse", reading.harm), ("shown", reading.shown))
            if value is not None
        ]

    async def run_once(self) -> bool:
        """Look at every rollout that is under way; return whether this process has the lease.

        Raises:
            StoreError: the database does not work.
        """
        if not self._assignments.active and not self._rollouts.awaits_start():
            return False
        if not await self._lease.claim():
            self._readings.clear()
            return False
        await self._rollouts.start_configured(actor=self._actor)
        active = await self._store.rollouts(active=True, limit=1000)
        self._turns = {row.id: self._turns.get(row.id, 0.0) for row in active}
        for rollout in active:
            if asyncio.get_running_loop().time() < self._turns[rollout.id]:
                continue
            try:
                await self._advance(rollout)
            except ConflictError as error:
                # A person decided, or another process has the lease: the next round sees that.
                log.info("%s: %s", rollout.id, error.message)
        await self._assignments.follow()
        return True

    async def _advance(self, rollout: Rollout) -> None:
        if rollout.state in ("promoting", "rolling_back"):
            await self._rollouts.bring_about(rollout, actor=self._actor)
            return
        if rollout.pause != "route" and not self._rollouts.is_control_unchanged(rollout):
            await self._rollouts.pause_for_route(rollout, actor=self._actor)
            return
        settings = settings_of(rollout)
        if names := feedback_names(settings):
            scores = await self._store.new_feedback_scores(rollout.id, names, AT_ONCE)
            await self._store.keep_rollout_scores(rollout.id, scores)
        while True:
            seen = await self._store.uncounted(rollout.id, AT_ONCE)
            if seen.revision != rollout.revision:
                return
            after = await self._count(rollout, settings, seen)
            if after is not None:
                await self._assignments.follow()
                await self._rollouts.bring_about(after, actor=self._actor)
                return
            if len(seen.requests) < AT_ONCE and len(seen.scores) < AT_ONCE:
                return
            if not await self._lease.claim():
                return

    async def _count(
        self, rollout: Rollout, settings: RolloutSettings, seen: Uncounted
    ) -> Rollout | None:
        """Count what was read, and decide; return the rollout where that changed it."""
        now = self._clock()
        statistics = statistics_of(seen.statistics)
        if statistics is None:
            before = rollout.step_at
            rules = RolloutRules(plan_of(settings))
            statistics = Statistics(until=before, rules=rules.state())
        batch = _batch(seen, rollout, statistics.until, now)
        # On a thread: units are told apart by packed sets, which take milliseconds.
        decision, after = await asyncio.to_thread(_observed, settings, statistics, batch, seen)
        change = self._change(rollout, statistics.rule, decision, _rate(seen, rollout, now))
        is_idle = change is None and not seen.requests and not seen.scores
        if is_idle and now - statistics.until < IDLE_S:
            return None
        text = text_of(after)
        await self._store.count_requests(rollout.id, seen, text, change, batch)
        pause = max(0.0, len(text) / BYTES_PER_S - EVERY_S)
        self._turns[rollout.id] = asyncio.get_running_loop().time() + pause
        self._readings[rollout.route] = after.readings
        if change is None:
            return None
        return changed(rollout, change)

    def _change(
        self, rollout: Rollout, rule: str, decision: Decision, requests_per_s: float
    ) -> RolloutChange | None:
        """Return what a decision changes; None where it goes on as before, for the same reason.

        The sample of a new step is chosen by the traffic of the present one.
        """
        if not is_change(decision, rollout.state, rule):
            return None
        changes: dict[str, Any] = {"state": decision.status, "weight": decision.to_weight}
        if decision.action == "step_up":
            sample = sample_of(decision.to_weight, requests_per_s=requests_per_s)
            changes |= {
                "step": decision.next_step,
                "step_at": self._clock(),
                "sampled_candidate": sample.candidate,
                "sampled_control": sample.control,
            }
        if decision.action == "pause":
            changes |= {"pause": "imbalance", "weight": rollout.weight}
        if decision.action == "abort":
            changes |= {"ended_at": self._clock()}
        return self._rollouts.decided(
            rollout,
            changes,
            actor=self._actor,
            **audited(decision, sample_of_rollout(rollout)),
        )


def _batch(seen: Uncounted, rollout: Rollout, until: float, now: float) -> RolloutBatch:
    """Return what is stored of a batch: it stands for the time since the last one."""
    began = max(until, now - MAX_UNSEEN_S)
    return RolloutBatch(
        number=seen.batch + 1,
        began=began,
        until=max(began, now),
        state=rollout.state,
        step=rollout.step,
        sampled_candidate=rollout.sampled_candidate,
        sampled_control=rollout.sampled_control,
        candidate_requests=sum(each.requests for each in seen.assigned if each.arm == "candidate"),
        requests=len(seen.requests),
        scores=len(seen.scores),
    )


def _rate(seen: Uncounted, rollout: Rollout, now: float) -> float:
    """Return how many requests a second have come since the present step began."""
    requests = sum(each.requests for each in seen.assigned if each.step == rollout.step)
    return requests / max(MIN_RATE_S, now - rollout.step_at)


def _observed(
    settings: RolloutSettings, before: Statistics, batch: RolloutBatch, seen: Uncounted
) -> tuple[Decision, Statistics]:
    """Let the rules observe and decide; return the decision, and the statistics after it."""
    rules = RolloutRules(plan_of(settings), before.rules)
    decision = count_batch(rules, batch, observations_of(seen.requests, seen.scores, settings))
    return decision, Statistics(
        until=batch.until,
        rules=rules.state(),
        rule=decision.rule,
        readings=decision.readings,
        imbalance=decision.imbalance,
    )
