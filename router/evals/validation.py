"""Checks a run document before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from evaluators.base import (
    PRECOMPUTED,
    AnyMetric,
    Declared,
    Output,
    Score,
)
from evaluators.data.template import RESERVED_PARAMETERS
from evaluators.document import RunDocument
from evaluators.judge.graded import Graded, raw_name
from evaluators.metrics import registry
from evaluators.metrics.output_names import not_produced
from evaluators.metrics.registry import routes_of
from evaluators.reports import gates as gate_rules
from evaluators.reports.gates import Gate
from evaluators.stats.sequential import check_stop
from evaluators.text.answers import check_rules
from providers.errors import ConflictError, ModelNotFoundError, RunDocumentError, closest
from providers.names import MAX_ADDRESS_BYTES, check_name
from router.evals.requests import EvalRequester
from router.store.runs import Run


def check_names(document: RunDocument) -> None:
    """Refuse names that nothing can have, except those in metrics. Raises RunDocumentError.

    `build_metrics` checks the names in metrics.
    """
    check_name(document.dataset, "dataset", RunDocumentError, max_bytes=MAX_ADDRESS_BYTES)
    _check(document.name, "name")
    _check(document.experiment, "experiment")
    _check(document.language, "language")
    for n, tag in enumerate(document.tags):
        _check(tag, f"tags[{n}]")
    for n, route in enumerate(document.routes):
        _check(route, f"routes[{n}]")
    for parameter in document.parameters:
        _check(parameter, "parameters")


def _check(name: str, place: str) -> None:
    check_name(name, place, RunDocumentError)


def check_document(
    requester: EvalRequester, document: RunDocument, metrics: Sequence[AnyMetric]
) -> None:
    """Check everything that can be checked without the dataset.

    Raises:
        RunDocumentError: what is wrong, and where.
        ModelNotFoundError: a route that a metric requests does not exist.
    """
    check_repeated_routes(document)
    check_routes(requester, document, metrics)
    _check_all(
        partial(check_repeats, document),
        partial(_check_baseline, document),
        partial(check_per_target, requester, document),
        partial(_check_parameters, document),
        partial(check_rules, document.answer),
        partial(parse_gates, document, metrics),
        partial(check_primary, document, metrics),
        partial(check_margins, document, metrics),
        partial(check_stop_when, document, metrics),
    )


def _check_all(*checks: Callable[[], object]) -> None:
    """Raise one RunDocumentError for all that checks refuse; each says one thing."""
    refused: list[RunDocumentError] = []
    for check in checks:
        try:
            check()
        except RunDocumentError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        together = RunDocumentError(
            "; ".join(each.message for each in refused), param=refused[0].param
        )
        together.problems = {each.param or "": each.message for each in refused}
        raise together


# Metrics


def resolve_metrics(document: RunDocument, base: Path) -> RunDocument:
    """Return the document with the paths in its metrics made absolute.

    Raises:
        RunDocumentError: a file does not exist.
    """
    metrics = tuple(
        registry.resolve(spec, base, language=document.language, param=f"metrics[{n}]")
        for n, spec in enumerate(document.metrics)
    )
    return msgspec.structs.replace(document, metrics=metrics)


def build_metrics(document: RunDocument) -> list[AnyMetric]:
    """Return the document's metrics. Raises RunDocumentError for an unknown or repeated one."""
    metrics = [
        registry.build(spec, param=f"metrics[{n}]") for n, spec in enumerate(document.metrics)
    ]
    for n, metric in enumerate(metrics):
        for route in routes_of(metric):
            _check(route, f"metrics[{n}]")
    check_outputs(metrics)
    return metrics


def check_outputs(metrics: Sequence[Declared]) -> None:
    """Check that each metric and each output has a name of its own. Raises RunDocumentError."""
    seen: dict[str, str] = {}
    names: set[str] = set()
    for n, metric in enumerate(metrics):
        for output in metric.outputs:
            _check(output.name, f"metrics[{n}]")
            if output.name in seen:
                raise RunDocumentError(
                    f"metrics[{n}]: {seen[output.name]} already produces {output.name!r}",
                    param=f"metrics[{n}]",
                )
            seen[output.name] = metric.name
        if metric.name in names:
            # A run has one signature for each name.
            raise RunDocumentError(
                f"metrics[{n}]: another metric is named {metric.name!r} already",
                param=f"metrics[{n}]",
            )
        names.add(metric.name)


def check_signatures(run: Run, metrics: Sequence[Declared]) -> None:
    """Check that metrics score as they did when the run began. Raises ConflictError."""
    for metric in metrics:
        before = run.metrics.get(metric.name)
        if before != metric.signature:
            raise ConflictError(
                f"{metric.name} is now {metric.signature!r} and was {before!r} when {run.id} "
                "began; scores of one run must have one signature. Score its answers again with "
                f"'evalrouter eval rescore {run.id} --metrics {metric.name}', or start a new run."
            )


def lacking_scores(metrics: Sequence[Declared], scores: Iterable[Score]) -> tuple[int, ...]:
    """Return the indexes of the metrics that have an output without a score."""
    had = {score.output for score in scores}
    return tuple(
        n
        for n, metric in enumerate(metrics)
        if not had.issuperset(output.name for output in metric.outputs)
    )


def outputs_of(metrics: Sequence[Declared]) -> list[Output]:
    """Return every output of the metrics, in order."""
    return [output for metric in metrics for output in metric.outputs]


