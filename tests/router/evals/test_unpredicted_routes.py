"""Runs over learned routes say that they do not use what these have learned."""

from __future__ import annotations

import json

import pytest

from evaluators.document import RunDocument
from router.config.loading import parse
from router.loop.bundles.export import BundleOptions, export_bundle
from router.loop.bundles.verification import verify
from router.services import Services

CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers: {{up: {{kind: scripted, script: {{a: [{{}}], b: [{{}}], words: [{{}}]}}}}}}
routes:
  plain: {{targets: [{{model: up/a}}]}}
  chat:
    strategy: learned
    targets: [{{model: up/a}}, {{model: up/b}}]
    share_bodies_with: [up]
    learned:
      {{quality: "feedback:thumb", at_least: 0.5, embeddings: up/words, mode: {mode},
       otherwise: least_busy}}
"""


@pytest.mark.parametrize("mode", ["observe", "apply"])
async def test_the_dry_run_the_report_and_the_bundle_warn(tmp_path, mode):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"input": "hi"}) + "\n")
    config = parse(CONFIG.format(folder=tmp_path, mode=mode), "c.yaml", {})
    document = RunDocument(
        dataset=str(tmp_path / "rows.jsonl"), routes=("plain", "chat"), metrics=("length",)
    )
    async with Services(config) as services:
        expected = await services.runs.estimate(document, base=tmp_path)
        run = await services.runs.create(document, base=tmp_path, runner="command")
        await services.jobs.execute(run.id)
        report = (await services.runs.outcome(run.id)).report
        path, _ = await export_bundle(
            services.store, run.id, tmp_path / "b.zip", BundleOptions(bodies="keep")
        )
    assert (await verify(path)).passed
    for sentences in (expected.notes, report.warnings):
        about = [sentence for sentence in sentences if "has learned" in sentence]
        assert len(about) == (mode == "apply")
        for sentence in about:
            assert sentence.startswith("chat: ")
            assert "least_busy chooses" in sentence
