"""A run with every kind of metric, labels and a calibration, and its bundles."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import zipfile
from pathlib import Path

import click.testing
import msgspec
from servers import scripted

from evaluators.document import RunDocument
from router.cli import main
from router.config.loading import parse
from router.evals.judges.people_labels import AnswerLabel, LabelledAnswers, keep_run_labels
from router.loop.bundles.contents import canonical
from router.loop.bundles.export import BundleOptions, export_run_bundle
from router.loop.bundles.signatures import write_key
from router.services import Services

WORDS = {"fine": 3, "poor": 1, "good": 4}
JUDGE = [
    {"match": rf"(?s)evaluate:\n.*{word}", "answer": f"It is so. [RESULT] {value}"}
    for word, value in WORDS.items()
]
MODELS = {
    "echo": [{"match": "s7 ", "status": 400}, {}],
    "other": [{"answer": "It is good, write to ann@example.org."}],
    "judge": JUDGE,
}
ROWS = [
    {
        "id": f"s{n}",
        "input": f"s{n} is {[*WORDS][n % 3]}." + " Call +49 30 901820." * (n % 8 == 3),
        "reference": f"s{n} is good.",
        "cluster": f"user{n // 2}@example.org",
    }
    for n in range(40)
]
CODE = "def score(answer, references, row):\n    return float(len(answer) % 2)\n"
DOCUMENT = {
    "dataset": "data.jsonl",
    "routes": ["up/echo", "up/other"],
    "metrics": [
        "exact_match",
        "chrf",
        {"name": "regex", "pattern": "good"},
        "latency",
        {"name": "file:mine.py"},
        {"name": "prometheus", "judge": "up/judge", "repeats": 2},
    ],
    "repeats": 2,
    "baseline": "up/other",
    "gates": ["chrf >= 0.1", "exact_match non_inferior baseline by 0.5", "coverage >= 0.5"],
    "parameters": {"temperature": 0, "seed": 4111111111111111},
    "notes": "Questions to bob@example.org.",
    # It may look like a telephone number, and is a name that has to stay one.
    "tags": ["+15551234567"],
    "cache": False,
}
PEOPLE = [
    {"instruction": f"q{n}", "response": f"it is {word}", "score": value + n % 2}
    for n, (word, value) in enumerate(list(WORDS.items()) * 6)
]


def make_run(folder: Path) -> None:
    """Fill a folder with a database; `run.txt` is the run's id, and `key` signs."""
    for name, rows in (("data", ROWS), ("people", PEOPLE)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(CODE)
    before = Path.cwd()
    os.chdir(folder)
    try:
        with scripted(MODELS) as upstream:
            text = f"""
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-secret-key}}}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
"""
            (folder / "evalrouter.yaml").write_text(text)
            options = ["--rubric", "helpfulness", "--judge", "up/judge", "--dataset"]
            done = click.testing.CliRunner().invoke(
                main, ["judge", "calibrate", *options, "people.jsonl"]
            )
            assert done.exit_code == 0, done.output
            (folder / "run.txt").write_text(asyncio.run(_executed(folder)))
    finally:
        os.chdir(before)
    write_key(folder / "key", passphrase=None)


async def _executed(folder: Path) -> str:
    async with Services(config_of(folder)) as services:
        document = msgspec.convert(DOCUMENT, RunDocument)
        run = await services.runs.create(document, base=folder)
        run = await services.jobs.execute(run.id)
        assert run.state == "completed", run.error
        labels = [
            AnswerLabel(
                sample_id=row.cell.sample_id,
                answer=row.answer.text,
                scores=(4.0,),
                repeat=row.cell.repeat,
            )
            async for row in services.store.results(run.id, route="up/echo")
            if row.answer.text is not None and not int(row.cell.sample_id[1:]) % 2
        ]
        given = LabelledAnswers(labels=tuple(labels), route="up/echo")
        await keep_run_labels(services.store, run.id, given)
        return run.id


def config_of(folder: Path):
    return parse((folder / "evalrouter.yaml").read_text(), "t", {})


async def exported(folder: Path, path: Path, **options):
    """Write the bundle of the run."""
    config = config_of(folder)
    async with Services(config) as services:
        run = await services.runs.find((folder / "run.txt").read_text())
        return await export_run_bundle(
            services.store,
            run,
            path,
            BundleOptions(routes=services.routes.table.routes, **options),
        )


def entries_of(path: Path) -> dict[str, bytes]:
    """Return what is in a bundle."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, entries) -> Path:
    """Write entries into a zip file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def sealed(entries, key=None):
    """Return entries with a manifest that fits them, signed by a key."""
    manifest = json.loads(entries["manifest.json"])
    for entry in manifest["entries"]:
        content = entries[entry["name"]]
        entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if entry["rows"] is not None:
            entry["rows"] = content.count(b"\n")
    entries = {**entries, "manifest.json": canonical(manifest)}
    if key is not None:
        entries["manifest.sig"] = key.sign(entries["manifest.json"])
        entries["public-key.pem"] = key.public_pem
    return entries
