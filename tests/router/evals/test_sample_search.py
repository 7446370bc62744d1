"""Samples are found in bounded steps, forwards and backwards, and sorted by their differences."""

import numpy as np
import pytest
from stores import a_run, answered, sqlite_store

from evaluators.base import Cell, Sample, Score
from router.evals.sample_search import PairedScore, SampleQuery, SampleSearch
from router.store.sample_views import SampleFilter

TEXT = SampleFilter(text="needle")


@pytest.fixture
async def many(tmp_path):
    """A run of 25 samples, of which few have a text, in the order of the dataset."""
    samples = [
        Sample(id=f"s{n}", messages=({"role": "user", "content": "x"},), references=refs)
        for n in range(1, 26)
        for refs in [("a Needle",) if n in {5, 9, 24} else ()]
    ]
    async with sqlite_store(tmp_path / "e.db") as store:
        run = a_run(dataset_rows=len(samples))
        await store.add_run(run, samples)
        yield run, SampleSearch(store, max_read=10), store


async def test_a_search_for_texts_ends_after_so_many_samples_and_says_where(many):
    run, search, _ = many
    query = SampleQuery(matching=TEXT)
    found = await search.find(run, query, after=None, limit=3)
    assert found == ([5, 9], 10)
    assert await search.find(run, query, after=10, limit=3) == ([], 20)
    assert await search.find(run, query, after=20, limit=3) == ([24], None)
    assert await search.find(run, query, after=None, limit=2) == ([5, 9], None)
    # And the other way round, as the link to the sample before goes.
    back = {"limit": 1, "backwards": True}
    assert await search.find(run, query, after=25, **back) == ([24], None)
    assert await search.find(run, query, after=24, **back) == ([], 14)
    assert await search.find(run, query, after=14, **back) == ([9], None)
    assert await search.find(run, query, after=5, **back) == ([], None)
    downwards = SampleQuery(matching=TEXT, descending=True)
    assert await search.find(run, downwards, after=None, limit=9) == ([24], 16)
    assert await search.find(run, downwards, after=24, **back) == ([], None)


async def test_a_search_within_some_samples_reads_no_others(many):
    run, search, _ = many
    within = np.array([2, 5, 9, 17, 24])
    everything = SampleQuery()
    options = {"limit": 2, "within": within}
    assert await search.find(run, everything, after=None, **options) == ([2, 5], None)
    assert await search.find(run, everything, after=5, **options) == ([9, 17], None)
    assert await search.find(run, everything, after=9, backwards=True, **options) == ([5, 2], None)
    downwards = SampleQuery(descending=True)
    assert await search.find(run, downwards, after=None, **options) == ([24, 17], None)
    # With a text, up to as many of them as are read for one page.
    query = SampleQuery(matching=TEXT)
    assert await search.find(run, query, after=None, limit=9, within=within) == ([5, 9, 24], None)
    many_more = np.arange(1, 26)
    assert await search.find(run, query, after=None, limit=9, within=many_more) == ([5, 9], 10)


async def test_differences_are_sorted_cached_and_read_again_when_scores_come(tmp_path):
    async with sqlite_store(tmp_path / "e.db") as store:
        run = a_run(dataset_rows=4)
        samples = [Sample(id=f"s{n}", messages=(), fields={"odd": n % 2}) for n in range(1, 5)]
        await store.add_run(run, samples)

        async def score(route, n, value):
            cell = Cell(route, f"s{n}", 0)
            await answered(store, cell)
            await store.keep_scores(run.id, {cell: [Score(output="f", value=value)]})

        for n, a, b in ((1, 0.5, 0.0), (2, 0.0, 1.0), (3, 0.0, 0.0)):
            await score("a", n, a)
            await score("b", n, b)
        await score("a", 4, 1.0)
        search = SampleSearch(store)
        by = PairedScore("f", "a", "b", True)
        query = SampleQuery(by=by, descending=True)
        assert await search.find(run, query, after=None, limit=9) == ([1, 3, 2], None)
        assert await search.find(run, query, after=1, limit=1) == ([3], None)
        assert await search.find(run, query, after=3, limit=9, backwards=True) == ([1], None)
        # A sample that has no difference is nowhere in that order.
        assert await search.find(run, query, after=4, limit=9) == ([], None)
        odd = SampleQuery(by=by, matching=SampleFilter(column="odd", value="1"))
        assert await search.find(run, odd, after=None, limit=9) == ([3, 1], None)
        found = await search.find(run, query, after=None, limit=9, within=np.array([2, 3, 4]))
        assert found == ([3, 2], None)
        lower = SampleQuery(by=PairedScore("f", "a", "b", False))
        assert await search.find(run, lower, after=None, limit=9) == ([1, 3, 2], None)
        first = await search.differences(run, by)
        assert await search.differences(run, by) is first
        await score("b", 4, 0.0)
        assert await search.find(run, query, after=None, limit=9) == ([4, 1, 3, 2], None)
