"""Changes a run that is to do more: other metrics over its answers, more samples or repeats.

`runs.py` stores the changes and has the run executed; a change that is refused stores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from evaluators.base import AnyMetric, SampleCheck
from evaluators.document import MAX_PARTS, RunDocument, RunLimits
from providers.errors import ConflictError, RunDocumentError
from router.config.documents import convert_data
from router.evals.validation import (
    build_metrics,
    check_margins,
    check_outputs,
    check_primary,
    check_repeats,
    check_signatures,
    check_stop_when,
    outputs_of,
    parse_gates,
    resolve_metrics,
)
from router.store.runs import Run

RescoreSpec = str | dict[str, Any]


class _Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limits: RunLimits


class Rescore(NamedTuple):
    """What a rescore changes.

    Attributes:
        document: the run's, with the metrics that it has from now on.
        new: the metrics that are to be scored.
        signatures: metric name to signature, of all metrics.
        keep_outputs: the outputs whose stored scores stay.
    """

    document: RunDocument
    new: list[AnyMetric]
    signatures: dict[str, str]
    keep_outputs: list[str]

    @property
    def needing_references(self) -> list[str]:
        """The names of the new metrics that cannot score a sample without references."""
        return [metric.name for metric in self.new if metric.needs_reference]

    @property
    def checks(self) -> list[SampleCheck]:
        """Return the new metrics that check each sample."""
        return [metric for metric in self.new if isinstance(metric, SampleCheck)]


def rescore(run: Run, document: RunDocument, specs: Sequence[RescoreSpec], base: Path) -> Rescore:
    """Return a run with new metrics. One replaces the metric of its name; the others stay.

    Args:
        run: the run.
        document: the run's.
        specs: as in a run document; none for all the run has, as they are installed now.
        base: the folder that paths of metrics start from.

    Raises:
        RunDocumentError: a metric that does not exist, more metrics than a run may have, or a gate
            of the run that would have no output.
    """
    before = build_metrics(document)
    resolved, new = document, before
    if specs:
        _check_count(specs)
        resolved = resolve_metrics(msgspec.structs.replace(document, metrics=tuple(specs)), base)
        new = build_metrics(resolved)
    spec_of = _by_name(document, before) | _by_name(resolved, new)
    _check_count(spec_of)
    merged = msgspec.structs.replace(document, metrics=tuple(spec_of.values()))
    metric_of = {metric.name: metric for metric in (*before, *new)}
    metrics = [metric_of[name] for name in spec_of]
    check_outputs(metrics)
    parse_gates(merged, metrics)
    check_primary(merged, metrics)
    check_margins(merged, metrics)
    check_stop_when(merged, metrics)
    replaced = {metric.name for metric in new}
    staying = [metric for metric in metrics if metric.name not in replaced]
    signatures = {metric.name: metric.signature for metric in metrics}
    # Their scores stay, so what they were made by stays true of them.
    signatures |= {metric.name: run.metrics[metric.name] for metric in staying}
    return Rescore(merged, new, signatures, [output.name for output in outputs_of(staying)])


def _by_name(document: RunDocument, metrics: Sequence[AnyMetric]) -> dict[str, RescoreSpec]:
    """Map the metrics' names to what the document says of them."""
    names = (metric.name for metric in metrics)
    return dict(zip(names, document.metrics, strict=True))


def _check_count(metrics: Sequence[Any] | Mapping[str, Any]) -> None:
    if len(metrics) > MAX_PARTS:
        raise RunDocumentError(
            f"metrics: a run has at most {MAX_PARTS} metrics (got {len(metrics):,})",
            param="metrics",
        )


def extend(
    run: Run, document: RunDocument, *, limit: int | None, repeats: int | None
) -> tuple[RunDocument, list[AnyMetric]]:
    """Return the run's document with more samples or repeats, and its metrics.

    Raises:
        RunDocumentError: neither is more than the run has, its samples were drawn, or the
            dataset's own answers would be repeated.
        ConflictError: a metric is not what it was, so that new scores would not compare.
    """
    if limit is None and repeats is None:
        raise RunDocumentError("name what to extend: limit (samples) or repeats", param="limit")
    if repeats is not None and repeats <= document.repeats:
        raise RunDocumentError(
            f"repeats: the run has {document.repeats} already; give a larger number",
            param="repeats",
        )
    if limit is not None:
        _check_limit(run, document, limit)
        document = msgspec.structs.replace(document, limit=limit)
    if repeats is not None:
        document = msgspec.structs.replace(document, repeats=repeats)
    document = msgspec.structs.replace(document, looks=document.looks + 1)
    check_repeats(document)
    metrics = build_metrics(document)
    check_signatures(run, metrics)
    return document, metrics


def _check_limit(run: Run, document: RunDocument, limit: int) -> None:
    if document.sample is not None:
        raise RunDocumentError(
            "limit: the run's samples were drawn at random, and more of them would be another "
            "draw; start a new run",
            param="limit",
        )
    if document.unlabelled:
        raise RunDocumentError(
            "limit: the run has only the rows without a reference; start a new run: answers come "
            "from the cache",
            param="limit",
        )
    if limit <= run.dataset_rows:
        raise RunDocumentError(
            f"limit: the run has {run.dataset_rows} samples already; give a larger number",
            param="limit",
        )


def check_same_dataset(run: Run, rows: int, content: str) -> None:
    """Check that the dataset is as it was and has more rows than the run.

    Args:
        run: the run.
        rows: how many rows the run is to have.
        content: SHA-256 of the dataset as it is now.

    Raises:
        ConflictError: the dataset has changed.
        RunDocumentError: the run has all of its rows.
    """
    if content != run.dataset_hash:
        raise ConflictError(
            f"{run.dataset} has changed since {run.id} began (its SHA-256 is now "
            f"{content[:12]}, it was {run.dataset_hash[:12]}); start a new run"
        )
    if rows <= run.dataset_rows:
        raise RunDocumentError(
            f"limit: the run has all {run.dataset_rows} samples of {run.dataset}", param="limit"
        )


def change_limits(document: RunDocument, changes: Mapping[str, Any]) -> RunDocument:
    """Return the document with some of its limits changed. Raises RunDocumentError."""
    limits = {**msgspec.to_builtins(document.limits), **changes}
    changed = convert_data({"limits": limits}, _Limits, error=RunDocumentError)
    return msgspec.structs.replace(document, limits=changed.limits)
