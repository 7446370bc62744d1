"""Fills run documents in with the tasks that they name.

    fill({"task": "summarization", "dataset": "d.csv", "routes": ["a", "b"]})
    # the same with messages, parameters, metrics and a baseline

A task is a mapping of run-document keys, with a `description` and `options`. The shipped ones are
the YAML files of this folder; a user's own is a YAML file beside the run document, or an entry
point of the group `evalrouter.tasks`: such a mapping, or a function without arguments that returns
one. To ship another task, add its file and its name to TASKS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import msgspec
import yaml

from evaluators.data.paths import is_below
from evaluators.document import RunDocument
from providers.errors import RunDocumentError, closest
from providers.names import MAX_ADDRESS_BYTES, check_name
from providers.plain_files import open_plain_file
from providers.yaml_documents import UNREADABLE_VALUE, JoiningLoader, check

TASKS = ("classification", "question_answering", "summarization", "text_generation", "translation")
ENTRY_POINTS = "evalrouter.tasks"
SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 100_000

# Keys that belong to one run, not to a kind of run.
_OF_THE_RUN = frozenset({"dataset", "routes", "task", "name", "experiment", "tags", "notes"})
KEYS = tuple(
    field.name for field in msgspec.structs.fields(RunDocument) if field.name not in _OF_THE_RUN
)
# A key in the document takes the place of the other key of its pair, too.
_INSTEAD = (("prompt", "messages"), ("limit", "sample"))
# The document's entries of these are added to the task's, one by one.
_MERGED = ("columns", "parameters", "limits")

_FOLDER = Path(__file__).parent
_PLACEHOLDER = re.compile(r"(?P<escaped>\$?)\$\{(?P<name>\w+)\}")


class Option(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An option of a task.

    Attributes:
        description: what the option is for.
        default: its value where the document gives none; None where the document has to.
        many: whether its value is a list of texts instead of one.
    """

    description: str
    default: str | tuple[str, ...] | None = None
    many: bool = False


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of run.

    Attributes:
        name: its name in run documents, or the path of its file.
        description: what the task is for.
        options: the options that it takes.
        document: the run-document keys that it fills in, with `${option}` in its texts.
        version: twelve hexadecimal digits that change with anything in it.
        source: where it comes from: `evalrouter`, a file's path, or a distribution's name.
    """

    name: str
    description: str
    options: dict[str, Option]
    document: dict[str, Any]
    version: str
    source: str


class BrokenTask(msgspec.Struct, frozen=True, kw_only=True):
    """An installed task that cannot be used, with the reason."""

    name: str
    error: str


def fill(
    document: Mapping[str, Any],
    *,
    base: Path | None = None,
    within: Sequence[str | Path] | None = None,
) -> dict[str, Any]:
    """Return the run document with what its task has and the document does not.

    The document's keys win. `columns`, `parameters` and `limits` are merged key by key, and a
    parameter that is null leaves out the task's. `prompt` takes the place of the task's
    `messages`, `limit` that of its `sample`, and the other way round. The task's baseline is added
    to the routes; without a baseline, differences are taken against the first route. `task`
    becomes an object with the task's name, version and options; a document whose task has a version
    was filled in before, and is returned as it is.

    Args:
        document: JSON types, not checked yet. Without a `task` it is returned as it is.
        base: the folder that a task file's path starts from; None for the working directory.
        within: the folders that a task file may lie below; None for anywhere.

    Raises:
        RunDocumentError: no such task or option; `param` is the path in the document.
    """
    spec = document.get("task")
    if spec is None:
        return dict(document)
    name, given = _read(spec)
    if "version" in given:
        return dict(document)
    task = find(name, base=base, within=within)
    options = _chosen(task, given)
    filled = _overlay(_put(task.document, options), document)
    if "baseline" not in document:
        _set_baseline(filled)
    shown = {
        option: list(value) if isinstance(value, tuple) else value
        for option, value in options.items()
    }
    filled["task"] = {"name": task.name, "version": task.version, **shown}
    return filled


def find(
    name: str, *, base: Path | None = None, within: Sequence[str | Path] | None = None
) -> Task:
    """Return the task of that name, or in the YAML file of that path. Arguments as in `fill`.

    Raises:
        RunDocumentError: no such task, or its file has something else; `param` is `task`.
    """
    if name in TASKS:
        return _shipped(name)
    if name.endswith(SUFFIXES):
        return _from_file(name, base or Path(), within)
    installed = next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)
    if installed is not None:
        return _from_entry_point(installed)
    known = [*TASKS, *entry_points(group=ENTRY_POINTS).names]
    raise _wrong(f"task: there is no task {name!r}.{closest(name, known)}")


def known() -> Iterator[Task | BrokenTask]:
    """Yield all tasks that have a name: those that evalrouter ships, then the installed ones."""
    for name in TASKS:
        yield _shipped(name)
    for installed in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        if installed.name in TASKS:
            error = "evalrouter ships a task of this name; rename yours"
            yield BrokenTask(name=installed.name, error=error)
            continue
        try:
            yield _from_entry_point(installed)
        except RunDocumentError as problem:
            yield BrokenTask(name=installed.name, error=problem.message)


# Reading tasks


def _shipped(name: str) -> Task:
    data = msgspec.yaml.decode((_FOLDER / f"{name}.yaml").read_bytes())
    return _task(data, name, source="evalrouter")


def _from_file(name: str, base: Path, within: Sequence[str | Path] | None) -> Task:
    if within is not None and not is_below(name, within, base=base):
        raise RunDocumentError(
            f"task: {name!r} is outside what requests may name "
            f"({', '.join(map(str, within))}; evaluation.roots in the server's config)",
            param="task",
            code="outside_roots",
        )
    try:
        path = (base / name).resolve()
        with open_plain_file(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _wrong(f"task: {name}: {error.strerror}") from None
    except (ValueError, RuntimeError):
        # A null character; links that lead in a circle, before Python 3.13.
        raise _wrong(f"task: {name!r} cannot be a file's name") from None
    if len(content) > MAX_BYTES:
        raise _wrong(f"task: {name}: a task has at most {MAX_BYTES:,} bytes")
    try:
        check(content)
    except msgspec.DecodeError as error:
        raise _wrong(f"task: {name}: not YAML that can be used: {error}") from None
    try:
        # An anchor that is used again and again makes a small file a huge document.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content)):
            raise _wrong(f"task: {name}: write texts out instead of YAML aliases (*name)")
        data = yaml.load(content, JoiningLoader)  # noqa: S506  # it is a SafeLoader
    except (yaml.YAMLError, RecursionError, *UNREADABLE_VALUE) as error:
        # Its own text shows the line, which may be a secret of a file that is no task.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "cannot be read"
        raise _wrong(f"task: {name}{where}: not YAML: {reason}") from None
    return _task(data, str(path), source=str(path))


def _from_entry_point(entry_point: EntryPoint) -> Task:
    try:
        data = entry_point.load()
        if callable(data):
            data = data()
        data = msgspec.to_builtins(data)
    except Exception as error:  # a user's code may raise anything
        raise _wrong(
            f"task: {entry_point.name} ({entry_point.value}): {type(error).__name__}: {error}"
        ) from error
    source = entry_point.dist.name if entry_point.dist else entry_point.value
    return _task(data, entry_point.name, source=source)


def _task(data: Any, name: str, *, source: str) -> Task:
    if not isinstance(data, dict):
        raise _wrong(f"task: {name}: a task is a mapping of run-document keys")
    keys = ("description", "options", *KEYS)
    for key in data:
        if key not in keys:
            raise _wrong(f"task: {name}: unknown key {key!r}.{closest(str(key), keys)}")
    try:
        options = msgspec.convert(data.get("options") or {}, dict[str, Option])
        document = {key: value for key, value in data.items() if key in KEYS}
        # With placeholders for the options, everything but the metrics has its type already.
        msgspec.convert(
            {"dataset": "-", "routes": ["-"], "metrics": ["-"], **document}, RunDocument
        )
    except msgspec.ValidationError as error:
        raise _wrong(f"task: {name}: {error}") from None
    for option, about in options.items():
        if option in ("name", "version"):
            raise _wrong(f"task: {name}: options.{option}: a task has that anyway; rename it")
        if about.default is not None and isinstance(about.default, str) == about.many:
            raise _wrong(f"task: {name}: options.{option}: the default is a list if `many` is true")
    for option in _placeholders(document):
        if option not in options:
            raise _wrong(
                f"task: {name}: ${{{option}}} is not one of its options; $${{ stands for ${{ itself"
            )
    return Task(
        name=name,
        description=str(data.get("description") or ""),
        options=options,
        document=document,
        version=hashlib.sha256(msgspec.json.encode(data, order="sorted")).hexdigest()[:12],
        source=source,
    )


# Filling in


def _read(spec: Any) -> tuple[str, dict[str, Any]]:
    options = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise _wrong("task: a task is a name, or an object with 'name' and its options")
    check_name(options["name"], "task", RunDocumentError, max_bytes=MAX_ADDRESS_BYTES)
    return options["name"], {key: value for key, value in options.items() if key != "name"}


def _chosen(task: Task, given: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """Return every option of the task, with the given value or its default."""
    for option in given:
        if option not in task.options:
            near = closest(option, task.options) if task.options else " It has none."
            raise RunDocumentError(
                f"task: {task.name} has no option {option!r}.{near}", param=f"task.{option}"
            )
    chosen: dict[str, str | tuple[str, ...]] = {}
    for option, about in task.options.items():
        kind: Any = tuple[str, ...] if about.many else str
        value = given.get(option, about.default)
        if value is None:
            raise RunDocumentError(
                f"task: {task.name} needs the option {option!r}: {about.description}",
                param=f"task.{option}",
            )
        try:
            chosen[option] = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise RunDocumentError(
                f"task: {task.name}: {option}: {error}", param=f"task.{option}"
            ) from None
    return chosen


def _put(value: Any, options: Mapping[str, str | tuple[str, ...]]) -> Any:
    """Return the value with options for placeholders; a mere placeholder becomes its option."""
    if isinstance(value, Mapping):
        return {key: _put(inner, options) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_put(inner, options) for inner in value]
    if not isinstance(value, str):
        return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole and not whole["escaped"]:
        chosen = options[whole["name"]]
        return list(chosen) if isinstance(chosen, tuple) else chosen

    def text(placeholder: re.Match[str]) -> str:
        if placeholder["escaped"]:
            return placeholder[0][1:]
        chosen = options[placeholder["name"]]
        return chosen if isinstance(chosen, str) else ", ".join(chosen)

    return _PLACEHOLDER.sub(text, value)


def _placeholders(value: Any) -> Iterator[str]:
    """Yield the names of the options that the value has placeholders for."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _placeholders(inner)
    elif isinstance(value, str):
        yield from (match["name"] for match in _PLACEHOLDER.finditer(value) if not match["escaped"])


def _overlay(filled: dict[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    for pair in _INSTEAD:
        if any(key in written for key in pair):
            for key in pair:
                filled.pop(key, None)
    for key, value in written.items():
        ours = filled.get(key)
        if key in _MERGED and isinstance(value, Mapping) and isinstance(ours, Mapping):
            left_out = {name for name in ours if value.get(name, ...) is None}
            filled[key] = {
                name: inner for name, inner in {**ours, **value}.items() if name not in left_out
            }
        else:
            filled[key] = value
    return filled


def _set_baseline(filled: dict[str, Any]) -> None:
    routes = filled.get("routes")
    if not isinstance(routes, list | tuple) or not routes:
        return  # refused where the document is checked
    baseline = filled.get("baseline")
    if baseline is None:
        if len(routes) > 1:
            filled["baseline"] = routes[0]
    elif baseline not in routes:
        filled["routes"] = [*routes, baseline]


def _wrong(message: str) -> RunDocumentError:
    return RunDocumentError(message, param="task")
