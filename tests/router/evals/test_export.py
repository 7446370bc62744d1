"""A run's rows as files: complete, vouched for, and read back from a folder and from S3."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from servers import gateway, s3_server, scripted

from evaluators.document import RunDocument
from providers.errors import ArtifactError, ConflictError, NotFoundError
from router.cli import main
from router.config.loading import parse
from router.config.storage import S3
from router.datasets.artifacts import open_artifacts
from router.evals.export import ExportedRow, export_run, verify
from router.services import Services

parquet = pytest.importorskip("pyarrow.parquet", reason="the parquet extra is not installed")

MODELS = {"some": [{"match": "ask 3$", "status": 400}, {"answer": "yes"}]}
ROWS = [
    {"id": f"s{n:04}", "input": f"ask {n}", "reference": "yes" if n % 2 else "no"}
    for n in range(1203)  # more than two pages of the store
]
DOCUMENT = {
    "dataset": "data.jsonl",
    "routes": ["up/some", "baseline/echo"],
    "metrics": ["exact_match", "chrf"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a run in its database; `run.txt` is the run's id."""
    import asyncio

    folder = tmp_path_factory.mktemp("run")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    async def execute(config) -> str:
        async with Services(config) as services:
            document = msgspec.convert(DOCUMENT, RunDocument)
            run = await services.runs.create(document, base=folder)
            return (await services.jobs.execute(run.id)).id

    with scripted(MODELS) as upstream:
        text = f"""
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-secret-key}}}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
"""
        (folder / "evalrouter.yaml").write_text(text)
        run_id = asyncio.run(execute(parse(text, "t", {})))
    (folder / "run.txt").write_text(run_id)
    return folder


@pytest.fixture
async def services(folder):
    config = parse((folder / "evalrouter.yaml").read_text(), "t", {})
    async with Services(config) as services:
        yield services


@pytest.fixture
async def run(services, folder):
    return await services.runs.find((folder / "run.txt").read_text())


@pytest.fixture(params=["folder", "s3"])
def artifacts(request, tmp_path):
    if request.param == "folder":
        yield open_artifacts(str(tmp_path), S3())
        return
    with s3_server("exports-of-tests") as s3:
        yield open_artifacts(f"s3://exports-of-tests/{tmp_path.name}", s3)


async def test_an_export_is_read_back(services, run, artifacts, tmp_path):
    manifest = await export_run(services.store, run, artifacts, "e")
    assert await verify(artifacts, "e") == manifest
    assert manifest.run == run
    assert (manifest.rows, manifest.outputs) == (2406, ("chrf", "exact_match"))
    there = {artifact.key: artifact.size async for artifact in artifacts.list()}
    assert there == {f"e/{file.name}": file.size for file in manifest.files} | {
        "e/manifest.json": there["e/manifest.json"]
    }
    content = {}
    for file in manifest.files:
        content[file.name] = b"".join([chunk async for chunk in artifacts.get(f"e/{file.name}")])
        assert hashlib.sha256(content[file.name]).hexdigest() == file.sha256
        assert file.rows == 2406

    # The lines are what the store has.
    lines = [
        msgspec.json.decode(line, type=ExportedRow) for line in content["rows.jsonl"].splitlines()
    ]
    assert [line.result for line in lines] == [
        result async for result in services.store.results(run.id)
    ]
    samples = {sample.id: sample async for sample in services.store.samples(run.id)}
    assert all(line.sample == samples[line.result.cell.sample_id] for line in lines)

    # The table is what the lines are.
    (tmp_path / "copy.parquet").write_bytes(content["rows.parquet"])
    table = parquet.read_table(tmp_path / "copy.parquet").to_pylist()
    assert len(table) == len(lines)
    for row, line in zip(table, lines, strict=True):
        result, answer = line.result, line.result.answer
        assert (row["sample_id"], row["route"], row["repeat"]) == (
            result.cell.sample_id, result.cell.route, result.cell.repeat,
        )  # fmt: skip
        assert (row["text"], row["error"], row["cost_usd"]) == (
            answer.text, answer.error, answer.cost_usd,
        )  # fmt: skip
        assert row["request_hash"] == result.request_hash
        assert row["references"] == list(line.sample.references)
        assert json.loads(row["messages"]) == list(line.sample.messages)
        scores = {score.output: score.value for score in result.scores}
        assert {name: row[f"score.{name}"] for name in manifest.outputs} == {
            name: scores.get(name) for name in manifest.outputs
        }
    failed = [row for row in table if row["error"]]
    assert [(row["sample_id"], row["route"]) for row in failed][:1] == [("s0003", "up/some")]
    assert all(row["score.chrf"] is None for row in failed)
    assert "sk-secret-key" not in "".join(map(str, content.values()))


async def test_a_file_that_was_changed_is_found_out(services, run, artifacts):
    await export_run(services.store, run, artifacts, "e", formats=["jsonl"])

    async def other():
        yield b"{}\n"

    await artifacts.put("e/rows.jsonl", other())
    with pytest.raises(ArtifactError, match=r"e/rows.jsonl is not what was exported: 3 bytes"):
        await verify(artifacts, "e")
    await artifacts.delete("e/rows.jsonl")
    with pytest.raises(NotFoundError, match=r"there is no e/rows.jsonl"):
        await verify(artifacts, "e")


async def test_a_run_under_way_is_not_exported(services, run, artifacts):
    running = msgspec.structs.replace(run, state="running")
    with pytest.raises(ConflictError, match="is running; wait for its end"):
        await export_run(services.store, running, artifacts, "e")
    assert [artifact async for artifact in artifacts.list()] == []


def test_the_command(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    run_id = (folder / "run.txt").read_text()
    done = CliRunner().invoke(main, ["eval", "export", run_id[:-2], "--verify"])
    assert done.exit_code == 0, done.output
    assert (folder / "artifacts" / "runs" / run_id / "manifest.json").is_file()
    done = CliRunner().invoke(
        main, ["eval", "export", run_id, "--to", str(tmp_path), "--jsonl-only", "--json"]
    )
    assert json.loads(done.stdout)["location"] == f"{tmp_path}/{run_id}"
    assert sorted(path.name for path in (tmp_path / run_id).iterdir()) == [
        "manifest.json", "rows.jsonl",
    ]  # fmt: skip


def test_over_http(folder, http):
    run_id = (folder / "run.txt").read_text()
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        manifest = http.post(f"{url}/eval/{run_id}/export").json()
        assert manifest["rows"] == 2406
        assert Path(manifest["location"], "rows.parquet").is_file()
        assert http.post(f"{url}/eval/nothing/export").status_code == 404
        # An export takes no options; what a client asks for must not be dropped in silence.
        refused = http.post(f"{url}/eval/{run_id}/export", json={"format": "csv"})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "format: unknown key."
        assert http.post(f"{url}/eval/{run_id}/export", content=b"[").status_code == 400
        assert http.post(f"{url}/eval/{run_id}/export", json={}).status_code == 200
