"""What changes when a run is to do more: other metrics over its answers, more samples or repeats.

`runs.py` keeps the changes and has the run done; nothing is kept of a change that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from evaluators.base import Declared
from evaluators.document import RunDocument
from evaluators.metrics import registry
from providers.errors import ConflictError, RunDocumentError
from router.evals.validation import (
    build_metrics,
    check_signatures,
    check_stop_when,
    outputs_of,
    parse_gates,
    resolve_metrics,
)
from router.store.runs import Run

RescoreSpec = str | dict[str, Any]


class Rescore(NamedTuple):
    """What a rescore changes.

    Attributes:
        changes: fields of the run.
        kept: outputs whose scores stay.
        needing: names of the metrics that cannot score a sample without references.
    """

    changes: dict[str, Any]
    kept: list[str]
    needing: list[str]


def rescore(found: Run, wanted: Sequence[RescoreSpec], base: Path) -> Rescore:
    """Metrics to be scored now. One of the same name is replaced; all others keep their scores.

    Args:
        found: the run.
        wanted: as in a run document; none for all the run has, as they are installed now.
        base: the folder that paths of metrics start from.

    Raises:
        RunDocumentError: a metric that is none, or a gate of the run that would have no output.
    """
    document = msgspec.convert(found.document, RunDocument)
    if wanted:
        asked = resolve_metrics(msgspec.structs.replace(document, metrics=tuple(wanted)), base)
    else:
        asked = document
    new = {metric.name: metric for metric in build_metrics(asked)}
    specs = dict(zip(new, asked.metrics, strict=True))
    before = {_name(spec): spec for spec in document.metrics}
    merged = msgspec.structs.replace(document, metrics=tuple((before | specs).values()))
    metrics = build_metrics(merged)
    parse_gates(merged, metrics)
    check_stop_when(merged, metrics)
    stay = [metric for metric in metrics if metric.name not in new]
    signatures = {metric.name: metric.signature for metric in metrics}
    # Their scores stay, so what they were made by stays true of them.
    signatures |= {metric.name: found.metrics[metric.name] for metric in stay}
    return Rescore(
        {"document": msgspec.to_builtins(merged), "metrics": signatures},
        [output.name for output in outputs_of(stay)],
        [metric.name for metric in new.values() if metric.needs_reference],
    )


def _name(spec: RescoreSpec) -> str:
    return registry.build(spec).name


def extension(
    found: Run, *, limit: int | None, repeats: int | None
) -> tuple[RunDocument, Sequence[Declared]]:
    """The run's document with more samples or repeats, and its metrics.

    Raises:
        RunDocumentError: neither is more than the run has, or its samples were drawn.
        ConflictError: a metric is not what it was, so that new scores would not compare.
    """
    document = msgspec.convert(found.document, RunDocument)
    if limit is None and repeats is None:
        raise RunDocumentError("name what to extend: limit (samples) or repeats", param="limit")
    if repeats is not None and repeats <= document.repeats:
        raise RunDocumentError(
            f"repeats: the run has {document.repeats} already; give a larger number",
            param="repeats",
        )
    if limit is not None:
        if document.sample is not None:
            raise RunDocumentError(
                "limit: the run's samples were drawn at random, and more of them would be another "
                "draw; start a new run: answers come from the cache",
                param="limit",
            )
        if limit <= found.dataset_rows:
            raise RunDocumentError(
                f"limit: the run has {found.dataset_rows} samples already; give a larger number",
                param="limit",
            )
        document = msgspec.structs.replace(document, limit=limit)
    if repeats is not None:
        document = msgspec.structs.replace(document, repeats=repeats)
    metrics = build_metrics(document)
    check_signatures(found, metrics)
    return document, metrics


def check_same_dataset(found: Run, rows: int, content: str) -> None:
    """The dataset must be as it was, and have more rows than the run.

    Args:
        found: the run.
        rows: how many it is to have.
        content: SHA-256 of the dataset as it is now.

    Raises:
        ConflictError: the dataset has changed.
        RunDocumentError: there are no more.
    """
    if content != found.dataset_hash:
        raise ConflictError(
            f"{found.dataset} has changed since {found.id} began (its SHA-256 is now "
            f"{content[:12]}, it was {found.dataset_hash[:12]}); start a new run"
        )
    if rows <= found.dataset_rows:
        raise RunDocumentError(
            f"limit: the run has all {found.dataset_rows} samples of {found.dataset}", param="limit"
        )
