"""Schedules: each time that is due is one run, whatever clocks and processes do."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from providers.errors import ConfigError, ConflictError, NotFoundError
from router.config.loading import parse
from router.evals.lease import this_owner
from router.loop.schedule_alerts import ScheduleAlerts
from router.loop.schedules import ScheduleAcceptance, ScheduleRequest, ScheduleRunRequest
from router.services import Services
from router.store.postgres import PostgresStore
from router.store.runs import STOPPED
from router.store.schedules import ScheduleDecision
from router.store.sqlite import SqliteStore

KIND = "schedule"
HOUR, DAY = 3600.0, 86400.0
# Noon of a day without a change of clocks.
NOON = datetime(2026, 6, 1, 12, tzinfo=ZoneInfo("UTC")).timestamp()
NIGHT = NOON + 14.5 * HOUR
WHY = ScheduleRequest(reason="why")
CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}"}}
datasets: {{roots: ["{folder}"]}}
evaluation: {{roots: ["{folder}"]}}
providers:
  up:
    kind: scripted
    script: {script}
routes:
  r: {{targets: [{{model: up/m}}], retries: {{attempts: 1}}}}
schedules:
{schedules}
"""
NIGHTLY = """
  nightly:
    run: {{dataset: {folder}/rows.jsonl, routes: [r], metrics: [exact_match]}}
    cron: "30 2 * * *"
    gates: {gates}
"""
SCRIPT = {"m": [{"answer": "yes"}], "no": [{"answer": "no"}], "down": [{"status": 500}]}


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def config_of(folder, schedules=NIGHTLY, *, gates=(), more="", script=SCRIPT):
    rows = [{"id": str(n), "input": f"Is {n} right?", "reference": "yes"} for n in range(4)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = schedules.format(folder=folder, gates=json.dumps(list(gates)))
    if more:
        text = f"{text.rstrip()}\n    {more}"
    text = CONFIG.format(folder=folder, schedules=text, script=json.dumps(script))
    return parse(text, "c.yaml", {})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def make_store(request, tmp_path, clock):
    """Makes stores over the same data."""
    if request.param == "postgres":
        address = request.getfixturevalue("postgres_address")
        return lambda: PostgresStore(address, clock=clock)
    return lambda: SqliteStore(tmp_path / "e.db", clock=clock)


@pytest.fixture
async def start(tmp_path, clock):
    """Starts processes, which do nothing at their times by themselves."""
    async with AsyncExitStack() as stack:

        async def start(config=None, *, store=None, executes=True, **options):
            store = store or SqliteStore(tmp_path / "e.db", clock=clock)
            parts = await stack.enter_async_context(
                Services(config or config_of(tmp_path, **options), store=store)
            )
            parts.clock = clock
            if executes:
                parts.jobs.serve()
            # The schedules are followed from now on.
            await look(parts)
            return parts

        yield start


async def look(parts, *, at=None):
    """Do what is done every two seconds."""
    if at is not None:
        parts.clock.now = at
    await parts.schedule_controller.run_once()
    await parts.schedule_controller.settled()


async def ended(parts, *, at=None, name="nightly"):
    """Do so until the run that is under way has ended; return the history, newest first."""
    await look(parts, at=at)
    for row in await parts.store.occurrences(KIND, name, running=True):
        while (await parts.store.run(row.run_id)).state not in STOPPED:
            await asyncio.sleep(0.005)
    await look(parts)
    return await history(parts, name)


async def history(parts, name="nightly"):
    return (await parts.schedules.report(name)).history


async def runs_of(parts):
    return [run for run in await parts.store.runs() if "schedule:nightly" in run.tags]


async def test_a_time_that_is_due_is_a_run_that_measures_anew(start):
    parts = await start(gates=["exact_match >= 0.9", "exact_match >= last"])
    await look(parts, at=NIGHT - 1)
    assert await history(parts) == []
    [row] = await ended(parts, at=NIGHT + 1)
    assert (row.due, row.cause, row.state) == (NIGHT, "due", "completed")
    assert (row.result.gate, row.result.answered, row.result.cached) == ("passed", 4, 0)
    [score] = row.result.scores
    assert (score.route, score.output, score.estimate, score.n) == ("r", "exact_match", 1.0, 4)
    assert row.result.undecided == ("exact_match >= last",)
    run = await parts.runs.find(row.run_id)
    assert run.name == "nightly"
    assert run.document["cache"] is False
    view = await parts.schedules.view("nightly")
    assert (view.accepted.run_id, view.next_due) == (run.id, NIGHT + DAY)
    # Once, however often one looks.
    await look(parts, at=NIGHT + 2)
    assert len(await runs_of(parts)) == 1
    second, _ = await ended(parts, at=NIGHT + DAY)
    assert (second.result.last, second.result.cached) == (run.id, 0)
    assert [gate.gate for gate in second.result.gates] == [
        "exact_match >= 0.9", "exact_match >= last",
    ]  # fmt: skip
    assert second.result.scores[0].change == 0.0


async def test_a_gate_fails_when_answers_get_worse_and_people_may_accept_that(start):
    script = {"m": [{"answer": "yes", "times": 4}, {"answer": "no"}]}
    parts = await start(gates=["exact_match >= last"], script=script)
    [first] = await ended(parts, at=NIGHT)
    worse, _ = await ended(parts, at=NIGHT + DAY)
    [gate] = worse.result.gates
    assert (gate.passed, gate.found, gate.bound) == (False, 0.0, 1.0)
    assert (worse.state, worse.result.gate, worse.result.accepted) == ("completed", "failed", False)
    assert worse.result.scores[0].change == -1.0
    # The first one stays what others are compared with, until a person says otherwise.
    third, *_ = await ended(parts, at=NIGHT + 2 * DAY)
    assert (third.result.last, third.result.gate) == (first.run_id, "failed")
    # Which has to name it.
    with pytest.raises(ConflictError) as error:
        await parts.schedules.accept("nightly", ScheduleAcceptance(reason="as good"), actor="me")
    assert f"{third.run_id}, the last run of nightly" in error.value.message
    assert "does not pass exact_match >= last" in error.value.message
    assert (await parts.schedules.view("nightly")).accepted.run_id == first.run_id
    accepted = ScheduleAcceptance(reason="as good", run=third.run_id)
    view = await parts.schedules.accept("nightly", accepted, actor="me")
    assert (view.accepted.run_id, view.accepted.actor) == (third.run_id, "me")
    fourth, *_ = await ended(parts, at=NIGHT + 3 * DAY)
    assert (fourth.result.last, fourth.result.gate) == (third.run_id, "passed")


@pytest.mark.parametrize(("more", "last"), [("", 0), ("accept: passed", 1)])
async def test_which_runs_are_accepted_without_a_person(start, more, last):
    parts = await start(gates=["exact_match >= last"], more=more)
    for night in range(3):
        rows = await ended(parts, at=NIGHT + night * DAY)
    assert rows[0].result.last == rows[2 - last].run_id


async def test_a_run_that_does_not_pass_is_no_first_one(start):
    script = {"m": [{"answer": "no", "times": 4}, {"answer": "yes"}]}
    parts = await start(gates=["exact_match >= 0.5", "exact_match >= last"], script=script)
    [first] = await ended(parts, at=NIGHT)
    assert (first.result.gate, first.result.accepted) == ("failed", False)
    second, _ = await ended(parts, at=NIGHT + DAY)
    assert (second.result.gate, second.result.last, second.result.accepted) == ("passed", "", True)


async def test_a_run_with_answers_that_failed_is_no_first_one(start):
    script = {"m": [{"status": 500, "times": 1}, {"answer": "yes"}]}
    parts = await start(script=script)
    [first] = await ended(parts, at=NIGHT)
    assert (first.state, first.result.failed, first.result.accepted) == ("completed", 1, False)


async def test_routes_are_looked_up_when_it_is_due(start):
    parts = await start(gates=["exact_match >= last"])
    await ended(parts, at=NIGHT)
    await parts.routes.put("r", {"targets": [{"model": "up/no"}]})
    row, _ = await ended(parts, at=NIGHT + DAY)
    assert row.result.gate == "failed"


async def test_a_document_is_read_when_it_is_due_and_a_wrong_one_fails_that_time_only(
    start, tmp_path
):
    path = tmp_path / "run.yaml"
    path.write_text("{dataset: rows.jsonl, routes: [r], metrics: [exact_match]}")
    parts = await start(schedules='  nightly: {{run: "{folder}/run.yaml", cron: "30 2 * * *"}}')
    await ended(parts, at=NIGHT)
    path.write_text("{dataset: rows.jsonl, routes: [r], metrics: [exact_mash]}")
    row, _ = await ended(parts, at=NIGHT + DAY)
    # No run was added.
    assert (row.state, row.run_id) == ("failed", "")
    assert "Did you mean 'exact_match'" in row.result.error
    report = await parts.schedules.report("nightly")
    assert report.document is None
    assert "exact_mash" in report.error
    path.write_text("{dataset: rows.jsonl, routes: [r], metrics: [f1], name: changed}")
    row, *_ = await ended(parts, at=NIGHT + 2 * DAY)
    assert row.state == "completed"
    assert (await parts.runs.find(row.run_id)).name == "changed"


async def test_a_run_whose_requests_all_fail_passes_no_gate(start):
    parts = await start(script={"m": [{"status": 401}]}, gates=["exact_match >= 0"])
    [row] = await ended(parts, at=NIGHT)
    assert (row.state, row.result.gate, row.result.failed) == ("completed", "failed", 4)
    assert not row.result.accepted


# What clocks do


async def test_of_what_was_missed_the_last_is_caught_up_with(start):
    parts = await start()
    *rows, first = await ended(parts, at=NIGHT + 3 * DAY + HOUR)
    assert (first.due, first.state) == (NIGHT, "missed")
    assert [row.state for row in rows] == ["completed", "missed", "missed"]
    assert (rows[0].due, rows[0].cause) == (NIGHT + 3 * DAY, "catch_up")


async def test_nothing_is_caught_up_with_where_that_is_off(start):
    parts = await start(more="catch_up: false")
    rows = await ended(parts, at=NIGHT + DAY + HOUR)
    assert [(row.due, row.state) for row in rows] == [(NIGHT + DAY, "missed"), (NIGHT, "missed")]
    rows = await ended(parts, at=NIGHT + 2 * DAY + 30)
    assert rows[0].state == "completed"


async def test_a_clock_that_is_put_back_uses_no_time_twice(start):
    parts = await start()
    await ended(parts, at=NIGHT)
    for at in (NIGHT - HOUR, NIGHT - 1, NIGHT, NIGHT + 60):
        rows = await ended(parts, at=at)
        assert len(rows) == 1
    assert len(await ended(parts, at=NIGHT + DAY)) == 2


async def test_a_clock_that_was_years_ahead_does_not_stop_a_schedule(start):
    parts = await start()
    rows = await ended(parts, at=NIGHT + 3650 * DAY)
    assert rows[0].state == "completed"
    rows = await ended(parts, at=NIGHT + 2)
    assert [row.due for row in rows if row.state == "completed"] == [NIGHT + 3650 * DAY]
    await ended(parts, at=NIGHT + DAY)
    row = await parts.store.occurrence(KIND, "nightly", NIGHT + DAY)
    assert row.state == "completed"


async def test_a_new_schedule_has_missed_nothing(start, tmp_path):
    parts = await start()
    both = (
        NIGHTLY + '  weekly: {{run: {{dataset: d, routes: [r], metrics: []}}, cron: "0 * * * *"}}'
    )
    parts.clock.now = NIGHT + 10 * DAY
    second = await start(config_of(tmp_path, schedules=both))
    assert await history(second, "weekly") == []


async def test_a_line_that_is_changed_has_missed_nothing(start, tmp_path):
    await start()
    hourly = NIGHTLY.replace("30 2 * * *", "0 * * * *")
    second = await start(config_of(tmp_path, schedules=hourly))
    assert await history(second) == []
    row, *_ = await ended(second, at=NOON + HOUR)
    assert (row.due, row.cause) == (NOON + HOUR, "due")


# What people decide


async def test_a_paused_schedule_waits_and_catches_up_with_nothing(start):
    parts = await start()
    view = await parts.schedules.pause("nightly", WHY, actor="me")
    assert (view.paused.reason, view.paused.actor, view.next_due) == ("why", "me", None)
    with pytest.raises(ConflictError, match="nightly is paused already"):
        await parts.schedules.pause("nightly", WHY, actor="me")
    await look(parts, at=NIGHT + 1)
    await look(parts, at=NIGHT + 2 * DAY)
    view = await parts.schedules.resume("nightly", WHY, actor="me")
    assert view.paused is None
    with pytest.raises(ConflictError, match="nightly is not paused"):
        await parts.schedules.resume("nightly", WHY, actor="me")
    assert await ended(parts) == []
    [row] = await ended(parts, at=NIGHT + 3 * DAY)
    assert row.state == "completed"
    decisions = (await parts.schedules.report("nightly")).decisions
    assert [each.action for each in decisions] == ["accept", "resume", "pause"]


async def test_a_schedule_that_is_not_enabled_waits_and_has_missed_nothing(start, tmp_path):
    await start()
    off = await start(config_of(tmp_path, more="enabled: false"))
    await look(off, at=NIGHT + DAY)
    assert (await off.schedules.view("nightly")).next_due is None
    on = await start()
    assert await ended(on) == []
    assert len(await ended(on, at=NIGHT + 2 * DAY)) == 1


async def test_people_run_it_when_they_want(start):
    parts = await start()
    parts.clock.now = NIGHT - 0.25
    begun = await parts.schedules.begin("nightly", ScheduleRunRequest(reason="now"), actor="me")
    assert (begun.state, begun.cause, begun.reason) == ("running", "person", "me: now")
    [row] = await ended(parts)
    assert (row.run_id, row.state, row.reason) == (begun.run_id, "completed", "me: now")
    # It is not in the place of the one that is due.
    rows = await ended(parts, at=NIGHT + 1)
    assert [row.cause for row in rows] == ["due", "person"]


async def test_one_run_is_under_way_at_a_time(start):
    parts = await start(executes=False)
    await look(parts, at=NIGHT)
    [running] = await history(parts)
    with pytest.raises(ConflictError, match=f"under way \\({running.run_id}\\)") as error:
        await parts.schedules.begin("nightly", ScheduleRunRequest(), actor="me")
    assert error.value.code == "schedule_running"
    await look(parts, at=NIGHT + DAY)
    skipped, _ = await history(parts)
    assert (skipped.due, skipped.state) == (NIGHT + DAY, "skipped")
    assert skipped.reason == "the run that was due 2026-06-02 02:30 UTC was still under way"
    assert len(await runs_of(parts)) == 1


async def test_looking_while_a_run_is_being_created_begins_no_other(start):
    parts = await start()
    for n in range(8):
        parts.clock.now = NOON + n
        request = ScheduleRunRequest()
        begun = asyncio.create_task(parts.schedules.begin("nightly", request, actor="me"))
        while not begun.done():
            await parts.schedule_controller.run_once()
        rows = await ended(parts)
        assert len(rows) == n + 1
        assert len(await runs_of(parts)) == n + 1


async def test_what_cannot_be_accepted_is_refused(start):
    parts = await start()
    accept = parts.schedules.accept
    with pytest.raises(ConflictError, match="no run of nightly has completed yet"):
        await accept("nightly", ScheduleAcceptance(reason="why"), actor="me")
    with pytest.raises(NotFoundError, match=r"no schedule 'nigtly'\. Did you mean 'nightly'"):
        await accept("nigtly", ScheduleAcceptance(reason="why"), actor="me")
    with pytest.raises(NotFoundError, match="nightly has no run 'run_1' that has ended"):
        await accept("nightly", ScheduleAcceptance(reason="why", run="run_1"), actor="me")
    [row] = await ended(parts, at=NIGHT)
    view = await accept("nightly", ScheduleAcceptance(reason="why"), actor="me")
    assert view.accepted.run_id == row.run_id


async def test_a_run_that_was_cancelled_is_a_failed_time_and_cannot_be_accepted(start):
    parts = await start(executes=False)
    await look(parts, at=NIGHT)
    [row] = await history(parts)
    await parts.jobs.cancel(row.run_id)
    [row] = await ended(parts)
    assert (row.state, row.result.gate) == ("failed", "none")
    assert row.result.error == "it is cancelled"
    with pytest.raises(ConflictError, match="did not complete"):
        await parts.schedules.accept(
            "nightly", ScheduleAcceptance(reason="why", run=row.run_id), actor="me"
        )


async def test_a_run_that_is_deleted_is_a_failed_time(start):
    parts = await start(executes=False)
    await look(parts, at=NIGHT)
    run_id = (await history(parts))[0].run_id
    await parts.jobs.cancel(run_id)
    await parts.runs.delete(run_id)
    [row] = await ended(parts)
    assert (row.state, row.result.error) == (
        "failed", f"its run {run_id} was deleted",
    )  # fmt: skip


# What runs are compared with


async def test_a_gate_fails_where_the_accepted_run_is_gone(start):
    parts = await start(gates=["exact_match >= last"])
    [first] = await ended(parts, at=NIGHT)
    await parts.runs.delete(first.run_id)
    row, _ = await ended(parts, at=NIGHT + DAY)
    [gate] = row.result.gates
    assert not gate.passed
    assert gate.why == f"{first.run_id}, the last accepted run, was deleted; accept another one"


async def test_a_gate_fails_where_the_metric_measures_something_else(start, tmp_path):
    parts = await start(gates=["exact_match >= last", "f1 >= last"], schedules=FILED)
    write(tmp_path, metrics=["exact_match", "f1"])
    await ended(parts, at=NIGHT)
    write(tmp_path, metrics=[{"name": "exact_match", "normalize": False}, "f1"])
    row, _ = await ended(parts, at=NIGHT + DAY)
    gates = {gate.gate: gate for gate in row.result.gates}
    assert gates["f1 >= last"].passed
    assert not gates["exact_match >= last"].passed
    assert gates["exact_match >= last"].why.startswith("exact_match is measured by")


async def test_samples_with_other_texts_are_not_compared(start, tmp_path):
    parts = await start(gates=["exact_match >= last"], script=ECHO)
    await ended(parts, at=NIGHT)
    rows = [{"id": "0", "input": "no", "reference": "yes"}]
    rows += [{"id": str(n), "input": "yes", "reference": "yes"} for n in range(1, 3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    row, _ = await ended(parts, at=NIGHT + DAY)
    [gate] = row.result.gates
    assert (gate.passed, gate.why) == (False, "the baseline has no samples in common with it")
    assert any("have different messages or references" in text for text in row.result.warnings)


async def test_a_route_that_the_accepted_run_lacks_does_not_pass(start, tmp_path):
    parts = await start(gates=["exact_match >= last"], schedules=FILED)
    write(tmp_path)
    [first] = await ended(parts, at=NIGHT)
    write(tmp_path, routes=["r", "up/no"])
    row, _ = await ended(parts, at=NIGHT + DAY)
    gates = {gate.route: gate for gate in row.result.gates}
    assert gates["r"].passed
    assert gates["up/no"].why == f"{first.run_id} has no route 'up/no'"


FILED = """
  nightly:
    run: "{folder}/run.yaml"
    cron: "30 2 * * *"
    gates: {gates}
"""
ECHO = {"m": [{}]}


DOCUMENT = "{dataset: rows.jsonl, routes: [r], metrics: [exact_match]}"


def write(folder, **fields):
    document = {"dataset": "rows.jsonl", "routes": ["r"], "metrics": ["exact_match"]} | fields
    (folder / "run.yaml").write_text(json.dumps(document))


async def test_old_runs_are_deleted_and_never_the_accepted_one(start):
    parts = await start(more="keep: 2")
    scheduled = await document_of(parts)
    # Of a person who gave it the same tag.
    mine = await parts.runs.create(scheduled.document, base=scheduled.base, runner="server")
    for night in range(5):
        rows = await ended(parts, at=NIGHT + night * DAY)
    assert {run.id for run in await runs_of(parts)} == {
        mine.id, rows[0].run_id, rows[1].run_id, rows[-1].run_id,
    }  # fmt: skip
    # Their scores stay.
    assert [row.result.scores[0].estimate for row in rows] == [1.0] * 5


# Several processes


@pytest.mark.parametrize("processes", [3])
async def test_a_time_is_one_run_over_all_processes(start, make_store, tmp_path, clock, processes):
    config = config_of(tmp_path)
    servers = [await start(config, store=make_store()) for _ in range(processes)]
    for night in range(3):
        clock.now = NIGHT + night * DAY
        await asyncio.gather(*(look(parts) for parts in servers))
        for parts in servers:
            rows = await ended(parts)
        assert [row.state for row in rows] == ["completed"] * (night + 1)
    assert len(await runs_of(servers[0])) == 3


async def taken_over(parts, clock):
    """The owner of what is running gives no sign of life for a minute."""
    clock.now += 60
    return await ended(parts)


@pytest.mark.parametrize("stage", ["claimed", "planned", "added"])
async def test_what_a_process_left_before_its_run_was_queued_is_one_run(
    start, make_store, tmp_path, clock, stage
):
    config = config_of(tmp_path)
    parts = await start(config, store=make_store())
    clock.now = NIGHT
    store, key = parts.store, (KIND, "nightly", NIGHT)
    assert await store.claim_occurrence(*key, "another host:1:1:x", 30.0)
    if stage != "claimed":
        planned = {"planned": True}
        await store.extend_occurrence(
            *key, "another host:1:1:x", 30.0, run_id="run_planned", detail=planned
        )
    if stage == "added":
        scheduled = await document_of(parts)
        await parts.runs.create(
            scheduled.document, base=scheduled.base, runner="server", paused_as="run_planned"
        )
    # Its lease has not passed.
    await look(parts)
    [row] = await history(parts)
    assert (row.state, len(await parts.store.runs())) == ("running", int(stage == "added"))
    [row] = await taken_over(parts, clock)
    assert (row.state, row.due) == ("completed", NIGHT)
    [run] = await runs_of(parts)
    assert run.id == row.run_id
    assert (run.id == "run_planned") == (stage == "added")


async def document_of(parts):
    return await parts.schedules.documents.read("nightly")


async def test_what_a_process_left_after_its_run_had_ended_is_finished(start, clock):
    first = await start()
    await look(first, at=NIGHT)
    [row] = await history(first)
    while (await first.store.run(row.run_id)).state != "completed":
        await asyncio.sleep(0.005)
    second = await start()
    assert [each.state for each in await history(second)] == ["running"]
    [row] = await taken_over(second, clock)
    assert (row.state, row.result.accepted) == ("completed", True)
    # The first one, which was only asleep, changes nothing.
    await look(first)
    [after] = await history(first)
    assert after == row
    assert len((await first.schedules.report("nightly")).decisions) == 1


async def test_an_owner_that_ended_on_this_machine_is_replaced_at_once(start, clock):
    parts = await start()
    clock.now = NIGHT
    host, pid, began, _ = this_owner().split(":")
    dead = f"{host}:{pid}:{int(began) - 1}:x"
    assert await parts.store.claim_occurrence(KIND, "nightly", NIGHT, dead, 30.0)
    [row] = await ended(parts)
    assert row.state == "completed"


async def test_a_process_that_closes_leaves_what_is_running_at_once(start):
    first = await start(executes=False)
    await look(first, at=NIGHT)
    await first.schedule_controller.close()
    second = await start()
    [row] = await ended(second)
    assert row.state == "completed"


class BusyThreads(ThreadPoolExecutor):
    """One thread, which is busy until an end is set."""

    def __init__(self):
        super().__init__(1)
        self.wanted, self.end = asyncio.Event(), threading.Event()
        super().submit(self.end.wait)

    def submit(self, *args, **kwargs):
        self.wanted.set()
        return super().submit(*args, **kwargs)


async def test_an_owner_that_slept_queues_no_second_run(start, tmp_path, clock):
    """It has no thread to read its document; when it gets one, another has done the work."""
    (tmp_path / "run.yaml").write_text(DOCUMENT)
    first = await start(config_of(tmp_path, FILED))
    clock.now = NIGHT
    with BusyThreads() as busy:
        asyncio.get_running_loop().set_default_executor(busy)
        await first.schedule_controller.run_once()
        await busy.wanted.wait()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
        second = await start(config_of(tmp_path))
        [row] = await taken_over(second, clock)
        assert row.state == "completed"
        busy.end.set()
        await first.schedule_controller.settled()
    assert [run.id for run in await first.store.runs()] == [row.run_id]
    assert await history(second) == [row]


async def test_a_run_that_was_accepted_before_a_crash_is_not_compared_with_itself(start):
    parts = await start(gates=["exact_match >= last"], executes=False)
    await look(parts, at=NIGHT)
    [row] = await history(parts)
    accepted = ScheduleDecision(name="nightly", at=NIGHT, action="accept", run_id=row.run_id)
    await parts.store.add_schedule_decision(accepted)
    parts.jobs.serve()
    [row] = await ended(parts)
    assert (row.result.last, row.result.undecided) == ("", ("exact_match >= last",))
    assert (await parts.schedules.report("nightly")).decisions == [accepted]


# What alerts say


async def test_alerts_are_about_the_last_time_until_one_goes_well(start, clock):
    script = {"m": [{"answer": "no", "times": 4}, {"answer": "yes"}]}
    parts = await start(gates=["exact_match >= 0.5"], script=script)
    alerts = ScheduleAlerts(parts.schedules)
    assert await alerts.conditions() == []
    [row] = await ended(parts, at=NIGHT)
    [condition] = await alerts.conditions()
    assert condition.labels == {"schedule": "nightly", "problem": "gate"}
    assert condition.summary == "the run of the schedule nightly does not pass exact_match >= 0.5"
    assert (condition.link, condition.since) == ("/schedules/nightly", row.finished_at)
    await ended(parts, at=NIGHT + DAY)
    assert await alerts.conditions() == []
    (parts.config.schedules["nightly"].run)["metrics"] = ["nope"]
    await ended(parts, at=NIGHT + 2 * DAY)
    [condition] = await alerts.conditions()
    assert condition.labels["problem"] == "run"
    assert "there is no metric 'nope'" in condition.summary
    await parts.schedules.pause("nightly", WHY, actor="me")
    assert await alerts.conditions() == []


@pytest.mark.parametrize("state", ["missed", "skipped"])
async def test_alerts_are_about_times_without_a_run(start, state):
    parts = await start()
    why = {"reason": "the server slept"}
    await parts.store.note_occurrences(KIND, "nightly", [NIGHT], state=state, detail=why)
    [condition] = await ScheduleAlerts(parts.schedules).conditions()
    assert condition.labels["problem"] == state
    assert condition.summary == f"the schedule nightly was {state}: the server slept"
    assert condition.link == "/schedules/nightly"


# What the config says


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"routes": ["nope"]}, "schedules.nightly: routes[0]: The model 'nope' does not exist"),
        ({"metrics": ["nope"]}, "schedules.nightly: metrics[0]: there is no metric 'nope'"),
        ({"cache": True}, "schedules.nightly: cache: what is scheduled is measured anew"),
        ({"gates": ["exact_match >= last"]}, "only the gates of a schedule compare with the last"),
        ({"metrics": ["file:x.py"]}, "a metric that is a file is run from the command line only"),
        ({"execution": {"address": "ray://x"}}, "is not among the clusters that requests may name"),
        ({"baseline": "up/m"}, "baseline: 'up/m' is not one of the run's routes"),
    ],
)
async def test_a_document_that_cannot_be_executed_is_refused_at_the_start(
    tmp_path, changes, message
):
    config = config_of(tmp_path, FILED)
    write(tmp_path, **changes)
    with pytest.raises(ConfigError) as error:
        await Services(config).schedules.check()
    assert message in error.value.message


