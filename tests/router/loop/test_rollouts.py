"""Rollouts in a process: started, decided by the rules and by people, brought into effect."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from providers.errors import ConflictError, NotFoundError, RequestError
from router.config.documents import Document, as_stored
from router.config.loading import parse
from router.config.rollouts import RolloutSignal, RouteRollout
from router.loop.rollout_controller import LEASE
from router.loop.rollout_statistics import statistics_of
from router.loop.rollouts import RolloutAction
from router.records import Record, Target
from router.services import Services
from router.store.feedback import FeedbackRow, NewFeedback
from router.store.routes import RouteChange
from router.store.traffic import TrafficFilter

CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db"}}
providers:
  up: {{kind: scripted, script: {{old: [{{}}], new: [{{}}], other: [{{}}]}}}}
routes:
  r: {{targets: [{{model: up/old}}]{more}}}
  two: {{targets: [{{model: up/old, weight: 9}}, {{model: up/new}}]}}
  silent: {{targets: [{{model: up/old}}], record: none}}
"""
QUICK = {
    "steps": (20.0, 50.0),
    "step_seconds": 0,
    "cycle_seconds": 0,
    "unit_seconds": 0,
    "force": True,
    "signals": (
        RolloutSignal(measure="errors", min_requests=5),
        RolloutSignal(measure="errors", role="goal", margin=0.3, min_requests=5),
    ),
}
# Cannot be shown by a few hundred requests.
UNDECIDED = (RolloutSignal(measure="errors", role="goal", margin=0.001),)
NUMBERS = itertools.count()


def wanted(candidate="up/new", **fields):
    return RouteRollout(**{"candidate": candidate, **QUICK, **fields})


def because(reason="because", **fields):
    return RolloutAction(reason=reason, **fields)


@asynccontextmanager
async def opened(folder, more=""):
    """The parts of a process over the folder's database."""
    async with Services(parse(CONFIG.format(folder=folder, more=more), "c.yaml", {})) as services:
        yield services


@pytest.fixture
async def services(tmp_path):
    async with opened(tmp_path) as services:
        yield services


async def send(services, users, *, failing=lambda _: False, route="r"):
    """Requests of users as the gateway records them, answered by the arm that they are on."""
    records = []
    for user in users:
        plain = services.routes.table.routes[route]
        chooser = services.assignments.by_route.get(route)
        side = None
        if chooser is not None:
            side, unit = chooser.choose(plain, b"user %d" % user)
        number = next(NUMBERS)
        # Now, because records that are too old are deleted.
        record = Record(id=f"rec_{number}", at=time.time(), route=route, status=200)
        record.target = Target.parse(plain.targets[0].model)
        if side is not None:
            side.note(record)
            record.unit = unit
            record.target = side.target or record.target
            record.status = 500 if side.target and failing(user) else 200
        records.append(record)
    await services.store.keep_traffic(records)


async def decide(services, *, failing=lambda _: False):
    """Let users come, and the controller decide, until the rollout has ended."""
    for first in range(0, 10_000, 50):
        await send(services, range(first, first + 50), failing=failing)
        await services.rollout_controller.run_once()
        rollout = await services.rollouts.find("r")
        if not rollout.is_active:
            return rollout
    raise AssertionError("it never ended")


async def start(services, request=None):
    rollout = await services.rollouts.start("r", request or wanted(), actor="key ops")
    await services.assignments.follow()
    return rollout


def targets(services, route="r"):
    return {each.model: each.weight for each in services.routes.table.routes[route].targets}


# what the rules decide


