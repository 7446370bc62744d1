"""The options of `evalrouter eval run` that stand for keys of a run document.

    evalrouter eval run --task summarization --dataset articles.csv --routes a,b

Options win over the document's keys, so that a document can be tried on a few rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import click

from evaluators.data.sampling import MAX_ROWS
from evaluators.document import RunDocument
from evaluators.tasks.registry import find
from providers.errors import RunDocumentError
from router.config.documents import Document
from router.evals.run_document import complete_run, parse_run
from router.store.runs import RunState

_Command = TypeVar("_Command", bound=Callable[..., Any])


class NameValue(click.ParamType[tuple[str, str]]):
    """The type of an option `name=value`."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first equals sign."""
        if isinstance(value, tuple):
            return value
        name, equals, rest = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not name=value", param, ctx)
        return name, rest


class RunSource(NamedTuple):
    """A run document, and the folder that its relative paths start from."""

    document: RunDocument
    base: Path


_OPTIONS = (
    click.option("--task", help="A task that fills in the rest; see `evalrouter eval tasks`."),
    click.option(
        "--task-option",
        "task_options",
        type=NameValue(),
        multiple=True,
        help="An option of the task, such as to=German; lists with commas. Repeatable.",
    ),
    click.option("--dataset", help="A file, or a dataset's name."),
    click.option("--routes", help="Routes or provider/model, with commas between."),
    click.option("--metrics", help="Metrics' names, with commas between."),
    click.option("--baseline", help="The route that the others are compared with."),
    click.option(
        "--column",
        "columns",
        type=NameValue(),
        multiple=True,
        help="A column of the dataset and what it is: article=input. Repeatable.",
    ),
    click.option("--limit", type=click.IntRange(1, MAX_ROWS), help="Only the first LIMIT samples."),
    click.option(
        "--cache/--no-cache",
        default=None,
        help="Whether answers of earlier runs may be used. Default: unless there are gates.",
    ),
    click.option("--ray-address", help="Score on this Ray cluster; 'auto' for the one here."),
    click.option("--name", help="The name that people know the run by."),
    click.option("--experiment", help="The experiment that it belongs to."),
    click.option("--tag", "tags", multiple=True, help="A word to find the run by. Repeatable."),
    click.option("--notes", help="Whatever people should know of the run."),
)


_FILTERS = (
    click.option("--experiment", help="Only of this experiment."),
    click.option("--tag", help="Only with this tag."),
    click.option("--state", type=click.Choice(get_args(RunState)), help="Only in this state."),
)


def run_options(command: _Command) -> _Command:
    """Give a command the options that stand for keys of a run document."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def filter_options(command: _Command) -> _Command:
    """Give a command the options that select runs; they are the fields of RunFilter."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def read_run(path: Path | None, given: dict[str, Any]) -> RunSource:
    """Return the run that a command line describes.

    Args:
        path: the run document; None without one.
        given: the options of `run_options`, by their parameters' names.

    Raises:
        RunDocumentError: the document cannot be read, or something is missing or wrong.
    """
    if path is None:
        document, base = Document.of({}), Path()
        if not (given["task"] or given["metrics"]):
            raise RunDocumentError(
                "name a run document, or a task and what to run it on: "
                "evalrouter eval run --task summarization --dataset FILE --routes A,B"
            )
    else:
        document, base = parse_run(path), path.parent
    data = dict(document.data)
    data |= {
        key: given[key]
        for key in ("baseline", "limit", "cache", "name", "experiment", "notes")
        if given[key] is not None
    }
    data |= {key: _listed(given[key]) for key in ("routes", "metrics") if given[key] is not None}
    if given["limit"] is not None:
        data.pop("sample", None)
    if given["ray_address"] is not None:
        execution = data.get("execution")
        options = execution if isinstance(execution, dict) else {}
        data["execution"] = {**options, "address": given["ray_address"]}
    # A value of the wrong type in the document is left for its check to refuse.
    if given["tags"] and isinstance(tags := data.get("tags", []), list):
        data["tags"] = list(dict.fromkeys((*tags, *given["tags"])))
    if given["columns"] and isinstance(columns := data.get("columns", {}), dict):
        data["columns"] = {**columns, **dict(given["columns"])}
    if given["dataset"] is not None:
        data["dataset"] = _from_here(given["dataset"], base)
    if given["task"] is not None or given["task_options"]:
        data["task"] = read_task(data.get("task"), given["task"], dict(given["task_options"]), base)
    return RunSource(complete_run(document._replace(data=data), base=base), base)


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _from_here(name: str, base: Path) -> str:
    """Return the path of a file from here instead of from the document's folder."""
    return str(Path(name).resolve()) if base != Path() and Path(name).exists() else name


def read_task(before: Any, name: str | None, options: dict[str, str], base: Path) -> Any:
    """Return the document's `task`, as the command line changes it."""
    if name is not None:
        task: dict[str, Any] = {"name": _from_here(name, base)}
    elif before is None:
        raise RunDocumentError("--task-option needs a task; name one with --task")
    else:
        task = {"name": before} if isinstance(before, str) else before
        if not isinstance(task, dict) or not isinstance(task.get("name"), str):
            return before  # for its check to refuse
        task = dict(task)
        if "version" in task:
            raise RunDocumentError(
                "--task-option: the task has filled in this document already; change its texts"
            )
    known = find(task["name"], base=base).options if options else {}
    for option, text in options.items():
        # An option that the task does not have is refused where the task is filled in.
        many = option in known and known[option].many
        task[option] = _listed(text) if many else text
    return task
