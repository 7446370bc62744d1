"""Bundles of rollouts: every e-value, interval and decision comes out of what was counted."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
import zipfile
from pathlib import Path

import pytest
from bundled_runs import entries_of, packed, sealed

from providers.errors import ArtifactError, ConflictError, EvidenceError, NotFoundError, StoreError
from router.config.loading import load, parse
from router.config.rollouts import RolloutSignal, RouteRollout
from router.datasets.registry import DatasetRegistry
from router.loop.bundles.contents import canonical
from router.loop.bundles.export import BundleOptions, export_bundle
from router.loop.bundles.exported import EvidenceBundles, EvidenceRequest
from router.loop.bundles.verification import verify
from router.loop.rollouts import RolloutAction
from router.records import Record, Target
from router.services import Services
from router.store.evidence import EvidenceBundle
from router.store.feedback import FeedbackRow, NewFeedback
from router.store.runs import Run
from router.store.traffic import TrafficFilter

CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db"}}
providers:
  up: {{kind: scripted, script: {{old: [{{}}], new: [{{}}]}}}}
routes:
  r: {{targets: [{{model: up/old}}]}}
"""
REQUEST = RouteRollout(
    candidate="up/new",
    steps=(20.0, 50.0),
    step_seconds=0,
    cycle_seconds=0,
    unit_seconds=0,
    force=True,
    signals=(
        RolloutSignal(measure="errors", min_requests=5),
        RolloutSignal(measure="first_byte", margin=0.3, min_requests=5),
        RolloutSignal(measure="cost", role="goal", margin=0.4, min_requests=5),
        RolloutSignal(
            measure="feedback:stars", role="goal", margin=2.0, low=1, high=5, min_requests=5
        ),
    ),
)
NUMBERS = itertools.count()


@pytest.fixture
async def services(tmp_path):
    async with Services(parse(CONFIG.format(folder=tmp_path), "c.yaml", {})) as services:
        yield services


async def send(services, users, *, failing=False):
    """Requests of users, some of whom come again, and what they think of the answers."""
    records = []
    for user in users:
        number = next(NUMBERS)
        side, chooser = None, services.assignments.by_route.get("r")
        if chooser is not None:
            side, unit = chooser.choose(services.routes.table.routes["r"], b"user %d" % user)
        record = Record(id=f"rec_{number}", at=time.time(), route="r", status=200)
        record.target = Target.parse("up/old")
        record.first_byte_s, record.total_s = 0.1 + number % 7 / 10, 1.0 + number % 3
        record.cost_usd = 0.001 * (1 + number % 5)
        if side is not None:
            side.note(record)
            record.unit = unit
            record.target = side.target or record.target
            record.status = 500 if failing and side.target and user % 3 else 200
        records.append(record)
    await services.store.keep_traffic(records)
    for record in records:
        if record.rollout and int(record.id[4:]) % 3 == 0:
            await services.store.add_feedback([a_feedback(record)])


def a_feedback(record):
    number = int(record.id[4:])
    stars = float(1 + number % 5)
    row = FeedbackRow(
        id=f"fb_{number}",
        at=time.time(),
        key_id="",
        user="ann",
        name="stars",
        kind="number",
        value=stars,
        score=stars,
        subject=record.id,
        record_id=record.id,
        request_key="",
        request_user="",
        route="r",
        rollout=record.rollout,
        arm=record.arm,
        request_at=record.at,
    )
    return NewFeedback(row)


async def ended(services, *, failing=False):
    """Let a rollout run until it has ended."""
    await services.rollouts.start("r", REQUEST, actor="key ann@example.org")
    await services.assignments.follow()
    for first in range(0, 20_000, 40):
        await send(services, range(first, first + 50), failing=failing)
        await services.rollout_controller.run_once()
        if first == 80:
            await services.rollouts.act("r", "pause", RolloutAction(reason="lunch"), actor="ann")
            await send(services, range(first, first + 20))
            await services.rollout_controller.run_once()
            await services.rollouts.act("r", "resume", RolloutAction(reason="on"), actor="ann")
            await services.assignments.follow()
        rollout = await services.rollouts.find("r")
        if not rollout.is_active:
            return rollout
    raise AssertionError("it never ended")


