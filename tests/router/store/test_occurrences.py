"""Occurrences: each is one process's at a time, and is done once."""

from __future__ import annotations

import asyncio

import pytest
from stores import a_run, some_samples

from providers.errors import StoreError
from router.store.schedules import ScheduleDecision

NIGHT = ("schedule", "nightly", 1000.0)


async def claimed(store, owner="a", due=1000.0, **options):
    return await store.claim_occurrence("schedule", "nightly", due, owner, 30.0, **options)


async def test_an_occurrence_has_one_owner_until_its_lease_has_passed(at):
    assert await claimed(at(1000.0), "a", detail={"n": 1.5})
    assert not await claimed(at(1029.0), "b")
    assert await at(1029.0).extend_occurrence(*NIGHT, "a", 30.0, run_id="run_1")
    assert not await claimed(at(1058.0), "b")
    assert await claimed(at(1059.0), "b", detail={"n": 2})
    assert not await at(1060.0).extend_occurrence(*NIGHT, "a", 30.0)
    assert await at(1060.0).occurrence_runs("schedule", "nightly") == {"run_1"}
    assert await at(1060.0).occurrence_runs("watch", "nightly") == frozenset()
    row = await at(1060.0).occurrence(*NIGHT)
    assert (row.owner, row.run_id, row.detail) == ("b", "run_1", {"n": 1.5})
    assert (row.started_at, row.lease_until, row.state) == (1000.0, 1089.0, "running")


async def test_a_dead_owners_lease_need_not_pass(at):
    assert await claimed(at(1000.0), "a")
    assert not await claimed(at(1001.0), "b", dead="c")
    assert not await claimed(at(1001.0), "b", dead="a", only_new=True)
    assert not await claimed(at(1001.0), "a", only_new=True)
    assert await claimed(at(1001.0), "b", dead="a")


async def test_what_is_finished_is_never_claimed_again(at):
    assert await claimed(at(1000.0), "a")
    done = {"state": "completed", "detail": {"gate": "passed"}}
    assert not await at(1001.0).finish_occurrence(*NIGHT, "b", **done)
    assert await at(1001.0).finish_occurrence(*NIGHT, "a", **done)
    assert not await at(1002.0).finish_occurrence(*NIGHT, "a", state="failed", detail={})
    assert not await claimed(at(9999.0), "a", dead="a")
    row = await at(9999.0).occurrence(*NIGHT)
    assert (row.state, row.finished_at, row.detail) == ("completed", 1001.0, {"gate": "passed"})


async def test_a_lease_of_a_clock_that_was_put_back_can_be_taken_over(at):
    assert await claimed(at(9000.0), "a")
    assert await claimed(at(1000.0), "b")


async def test_one_occurrence_of_a_name_is_running_at_a_time(at):
    assert await claimed(at(1000.0), "a")
    assert not await claimed(at(2000.0), "a", due=2000.0)
    assert await at(2000.0).claim_occurrence("schedule", "other", 1000.0, "a", 30.0)
    assert await at(2000.0).claim_occurrence("watch", "nightly", 1000.0, "a", 30.0)
    assert await at(2000.0).finish_occurrence(*NIGHT, "a", state="failed", detail={})
    assert await claimed(at(2000.0), "a", due=2000.0)


async def test_of_many_that_claim_one_gets_it(store, at):
    at(1000.0)
    got = await asyncio.gather(*(claimed(store, str(n)) for n in range(20)))
    assert sum(got) == 1


async def test_of_two_times_that_are_claimed_at_once_one_is_running(make_store, store, at):
    at(1000.0)
    second = make_store()
    await second.open()
    try:
        got = await asyncio.gather(
            *(
                each.claim_occurrence("schedule", "nightly", due, f"{n} {due}", 30.0)
                for due in (1000.0, 1001.0, 1002.0)
                for n, each in enumerate((store, second))
            )
        )
    finally:
        await second.close()
    assert sum(got) == 1
    assert len(await store.occurrences("schedule")) == 1


async def test_moments_without_anything_done_are_noted_once(at):
    store = at(1000.0)
    assert await claimed(store, "a", due=30.0)
    noted = await store.note_occurrences("schedule", "nightly", [10.0, 20.0, 30.0], state="missed")
    assert noted == 2
    again = await store.note_occurrences("schedule", "nightly", [20.0, 40.0], state="skipped")
    assert again == 1
    rows = await store.occurrences("schedule", "nightly")
    assert [(row.due, row.state) for row in rows] == [
        (40.0, "skipped"), (30.0, "running"), (20.0, "missed"), (10.0, "missed"),
    ]  # fmt: skip
    assert rows[0].started_at is None
    assert not await claimed(store, "a", due=20.0)


