"""The parts of docs/reference that the code's own declarations write.

`PARTS` maps a name to a function that writes it. A page has it between two comments,

    <!-- generated: NAME -->
    ...
    <!-- end -->

and `test_docs.py` compares. `python tests/reference_pages.py` writes them anew, the same on every
machine: without the data that `evalrouter data install` may have put into the home folder.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

import click
import httpx
import msgspec
import yaml
from isolation import isolate
from msgspec import inspect as types

from evaluators.base import Answer, Judging, Output, Sample
from evaluators.document import RunDocument
from evaluators.metrics import registry
from providers import errors
from providers.base import Call, ProviderConfig, Secret, Timeout
from providers.compatible import HOSTS, CompatibleConfig
from providers.errors import ConfigError, EvalrouterError, MissingExtraError
from providers.kinds import KINDS
from providers.transport import Transport
from router.cli import main
from router.config import Config, parse
from router.server import background
from serve.config import ENGINES, Model, Replicas

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "reference"
PART = re.compile(r"<!-- generated: (?P<name>[a-z-]+) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)

Row = tuple[str, ...]


def table(head: Row, rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


# Structs


def structs_below(kind: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The Struct and all that its fields are made of, in the order they are met."""
    found = [kind]
    for field in msgspec.structs.fields(kind):
        for inner in _structs_in(types.type_info(field.type)):
            found += [one for one in structs_below(inner) if one not in found]
    return found


def _structs_in(type_: types.Type) -> Iterator[type[msgspec.Struct]]:
    if isinstance(type_, types.StructType) and _is_config(type_.cls):
        yield type_.cls
    for name in ("item_type", "value_type"):
        if (inner := getattr(type_, name, None)) is not None:
            yield from _structs_in(inner)
    for inner in getattr(type_, "types", ()):
        yield from _structs_in(inner)


def _is_config(kind: type[msgspec.Struct]) -> bool:
    """What a user writes refuses unknown keys; wire types do not, and are not explained here."""
    return kind.__struct_config__.forbid_unknown_fields and kind is not ProviderConfig


def struct(kind: type[msgspec.Struct], *, without: type[msgspec.Struct] | None = None) -> str:
    """A table of the Struct's keys, less those of `without`."""
    inherited = {one.name for one in msgspec.structs.fields(without)} if without else set()
    meanings = attributes_of(kind)
    rows: list[Row] = []
    for field in msgspec.structs.fields(kind):
        if field.name in inherited:
            continue
        type_ = types.type_info(field.type)
        assert field.name in meanings, f"{kind.__name__}'s docstring says nothing of {field.name}"
        meaning = meanings[field.name]
        inner = list(_structs_in(type_))
        if meaning.startswith("see ") and inner:
            meaning = summary(inner[0])
        rows.append((f"`{field.name}`", _words(type_), _default(field), _in_yaml(meaning)))
    return table(("key", "type", "default", "meaning"), rows) if rows else "No keys of its own."


def attributes_of(kind: type) -> dict[str, str]:
    """What the docstrings of the class and its bases say of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, listed = text.partition("Attributes:\n")
        for entry in re.split(r"\n(?= {4}\S)", listed.partition("\n\n")[0]):
            names, _, meaning = entry.strip().partition(": ")
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def summary(thing: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].split())


def _in_yaml(text: str) -> str:
    text = re.sub(r"(?<!\. )\bNone\b", "none", text)
    return text[:1].upper() + text[1:]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    made = field.default
    if made is msgspec.NODEFAULT:
        made = field.default_factory()
    if isinstance(made, msgspec.Struct):
        return "its defaults"
    if made is None:
        return "none"
    if isinstance(made, Secret) or made in ("", (), {}):
        return "empty"
    return f"`{msgspec.json.encode(made).decode()}`"


def _words(type_: types.Type) -> str:
    """A type as a writer of YAML thinks of it."""
    match type_:
        case types.Metadata():
            return _words(type_.type)
        case types.UnionType():
            told = [one for one in type_.types if not isinstance(one, types.NoneType)]
            return " or ".join(map(_words, told))
        case types.LiteralType():
            return " or ".join(f"`{one}`" for one in type_.values)
        case types.StructType() if _is_config(type_.cls):
            return f"[{type_.cls.__name__}](#{type_.cls.__name__.lower()})"
        case types.StructType(cls=cls) if cls is ProviderConfig:
            return "[provider](#providers)"
        case types.VarTupleType() | types.ListType():
            return f"list of {_words(type_.item_type)}"
        case types.DictType(value_type=value) if not isinstance(value, types.AnyType):
            return f"mapping of names to {_words(value)}"
        case types.DictType() | types.StructType():
            return "mapping"
        case types.CustomType(cls=cls) if cls is Secret:
            return "text, kept secret"
        case types.BoolType():
            return "`true` or `false`"
        case types.StrType():
            return "text" if type_.pattern is None else f"text matching `{type_.pattern}`"
        case types.IntType():
            return "whole number" + _bounds(type_)
        case types.FloatType():
            return "number" + _bounds(type_)
        case types.AnyType():
            return "anything"
    raise TypeError(f"no words for {type_}")


def _bounds(type_: types.IntType | types.FloatType) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = {sign: getattr(type_, name) for name, sign in signs.items()}
    told = [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]
    return f" {' and '.join(told)}" if told else ""


def config() -> str:
    """Every Struct of the config, but the providers'."""
    parts = []
    for kind in structs_below(Config):
        title = "Top level" if kind is Config else kind.__name__
        parts.append(f"### {title}\n\n{summary(kind)}\n\n{struct(kind)}\n")
    return "\n".join([*parts, *engines()])