async def test_a_good_candidate_is_promoted_and_the_route_changes_for_good(services, tmp_path):
    await start(services)
    rollout = await decide(services)
    assert rollout.state == "promoted"
    assert targets(services) == {"up/new": 1.0, "up/old": 0.0}
    decisions = (await services.rollouts.report("r")).decisions
    assert [row.revision for row in decisions] == list(range(1, len(decisions) + 1))
    assert [row.to_weight for row in decisions if row.rule == "passed"] == [0.5, 1.0]
    for before, after in itertools.pairwise(decisions):
        assert (before.to_state, before.to_weight) == (after.from_state, after.from_weight)
    passed = next(row for row in decisions if row.rule == "passed")
    assert passed.e_value >= 20
    assert passed.seen["signals"][1]["candidate"]["requests"] >= 5
    assert passed.actor
    assert len({row.route_version for row in decisions}) == 1
    async with opened(tmp_path) as later:
        assert targets(later) == {"up/new": 1.0, "up/old": 0.0}
        assert later.assignments.by_route.get("r") is None


@pytest.mark.parametrize(
    ("shadowed", "left"), [(["up/new"], None), (["up/new", "up/other"], ["up/other"])]
)
async def test_a_promoted_candidate_leaves_the_shadow_of_its_route(
    services, tmp_path, shadowed, left
):
    shadow = {"targets": shadowed, "sample": 1}
    await services.routes.put(
        "r",
        {"targets": [{"model": "up/old"}], "share_bodies_with": ["up"], "shadow": shadow},
    )
    await start(services)
    await services.rollouts.act("r", "promote", because(), actor="ops")
    async with opened(tmp_path) as later:
        for each in (services, later):
            assert targets(each) == {"up/new": 1.0, "up/old": 0.0}
            shadow_now = each.routes.table.routes["r"].shadow
            assert (shadow_now and list(shadow_now.targets)) == left
    await services.rollouts.act("r", "rollback", because(), actor="ops")
    assert targets(services) == {"up/old": 1.0}
    assert list(services.routes.table.routes["r"].shadow.targets) == shadowed


async def test_a_candidate_that_fails_is_rolled_back_and_the_route_is_as_it_was(services):
    await start(services)
    rollout = await decide(services, failing=lambda user: user % 2 == 0)
    assert rollout.state == "rolled_back"
    assert targets(services) == {"up/old": 1.0}
    assert [view.source for view in services.routes.view()] == ["config"] * 3
    report = await services.rollouts.report("r")
    assert [row.rule for row in report.decisions][-2:] == ["guardrails", "effect"]
    assert report.totals["candidate"].failures > 0
    assert report.totals["control"].failures == 0


async def test_feedback_rolls_back_a_candidate_that_people_dislike(services):
    disliked = RolloutSignal(measure="feedback:thumb", margin=0.1, min_requests=5)
    await start(services, wanted(signals=(disliked, *UNDECIDED)))
    for first in range(0, 4000, 50):
        await send(services, range(first, first + 50))
        await give_thumbs(services)
        await services.rollout_controller.run_once()
        await services.rollout_controller.run_once()
        rollout = await services.rollouts.find("r")
        if not rollout.is_active:
            break
    assert rollout.state == "rolled_back"
    assert "feedback:thumb" in rollout.reason


async def give_thumbs(services):
    """A thumb about each request that waits to be counted: down for the candidate's."""
    rollout = await services.rollouts.find("r")
    waiting = await services.store.uncounted(rollout.id, 1000)
    await services.store.add_feedback(
        [
            NewFeedback(
                FeedbackRow(id=f"fb {row.id}", at=1.0, key_id="", user="", name="thumb",
                            kind="number", value=score, score=score, subject=row.id,
                            record_id=row.id, request_key="", request_user="", route="r",
                            rollout=rollout.id, arm=row.arm, request_at=1.0),
                "",
                "",
            )
            for row in waiting.requests
            for score in [float(row.arm == "control")]
        ]
    )  # fmt: skip


async def test_no_data_is_never_a_pass(services):
    await start(services)
    for _ in range(5):
        await services.rollout_controller.run_once()
    rollout = await services.rollouts.find("r")
    assert (rollout.state, rollout.step) == ("holding", 0)
    assert "No data is no pass" in rollout.reason


