"""Datasets: every format, what columns mean, and a clear error for every defect."""

import csv
import datetime
import hashlib
import io
import json
import subprocess
import sys
import textwrap
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle_data import DIALOGUES, VICUNA, vicuna_rows

from evaluators.data.dataset import Dataset, open_dataset
from providers.errors import DatasetError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, **options) -> str:
    """The message of the error, without the folder."""
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, **options)
    return caught.value.message.replace(f"{path.parent}/", "")


# Formats


def test_every_format_gives_the_same_rows(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    from pyarrow import parquet

    rows = [
        {"id": "a", "input": 'say "hi",\nthen é 🎉', "reference": "hi"},
        {"id": "b", "input": "tab\there", "reference": "  "},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = {
        "d.jsonl": lines,
        "d.ndjson": lines,
        "d.json": json.dumps(rows, indent=1),
        "d.csv": 'id,input,reference\na,"say ""hi"",\nthen é 🎉",hi\nb,tab\there,  \n',
        "d.TSV": 'id\tinput\treference\r\na\t"say ""hi"",\nthen é 🎉"\thi\r\n'
        'b\t"tab\there"\t  \r\n',
    }
    paths = [write(tmp_path, name, content) for name, content in files.items()]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    for path in [*paths, tmp_path / "d.parquet"]:
        dataset = open_dataset(path)
        assert dataset.row_count == 2
        assert dataset.columns == ("id", "input", "reference")
        assert dataset.hash == hashlib.sha256(path.read_bytes()).hexdigest()
        assert dataset.name == "d"
        found = list(dataset.rows())
        assert [row.fields for row in found] == rows
        assert [row.id for row in found] == ["a", "b"]
        assert [row.number for row in found] == [1, 2]
        assert [row.references for row in found] == [("hi",), ()]
        assert [row.input for row in found] == [row["input"] for row in rows]


def test_json_lines_skip_blank_lines_and_number_by_line(tmp_path):
    path = write(tmp_path, "d.jsonl", '\ufeff\n  {"input": "x"}\r\n\n \t\n{"input": "y\u2028z"}')
    rows = list(open_dataset(path).rows())
    assert [(row.number, row.id, row.input) for row in rows] == [
        (2, "2", "x"),
        (5, "5", "y\u2028z"),
    ]


@pytest.mark.parametrize("name", ["d.csv", "d.json", "d.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path, name):
    content = {"d.csv": "input\nx\n", "d.json": '[{"input":"x"}]', "d.jsonl": '{"input":"x"}'}[name]
    path = write(tmp_path, name, b"\xef\xbb\xbf" + content.encode())
    assert open_dataset(path).columns == ("input",)


CELL = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=4))
@example(rows=[["", "0"], ["", " "]])
@settings(max_examples=60, deadline=None)
def test_csv_reads_what_the_standard_library_writes(tmp_path_factory, rows):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["input", "other"])
    writer.writerows(rows)
    path = write(tmp_path_factory.mktemp("csv"), "d.csv", text.getvalue())
    # Rows of nothing but blank cells are what spreadsheets write behind a table.
    rows = [row for row in rows if any(map(str.strip, row))]
    if not rows:
        assert "no rows" in refused(path, needs_prompt=False)
        return
    dataset = open_dataset(path, needs_prompt=False)
    assert [list(row.fields.values()) for row in dataset.rows()] == rows
    oracle = list(csv.reader(io.StringIO(text.getvalue(), newline="")))
    assert [list(dataset.columns), *rows] == [row for row in oracle if any(map(str.strip, row))]


@given(
    st.sampled_from([",", ";", "\t", "|"]),
    st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_csv_of_any_dialect_gives_the_same_rows(tmp_path_factory, delimiter, rows):
    rows = [["x", "y"], *(row for row in rows if any(map(str.strip, row)))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["input", "other"])
    writer.writerows(rows)
    folder = tmp_path_factory.mktemp("csv")
    path = write(folder, "d.csv", text.getvalue())
    dataset = open_dataset(path, needs_prompt=False)
    assert [list(row.fields.values()) for row in dataset.rows()] == rows
    named = open_dataset(path, delimiter=delimiter, needs_prompt=False)
    assert [row.fields for row in named.rows()] == [row.fields for row in dataset.rows()]
    by_line = write(folder, "e.csv", f"sep={delimiter}\r\n{text.getvalue()}")
    again = open_dataset(by_line, needs_prompt=False)
    assert [list(row.fields.values()) for row in again.rows()] == rows


@pytest.mark.parametrize(
    ("content", "delimiter", "expected"),
    [
        ("input;n\nHello, there;1,5\nYou;2,7\n", "", [["Hello, there", "1,5"], ["You", "2,7"]]),
        ("input\none; two\n", "", [["one; two"]]),
        # A comma that fits is preferred, and a header with one cell has no delimiter.
        ("input,a;b\nx,y;z\n", "", [["x", "y;z"]]),
        ("a;b,input\nx;y,z\n", "", [["x;y", "z"]]),
        ('input;n\n"a\nb;";1\n', "", [["a\nb;", "1"]]),
        ("input^n\nx^1\n", "^", [["x", "1"]]),
        ("input||n\nx|y||1\n", "||", [["x|y", "1"]]),
        ("input\tn\nx;y\t1\n", "tab", [["x;y", "1"]]),
        ("\ufeffsep=;\ninput;n\nx;1\n", "", [["x", "1"]]),
        ("input,n\nx,1\n,\n\n,\n", "", [["x", "1"]]),
        # The line is no row where the delimiter is named as well.
        ("sep=;\ninput;n\nx;1\n", ";", [["x", "1"]]),
        ("sep=;\ninput,n\nx,1\n", ",", [["x", "1"]]),
        # What spreadsheets leave behind the last column and row.
        ("input;n;;\nx;1;;\ny;2\n ; ;;\n", "", [["x", "1"], ["y", "2"]]),
        ("input,n\nx,1,\ny,2, ,\n", "", [["x", "1"], ["y", "2"]]),
    ],
)
def test_delimiters(tmp_path, content, delimiter, expected):
    dataset = open_dataset(write(tmp_path, "d.csv", content), delimiter=delimiter)
    assert [list(row.fields.values()) for row in dataset.rows()] == expected


@pytest.mark.parametrize("delimiter", ['"', "\n", "a" * 9, ";\0"])
def test_what_cannot_separate_cells(tmp_path, delimiter):
    path = write(tmp_path, "d.csv", "input\nx\n")
    assert "delimiter: " in refused(path, delimiter=delimiter)


def test_a_csv_cell_may_be_longer_than_the_standard_librarys_limit(tmp_path):
    limit = csv.field_size_limit()
    long = "word, " * limit
    path = write(tmp_path, "d.csv", f'input,id\n"{long}",1\n')
    [row] = open_dataset(path).rows()
    assert row.input == long
    assert csv.field_size_limit() == limit


def test_a_quote_inside_a_plain_cell_is_a_quote(tmp_path):
    path = write(tmp_path, "d.csv", 'input,id\na 5" pipe,1\n')
    [row] = open_dataset(path).rows()
    assert row.input == 'a 5" pipe'


def test_a_file_that_changes_is_noticed(tmp_path):
    path = write(tmp_path, "d.jsonl", '{"input": "x"}\n')
    dataset = open_dataset(path)
    path.write_text('{"input": "y"}\n')
    with pytest.raises(DatasetError, match="changed since"):
        list(dataset.rows())


def test_rows_are_streamed(tmp_path):
    path = tmp_path / "d.jsonl"
    row = json.dumps({"input": "x" * 10_000}) + "\n"
    with path.open("w") as file:
        for _ in range(2_000):
            file.write(row)
    tracemalloc.start()
    try:
        dataset = open_dataset(path)
        assert sum(1 for _ in dataset.rows()) == 2_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 10


# What the columns mean


def only(folder: Path, row: dict, **options):
    dataset = open_dataset(write(folder, "d.jsonl", json.dumps(row)), **options)
    [found] = dataset.rows()
    return dataset, found


def test_references(tmp_path):
    _, row = only(tmp_path, {"input": "x", "reference": ["a", " ", "b"], "references": "c"})
    assert row.references == ("a", "b", "c")
    _, row = only(tmp_path, {"input": "x", "reference": None})
    assert row.references == ()


def test_messages_are_kept(tmp_path):
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    _, row = only(tmp_path, {"messages": messages})
    assert row.messages == tuple(messages)


def test_columns_are_mapped_and_keep_their_names(tmp_path):
    dataset, row = only(
        tmp_path,
        {"article": "x", "highlights": "y", "uid": 7},
        columns={"article": "input", "highlights": "reference", "uid": "id"},
    )
    assert (row.input, row.references, row.id) == ("x", ("y",), "7")
    assert dataset.columns == ("article", "highlights", "uid", "input", "reference", "id")
    assert row.fields["article"] == row.fields["input"] == "x"


def test_ids_become_text(tmp_path):
    path = write(tmp_path, "d.jsonl", '{"id": 1, "input": "x"}\n{"id": 2.5, "input": "y"}\n')
    assert [row.id for row in open_dataset(path).rows()] == ["1", "2.5"]


def test_lumigators_names_are_known_unless_ours_are_there(tmp_path):
    dataset, row = only(tmp_path, {"examples": "x", "ground_truth": "y"})
    assert (row.input, row.references) == ("x", ("y",))
    assert "input" in dataset.columns
    _, row = only(
        tmp_path, {"examples": [1, 2], "ground_truth": 3, "prompt": "x", "reference": "r"}
    )
    assert (row.input, row.prompt, row.references) == (None, "x", ("r",))


def test_answers_that_a_dataset_brings_along(tmp_path):
    for fields, answer in [
        ({"input": "x", "answer": "y"}, "y"),
        ({"examples": "x", "predictions": "y"}, "y"),
        ({"input": "x", "predictions": "n", "answer": "y"}, "y"),
        # Question answering datasets have lists and numbers there, which are no replies.
        ({"input": "x", "answer": {"text": ["y"]}}, None),
        ({"input": "x", "answer": 4}, None),
        ({"input": "x"}, None),
    ]:
        assert only(tmp_path, fields)[1].answer == answer
    _, row = only(tmp_path, {"input": "x", "reply": "y"}, columns={"reply": "answer"})
    assert row.answer == "y"
    _, row = only(tmp_path, {"input": "x", "reply": False}, columns={"reply": "answer"})
    assert row.answer == "false"
    with pytest.raises(DatasetError, match=r"d.jsonl:1: answer must be text, not a list"):
        only(tmp_path, {"input": "x", "reply": [4]}, columns={"reply": "answer"})


def test_openais_rows(tmp_path):
    line = {"item": {"input": "x", "reference": "y", "n": 1}, "sample": {"output_text": "z"}}
    dataset, row = only(tmp_path, line)
    assert (row.input, row.references, row.answer) == ("x", ("y",), "z")
    assert row.fields["item"]["n"] == row.fields["n"] == 1
    assert set(dataset.columns) == {"item", "sample", "input", "reference", "n", "answer"}
    _, row = only(tmp_path, {"item": {"q": "x"}}, columns={"q": "input"})
    assert (row.input, row.answer) == ("x", None)
    # A dataset may have a column of that name and mean something else.
    _, row = only(tmp_path, {"input": "x", "item": {"input": "y"}})
    assert row.input == "x"


def test_ids_are_checked_in_little_memory(tmp_path):
    path = tmp_path / "d.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"id": "number {n:09}", "input": "x"}}\n' for n in range(50_000))
    tracemalloc.start()
    try:
        open_dataset(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000 * 40
    with path.open("a") as file:
        file.write('{"id": "number 000049998", "input": "y"}\n')
    assert "d.jsonl:50001: the id 'number 000049998' was already used at" in refused(path)


def test_bombs_are_refused_quickly(tmp_path):
    """Small files that would take hours, or all memory, to read as they ask to be read."""
    names = ",".join(f"c{n}" for n in range(1_500_000))
    message = refused(write(tmp_path, "d.csv", names + "\nx\n"))
    assert message == "d.csv:1: the row has more than 4096 cells"
    keys = ",".join(f'"c{n}":1' for n in range(500_000))
    message = refused(write(tmp_path, "d.jsonl", "{" + keys + ',"c499999":1}\n'))
    assert message.startswith("d.jsonl:1: the key 'c499999' appears twice")
    message = refused(write(tmp_path, "d.jsonl", "{" + keys + "}\n"), needs_prompt=False)
    assert message.startswith("d.jsonl:1: the rows up to here have more than 4096 different")


def test_a_parquet_file_that_unpacks_to_very_much(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    from pyarrow import parquet

    path = tmp_path / "d.parquet"
    parquet.write_table(pa.table({"input": ["x" * 1_000_000] * 64}), path)
    assert path.stat().st_size < 100_000
    assert open_dataset(path).row_count == 64
    message = refused(path, max_line_bytes=2_000_000)
    assert message.startswith("d.parquet: the 64 rows after row 0 have 64000")
    many = pa.table({f"c{n}": [1] for n in range(4097)})
    parquet.write_table(many, path)
    assert refused(path) == "d.parquet: has 4097 columns, more than 4096"


def saved(folder: Path, *names: str) -> Path:
    """A folder as Hugging Face's `save_to_disk` writes it."""
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    table = pa.table({"input": ["x", "y"], "reference": ["z", None]})
    path = str(folder / "a.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names]}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_saved_folder(tmp_path):
    dataset = open_dataset(saved(tmp_path, "a.arrow", "a.arrow"))
    assert (dataset.format, dataset.row_count) == ("arrow", 4)
    assert [row.references for row in dataset.rows()] == [("z",), (), ("z",), ()]


def test_defects_of_a_saved_folder(tmp_path):
    for names, message in [
        (["../a.arrow"], "names '../a.arrow', which save_to_disk would not"),
        (["\ud800.arrow"], "which save_to_disk would not"),
        (["b.arrow"], "cannot be read: No such file or directory"),
        ([], "has no rows"),
    ]:
        assert message in refused(saved(tmp_path, *names))
    for text in ("[]", "{}", "{", '{"_data_files": [1]}', '{"_data_files": 1}'):
        (tmp_path / "state.json").write_text(text)
        assert "not written by datasets' save_to_disk" in refused(tmp_path)
    saved(tmp_path, "a.arrow")
    whole = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(b"x" + whole[1:])
    assert "not an arrow stream pyarrow can read" in refused(tmp_path)
    # A length that leads outside the file.
    (tmp_path / "a.arrow").write_bytes(whole.replace(b"\2\0\0\0", b"\xff\xff\xff\x7f"))
    assert "not an arrow stream" in refused(tmp_path)
    inner = tmp_path / "folder" / "train"
    inner.mkdir(parents=True)
    saved(inner, "a.arrow")
    assert "name one of them, as folder/train" in refused(tmp_path / "folder")


def test_too_many_columns(tmp_path):
    lines = [json.dumps({"input": "x", f"c{n}": 1}) for n in range(5000)]
    message = refused(write(tmp_path, "d.jsonl", "\n".join(lines)))
    assert message.startswith("d.jsonl:4096: the rows up to here have more than 4096 different")


def test_a_run_with_its_own_template_needs_no_prompt_column(tmp_path):
    dataset, row = only(tmp_path, {"question": "x"}, needs_prompt=False)
    assert dataset.columns == ("question",)
    assert (row.messages, row.prompt, row.input) == (None, None, None)


@pytest.mark.parametrize(
    "name",
    [
        "references.csv",
        "blank_references.csv",
        "no_references.csv",
        "some_blank_references.csv",
        "long_inputs.csv",
        "empty_predictions.csv",
        "english_german.csv",
        "english_spanish.csv",
    ],
)
def test_files_of_lumigators_shape(name):
    path = DIALOGUES / name
    with path.open(newline="", encoding="utf-8") as file:
        oracle = list(csv.DictReader(file))
    dataset = open_dataset(path)
    found = list(dataset.rows())
    assert dataset.row_count == len(found) == len(oracle)
    for row, expected in zip(found, oracle, strict=True):
        assert {key: row.fields[key] for key in expected} == expected
        truth = expected.get("ground_truth", "")
        assert row.references == ((truth,) if truth.strip() else ())
        assert row.answer == expected.get("predictions")


def test_rows_without_their_last_cell_are_rows_without_references():
    dataset = open_dataset(DIALOGUES / "rows_without_last_cell.csv")
    rows = list(dataset.rows())
    assert len(rows) == dataset.row_count > 0
    assert all(row.references == () for row in rows)
    assert all(row.fields["examples"].startswith("#Person1#") for row in rows)
    assert dataset.columns == ("examples", "ground_truth", "input", "reference")
    assert all(row.fields["ground_truth"] == "" for row in rows)


def test_a_real_json_array():
    dataset = open_dataset(VICUNA, columns={"instruction": "input"})
    assert dataset.row_count == 320
    assert [row.input for row in dataset.rows()] == [row["instruction"] for row in vicuna_rows()]


# Defects


def test_missing_files_and_folders(tmp_path):
    write(tmp_path, "news.csv", "input\nx\n")
    write(tmp_path, "notes.md", "")
    assert refused(tmp_path / "nwes.csv") == "nwes.csv: no such file. Did you mean 'news.csv'?"
    assert "there is no folder" in refused(tmp_path / "no" / "news.csv")
    assert refused(tmp_path).endswith("is a folder; name a file in it")
    assert "unknown extension '.md'; a dataset is named .jsonl" in refused(tmp_path / "notes.md")
    assert "no extension" in refused(write(tmp_path, "rows", ""))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", ""),
        ("d.jsonl", "\n\n"),
        ("d.json", ""),
        ("d.json", " [ ] "),
        ("d.csv", ""),
        ("d.csv", "input,id\n"),
        ("d.tsv", "\n\n"),
    ],
)
def test_no_rows(tmp_path, name, content):
    assert refused(write(tmp_path, name, content)) == (
        f"{name}: the dataset has no rows; write at least one"
    )


GOOD = b'{"input": "x"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + b'{"input": "\xff"}\n', "d.jsonl:2: byte 26 of the file (0xff) is not UTF-8"),
        (b"\xef\xbb\xbf" + GOOD + b"\xc3\n", "d.jsonl:2: byte 18 of the file (0xc3)"),
        (GOOD + b'  {"input" "x"}', "d.jsonl:2: not JSON at column 12: Expecting ':' delimiter"),
        (GOOD + b'{"input": "x"} {}', "d.jsonl:2: more text after the value at column 15"),
        (GOOD + b'["x"]', "d.jsonl:2: a row must be an object, not a list; write one object"),
        (b"[\n" + GOOD, "d.jsonl:1: not JSON at column 2: Expecting value"),
        (b"3", "d.jsonl:1: a row must be an object, not a number"),
        (b'{"input": "x", "n": NaN}', "d.jsonl:1: NaN is not JSON; write null"),
        (b'{"input": "x", "n": -Infinity}', "d.jsonl:1: -Infinity is not JSON"),
        (b'{"input": "x", "n": 1e999}', "d.jsonl:1: the number 1e999 is too large"),
        (
            b'{"input": "x", "n": ' + b"9" * 5000 + b"}",
            "d.jsonl:1: an integer has 5,000 characters; at most 4,300",
        ),
        (b'{"input": "x", "a": {"b": 1, "b": 2}}', "the key 'b' appears twice in one object"),
        (b'{"input": "\\ud83d"}', "d.jsonl:1: a \\u escape is half of a surrogate pair"),
        (b'{"input": ' + b"[" * 200_000, "d.jsonl:1: the JSON is nested too deeply"),
        (b'{"input": "x\ty"}', "d.jsonl:1: not JSON at column 13: Invalid control character"),
        (b'{"input": {"a": 5}}', "d.jsonl:1: input must be text, not an object"),
        (b'{"input": "\\u200b"}', "d.jsonl:1: input is empty"),
        ('{"input": "x"}\n'.encode("utf-16"), "d.jsonl: begins as UTF-16 does; save the file"),
        (b'{"prompt": ["x"]}', "d.jsonl:1: prompt must be text, not a list"),
        (b'{"input": " \\n"}', "d.jsonl:1: input is empty; fill it in or remove the row"),
        (
            b'{"input": "x", "reference": [["y"]]}',
            "reference must be text or a list of texts, found",
        ),
        (b'{"messages": "x"}', "messages must be a list of chat messages, not text"),
        (b'{"messages": []}', "messages must be a list of chat messages, not an empty list"),
        (b'{"messages": [{"role": "user"}, 1]}', "messages[1] must be an object with role"),
        (b'{"messages": [{"content": "x"}]}', "d.jsonl:1: messages[0] needs a role"),
        (b'{"id": true, "input": "x"}', "d.jsonl:1: id must be text or a number, not a boolean"),
        (GOOD + b"{}", "d.jsonl:2: the row has no input, prompt or messages. Its columns: none"),
        (
            b'{"inptu": "x", "n": 1}',
            "d.jsonl:1: the row has no input, prompt or messages. Its columns: 'inptu', 'n'. Map "
            "one, for example columns: {inptu: input}, or name",
        ),
        (
            b'{"id": 1, "input": "x"}\n\n{"id": "1", "input": "y"}',
            "d.jsonl:3: the id '1' was already used at d.jsonl:1; ids are unique",
        ),
        (
            b'{"id": 1, "input": "x"}\n{"id": null, "input": "y"}',
            "d.jsonl:2: the row has no id, while d.jsonl:1 has one",
        ),
        (
            b'{"input": "x"}\n{"input": "y"}\n{"id": "c", "input": "y"}',
            "d.jsonl:1: the row has no id, while d.jsonl:3 has one",
        ),
    ],
)
def test_defects_of_json_lines(tmp_path, content, message):
    assert message in refused(write(tmp_path, "d.jsonl", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"data": []}',
            "d.json:1: the row has no input, prompt or messages. Its columns: 'data'",
        ),
        (
            '{\n"data": []}',
            "d.json:1: not JSON at column 1: expected [; a .json dataset is one array",
        ),
        ('{"input": "x"}\n{"input": "y"', "d.json:2: not JSON at column 14"),
        ('[\n{"input": "x"},\n]', "d.json:3: not JSON at column 1: Expecting value"),
        ('[\n{"input": "x"}\n', "d.json:3: not JSON at column 1: expected , or ]"),
        ('[{"input": "x"}]\n[]', "d.json:2: not JSON at column 1: more text after the array"),
        ('[\n{"input": "x"},\n\n7]', "d.json:4: a row must be an object, not a number"),
        ('[\n{"input": "x",\n"input": ""}]', "d.json:2: the key 'input' appears twice"),
        ('[{"input": "x"},\n{"n": Infinity}]', "d.json:2: Infinity is not JSON"),
    ],
)
def test_defects_of_a_json_array(tmp_path, content, message):
    assert message in refused(write(tmp_path, "d.json", content))


