"""Rows drawn at random: reproducible, nested, stratified as Hamilton's method says."""

import json
from collections import Counter

import pytest

from evaluators.data.dataset import open_dataset
from evaluators.data.sampling import MAX_STRATA, Sampling, allocate, choose
from providers.errors import RunDocumentError


@pytest.fixture
def rows(tmp_path):
    def make(fields):
        path = tmp_path / "d.jsonl"
        path.write_text("".join(json.dumps({"input": "x"} | one) + "\n" for one in fields))
        return list(open_dataset(path).rows())

    return make


def test_a_draw_is_the_seeds_own_and_grows(rows):
    data = rows({} for _ in range(1000))
    drawn = choose(Sampling(n=100, seed=1), data)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 100
    assert drawn == choose(Sampling(n=100, seed=1), data)
    assert drawn != choose(Sampling(n=100, seed=2), data)
    assert set(drawn) < set(choose(Sampling(n=300, seed=1), data))
    assert choose(Sampling(n=5000), data) == list(range(1000))
    # What seed 1 drew when this was written: a change would make old run documents ask other rows.
    assert drawn[:6] == [2, 3, 10, 18, 26, 27]


def test_a_draw_goes_by_ids_not_by_places(rows):
    names = [f"row {n}" for n in range(200)]
    there = rows({"id": name} for name in names)
    back = rows({"id": name} for name in reversed(names))
    ids = {there[place].id for place in choose(Sampling(n=20), there)}
    assert ids == {back[place].id for place in choose(Sampling(n=20), back)}


def test_every_row_is_equally_likely(rows):
    data = rows({} for _ in range(20))
    drawn = Counter(
        place for seed in range(2000) for place in choose(Sampling(n=5, seed=seed), data)
    )
    # 500 times each on average, with a standard deviation of 19.4: within five of them.
    assert all(abs(drawn[place] - 500) < 97 for place in range(20))


@pytest.mark.parametrize(
    ("n", "sizes", "shares"),
    [
        (10, [50, 30, 20], [5, 3, 2]),
        # Hamilton's textbook example: quotas 6.75, 2.75, 0.5.
        (10, [27, 11, 2], [7, 3, 0]),
        (1, [1, 1, 1], [1, 0, 0]),
        (2, [1, 3, 1], [1, 1, 0]),
        (100, [4, 5], [4, 5]),
    ],
)
def test_largest_remainders(n, sizes, shares):
    assert allocate(n, sizes) == shares
    assert sum(allocate(n, sizes)) == min(n, sum(sizes))


def test_strata_get_their_shares(rows):
    data = rows({"topic": topic} for topic in ["a"] * 60 + ["b"] * 30 + [None] * 9 + [7])
    drawn = choose(Sampling(n=10, seed=3, by="topic"), data)
    assert Counter(data[place].fields["topic"] for place in drawn) == {"a": 6, "b": 3, None: 1}


def test_columns_that_cannot_be_strata(rows):
    for fields, message in [
        ([{"t": [1]}], "row 1 has a list in column 't'"),
        ([{"t": 1}, {}], "row 2 has no column 't'"),
        ([{"t": n} for n in range(MAX_STRATA + 1)], "more than 10000 different values"),
    ]:
        with pytest.raises(RunDocumentError, match=message) as caught:
            choose(Sampling(n=1, by="t"), rows(fields))
        assert caught.value.param == "sample.by"
