"""Models of learned routes, and the requests that their rows were made of: any store's promises."""

from __future__ import annotations

import msgspec
import pytest
from request_filters import selects
from sealed_requests import records

from evaluators.base import Answer, Sample
from providers.errors import ConflictError
from router.store.learned import LearnedModel, LearnedRows, LearnedSource
from router.store.lineage import RowSource
from router.store.shadows import ShadowPair, ShadowRow
from router.store.traffic import TrafficFilter

MODEL = LearnedModel(id="lm_1", route="chat", created_at=1.5, settings={"quality": "q"})
READY = msgspec.structs.replace(
    MODEL, state="ready", artifact="learned/lm_1/a.model", hash="h", size=3, rows=2, report={"a": 1}
)
RECORDS = records()[::7]
SOURCES = [
    LearnedSource(
        row=n,
        id=record.id,
        at=record.at,
        key_id=record.key_id,
        user=record.user,
        route=record.route,
        target=record.target_name(),
        traffic_class=record.traffic_class,
        status=record.status,
        request_id=record.request_id,
        response_id=record.response_id,
        conversation=record.conversation,
        rollout=record.rollout,
        arm=record.arm,
    )
    for n, record in enumerate(RECORDS)
]


async def test_a_model_that_is_ready_takes_the_place_of_the_one_before(store):
    before = await store.learned_version()
    await store.add_learned(MODEL)
    assert await store.learned_models("chat") == [MODEL]
    assert await store.finish_learned(READY, [], deletions=0) == []
    assert await store.learned_version() > before
    later = msgspec.structs.replace(MODEL, id="lm_2", created_at=2.5)
    await store.add_learned(later)
    ready = msgspec.structs.replace(later, state="ready", artifact="learned/lm_2/b.model")
    assert await store.finish_learned(ready, [], deletions=0) == ["learned/lm_1/a.model"]
    assert [(row.id, row.artifact) for row in await store.learned_models(state="ready")] == [
        ("lm_2", "learned/lm_2/b.model"),
        ("lm_1", ""),
    ]
    assert await store.learned_models("other") == []


async def test_a_model_that_fails_or_is_replaced_is_never_ready(store):
    await store.add_learned(MODEL)
    await store.fail_learned("lm_1", "too few")
    [row] = await store.learned_models()
    assert (row.state, row.error) == ("failed", "too few")
    with pytest.raises(ConflictError, match="Another model"):
        await store.finish_learned(READY, [], deletions=0)
    await store.add_learned(msgspec.structs.replace(MODEL, id="lm_2"))
    await store.add_learned(msgspec.structs.replace(MODEL, id="lm_3"))
    states = {row.id: row.state for row in await store.learned_models()}
    assert states == {"lm_1": "failed", "lm_2": "failed", "lm_3": "learning"}


async def test_a_deletion_meanwhile_refuses_the_model(store):
    await store.add_learned(MODEL)
    await store.announce_deletion()
    with pytest.raises(ConflictError, match="deleted"):
        await store.finish_learned(READY, SOURCES, deletions=0)
    assert await store.learned_rows(TrafficFilter()) is None
    await store.finish_learned(READY, [], deletions=await store.traffic_deletions())


@pytest.mark.parametrize(
    "matching",
    [
        TrafficFilter(id=RECORDS[3].id),
        TrafficFilter(user="user_42"),
        TrafficFilter(key_id="key_1", status=(200, 299)),
        TrafficFilter(except_routes=("x", "rare")),
        TrafficFilter(request_id="mine_35", key_id=RECORDS[5].key_id),
        TrafficFilter(rollout="rollout_1", arm="control"),
        TrafficFilter(since=RECORDS[50].at, until=RECORDS[90].at),
    ],
)
async def test_rows_are_selected_as_their_requests_are(store, matching):
    await store.add_learned(MODEL)
    await store.finish_learned(READY, SOURCES, deletions=0)
    expected = frozenset(n for n, record in enumerate(RECORDS) if selects(matching, record))
    assert await store.learned_rows(matching) == LearnedRows("lm_1", expected)
    assert expected
    assert await store.learned_rows(matching, model="lm_1") == LearnedRows("lm_1", expected)
    assert await store.learned_rows(matching, model="lm_2") is None
    after = msgspec.structs.replace(READY, forgotten=len(expected), hash="other")
    assert not await store.forget_learned(after, expected, artifact="another")
    assert await store.learned_rows(matching) == LearnedRows("lm_1", expected)
    assert await store.forget_learned(after, expected, artifact=READY.artifact)
    assert await store.learned_rows(matching) is None
    assert await store.learned_models() == [after]


async def test_rows_of_copies_are_selected_by_what_they_were_copied_from(store):
    """Of a dataset's row, of a shadow's request, and of who gave the feedback."""
    source = RowSource(row="7", id="req_7", at=1.0, user="ann", route="chat")
    await store.add_sources("hash", [source])
    await store.add_shadow(
        ShadowRow(run="run_s", route="chat", config={}, changed_at=1.0, created_at=1.0)
    )
    pair = ShadowPair(
        id="req_8",
        at=1.0,
        user="bob",
        keep_texts=True,
        sample=Sample(id="req_8", messages=()),
        answer=Answer(text="a"),
    )
    await store.add_pairs("run_s", [pair], max_waiting=9)
    await store.add_learned(MODEL)
    sources = [
        LearnedSource(row=0, dataset_hash="hash", dataset_row="7"),
        LearnedSource(row=1, dataset_hash="hash", dataset_row="8"),
        LearnedSource(row=2, id="req_8", shadow_run="run_s"),
        LearnedSource(row=3, id="req_9", user="dan", author="cas"),
    ]
    await store.finish_learned(READY, sources, deletions=0)
    for user, row in {"ann": 0, "bob": 2, "cas": 3, "dan": 3}.items():
        assert await store.learned_rows(TrafficFilter(user=user)) == LearnedRows(
            "lm_1", frozenset({row})
        )
    assert await store.learned_rows(TrafficFilter(user="eve")) is None
    everything = await store.learned_rows(TrafficFilter(route="chat"))
    assert everything == LearnedRows("lm_1", frozenset({0, 2}))
