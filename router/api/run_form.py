"""The form that begins a run, and the run document that it stands for.

    form = form_of(run.document)            # what its fields can say, and the rest as YAML
    written = document_of_form(form)        # the document, to be checked like any other

What no field can say stays in `rest`, so that there is a form for every document. A field has the
name of the document's key, where it stands for a whole key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import yaml

from evaluators.document import RunDocument
from providers.errors import RunDocumentError
from router.config.documents import Document, Problem, parse_yaml, refusal, require_object

Draw = Literal["first", "random"]
# The metric and its option that a judge's choice in the form stands for.
_JUDGES = {"prometheus": "rubric", "judge": "kind"}
_DEFAULTS = msgspec.to_builtins(RunDocument(dataset="-", routes=("-",), metrics=()))
_REQUIRED = {
    "dataset": "dataset: choose one, or name another one",
    "routes": "routes: tick at least one, or name others",
    "metrics": "metrics: tick at least one, or choose a task that has some",
}
_TEXTS = ("dataset", "task", "baseline", "prompt", "name", "experiment", "notes")
_NUMBERS = ("repeats",)
_LINES = ("gates",)
_TICKS = ("no_baseline", "whole")
# Part of a key in the document to its field.
_PARTS = {
    ("parameters", "temperature"): "temperature",
    ("parameters", "max_tokens"): "max_tokens",
    ("limits", "cost_usd"): "cost_usd",
}


class RunForm(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the form, as they were typed.

    Attributes:
        dataset: one that is listed.
        other_dataset: another one: a path, an address, or a version.
        routes: those that are ticked.
        models: further routes, one a line.
        metrics: those that are ticked, by their names.
        other_metrics: further metrics, one a line: a name, or an object as YAML or JSON.
        judge: the route that judges; "" for none.
        judged_by: what it judges by, as `metric:rubric` or `metric:kind`.
        limit: the number of samples; "" for all.
        draw: whether those are the first, or drawn at random.
        seed: of the draw.
        tags: words, with spaces between them.
        gates: one a line.
        rest: the other keys of the document, as YAML or JSON.
        no_baseline: whether the run has no baseline; otherwise an empty one is the first route's.
        whole: whether `rest` is the whole document, and the other fields count for nothing.

    The others are as in RunDocument, `temperature` and `max_tokens` as in its `parameters`, and
    `cost_usd` as in its `limits`.
    """

    dataset: str = ""
    other_dataset: str = ""
    routes: tuple[str, ...] = ()
    models: str = ""
    task: str = ""
    metrics: tuple[str, ...] = ()
    other_metrics: str = ""
    judge: str = ""
    judged_by: str = ""
    baseline: str = ""
    prompt: str = ""
    temperature: str = ""
    max_tokens: str = ""
    repeats: str = ""
    limit: str = ""
    draw: Draw = "first"
    seed: str = ""
    cost_usd: str = ""
    gates: str = ""
    name: str = ""
    experiment: str = ""
    tags: str = ""
    notes: str = ""
    rest: str = ""
    no_baseline: bool = False
    whole: bool = False


def read_form(fields: Mapping[str, Sequence[str]]) -> RunForm:
    """Return a form as a browser sent it."""
    lists: dict[str, Any] = {name: tuple(fields.get(name, ())) for name in ("routes", "metrics")}
    texts: dict[str, Any] = {
        name: fields[name][0].replace("\r\n", "\n")
        for name in RunForm.__struct_fields__
        if name in fields and name not in {*lists, "draw", *_TICKS}
    }
    draw: Draw = "random" if fields.get("draw", [""])[0] == "random" else "first"
    ticks: dict[str, Any] = {name: name in fields for name in _TICKS}
    return RunForm(**lists, **texts, **ticks, draw=draw)


# A form into its document


def document_of_form(form: RunForm) -> Document:
    """Return the document that a form stands for, without checking its values.

    Raises:
        RunDocumentError: `rest` is no YAML, or has what a field has too; what every run needs is
            missing.
    """
    rest = _read_rest(form)
    if form.whole:
        return rest
    fields = _of_fields(form)
    document = Document.of(_with_baseline(_merged(fields, rest.data), form))
    problems = [
        Problem((key,), 0, message)
        for key, message in _REQUIRED.items()
        if key not in document.data and not (key == "metrics" and "task" in document.data)
    ]
    # A run document takes any parameters; these are numbers everywhere.
    problems += [
        Problem(("parameters", name), 0, f"{name}: expected a number (got {value[:80]!r})")
        for name, value in fields.get("parameters", {}).items()
        if isinstance(value, str)
    ]
    if problems:
        raise refusal(problems, RunDocumentError)
    return document