@pytest.mark.parametrize("beginning", [b"", b"\xef\xbb\xbf"])
def test_json_lines_may_be_named_json(tmp_path, beginning):
    path = write(tmp_path, "d.json", beginning + b'{"input": "x"}\n{"input": "y"}\n')
    dataset = open_dataset(path)
    assert [row.input for row in dataset.rows()] == ["x", "y"]
    assert dataset.hash == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_json_file_may_be_one_line(tmp_path, end):
    [row] = open_dataset(write(tmp_path, "d.json", '{"input": "x"}' + end)).rows()
    assert row.input == "x"


def test_bad_utf8_in_a_json_array_names_its_line(tmp_path):
    path = write(tmp_path, "d.json", b'[\n{"input":\n"\xe9t\xe9"}]')
    assert "d.json:3: byte 13 of the file (0xe9) is not UTF-8" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("input,id\nx\n", "d.csv:2: the row has 1 cells, the header 2"),
        ('input,id\n"x"\n"y",1\n', "d.csv:3: the row has 2 cells, the rows before it 1"),
        ('input,id\n"x",1\n"y"\n', "d.csv:3: the row has 1 cells, the header 2"),
        ('input,id\n"x\ny",1\nx,2,3\n', "d.csv:4: the row has 3 cells, the header 2"),
        ("input,id,input\n", "d.csv:1: the header names 'input' twice"),
        (",input\n0,x\n", "d.csv:1: column 1 of the header has no name"),
        ("input\nx\0y\n", "d.csv:2: a NUL byte at column 2"),
        ('input\n"a\nb\0"\n', "d.csv:3: a NUL byte at column 2"),
        ('input\nx\n"y\nz\n', "d.csv:3: the quote opened here is not closed"),
        ('input\n"x"y\n', "d.csv:2: text after the closing quote at column 3"),
        ('input\n"x" \n', "d.csv:2: text after the closing quote at column 3"),
        ("input\rx\ry\r", "d.csv:1: a carriage return without a newline"),
        ("a,b\n1,2\n", "d.csv:2: the row has no input, prompt or messages. Its columns: 'a', 'b'"),
        ("input\n\udcff\n", "d.csv:2: byte 6 of the file (0xff) is not UTF-8"),
        ('id,input\n1,x\n"",y\n', "d.csv:3: the row has no id, while d.csv:2 has one"),
        ('id,input\n1,"x\n"\n1,y\n', "d.csv:4: the id '1' was already used at d.csv:2"),
        ("messages\nhi\n", "d.csv:2: messages must be a list of chat messages, not text"),
    ],
)
def test_defects_of_csv(tmp_path, content, message):
    path = write(tmp_path, "d.csv", content.encode(errors="surrogateescape"))
    assert message in refused(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"artcle": "input"},
            "there is no column 'artcle' to map to 'input'. Did you mean 'article'",
        ),
        (
            {"article": "inputs"},
            "column 'article' cannot be mapped to 'inputs'. Did you mean 'input'",
        ),
        ({"article": "input", "text": "input"}, "'article' and 'text' are both mapped to 'input'"),
        ({"article": "input", "n": "id", "text": "prompt"}, "the row has a column 'id' and 'n' is"),
        ({"article": "input", "nn": "reference"}, "no column 'nn' to map to 'reference'"),
    ],
)
def test_mappings_that_cannot_be(tmp_path, columns, message):
    path = write(tmp_path, "d.csv", "article,text,n,id\nx,y,z,1\n")
    assert message in refused(path, columns=columns)