def decidable(metrics: Sequence[Declared]) -> list[Output]:
    """Return every output that a run can decide by: also those that people's labels will add."""
    outputs = outputs_of(metrics)
    names = {output.name for output in outputs}
    return outputs + [
        output
        for metric in metrics
        if isinstance(metric, Graded)
        for output in metric.corrected_by_labels().outputs
        if output.corrects and output.name not in names
    ]


def parse_gates(document: RunDocument, metrics: Sequence[Declared]) -> list[Gate]:
    """Return the document's gates. Raises RunDocumentError."""
    outputs = decidable(metrics)
    return [
        gate_rules.parse(
            text, outputs, has_baseline=document.baseline is not None, param=f"gates[{n}]"
        )
        for n, text in enumerate(document.gates)
    ]


def check_primary(document: RunDocument, metrics: Sequence[Declared]) -> None:
    """Refuse a primary output that cannot be tested. Raises RunDocumentError."""
    if document.primary is None:
        return
    outputs = {output.name: output for output in decidable(metrics)}
    output = outputs.get(document.primary)
    if output is None:
        raise RunDocumentError(
            f"primary: {not_produced(document.primary, outputs)}", param="primary"
        )
    if output.higher_is_better is None:
        raise RunDocumentError(
            f"primary: neither direction of {output.name} is better, so it cannot decide",
            param="primary",
        )


def check_margins(document: RunDocument, metrics: Sequence[Declared]) -> None:
    """Refuse margins of outputs that the run does not have. Raises RunDocumentError."""
    if document.margins and document.baseline is None:
        raise RunDocumentError("margins: the run names no baseline", param="margins")
    names = [output.name for output in decidable(metrics)]
    for name in document.margins:
        if name not in names:
            raise RunDocumentError(f"margins: {not_produced(name, names)}", param=f"margins.{name}")


def check_stop_when(document: RunDocument, metrics: Sequence[Declared]) -> None:
    """Check that the rule is about an output of the run. Raises RunDocumentError."""
    when = document.stop_when
    if when is None:
        return
    check_stop(when, outputs_of(metrics), baseline=document.baseline)
    if document.primary and when.decided and when.decided != raw_name(document.primary):
        raise RunDocumentError(
            f"stop_when.decided: the run decides by its primary output, {document.primary}, and "
            f"tests {when.decided} only after that; name the same output in both",
            param="stop_when.decided",
        )


# Routes


def requested_routes(document: RunDocument) -> tuple[str, ...]:
    """Return the routes to which the run sends requests."""
    return tuple(route for route in document.routes if route != PRECOMPUTED)


def check_routes(
    requester: EvalRequester, document: RunDocument, metrics: Sequence[AnyMetric]
) -> None:
    """Check that the run's routes and those that its metrics request exist.

    Raises:
        RunDocumentError: a route of the run does not exist.
        ModelNotFoundError: a route that a metric requests does not exist.
    """
    for n, route in enumerate(document.routes):
        if route == PRECOMPUTED:
            continue
        try:
            requester.check_route(route)
        except ModelNotFoundError as error:
            raise RunDocumentError(f"routes[{n}]: {error.message}", param=f"routes[{n}]") from None
    check_metric_routes(requester, metrics)


def check_metric_routes(requester: EvalRequester, metrics: Sequence[AnyMetric]) -> None:
    """Check that the routes that metrics request exist. Raises ModelNotFoundError."""
    for metric in metrics:
        for route in routes_of(metric):
            requester.check_route(route)


def check_repeats(document: RunDocument) -> None:
    """Refuse to repeat the answers that a dataset brings along. Raises RunDocumentError."""
    if PRECOMPUTED in document.routes and document.repeats > 1:
        raise RunDocumentError(
            f"repeats: {PRECOMPUTED} has one answer for each sample", param="repeats"
        )


def check_per_target(requester: EvalRequester, document: RunDocument) -> None:
    """Check that limits of targets name targets of the run. Raises RunDocumentError."""
    if not document.limits.per_target:
        return
    targets = [
        str(target)
        for route in requested_routes(document)
        for target in requester.table.first_targets(route)
    ]
    for name in document.limits.per_target:
        _check(name, "limits.per_target")
        if name not in targets:
            raise RunDocumentError(
                f"limits.per_target: the run's routes have no target {name!r}."
                f"{closest(name, targets)}",
                param=f"limits.per_target.{name}",
            )


def check_repeated_routes(document: RunDocument) -> None:
    """Refuse a route that is named twice. Raises RunDocumentError."""
    for n, route in enumerate(document.routes):
        if route in document.routes[:n]:
            raise RunDocumentError(f"routes[{n}]: {route!r} is named twice", param=f"routes[{n}]")


def _check_baseline(document: RunDocument) -> None:
    if document.baseline is not None and document.baseline not in document.routes:
        raise RunDocumentError(
            f"baseline: {document.baseline!r} is not one of the run's routes "
            f"({', '.join(document.routes)})",
            param="baseline",
        )


# Parameters


def _check_parameters(document: RunDocument) -> None:
    """Refuse parameters that the run sets itself."""
    for name in RESERVED_PARAMETERS:
        if name in document.parameters:
            raise RunDocumentError(
                f"parameters.{name}: set by the run itself, leave it out",
                param=f"parameters.{name}",
            )
    if document.parameters.get("n", 1) != 1:
        raise RunDocumentError(
            "parameters.n: one answer per request; use repeats for more", param="parameters.n"
        )
