"""What a bundle is evidence of, as its manifest says it."""

from __future__ import annotations

from typing import NamedTuple

from router.loop.bundles.contents import BundledDataset, NumberSource
from router.store.evidence import BundleKind
from router.store.rollouts import Rollout
from router.store.runs import Run

# The seed of all resampling in reports; see `evaluators.reports.report.summarise`.
SEEDS = {"resampling": 0}


class BundleSubject(NamedTuple):
    """What a bundle is evidence of, for its manifest."""

    kind: BundleKind
    id: str
    name: str
    dataset: BundledDataset | None
    seeds: dict[str, int]
    versions: dict[str, str]
    sources: tuple[NumberSource, ...]


def subject_of_run(run: Run) -> BundleSubject:
    """Return what a manifest says of a run, which is as the bundle has it."""
    seeds = dict(SEEDS)
    sample = run.document.get("sample")
    if isinstance(sample, dict) and isinstance(sample.get("seed"), int):
        seeds["sample"] = sample["seed"]
    return BundleSubject(
        kind="run",
        id=run.id,
        name=run.name,
        dataset=BundledDataset(name=run.dataset, sha256=run.dataset_hash, rows=run.dataset_rows),
        seeds=seeds,
        versions={f"run.{name}": known for name, known in run.versions.items()},
        sources=_RUN_SOURCES,
    )


def subject_of_rollout(rollout: Rollout) -> BundleSubject:
    """Return what a manifest says of a rollout."""
    return BundleSubject(
        kind="rollout",
        id=rollout.id,
        name=f"{rollout.candidate} on {rollout.route}",
        dataset=None,
        seeds={},
        versions={},
        sources=_ROLLOUT_SOURCES,
    )


_ROLLOUT_SOURCES = (
    NumberSource(
        what="e-values, intervals, and what was decided by the rules, when and by which of them",
        how="recomputed",
        of="requests.jsonl and later-values.jsonl in the order of batches.jsonl, and rollout.json",
    ),
    NumberSource(what="the arms' totals", how="recomputed", of="requests.jsonl"),
    NumberSource(
        what="what people decided, and what a judge was to score",
        how="stated",
        of="decisions.jsonl and numbers.json",
    ),
    NumberSource(
        what="which arm a user was in, how requests went, and when they were counted",
        how="stated",
        of="requests.jsonl, later-values.jsonl and batches.jsonl",
    ),
)
_RUN_SOURCES = (
    NumberSource(
        what="scores, intervals, comparisons, verdicts, gates, counts, costs, times",
        how="recomputed",
        of="the answers' scores, usage and times in results.jsonl; labels.jsonl; samples.jsonl "
        "for clusters",
    ),
    NumberSource(
        what="scores of answers by metrics that ship with evalrouter",
        how="recomputed",
        of="the texts of samples.jsonl and results.jsonl, in rows where none was replaced",
    ),
    NumberSource(
        what="agreement of judges with people",
        how="recomputed",
        of="the scores of both in studies.jsonl",
    ),
    NumberSource(
        what="scores by judges",
        how="checked",
        of="the judges' answers in results.jsonl: the requests cannot be sent once more",
    ),
    NumberSource(
        what="scores by models, by code of the user's own, and by metrics of other versions",
        how="stated",
        of="results.jsonl",
    ),
    NumberSource(
        what="answers, usage, costs and times of requests; what judges and embeddings took; "
        "whether earlier runs had shown a part of this one",
        how="stated",
        of="results.jsonl, routes.json and stated.json",
    ),
)
