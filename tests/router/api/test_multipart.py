"""`POST /datasets` as a form: uploads, and forms that are none."""

from __future__ import annotations

import httpx
import pytest
from servers import gateway

ROWS = b'{"article": "hi", "reference": "x"}\n' * 3
MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    config = f"""
server: {{port: 0, max_body_bytes: 2000}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
datasets: {{max_bytes: {MAX_BYTES}, roots: ["{folder}"]}}
"""
    (folder / "here.jsonl").write_bytes(ROWS)
    with gateway(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield folder, http


def refused(answer, status=400):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


def test_a_form_is_an_upload(server):
    _, http = server
    answer = http.post(
        "/datasets",
        files={"file": ("rows.jsonl", ROWS)},
        data={"name": "mine", "column": ["article=input"]},
    )
    assert answer.status_code == 201, answer.text
    row = answer.json()
    assert (row["name"], row["rows"], row["mapping"]) == ("mine", 3, {"article": "input"})
    assert http.get("/datasets/mine/content").content == ROWS
    # In the other order, and without a name.
    parts = [("file", ("q.csv", b"input;reference\na;b\n")), ("delimiter", (None, ";"))]
    answer = http.post("/datasets", files=parts)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["name"], answer.json()["rows"]) == ("q", 1)


def test_json_is_as_it_was(server):
    folder, http = server
    answer = http.post("/datasets", json={"source": str(folder / "here.jsonl")})
    assert answer.status_code == 201, answer.text
    refused(http.post("/datasets", json={"source": "x" * 3000}), 413)
    refused(http.post("/datasets", content=b"{"))


def test_a_file_may_be_larger_than_other_bodies_but_not_than_a_dataset(server):
    _, http = server
    rows = b'{"input": "%s"}\n' % (b"x" * 10_000) * 25
    assert http.post("/datasets", files={"file": ("large.jsonl", rows)}).status_code == 201
    message = refused(http.post("/datasets", files={"file": ("l.jsonl", rows * 2)}), 413)
    assert "datasets.max_bytes" in message


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ([("name", (None, "x"))], "no file"),
        ([("file", ("a.jsonl", ROWS)), ("file", ("b.jsonl", ROWS))], "several files"),
        ([("dataset", ("a.jsonl", ROWS))], "'file'"),
        ([("file", (None, ROWS))], "filename"),
        ([("file", ("a.exe", ROWS))], "filename"),
        ([("file", ("a.jsonl", ROWS)), ("nmae", (None, "x"))], "nmae"),
        ([("file", ("a.jsonl", ROWS)), ("name", (None, "x")), ("name", (None, "y"))], "name"),
        ([("file", ("a.jsonl", ROWS)), ("name", (None, "../x"))], "name"),
        ([("file", ("a.jsonl", ROWS)), ("name", (None, b"\xff"))], "UTF-8"),
        ([("file", ("a.jsonl", ROWS)), ("name", (None, "x" * 70_000))], "name"),
        ([("file", ("a.jsonl", ROWS)), ("column", (None, "article"))], "article"),
        ([("file", ("a.jsonl", ROWS)), ("delimiter", (None, ";" * 17))], "delimiter"),
        ([("file", ("a.jsonl", b"")), ("x" * 5000, (None, "x"))], "names"),
        ([("file", ("a.jsonl", ROWS)), *[("column", (None, "a=b"))] * 600], "too many"),
    ],
)
def test_forms_that_make_no_upload_are_refused(server, files, part):
    folder, http = server
    stored = sorted(folder.rglob("*.jsonl"))
    assert part in refused(http.post("/datasets", files=files))
    assert sorted(folder.rglob("*.jsonl")) == stored


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n--x--"),
        ("multipart/form-data; boundary=", b"--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"no boundary anywhere" * 1000),
        ("multipart/form-data; boundary=x", b"--x\r\nno header\r\n\r\na\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"inp',
        ),
        ("multipart/form-data; boundary=" + "x" * 2000, b"--x--"),
        ("multipart/mixed; boundary=x", b"--x--"),
    ],
)
def test_bodies_that_are_no_forms_are_refused(server, kind, body):
    _, http = server
    refused(http.post("/datasets", content=body, headers={"content-type": kind}))


def test_a_filename_leads_nowhere(server):
    folder, http = server
    answer = http.post("/datasets", files={"file": ("../../../led-away.jsonl", ROWS)})
    assert answer.status_code in (201, 400)
    written = folder.parent.rglob("led-away*")
    assert not [path for path in written if "artifacts" not in path.parts]