def _read_rest(form: RunForm) -> Document:
    name = "document"
    if not form.rest.strip():
        return Document({}, name, {})
    document = parse_yaml(form.rest, name, error=RunDocumentError)
    require_object(document, error=RunDocumentError)
    return document


def _of_fields(form: RunForm) -> dict[str, Any]:
    """Return what the fields say; a text in a field for a number stays text."""
    written: dict[str, Any] = {key: text for key in _TEXTS if (text := getattr(form, key).strip())}
    if form.other_dataset.strip():
        written["dataset"] = form.other_dataset.strip()
    routes = [*form.routes, *_lines(form.models)]
    if routes:
        written["routes"] = routes
    metrics = [*form.metrics, *metrics_of_lines(form.other_metrics)]
    if form.judge.strip():
        metric, _, choice = form.judged_by.partition(":")
        metrics.append({"name": metric, _JUDGES.get(metric, "rubric"): choice})
        metrics[-1]["judge"] = form.judge.strip()
    if metrics:
        written["metrics"] = metrics
    written |= {key: _number(getattr(form, key)) for key in _NUMBERS if getattr(form, key).strip()}
    written |= {key: lines for key in _LINES if (lines := _lines(getattr(form, key)))}
    if form.tags.split():
        written["tags"] = form.tags.split()
    for (key, part), field in _PARTS.items():
        if getattr(form, field).strip():
            written.setdefault(key, {})[part] = _number(getattr(form, field))
    if form.draw == "random":
        sample = {"n": form.limit, "seed": form.seed}
        written["sample"] = {key: _number(text) for key, text in sample.items() if text.strip()}
    elif form.limit.strip():
        written["limit"] = _number(form.limit)
    return written


def metrics_of_lines(text: str) -> list[Any]:
    """Return metrics that were written one a line, unchecked.

    Raises:
        RunDocumentError: a line is no YAML.
    """
    return [parse_yaml(line, "metrics", error=RunDocumentError).data for line in _lines(text)]