def engines() -> list[str]:
    """The keys of each engine's models, and of its options."""
    parts = []
    told_of: set[type] = {Replicas}
    for name, kind in ENGINES.items():
        first, *inner = structs_below(kind)
        told = f"{summary(kind)} `engine: {name}`. All keys of [Model](#model), and:"
        parts.append(f"### {first.__name__}\n\n{told}\n\n{struct(kind, without=Model)}\n")
        parts += [
            f"### {one.__name__}\n\n{summary(one)}\n\n{struct(one)}\n"
            for one in inner
            if one not in told_of
        ]
        told_of |= set(inner)
    return parts


def run_document() -> str:
    """The run document and what is in it."""
    first, *inner = structs_below(RunDocument)
    parts = [struct(first) + "\n"]
    parts += [f"### {kind.__name__}\n\n{summary(kind)}\n\n{struct(kind)}\n" for kind in inner]
    return "\n".join(parts)


# Providers


def kinds() -> str:
    """Every kind of provider, then the keys of each config class."""
    rows = [
        (f"`{kind}`", what, url, f"[{KINDS[kind].config.__name__}](#{_anchor(kind)})")
        for kind in sorted(KINDS)
        for what, url in [_host(kind)]
    ]
    parts = [table(("kind", "what it is", "`base_url` unless given", "keys"), rows) + "\n"]
    parts.append(f"### Keys of every kind\n\n{struct(ProviderConfig)}\n")
    classes = {one.config for one in KINDS.values()}
    for kind in sorted(classes, key=lambda one: (len(one.__mro__), one.__name__)):
        first, *inner = structs_below(kind)
        # `timeout`, of every kind, has its section among the routes.
        inner = [one for one in inner if one is not Timeout]
        base = kind.__mro__[1]
        assert base is ProviderConfig or base in classes, f"no section has {base.__name__}'s keys"
        named = ", ".join(f"`{name}`" for name in sorted(KINDS) if KINDS[name].config is first)
        text = f"### {first.__name__}\n\n{summary(first)} Kinds: {named}."
        if base is not ProviderConfig:
            text += f" All keys of [{base.__name__}](#{base.__name__.lower()}), and:"
        parts += [text + "\n", struct(first, without=base) + "\n"]
        parts += [f"#### {one.__name__}\n\n{summary(one)}\n\n{struct(one)}\n" for one in inner]
    return "\n".join(parts)


def _anchor(kind: str) -> str:
    return KINDS[kind].config.__name__.lower()


def _host(kind: str) -> tuple[str, str]:
    """What the kind is, and where it is unless the config says otherwise."""
    made = KINDS[kind]
    if not issubclass(made.config, CompatibleConfig):
        return summary(import_module(made.config.__module__)), "in this process"
    required = False
    try:
        provider: Any = made.build(kind, made.config(kind=kind), Transport())
    except ConfigError:
        required = True
        config = made.config(kind=kind, base_url="https://example.org/v1")
        provider = made.build(kind, config, Transport())
    what = {host.kind: host.title for host in HOSTS}.get(kind) or summary(type(provider))
    listing = Call(path="models", model="", envelope={})
    url = str(provider.url(listing)).removesuffix("/models")
    return what, "required" if required or not url else f"`{url}`"


# The command line


def cli() -> str:
    """`--help` of every command."""
    return "\n".join(
        f"## {path}\n\n```text\n$ {path} --help\n{text}\n```\n" for path, text in commands()
    )


def commands() -> Iterator[tuple[str, str]]:
    """Every command's full name and help, groups before what is in them."""
    yield from _commands(main, "evalrouter", None)


