"""What of a run document can be wrong, found before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from evaluators.base import AnyMetric, Declared, EmbeddingMetric, JudgeMetric, Output
from evaluators.document import RunDocument
from evaluators.metrics import registry
from evaluators.reports import gates as gate_rules
from evaluators.reports.gates import Gate
from evaluators.stats.sequential import check_stop
from providers.errors import ConflictError, ModelNotFoundError, RunDocumentError, closest
from providers.names import MAX_ADDRESS_BYTES, check_name
from router.evals.requests import EvalRequester
from router.store.runs import Run

# The router sets these itself; a parameter of the same name would be lost in silence.
_RESERVED = ("messages", "model", "stream")


def check_names(document: RunDocument) -> None:
    """Refuse names that cannot be any, but for those that metrics have. Raises RunDocumentError."""
    check_name(document.dataset, "dataset", RunDocumentError, max_bytes=MAX_ADDRESS_BYTES)
    _check(document.name, "name")
    _check(document.experiment, "experiment")
    for n, tag in enumerate(document.tags):
        _check(tag, f"tags[{n}]")
    for n, route in enumerate(document.routes):
        _check(route, f"routes[{n}]")
    for parameter in document.parameters:
        _check(parameter, "parameters")


def _check(name: str, place: str) -> None:
    check_name(name, place, RunDocumentError)


def resolve_metrics(document: RunDocument, base: Path) -> RunDocument:
    """The document with its metrics' files found. Raises RunDocumentError for a missing one."""
    metrics = tuple(
        registry.resolve(spec, base, param=f"metrics[{n}]")
        for n, spec in enumerate(document.metrics)
    )
    return msgspec.structs.replace(document, metrics=metrics)


def build_metrics(document: RunDocument) -> list[AnyMetric]:
    """The document's metrics. Raises RunDocumentError for an unknown or repeated one."""
    metrics: list[AnyMetric] = []
    seen: dict[str, str] = {}
    for n, spec in enumerate(document.metrics):
        metric = registry.build(spec, param=f"metrics[{n}]")
        for route in routes_of(metric):
            _check(route, f"metrics[{n}]")
        for output in metric.outputs:
            _check(output.name, f"metrics[{n}]")
            if output.name in seen:
                raise RunDocumentError(
                    f"metrics[{n}]: {seen[output.name]} already produces {output.name!r}",
                    param=f"metrics[{n}]",
                )
            seen[output.name] = metric.name
        metrics.append(metric)
    return metrics


def outputs_of(metrics: Sequence[Declared]) -> list[Output]:
    """Every output of the metrics, in order."""
    return [output for metric in metrics for output in metric.outputs]


def parse_gates(document: RunDocument, metrics: Sequence[Declared]) -> list[Gate]:
    """The document's gates. Raises RunDocumentError."""
    outputs = outputs_of(metrics)
    return [
        gate_rules.parse(
            text, outputs, has_baseline=document.baseline is not None, param=f"gates[{n}]"
        )
        for n, text in enumerate(document.gates)
    ]


# The route of the answers that a dataset brings along. A provider named `dataset` is hidden by it.
PRECOMPUTED = "dataset/answer"


def asked_routes(document: RunDocument) -> tuple[str, ...]:
    """The run's routes that are asked."""
    return tuple(route for route in document.routes if route != PRECOMPUTED)


def routes_of(metric: AnyMetric) -> tuple[str, ...]:
    """The routes that a metric asks: its judges, or whose embeddings it compares."""
    if isinstance(metric, JudgeMetric):
        return tuple(metric.judges)
    return (metric.route,) if isinstance(metric, EmbeddingMetric) else ()


def check_stop_when(document: RunDocument, metrics: Sequence[Declared]) -> None:
    """The rule must be about an output of the run. Raises RunDocumentError."""
    if document.stop_when is not None:
        check_stop(document.stop_when, outputs_of(metrics), baseline=document.baseline)


def check_routes(asker: EvalRequester, document: RunDocument, metrics: Sequence[AnyMetric]) -> None:
    """The routes, those that metrics ask, and the baseline. Raises RunDocumentError."""
    for n, route in enumerate(document.routes):
        if route in document.routes[:n]:
            raise RunDocumentError(f"routes[{n}]: {route!r} is named twice", param=f"routes[{n}]")
        if route == PRECOMPUTED:
            continue
        try:
            asker.check_route(route)
        except ModelNotFoundError as error:
            raise RunDocumentError(f"routes[{n}]: {error.message}", param=f"routes[{n}]") from None
    for metric in metrics:
        for route in routes_of(metric):
            asker.check_route(route)
    if PRECOMPUTED in document.routes and document.repeats > 1:
        raise RunDocumentError(
            f"repeats: {PRECOMPUTED} has one answer for each sample", param="repeats"
        )
    if document.baseline is not None and document.baseline not in document.routes:
        raise RunDocumentError(
            f"baseline: {document.baseline!r} is not one of the run's routes "
            f"({', '.join(document.routes)})",
            param="baseline",
        )
    check_per_target(asker, document)


def check_per_target(asker: EvalRequester, document: RunDocument) -> None:
    """Limits of targets must name some of the run's. Raises RunDocumentError."""
    if not document.limits.per_target:
        return
    targets = [
        str(one) for route in asked_routes(document) for one in asker.table.first_targets(route)
    ]
    for name in document.limits.per_target:
        _check(name, "limits.per_target")
        if name not in targets:
            raise RunDocumentError(
                f"limits.per_target: the run's routes have no target {name!r}."
                f"{closest(name, targets)}",
                param=f"limits.per_target.{name}",
            )


def check_parameters(document: RunDocument) -> None:
    """Nothing that the run sets itself. Raises RunDocumentError."""
    for name in _RESERVED:
        if name in document.parameters:
            raise RunDocumentError(
                f"parameters.{name}: set by the run itself, leave it out",
                param=f"parameters.{name}",
            )
    if document.parameters.get("n", 1) != 1:
        raise RunDocumentError(
            "parameters.n: one answer per request; use repeats for more", param="parameters.n"
        )


def check_signatures(found: Run, metrics: Sequence[Declared]) -> None:
    """Metrics must score as they did when the run began. Raises ConflictError."""
    for metric in metrics:
        before = found.metrics.get(metric.name)
        if before != metric.signature:
            raise ConflictError(
                f"{metric.name} is now {metric.signature!r} and was {before!r} when {found.id} "
                "began; scores of one run must have one signature. Score its answers again with "
                f"'evalrouter eval rescore {found.id} --metrics {metric.name}', or start a new "
                "run: its answers come from the cache."
            )
