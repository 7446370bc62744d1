"""Registered datasets: versions, runs over them, the command line, HTTP, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner, Result
from servers import gateway, s3_server

from evaluators.document import RunDocument
from providers.errors import (
    ConflictError,
    DatasetError,
    NotFoundError,
    RequestError,
    RunDocumentError,
    StoreError,
)
from router.cli import main
from router.config.evaluation import Datasets
from router.config.loading import parse
from router.config.schema import Config
from router.config.storage import Storage
from router.services import Services

ROOT = Path(__file__).parents[3]
ROWS = [{"q": f"ask {n}", "truth": str(n), "topic": "ab"[n % 2]} for n in range(6)]
COLUMNS = {"q": "input", "truth": "reference"}


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(params=["folder", "s3"])
def config(request, tmp_path):
    database = f"sqlite:///{tmp_path}/e.db"
    plain = parse("", "test.yaml", {})
    if request.param == "folder":
        storage = Storage(database=database, artifacts=str(tmp_path / "artifacts"))
        yield msgspec.structs.replace(plain, storage=storage)
        return
    with s3_server("datasets") as s3:
        storage = Storage(database=database, artifacts=f"s3://datasets/{tmp_path.name}", s3=s3)
        yield msgspec.structs.replace(plain, storage=storage)


@pytest.fixture
async def services(config):
    async with Services(config) as services:
        yield services


@pytest.fixture
def news(tmp_path):
    path = tmp_path / "news.jsonl"
    path.write_bytes(jsonl(ROWS))
    return path


async def stored_keys(services) -> list[str]:
    return [artifact.key async for artifact in services.datasets.artifacts.list()]


async def samples_of(services, dataset: str, **fields):
    document = {"dataset": dataset, "routes": ["baseline/echo"], "metrics": ["exact_match"]}
    run = await services.runs.create(msgspec.convert(document | fields, RunDocument), base=Path())
    return run, [sample async for sample in services.store.samples(run.id)]


# Versions


async def test_a_version_for_each_content(services, news):
    first = await services.datasets.add(str(news), columns=COLUMNS, over_http=False)
    assert (first.name, first.hash, first.rows) == ("news", sha(news.read_bytes()), 6)
    assert await services.datasets.add(str(news), columns=COLUMNS, over_http=False) == first
    news.write_bytes(jsonl(ROWS[:2]))
    second = await services.datasets.add(str(news), columns=COLUMNS, over_http=False)
    assert [row.hash for row in await services.store.datasets("news")] == [second.hash, first.hash]
    assert await services.datasets.find("news") == second
    assert await services.datasets.find(f"news@{first.hash[:8]}") == first
    assert await stored_keys(services) == sorted([first.path, second.path])
    async with services.datasets.file(first) as path:
        assert path.read_bytes() == jsonl(ROWS)


async def test_a_run_names_a_version_and_keeps_it(services, news):
    first = await services.datasets.add(str(news), columns=COLUMNS, over_http=False)
    run, samples = await samples_of(services, "news")
    assert run.dataset == run.document["dataset"] == f"news@{first.hash[:12]}"
    assert (run.name, run.dataset_hash) == ("news", first.hash)
    assert [sample.references for sample in samples] == [(row["truth"],) for row in ROWS]
    news.write_bytes(jsonl(ROWS[:2]))
    await services.datasets.add(str(news), columns=COLUMNS, over_http=False)
    assert len((await samples_of(services, "news"))[1]) == 2
    assert len((await samples_of(services, f"news@{first.hash[:6]}"))[1]) == 6
    await services.datasets.delete("news", every=True)
    assert await stored_keys(services) == []
    assert [sample async for sample in services.store.samples(run.id)] == samples


async def test_a_documents_columns_stand_before_the_registered_ones(services, news):
    await services.datasets.add(str(news), columns=COLUMNS, over_http=False)
    _, samples = await samples_of(services, "news", columns={"topic": "reference"})
    assert [sample.references[0] for sample in samples] == [row["topic"] for row in ROWS]


async def test_the_same_file_under_two_names_is_kept_until_the_last_goes(services, news):
    first = await services.datasets.add(str(news), name="one", over_http=False)
    await services.datasets.add(str(news), name="two", over_http=False)
    await services.datasets.delete("one")
    assert await stored_keys(services) == [first.path]
    await services.datasets.delete("two")
    assert await stored_keys(services) == []


async def test_a_folder_saved_by_datasets(services, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra evaluate is not installed")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
    row = await services.datasets.add(str(tmp_path / "saved"), columns=COLUMNS, over_http=False)
    assert (row.rows, row.format) == (6, "jsonl")
    _, samples = await samples_of(services, "saved")
    assert [sample.fields["q"] for sample in samples] == [row["q"] for row in ROWS]
    # A run may name the folder itself, too.
    _, again = await samples_of(services, str(tmp_path / "saved"), columns=COLUMNS)
    assert again == samples


async def test_what_columns_hold(services, tmp_path):
    rows = [
        {"input": "ab", "n": 1},
        {"input": " ", "n": 4},
        {"input": "ab"},
        {"input": "c", "n": [1]},
    ]
    (tmp_path / "d.jsonl").write_bytes(jsonl(rows))
    await services.datasets.add(str(tmp_path / "d.jsonl"), over_http=False)
    shown = await services.datasets.show("d", rows=2)
    text, number = shown.columns
    assert (text.kinds, text.missing, text.blank, text.distinct) == ({"text": 4}, 0, 1, 3)
    assert (text.shortest, text.longest, text.mean_length) == (1, 2, 1.5)
    assert text.common == (("ab", 2), (" ", 1), ("c", 1))
    assert (number.kinds, number.missing) == ({"a number": 2, "a list": 1}, 1)
    assert (number.lowest, number.highest, number.mean) == (1, 4, 2.5)
    assert shown.preview == rows[:2]


# Refusals


async def test_what_cannot_be_found(services, news):
    row = await services.datasets.add(str(news), over_http=False)
    with pytest.raises(NotFoundError, match=r"no dataset 'nwes'\. Did you mean 'news'"):
        await services.datasets.find("nwes")
    with pytest.raises(
        NotFoundError, match=f"no version that begins with 0000. Known: {row.hash[:12]}"
    ):
        await services.datasets.find("news@0000")
    with pytest.raises(DatasetError, match=r"neither a registered dataset nor a file\."):
        await samples_of(services, "nwes", prompt="x")


async def test_a_name_with_several_versions_is_not_deleted_by_accident(services, news):
    first = await services.datasets.add(str(news), over_http=False)
    news.write_bytes(jsonl(ROWS[:2]))
    await services.datasets.add(str(news), over_http=False)
    with pytest.raises(ConflictError, match=r"'news' has 2 versions: news@.*; name one"):
        await services.datasets.delete("news")
    assert await services.datasets.delete(f"news@{first.hash}") == [first]
    assert len(await services.store.datasets()) == 1


async def test_one_content_has_one_meaning_under_a_name(services, news):
    await services.datasets.add(str(news), columns=COLUMNS, over_http=False)
    with pytest.raises(
        ConflictError, match=r"has the same rows with .*, not with .*delete it first"
    ):
        await services.datasets.add(str(news), columns={"topic": "input"}, over_http=False)


@pytest.mark.parametrize("name", ["a b", "../x", "", "-x", "x" * 129, "a/b"])
async def test_names(services, news, name):
    if name:
        with pytest.raises(DatasetError, match="cannot be a dataset's name"):
            await services.datasets.add(str(news), name=name, over_http=False)
    assert await services.store.datasets() == []


async def test_what_the_database_refuses_is_not_kept(services, news, tmp_path):
    with closing(sqlite3.connect(tmp_path / "e.db")) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON datasets WHEN new.name = 'b'"
            " BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    with pytest.raises(StoreError, match="not this one"):
        await services.datasets.add(str(news), name="b", over_http=False)
    assert await stored_keys(services) == []
    # What another version needs stays.
    row = await services.datasets.add(str(news), name="a", over_http=False)
    with pytest.raises(StoreError):
        await services.datasets.add(str(news), name="b", over_http=False)
    assert await stored_keys(services) == [row.path]


def test_a_full_disk_registers_nothing(tmp_path, news, monkeypatch):
    """A limit on the size of files refuses as a full disk does, for this process alone."""
    news.write_bytes(jsonl({"input": "x" * 1000, "id": n} for n in range(4000)))
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000));"
        "from router.cli import main; main(['dataset', 'add', 'news.jsonl'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "no space left (File too large); nothing of it was stored" in done.stderr
    assert "Traceback" not in done.stderr
    monkeypatch.chdir(tmp_path)
    assert evalrouter("dataset", "list").stdout == "No datasets yet.\n"
    assert [
        artifact for artifact in (tmp_path / "artifacts").rglob("*") if artifact.is_file()
    ] == []


# The command line


def evalrouter(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == status, done.output
    return done


def test_the_command_line(tmp_path, news, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = ("--column", "q=input", "--column", "truth=reference")
    added = evalrouter("dataset", "add", "news.jsonl", *columns, "--json")
    row = json.loads(added.stdout)
    assert (row["name"], row["mapping"]) == ("news", COLUMNS)
    assert f"news@{row['hash'][:12]}" in evalrouter("dataset", "list").stdout
    shown = evalrouter("dataset", "show", "news").stdout
    assert "6 rows, 258 bytes of jsonl, from news.jsonl" in shown
    assert '"q": "ask 0"' in shown
    evalrouter("dataset", "download", "news", "--to", "copy.jsonl")
    assert (tmp_path / "copy.jsonl").read_bytes() == news.read_bytes()
    message = evalrouter("dataset", "download", "news", "--to", "copy.jsonl", status=2)
    assert message.stderr == "error: copy.jsonl: File exists\n"
    document = {"dataset": "news", "routes": ["baseline/echo"], "metrics": ["exact_match"]}
    (tmp_path / "run.yaml").write_text(json.dumps(document))
    assert "6 samples" in evalrouter("eval", "run", "run.yaml").stdout
    evalrouter("dataset", "delete", "news")
    message = evalrouter("dataset", "show", "news", status=2)
    assert message.stderr == "error: there is no dataset 'news'.\n"
    message = evalrouter("dataset", "add", "news.jsonl", "--column", "q", status=2)
    assert message.stderr.startswith("error: column: 'q' must be of the form own=known")


# HTTP


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse(
        "datasets: {max_bytes: 100000, roots: [data]}\nserver: {max_body_bytes: 1000}", "t", {}
    )
    (tmp_path / "data").mkdir()
    with gateway(config) as url:
        yield url


def refusal(response: httpx.Response) -> dict:
    assert set(response.json()) == {"error"}, response.text
    return {"status": response.status_code, **response.json()["error"]}


def test_over_http(server, http):
    body = jsonl(ROWS * 10)
    assert len(body) > 1000  # more than other requests may have
    query = {"filename": "n.jsonl", "column": ["q=input", "truth=reference"]}
    put = http.put(f"{server}/datasets/news", params=query, content=body)
    assert put.status_code == 200, put.text
    row = put.json()
    assert (row["hash"], row["rows"], row["mapping"]) == (sha(body), 60, COLUMNS)
    assert [run["hash"] for run in http.get(f"{server}/datasets").json()["data"]] == [sha(body)]
    shown = http.get(f"{server}/datasets/news@{sha(body)[:8]}?rows=1").json()
    assert shown["preview"][0]["q"] == "ask 0"
    assert [column["name"] for column in shown["columns"]][:3] == ["q", "truth", "topic"]
    content = http.get(f"{server}/datasets/news/content")
    assert content.content == body
    assert content.headers["content-disposition"] == 'attachment; filename="news.jsonl"'
    document = {"dataset": "news", "routes": ["baseline/echo"], "metrics": ["exact_match"]}
    created = http.post(f"{server}/eval", json=document)
    assert (created.status_code, created.json()["dataset_rows"]) == (202, 60)
    assert http.delete(f"{server}/datasets/news").json() == {"deleted": [f"news@{sha(body)}"]}
    assert refusal(http.get(f"{server}/datasets/news"))["status"] == 404
    assert refusal(http.get(f"{server}/datasets/news/content"))["status"] == 404


def test_clients_are_not_told_where_a_damaged_dataset_lies(server, http, tmp_path):
    body = jsonl(ROWS)
    put = http.put(f"{server}/datasets/news", params={"filename": "n.jsonl"}, content=body)
    assert put.status_code == 200, put.text
    [file] = tmp_path.rglob(f"{sha(body)}.jsonl")
    file.write_bytes(b"{" * 20 + body[20:])
    damaged = refusal(http.get(f"{server}/datasets/news"))
    assert damaged["message"].startswith("news:")
    file.unlink()
    gone = refusal(http.get(f"{server}/datasets/news"))
    assert gone["status"] == 404
    lost = refusal(http.get(f"{server}/datasets/news/content"))
    assert not [error for error in (damaged, gone, lost) if str(tmp_path) in error["message"]]


def test_an_upload_without_a_length_is_counted(server, http):
    def chunks(n):
        for _ in range(n):
            yield b'{"input": "x"}\n' * 100

    url = f"{server}/datasets/d?filename=d.jsonl"
    assert http.put(url, content=chunks(20)).json()["rows"] == 2000
    message = refusal(http.put(url, content=chunks(100)))
    assert (message["status"], message["code"]) == (413, "body_too_large")
    assert message["message"] == "d.jsonl: is larger than 100000 bytes (datasets.max_bytes)"
    assert len(http.get(f"{server}/datasets").json()["data"]) == 1


def test_a_large_upload_is_refused_before_it_is_sent(server):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"PUT /datasets/d?filename=d.jsonl HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 10737418240\r\n\r\n"
        )
        # The headers and the body may come apart; the connection ends after them.
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 100000 bytes (datasets.max_bytes)" in answer


def test_an_upload_that_breaks_off_is_not_registered(server, http):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"PUT /datasets/d?filename=d.jsonl HTTP/1.1\r\n"
            b"Host: localhost\r\nContent-Length: 1000\r\n\r\n"
            b'{"input": "x"}\n'
        )
    assert http.get(f"{server}/datasets").json()["data"] == []


@pytest.mark.parametrize(
    ("query", "body", "message"),
    [
        ("filename=d.txt", b"x", "must end in one of .jsonl"),
        ("filename=d.jsonl&column=x", b"x", "must be of the form own=known"),
        ("filename=d.jsonl", b'{"input": \n', "d.jsonl:1: not JSON at column"),
        ("filename=d.csv", b"", "d.csv: the dataset has no rows"),
        ("filename=d.jsonl", b'{"a": ' + b"[" * 5000, "d.jsonl:1: the JSON is nested too deeply"),
        ("filename=d.jsonl", b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "more than 64 levels"),
        ("filename=d.csv", b"x," * 20_000 + b"x\n", "d.csv:1: the row has more than 4096 cells"),
        ("", b"x", "filename"),
    ],
)
def test_uploads_that_cannot_be_used(server, http, query, body, message):
    refused = refusal(http.put(f"{server}/datasets/d?{query}", content=body))
    assert refused["status"] == 400
    assert message in refused["message"]
    assert "/tmp" not in refused["message"]
    assert http.get(f"{server}/datasets").json()["data"] == []


def test_requests_may_name_files_below_the_roots_only(server, http, tmp_path):
    inside, outside = tmp_path / "data" / "in.jsonl", tmp_path / "out.jsonl"
    inside.write_bytes(jsonl(ROWS))
    outside.write_bytes(jsonl(ROWS))
    (tmp_path / "data" / "link.jsonl").symlink_to(outside)
    registered = http.post(f"{server}/datasets", json={"source": "data/in.jsonl"})
    assert (registered.status_code, registered.json()["name"]) == (201, "in")
    for source in (
        "out.jsonl", str(outside), "data/../out.jsonl", "data/link.jsonl", "/etc/passwd",
        "s3://other/x.csv", "x" * 300,
    ):  # fmt: skip
        for path, body in [
            ("/datasets", {"source": source}),
            ("/eval", {"dataset": source, "routes": ["baseline/echo"], "metrics": ["exact_match"]}),
        ]:
            message = refusal(http.post(server + path, json=body))
            assert (message["status"], message["code"]) == (400, "outside_roots"), source
            assert "datasets.roots in the server's config" in message["message"]
    message = refusal(http.post(f"{server}/datasets", json={"source": f"{server}/x.csv"}))
    assert "is not a public address" in message["message"]
    message = refusal(http.post(f"{server}/datasets", json={"sorce": "x"}))
    assert "Did you mean 'source'" in message["message"]


async def test_s3_addresses_below_a_root(tmp_path):
    config = Config(
        storage=Storage(database=f"sqlite:///{tmp_path}/e.db"),
        datasets=Datasets(roots=("s3://bucket/shared/",)),
    )
    async with Services(config) as services:
        await services.datasets.confine("s3://bucket/shared/a.csv")
        await services.datasets.confine("S3://bucket/shared/a.csv")
        for named in (
            "s3://bucket/a.csv",
            "s3://bucket/shared/../a.csv",
            "s3://bucket/shared2/a.csv",
            "S3://bucket/a.csv",
            "s3://bucket/shared/.\t./a.csv",
            "s3://bucket/shared/a.csv\n",
            "a.csv",
        ):
            with pytest.raises(RequestError, match="outside what requests may name"):
                await services.datasets.confine(named)


async def test_an_unusable_document_does_not_keep_the_file_it_fetched(services, news):
    await services.datasets.add(str(news), columns=COLUMNS, over_http=False)
    with pytest.raises(RunDocumentError):
        await samples_of(services, "news", prompt="{{ nothing }}")
    assert await services.store.runs() == []


# Dialects and paths


def test_a_delimiter_is_found_or_named_everywhere(server, http, tmp_path):
    (tmp_path / "data" / "odd.csv").write_text("input^reference\nx^1,5\n")
    (tmp_path / "data" / "semi.csv").write_text("input;reference\nHello, there;Hi\n;\n")
    found = http.post(f"{server}/datasets", json={"source": "data/semi.csv"}).json()
    assert (found["rows"], found["columns"]) == (1, ["input", "reference"])
    body = {"source": "data/odd.csv", "delimiter": "^"}
    named = http.post(f"{server}/datasets", json=body).json()
    assert (named["columns"], named["delimiter"]) == (["input", "reference"], "^")
    shown = http.get(f"{server}/datasets/odd").json()
    assert shown["preview"] == [{"input": "x", "reference": "1,5"}]
    other = {"source": "data/semi.csv", "delimiter": ";"}
    assert refusal(http.post(f"{server}/datasets", json=other))["status"] == 409
    put = http.put(
        f"{server}/datasets/put?filename=a.csv&delimiter=%5E",
        content=b"input^reference\nx^1,5\n",
    )
    assert put.json()["columns"] == ["input", "reference"]
    bad = refusal(http.post(f"{server}/datasets", json=body | {"delimiter": '"'}))
    assert (bad["status"], bad["param"]) == (400, "delimiter")
    run = {"routes": ["baseline/echo"], "metrics": ["exact_match"]}
    # As it was registered, or as the document says.
    assert http.post(f"{server}/eval", json=run | {"dataset": "odd"}).status_code == 202
    by_path = run | {"dataset": "data/odd.csv"}
    told = refusal(http.post(f"{server}/eval", json=by_path))["message"]
    assert "name another delimiter" in told
    created = http.post(f"{server}/eval", json=by_path | {"delimiter": "^"})
    assert created.status_code == 202, created.text


def test_the_command_line_takes_a_delimiter_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("input^reference\nx^1,5\n")
    row = json.loads(evalrouter("dataset", "add", "d.csv", "--delimiter", "^", "--json").stdout)
    assert row["columns"] == ["input", "reference"]
    Path("squad.jsonl").write_text('{"question": "Who?", "answers": {"text": ["Ann", 3]}}\n')
    columns = ("--column", "question=input", "--column", "answers.text=reference")
    evalrouter("dataset", "add", "squad.jsonl", *columns)
    document = {"dataset": "squad", "routes": ["baseline/echo"], "metrics": ["exact_match"]}
    Path("run.yaml").write_text(json.dumps(document))
    done = json.loads(evalrouter("eval", "run", "run.yaml", "--json").stdout)
    assert done["run"]["dataset_rows"] == 1


def test_an_empty_cell_is_refused_before_a_request(server, http, tmp_path):
    (tmp_path / "data" / "e.csv").write_text("input,reference,note\na,x,\n,y,z\n,,\n")
    body = {"dataset": "data/e.csv", "routes": ["baseline/lead-1"]}
    for query in ("", "?dry_run=true"):
        for task in ({"task": "summarization"}, {"metrics": ["f1"], "prompt": "{{ input }}"}):
            told = refusal(http.post(f"{server}/eval{query}", json=body | task))
            assert told["status"] == 400
            assert "row 2 (id '2'): input is empty; fill it in" in told["message"]
    noted = {"metrics": ["f1"], "prompt": "{{ note }}{{ reference }}"}
    assert "note is empty" in refusal(http.post(f"{server}/eval", json=body | noted))["message"]
    told = refusal(http.post(f"{server}/eval", json=body | {"metrics": ["f1"]}))
    assert "input is empty" in told["message"]
    provided = {"metrics": ["f1"], "prompt": "{{ input or '' }} {{ reference }}"}
    assert http.post(f"{server}/eval", json=body | provided).status_code == 202
