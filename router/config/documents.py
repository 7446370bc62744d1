"""YAML or JSON documents into typed Structs, with errors a person can act on.

Used for the config file and run documents: every problem is named by its place in the document
(and its line, where there is a file), and an unknown key by the closest known one.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from providers.base import Secret
from providers.errors import InputError, closest
from providers.plain_files import read_plain_file
from providers.yaml_documents import (
    MAX_BYTES,
    SLOWLY_READ,
    UNREADABLE_VALUE,
    Loader,
    check,
    joined,
    kind_of,
)

T = TypeVar("T")
E = TypeVar("E", bound=InputError)
DocumentPath = tuple[str | int, ...]

# More are not looked for: finding a known key close to each unknown one takes time.
MAX_PROBLEMS = 100

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

    @classmethod
    def of(cls, data: Any) -> Self:
        """Return data that was read from no text as a document."""
        return cls(data, "", {})

    def line(self, place: DocumentPath) -> int:
        """Return the line of a place, or of the nearest one around it; 0 when unknown."""
        around = (place[:n] for n in range(len(place), -1, -1))
        return next((self.lines[part] for part in around if part in self.lines), 0)

    def at(self, place: DocumentPath) -> str:
        """Return the place in words, for the start of an error message."""
        path = path_of(place)
        if not self.source:
            return path or "the document"
        line = self.line(place)
        head = f"{self.source}:{line}" if line else self.source
        return f"{head}: {path}" if path else head

    def problem(self, place: DocumentPath, message: str) -> Problem:
        """Return what is wrong at a place."""
        return Problem(place, self.line(place), f"{self.at(place)}: {message}")


def path_of(place: DocumentPath) -> str:
    """Return `('routes', 'a', 'targets', 0)` as `routes.a.targets[0]`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def as_stored(value: msgspec.Struct) -> dict[str, Any]:
    """Return a value as the store gives it back; a route as `PUT /routes/{name}` takes it."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return document


def stated(value: msgspec.Struct) -> dict[str, Any]:
    """Return what a value says beyond its defaults, as JSON types."""
    document = {}
    for field in msgspec.structs.fields(value):
        given = getattr(value, field.name)
        if given != field.default:
            document[field.encode_name] = _stated(given)
    return document


def _stated(given: Any) -> Any:
    if isinstance(given, msgspec.Struct):
        return stated(given)
    if isinstance(given, list | tuple):
        return [_stated(item) for item in given]
    if isinstance(given, dict):
        return {name: _stated(item) for name, item in given.items()}
    return given


class Problem(NamedTuple):
    """Something that is wrong in a document.

    Attributes:
        place: the place of what is wrong.
        line: its 1-based line; 0 when unknown.
        text: the whole message, which begins with the file, the line and the path.
    """

    place: DocumentPath
    line: int
    text: str


class _Unread:
    """What stands in a document for a scalar that could not be read."""


# It fits every type, since what is wrong with it has been said.
UNREAD = _Unread()


def refusal(problems: Sequence[Problem], error: type[E], *, separator: str = "; ") -> E:
    """Return the one error that names all problems; its `param` is the path of the first."""
    texts = list(dict.fromkeys(problem.text for problem in problems))
    if len(problems) >= MAX_PROBLEMS:
        texts.append("there may be more")
    refused = error(separator.join(texts), param=path_of(problems[0].place) or None)
    refused.problems = {path_of(problem.place): problem.text for problem in problems}
    return refused


def read_yaml(
    text: str,
    source: str,
    *,
    error: type[InputError],
    substitute: Callable[[str], str] | None = None,
) -> tuple[Document, list[Problem]]:
    """Read YAML (or JSON, which is YAML), and return what is wrong with its keys and scalars too.

    Args:
        text: the document.
        source: the file's name, for messages.
        error: what to raise.
        substitute: applied to every scalar before its type is decided, so that `${PORT}` can
            become a number; raises KeyError with the names that have no value.

    Raises:
        error: the text is not YAML, or there is too much of it.
    """
    try:
        # Numbers that are not finite are named below, with their place.
        check(text, finite=False)
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
    return _Reader(source, substitute).read(node)


def parse_yaml(text: str, source: str, *, error: type[InputError]) -> Document:
    """Read YAML (or JSON, which is YAML).

    Raises:
        error: not YAML, too much of it, a key written twice, or a value that cannot be read.
    """
    document, problems = read_yaml(text, source, error=error)
    if problems:
        raise refusal(problems, error)
    return document


def read_text(path: Path, *, error: type[InputError]) -> str:
    """Return the text of a file that may be a document.

    Raises:
        error: it is missing, is no plain file, is too large or not UTF-8; names the file, and for
            a missing one the closest beside it.
    """
    try:
        return read_plain_file(path, MAX_BYTES).decode()
    except FileNotFoundError:
        folder = path.parent
        near = [item.name for item in folder.glob("*.y*ml")] if folder.is_dir() else []
        raise error(f"{path}: no such file.{closest(path.name, near)}") from None
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not UTF-8 at byte {problem.start}") from None
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}") from None


def read_document(path: Path, *, error: type[InputError]) -> Document:
    """Read a YAML or JSON file that has an object, whose values are not checked.

    Raises:
        error: it cannot be read; names the file, and the line where there is one.
    """
    document = parse_yaml(read_text(path, error=error), str(path), error=error)
    require_object(document, error=error)
    return document


class _Reader:
    """Builds a document from the nodes of its YAML, and collects what is wrong with them."""

    def __init__(self, source: str, substitute: Callable[[str], str] | None) -> None:
        self._source = source
        self._substitute = substitute
        self._lines: dict[DocumentPath, int] = {}
        self._problems: list[Problem] = []
        self._loader = yaml.SafeLoader("")

    def read(self, node: yaml.Node | None) -> tuple[Document, list[Problem]]:
        """Return the document, and what is wrong with it."""
        try:
            data = self._build(node, ())
        finally:
            self._loader.dispose()
        return Document(data, self._source, self._lines), self._problems

    def _refuse(self, node: yaml.Node, place: DocumentPath, message: str) -> None:
        line = node.start_mark.line + 1
        path = path_of(place)
        head = f"{self._source}:{line}: {path}" if path else f"{self._source}:{line}"
        self._problems.append(Problem(place, line, f"{head}{message}"))

    def _build(self, node: yaml.Node | None, place: DocumentPath) -> Any:
        if node is None:
            return None
        # The line of a key is that of its name.
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*place, n)) for n, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: DocumentPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, place, ": a key must be text")
                continue
            key = joined(str(key_node.value))
            if key in result:
                self._refuse(key_node, (*place, key), " is written twice")
                continue
            self._lines[*place, key] = key_node.start_mark.line + 1
            result[key] = self._build(value_node, (*place, key))
        return result

    def _scalar(self, node: yaml.ScalarNode, place: DocumentPath) -> Any:
        node.value = joined(node.value)
        if self._substitute is not None and "${" in node.value:
            try:
                node = self._substituted(node, self._substitute)
            except KeyError as missing:
                names = ", ".join(missing.args)
                self._refuse(
                    node,
                    place,
                    f": the environment has no {names}. Set it, or write "
                    f"${{{missing.args[0]}:-default}}.",
                )
                return UNREAD
        try:
            value = self._loader.construct_object(node)
            if isinstance(value, int):
                # One that is written in another base may be too long to be shown.
                str(value)
        except (yaml.YAMLError, *UNREADABLE_VALUE):
            # Without the value, which may be a secret.
            self._refuse(
                node,
                place,
                ": cannot be read as the number, date or other kind of value that it looks like; "
                "put a text in quotes",
            )
            return UNREAD
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(node, place, " is not a finite number")
            return UNREAD
        # A date in YAML is a string in JSON, which is what every field here means by it.
        return value if isinstance(value, str | int | float | bool | None) else node.value

    def _substituted(
        self, node: yaml.ScalarNode, substitute: Callable[[str], str]
    ) -> yaml.ScalarNode:
        value = substitute(node.value)
        # A quoted scalar stays text; a plain one gets the type it would have if written out.
        resolve: Callable[..., str] = self._loader.resolve
        tag = node.tag if node.style else resolve(yaml.ScalarNode, value, (True, False))
        return yaml.ScalarNode(tag, value, node.start_mark, node.end_mark, node.style)


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
    """Return the part of the document at `place` as a `kind`.

    Raises:
        error: naming everything that is wrong with it, and for an unknown key the closest known
            one. Its `param` is the path of the first problem.
    """
    if not place and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        require_object(document, error=error)
    problems: list[Problem] = []
    value = convert_or_collect(document, kind, problems, place=place)
    if problems:
        raise refusal(problems, error)
    assert value is not None, "a document without problems can be converted"
    return value


def convert_data(data: Any, kind: type[T], *, error: type[InputError]) -> T:
    """Return data that was read from no text, such as a form's fields, as a `kind`.

    Raises:
        error: as `convert` does.
    """
    return convert(Document.of(data), kind, error=error)


def convert_or_collect(
    document: Document, kind: type[T], problems: list[Problem], *, place: DocumentPath = ()
) -> T | None:
    """Return the part of the document at `place` as a `kind`.

    Where that cannot be done, everything that is wrong is added to `problems`, and None returned.
    """
    data = document.data
    for step in place:
        data = data[step]
    try:
        return msgspec.convert(data, kind, dec_hook=_decode_secret)
    except msgspec.ValidationError:
        # msgspec alone would name one problem, and for an unknown key no remedy.
        problems += _problems(document, data, kind, place)
        return None


def convert_rest(
    document: Document, kind: type[T], problems: Collection[Problem], *, place: DocumentPath
) -> T | None:
    """Return the part at `place` as a `kind`, with defaults for what is wrong; None without one."""
    data = document.data
    for step in place:
        data = data[step]
    data = _without(data, {problem.place for problem in problems}, place)
    try:
        return msgspec.convert(data, kind, dec_hook=_decode_secret)
    except msgspec.ValidationError:
        return None


def _without(data: Any, places: Collection[DocumentPath], at: DocumentPath) -> Any:
    """Return a copy without the keys at some places, and without what could not be read."""
    if isinstance(data, Mapping):
        return {
            key: _without(value, places, (*at, key))
            for key, value in data.items()
            if value is not UNREAD and (*at, key) not in places
        }
    if isinstance(data, list):
        return [_without(item, places, (*at, n)) for n, item in enumerate(data)]
    return data


def _decode_secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    # msgspec adds the place to a TypeError, not to an error of its own kind.
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")


def _problems(document: Document, data: Any, kind: Any, place: DocumentPath) -> list[Problem]:
    """Return what is wrong with a part: with what it is made of, or else with itself."""
    try:
        # Quick where nothing is wrong, so that only parts with a mistake are looked into.
        msgspec.convert(data, kind, dec_hook=_decode_secret)
    except msgspec.ValidationError as error:
        message = str(error)
    else:
        return []
    if too_long := _too_long(data, kind):
        # Whoever has to leave most of it out need not mend the rest first.
        return [document.problem(place, too_long)]
    problems = list(islice(_problems_inside(document, data, kind, place), MAX_PROBLEMS))
    if problems or _has_unread(data):
        return problems
    if get_origin(kind) is Literal and isinstance(data, str):
        names = ", ".join(map(str, get_args(kind)))
        return [document.problem(place, f"{data[:80]!r} is not one of {names}")]
    return [_problem_of(document, place, message)]


def _too_long(data: Any, kind: Any) -> str:
    """Return that a list or an object has more parts than its type allows; "" where it has not."""
    if get_origin(kind) is not Annotated or not isinstance(data, list | Mapping):
        return ""
    limits = [meta.max_length for meta in kind.__metadata__ if isinstance(meta, msgspec.Meta)]
    limit = min((limit for limit in limits if limit is not None), default=len(data))
    if len(data) <= limit:
        return ""
    return f"expected {kind_of(data)} of at most {limit:,} (got {len(data):,})"


def _problem_of(document: Document, place: DocumentPath, message: str) -> Problem:
    """Return the problem that a message of msgspec's names, with the place in it."""
    if match := _WHERE.search(message):
        message = message[: match.start()]
        place += tuple(
            step["key"] if step["key"] else int(step["index"])
            for step in _STEP.finditer(match["path"])
        )
    return document.problem(place, message[:1].lower() + message[1:])


