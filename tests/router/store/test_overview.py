"""The overview of a store is what its parts say one by one."""

from __future__ import annotations

from evaluators.base import Sample
from router.store.alerts import Alert, AlertChanges
from router.store.overview import Overview
from router.store.review import ReviewFilter
from router.store.rollouts import Rollout, RolloutDecision
from router.store.runs import Run, RunFilter

SAMPLES = [Sample(id="s1", messages=({"role": "user", "content": "x"},))]
STATES = ("queued", "completed", "running", "running", "failed", "queued", "running")


def a_run(number: int, state: str) -> Run:
    return Run(
        id=f"run_{number}",
        name="n",
        state=state,
        document={},
        dataset="d",
        dataset_hash="",
        dataset_rows=1,
        metrics={},
        created_at=float(number),
        key_id=f"key_{number % 2}",
    )


def an_alert(number: int, **fields) -> Alert:
    return Alert(
        id=f"al_{number}",
        fingerprint=f"f{number}",
        rule="r",
        subject="errors",
        labels={},
        severity="critical",
        state="firing",
        summary="it is bad",
        value=0.25,
        threshold=0.1,
        since=900.0,
        updated_at=1000.0,
        **fields,
    )


def a_rollout(number: int) -> Rollout:
    return Rollout(
        id=f"ro_{number}",
        route=f"r{number}",
        candidate="p/new",
        state="running",
        reason="started",
        step=0,
        weight=0.01,
        revision=1,
        settings={"steps": [1, 100]},
        base={"targets": [{"model": "p/old"}]},
        override=None,
        forecast={},
        started_by="key_1",
        created_at=10.0,
        step_at=10.0,
    )


def a_start(number: int) -> RolloutDecision:
    return RolloutDecision(rollout=f"ro_{number}", revision=1, at=10.0, rule="start")


async def test_it_is_what_the_parts_say(store):
    for number, state in enumerate(STATES):
        await store.add_run(a_run(number, state), SAMPLES)
    assert await store.claim_lease("tell", "a", 30.0)
    alerts = [an_alert(1), an_alert(2), an_alert(3, resolved_at=5.0)]
    changes = AlertChanges(alerts=alerts)
    await store.change_alerts(changes, lease="tell", owner="a", max_waiting=3)
    for number in range(2):
        await store.add_rollout(a_rollout(number), a_start(number))
    for key_id in (None, "key_0", "key_9"):
        expected = Overview(
            active=[
                *await store.runs(RunFilter(state="running", key_id=key_id), limit=2),
                *await store.runs(RunFilter(state="queued", key_id=key_id), limit=2),
            ],
            newest=await store.runs(RunFilter(key_id=key_id), limit=3),
            alerts=await store.open_alerts(),
            reviews=await store.count_review_rows(ReviewFilter(state="waiting")),
            rollouts=await store.rollouts(active=True),
        )
        assert len(expected.alerts) == len(expected.rollouts) == 2
        assert [run.id for run in expected.active] == {
            None: ["run_6", "run_3", "run_5", "run_0"],
            "key_0": ["run_6", "run_2", "run_0"],
            "key_9": [],
        }[key_id]
        found = await store.overview(
            key_id, active=2, newest=3, alerts=True, reviews=True, rollouts=True
        )
        assert found == expected
    nothing = await store.overview(
        None, active=0, newest=0, alerts=False, reviews=False, rollouts=False
    )
    assert nothing == Overview([], [], [], 0, [])
