"""Rows from the middle of a file are those that a reading from its beginning has there."""

from __future__ import annotations

import json

import pytest

from evaluators.data.dataset import open_dataset
from router.datasets.row_index import RowIndex

COUNT = 5200
TEXTS = ('say "hi"', "two\nlines", "semi;colon, comma", "", "ü" * 40)


def a_row(n: int) -> dict[str, str]:
    return {"input": f"text {n} {TEXTS[n % 5]}", "note": TEXTS[n % 3]}


def table(separator: str, begin: str = "", between: str = "") -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    rows = (separator.join(map(cell, a_row(n).values())) + "\n" for n in range(COUNT))
    return begin + separator.join(["input", "note"]) + "\n" + between.join(rows)


LINES = "".join(json.dumps(a_row(n)) + "\n\n" * (n % 2) + "\n" * (n % 2 == 0) for n in range(COUNT))
FILES = {
    "lines.jsonl": LINES,
    "lines.json": LINES,
    "array.json": json.dumps([a_row(n) for n in range(COUNT)]),
    "comma.csv": table(","),
    "gaps.csv": table(";", between="\n;\n"),
    "named.csv": "\ufeff" + table("|", begin="sep=|\n"),
    "tabs.tsv": table("\t"),
}


@pytest.mark.parametrize("name", FILES)
def test_they_are_those_of_a_reading_from_the_beginning(tmp_path, name):
    path = tmp_path / name
    path.write_text(FILES[name], encoding="utf-8", newline="")
    dataset = open_dataset(path)
    expected = [row.fields for row in dataset.rows()]
    assert len(expected) == COUNT
    index = RowIndex()
    for after, limit in [
        (0, 3),
        (1000, 2),
        (2999, 3),
        (1500, 10),
        (4990, 30),
        (5190, 30),
        (5200, 5),
    ]:
        found = [row.fields for row in index.rows(dataset, after=after, limit=limit)]
        assert found == expected[after : after + limit], (after, limit)


def test_what_lies_before_them_is_not_read_again(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(LINES, encoding="utf-8")
    dataset = open_dataset(path)
    index = RowIndex()
    [row] = index.rows(dataset, after=4000, limit=1)
    with path.open("r+b") as file:
        file.seek(len(LINES) // 4)
        file.write(b"this is no JSON" * 1000)
    assert list(index.rows(dataset, after=4000, limit=1)) == [row]


def test_a_page_of_very_large_rows_ends_early(tmp_path):
    path = tmp_path / "large.jsonl"
    text = "x" * 300_000
    with path.open("w", encoding="utf-8") as file:
        for n in range(1100):
            file.write(json.dumps({"input": text if n >= 1010 else "y", "n": n}) + "\n")
    dataset = open_dataset(path)
    found = [row.fields["n"] for row in RowIndex(max_bytes=1).rows(dataset, after=1030, limit=60)]
    assert found == list(range(1030, 1030 + len(found)))
    assert 5 < len(found) < 30
