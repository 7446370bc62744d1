"""The metrics a run document may name.

    metric = build({"name": "rouge", "stemmer": True})

To add a metric, write its file and add its line here; nothing else has to know.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from evaluators.base import AnyMetric
from providers.errors import RunDocumentError, closest

# Imported when built: a server that evaluates nothing does not load sacreBLEU.
METRICS: Mapping[str, str] = {
    "bertscore": "evaluators.metrics.bertscore:BertScore",
    "bleu": "evaluators.metrics.bleu:Bleu",
    "chrf": "evaluators.metrics.chrf:Chrf",
    "classification": "evaluators.metrics.classification:Classification",
    "compression": "evaluators.metrics.compression:Compression",
    "contains": "evaluators.metrics.contains:Contains",
    "cost": "evaluators.metrics.cost:Cost",
    "embedding_similarity": "evaluators.metrics.embedding_similarity:embedding_similarity",
    "exact_match": "evaluators.metrics.exact_match:ExactMatch",
    "f1": "evaluators.metrics.f1:F1",
    "fuzzy": "evaluators.metrics.fuzzy:Fuzzy",
    "judge": "evaluators.judge.metrics:judge",
    "json_schema": "evaluators.metrics.json_schema:JsonSchema",
    "json_valid": "evaluators.metrics.json_valid:JsonValid",
    "language": "evaluators.metrics.language:Language",
    "latency": "evaluators.metrics.latency:Latency",
    "length": "evaluators.metrics.length:Length",
    "levenshtein": "evaluators.metrics.levenshtein:Levenshtein",
    "meteor": "evaluators.metrics.meteor:Meteor",
    "multiple_choice": "evaluators.metrics.multiple_choice:MultipleChoice",
    "novelty": "evaluators.metrics.novelty:Novelty",
    "numeric": "evaluators.metrics.numeric:Numeric",
    "perplexity": "evaluators.metrics.perplexity:Perplexity",
    "prometheus": "evaluators.judge.metrics:prometheus",
    "rag": "evaluators.judge.rag:Rag",
    "readability": "evaluators.metrics.readability:Readability",
    "regex": "evaluators.metrics.regex:Regex",
    "repetition": "evaluators.metrics.repetition:Repetition",
    "rouge": "evaluators.metrics.rouge:Rouge",
    "ter": "evaluators.metrics.ter:Ter",
    "tokens": "evaluators.metrics.tokens:Tokens",
}

# Names that begin so are not listed: what follows is the metric's own name or path.
PREFIXES: Mapping[str, str] = {
    "hf:": "evaluators.metrics.hf:HuggingFace",
    "file:": "evaluators.metrics.user:UserMetric",
}
ENTRY_POINTS = "evalrouter.metrics"
_USER = "evaluators.metrics.user:UserMetric"

# Options that may name a file or folder beside the run document.
_YAML = ("rubric", "kind")
_PATHS = ("path", "model", "baseline", *_YAML)

Spec = str | Mapping[str, Any]


def build(spec: Spec, *, param: str = "metrics") -> AnyMetric:
    """A metric from its name, or from an object with `name` and options.

    Besides the names of METRICS there are `hf:NAME`, `file:PATH` and users' entry points.

    Args:
        spec: as the run document has it.
        param: where in the document it is, for errors.

    Raises:
        RunDocumentError: no such metric or option, or an option of the wrong type or value.
        MissingExtraError: it needs a package that is not installed.
    """
    name, options = _read(spec, param)
    kind, given = _kind(name, param)
    checked = dict(_options(kind, name, options, param))
    try:
        metric: AnyMetric = kind(*given, **checked)
    except RunDocumentError as error:
        raise RunDocumentError(
            f"{param}: {name}: {error.message}", param=f"{param}.{error.param}"
        ) from error
    return metric


def resolve(spec: Spec, base: Path, *, param: str = "metrics") -> Spec:
    """The spec with the paths in it made absolute, so that it means the same everywhere.

    Args:
        spec: as the run document has it.
        base: the folder that its relative paths start from.
        param: where in the document it is, for errors.

    Raises:
        RunDocumentError: there is no such file.
    """
    name, options = _read(spec, param)
    if name.startswith("file:"):
        path = (base / name.removeprefix("file:")).resolve()
        if not path.is_file():
            raise RunDocumentError(f"{param}: {path}: no such file", param=param)
        name = f"file:{path}"
    for option in _PATHS:
        value = options.get(option)
        if option in _YAML and not str(value).endswith((".yaml", ".yml", ".json")):
            # The name of one that ships, whatever lies in the folder.
            continue
        # A model's name on the hub is not a path, and stays as it is.
        if isinstance(value, str) and (base / value).exists():
            options[option] = str((base / value).resolve())
        elif option == "path" and value is not None:
            raise RunDocumentError(
                f"{param}: path: {value!r}: no such file or folder", param=f"{param}.path"
            )
    return {"name": name, **options} if options else name


def runs_code(spec: Spec) -> bool:
    """Whether the spec names a program to run: not to be taken from a stranger.

    Users' entry points are installed on purpose, and so are not meant; metrics that Hugging Face
    keeps itself have no slash in their name.
    """
    name, options = _read(spec, "metrics")
    if name.startswith("hf:"):
        return "/" in name or "path" in options
    return name.startswith("file:")


def _read(spec: Spec, param: str) -> tuple[str, dict[str, Any]]:
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise RunDocumentError(
            f"{param}: a metric is a name, or an object with 'name' and its options", param=param
        )
    return name, options


def _kind(name: str, param: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """What makes the metric, and what it is told besides its options."""
    for prefix, target in PREFIXES.items():
        own = name.removeprefix(prefix)
        if name.startswith(prefix) and own:
            return _load(target), (name if prefix == "file:" else own,)
    if name in METRICS:
        return _load(METRICS[name]), ()
    installed = entry_points(group=ENTRY_POINTS)
    if name in installed.names:
        return _load(_USER), (name,)
    known = [*METRICS, *installed.names]
    raise RunDocumentError(
        f"{param}: there is no metric {name!r}.{closest(name, known)}", param=param
    )


def _load(target: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    kind: Callable[..., Any] = getattr(import_module(module), attribute)
    return kind


def _options(
    kind: Callable[..., Any], name: str, given: Mapping[str, Any], param: str
) -> Iterator[tuple[str, Any]]:
    """The given options, converted to the types of the constructor's keyword arguments."""
    made_by = kind.__init__ if isinstance(kind, type) else kind  # type: ignore[misc]
    known = {
        one.name: one
        for one in inspect.signature(kind).parameters.values()
        if one.kind is one.KEYWORD_ONLY
    }
    for option in sorted(given.keys() - known.keys()):
        near = closest(option, known) if known else " It has none."
        raise RunDocumentError(
            f"{param}: {name} has no option {option!r}.{near}", param=f"{param}.{option}"
        )
    for option, one in known.items():
        if option not in given:
            if one.default is one.empty:
                raise RunDocumentError(
                    f"{param}: {name} needs the option {option!r}", param=f"{param}.{option}"
                )
            continue
        try:
            hint = get_type_hints(made_by, include_extras=True)[option]
            yield option, msgspec.convert(given[option], hint)
        except msgspec.ValidationError as error:
            raise RunDocumentError(
                f"{param}: {name}: {option}: {error}", param=f"{param}.{option}"
            ) from error
