"""Logs of runs, in both databases."""

from __future__ import annotations

import pytest
from stores import a_run, answered, some_samples

from evaluators.base import Cell
from providers.errors import NotFoundError
from router.store.run_logs import MAX_LINES, LogLine


def a_line(**fields) -> LogLine:
    return LogLine(**({"at": 1.5, "kind": "error", "source": "p/m", "text": "no"} | fields))


async def texts(store, run_id="run_1"):
    return [(line.kind, line.text, line.times) for line in await store.run_log(run_id)]


async def test_states_are_logged_whoever_changes_them(store):
    await store.add_run(a_run(), some_samples())
    assert await store.claim_run("run_1", "me", 60.0)
    await store.update_run("run_1", state="running")
    await store.update_run("run_1", state="running", name="other")
    await store.begin("run_1", Cell("r", "s0", 0), "hash", "p/m")
    await store.request_state("run_1", "paused", 60.0)
    await store.end_run("run_1", "me", state="paused")
    await store.requeue_run("run_1", 60.0)
    assert await store.claim_run("run_1", "me", 60.0)
    await store.end_run("run_1", "me", state="failed", error="x" * 3000)
    lines = await texts(store)
    assert [text for kind, text, _ in lines if kind == "state"] == [
        "queued",
        "running",
        "to be paused",
        "paused",
        "queued",
        f"failed: {'x' * 2000}",
    ]
    assert [times for kind, _, times in lines if kind == "retry"] == [1]
    stopped = a_run("run_2")
    await store.add_run(stopped, some_samples())
    await store.update_run("run_2", state="completed", stopped="stop_when")
    assert (await texts(store, "run_2"))[-1] == ("state", "completed: stop_when", 1)


async def test_lines_come_back_as_they_were_in_pages(store):
    await store.add_run(a_run(), [])
    await store.add_run(a_run("run_2"), [])
    assert await store.last_logged("run_1") == (await store.run_log("run_1"))[-1].number
    lines = [a_line(text=f"no {n}", times=n + 1) for n in range(5)]
    await store.add_run_log("run_1", lines[:3])
    await store.add_run_log("run_2", [a_line(text="another")])
    await store.add_run_log("run_1", lines[3:])
    read, after = [], 0
    while page := await store.run_log("run_1", limit=2, after=after):
        read += page
        after = page[-1].number
    assert after == await store.last_logged("run_1")
    assert [line.number for line in read] == sorted({line.number for line in read})
    plain = [(line.at, line.kind, line.source, line.text, line.times) for line in read[1:]]
    assert plain == [(one.at, one.kind, one.source, one.text, one.times) for one in lines]


async def test_a_log_keeps_its_last_lines_and_goes_with_its_run(store):
    await store.add_run(a_run(), some_samples())
    await answered(store, Cell("r", "s0", 0))
    for _ in range(3):
        await store.add_run_log("run_1", [a_line(text="x" * 5000)] * (MAX_LINES // 2))
    lines = await store.run_log("run_1", limit=2 * MAX_LINES)
    assert len(lines) == MAX_LINES
    assert lines[-1].number == await store.last_logged("run_1")
    assert len(lines[-1].text) == 2000
    await store.delete_run("run_1")
    for reading in (store.run_log, store.last_logged):
        with pytest.raises(NotFoundError):
            await reading("run_1")
    with pytest.raises(NotFoundError):
        await store.add_run_log("run_1", [a_line()])
