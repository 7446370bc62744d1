"""Describes the keys of the config and of run documents, from their Structs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import msgspec
from msgspec import inspect as types

from evaluators.document import RunDocument
from providers.base import Call, ProviderConfig, Secret, Timeout
from providers.compatible import HOSTS, CompatibleConfig
from providers.errors import ConfigError
from providers.http.transport import Transport
from providers.kinds import KINDS
from router.config.schema import Config
from serve.config import ENGINES, ModelConfig, Replicas
from tooling.markdown import Row, UndocumentedError, table


def structs_below(kind: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """Return a Struct and all that its fields are made of, in the order of their appearance."""
    structs = [kind]
    for field in msgspec.structs.fields(kind):
        for inner in _structs_in(types.type_info(field.type)):
            structs += [
                struct_below for struct_below in structs_below(inner) if struct_below not in structs
            ]
    return structs


def _structs_in(type_: types.Type) -> Iterator[type[msgspec.Struct]]:
    if isinstance(type_, types.StructType) and _is_config(type_.cls):
        yield type_.cls
    for name in ("item_type", "value_type"):
        if (inner := getattr(type_, name, None)) is not None:
            yield from _structs_in(inner)
    for inner in getattr(type_, "types", ()):
        yield from _structs_in(inner)


def _is_config(kind: type[msgspec.Struct]) -> bool:
    """Return whether a user writes this Struct: those refuse unknown keys, wire types do not."""
    return kind.__struct_config__.forbid_unknown_fields and kind is not ProviderConfig


def struct(kind: type[msgspec.Struct], *, without: type[msgspec.Struct] | None = None) -> str:
    """Return a table of a Struct's keys, without those of `without`."""
    inherited = {field.name for field in msgspec.structs.fields(without)} if without else set()
    meanings = attributes_of(kind)
    rows: list[Row] = []
    for field in msgspec.structs.fields(kind):
        if field.name in inherited:
            continue
        type_ = types.type_info(field.type)
        if field.name not in meanings:
            raise UndocumentedError(f"{kind.__name__}'s docstring does not describe {field.name}")
        meaning = meanings[field.name]
        inner = list(_structs_in(type_))
        if meaning.startswith("see ") and inner:
            meaning = summary(inner[0])
        rows.append((f"`{field.name}`", words(type_), _default(field), in_yaml(meaning)))
    return table(("key", "type", "default", "meaning"), rows) if rows else "No keys of its own."


def section(kind: type[msgspec.Struct], title: str = "", *, level: int = 3) -> str:
    """Return a section about a Struct: its summary and its keys, below its name or a title."""
    return f"{'#' * level} {title or kind.__name__}\n\n{summary(kind)}\n\n{struct(kind)}\n"


def attributes_of(kind: type) -> dict[str, str]:
    """Return the description of each attribute in the docstrings of a class and its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, attributes = text.partition("Attributes:\n")
        for entry in re.split(r"\n(?= {4}\S)", attributes.partition("\n\n")[0]):
            names, _, meaning = entry.strip().partition(": ")
            meanings |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return meanings


def summary(thing: Any) -> str:
    """Return the first paragraph of a docstring, in one line."""
    return " ".join(inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].split())


def in_yaml(text: str) -> str:
    """Return a description as a sentence of the page, with YAML's word for None."""
    text = re.sub(r"(?<!\. )\bNone\b", "none", text)
    return text[:1].upper() + text[1:]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default = field.default
    if default is msgspec.NODEFAULT:
        default = field.default_factory()
    if isinstance(default, msgspec.Struct):
        return "its defaults"
    if default is None:
        return "none"
    if default is msgspec.UNSET:
        return "as it is"
    if isinstance(default, Secret) or default in ("", (), {}):
        return "empty"
    return f"`{msgspec.json.encode(default).decode()}`"