async def test_an_exposure_budget_ends_it_without_a_verdict(services):
    await start(services, wanted(max_requests=10, signals=UNDECIDED))
    rollout = await decide(services)
    assert rollout.state == "aborted"
    assert targets(services) == {"up/old": 1.0}
    await services.assignments.follow()
    assert services.assignments.by_route.get("r") is None


async def test_what_one_process_has_counted_another_goes_on_from(services, tmp_path):
    await start(services, wanted(signals=UNDECIDED))
    async with opened(tmp_path) as other:
        for n, each in enumerate([services, other, services, other]):
            await send(each, range(50 * n, 50 * n + 50))
            await each.rollout_controller.run_once()
            await each.rollout_controller.close()
    report = await services.rollouts.report("r")
    assert sum(arm.requests for arm in report.totals.values()) == 200
    assert not report.uncounted


async def test_while_one_process_has_the_lease_no_other_decides(services, tmp_path):
    await start(services)
    assert await services.rollout_controller.run_once()
    async with opened(tmp_path) as other:
        await send(other, range(20))
        assert not await other.rollout_controller.run_once()
        assert (await other.rollouts.report("r")).uncounted


async def test_deleting_requests_deletes_them_from_rollouts(services):
    await start(services, wanted(signals=UNDECIDED))
    await send(services, range(20))
    await services.rollout_controller.run_once()
    [first, *_] = await services.store.traffic(TrafficFilter())

    async def left():
        totals = (await services.rollouts.report("r")).totals
        return sum(arm.requests for arm in totals.values())

    await services.deletion.delete(TrafficFilter(id=first.id))
    assert await left() == 19
    # Of a user whose requests' records are gone, or in a file.
    await services.deletion.delete(TrafficFilter(user="7"))
    assert await left() == 18
    await services.deletion.delete(TrafficFilter(route="r"))
    assert await left() == 0
    counted = await services.store.rollout_statistics((await services.rollouts.find("r")).id)
    assert counted


# the sample


async def test_what_is_not_sampled_is_counted_and_leaves_nothing_else(services):
    rollout = await start(services, wanted(steps=(1.0, 50.0)))
    assert (rollout.sampled_candidate, rollout.sampled_control) == (1.0, pytest.approx(0.1 / 0.99))
    await send(services, range(2000))
    await services.rollout_controller.run_once()
    report = await services.rollouts.report("r")
    assigned = {each.arm: each.requests for each in report.assigned}
    assert sum(assigned.values()) == 2000
    assert 5 < assigned["candidate"] < 50
    assert report.totals["candidate"].requests == assigned["candidate"]
    assert 150 < report.totals["control"].requests < 260
    assert report.imbalance < 20
    stored = await services.store.traffic(TrafficFilter(rollout=rollout.id), limit=500)
    assert len(stored) == sum(totals.requests for totals in report.totals.values())
    assert len(await services.store.traffic(TrafficFilter(route="r"), limit=5000)) == 2000


async def test_the_exposure_budget_counts_requests_that_are_not_sampled(services):
    rollout = await start(services, wanted(steps=(90.0, 95.0), max_requests=300))
    assert rollout.sampled_candidate == pytest.approx(1.0)
    sampled = {"sampled_candidate": 0.01, "sampled_control": 0.1}
    change = services.rollouts.decided(rollout, sampled, rule="person", actor="a", reason="b")
    await services.store.change_rollout(change)
    await services.assignments.follow()
    await send(services, range(200))
    await services.rollout_controller.run_once()
    assert (await services.rollouts.find("r")).is_active
    await send(services, range(200, 400))
    await services.rollout_controller.run_once()
    aborted = await services.rollouts.find("r")
    assert aborted.state == "aborted"
    assert "the budget is 300" in aborted.reason
    report = await services.rollouts.report("r")
    assert report.totals["candidate"].requests < 30


