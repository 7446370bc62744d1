"""Rows are grouped by the values of a column, each row into one group."""

import random

import pytest

from evaluators.data.rows import MISSING
from evaluators.reports.groups import (
    MAX_GROUPS,
    MAX_NUMBERS,
    NAME_LENGTH,
    ColumnValues,
    UnusableColumnError,
)


def grouped(values):
    column = ColumnValues()
    for value in values:
        column.add(value)
    return column.grouped()


def named(grouping):
    return [(group.kind, group.name, group.rows) for group in grouping.groups]


def test_each_row_is_in_the_group_of_its_value_and_frequent_ones_come_first():
    values = ["de", "en", "de", None, MISSING, "", "de", "en"]
    grouping = grouped(values)
    assert named(grouping) == [
        ("value", "de", 3),
        ("value", "en", 2),
        ("value", "", 1),
        ("missing", "no value", 2),
    ]
    assert grouping.numbers.tolist() == [0, 1, 0, 3, 3, 2, 0, 1]
    assert [group.values for group in grouping.groups] == [1, 1, 1, 0]
    assert len({group.key for group in grouping.groups}) == 4


def test_a_value_has_the_same_key_in_every_dataset():
    [first] = grouped(["de", "de"]).groups
    second = {group.name: group.key for group in grouped(["x", "de"]).groups}
    assert second["de"] == first.key != second["x"]


def test_lists_objects_and_booleans_are_told_apart_by_their_json():
    values = [["a", 1], ["a", 1], {"b": 1, "a": [None]}, {"a": [None], "b": 1}, True, "true", []]
    assert named(grouped(values)) == [
        ("value", '["a",1]', 2),
        ("value", "true", 2),
        ("value", '{"a":[null],"b":1}', 2),
        ("value", "[]", 1),
    ]


def test_few_numbers_are_a_group_each_in_their_order():
    values = [10, 9, 2.0, 2, "9", 0.5, -1, 10**400]
    assert named(grouped(values)) == [
        ("value", "-1", 1),
        ("value", "0.5", 1),
        ("value", "2", 2),
        ("value", "9", 2),
        ("value", "10", 1),
        ("value", f"1{'0' * (NAME_LENGTH - 2)}…", 1),
    ]


def test_many_numbers_are_ranges_of_about_as_many_rows_that_do_not_overlap():
    values = list(range(1000))
    random.Random(0).shuffle(values)
    grouping = grouped([*values, "n/a", "n/a", None])
    assert named(grouping) == [
        *(("range", f"{low} to {low + 199}", 200) for low in (0, 200, 400, 600, 800)),
        ("value", "n/a", 2),
        ("missing", "no value", 1),
    ]
    assert [(group.low, group.high, group.values) for group in grouping.groups[:2]] == [
        (0.0, 199.0, 200),
        (200.0, 399.0, 200),
    ]
    for value, number in zip(values, grouping.numbers.tolist(), strict=False):
        assert grouping.groups[number].low <= value <= grouping.groups[number].high
    # As a CSV file has them.
    assert named(grouped([str(value) for value in values])) == named(grouped(values))


def test_equal_numbers_are_in_the_same_range():
    grouping = grouped([0] * 900 + list(range(1, 101)))
    assert named(grouping) == [("range", "0", 900), ("range", "1 to 100", 100)]
    assert len(grouped(range(MAX_NUMBERS)).groups) == MAX_NUMBERS
    assert len(grouped(range(MAX_NUMBERS + 1)).groups) == 5


def test_texts_with_a_few_numbers_among_them_stay_texts():
    values = [*["a"] * 30, *["b"] * 20, *range(MAX_NUMBERS + 5)]
    assert ("value", "3", 1) in named(grouped(values))
    assert named(grouped(values))[-2:] == [("value", "a", 30), ("value", "b", 20)]


def test_rare_values_are_one_group():
    values = [f"v{n:03}" for n in range(200) for _ in range(2 if n < 120 else 1)]
    grouping = grouped(values)
    assert len(grouping.groups) == MAX_GROUPS
    other = grouping.groups[-1]
    assert (other.kind, other.name, other.values) == ("other", "other", 200 - MAX_GROUPS + 1)
    assert sum(group.rows for group in grouping.groups) == len(values) == len(grouping.numbers)
    assert other.rows == grouping.numbers.tolist().count(MAX_GROUPS - 1)
    # A value with that name is another group.
    assert [group.kind for group in grouped(["other"]).groups] == ["value"]
    exactly = [f"v{n}" for n in range(MAX_GROUPS)]
    assert all(group.kind == "value" for group in grouped(exactly).groups)


def test_a_column_whose_values_are_all_different_has_no_groups():
    with pytest.raises(UnusableColumnError, match="51 different values and none of them twice"):
        grouped([f"v{n}" for n in range(MAX_GROUPS + 1)])


def test_long_texts_are_told_apart_and_named_by_their_beginning():
    texts = ["x" * 1_000_000 + end for end in "ab"]
    grouping = grouped([texts[0], texts[1], texts[0], "\ud800"])
    assert [group.rows for group in grouping.groups] == [2, 1, 1]
    assert grouping.groups[0].name == "x" * (NAME_LENGTH - 1) + "…"


def test_without_rows_there_are_no_groups():
    assert grouped([]).groups == ()
    column = ColumnValues()
    column.add(MISSING)
    assert not column.has_column
    column.add(None)
    assert column.has_column