def _commands(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=88, **command.context_settings
    )
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _commands(found, inner, context)


# HTTP


def paths() -> str:
    """Every path of the OpenAPI document, by tag."""
    tagged: dict[str, list[Row]] = {}
    for path, operations in openapi()["paths"].items():
        for method, one in operations.items():
            asked = ", ".join(
                _parameter(each) for each in one.get("parameters", ()) if each["in"] == "query"
            )
            row = (f"`{method.upper()} {path}`", one.get("summary", ""), asked)
            tagged.setdefault(one["tags"][0], []).append(row)
    return "\n".join(
        f"### {tag}\n\n{table(('request', 'what it does', 'query'), rows)}\n"
        for tag, rows in tagged.items()
    )


@cache
def openapi() -> dict[str, Any]:
    """What a real server says of itself under /schema."""
    with tempfile.TemporaryDirectory() as folder:
        text = f"{{server: {{port: 0}}, storage: {{database: 'sqlite:///{folder}/e.db'}}}}"
        with background(parse(text, "", {})) as url:
            document: dict[str, Any] = httpx.get(f"{url}/schema").json()
            return document


def _parameter(told: dict[str, Any]) -> str:
    schema = told["schema"]
    options = [one for one in schema.get("oneOf", [schema]) if one.get("type") != "null"]
    values = [f"`{value}`" for one in options for value in one.get("enum", ()) if value]
    limits = [options[0][name] for name in ("minimum", "maximum") if name in options[0]]
    says = " or ".join(values) or " to ".join(f"{one:g}" for one in limits)
    default = schema.get("default")
    says += f"{', ' if says else ''}default `{msgspec.json.encode(default).decode()}`" * (
        default is not None
    )
    return f"`{told['name']}`" + f" ({says})" * bool(says)


def error_codes() -> str:
    """Every error class that a client may meet, in the order of the tree."""
    raised, statuses = _raised_codes()
    rows: list[Row] = []
    for kind in _below(EvalrouterError):
        asked = inspect.signature(kind.__init__).parameters
        given = asked["code"].default if "code" in asked else None
        own = {code for code in (kind.code, given) if isinstance(code, str)}
        codes = sorted(own | raised.get(kind.__name__, set()))
        if "status" in asked and kind.__name__ not in statuses:
            rows.append(("the target's", "the target's", "the target's", _in_yaml(summary(kind))))
            continue
        told = ", ".join(f"`{code}`" for code in codes) or "none"
        status = ", ".join(map(str, sorted(statuses.get(kind.__name__, {kind.status}))))
        rows.append((status, f"`{kind.type}`", told, summary(kind)))
    return table(("status", "type", "code", "when"), rows) + "\n"


def _below(kind: type[EvalrouterError]) -> Iterator[type[EvalrouterError]]:
    """The classes at the border; a base that is never raised itself has no row."""
    for inner in kind.__subclasses__():
        if inner.__module__ != errors.__name__:
            continue
        if inner.__name__ not in ("InputError",):
            yield inner
        yield from _below(inner)


def _raised_codes() -> tuple[dict[str, set[str]], dict[str, set[int]]]:
    """The codes and the statuses given where an error is raised, each by the error's class."""
    found: dict[str, set[str]] = {}
    statuses: dict[str, set[int]] = {}
    for package in ("providers", "evaluators", "router"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id == "ProtocolError" and isinstance(node.args[0], ast.Constant):
                    statuses.setdefault(node.func.id, set()).add(node.args[0].value)
                for option in node.keywords:
                    if option.arg == "code" and isinstance(option.value, ast.Constant):
                        found.setdefault(node.func.id, set()).add(str(option.value.value))
    return found, statuses


# Metrics

_SAMPLE = Sample(
    id="1",
    messages=({"role": "user", "content": "Where does the long road by the river lead to?"},),
    # One for each kind of metric: a text, a label, a choice, a number.
    references=("It leads to the harbour.", "spam", "B", "12"),
)


def metrics() -> str:
    """One row for each output of each metric."""
    rows: list[str] = []
    for name in registry.METRICS:
        try:
            metric = example(name)
        except MissingExtraError:
            rows += _kept(name, rf"^\| \[{name}\]\(.*$")
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
                "asks" if isinstance(metric, Judging) else _cost(name),
            )
            rows += table(row, []).splitlines()[:1]
    head = ("metric", "output", "range", "better", "route's score", "needs reference", "blank")
    return "\n".join([table((*head, "s per 1,000"), []), *rows]) + "\n"