async def test_a_busy_step_is_followed_by_one_with_a_smaller_sample(services, tmp_path):
    await start(services)
    # A hundred a second, as that of a minute at least.
    await send(services, range(6000))
    await services.rollout_controller.run_once()
    rollout = await services.rollouts.find("r")
    assert (rollout.step, rollout.weight) == (1, 0.5)
    assert rollout.sampled_candidate == pytest.approx(0.5)
    assert rollout.sampled_control == pytest.approx(0.5)
    async with opened(tmp_path) as other:
        for process in (services, other):
            route = process.routes.table.routes["r"]
            users = [
                process.assignments.by_route["r"].choose(route, b"user %d" % n)[0]
                for n in range(1000)
            ]
            assert 400 < sum(user.sampled for user in users) < 600
    await send(services, range(6000, 6400))
    await services.rollout_controller.run_once()
    taken = (await services.rollouts.report("r")).decisions[-1]
    assert taken.seen["sample"] == {
        "candidate": rollout.sampled_candidate,
        "control": rollout.sampled_control,
    }


# which arm a request is on


async def test_users_stay_where_they_are_while_the_share_grows(services, tmp_path):
    await start(services)
    users = [b"user %d" % n for n in range(400)]
    route = services.routes.table.routes["r"]

    def candidates(process):
        return {
            user
            for user in users
            if process.assignments.by_route["r"].choose(route, user)[0].assigned.arm == "candidate"
        }

    first = candidates(services)
    assert 40 < len(first) < 120
    async with opened(tmp_path) as other:
        assert candidates(other) == first
    await decide_step(services)
    assert candidates(services) > first
    assert 150 < len(candidates(services)) < 250


async def decide_step(services):
    while (await services.rollouts.find("r")).step == 0:
        await send(services, [next(NUMBERS) + 10_000 for _ in range(50)])
        await services.rollout_controller.run_once()


async def test_another_rollout_draws_anew(services):
    route = services.routes.table.routes["r"]
    drawn = []
    for _ in range(2):
        await start(services)
        arms = [
            services.assignments.by_route["r"].choose(route, b"user %d" % n)[0].assigned.arm
            for n in range(100)
        ]
        drawn.append(arms)
        await services.rollouts.act("r", "rollback", because(), actor="a")
    assert drawn[0] != drawn[1]


# what people decide


async def test_a_person_pauses_resumes_promotes_and_takes_that_back(services):
    started = await start(services)
    act = services.rollouts.act
    paused = await act("r", "pause", because("lunch"), actor="cli ann")
    assert (paused.state, paused.weight, paused.reason) == ("paused", started.weight, "lunch")
    await services.assignments.follow()
    await send(services, range(50), failing=lambda _: True)
    await services.rollout_controller.run_once()
    assert (await services.rollouts.find("r")).state == "paused"
    assert (await act("r", "resume", because(), actor="a")).state == "running"
    promoted = await act("r", "promote", because("we know"), actor="cli ann")
    assert promoted.state == "promoted"
    assert targets(services) == {"up/new": 1.0, "up/old": 0.0}
    back = await act("r", "rollback", because("complaints"), actor="cli bob")
    assert back.state == "rolled_back"
    assert back.reason == "complaints"
    assert targets(services) == {"up/old": 1.0}
    decisions = (await services.rollouts.report("r")).decisions
    people = [(row.actor, row.reason) for row in decisions if row.rule == "person"]
    assert people[0] == ("cli ann", "lunch")
    assert people[-1] == ("cli bob", "complaints")


async def test_a_promoted_route_that_had_been_set_by_hand_gets_back_what_it_had(services):
    await services.routes.put("r", {"targets": [{"model": "up/other"}], "sticky": "user"})
    await start(services)
    await services.rollouts.act("r", "promote", because(), actor="a")
    assert targets(services) == {"up/new": 1.0, "up/other": 0.0}
    await services.rollouts.act("r", "rollback", because(), actor="a")
    assert targets(services) == {"up/other": 1.0}
    assert services.routes.table.routes["r"].sticky == "user"