def _problems_inside(
    document: Document, data: Any, kind: Any, place: DocumentPath
) -> Iterator[Problem]:
    """Walk data and type side by side."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        branches = [
            _problems(document, data, branch, place)
            for branch in get_args(kind)
            if _could_be(data, branch)
        ]
        yield from min(branches, key=len, default=[])
    elif isinstance(data, Mapping):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from _problems_of_fields(document, data, kind, place)
        elif origin in (dict, Mapping):
            for key, value in data.items():
                yield from _problems(document, value, get_args(kind)[1], (*place, key))
    elif isinstance(data, list) and origin in (list, tuple):
        for n, item in enumerate(data):
            yield from _problems(document, item, get_args(kind)[0], (*place, n))


def _problems_of_fields(
    document: Document, data: Mapping[str, Any], kind: type[msgspec.Struct], place: DocumentPath
) -> Iterator[Problem]:
    fields = _fields_of(kind)
    for key, value in data.items():
        if key in fields:
            yield from _problems(document, value, fields[key].type, (*place, key))
        elif kind.__struct_config__.forbid_unknown_fields:
            yield document.problem((*place, key), f"unknown key.{closest(key, fields)}")
    for name, field in fields.items():
        if field.required and name not in data:
            yield document.problem(place, f"object missing required field `{name}`")


@cache
def _fields_of(kind: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _has_unread(data: Any) -> bool:
    # With a stack of its own: a request's document may be nested deeper than Python's.
    stack = [data]
    while stack:
        part = stack.pop()
        if part is UNREAD:
            return True
        if isinstance(part, Mapping):
            stack += part.values()
        elif isinstance(part, list):
            stack += part
    return False


def _could_be(data: Any, kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(data, Mapping):
        return get_origin(kind) in (dict, Mapping) or (
            isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        )
    return isinstance(data, list) and get_origin(kind) in (list, tuple)
