"""YAML or JSON documents into typed Structs, with errors a person can act on.

Used for the config file, run documents and scripts: every problem is named by its place in the
document (and its line, where there is a file), and an unknown key by the closest known one.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from providers.base import Secret
from providers.errors import InputError, closest
from providers.yaml_documents import (
    SLOWLY_READ,
    UNREADABLE_VALUE,
    Loader,
    check,
    joined,
    kind_of,
)

T = TypeVar("T")
DocumentPath = tuple[str | int, ...]

_WHERE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>\d+)\]")


class Document(NamedTuple):
    """Plain data, and the line on which each place in it was written.

    Attributes:
        data: JSON types only.
        source: the file's name, for messages; "" when the document did not come from a file.
        lines: place to 1-based line; empty when unknown.
    """

    data: Any
    source: str
    lines: Mapping[DocumentPath, int]

    def at(self, place: DocumentPath) -> str:
        """The place in words, for the start of an error message."""
        path = path_of(place)
        if not self.source:
            return path or "the document"
        line = next(
            (self.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self.lines),
            None,
        )
        head = self.source if line is None else f"{self.source}:{line}"
        return f"{head}: {path}" if path else head


def path_of(place: DocumentPath) -> str:
    """`('routes', 'a', 'targets', 0)` as `routes.a.targets[0]`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def parse_yaml(
    text: str,
    source: str,
    *,
    error: type[InputError],
    substitute: Callable[[str], str] | None = None,
) -> Document:
    """Read YAML (or JSON, which is YAML).

    Args:
        text: the document.
        source: the file's name, for messages.
        error: what to raise.
        substitute: applied to every scalar before its type is decided, so that `${PORT}` can
            become a number; raises KeyError with the name that has no value.

    Raises:
        error: not YAML, too much of it, a key written twice, or a name without a value.
    """
    lines: dict[DocumentPath, int] = {}
    try:
        check(text)
        # The slower one says better where a mistake is.
        loader_kind = Loader if len(text) > SLOWLY_READ else yaml.SafeLoader
        node = yaml.compose(text, Loader=loader_kind)
    except msgspec.DecodeError as problem:
        raise error(f"{source}: {problem}") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        reason = getattr(problem, "problem", None) or "not valid YAML"
        raise error(f"{where}: not valid YAML: {reason}") from None
    loader = yaml.SafeLoader("")
    resolve: Callable[..., str] = loader.resolve

    def scalar(node: yaml.ScalarNode, place: DocumentPath) -> Any:
        node.value = joined(node.value)
        if substitute is not None and "${" in node.value:
            try:
                value = substitute(node.value)
            except KeyError as missing:
                name = missing.args[0]
                raise error(
                    f"{source}:{lines[place]}: {path_of(place)}: the environment has no {name}. "
                    f"Set it, or write ${{{name}:-default}}."
                ) from None
            # A quoted scalar stays text; a plain one gets the type it would have if written out.
            tag = node.tag if node.style else resolve(yaml.ScalarNode, value, (True, False))
            node = yaml.ScalarNode(tag, value, node.start_mark, node.end_mark, node.style)
        try:
            value = loader.construct_object(node)
        except (yaml.YAMLError, *UNREADABLE_VALUE):
            # Without the value, which may be a secret.
            raise error(
                f"{source}:{lines[place]}: {path_of(place)}: cannot be read as the number, date or "
                "other kind of value that it looks like; put a text in quotes"
            ) from None
        # A date in YAML is a string in JSON, which is what every field here means by it.
        return value if isinstance(value, str | int | float | bool | None) else node.value

    def build(node: yaml.Node | None, place: DocumentPath) -> Any:
        if node is None:
            return None
        lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    line = key_node.start_mark.line + 1
                    raise error(f"{source}:{line}: {path_of(place)}: a key must be text")
                key = joined(str(key_node.value))
                if key in result:
                    line = key_node.start_mark.line + 1
                    raise error(f"{source}:{line}: {path_of((*place, key))} is written twice")
                result[key] = build(value_node, (*place, key))
                lines[*place, key] = key_node.start_mark.line + 1
            return result
        if isinstance(node, yaml.SequenceNode):
            return [build(item, (*place, n)) for n, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return scalar(node, place)

    try:
        return Document(build(node, ()), source, lines)
    finally:
        loader.dispose()


def require_object(document: Document, *, error: type[InputError], name: str = "document") -> None:
    """Check that a document is one with keys.

    Raises:
        error: it is something else.
    """
    if not isinstance(document.data, Mapping):
        where = f"{document.source}: " if document.source else ""
        raise error(f"{where}the {name} must be an object (got {kind_of(document.data)})")


def convert(
    document: Document, kind: type[T], *, place: DocumentPath = (), error: type[InputError]
) -> T:
    """The part of the document at `place` as a `kind`.

    Raises:
        error: naming every unknown key with the closest known one, or the first ill-typed value.
            Its `param` is the path of the first problem.
    """
    if not place and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        require_object(document, error=error)
    data = document.data
    for step in place:
        data = data[step]
    problems = list(_unknown_keys(data, kind, place))
    if problems:
        text = "; ".join(
            f"{document.at(at)}: unknown key.{closest(str(at[-1]), known)}"
            for at, known in problems
        )
        raise error(text, param=path_of(problems[0][0]))
    try:
        return msgspec.convert(data, kind, dec_hook=_decode_secret)
    except msgspec.ValidationError as problem:
        message = str(problem)
        found = _WHERE.search(message)
        inner: DocumentPath = ()
        if found:
            message = message[: found.start()]
            inner = tuple(
                step["key"] if step["key"] else int(step["index"])
                for step in _STEP.finditer(found["path"])
            )
        at = (*place, *inner)
        message = message[:1].lower() + message[1:]
        raise error(f"{document.at(at)}: {message}", param=path_of(at)) from None


def _decode_secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    # msgspec adds the place to a TypeError, not to an error of its own kind.
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")


def _unknown_keys(
    data: Any, kind: Any, place: DocumentPath
) -> Iterator[tuple[DocumentPath, list[str]]]:
    """Walk data and type side by side; msgspec alone would name one unknown key and no remedy."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        branches = [
            list(_unknown_keys(data, branch, place))
            for branch in get_args(kind)
            if _could_be(data, branch)
        ]
        yield from min(branches, key=len, default=[])
    elif isinstance(data, Mapping):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
            for key, value in data.items():
                if key in fields:
                    yield from _unknown_keys(value, fields[key], (*place, key))
                elif kind.__struct_config__.forbid_unknown_fields:
                    yield (*place, key), list(fields)
        elif origin in (dict, Mapping):
            for key, value in data.items():
                yield from _unknown_keys(value, get_args(kind)[1], (*place, key))
    elif isinstance(data, list) and origin in (list, tuple):
        for n, item in enumerate(data):
            yield from _unknown_keys(item, get_args(kind)[0], (*place, n))


def _could_be(data: Any, kind: Any) -> bool:
    if isinstance(data, Mapping):
        return get_origin(kind) in (dict, Mapping) or (
            isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        )
    return isinstance(data, list) and get_origin(kind) in (list, tuple)