async def test_of_two_people_who_decide_at_once_one_wins(services, tmp_path):
    started = await start(services)
    async with opened(tmp_path) as other:
        done = await asyncio.gather(
            services.rollouts.act("r", "promote", because(revision=started.revision), actor="a"),
            other.rollouts.act("r", "rollback", because(revision=started.revision), actor="b"),
            return_exceptions=True,
        )
    [refused] = [result for result in done if isinstance(result, ConflictError)]
    assert refused.code == "rollout_changed"
    [won] = [result for result in done if not isinstance(result, ConflictError)]
    await services.routes.follow()
    expected = {"up/new": 1.0, "up/old": 0.0} if won.state == "promoted" else {"up/old": 1.0}
    assert targets(services) == expected


@pytest.mark.parametrize("action", ["pause", "promote", "resume", "rollback"])
async def test_what_a_state_forbids_is_refused(services, action):
    with pytest.raises(NotFoundError, match="no rollout"):
        await services.rollouts.act("r", action, because(), actor="a")
    await start(services)
    await services.rollouts.act("r", "rollback", because(), actor="a")
    with pytest.raises(ConflictError, match="is rolled_back"):
        await services.rollouts.act("r", action, because(), actor="a")


async def test_a_decision_of_a_person_needs_a_reason(services):
    await start(services)
    with pytest.raises(RequestError, match="say why"):
        await services.rollouts.act("r", "pause", because(" "), actor="a")


# decided, and not yet in effect


@pytest.mark.parametrize(
    ("action", "state", "weights"),
    [
        ("promote", "promoted", {"up/new": 1.0, "up/old": 0.0}),
        ("rollback", "rolled_back", {"up/old": 1.0}),
    ],
)
async def test_another_process_brings_about_what_a_killed_one_decided(
    services, tmp_path, action, state, weights
):
    rollout = await start(services)
    # What a process leaves that is killed between the decision and its effect.
    changes = {"state": {"promote": "promoting", "rollback": "rolling_back"}[action]}
    changes |= {"weight": 1.0 if action == "promote" else 0.0}
    decided = services.rollouts.decided(
        rollout, changes, rule="person", actor="killed", reason="because"
    )
    await services.store.change_rollout(decided)
    await services.assignments.follow()
    route = services.routes.table.routes["r"]
    side = services.assignments.by_route.get("r")
    arms = {side.choose(route, b"user %d" % n)[0].assigned.arm for n in range(50)}
    assert arms == {"candidate" if action == "promote" else "control"}
    async with opened(tmp_path) as other:
        await other.rollout_controller.run_once()
        assert (await other.rollouts.find("r")).state == state
        assert targets(other) == weights


# routes that change meanwhile


async def test_a_route_that_is_changed_pauses_its_rollout_and_is_in_effect(services):
    rollout = await start(services)
    await services.routes.put("r", {"targets": [{"model": "up/other"}]})
    route = services.routes.table.routes["r"]
    # At once, not only when the rollout is paused.
    assert services.assignments.by_route["r"].choose(route, b"user 1")[0] is None
    await services.rollout_controller.run_once()
    paused = await services.rollouts.find("r")
    assert (paused.state, paused.pause) == ("paused", "route")
    assert "was changed" in paused.reason
    for action in ("resume", "promote"):
        with pytest.raises(ConflictError, match="another control"):
            await services.rollouts.act("r", action, because(), actor="a")
    await services.routes.remove("r")
    resumed = await services.rollouts.act("r", "resume", because(), actor="a")
    assert (resumed.state, resumed.weight) == ("running", rollout.weight)


async def test_a_promotion_keeps_what_of_the_route_was_free_to_change(services):
    await start(services)
    before = services.routes.table.routes["r"]
    await services.routes.put("r", as_stored(before) | {"traffic_days": 3})
    promoted = await services.rollouts.act("r", "promote", because(), actor="a")
    assert promoted.state == "promoted"
    assert services.routes.table.routes["r"].traffic_days == 3
    assert targets(services)["up/new"] == 1.0
    # Nor does a change after it stand in the way of a rollback.
    after = services.routes.table.routes["r"]
    await services.routes.put("r", as_stored(after) | {"traffic_days": 4})
    await services.rollouts.act("r", "rollback", because(), actor="a")
    assert services.routes.table.routes["r"] == before