def words(type_: types.Type) -> str:  # noqa: PLR0912  # one branch per type
    """Describe a type as a writer of YAML thinks of it."""
    match type_:
        case types.Metadata():
            return words(type_.type)
        case types.UnionType():
            others = [each for each in type_.types if not isinstance(each, types.NoneType)]
            return " or ".join(map(words, others))
        case types.LiteralType():
            return " or ".join(f"`{value}`" for value in type_.values)
        case types.StructType() if _is_config(type_.cls):
            return f"[{type_.cls.__name__}](#{type_.cls.__name__.lower()})"
        case types.StructType(cls=cls) if cls is ProviderConfig:
            return "[provider](#providers)"
        case types.VarTupleType() | types.ListType():
            return f"list of {words(type_.item_type)}"
        case types.DictType(value_type=value) if not isinstance(value, types.AnyType):
            return f"mapping of names to {words(value)}"
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
    texts = [f"{sign} {bound:g}" for sign, bound in bounds.items() if _is_met(bound)]
    return f" {' and '.join(texts)}" if texts else ""


def _is_met(bound: float | None) -> bool:
    """Return whether a reader has to know a bound; some only keep arithmetic within its limits."""
    return bound is not None and bound < 10**9


def config() -> str:
    """Describe every Struct of the config except those of providers."""
    first, *inner = structs_below(Config)
    return "\n".join([section(first, "Top level"), *map(section, inner), *engines()])


def engines() -> list[str]:
    """Describe the keys of each engine's models and options."""
    parts = []
    described: set[type] = {Replicas}
    for name, kind in ENGINES.items():
        first, *inner = structs_below(kind)
        intro = f"{summary(kind)} `engine: {name}`. All keys of [ModelConfig](#modelconfig), and:"
        parts.append(f"### {first.__name__}\n\n{intro}\n\n{struct(kind, without=ModelConfig)}\n")
        parts += [section(each) for each in inner if each not in described]
        described |= set(inner)
    return parts


def run_document() -> str:
    """Describe the run document and the Structs in it."""
    first, *inner = structs_below(RunDocument)
    return "\n".join([struct(first) + "\n", *map(section, inner)])


def kinds() -> str:
    """Describe every kind of provider, then the keys of each config class."""
    rows = [
        (f"`{kind}`", what, url, f"[{KINDS[kind].config.__name__}](#{_anchor(kind)})")
        for kind in sorted(KINDS)
        for what, url in [_host(kind)]
    ]
    parts = [table(("kind", "what it is", "`base_url` unless given", "keys"), rows) + "\n"]
    parts.append(f"### Keys of every kind\n\n{struct(ProviderConfig)}\n")
    classes = {kind.config for kind in KINDS.values()}
    for kind in sorted(
        classes, key=lambda config_class: (len(config_class.__mro__), config_class.__name__)
    ):
        first, *inner = structs_below(kind)
        # `timeout`, of every kind, has its section among the routes.
        inner = [each for each in inner if each is not Timeout]
        base = kind.__mro__[1]
        if base is not ProviderConfig and base not in classes:
            raise UndocumentedError(f"no section describes the keys of {base.__name__}")
        named = ", ".join(f"`{name}`" for name in sorted(KINDS) if KINDS[name].config is first)
        text = f"### {first.__name__}\n\n{summary(first)} Kinds: {named}."
        if base is not ProviderConfig:
            text += f" All keys of [{base.__name__}](#{base.__name__.lower()}), and:"
        parts += [text + "\n", struct(first, without=base) + "\n"]
        parts += [section(each, level=4) for each in inner]
    return "\n".join(parts)


def _anchor(kind: str) -> str:
    return KINDS[kind].config.__name__.lower()


def _host(kind: str) -> tuple[str, str]:
    """Return what a kind is, and its address unless the config gives another."""
    provider_kind = KINDS[kind]
    if not issubclass(provider_kind.config, CompatibleConfig):
        return summary(import_module(provider_kind.config.__module__)), "in this process"
    required = False
    try:
        provider: Any = provider_kind.build(kind, provider_kind.config(kind=kind), Transport())
    except ConfigError:
        required = True
        config = provider_kind.config(kind=kind, base_url="https://example.org/v1")
        provider = provider_kind.build(kind, config, Transport())
    what = {host.kind: host.title for host in HOSTS}.get(kind) or summary(type(provider))
    listing = Call(path="models", model="", envelope={})
    url = str(provider.url(listing)).removesuffix("/models")
    return what, "required" if required or not url else f"`{url}`"