@pytest.mark.parametrize(("failing", "state"), [(False, "promoted"), (True, "rolled_back")])
async def test_every_decision_of_a_rollout_comes_out_of_its_bundle(
    services, tmp_path, failing, state
):
    rollout = await ended(services, failing=failing)
    assert rollout.state == state
    path, written = await export_bundle(
        services.store, rollout.id, tmp_path / "b.zip", BundleOptions()
    )
    assert (written.kind, written.subject) == ("rollout", rollout.id)
    found = await verify(path)
    assert (found.differing, found.differences, found.refused) == (0, [], "")
    assert found.agree > 100
    [checked] = found.checked
    by_rules = [row for row in await services.store.rollout_decisions(rollout.id) if row.seen]
    assert checked.startswith(f"{len(by_rules) - 1:,} decisions of the rules come out of")
    assert len(found.not_recomputed) == 1
    # People's names are masked.
    with zipfile.ZipFile(path) as archive:
        assert b"@example.org" not in b"".join(map(archive.read, archive.namelist()))
        numbers = json.loads(archive.read("numbers.json"))
    report = await services.rollouts.report("r")
    assert [signal["harm"] for signal in numbers["signals"]] == [
        signal.harm for signal in report.signals
    ]
    again, _ = await export_bundle(services.store, rollout.id, tmp_path / "c.zip", BundleOptions())
    assert again.read_bytes() == path.read_bytes()


async def test_what_was_changed_in_a_rollouts_bundle_is_named(services, tmp_path):
    rollout = await ended(services, failing=True)
    path, _ = await export_bundle(services.store, rollout.id, tmp_path / "b.zip", BundleOptions())
    entries = entries_of(path)
    decisions = [json.loads(line) for line in entries["decisions.jsonl"].splitlines()]
    guilty = next(row for row in decisions if row["rule"] == "guardrails")
    guilty["e_value"] *= 1.01
    numbers = json.loads(entries["numbers.json"])
    numbers["totals"]["candidate"]["failures"] -= 1
    changed = {
        "decisions.jsonl": b"".join(canonical(row) + b"\n" for row in decisions),
        "numbers.json": canonical(numbers),
    }
    found = await verify(packed(tmp_path / "a.zip", sealed({**entries, **changed})))
    assert [difference.what for difference in found.differences] == [
        "totals.candidate.failures",
        f"decisions[{guilty['revision']}].e_value",
    ]
    # A request that failed is made one that did not: the verdict does not follow any more.
    rows = [json.loads(line) for line in entries["requests.jsonl"].splitlines()]
    for row in rows:
        row["request"]["failed"] = False
    forged = {**entries, "requests.jsonl": b"".join(canonical(row) + b"\n" for row in rows)}
    found = await verify(packed(tmp_path / "c.zip", sealed(forged)))
    assert any("signals[errors" in each.what and "harm" in each.what for each in found.differences)


def lines_of(entries, name):
    return [json.loads(line) for line in entries[name].splitlines()]