async def test_a_rollback_leaves_a_route_alone_that_was_changed(services):
    await start(services)
    await services.routes.put("r", {"targets": [{"model": "up/other"}]})
    await services.rollout_controller.run_once()
    await services.rollouts.act("r", "rollback", because(), actor="a")
    assert targets(services) == {"up/other": 1.0}


async def test_a_promotion_does_not_overwrite_a_change_of_the_route(services, tmp_path):
    rollout = await start(services)
    decided = services.rollouts.decided(
        rollout, {"state": "promoting", "weight": 1.0}, rule="person", actor="a", reason="why"
    )
    await services.store.change_rollout(decided)
    # This process has not heard of it yet.
    await services.store.set_route(RouteChange("r", {"targets": [{"model": "up/other"}]}, 1.0))
    await services.rollout_controller.run_once()
    assert (await services.rollouts.find("r")).pause == "route"
    await services.routes.follow()
    assert targets(services) == {"up/other": 1.0}


async def test_what_no_answer_depends_on_may_change(services):
    await start(services)
    document = {"targets": [{"model": "up/old"}], "traffic_days": 3}
    await services.routes.put("r", document)
    await services.rollout_controller.run_once()
    assert (await services.rollouts.find("r")).state == "holding"


# what cannot be started


@pytest.mark.parametrize(
    ("route", "fields", "error", "message"),
    [
        ("r", {"candidate": "up/old"}, RequestError, "its incumbent"),
        ("two", {"candidate": "up/new"}, RequestError, "has a share"),
        ("r", {"candidate": "nobody/new"}, RequestError, "no provider 'nobody'"),
        ("r", {"candidate": "up/newer"}, RequestError, "up has no model 'newer'. Did you mean"),
        ("r", {"candidate": "new"}, RequestError, "not of the form"),
        ("r", {"candidate": None}, RequestError, "name one"),
        ("r", {"steps": (5.0, 5.0)}, RequestError, "larger than the one before"),
        ("r", {"steps": (100.0,)}, RequestError, "below 100"),
        ("r", {"signals": (RolloutSignal(measure="errors"),)}, RequestError, "must be a goal"),
        ("silent", {}, ConflictError, "records nothing"),
        ("none", {}, NotFoundError, "does not exist"),
        ("r", {"force": False}, ConflictError, "use force"),
    ],
)
async def test_what_cannot_be_a_rollout_is_refused(services, route, fields, error, message):
    with pytest.raises(error, match=message):
        await services.rollouts.start(route, wanted(**fields), actor="a")
    assert await services.rollouts.list() == []


async def test_a_route_has_one_rollout_at_a_time(services):
    await start(services)
    with pytest.raises(ConflictError, match="has a rollout"):
        await services.rollouts.start("r", wanted("up/other"), actor="a")
    await services.rollouts.start("two", wanted("up/other"), actor="a")


async def test_enough_traffic_needs_no_force(services):
    users = [f"u{n}" for n in range(3000)]
    now = services.rollouts.now()
    await services.store.keep_traffic(
        [
            Record(id=f"q{n}", at=now - 10 - n / 100, route="r", status=200, user=user,
                   target=Target("up", "old"))
            for n, user in enumerate(users)
        ]
    )  # fmt: skip
    rollout = await services.rollouts.start("r", wanted(force=False), actor="a")
    assert rollout.forecast["possible"]
    assert 0 < rollout.forecast["requests"] < 3000


# from the config