async def test_lists_are_pages_newest_first(at):
    store = at(1000.0)
    await store.note_occurrences("schedule", "a", [1.0, 3.0], state="missed")
    await store.note_occurrences("schedule", "b", [2.0], state="missed")
    await store.note_occurrences("watch", "a", [2.5], state="missed")
    listed = await store.occurrences("schedule", limit=2)
    assert [(row.name, row.due) for row in listed] == [("a", 3.0), ("b", 2.0)]
    assert [row.due for row in await store.occurrences("schedule", before=2.0)] == [1.0]
    assert await store.occurrences("schedule", "a", running=True) == []
    assert len(await store.occurrences("schedule", "a", running=False)) == 2
    assert await store.occurrence("schedule", "a", 2.0) is None


async def test_the_last_time_of_a_timetable_is_none_that_a_person_wanted(at):
    store = at(1000.0)
    assert await store.last_due("schedule", "nightly", 9e9) is None
    await store.note_occurrences("schedule", "nightly", [10.0, 20.0], state="missed")
    await claimed(store, "a", due=15.0, cause="person")
    assert await store.last_due("schedule", "nightly", 19.0) == 10.0
    assert await store.last_due("schedule", "nightly", 20.0) == 20.0


async def test_the_oldest_are_deleted_and_never_what_is_running(at):
    store = at(1000.0)
    assert await claimed(store, "a", due=1.0)
    await store.note_occurrences("schedule", "nightly", [2.0, 3.0, 4.0], state="missed")
    await store.note_occurrences("schedule", "other", [2.0], state="missed")
    assert await store.delete_occurrences("schedule", "nightly", 2) == 1
    assert [row.due for row in await store.occurrences("schedule", "nightly")] == [4.0, 3.0, 1.0]
    assert await store.delete_occurrences("schedule", "nightly", 9) == 0
    assert len(await store.occurrences("schedule", "other")) == 1


async def test_a_timetable_is_followed_from_when_it_was_new(at):
    assert await at(1000.0).timetable_since("schedule", "nightly", "0 * * * * UTC") == 1000.0
    assert await at(2000.0).timetable_since("schedule", "nightly", "0 * * * * UTC") == 1000.0
    assert await at(2000.0).timetable_since("schedule", "nightly", "5 * * * * UTC") == 2000.0
    # A clock that is put back would otherwise have to get there first.
    assert await at(500.0).timetable_since("schedule", "nightly", "0 * * * * UTC") == 500.0
    await at(600.0).restart_timetables("schedule", "nightly")
    assert await at(700.0).timetable_since("schedule", "nightly", "0 * * * * UTC") == 600.0
    await at(700.0).forget_timetables("schedule", "nightly")
    assert await at(3000.0).timetable_since("schedule", "nightly", "0 * * * * UTC") == 3000.0


async def test_a_run_is_queued_by_the_owner_of_its_occurrence_alone(at):
    store = at(1000.0)
    await store.add_run(a_run("run_1", state="paused"), some_samples())
    await store.add_run(a_run("run_2", state="paused"), some_samples())
    assert await claimed(store, "a")
    assert not await store.start_occurrence(*NIGHT, "a", "run_1")
    assert await store.extend_occurrence(*NIGHT, "a", 30.0, run_id="run_1")
    assert await claimed(at(1031.0), "b")
    assert await store.extend_occurrence(*NIGHT, "b", 30.0, run_id="run_2")
    assert not await store.start_occurrence(*NIGHT, "a", "run_1")
    assert not await store.start_occurrence(*NIGHT, "b", "run_1")
    assert await store.start_occurrence(*NIGHT, "b", "run_2")
    assert await store.start_occurrence(*NIGHT, "b", "run_2")
    assert (await store.run("run_1")).state == "paused"
    assert (await store.run("run_2")).state == "queued"


async def test_numbers_that_json_cannot_carry_are_refused(at):
    store = at(1000.0)
    with pytest.raises(StoreError, match="not a finite number"):
        await claimed(store, "a", detail={"score": float("nan")})
    assert await claimed(store, "a")
    with pytest.raises(StoreError, match="not a finite number"):
        await store.finish_occurrence(
            *NIGHT, "a", state="completed", detail={"score": float("inf")}
        )


async def test_the_last_decisions_say_how_a_schedule_stands(store):
    def decision(action, at, name="nightly", **fields):
        return ScheduleDecision(name=name, at=at, action=action, actor="me", **fields)

    rows = [
        decision("pause", 1.0, reason="a holiday"),
        decision("accept", 2.0, run_id="run_1"),
        decision("resume", 3.0),
        decision("accept", 4.0, run_id="run_2"),
        decision("pause", 5.0, name="weekly"),
    ]
    for row in rows:
        await store.add_schedule_decision(row)
    assert await store.standing_decisions() == {
        "nightly": [rows[3], rows[2]],
        "weekly": [rows[4]],
    }
    assert await store.schedule_decisions("nightly") == rows[3::-1]
    assert await store.schedule_decisions("nightly", action="accept", limit=1) == [rows[3]]
