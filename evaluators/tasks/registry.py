"""The tasks a run document may name, and how one fills the document in.

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
from providers.yaml_documents import UNREADABLE_VALUE, JoiningLoader, check

TASKS = ("classification", "question_answering", "summarization", "text_generation", "translation")
ENTRY_POINTS = "evalrouter.tasks"
SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 100_000

# What belongs to one run, not to a kind of run.
_OF_THE_RUN = frozenset({"dataset", "routes", "task", "name", "experiment", "tags", "notes"})
KEYS = tuple(
    field.name for field in msgspec.structs.fields(RunDocument) if field.name not in _OF_THE_RUN
)
# A key that is written takes the place of the other one, too.
_INSTEAD = (("prompt", "messages"), ("limit", "sample"))
# Written keys of these are added to the task's, one by one.
_MERGED = ("columns", "parameters", "limits")

_FOLDER = Path(__file__).parent
_PLACE = re.compile(r"(?P<escaped>\$?)\$\{(?P<name>\w+)\}")


class Option(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something a task has to be told.

    Attributes:
        description: what it is, for people.
        default: what it is when nobody says; None when somebody has to.
        many: whether it is a list of texts instead of one.
    """

    description: str
    default: str | tuple[str, ...] | None = None
    many: bool = False


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of run.

    Attributes:
        name: as the run document has it; the path of a file.
        description: what it is, for people.
        options: what it has to be told.
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


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """An installed task that cannot be used, and why."""

    name: str
    error: str


def fill(
    document: Mapping[str, Any],
    *,
    base: Path | None = None,
    within: Sequence[str | Path] | None = None,
) -> dict[str, Any]:
    """The run document with everything that its task names and it does not write itself.

    Written keys win. `columns`, `parameters` and `limits` are merged key by key, and a parameter
    that is written as null leaves out the task's. `prompt` takes the place of the task's
    `messages`, `limit` that of its `sample`, and the other way round. The task's baseline is added
    to the routes; where neither names one, differences are taken against the first route. `task`
    becomes an object with the task's name, version and options; a document whose task has a version
    was filled in before, and is returned as it is.

    Args:
        document: JSON types, not checked yet. Without a `task` it is returned as it is.
        base: the folder that a task file's path starts from; None for the working directory.
        within: folders that a task file must lie below one of; None for anywhere.

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
        option: list(one) if isinstance(one, tuple) else one for option, one in options.items()
    }
    filled["task"] = {"name": task.name, "version": task.version, **shown}
    return filled


def find(
    name: str, *, base: Path | None = None, within: Sequence[str | Path] | None = None
) -> Task:
    """The task of that name, or in the YAML file of that path. Arguments as in `fill`.

    Raises:
        RunDocumentError: there is none, or it is no task; `param` is `task`.
    """
    if name in TASKS:
        return _shipped(name)
    if name.endswith(SUFFIXES):
        return _from_file(name, base or Path(), within)
    found = next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)
    if found is not None:
        return _from_entry_point(found)
    known = [*TASKS, *entry_points(group=ENTRY_POINTS).names]
    raise _wrong(f"task: there is no task {name!r}.{closest(name, known)}")


def known() -> Iterator[Task | Broken]:
    """All tasks that have a name: the shipped ones, then the installed ones."""
    for name in TASKS:
        yield _shipped(name)
    for found in sorted(entry_points(group=ENTRY_POINTS), key=lambda one: one.name):
        if found.name in TASKS:
            error = "evalrouter ships a task of this name; rename yours"
            yield Broken(name=found.name, error=error)
            continue
        try:
            yield _from_entry_point(found)
        except RunDocumentError as problem:
            yield Broken(name=found.name, error=problem.message)


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
        with path.open("rb") as file:
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


def _from_entry_point(found: EntryPoint) -> Task:
    try:
        data = found.load()
        if callable(data):
            data = data()
        data = msgspec.to_builtins(data)
    except Exception as error:  # a user's code may raise anything
        raise _wrong(
            f"task: {found.name} ({found.value}): {type(error).__name__}: {error}"
        ) from error
    return _task(data, found.name, source=found.dist.name if found.dist else found.value)


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
        # With the options' places in it, everything but the metrics has its type already.
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
    for used in _places(document):
        if used not in options:
            raise _wrong(f"task: {name}: ${{{used}}} is none of its options; $${{ means itself")
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
    """Every option of the task, as it is given or by default."""
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
    """The value with the options in their places; a text that is nothing but one becomes it."""
    if isinstance(value, Mapping):
        return {key: _put(one, options) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_put(one, options) for one in value]
    if not isinstance(value, str):
        return value
    whole = _PLACE.fullmatch(value)
    if whole and not whole["escaped"]:
        chosen = options[whole["name"]]
        return list(chosen) if isinstance(chosen, tuple) else chosen

    def text(place: re.Match[str]) -> str:
        if place["escaped"]:
            return place[0][1:]
        chosen = options[place["name"]]
        return chosen if isinstance(chosen, str) else ", ".join(chosen)

    return _PLACE.sub(text, value)


def _places(value: Any) -> Iterator[str]:
    """The names of the options that the value has places for."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _places(one)
    elif isinstance(value, str):
        yield from (place["name"] for place in _PLACE.finditer(value) if not place["escaped"])


def _overlay(filled: dict[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    for pair in _INSTEAD:
        if any(key in written for key in pair):
            for key in pair:
                filled.pop(key, None)
    for key, value in written.items():
        ours = filled.get(key)
        if key in _MERGED and isinstance(value, Mapping) and isinstance(ours, Mapping):
            left_out = {one for one in ours if value.get(one, ...) is None}
            filled[key] = {
                one: content for one, content in {**ours, **value}.items() if one not in left_out
            }
        else:
            filled[key] = value
    return filled


def _set_baseline(filled: dict[str, Any]) -> None:
    routes = filled.get("routes")
    if not isinstance(routes, list | tuple) or not routes:
        return  # told apart by whoever checks the document
    baseline = filled.get("baseline")
    if baseline is None:
        if len(routes) > 1:
            filled["baseline"] = routes[0]
    elif baseline not in routes:
        filled["routes"] = [*routes, baseline]


def _wrong(message: str) -> RunDocumentError:
    return RunDocumentError(message, param="task")
