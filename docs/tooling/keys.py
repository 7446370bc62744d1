"""The keys that a user may write in the config and in a run document, from their Structs."""

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
    """Return whether a user writes this Struct: those refuse unknown keys, wire types do not."""
    return kind.__struct_config__.forbid_unknown_fields and kind is not ProviderConfig


def struct(kind: type[msgspec.Struct], *, without: type[msgspec.Struct] | None = None) -> str:
    """Return a table of a Struct's keys, without those of `without`."""
    inherited = {one.name for one in msgspec.structs.fields(without)} if without else set()
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


def attributes_of(kind: type) -> dict[str, str]:
    """Return the description of each attribute in the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, listed = text.partition("Attributes:\n")
        for entry in re.split(r"\n(?= {4}\S)", listed.partition("\n\n")[0]):
            names, _, meaning = entry.strip().partition(": ")
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


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


def words(type_: types.Type) -> str:  # noqa: PLR0912  # one branch per type
    """Describe a type as a writer of YAML thinks of it."""
    match type_:
        case types.Metadata():
            return words(type_.type)
        case types.UnionType():
            told = [one for one in type_.types if not isinstance(one, types.NoneType)]
            return " or ".join(map(words, told))
        case types.LiteralType():
            return " or ".join(f"`{one}`" for one in type_.values)
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
    told = [f"{sign} {bound:g}" for sign, bound in bounds.items() if _is_met(bound)]
    return f" {' and '.join(told)}" if told else ""


def _is_met(bound: float | None) -> bool:
    """Return whether a reader has to know a bound; some only keep arithmetic within its limits."""
    return bound is not None and bound < 10**9


def config() -> str:
    """Describe every Struct of the config except those of providers."""
    parts = []
    for kind in structs_below(Config):
        title = "Top level" if kind is Config else kind.__name__
        parts.append(f"### {title}\n\n{summary(kind)}\n\n{struct(kind)}\n")
    return "\n".join([*parts, *engines()])


def engines() -> list[str]:
    """Describe the keys of each engine's models and options."""
    parts = []
    told_of: set[type] = {Replicas}
    for name, kind in ENGINES.items():
        first, *inner = structs_below(kind)
        told = f"{summary(kind)} `engine: {name}`. All keys of [ModelConfig](#modelconfig), and:"
        parts.append(f"### {first.__name__}\n\n{told}\n\n{struct(kind, without=ModelConfig)}\n")
        parts += [
            f"### {one.__name__}\n\n{summary(one)}\n\n{struct(one)}\n"
            for one in inner
            if one not in told_of
        ]
        told_of |= set(inner)
    return parts


def run_document() -> str:
    """Describe the run document and the Structs in it."""
    first, *inner = structs_below(RunDocument)
    parts = [struct(first) + "\n"]
    parts += [f"### {kind.__name__}\n\n{summary(kind)}\n\n{struct(kind)}\n" for kind in inner]
    return "\n".join(parts)


def kinds() -> str:
    """Describe every kind of provider, then the keys of each config class."""
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
        if base is not ProviderConfig and base not in classes:
            raise UndocumentedError(f"no section describes the keys of {base.__name__}")
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
    """Return what a kind is, and its address unless the config gives another."""
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
