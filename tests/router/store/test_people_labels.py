"""People's labels: what any store promises where several people score the answers of a run."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from stores import a_run

from evaluators.base import Cell
from providers.errors import ConflictError, NotFoundError
from router.store.people_labels import PeopleLabel


def label(*scores, sample="s1", text="h", chance=None, at=1.0):
    cell = Cell("r", sample, 0)
    return PeopleLabel(output="o", cell=cell, answer_hash=text, scores=scores, chance=chance, at=at)


async def test_scores_of_several_people_at_once_all_count(store):
    await store.add_run(a_run(), [])
    given = [float(n) for n in range(8)]
    await asyncio.gather(*(store.add_score("run_1", label(score, at=score)) for score in given))
    [kept] = await store.labels("run_1")
    assert sorted(kept.scores) == given
    # A score of another text of the answer says nothing of this one.
    assert await store.add_score("run_1", label(3.0, text="new")) == label(3.0, text="new")
    with pytest.raises(NotFoundError):
        await store.add_score("run_2", label(3.0))


async def test_a_score_is_taken_back_once_and_only_by_who_gave_the_last(store):
    await store.add_run(a_run(), [])
    first = await store.add_score("run_1", label(4.0, at=1.0))
    second = await store.add_score("run_1", label(4.0, at=2.0))
    assert second.scores == (4.0, 4.0)
    with pytest.raises(ConflictError, match="another score since"):
        await store.take_back_score("run_1", first)
    await store.take_back_score("run_1", second)
    assert [each.scores for each in await store.labels("run_1")] == [(4.0,)]
    with pytest.raises(ConflictError):
        await store.take_back_score("run_1", second)
    await store.take_back_score("run_1", msgspec.structs.replace(second, scores=(4.0,)))
    assert await store.labels("run_1") == []


async def test_scores_are_not_mixed_with_those_that_a_plan_drew(store):
    await store.add_run(a_run(), [])
    await store.keep_labels("run_1", "o", "r", [label(chance=0.5)])
    with pytest.raises(ConflictError, match="drawn by a plan"):
        await store.add_score("run_1", label(3.0, sample="s2"))
