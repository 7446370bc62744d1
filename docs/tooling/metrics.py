"""Describes the metrics: a table of their outputs, and a section for each."""

from __future__ import annotations

import ast
import inspect
import json
import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_type_hints

import msgspec
import yaml
from msgspec import inspect as types

from evaluators.base import Answer, JudgeMetric, Output, Sample
from evaluators.metrics import registry
from providers.errors import MissingExtraError
from tooling.keys import words
from tooling.markdown import REFERENCE, ROOT, UndocumentedError, table

COSTS = ROOT / "loadtests" / "results" / "metric-costs.json"

_SAMPLE = Sample(
    id="1",
    messages=({"role": "user", "content": "Where does the long road by the river lead to?"},),
    # One for each kind of metric: a text, a label, a choice, a number.
    references=("It leads to the harbour.", "spam", "B", "12"),
)


def metrics() -> str:
    """Return a table with one row for each output of each metric."""
    rows: list[str] = []
    for name in registry.METRICS:
        try:
            metric = example(name)
        except MissingExtraError:
            rows += committed(name, rf"^\| \[{name}\]\(.*$")
            continue
        blank = _of_a_blank_answer(metric)
        for output in metric.outputs:
            better = {True: "higher", False: "lower", None: "neither"}[output.higher_is_better]
            row = (
                f"[{name}](#{name})",
                f"`{output.name}`",
                _range(output),
                better,
                "over the corpus" if output.corpus else "mean",
                "yes" if metric.needs_reference else "no",
                blank[output.name],
                "requests" if isinstance(metric, JudgeMetric) else cost(name),
            )
            rows += table(row, []).splitlines()[:1]
    head = ("metric", "output", "range", "better", "route's score", "needs reference", "blank")
    return "\n".join([table((*head, "s per 1,000"), []), *rows]) + "\n"


def cost(name: str) -> str:
    """Return the CPU seconds per 1,000 answers, where `loadtests.metrics costs` measured them."""
    measured = json.loads(COSTS.read_text(encoding="utf-8"))
    if name not in measured:
        return "not measured"
    seconds = measured[name]
    return "<0.01" if seconds < 0.01 else f"{seconds:,.2g}" if seconds < 100 else f"{seconds:,.0f}"


def metric_texts() -> str:
    """Return a section for each metric."""
    parts = []
    for name in registry.METRICS:
        try:
            metric = example(name)
        except MissingExtraError:
            parts += committed(name, rf"^### {name}\n(?:.|\n)*?\n(?=\n### |<!-- end)")
            continue
        kind = _factory(name)
        text = re.split(r"\n\n(?:Args|Attributes|Raises):", inspect.getdoc(kind) or "")[0]
        options = [
            f"- `{parameter.name}`: {_option(kind, parameter)}"
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        outputs = [f"- `{output.name}`: {output.description}" for output in metric.outputs]
        parts.append(
            f"### {name}\n\n{text}\n\n"
            + "Outputs:\n\n{}\n\n".format("\n".join(outputs))
            + ("Options:\n\n{}\n\n".format("\n".join(options)) if options else "")
            + f"Source: {metric.source}.\n\n"
            + f"Signature, for example: `{_without_versions(metric.signature)}`\n"
        )
    return "\n".join(parts)


def committed(name: str, pattern: str) -> list[str]:
    """Return what the page has of a metric whose extra is not installed here."""
    page = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    parts = re.findall(pattern, page, re.MULTILINE)
    if not parts:
        raise UndocumentedError(
            f"docs/reference/metrics.md has no {name} yet, and the package that the metric needs "
            "is not installed here: install it, then run `make docs`"
        )
    return parts


def _factory(name: str) -> Any:
    module, _, attribute = registry.METRICS[name].partition(":")
    return getattr(import_module(module), attribute)


def example(name: str) -> Any:
    """Return a metric with the options that its module's docstring shows.

    Raises:
        MissingExtraError: the metric needs a package that is not installed.
        UndocumentedError: the docstring shows no use of the metric.
    """
    module, _, attribute = registry.METRICS[name].partition(":")
    text = import_module(module).__doc__ or ""
    if spec := re.search(rf"\{{name: {name}\b.*?\}}", text):
        return registry.build(yaml.safe_load(spec[0]))
    # The expression ends where its brackets do; what follows is .score(...) and a comment.
    shown = re.search(rf"\b{attribute}\((?P<options>.*?)\)\.score\(", text)
    if not shown:
        raise UndocumentedError(
            f"the docstring of {module} has to show {{name: {name}, ...}} or "
            f"{attribute}(...).score(...): the page takes the metric's options from there"
        )
    call = ast.parse(f"{attribute}({shown['options']})", mode="eval").body
    assert isinstance(call, ast.Call)
    options = {option.arg: ast.literal_eval(option.value) for option in call.keywords if option.arg}
    return registry.build({"name": name, **options})


def _option(kind: Any, parameter: inspect.Parameter) -> str:
    factory = vars(kind)["__init__"] if isinstance(kind, type) else kind
    hint = get_type_hints(factory, include_extras=True)[parameter.name]
    kind_of_value = words(types.type_info(hint))
    if parameter.default is parameter.empty:
        return f"{kind_of_value}; required"
    if parameter.default is None:
        return kind_of_value
    return f"{kind_of_value}; default `{msgspec.json.encode(parameter.default).decode()}`"


def _range(output: Output) -> str:
    low = "-∞" if output.low is None else f"{output.low:g}"
    high = "∞" if output.high is None else f"{output.high:g}"
    return f"{low} to {high}" + (f" {output.unit}" if output.unit else "")


def _of_a_blank_answer(metric: Any) -> dict[str, str]:
    """Return the score of an answer without text, for each output."""
    if not hasattr(metric, "score"):
        return {output.name: "see below" for output in metric.outputs}
    scores = metric.score(_SAMPLE, Answer(text=""))
    return {
        score.output: "no value" if score.value is None else f"{score.value:g}" for score in scores
    }


def _without_versions(signature: str) -> str:
    """Return the signature without versions, so that the page is the same with any."""
    parts = []
    for part in signature.split("|"):
        name, colon, value = part.partition(":")
        try:
            known = name == "version" or version(name) == value
        except PackageNotFoundError:
            known = False
        parts.append(f"{name}:VERSION" if colon and known else part)
    return "|".join(parts)