async def test_a_gate_that_no_metric_has_is_refused_at_the_start(tmp_path):
    config = config_of(tmp_path, gates=["exact_match >= 0.5", "f2 >= last"])
    with pytest.raises(ConfigError, match=r"schedules.nightly: gates\[1\]: no metric of this run"):
        await Services(config).schedules.check()


async def test_a_document_that_is_not_there_is_refused_at_the_start(tmp_path):
    config = config_of(tmp_path, FILED)
    with pytest.raises(ConfigError, match=r"run\.yaml: no such file"):
        await Services(config).schedules.check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{run: a.yaml, cron: "30 2 31 2 *"}',
            "c.yaml:2: schedules.s.cron: '30 2 31 2 *' is never",
        ),
        ('{run: a.yaml, cron: "@daily"}', "schedules.s.cron: '@daily' is not read here"),
        ('{run: a.yaml, cron: "* * * * *", timezone: Mars}', "schedules.s.timezone: 'Mars' is no"),
        ("{run: a.yaml}", "schedules.s: object missing required field `cron`"),
        ('{run: "", cron: "* * * * *"}', "schedules.s.run: name the run document"),
        ('{run: {}, cron: "* * * * *"}', "schedules.s.run: object missing required field"),
        ('{run: a.yaml, cron: "* * * * *", keep: 0}', "schedules.s.keep: expected `int` >= 1"),
        ('{run: a.yaml, cron: "* * * * *", crom: 1}', "schedules.s.crom: unknown key"),
        ('{run: a.yaml, cron: "* * * * *"}\n  s: {}', "schedules.s is written twice"),
    ],
)
def test_what_a_schedule_cannot_say_is_named_with_its_line(text, message):
    with pytest.raises(ConfigError) as error:
        parse(f"schedules:\n  s: {text}", "c.yaml", {})
    assert message in error.value.message


def test_a_schedules_name_can_be_a_tag():
    with pytest.raises(ConfigError, match="letters, digits"):
        parse('schedules: {"a b": {run: a.yaml, cron: "* * * * *"}}', "c.yaml", {})
