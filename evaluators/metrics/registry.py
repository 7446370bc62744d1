"""The metrics a run document may name.

    metric = build({"name": "rouge", "stemmer": True})
    metric = build({"rouge": "published"})              # {"name": "rouge", "preset": "published"}

To add a metric, write its file and add its line here; no other code names it. A package adds one by
an entry point of the group `evalrouter.metrics`: a function `score(answer, references, row)`, which
`user.py` wraps, or a metric's class (or a function that makes one), whose keyword-only arguments
are its options.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from evaluators.base import AnyMetric, EmbeddingMetric, IsolatedMetric, JudgeMetric, Output
from evaluators.data.paths import OpenedKind, Opens, is_file, is_folder
from providers.errors import EvalrouterError, RunDocumentError, closest
from providers.plugins import Plugin, PluginError, Plugins, find

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
    "pairwise": "evaluators.judge.pairwise_metric:PairwiseMetric",
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
ENTRY_POINTS: Literal["evalrouter.metrics"] = "evalrouter.metrics"
_USER = "evaluators.metrics.user:UserMetric"

# Without such an end, what may also be the name of one that ships is no path.
_YAML = (".yaml", ".yml", ".json")

# Of the protocols in `evaluators/base.py`, each has one.
_METHODS = ("score", "score_batch", "ask", "judge")

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
    except PluginError as error:
        raise RunDocumentError(f"{param}: {error}", param=param) from error
    return metric


def routes_of(metric: AnyMetric) -> tuple[str, ...]:
    """Return the routes that a metric requests: its judges, or whose embeddings it compares."""
    if isinstance(metric, JudgeMetric):
        return tuple(metric.judges)
    return (metric.route,) if isinstance(metric, EmbeddingMetric) else ()


def installed_metrics() -> Plugins:
    """Return the metrics that packages install; none of them is imported."""
    return find(ENTRY_POINTS, built_in=METRICS)


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
            raise RunDocumentError(
                f"{param}: {path}: no such file{function_hint(path.name)}", param=param
            )
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


def function_hint(name: str) -> str:
    """Return how a function of a file is named, for a file's name with one behind a colon."""
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return ""
    return f"; a function is an option: {{name: file:{file}, function: {function}}}"


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

    What packages install was installed on purpose, so their programs are left out.

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
        if isinstance(value, str) and not opens.is_name(value):
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
    kind = inspect.unwrap(kind)
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
    installed = installed_metrics()
    try:
        plugin = installed.get(name)
        if plugin is not None:
            kind = installed_metric(plugin)
            return kind, (plugin.name,) if kind is _load(_USER) else ()
    except PluginError as error:
        raise RunDocumentError(f"{param}: {error}", param=param) from error
    near = closest(name, [*METRICS, *installed.usable])
    raise RunDocumentError(f"{param}: there is no metric {name!r}.{near}", param=param)


def installed_metric(plugin: Plugin) -> Callable[..., Any]:
    """Return the constructor of a metric that a package installs; UserMetric for a function.

    Raises:
        PluginError: it cannot be imported, or is no metric.
    """
    loaded = plugin.load()
    try:
        parameters = inspect.signature(loaded).parameters.values()
        _hints(loaded)
    except Exception as error:
        raise plugin.error(error) from error
    if not isinstance(loaded, type) and any(
        parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters
    ):
        return _load(_USER)

    origin = f"|{plugin.origin}"

    @functools.wraps(loaded, updated=())
    def make(**options: Any) -> AnyMetric:
        try:
            metric: AnyMetric = loaded(**options)
            fault = _fault(metric, plugin.name)
            if not fault:
                metric.signature = f"{metric.signature.removesuffix(origin)}{origin}"
                if not isinstance(metric, IsolatedMetric | EmbeddingMetric | JudgeMetric):
                    # Without it, the server's own process might score first.
                    vars(metric).setdefault("load", getattr(metric, "load", _nothing))
        except EvalrouterError:
            raise
        except (Exception, SystemExit) as error:
            raise plugin.error(error) from error
        if fault:
            raise plugin.error(fault)
        return metric

    return make


def _nothing() -> None:
    pass


def _fault(metric: Any, name: str) -> str:
    """Return why what a package made is no metric of a name; "" where it is one."""
    for attribute in ("name", "outputs", "needs_reference", "signature", "source"):
        if not hasattr(metric, attribute):
            return f"what it makes has no {attribute!r}; see evaluators.base.Declared"
    if metric.name != name:
        return f"its metric is named {metric.name!r}; the name must be the entry point's"
    outputs = metric.outputs
    if not isinstance(outputs, tuple) or not all(isinstance(output, Output) for output in outputs):
        return "its outputs must be a tuple of evaluators.base.Output"
    if not isinstance(metric.signature, str):
        return "its signature must be a text"
    if not any(callable(getattr(metric, method, None)) for method in _METHODS):
        return f"what it makes has none of the methods {', '.join(_METHODS)}"
    return ""


def constructor(name: str) -> Callable[..., Any]:
    """Return the constructor of a metric that ships."""
    return _load(METRICS[name])


def _load(target: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    kind: Callable[..., Any] = getattr(import_module(module), attribute)
    return kind


def _is_finite(value: Any) -> bool:
    """Say whether every number in an option's value is finite."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


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
            value = msgspec.convert(given[option], hint)
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
        if not _is_finite(value):
            raise RunDocumentError(
                f"{param}: {name}: {option}: not a finite number", param=f"{param}.{option}"
            )
        yield option, value