def test_a_long_line_is_refused_without_being_held(tmp_path):
    path = tmp_path / "d.jsonl"
    block = b"x" * 1_000_000
    with path.open("wb") as file:
        file.write(GOOD + b'{"input": "')
        for _ in range(100):
            file.write(block)
    tracemalloc.start()
    try:
        message = refused(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message.startswith("d.jsonl:2: the line is longer than 16777216 bytes")
    assert peak < 3 * 16_777_216


def test_a_long_row_is_refused_whatever_its_lines(tmp_path):
    lines = "word\n" * 30
    path = write(tmp_path, "d.csv", f'input\n"{lines}"\n')
    assert "d.csv:2: the quote opened here" in refused(path, max_line_bytes=100)
    path = write(tmp_path, "d.json", json.dumps([{"input": "x"}, {"input": lines}]))
    assert "row 2 is longer than 100 bytes" in refused(path, max_line_bytes=100)


def test_the_limit_itself_is_accepted(tmp_path):
    path = write(tmp_path, "d.jsonl", GOOD)
    assert open_dataset(path, max_line_bytes=len(GOOD)).row_count == 1
    assert "longer than 14 bytes" in refused(path, max_line_bytes=len(GOOD) - 1)


def test_defects_of_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    from pyarrow import parquet

    def table(columns: dict) -> Path:
        parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
        return tmp_path / "d.parquet"

    assert "not a parquet file" in refused(write(tmp_path, "bad.parquet", b"PAR1 no"))
    assert "no rows" in refused(table({"input": pa.array([], pa.string())}))
    message = refused(table({"input": ["x", "y"], "n": [1.0, float("nan")]}))
    assert message.startswith("d.parquet: row 2: column 'n' holds NaN or an infinity")
    message = refused(table({"input": ["x"], "image": [b"\x89PNG"]}))
    assert message.startswith("d.parquet: row 1: column 'image' holds a bytes")
    twice = pa.table([pa.array(["x"]), pa.array(["y"])], names=["input", "input"])
    parquet.write_table(twice, tmp_path / "d.parquet")
    assert "two columns are named 'input'" in refused(tmp_path / "d.parquet")


def test_dates_and_decimals_of_parquet_are_texts(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    from pyarrow import parquet

    day = datetime.date(2024, 2, 29)
    columns = {"input": ["x"], "reference": [Decimal("1.50")], "on": [day], "seen": [[{"at": day}]]}
    parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    [row] = open_dataset(tmp_path / "d.parquet").rows()
    assert row.references == ("1.50",)
    assert (row.fields["on"], row.fields["seen"]) == ("2024-02-29", [{"at": "2024-02-29"}])


def test_parquet_without_pyarrow_names_the_extra(tmp_path):
    path = write(tmp_path, "d.parquet", b"PAR1")
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        sys.modules["pyarrow"] = None  # what Python does for a package that is not there
        from evaluators.data.dataset import open_dataset
        from providers.errors import MissingExtraError
        try:
            open_dataset(Path(sys.argv[1]))
        except MissingExtraError as error:
            print(error.message)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == (
        "Reading parquet needs the extra 'parquet': pip install 'evalrouter[parquet]'"
    )


def test_a_dataset_is_a_value(tmp_path):
    path = write(tmp_path, "d.jsonl", GOOD)
    first = open_dataset(path, name="mine")
    assert isinstance(first, Dataset)
    assert first == open_dataset(path, name="mine")
    assert first.name == "mine"


# Numbers, booleans and paths


@pytest.mark.parametrize(
    ("value", "references"),
    [
        (4, ("4",)),
        (4.5, ("4.5",)),
        (-0.0, ("-0.0",)),
        (True, ("true",)),
        (False, ("false",)),
        ([1, True, "x", " ", None, "\u200b"], ("1", "true", "x")),
        (0, ("0",)),
        (10**30, (str(10**30),)),
        (None, ()),
        ([], ()),
    ],
)
def test_numbers_and_booleans_are_references_as_json_writes_them(tmp_path, value, references):
    _, row = only(tmp_path, {"input": "x", "reference": value})
    assert row.references == references
    _, row = only(tmp_path, {"input": "x", "gold": value}, columns={"gold": "reference"})
    assert row.references == references


def test_numbers_and_booleans_are_inputs_too(tmp_path):
    assert only(tmp_path, {"input": 5})[1].input == "5"
    assert only(tmp_path, {"prompt": False})[1].prompt == "false"


SQUAD = {"question": "Who?", "answers": {"text": ["Ann", "Bob"], "start": [0, 3]}}


@pytest.mark.parametrize(
    ("fields", "path", "references"),
    [
        (SQUAD, "answers.text", ("Ann", "Bob")),
        (SQUAD, "answers.text.1", ("Bob",)),
        (SQUAD, "answers.start", ("0", "3")),
        ({"question": "x", "t": {"de": "Hallo"}}, "t.de", ("Hallo",)),
        ({"question": "x", "a": [{"b": "c"}, {"b": "d"}, 3]}, "a.b", ("c", "d")),
        ({"question": "x", "a": {"b": {"c": True}}}, "a.b.c", ("true",)),
        ({"question": "x", "a": [{"b": [{"c": 1}, {"c": 2}]}, {"b": []}]}, "a.b.c", ("1", "2")),
        ({"question": "x", "a.b": {"c.d": "e"}, "a": {}}, "a.b.c.d", ("e",)),
        # A column of that very name comes first.
        ({"question": "x", "a.b": "c", "a": {"b": "d"}}, "a.b", ("c",)),
    ],
)
def test_a_path_leads_into_a_column(tmp_path, fields, path, references):
    columns = {"question": "input", path: "reference"}
    dataset, row = only(tmp_path, fields, columns=columns)
    assert row.references == references
    assert {"input", "reference"} <= {*dataset.columns}
    assert row.fields == fields | {
        "input": fields["question"],
        "reference": row.fields["reference"],
    }


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("answers", "found an object; name a part of it by a path, for example answers.text"),
        ("answers.txt", "there is no column 'answers.txt' to map to 'reference'"),
        ("answers.text.7", "there is no column 'answers.text.7'"),
        ("answers.text." + "9" * 5000, "there is no column 'answers.text.999"),
        ("answer.text", "there is no column 'answer.text' to map to 'reference'. Did you mean"),
        ("question.text", "there is no column 'question.text'"),
    ],
)
def test_a_path_that_leads_nowhere(tmp_path, path, message):
    path_ = write(tmp_path, "d.jsonl", json.dumps(SQUAD) + "\n")
    assert message in refused(path_, columns={"question": "input", path: "reference"})


def test_a_row_may_lack_what_a_path_leads_to(tmp_path):
    rows = [SQUAD, {"question": "x", "answers": {}}, {"question": "y"}]
    path = write(tmp_path, "d.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    dataset = open_dataset(path, columns={"question": "input", "answers.text": "reference"})
    assert [row.references for row in dataset.rows()] == [("Ann", "Bob"), (), ()]