async def test_rows_of_a_rollout_that_contradict_each_other_are_named(services, tmp_path):
    rollout = await ended(services)
    path, _ = await export_bundle(services.store, rollout.id, tmp_path / "b.zip", BundleOptions())
    entries = entries_of(path)

    async def places(**rows):
        changed = {
            f"{name.replace('_', '-')}.jsonl": b"".join(canonical(row) + b"\n" for row in of_table)
            for name, of_table in rows.items()
        }
        found = await verify(packed(tmp_path / "f.zip", sealed({**entries, **changed})))
        assert not found.passed
        return [difference.what for difference in found.differences]

    requests = lines_of(entries, "requests.jsonl")
    first = requests[0]["request"]
    again = [requests[0], *requests]
    assert await places(requests=again) == [
        f"requests.jsonl, line 2: {first['number']}",
        f"requests.jsonl, line 2: {first['id']}",
    ]
    again[0] = {**again[0], "request": {**first, "number": 10**9}}
    assert await places(requests=again) == [f"requests.jsonl, line 2: {first['id']}"]
    values = lines_of(entries, "later-values.jsonl")
    assert len(await places(later_values=[values[0], *values])) == 1
    batches = lines_of(entries, "batches.jsonl")
    assert await places(batches=[*batches, batches[-1]]) == [
        f"batches.jsonl, line {len(batches) + 1}: {len(batches)}"
    ]
    decisions = lines_of(entries, "decisions.jsonl")
    assert "rollout.json.revision" in await places(decisions=decisions[:-1])
    # More requests than a batch says that it counted are not those that have been deleted since.
    number = requests[0]["batch"]
    batches[number - 1]["requests"] = 0
    with pytest.raises(EvidenceError, match=f"batch {number} counted fewer rows than there are"):
        await places(batches=batches)


async def test_requests_of_no_batch_are_refused(services, tmp_path):
    rollout = await ended(services)
    path, _ = await export_bundle(services.store, rollout.id, tmp_path / "b.zip", BundleOptions())
    entries = entries_of(path)
    rows = [json.loads(line) for line in entries["requests.jsonl"].splitlines()]

    async def refusal(**batches):
        for at, batch in ((0, batches["first"]), (-1, batches["last"])):
            rows[at]["batch"] = batch
        forged = {**entries, "requests.jsonl": b"".join(canonical(row) + b"\n" for row in rows)}
        with pytest.raises(EvidenceError) as refused:
            await verify(packed(tmp_path / "f.zip", sealed(forged)))
        return refused.value.message

    assert "batch 1 is not in its order" in await refusal(first=2, last=2)
    assert "is not in batches.jsonl" in await refusal(first=1, last=10**6)


async def test_numbers_are_only_stated_where_requests_were_deleted(services, tmp_path):
    rollout = await ended(services)
    record = await services.store.counted_requests(rollout.id, limit=1)
    deleted = await services.deletion.delete(TrafficFilter(id=record[0][1].id))
    assert deleted.deleted == 1
    path, _ = await export_bundle(services.store, rollout.id, tmp_path / "b.zip", BundleOptions())
    found = await verify(path)
    assert found.passed
    assert found.agree == 0
    assert "requests that were counted have been deleted since" in found.not_recomputed[0]


async def test_what_is_deleted_during_an_export_is_in_no_bundle_that_is_written_then(
    services, tmp_path
):
    rollout = await ended(services)
    record = (await services.store.counted_requests(rollout.id, limit=1))[0][1].id

    async def delete(exported, place):
        assert not place.exists()
        assert (await services.deletion.delete(TrafficFilter(id=record))).deleted == 1

    with pytest.raises(StoreError, match="requests of it were deleted meanwhile"):
        await export_bundle(
            services.store, rollout.id, tmp_path / "b.zip", BundleOptions(note=delete)
        )
    assert [path.name for path in tmp_path.iterdir() if "zip" in path.name] == []
    # Once more, and there is no such request in it.
    path, _ = await services.evidence.write(
        rollout.id, tmp_path / "b.zip", BundleOptions(), replace=False, actor="ann"
    )
    assert record not in entries_of(path)["requests.jsonl"].decode()
    [row] = await services.evidence.list(subject=rollout.id)
    assert (row.location, row.created_by) == (str(path), "ann")


async def test_what_a_killed_export_has_left_beside_its_file_is_removed(services, tmp_path):
    rollout = await ended(services)
    left = [tmp_path / ".b.zip.0123abcd", tmp_path / ".b.zip.89abcdef", tmp_path / ".b.zip.mine"]
    for path in left:
        path.write_bytes(b"PK")
    for path in (left[0], left[2]):
        os.utime(path, (1e9, 1e9))
    await export_bundle(services.store, rollout.id, tmp_path / "b.zip", BundleOptions())
    # The second may be one that is being written.
    assert [path.exists() for path in left] == [False, True, True]


