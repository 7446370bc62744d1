"""References and probes of watches, and counts of what hosts claim to be, in each database."""

from __future__ import annotations

import msgspec
import pytest

from providers.errors import ConflictError, StoreError
from router.store.datasets import DatasetRow
from router.store.lineage import RowSource
from router.store.watches import (
    MAX_VERSIONS,
    OTHERS,
    LanguageCount,
    LiveHour,
    ModelVersion,
    SignalCount,
    WatchProbe,
    WatchReference,
)


def a_reference(number: int = 1, **fields) -> WatchReference:
    return WatchReference(
        **{
            "watch": "nightly",
            "number": number,
            "target": "up/a",
            "made_for": "m",
            "created_at": 5.0,
            "anchor": {"draws": [[{"a": -0.5}]]},
        }
        | fields
    )


def a_probe(**fields) -> WatchProbe:
    return WatchProbe(
        **{"watch": "nightly", "reference": 1, "kind": "held_out", "at": 6.0, "distance": 0.25}
        | fields
    )


async def test_probes_are_counted_once_and_change_their_reference(store):
    await store.begin_reference(a_reference())
    await store.add_watch_probe(a_probe(kind="anchor", distance=None), counted=0)
    await store.add_watch_probe(a_probe(kind="missing", distance=None, why="down"), counted=1)
    await store.add_watch_probe(
        a_probe(detail={"a": [1]}, e_value=3.5), counted=1, changes={"pinned_at": 7.0}
    )
    # Another process has added one in the meantime.
    with pytest.raises(ConflictError, match="by another process"):
        await store.add_watch_probe(a_probe(), counted=1)
    with pytest.raises(StoreError, match="no field"):
        await store.add_watch_probe(a_probe(), counted=2, changes={"nothing": 1})
    await store.add_watch_probe(a_probe(signal="cost", cost_usd=0.5, at=9.0), counted=0)

    assert [probe.kind for probe in await store.watch_probes("nightly")] == [
        "held_out",
        "held_out",
        "missing",
        "anchor",
    ]
    [newest] = await store.watch_probes("nightly", signal="probe", limit=1)
    assert newest.detail == {"a": [1]}
    older = await store.watch_probes("nightly", before=newest.number, signal="probe")
    assert [probe.why for probe in older] == ["down", ""]
    values = await store.watch_values("nightly", 1, "probe")
    assert [probe.distance for probe in values] == [None, 0.25]
    assert await store.watch_signals("nightly") == {
        "cost": SignalCount(1, None, 9.0),
        "probe": SignalCount(2, 3.5, 6.0),
    }
    assert await store.watch_spending("nightly", 6.5) == 0.5
    present = await store.watch_reference("nightly")
    assert (present.pinned_at, present.anchor) == (7.0, {"draws": [[{"a": -0.5}]]})


async def test_a_new_reference_ends_the_one_before(store):
    await store.begin_reference(a_reference())
    with pytest.raises(ConflictError):
        await store.begin_reference(a_reference(3))
    with pytest.raises(ConflictError):
        await store.begin_reference(a_reference(1))
    await store.begin_reference(a_reference(2, reason="the host was changed"))
    with pytest.raises(ConflictError):
        await store.add_watch_probe(a_probe(reference=1), counted=0)
    assert (await store.watch_reference("nightly")).number == 2
    assert [row.number for row in await store.watch_references()] == [2, 1]
    assert await store.watch_reference("other") is None
    assert await store.watch_signals("other") == {}


async def test_answers_to_a_deleted_dataset_are_forgotten(store):
    await store.begin_reference(a_reference(dataset="d@ab", dataset_hash="abcd"))
    await store.add_watch_probe(a_probe(detail={"rows": ["secret"]}), counted=0)
    language = a_probe(signal="language", kind="anchor", detail={"language": "de"})
    await store.add_watch_probe(language, counted=0)
    await store.replace_versions("other", (), ())
    assert (await store.watch_reference("nightly")).anchor
    await store.replace_versions("abcd", (), ())
    assert (await store.watch_reference("nightly")).anchor == {}
    live, probe = await store.watch_probes("nightly")
    assert (probe.detail, probe.distance) == ({}, 0.25)
    assert live.detail == {"language": "de"}


