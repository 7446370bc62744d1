"""The metrics of a bundle, without running anything that it names.

A metric that ships, and that opens no file, model or program, is built as in a run. Any other one
is only data: its declared outputs are enough for all numbers that are means of its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluators.base import (
    Answer,
    AnyMetric,
    AskJudge,
    EmbeddingMetric,
    IsolatedMetric,
    JudgeMetric,
    Output,
    Sample,
    Scorable,
    Score,
)
from evaluators.data.paths import is_folder
from evaluators.document import RunDocument
from evaluators.judge.graded import Graded
from evaluators.metrics.registry import METRICS, MetricSpec, Opening, build, openings
from providers.errors import EvalrouterError, EvidenceError
from router.loop.bundles.contents import MetricDeclaration, OutputDeclaration

_NEVER = "a metric of a bundle that is only declared never scores"


class RecordedMetric:
    """A metric of which only the declaration is known; see `evaluators.base.Declared`."""

    def __init__(self, declaration: MetricDeclaration) -> None:
        self.name = declaration.name
        self.signature = declaration.signature
        self.source = declaration.source
        self.needs_reference = declaration.needs_reference
        self.outputs = tuple(map(_output, declaration.outputs))

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Refuse. Raises NotImplementedError."""
        raise NotImplementedError(_NEVER)


class RecordedJudge(RecordedMetric):
    """A judge's metric of which only the declaration is known."""

    def __init__(self, declaration: MetricDeclaration) -> None:
        super().__init__(declaration)
        self.judges = declaration.judges
        self.calls = declaration.calls
        self.grading = declaration.grading

    async def judge(self, items: Sequence[Scorable], ask: AskJudge) -> list[tuple[Score, ...]]:
        """Refuse. Raises NotImplementedError."""
        raise NotImplementedError(_NEVER)


class BundledMetrics(NamedTuple):
    """The metrics of a run in a bundle.

    Attributes:
        metrics: in the order of its document.
        scored: indexes of those that can score texts here as they did then.
        reasons: for each of the others, why not.
        readable: names of judges' metrics that can read the judges' stored answers here.
        unknown: outputs whose score over all answers is made by a function that is not there.
    """

    metrics: list[AnyMetric]
    scored: tuple[int, ...]
    reasons: dict[str, str]
    readable: frozenset[str]
    unknown: frozenset[str]


def metrics_of(document: RunDocument, declarations: Sequence[MetricDeclaration]) -> BundledMetrics:
    """Return the metrics of a run document, of which only those are built that run no code.

    Raises:
        EvidenceError: the declarations are not those of the document's metrics.
    """
    if len(declarations) != len(document.metrics):
        raise EvidenceError("metrics.json: it has not one declaration for each metric of the run")
    metrics: list[AnyMetric] = []
    scored: list[int] = []
    reasons: dict[str, str] = {}
    readable: set[str] = set()
    unknown: set[str] = set()
    for n, (spec, declared) in enumerate(zip(document.metrics, declarations, strict=True)):
        built = _built(spec)
        why = built if isinstance(built, str) else _difference(built, declared)
        metric = built if not isinstance(built, str) and not _shape(built, declared) else None
        if metric is None:
            metric = _recorded(declared)
            if not isinstance(metric, Graded):
                unknown.update(output.name for output in declared.outputs if output.corpus)
        elif isinstance(metric, Graded) and not why:
            readable.add(metric.name)
        metrics.append(metric)
        if not why:
            why = _not_from_texts(metric)
        if why:
            reasons[declared.name] = why
        else:
            scored.append(n)
    return BundledMetrics(metrics, tuple(scored), reasons, frozenset(readable), frozenset(unknown))


def _built(spec: MetricSpec) -> AnyMetric | str:
    """Return a metric that ships, or why it is not built here."""
    name = spec if isinstance(spec, str) else str(spec.get("name") or next(iter(spec), ""))
    if name.partition(":")[0] not in METRICS:
        return "it is a program, and none that a bundle names is run"
    try:
        opening = next(filter(_is_read, openings(spec)), None)
        if opening is not None:
            return f"it opens a {opening.what}, and none that a bundle names is opened"
        return build(spec)
    except EvalrouterError as error:
        return f"it cannot be built here: {error.message}"


def _is_read(opening: Opening) -> bool:
    """Return whether building the metric opens something; a model of a hub is only loaded later."""
    return opening.what != "model" or is_folder(Path(opening.value))


def _shape(metric: AnyMetric, declared: MetricDeclaration) -> bool:
    """Return whether the outputs differ from those that the run's scores are of."""
    return tuple(map(OutputDeclaration.of, metric.outputs)) != declared.outputs


def _difference(metric: AnyMetric, declared: MetricDeclaration) -> str:
    if metric.name == declared.name and metric.signature == declared.signature:
        return ""
    return f"it is {metric.signature!r} here, and was {declared.signature!r} in the run"


def _not_from_texts(metric: AnyMetric) -> str:
    """Say why a metric's scores are not made again of the texts; "" where they are."""
    if isinstance(metric, JudgeMetric):
        return "a judge gave its scores: they are checked against its stored verdicts"
    if isinstance(metric, EmbeddingMetric):
        return "its scores need the embeddings of a route"
    if isinstance(metric, IsolatedMetric):
        return "its scores need a model"
    return ""


def _recorded(declared: MetricDeclaration) -> Any:
    if declared.graded is not None:
        graded = Graded.declared(declared.graded)
        if not _shape(graded, declared):
            return graded
    return (RecordedJudge if declared.judges else RecordedMetric)(declared)


def _output(declared: OutputDeclaration) -> Output:
    """Return an output; the function of a corpus score is not data, so its numbers are left out."""
    fields = {name: getattr(declared, name) for name in declared.__struct_fields__}
    return Output(**{**fields, "corpus": None})