async def test_a_deletion_names_bundles_of_shadows_that_have_ended_or_are_gone(services):
    for number, dataset in enumerate(["shadow:r", "data.jsonl", ""]):
        run_id = f"run_{number}"
        if dataset:
            run = Run(id=run_id, name="n", state="completed", document={}, dataset=dataset,
                      dataset_hash="", dataset_rows=0, metrics={}, created_at=1.0)  # fmt: skip
            await services.store.add_run(run, [])
        bundle = EvidenceBundle(
            id=f"ev_{number}", kind="run", subject=run_id, name="n", bodies="masked",
            changed_rows=0, size=1, sha256="", manifest="", signed_by="", location=f"/{number}",
            stored=False, key_id="", created_at=1.0, created_by="ann",
        )  # fmt: skip
        await services.store.add_evidence(bundle)
    deletion = await services.deletion.delete(TrafficFilter(id="rec_none"))
    named = [place for place in deletion.elsewhere if place.startswith("the evidence")]
    assert [place.partition(" of ")[0] for place in named] == [
        "the evidence ev_2",
        "the evidence ev_0",
    ]


@pytest.mark.parametrize("before", ["file", "note"])
async def test_a_bundle_whose_process_was_killed_is_no_finished_one(services, tmp_path, before):
    rollout = await ended(services)
    text = CONFIG.format(folder=tmp_path).replace("e.db", f'e.db", artifacts: "{tmp_path}/a')
    (tmp_path / "evalrouter.yaml").write_text(text)
    program = Path(__file__).with_name("evidence_process.py")
    killed = await asyncio.create_subprocess_exec(
        sys.executable, program, tmp_path, rollout.id, before
    )
    assert await killed.wait() == -signal.SIGKILL
    config = load(tmp_path / "evalrouter.yaml")
    datasets = DatasetRegistry(services.store, config)
    clock = itertools.count(time.time() + 10, 4000).__next__
    evidence = EvidenceBundles(services.store, datasets, config, services.routes, clock=clock)
    [left] = await evidence.list()
    assert (left.stored, left.created_by) == (False, "killed")
    with pytest.raises(NotFoundError, match="its process was killed; export it again"):
        evidence.content(left)
    assert await datasets.artifacts.exists(f"evidence/{left.id}.zip") == (before == "note")
    # It may be one that is being written, until it is old.
    for known in ([left.id], []):
        written = await evidence.create(EvidenceRequest(subject=rollout.id), actor="ann")
        assert written.stored
        assert len([chunk async for chunk in evidence.content(written)]) > 0
        await evidence.delete(written.id)
        assert [bundle.id for bundle in await evidence.list()] == known
    assert not await datasets.artifacts.exists(f"evidence/{left.id}.zip")


async def test_a_bundle_that_cannot_be_put_into_its_place_is_not_on_record(services, tmp_path):
    rollout = await ended(services)
    place = tmp_path / "b.zip"
    # A folder appears in its place meanwhile.
    options = BundleOptions(progress=lambda *_: place.mkdir(exist_ok=True))
    with pytest.raises(ArtifactError, match="cannot write the evidence of"):
        await services.evidence.write(rollout.id, place, options, replace=False, actor="ann")
    assert await services.evidence.list() == []
    assert [path.name for path in tmp_path.iterdir() if "zip" in path.name] == ["b.zip"]


async def test_a_rollout_that_goes_on_or_is_not_there_is_refused(services, tmp_path):
    rollout = await services.rollouts.start("r", REQUEST, actor="ann")
    with pytest.raises(ConflictError, match="its evidence is complete when it has ended"):
        await export_bundle(services.store, rollout.id, tmp_path / "b.zip", BundleOptions())
    with pytest.raises(NotFoundError, match="There is no rollout 'ro_none'"):
        await export_bundle(services.store, "ro_none", tmp_path / "b.zip", BundleOptions())
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".zip"] == []