def numbers_of(fields: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
    """Return the fields that something was typed into, as `_number` reads it."""
    return {name: _number(fields[name]) for name in names if fields.get(name, "").strip()}


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(text: str) -> int | float | str:
    """Return a number, or the text as it is, which the document's check then refuses."""
    for kind in (int, float):
        try:
            return kind(text.strip())
        except ValueError:
            continue
    return text.strip()


def _merged(fields: dict[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return both: lists one after the other, objects with the keys of both."""
    merged = dict(fields)
    for key, value in rest.items():
        known = merged.get(key)
        if known is None:
            merged[key] = value
        elif isinstance(known, list) and isinstance(value, list):
            merged[key] = [*known, *value]
        elif isinstance(known, dict) and isinstance(value, dict):
            _check_apart(known, value, f"{key}.")
            merged[key] = {**known, **value}
        else:
            _check_apart(fields, [key])
    known_keys = [key for key in _DEFAULTS if key in merged]
    return {key: merged[key] for key in dict.fromkeys([*known_keys, *merged])}


def _with_baseline(written: dict[str, Any], form: RunForm) -> dict[str, Any]:
    """Return a document whose baseline is the first of its routes where it names none.

    A task names one itself.
    """
    if form.no_baseline and written.get("baseline"):
        raise RunDocumentError(
            "baseline: a route is named, and the run is to have none; leave one of them out",
            param="baseline",
        )
    if "baseline" in written:
        return written
    if "task" in written:
        return {**written, "baseline": None} if form.no_baseline else written
    routes = written.get("routes") or []
    if form.no_baseline or not _is_texts(routes) or len(routes) < 2:
        return written
    return {**written, "baseline": routes[0]}


def _check_apart(fields: Mapping[str, Any], keys: Iterable[str], before: str = "") -> None:
    for key in keys:
        if key in fields:
            path = f"{before}{key}"
            raise RunDocumentError(
                f"{path}: there is a field for it, and it is in the other keys as well; leave one "
                "of them empty",
                param=path,
            )


# A document into its form


def form_of(document: Mapping[str, Any]) -> RunForm:
    """Return the form of a document, with the rest of it as YAML.

    Args:
        document: JSON types, not checked; what the defaults are is left out.
    """
    rest = {
        key: value
        for key, value in document.items()
        if key not in _DEFAULTS or value != _DEFAULTS[key]
    }
    fields: dict[str, Any] = {}
    for key in _TEXTS:
        if isinstance(rest.get(key), str):
            fields[key] = rest.pop(key)
    for key in _LINES:
        if _is_texts(rest.get(key)):
            fields[key] = "\n".join(rest.pop(key))
    if _is_texts(rest.get("tags")):
        fields["tags"] = " ".join(rest.pop("tags"))
    for key in ("limit", *_NUMBERS):
        if _is_number(rest.get(key)):
            fields[key] = str(rest.pop(key))
    fields["no_baseline"] = _has_no_baseline(document)
    fields |= _routes_of(rest) | _metrics_of(rest) | _parts_of(rest) | _draw_of(rest)
    return RunForm(**fields, rest=as_yaml(rest) if rest else "")


def _has_no_baseline(document: Mapping[str, Any]) -> bool:
    """Return whether a document's form has to say that there is no baseline."""
    if document.get("baseline") is not None:
        return False
    if document.get("task") is not None:
        # A task names one where the document leaves it out.
        return "baseline" in document
    routes = document.get("routes")
    return isinstance(routes, list | tuple) and len(routes) > 1 and _is_texts(routes)


def _routes_of(rest: dict[str, Any]) -> dict[str, Any]:
    if not _is_texts(rest.get("routes")):
        return {}
    return {"models": "\n".join(rest.pop("routes"))}


def _metrics_of(rest: dict[str, Any]) -> dict[str, Any]:
    """Take the metrics, among them the first judge that the fields can express."""
    specs = rest.get("metrics")
    # Without metrics, the empty list says that the run has none.
    if not isinstance(specs, list | tuple) or not specs:
        return {}
    del rest["metrics"]
    others = [spec for spec in specs if not isinstance(spec, str)]
    fields: dict[str, Any] = {"metrics": tuple(spec for spec in specs if isinstance(spec, str))}
    for spec in others:
        option = _JUDGES.get(str(spec.get("name"))) if isinstance(spec, Mapping) else None
        if option and set(spec) == {"name", "judge", option} and _is_texts([*spec.values()]):
            fields |= {"judge": spec["judge"], "judged_by": f"{spec['name']}:{spec[option]}"}
            others.remove(spec)
            break
    return fields | {
        "other_metrics": "\n".join(msgspec.json.encode(spec).decode() for spec in others)
    }


def _parts_of(rest: dict[str, Any]) -> dict[str, Any]:
    fields = {}
    for (key, part), field in _PARTS.items():
        inner = rest.get(key)
        if not isinstance(inner, Mapping):
            continue
        left = {
            name: value
            for name, value in inner.items()
            if value != _DEFAULTS.get(key, {}).get(name, _DEFAULTS)
        }
        if _is_number(left.get(part)):
            fields[field] = str(left.pop(part))
        rest[key] = left
        if not left:
            del rest[key]
    return fields


def _draw_of(rest: dict[str, Any]) -> dict[str, Any]:
    sample = rest.get("sample")
    if not isinstance(sample, Mapping):
        return {}
    left = {key: value for key, value in sample.items() if value is not None}
    if not set(left) <= {"n", "seed"} or not all(map(_is_number, left.values())):
        return {}
    del rest["sample"]
    texts = {"limit": left.get("n", ""), "seed": left.get("seed", "")}
    return {"draw": "random", **{key: str(value) for key, value in texts.items()}}


def _is_texts(value: object) -> bool:
    """Return whether a value is a list of texts that each fit a line."""
    return isinstance(value, list | tuple) and all(
        isinstance(text, str) and text.strip() and "\n" not in text for text in value
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_yaml(document: Mapping[str, Any]) -> str:
    """Return a document as YAML, its keys in their order."""
    return yaml.safe_dump(
        msgspec.to_builtins(document), sort_keys=False, allow_unicode=True, width=88
    )


# What is wrong, by field


def errors_by_field(error_problems: Mapping[str, str], form: RunForm) -> dict[str, str]:
    """Return what is wrong by the field that it is to be shown at; "" for none.

    Args:
        error_problems: the path in the document to what is wrong there.
        form: the form.
    """
    by_field: dict[str, str] = {}
    for path, message in error_problems.items():
        field = "rest" if form.whole else _field_of(path, form)
        by_field[field] = f"{by_field[field]}; {message}" if field in by_field else message
    return by_field


def _field_of(path: str, form: RunForm) -> str:
    """Return the field that a path in the document belongs to."""
    top, _, inner = path.partition(".")
    key, _, index = top.partition("[")
    if (key, inner) in _PARTS:
        return _PARTS[key, inner]
    if key == "sample":
        return "seed" if inner == "seed" else "limit"
    number = int(index.rstrip("]")) if index.rstrip("]").isdigit() else None
    if key == "dataset":
        return "other_dataset" if form.other_dataset.strip() else "dataset"
    if key == "metrics":
        ticked, others = len(form.metrics), len(_lines(form.other_metrics))
        if number is None or number < ticked:
            return "metrics"
        return "other_metrics" if number < ticked + others else "judge"
    if key == "routes":
        return "models" if number is not None and number >= len(form.routes) else "routes"
    return key if key in RunForm.__struct_fields__ else "rest"
