"""Rollouts in the store: one at a time on a route, decisions in order, requests counted once."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from stores import a_batch

from providers.errors import ConflictError, NotFoundError
from router.records import AssignedArm, Record, Target
from router.store.feedback import FeedbackRow, NewFeedback
from router.store.rollouts import (
    AssignedRequests,
    JudgedRequests,
    Rollout,
    RolloutChange,
    RolloutDecision,
    RolloutScore,
)
from router.store.routes import RouteChange
from router.store.traffic import TrafficFilter


def a_rollout(rollout_id="ro_1", **fields):
    return Rollout(
        **{
            "id": rollout_id,
            "route": "r",
            "candidate": "p/new",
            "state": "running",
            "reason": "started",
            "step": 0,
            "weight": 0.01,
            "revision": 1,
            "settings": {"steps": [1, 100]},
            "base": {"targets": [{"model": "p/old"}]},
            "override": None,
            "forecast": {},
            "started_by": "key_1",
            "created_at": 10.0,
            "step_at": 10.0,
        }
        | fields
    )


def decided(revision=2, rollout="ro_1", **fields):
    return RolloutDecision(
        rollout=rollout, revision=revision, at=20.0, rule="person", reason="because", **fields
    )


def start(rollout_id="ro_1"):
    return decided(1, rollout_id, to_state="running", to_weight=0.01)


def change(revision=2, *, route=None, drop_route=False, expected=None, **changes):
    return RolloutChange(
        decision=decided(revision),
        changes=changes,
        route=route,
        drop_route=drop_route,
        expected=expected,
    )


def a_request(number, arm="control", *, unit="", status=200, rollout="ro_1", **fields):
    model = "new" if arm == "candidate" else "old"
    return Record(
        **{
            "id": f"rec_{number}",
            "at": float(number),
            "route": "r",
            "target": Target("p", model),
            "status": status,
            "rollout": rollout,
            "arm": arm,
            "step": 2,
            "unit": unit or f"u{number}",
            "first_byte_s": 0.5,
            "total_s": 1.0,
        }
        | fields
    )


async def test_a_rollout_comes_back_as_it_was_stored(store):
    rollout = a_rollout(override={"targets": []}, forecast={"days": 1.5}, pause="person")
    await store.add_rollout(rollout, start())
    assert await store.rollout("ro_1") == rollout
    assert await store.rollout("ro_2") is None
    assert await store.rollouts(route="r") == [rollout]
    assert await store.rollouts(route="other") == []
    assert await store.rollout_decisions("ro_1") == [start()]


async def test_a_route_has_one_rollout_that_has_not_ended(store):
    await store.add_rollout(a_rollout(), start())
    with pytest.raises(ConflictError, match="has a rollout"):
        await store.add_rollout(a_rollout("ro_2"), start("ro_2"))
    await store.change_rollout(change(state="rolled_back", weight=0.0, ended_at=20.0))
    await store.add_rollout(a_rollout("ro_2"), start("ro_2"))
    assert [row.id for row in await store.rollouts()] == ["ro_2", "ro_1"]
    assert [row.id for row in await store.rollouts(active=True)] == ["ro_2"]
    assert [row.id for row in await store.rollouts(active=False)] == ["ro_1"]


async def test_of_two_decisions_about_one_revision_the_second_is_refused(store):
    await store.add_rollout(a_rollout(), start())
    changes = [change(state="paused"), change(state="rolling_back")]
    done = await asyncio.gather(*map(store.change_rollout, changes), return_exceptions=True)
    assert sorted(type(result).__name__ for result in done) == ["ConflictError", "NoneType"]
    assert len(await store.rollout_decisions("ro_1")) == 2
    with pytest.raises(NotFoundError):
        await store.change_rollout(RolloutChange(decision=decided(2, "ro_9"), changes={}))


async def test_the_version_grows_with_decisions_and_wakes_who_waits(store):
    before = await store.rollout_version()
    await store.add_rollout(a_rollout(), start())
    after = await store.rollout_version()
    assert after > before
    await store.count_requests("ro_1", await store.uncounted("ro_1", 9), "s", None, a_batch())
    assert await store.rollout_version() == after


async def test_a_promotion_sets_the_route_with_the_decision_or_not_at_all(store):
    await store.add_rollout(a_rollout(), start())
    await store.set_route(RouteChange("r", {"targets": ["by hand"]}, 1.0))
    promoted = {"targets": [{"model": "p/new"}]}
    with pytest.raises(ConflictError, match="route was changed"):
        await store.change_rollout(change(route=promoted, state="promoted"))
    unchanged = await store.rollout("ro_1")
    assert unchanged.state == "running"
    assert len(await store.rollout_decisions("ro_1")) == 1
    by_hand = {"targets": ["by hand"]}
    await store.change_rollout(change(route=promoted, expected=by_hand, state="promoted"))
    assert await store.route_overrides() == {"r": promoted}
    await store.change_rollout(change(3, drop_route=True, expected=promoted, state="rolled_back"))
    assert await store.route_overrides() == {}


async def test_requests_are_counted_once_with_what_their_users_saw_before(store):
    await store.add_rollout(a_rollout(), start())
    await store.keep_traffic(
        [
            a_request(1, unit="ann"),
            a_request(2, "candidate", unit="bob", status=500),
            a_request(3, rollout=""),
            a_request(4, "candidate", unit="cid", target=Target("p", "old")),
        ]
    )
    seen = await store.uncounted("ro_1", 9)
    assert [row.id for row in seen.requests] == ["rec_1", "rec_2", "rec_4"]
    # The last one was answered, but not by its arm.
    assert [row.failed for row in seen.requests] == [False, True, True]
    assert seen.requests[0].step == 2
    assert seen.requests[0].first_byte_s == 0.5
    assert seen.statistics == ""
    await store.count_requests("ro_1", seen, "first", None, a_batch())
    await store.keep_traffic([a_request(5, "candidate", unit="ann"), a_request(6, unit="bob")])
    again = await store.uncounted("ro_1", 9)
    assert again.statistics == await store.rollout_statistics("ro_1") == "first"
    assert [row.id for row in again.requests] == ["rec_5", "rec_6"]
    assert [row.seen for row in again.requests] == [{"control"}, {"candidate"}]


async def test_all_assigned_requests_are_counted_and_stay_so(store):
    await store.add_rollout(a_rollout(), start())
    control, candidate = AssignedArm("ro_1", 0, "control"), AssignedArm("ro_1", 0, "candidate")
    later = AssignedArm("ro_1", 1, "candidate")

    def outside(number, assigned):
        return a_request(number, rollout="", unit="", assigned=assigned)

    await store.keep_traffic(
        [
            outside(1, control),
            outside(2, control),
            outside(3, candidate),
            outside(4, AssignedArm("ro_2", 0, "control")),
            a_request(5, rollout=""),
        ]
    )
    await store.keep_traffic([outside(6, control), outside(7, later)])
    assigned = [
        AssignedRequests(step=0, arm="candidate", requests=1),
        AssignedRequests(step=0, arm="control", requests=3),
        AssignedRequests(step=1, arm="candidate", requests=1),
    ]
    seen = await store.uncounted("ro_1", 9)
    assert (seen.requests, seen.assigned) == ((), tuple(assigned))
    await store.forget_traffic(TrafficFilter(), 100)
    assert (await store.uncounted("ro_1", 9)).assigned == tuple(assigned)


async def test_of_two_processes_that_count_the_same_requests_one_does(store):
    await store.add_rollout(a_rollout(), start())
    await store.keep_traffic([a_request(1)])
    seen = await store.uncounted("ro_1", 9)
    await store.count_requests("ro_1", seen, "ours", None, a_batch())
    with pytest.raises(ConflictError, match="another process counts"):
        await store.count_requests("ro_1", seen, "theirs", None, a_batch())
    assert await store.rollout_statistics("ro_1") == "ours"


async def test_what_is_decided_on_an_old_revision_counts_nothing(store):
    await store.add_rollout(a_rollout(), start())
    await store.keep_traffic([a_request(1)])
    seen = await store.uncounted("ro_1", 9)
    await store.change_rollout(change(state="paused"))
    with pytest.raises(ConflictError, match="another decision"):
        await store.count_requests("ro_1", seen, "late", change(state="promoting"), a_batch())
    assert len((await store.uncounted("ro_1", 9)).requests) == 1
    assert await store.rollout_statistics("ro_1") == ""


async def test_scores_are_stored_once_and_wait_for_their_request(store):
    await store.add_rollout(a_rollout(), start())
    await store.keep_traffic([a_request(1, "candidate")])
    seen = await store.uncounted("ro_1", 9)
    score = RolloutScore(
        request=seen.requests[0].number, signal="feedback:thumb", source="fb_1", value=1.0, at=9.0
    )
    await store.keep_rollout_scores("ro_1", [score])
    assert (await store.uncounted("ro_1", 9)).scores == ()
    await store.count_requests("ro_1", seen, "", None, a_batch())
    await store.keep_rollout_scores("ro_1", [score, msgspec.structs.replace(score, source="fb_2")])
    seen = await store.uncounted("ro_1", 9)
    assert [(row.signal, row.value, row.arm, row.step, row.seen) for row in seen.scores] == [
        ("feedback:thumb", 1.0, "candidate", 2, {"candidate"})
    ] * 2
    await store.count_requests("ro_1", seen, "", None, a_batch(number=2, scores=2))
    assert (await store.uncounted("ro_1", 9)).scores == ()
    # When each was counted can be read again, a page at a time.
    assert await store.rollout_batches("ro_1") == [a_batch(), a_batch(number=2, scores=2)]
    assert await store.rollout_batches("ro_1", after=1) == [a_batch(number=2, scores=2)]
    [(batch, request)] = await store.counted_requests("ro_1")
    assert (batch, request.arm, request.seen) == (1, "candidate", frozenset())
    assert await store.counted_requests("ro_1", after=(1, request.number)) == []
    [first] = await store.counted_scores("ro_1", limit=1)
    [second] = await store.counted_scores("ro_1", after=(first[0], first[1].number))
    assert (first[0], second[0]) == (2, 2)
    assert first[1].number < second[1].number


async def test_what_a_judge_was_to_score_is_added_up_by_day_and_outcome(store):
    await store.add_rollout(a_rollout(), start())
    assert await store.judged("ro_1") == []
    scored = JudgedRequests(day=86400.0, outcome="scored", requests=2, usd=0.25)
    earlier = JudgedRequests(day=0.0, outcome="error", requests=1)
    await store.add_judged("ro_1", [scored, earlier])
    await store.add_judged("ro_1", [scored])
    twice = msgspec.structs.replace(scored, requests=4, usd=0.5)
    assert await store.judged("ro_1") == [earlier, twice]


async def test_requests_have_a_number_while_they_are_stored(store):
    await store.add_rollout(a_rollout(), start())
    await store.keep_traffic([a_request(1), a_request(2), a_request(3, rollout="")])
    seen = await store.uncounted("ro_1", 9)
    ids = ["rec_1", "rec_2", "rec_3", "rec_4"]
    assert await store.rollout_request_numbers("ro_1", ids) == {
        row.id: row.number for row in seen.requests
    }
    assert await store.rollout_request_numbers("ro_2", ids) == {}
    await store.forget_rollout_requests(record_id="rec_1")
    assert list(await store.rollout_request_numbers("ro_1", ids)) == ["rec_2"]


def a_thumb(feedback_id, record_id, score, author="ann", **fields):
    return NewFeedback(
        FeedbackRow(
            **{
                "id": feedback_id,
                "at": 50.0,
                "key_id": "",
                "user": author,
                "name": "thumb",
                "kind": "number",
                "value": score,
                "score": score,
                "subject": f"request:{record_id}",
                "record_id": record_id,
                "request_key": "",
                "request_user": "",
                "route": "r",
                "rollout": "ro_1",
                "request_at": 1.0,
            }
            | fields
        ),
        "",
        "",
    )


async def test_the_first_feedback_of_each_author_about_a_request_is_a_score(store):
    await store.add_rollout(a_rollout(), start())
    await store.keep_traffic([a_request(1), a_request(2, "candidate"), a_request(3, rollout="")])
    await store.add_feedback(
        [
            a_thumb("f1", "rec_1", 1.0),
            a_thumb("f2", "rec_2", 0.0),
            a_thumb("f3", "rec_2", 1.0, "bob"),
            a_thumb("f4", "rec_2", 1.0, "bob", name="other"),
            a_thumb("f5", "rec_3", 1.0, rollout=""),
        ]
    )
    scores = await store.new_feedback_scores("ro_1", ["thumb"], 9)
    assert [(score.value, score.signal) for score in scores] == [
        (1.0, "feedback:thumb"),
        (0.0, "feedback:thumb"),
        (1.0, "feedback:thumb"),
    ]
    await store.keep_rollout_scores("ro_1", scores)
    await store.add_feedback([a_thumb("f6", "rec_1", 0.0)])
    assert await store.new_feedback_scores("ro_1", ["thumb"], 9) == []
    was = await store.route_baseline("r", 0.0)
    assert was.feedback["thumb"].count == 5
    assert was.feedback["thumb"].mean == pytest.approx(0.6)
    assert was.feedback["thumb"].sd == pytest.approx(0.24**0.5)


async def test_totals_are_by_intention_or_without_mixed_users(store):
    await store.add_rollout(a_rollout(), start())
    await store.keep_traffic(
        [
            a_request(1, unit="ann"),
            a_request(2, "candidate", unit="ann"),
            a_request(3, "candidate", unit="bob", status=500),
            a_request(4, "candidate", unit="cid", target=Target("p", "old")),
        ]
    )
    await store.count_requests("ro_1", await store.uncounted("ro_1", 9), "", None, a_batch())
    totals = await store.rollout_totals("ro_1")
    assert (totals["candidate"].requests, totals["candidate"].units) == (3, 3)
    assert totals["candidate"].failures == 2
    assert totals["control"].requests == 1
    apart = await store.rollout_totals("ro_1", per_protocol=True)
    assert "control" not in apart
    assert (apart["candidate"].requests, apart["candidate"].failures) == (1, 1)


async def test_what_a_route_was_like(store):
    assert (await store.route_baseline("r", 0.0)).requests == 0
    await store.keep_traffic(
        [
            a_request(1, rollout="", user="ann"),
            a_request(2, rollout="", user="ann", status=500),
            a_request(3, rollout="", finish_reason="length", status=499),
            a_request(4, rollout="", traffic_class="eval"),
            a_request(5, rollout="", user="ann", at=200_000.0),
        ]
    )
    was = await store.route_baseline("r", 1.0)
    assert (was.requests, was.nameless, was.users, was.user_days) == (4, 1, 1, 2)
    assert was.seconds == 199_999.0
    assert (was.failures, was.truncations, was.refusals) == (1, 1, 0)
    assert (await store.route_baseline("r", 2.0)).requests == 3