@pytest.mark.parametrize("counted", [0, 1])
async def test_answers_to_rows_that_were_deleted_meanwhile_are_not_stored(store, counted):
    version = DatasetRow(
        name="d", hash="abcd", path="p", format="jsonl", rows=1, columns=(), created_at=1.0
    )
    await store.add_dataset(version)
    await store.begin_reference(a_reference(dataset="d@ab", dataset_hash="abcd", anchor={}))
    secret = {"draws": [[["secret"]]]}
    if counted:
        first = a_probe(kind="anchor", distance=None)
        await store.add_watch_probe(first, counted=0, changes={"anchor": secret}, registered="abcd")
    await store.replace_versions("abcd", (), ())
    # Of another version, which has what the reference was made of in common: it is there.
    other = msgspec.structs.replace(version, hash="ef", name="e")
    await store.add_dataset(other)
    for registered in ["abcd"] if counted == 0 else ["abcd", "ef"]:
        with pytest.raises(ConflictError, match="deleted while"):
            await store.add_watch_probe(
                a_probe(kind="anchor", detail={"rows": ["secret"]}),
                counted=counted,
                changes={"anchor": secret},
                registered=registered,
            )
    assert (await store.watch_reference("nightly")).anchor == {}
    assert len(await store.watch_probes("nightly")) == counted
    # One that has nothing of them is stored.
    missing = a_probe(kind="missing", distance=None, why="down")
    await store.add_watch_probe(missing, counted=counted, registered="abcd")


async def test_a_dataset_of_requests_takes_its_answers_along(store):
    for name, sources in (("d", [RowSource(row="1", id="r", at=1.0)]), ("e", [])):
        version = DatasetRow(
            name=name, hash=f"h{name}", path="p", format="jsonl", rows=1, columns=(), created_at=1.0
        )
        await store.add_dataset(version)
        await store.add_sources(version.hash, sources)
        await store.begin_reference(a_reference(watch=name, dataset_hash=version.hash))
        assert not await store.delete_dataset(name, version.hash)
    assert (await store.watch_reference("d")).anchor == {}
    # None of its rows is a copy of a request.
    assert (await store.watch_reference("e")).anchor


async def test_versions_and_hours_add_up(store):
    def version(model: str, at: float, requests: int = 1) -> ModelVersion:
        return ModelVersion(
            target="up/a",
            model=model,
            system_fingerprint="",
            first_at=at,
            last_at=at,
            requests=requests,
        )

    hour = LiveHour(target="up/a", hour=3600.0, requests=2, refusals=1, tokens=8, counted=2)
    for at in (8.0, 5.0):
        await store.count_answers(
            [version("m-1", at)], [hour], [LanguageCount("up/a", 3600.0, "de", 1)]
        )
    [row] = await store.model_versions()
    assert (row.first_at, row.last_at, row.requests) == (5.0, 8.0, 2)
    [row] = await store.live_hours("up/a", 0.0, 7200.0)
    assert (row.requests, row.refusals, row.tokens) == (4, 2, 16)
    assert await store.live_languages("up/a", 3600.0, 7200.0) == {"de": 2}
    assert await store.live_languages("up/a", 0.0, 3600.0) == {}
    await store.forget_hours(3601.0)
    assert await store.live_hours("up/a", 0.0, 7200.0) == []

    # A host that names another model each time.
    await store.count_answers([version(f"x{n}", 9.0) for n in range(MAX_VERSIONS + 5)], [], [])
    rows = await store.model_versions("up/a")
    assert len(rows) == MAX_VERSIONS + 1
    assert {row.model: row.requests for row in rows}[OTHERS] == 6
    assert sum(row.requests for row in rows) == MAX_VERSIONS + 7
    assert await store.model_versions("up/b") == []