def _cost(name: str) -> str:
    """CPU seconds per 1,000 answers, as `python -m loadtests.metrics costs` measured them."""
    measured = json.loads((ROOT / "loadtests" / "results" / "metric-costs.json").read_text())
    seconds = measured[name]
    return "<0.01" if seconds < 0.01 else f"{seconds:,.2g}" if seconds < 100 else f"{seconds:,.0f}"


def metric_texts() -> str:
    """A section for each metric."""
    parts = []
    for name in registry.METRICS:
        try:
            metric = example(name)
        except MissingExtraError:
            parts += _kept(name, rf"^### {name}\n(?:.|\n)*?\n(?=\n### |<!-- end)")
            continue
        kind = _factory(name)
        text = re.split(r"\n\n(?:Args|Attributes|Raises):", inspect.getdoc(kind) or "")[0]
        options = [
            f"- `{one.name}`: {_option(kind, one)}"
            for one in inspect.signature(kind).parameters.values()
            if one.kind is one.KEYWORD_ONLY
        ]
        listed = [f"- `{one.name}`: {one.description}" for one in metric.outputs]
        parts.append(
            f"### {name}\n\n{text}\n\n"
            + "Outputs:\n\n{}\n\n".format("\n".join(listed))
            + ("Options:\n\n{}\n\n".format("\n".join(options)) if options else "")
            + f"Source: {metric.source}.\n\n"
            + f"Signature, for example: `{_without_versions(metric.signature)}`\n"
        )
    return "\n".join(parts)


def _kept(name: str, pattern: str) -> list[str]:
    """What the page has of a metric whose extra is not installed here."""
    page = (PAGES / "metrics.md").read_text(encoding="utf-8")
    found = re.findall(pattern, page, re.MULTILINE)
    assert found, f"install what {name} needs, then write docs/reference/metrics.md anew"
    return found


def _factory(name: str) -> Any:
    module, _, attribute = registry.METRICS[name].partition(":")
    return getattr(import_module(module), attribute)


def example(name: str) -> Any:
    """The metric, with the options that its module's docstring shows.

    Raises:
        MissingExtraError: it needs a package that is not installed.
    """
    module, _, attribute = registry.METRICS[name].partition(":")
    text = import_module(module).__doc__ or ""
    if spec := re.search(rf"\{{name: {name}\b.*?\}}", text):
        return registry.build(yaml.safe_load(spec[0]))
    # The expression ends where its brackets do; what follows is .score(...) and a comment.
    shown = re.search(rf"\b{attribute}\((?P<options>.*?)\)\.score\(", text)
    assert shown, f"{module}: its docstring should show {attribute}(...).score(...)"
    call = ast.parse(f"{attribute}({shown['options']})", mode="eval").body
    assert isinstance(call, ast.Call)
    options = {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}
    return registry.build({"name": name, **options})


def _option(kind: Any, one: inspect.Parameter) -> str:
    made = vars(kind)["__init__"] if isinstance(kind, type) else kind
    hint = get_type_hints(made, include_extras=True)[one.name]
    words = _words(types.type_info(hint))
    if one.default is one.empty:
        return f"{words}; required"
    if one.default is None:
        return words
    return f"{words}; default `{msgspec.json.encode(one.default).decode()}`"


def _range(output: Output) -> str:
    low = "-∞" if output.low is None else f"{output.low:g}"
    high = "∞" if output.high is None else f"{output.high:g}"
    return f"{low} to {high}" + (f" {output.unit}" if output.unit else "")


def _of_a_blank_answer(metric: Any) -> dict[str, str]:
    """What each output is of an answer without text."""
    if not hasattr(metric, "score"):
        return {one.name: "see below" for one in metric.outputs}
    scores = metric.score(_SAMPLE, Answer(text=""))
    return {one.output: "no value" if one.value is None else f"{one.value:g}" for one in scores}


def _without_versions(signature: str) -> str:
    """The signature, so that the page does not change with every package."""
    parts = []
    for part in signature.split("|"):
        name, colon, value = part.partition(":")
        try:
            known = name == "version" or version(name) == value
        except PackageNotFoundError:
            known = False
        parts.append(f"{name}:VERSION" if colon and known else part)
    return "|".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "cli": cli,
    "config": config,
    "errors": error_codes,
    "kinds": kinds,
    "metrics": metrics,
    "metric-texts": metric_texts,
    "paths": paths,
    "run-document": run_document,
}


def written(page: str) -> str:
    """The page with its generated parts written anew."""
    return PART.sub(
        lambda part: f"<!-- generated: {part['name']} -->\n{PARTS[part['name']]()}<!-- end -->",
        page,
    )


if __name__ == "__main__":
    isolate()
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
