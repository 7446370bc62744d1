"""The metrics a run document may name.

    metric = build({"name": "rouge", "stemmer": True})
    metric = build({"rouge": "published"})              # {"name": "rouge", "preset": "published"}

To add a metric, write its file and add its line here; no other code names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from evaluators.base import AnyMetric
from evaluators.data.paths import OpenedKind, Opens, is_file, is_folder
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
    "numeric_error": "evaluators.metrics.numeric_error:NumericError",
    "perplexity": "evaluators.metrics.perplexity:Perplexity",
    "prometheus": "evaluators.judge.metrics:prometheus",
    "rag": "evaluators.judge.rag:Rag",
    "ranking": "evaluators.metrics.ranking:Ranking",
    "readability": "evaluators.metrics.readability:Readability",
    "regex": "evaluators.metrics.regex:Regex",
    "repetition": "evaluators.metrics.repetition:Repetition",
    "rouge": "evaluators.metrics.rouge:Rouge",
    "ter": "evaluators.metrics.ter:Ter",
    "tokens": "evaluators.metrics.tokens:Tokens",
}

# Names that begin so are not listed: what follows is the metric's own name or path.
PREFIXES: Mapping[str, str] = {
    "hf:": "evaluators.metrics.hf:HuggingFaceMetric",
    "file:": "evaluators.metrics.user:UserMetric",
}
ENTRY_POINTS = "evalrouter.metrics"
_USER = "evaluators.metrics.user:UserMetric"

# Without such an end, what may also be the name of one that ships is no path.
_YAML = (".yaml", ".yml", ".json")

MetricSpec = str | Mapping[str, Any]


def build(spec: MetricSpec, *, param: str = "metrics") -> AnyMetric:
    """Build a metric from its name, or from an object with `name` and options.

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


def resolve(
    spec: MetricSpec, base: Path, *, language: str = "", param: str = "metrics"
) -> MetricSpec:
    """Return the spec with its paths made absolute, so that it means the same everywhere.

    Args:
        spec: as the run document has it.
        base: the folder that its relative paths start from.
        language: of the run's answers, for a metric that has the option and leaves it out; ""
            where the run names none.
        param: where in the document it is, for errors.

    Raises:
        RunDocumentError: a file that it names does not exist.
    """
    name, options = _read(spec, param)
    if name.startswith("file:"):
        path = base / name.removeprefix("file:")
        if not is_file(path):
            raise RunDocumentError(f"{param}: {path}: no such file", param=param)
        name = f"file:{path.resolve()}"
    kind, _ = _kind(name, param)
    if language and "language" in inspect.signature(kind).parameters:
        options.setdefault("language", language)
    for option, opens in _opening_options(kind).items():
        value = options.get(option)
        if opens.names and not str(value).endswith(_YAML):
            # The name of one that ships, whatever lies in the folder.
            continue
        # A model's name on the hub is not a path, and stays as it is.
        if isinstance(value, str) and (is_file(base / value) or is_folder(base / value)):
            options[option] = str((base / value).resolve())
        elif opens.what == "program" and value is not None:
            raise RunDocumentError(
                f"{param}: {option}: {value!r}: no such file or folder", param=f"{param}.{option}"
            )
    return {"name": name, **options} if options else name


class Opening(NamedTuple):
    """Something that a metric opens when it is built or loaded.

    Attributes:
        what: see evaluators.data.paths.Opens.
        value: the path or the name.
        param: where in the document it is.
    """

    what: OpenedKind
    value: str
    param: str


def openings(spec: MetricSpec, *, param: str = "metrics") -> Iterator[Opening]:
    """Yield what the metric would open, defaults included, without opening any of it.

    Users' entry points are installed on purpose, so they are left out.

    Args:
        spec: as the run document has it.
        param: where in the document it is.

    Raises:
        RunDocumentError: no such metric.
    """
    name, options = _read(spec, param)
    kind, _ = _kind(name, param)
    prefix, _, rest = name.partition(":")
    if prefix == "file":
        yield Opening("program", rest, param)
    elif prefix == "hf":
        yield Opening("hub_metric", rest, param)
    defaults = inspect.signature(kind).parameters
    for option, opens in _opening_options(kind).items():
        value = options.get(option, defaults[option].default)
        if isinstance(value, str) and value not in opens.names:
            yield Opening(opens.what, value, f"{param}.{option}")


def _opening_options(kind: Callable[..., Any]) -> dict[str, Opens]:
    """Return the metric's options that open something, as their types declare it."""
    options: dict[str, Opens] = {}
    for option, hint in _hints(kind).items():
        for opens in _declared(hint):
            options[option] = opens
    return options


def _declared(hint: Any) -> Iterator[Opens]:
    if get_origin(hint) is Annotated:
        yield from (marker for marker in hint.__metadata__ if isinstance(marker, Opens))
    for inner in get_args(hint):
        yield from _declared(inner)


def _hints(kind: Callable[..., Any]) -> dict[str, Any]:
    made_by = kind.__init__ if isinstance(kind, type) else kind  # type: ignore[misc]
    return get_type_hints(made_by, include_extras=True)


def _read(spec: MetricSpec, param: str) -> tuple[str, dict[str, Any]]:
    options = _short(spec) if isinstance(spec, str) else dict(spec)
    if len(options) == 1 and "name" not in options:
        [(metric, preset)] = options.items()
        if metric in METRICS and isinstance(preset, str):
            options = {"name": metric, "preset": preset}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise RunDocumentError(
            f"{param}: a metric is a name, or an object with 'name' and its options", param=param
        )
    return name, options


def _short(spec: str) -> dict[str, Any]:
    """Return the object that a text stands for: a name, or a name and a preset with a colon."""
    metric, colon, preset = spec.partition(":")
    if colon and metric in METRICS:
        return {"name": metric, "preset": preset.strip()}
    return {"name": spec}


def _kind(name: str, param: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """Return the constructor of the metric, and its arguments besides the options."""
    for prefix, target in PREFIXES.items():
        rest = name.removeprefix(prefix)
        if name.startswith(prefix) and rest:
            return _load(target), (name if prefix == "file:" else rest,)
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
    """Yield the given options, converted to the types of the constructor's arguments."""
    known = {
        parameter.name: parameter
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    for option in sorted(given.keys() - known.keys()):
        near = closest(option, known) if known else " It has none."
        raise RunDocumentError(
            f"{param}: {name} has no option {option!r}.{near}", param=f"{param}.{option}"
        )
    for option, parameter in known.items():
        if option not in given:
            if parameter.default is parameter.empty:
                raise RunDocumentError(
                    f"{param}: {name} needs the option {option!r}", param=f"{param}.{option}"
                )
            continue
        hint = _hints(kind)[option]
        try:
            yield option, msgspec.convert(given[option], hint)
        except msgspec.ValidationError as error:
            why = str(error)
            # The option may also be left out: `Literal["a", "b"] | None`.
            literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
            if literals and isinstance(given[option], str):
                names = ", ".join(str(word) for part in literals for word in get_args(part))
                why = f"{given[option][:80]!r} is not one of {names}"
            raise RunDocumentError(
                f"{param}: {name}: {option}: {why}", param=f"{param}.{option}"
            ) from error