async def test_a_candidate_in_the_config_is_started_once(tmp_path):
    settings = msgspec.json.encode(
        {"candidate": "up/new", "force": True, "steps": [10, 50]}
    ).decode()
    more = f", rollout: {settings}"
    for _ in range(2):
        async with opened(tmp_path, more) as services:
            await services.rollout_controller.run_once()
            await services.rollout_controller.close()
            [rollout] = await services.rollouts.list()
            assert (rollout.candidate, rollout.weight) == ("up/new", 0.1)
    async with opened(tmp_path, more) as services:
        await services.rollouts.act("r", "rollback", because(), actor="a")
        await services.rollout_controller.run_once()
        assert len(await services.rollouts.list()) == 1


async def test_the_settings_of_a_route_are_defaults(tmp_path):
    async with opened(tmp_path, ", rollout: {steps: [3, 30], alpha: 0.01}") as services:
        document = Document({"candidate": "up/new", "alpha": 0.1}, "", {})
        request = services.rollouts.request_of("r", document)
        assert (request.steps, request.alpha) == ((3.0, 30.0), 0.1)


# processes


@pytest.mark.parametrize(
    ("who", "state", "weights"),
    [
        ("rules", "promoted", {"up/new": 1.0, "up/old": 0.0}),
        ("person", "rolled_back", {"up/old": 1.0}),
    ],
)
async def test_a_process_killed_between_a_decision_and_its_effect(tmp_path, who, state, weights):
    (tmp_path / "evalrouter.yaml").write_text(CONFIG.format(folder=tmp_path, more=""))
    async with opened(tmp_path) as services:
        rollout = await start(services)
    program = Path(__file__).with_name("rollout_process.py")
    decided = await asyncio.create_subprocess_exec(sys.executable, program, tmp_path, who)
    assert await decided.wait() == -signal.SIGKILL
    async with opened(tmp_path) as services:
        between = await services.rollouts.find("r")
        assert between.state == {"promoted": "promoting", "rolled_back": "rolling_back"}[state]
        assert targets(services) == {"up/old": 1.0}
        await services.store.release_lease(LEASE, "killed")
        await services.rollout_controller.run_once()
        assert (await services.rollouts.find("r")).state == state
        assert targets(services) == weights
        rules = [row.rule for row in await services.store.rollout_decisions(rollout.id)]
        assert rules.count("effect") == 1
        # What was counted when the process was killed is counted, and nothing twice.
        report = await services.rollouts.report("r")
        assert not report.uncounted
        counted = sum(each.requests for each in report.assigned)
        assert counted == sum(total.requests for total in report.totals.values())


async def test_two_servers_on_one_postgresql_agree_and_count_each_request_once(
    postgres_address, tmp_path
):
    config = CONFIG.format(folder=tmp_path, more="").replace(
        f"sqlite:///{tmp_path}/e.db", postgres_address
    )
    async with (
        Services(parse(config, "c.yaml", {})) as first,
        Services(parse(config, "c.yaml", {})) as second,
    ):
        await start(first)
        await second.assignments.follow()
        for number in itertools.count():
            users = range(50 * number, 50 * number + 50)
            await asyncio.gather(send(first, users[::2]), send(second, users[1::2]))
            await asyncio.gather(
                first.rollout_controller.run_once(), second.rollout_controller.run_once()
            )
            await asyncio.gather(first.assignments.follow(), second.assignments.follow())
            route = first.routes.table.routes["r"]
            sides = [process.assignments.by_route.get("r") for process in (first, second)]
            if None in sides:
                break
            for user in users:
                arms = {side.choose(route, b"user %d" % user)[0].assigned for side in sides}
                assert len(arms) == 1
        report = await second.rollouts.report("r")
        assert report.rollout.state == "promoted"
        assert len({row.actor for row in report.decisions if row.rule != "start"}) == 1
        assert sum(each.requests for each in report.assigned) == 50 * (number + 1)
        counted = statistics_of(await first.store.rollout_statistics(report.rollout.id))
        candidates = sum(each.requests for each in report.assigned if each.arm == "candidate")
        assert counted.rules.candidate_requests == report.totals["candidate"].requests
        assert candidates == report.totals["candidate"].requests
        assert targets(first) == targets(second) == {"up/new": 1.0, "up/old": 0.0}
