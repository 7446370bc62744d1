"""Studies, experiments, keys, overrides of routes and earlier answers: what any store promises."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from stores import a_run, answered, some_samples

from evaluators.base import Answer, Cell, Judgement, Usage
from providers.errors import ConflictError, NotFoundError
from router.store.judgements import JudgementRow
from router.store.keys import KeyChange, KeyRow, KeySpend
from router.store.routes import RouteChange
from router.store.studies import Study


async def test_studies_are_found_by_kind_judge_and_prefix(store):
    kinds = ("calibration", "comparison", "tournament")
    studies = [
        Study(id=f"s{n}", kind=kind, judges=("a", f"j{n}"), grading="g", name="n", created_at=n)
        for n, kind in enumerate(kinds)
    ]
    for study in studies:
        await store.set_study(study)
    done = msgspec.structs.replace(studies[0], state="completed", report={"x": [1, 2.5]})
    await store.set_study(done)
    assert await store.studies() == [studies[2], studies[1], done]
    assert await store.studies(kind="comparison", judge="a") == [studies[1]]
    assert await store.studies(judge="j2") == [studies[2]]
    assert await store.studies(judge="j") == []
    assert await store.study("s0") == done
    with pytest.raises(NotFoundError, match="several begin with 's'"):
        await store.study("s")


async def test_experiments_have_notes_or_runs_or_both(store):
    for n, state in enumerate(("completed", "failed", "completed")):
        run = a_run(f"run_{n}", state=state, experiment="e", created_at=float(n))
        await store.add_run(run, [])
    await store.set_experiment("e", tags=("t",), notes="first")
    await store.set_experiment("e", tags=("t", "u"), notes="then")
    await store.set_experiment("bare", tags=(), notes="x")
    both, bare = await store.experiments()
    assert (both.name, both.tags, both.notes, both.runs) == ("e", ("t", "u"), "then", 3)
    assert both.states == {"completed": 2, "failed": 1}
    assert (both.first_run_at, both.last_run_at) == (0.0, 2.0)
    assert (bare.name, bare.runs, bare.last_run_at) == ("bare", 0, None)
    assert await store.experiments(tag="u") == await store.experiments(name="e") == [both]
    await store.forget_experiment("e")
    assert await store.experiments() == [bare]
    assert (await store.run("run_0")).experiment == ""


async def test_keys_are_added_revoked_and_charged(store):
    key = KeyRow(id="key_1", name="k", routes=("r",), role="admin", budget_usd=1.5, created_at=1.0)
    await store.add_key(key, b"\0\xff" * 16)
    before = await store.keys()
    assert before.by_hash == {b"\0\xff" * 16: key}
    with pytest.raises(ConflictError, match="there is a key 'k' already"):
        await store.add_key(msgspec.structs.replace(key, id="key_2"), b"2" * 32)
    seen = (await store.key_state()).changes
    spend = KeySpend(key_id="key_1", since=0.0, usd=0.25, tokens=2**62, requests=1)
    await store.add_key_spend([spend])
    await store.add_key_spend([spend, KeySpend(key_id="key_1", since=5.0, usd=2.0)])
    state = await store.key_state(seen)
    assert state.spent["key_1"] == KeySpend(key_id="key_1", since=5.0, usd=2.0)
    assert (await store.key_state(state.changes)).spent == {}
    await store.add_key_spend([msgspec.structs.replace(spend, since=9.0)] * 3)
    latest = (await store.key_state(state.changes)).spent["key_1"]
    assert (latest.usd, latest.tokens, latest.requests) == (0.75, 2**63 - 1, 3)
    revoked = await store.revoke_key("k", 7.0)
    assert revoked == msgspec.structs.replace(key, revoked_at=7.0)
    after = await store.keys()
    assert after.version > before.version
    assert list(after.by_hash.values()) == [revoked]
    with pytest.raises(NotFoundError):
        await store.revoke_key("k", 8.0)
    await store.add_key(msgspec.structs.replace(key, id="key_2"), b"2" * 32)


async def test_a_change_of_a_key_is_stored_with_who_made_it(store):
    key = KeyRow(id="key_1", name="k", routes=("r",), rpm=5, created_at=1.0)
    await store.add_key(key, b"1" * 32)
    await store.add_key(KeyRow(id="key_2", name="other", created_at=1.0), b"2" * 32)
    before = (await store.keys()).version
    changed = msgspec.structs.replace(key, name="new", routes=None, rpm=7, role="reviewer")
    await store.change_key(KeyChange(key, changed, 2.0, "ann", 0.0))
    table = await store.keys()
    assert table.by_hash[b"1" * 32] == changed
    assert table.version > before
    again = msgspec.structs.replace(changed, role="admin")
    await store.change_key(KeyChange(changed, again, 3.0, "bob", 0.0))
    newest, first = await store.key_versions("key_1")
    assert (newest.number, newest.actor, newest.changes) == (
        2,
        "bob",
        {"role": ("reviewer", "admin")},
    )
    assert (first.number, first.at, first.changes["rpm"]) == (1, 2.0, (5, 7))
    assert first.changes["routes"] == (["r"], None)
    assert await store.key_versions("key_1", limit=1) == [newest]
    with pytest.raises(ConflictError, match="changed meanwhile"):
        await store.change_key(KeyChange(changed, key, 4.0, "cid", 0.0))
    taken = msgspec.structs.replace(again, name="other")
    with pytest.raises(ConflictError, match="'other' already"):
        await store.change_key(KeyChange(again, taken, 4.0, "cid", 0.0))
    await store.revoke_key("new", 5.0)
    with pytest.raises(NotFoundError, match="no key 'new' is in use"):
        await store.change_key(KeyChange(again, key, 6.0, "cid", 0.0))
    assert len(await store.key_versions("key_1")) == 2


async def test_another_budget_period_of_a_key_counts_what_is_known_of_it(store):
    day = KeyRow(id="key_1", name="k", budget_usd=9.0, budget_period="day", created_at=1.0)
    await store.add_key(day, b"1" * 32)
    spend = KeySpend(key_id="key_1", since=100.0, usd=1.0, tokens=2**62, requests=1, unpriced=2)
    others = [msgspec.structs.replace(spend, since=since) for since in (200.0, 300.0)]
    await store.add_key_spend([spend, *others])
    month = msgspec.structs.replace(day, budget_period="month")
    await store.change_key(KeyChange(day, month, 350.0, "ann", 200.0))
    seen = (await store.key_state()).spent["key_1"]
    assert (seen.since, seen.usd, seen.tokens) == (200.0, 2.0, 2**63 - 1)
    assert (seen.requests, seen.unpriced) == (2, 4)
    # A process that has not read the change yet.
    await store.add_key_spend([KeySpend(key_id="key_1", since=300.0, usd=0.25)])
    seen = (await store.key_state()).spent["key_1"]
    assert (seen.since, seen.usd) == (200.0, 2.25)
    # The next month.
    await store.add_key_spend([KeySpend(key_id="key_1", since=400.0, usd=0.5)])
    assert (await store.key_state()).spent["key_1"].usd == 0.5
    total = msgspec.structs.replace(month, budget_period="total")
    await store.change_key(KeyChange(month, total, 450.0, "ann", 0.0))
    assert (await store.key_state()).spent["key_1"].usd == 3.75
    await store.change_key(KeyChange(total, day, 550.0, "ann", 500.0))
    await store.add_key_spend([KeySpend(key_id="key_1", since=0.0, usd=0.125)])
    seen = (await store.key_state()).spent["key_1"]
    assert (seen.since, seen.usd) == (500.0, 0.125)


async def test_the_latest_use_of_a_key_is_stored(store):
    await store.add_key(KeyRow(id="key_1", name="k", created_at=1.0), b"1" * 32)
    version = (await store.keys()).version
    assert await store.key_uses() == {}
    await store.add_key_uses({"key_1": 5.0, "key_gone": 9.0})
    await store.add_key_uses({"key_1": 7.0})
    await store.add_key_uses({"key_1": 6.0})
    assert await store.key_uses() == {"key_1": 7.0}
    assert (await store.keys()).version == version


async def test_overrides_of_routes_are_set_and_given_up(store):
    before = await store.route_version()
    await store.set_route(RouteChange("r", {"targets": [{"model": "a/b"}]}, 1.0))
    await store.set_route(RouteChange("r", {"targets": []}, 2.0))
    await store.set_route(RouteChange("s", {}, 3.0))
    await store.set_route(RouteChange("s", None, 4.0))
    assert await store.route_overrides() == {"r": {"targets": []}}
    assert await store.route_version() > before


async def test_each_change_of_a_route_is_a_version_and_the_files_route_is_one_as_well(store):
    def change(route, at, **rest):
        return RouteChange("r", route, at, **rest)

    file, one, two = {"targets": ["file"]}, {"targets": ["one"]}, {"targets": ["two"]}
    await store.set_route(change(one, 1.0, actor="ann", reason="why", config=file))
    await store.set_route(change(one, 2.0, actor="bob", config=file))
    await store.set_route(change(two, 3.0, actor="bob", config=file, expected=one))
    with pytest.raises(ConflictError, match="changed meanwhile"):
        await store.set_route(change(one, 4.0, expected=None))
    await store.set_route(change(None, 5.0, actor="cid", config=file, expected=two))
    await store.set_route(change(None, 6.0, config=file))
    await store.set_route(change(one, 7.0, actor="dan", config=file, expected=None))
    await store.set_route(RouteChange("s", {}, 8.0))
    versions = await store.route_versions("r")
    assert [(row.number, row.at, row.source, row.route, row.actor, row.reason)
            for row in reversed(versions)] == [
        (1, 1.0, "config", file, "config file", ""),
        (2, 1.0, "override", one, "ann", "why"),
        (3, 3.0, "override", two, "bob", ""),
        (4, 5.0, "config", file, "cid", ""),
        (5, 7.0, "override", one, "dan", ""),
    ]  # fmt: skip
    assert await store.route_versions("r", before=3, limit=1) == [versions[3]]
    assert [row.route for row in await store.route_versions("s")] == [{}]


async def test_of_two_changes_of_a_route_at_once_both_are_versions(store):
    changes = [RouteChange("r", {"targets": [str(n)]}, float(n)) for n in range(8)]
    await asyncio.gather(*map(store.set_route, changes))
    versions = await store.route_versions("r")
    assert [version.number for version in versions] == list(range(8, 0, -1))
    assert await store.route_overrides() == {"r": versions[0].route}


async def test_earlier_runs_tell_what_is_answered_and_how(store, clock):
    for run_id in ("run_1", "run_2"):
        await store.add_run(a_run(run_id, created_at=clock.now), some_samples())
        for n in range(3):
            cell = Cell("r", f"s{n}", 0)
            await store.begin(run_id, cell, f"h{n}", "p/m")
            answer = Answer(text=f"t{n if run_id == 'run_1' else 0}", target="p/m",
                            usage=Usage(prompt_tokens=1, completion_tokens=n))  # fmt: skip
            await store.keep_answer(run_id, cell, f"h{n}", answer, [])
        clock.now += 10
    assert await store.known_requests([("h0", 0), ("h0", 1), ("x", 0)]) == {("h0", 0)}
    assert await store.runs_with([("h0", 0), ("x", 0)]) == ["run_2", "run_1"]
    assert await store.runs_with([("x", 0)]) == []
    answers = await store.earlier_answers("p/m", 4)
    assert [each.completion_tokens for each in answers] == [2, 1, 0, 2]
    [earlier] = await store.answered_before("run_2")
    assert (earlier.run_id, earlier.compared, earlier.alike) == ("run_1", 3, 1)
    assert await store.earlier_run("ab" * 32, "o") is None


async def test_what_judges_and_targets_took_is_added_up(store):
    await store.add_run(a_run(), some_samples())
    await answered(store, Cell("a", "s0", 0), "o", cost_usd=0.5, total_s=1.0)
    for n, (attempt, reused, text) in enumerate(
        [(0, False, "4"), (1, False, None), (0, True, "5")]
    ):
        answer = Answer(text=text, error=None if text else "down", target="p/j", model="m",
                        cost_usd=0.25, total_s=2.0, estimated=n == 0,
                        usage=Usage(prompt_tokens=2**40, completion_tokens=1))  # fmt: skip
        row = JudgementRow(owner="run_1", metric="m", judge="j", sample_id="s0", repeat=0,
                           attempt=attempt, at=5.0 + n, request_hash=f"h{n}", reused=reused,
                           judgement=Judgement(answer=answer, request_hash=f"h{n}"))  # fmt: skip
        await store.keep_judgement(row)
        await store.keep_judgement(row)  # in its place
    [use] = await store.judge_use("run_1")
    assert (use.calls, use.asked_again, use.failed, use.reused, use.estimated) == (3, 1, 1, 1, 1)
    assert (use.cost_usd, use.tokens, use.unpriced) == (0.5, 2 * (2**40 + 1), 0)
    assert (use.target, use.model, use.mean_s) == ("p/j", "m", 2.0)
    assert (use.first_at, use.last_at) == (5.0, 7.0)
    assert await store.judgement_tokens("j", "m") == (2.0**40, 1.0)
    assert len(await store.judgements("run_1", limit=2)) == 2
    served = await store.served("run_1")
    assert [(each.target, each.requests) for each in served] == [("p/j", 1), ("p/m", 1)]
