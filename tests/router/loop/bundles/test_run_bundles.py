"""Bundles of runs: what is in them, and what of their numbers is recomputed from it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zipfile
from uuid import UUID

import pytest
from bundled_runs import DOCUMENT, config_of, exported
from click.testing import CliRunner

from evaluators.base import Sample
from evaluators.document import RunDocument
from evaluators.metrics.registry import METRICS
from providers.errors import ConflictError, EvidenceError
from router.cli import main
from router.config.loading import parse
from router.config.review import PersonalData
from router.config.storage import Storage
from router.evals.run_spans import TRACE_FIELD
from router.loop.bundles.bodies import bodies_of
from router.loop.bundles.export import BundleOptions, export_bundle
from router.loop.bundles.run_rows import sample_row
from router.loop.bundles.signatures import fingerprint, read_key
from router.loop.bundles.verification import verify
from router.loop.checks.texts import TextMasking
from router.services import Services
from router.store.copying import copy
from router.store.selection import open_store

PROGRAM = [sys.executable, "-E", "-X", "utf8", "-m", "router"]
OPENSSL = ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", "-in", "manifest.json"]


def entry(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def lines(path, name):
    return [json.loads(line) for line in entry(path, name).splitlines()]


async def test_every_number_of_a_report_comes_out_of_its_bundle(evidence, tmp_path):
    key = read_key(evidence / "key", passphrase=None)
    written = await exported(evidence, tmp_path / "b.zip", bodies="keep", key=key)
    found = await verify(tmp_path / "b.zip")
    assert (found.differing, found.differences, found.refused) == (0, [], "")
    assert found.signature == "unnamed"
    assert found.signed_by == written.signed_by == fingerprint(key.public_pem)
    # Two routes, forty samples, two answers each, of which two failed; four metrics that ship.
    assert found.checked[0] == f"{158 * 5:,} scores come out of the answers as stated."
    assert found.checked[1].startswith(f"{158 * 4:,} scores of judges come out")
    assert any(text.startswith("file:mine.py: it is a program") for text in found.not_recomputed)
    numbers = json.loads(entry(tmp_path / "b.zip", "numbers.json"))
    assert {score["output"] for score in numbers["report"]["routes"][0]["scores"]} >= {
        "helpfulness_corrected",
        "helpfulness_alpha",
        "chrf",
        "mine",
    }
    assert numbers["judges"][0]["calibrated"]
    assert [gate["gate"] for gate in numbers["gates"]] == DOCUMENT["gates"]


async def test_the_same_evidence_has_the_same_bytes(evidence, tmp_path):
    key = read_key(evidence / "key", passphrase=None)
    first = await exported(evidence, tmp_path / "a.zip", key=key)
    second = await exported(evidence, tmp_path / "b.zip", key=key)
    assert first == second
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


async def test_personal_data_is_masked_and_the_numbers_are_the_same(evidence, tmp_path):
    written = await exported(evidence, tmp_path / "b.zip")
    assert written.bodies == "masked"
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        text = b"".join(archive.read(name) for name in archive.namelist()).decode()
    assert "@example.org" not in text
    assert "901820" not in text
    assert "[EMAIL]" in text
    assert "sk-secret-key" not in text
    assert str(evidence) not in text
    found = await verify(tmp_path / "b.zip")
    assert (found.differing, found.differences) == (0, [])
    # The other route's answers have an address, and five questions a number.
    changed = [row for row in lines(tmp_path / "b.zip", "results.jsonl") if row.get("changed")]
    assert len(changed) == 80 + 10
    assert any(text.startswith("90 answers are there with") for text in found.not_recomputed)
    # A hash of a request could be guessed from what the mask leaves.
    assert {row["result"]["request_hash"][:8] for row in changed} == {"request "}


def test_what_evalrouter_wrote_itself_is_not_masked():
    rng = random.Random(3)
    texts = bodies_of("masked", PersonalData())
    masking = TextMasking(PersonalData(), b"")
    found = 0
    for _ in range(100):
        own = {
            "id": f"req_{rng.getrandbits(128):032x}",
            "at": 1.79e9 + rng.random() * 1e7,
            "cost_usd": rng.random() / 1e3,
            "cluster": "abcd" + f"{rng.getrandbits(48):012x}",
            TRACE_FIELD: f"{rng.getrandbits(128):032x}",
            "review": {
                "request": f"req_{rng.getrandbits(128):032x}",
                "feedback": [str(UUID(int=rng.getrandbits(128)))],
                "decided_at": 1.79e9 + rng.random() * 1e7,
            },
        }
        found += len(masking.mask(str(own), "").findings)
        sample = Sample(id=own["id"], messages=(), fields=own)
        row = sample_row(sample, texts)
        assert (row.sample, row.changed) == (sample, False)
    # What looks like a telephone number in them is not rare.
    assert found > 20
    written = texts.value({"n": 4111111111111111, "x": 4111111111111111.0, "password": 12345.678})
    assert written == {"n": "[CARD]", "x": "[CARD]", "password": "[SECRET]"}
    assert texts.value(["be68539007547034", "req_1 0171 2345678"]) == ["[IBAN]", "req_1 [PHONE]"]


async def test_with_hashes_only_numbers_without_texts_are_recomputed(evidence, tmp_path):
    await exported(evidence, tmp_path / "b.zip", bodies="hashes")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        text = b"".join(archive.read(name) for name in archive.namelist()).decode()
    assert "is good" not in text
    assert "@example.org" not in text
    found = await verify(tmp_path / "b.zip")
    assert (found.differing, found.differences) == (0, [])
    assert found.checked[0] == "316 scores come out of the answers as stated."  # their latency
    assert any(
        text.startswith("158 answers are there with hashes") for text in found.not_recomputed
    )
    [sample, *_] = lines(tmp_path / "b.zip", "samples.jsonl")
    assert len(sample["sha256"]) == 64
    assert sample["sample"]["references"][0].startswith("sha256:")


async def test_a_bundle_is_the_same_from_postgresql(evidence, tmp_path, postgres_address):
    source = Storage(database=f"sqlite:///{evidence}/e.db")
    target = Storage(database=postgres_address)
    copy(source, target, lambda *_: None, lambda _: 60.0)
    run_id = (evidence / "run.txt").read_text()
    written = []
    for storage in (source, target):
        async with open_store(storage) as store:
            path = tmp_path / f"{len(written)}.zip"
            written.append(await export_bundle(store, run_id, path, BundleOptions()))
    assert written[0][1] == written[1][1]


async def test_a_run_that_has_not_ended_and_a_file_that_is_there_are_refused(evidence, tmp_path):
    async with Services(config_of(evidence)) as services:
        run = await services.runs.find((evidence / "run.txt").read_text())
        with pytest.raises(EvidenceError, match="name a file in a folder that is there"):
            await export_bundle(services.store, run.id, tmp_path / "no" / "b.zip", BundleOptions())
        (tmp_path / "b.zip").write_text("mine")
        with pytest.raises(ConflictError, match="is there already"):
            await export_bundle(services.store, run.id, tmp_path / "b.zip", BundleOptions())
        assert (tmp_path / "b.zip").read_text() == "mine"
        await services.store.update_run(run.id, state="queued")
        try:
            with pytest.raises(ConflictError, match="is queued; wait for its end"):
                await export_bundle(services.store, run.id, tmp_path / "c.zip", BundleOptions())
        finally:
            await services.store.update_run(run.id, state="completed")
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]


def invoke(*arguments, **environment):
    return CliRunner().invoke(main, ["evidence", *map(str, arguments)], env=environment)


def test_another_process_without_config_database_and_environment_verifies(evidence, tmp_path):
    run_id, file, key = (evidence / "run.txt").read_text(), tmp_path / "b.zip", tmp_path / "k"
    made = invoke("keygen", key, EVIDENCE_PASSPHRASE="open sesame")
    assert made.exit_code == 0, made.output
    assert key.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in key.read_bytes()
    arguments = ["export", run_id, "-o", file, "--config", evidence / "evalrouter.yaml"]
    refused = invoke(*arguments, "--key", key)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "set EVIDENCE_PASSPHRASE" in refused.stderr
    done = invoke(*arguments, "--key", key, EVIDENCE_PASSPHRASE="open sesame")
    assert done.exit_code == 0, done.output
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "moved.zip")
    checked = subprocess.run(
        [*PROGRAM, "verify", moved.name, "--json", "--public-key", tmp_path / "k.pub"],
        cwd=moved.parent,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    result = json.loads(checked.stdout)
    assert (result["passed"], result["signature"], result["differing"]) == (True, "trusted", 0)
    with zipfile.ZipFile(moved) as archive:
        archive.extractall(tmp_path / "unpacked")
    by_openssl = subprocess.run(
        [*OPENSSL, "-inkey", tmp_path / "k.pub", "-sigfile", "manifest.sig"],
        cwd=tmp_path / "unpacked",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Signature Verified Successfully" in by_openssl.stdout, by_openssl.stderr


NEEDED = {
    "classification": {"labels": ["yes", "no"]},
    "embedding_similarity": {"route": "up/embedder"},
    "json_schema": {"schema": {"type": "object"}},
    "judge": {"judge": "up/judge", "kind": "g_eval_relevance", "output": "relevance"},
    "pairwise": {"judge": "up/judge"},
    "prometheus": {"judge": ["up/judge", "up/other"]},
    "rag": {"judge": "up/judge", "context": "input"},
    "regex": {"pattern": "yes"},
}
# They need a model, and data that is not everywhere.
LEFT_OUT = {"bertscore", "meteor"}


async def test_the_scores_of_every_metric_that_ships_come_out(tmp_path):
    for extra in ("jsonschema", "py3langid", "rapidfuzz"):
        pytest.importorskip(extra)
    rows = [
        {"input": f"Is {n} even?", "reference": ["yes", "no"][n % 2], "answer": "yes"}
        for n in range(8)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verdict = '{"claims": ["a"], "verdicts": [1]} [RESULT] 4'
    config = f"""
providers:
  up:
    kind: scripted
    script:
      sure: [{{answer: "yes"}}]
      judge: [{{answer: '{verdict}'}}]
      other: [{{answer: "no verdict at all"}}]
      embedder: [{{}}]
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
"""
    names = [name for name in METRICS if name not in LEFT_OUT]
    document = RunDocument(
        dataset="data.jsonl",
        routes=("up/sure", "baseline/echo"),
        baseline="baseline/echo",
        metrics=tuple({"name": name, **NEEDED.get(name, {})} for name in names),
    )
    async with Services(parse(config, "t", {})) as services:
        run = await services.runs.create(document, base=tmp_path)
        run = await services.jobs.execute(run.id)
        assert run.state == "completed", run.error
        path, _ = await export_bundle(
            services.store, run.id, tmp_path / "b.zip", BundleOptions(bodies="keep")
        )
    found = await verify(path)
    assert (found.differing, found.differences) == (0, [])
    # Judges' and embeddings' scores are named; all others have been computed once more.
    named = {text.partition(":")[0] for text in found.not_recomputed[:-1]}
    assert named == {"embedding_similarity", "judge", "pairwise", "prometheus", "rag"}
