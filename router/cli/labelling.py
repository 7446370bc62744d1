"""`evalrouter dataset label`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from evaluators.data.sampling import MAX_ROWS
from providers.errors import ConfigError, RunDocumentError
from router.cli.commands import (
    config_option,
    counted,
    err,
    json_option,
    out,
    print_json,
    with_services,
)
from router.cli.evals import execute
from router.cli.run_options import NameValue, read_task
from router.config.loading import load
from router.datasets.registry import check_dataset_name, name_of, version_name
from router.evals.labelling import LabelRequest, begin, finish
from router.store.datasets import DatasetRow

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.command("label")
@click.option("--route", help="A route, or provider/model, whose answers become the references.")
@click.option("--dataset", "named", help="A registered dataset, a path or an address.")
@click.option("--run", "run_id", help="Continue labelling that was stopped; without --dataset.")
@click.option("--name", default="", help="Default: the dataset's name, which gets a new version.")
@click.option("--prompt", help="A Jinja template over the row's columns.")
@click.option("--messages", help="Chat messages as JSON, their contents Jinja templates.")
@click.option("--task", help="A task that has messages and parameters; see `eval tasks`.")
@click.option(
    "--task-option",
    "task_options",
    type=NameValue(),
    multiple=True,
    help="An option of the task, such as to=German; lists with commas. Repeatable.",
)
@click.option(
    "--parameter",
    "parameters",
    type=NameValue(),
    multiple=True,
    help="A parameter of the requests, such as max_tokens=200. Repeatable.",
)
@click.option(
    "--column",
    "columns",
    type=NameValue(),
    multiple=True,
    help="A column of the dataset and what it is: article=input. Repeatable.",
)
@click.option("--overwrite", is_flag=True, help="Replace references that rows have already.")
@click.option("--limit", type=click.IntRange(1, MAX_ROWS), help="Only the first LIMIT rows.")
@config_option
@json_option
def dataset_label(
    *,
    route: str | None,
    named: str | None,
    run_id: str | None,
    name: str,
    prompt: str | None,
    messages: str | None,
    task: str | None,
    task_options: tuple[tuple[str, str], ...],
    parameters: tuple[tuple[str, str], ...],
    columns: tuple[tuple[str, str], ...],
    overwrite: bool,
    limit: int | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Send rows of a dataset to a route; its answers are the references of a new version.

    Rows that have a reference keep it, unless --overwrite is given.
    """
    if run_id is None and (route is None or named is None):
        raise ConfigError(
            "name what to label with --route and --dataset, or what to continue with --run"
        )
    if run_id is not None and any(
        (route, named, prompt, messages, task, task_options, parameters, columns, overwrite, limit)
    ):
        raise ConfigError("--run continues a labelling run; the only option it takes is --name")
    if name:
        # A bad name is refused before anything is paid for.
        check_dataset_name(name)
    started: list[str] = []

    async def label(services: Services) -> DatasetRow:
        runs = services.runs
        if run_id is None:
            assert route is not None
            assert named is not None
            request = LabelRequest(
                route=route,
                dataset=named,
                task=_task(task, dict(task_options)),
                messages=_messages(messages),
                prompt=prompt,
                columns=dict(columns),
                parameters={key: _value(text) for key, text in parameters},
                limit=limit,
                overwrite=overwrite,
            )
            run = await begin(runs, request, base=Path())
        else:
            run = await runs.find(run_id)
        started.append(run.id)
        progress = await services.store.progress(run.id)
        if progress.answered < run.cells:
            if run_id is not None:
                run = await runs.resume(run.id, runner="command", retry_failed=True)
            run = await execute(services, run)
        new_name = name or name_of(run.dataset)
        return await finish(services.store, services.datasets, run, name=new_name)

    try:
        row: DatasetRow = with_services(load(config_path), label)
    except KeyboardInterrupt:
        for started_id in started:
            err.print(
                f"\nstopped; continue with: evalrouter dataset label --run {started_id}",
                highlight=False,
            )
        sys.exit(1)
    if as_json:
        print_json(row)
        return
    summary = f"{version_name(row)}: {counted(row.rows, 'row')}, {row.source}"
    out.print(summary, highlight=False, markup=False)


def _task(name: str | None, options: dict[str, str]) -> Any:
    return read_task(None, name, options, Path()) if name or options else None


def _messages(text: str | None) -> tuple[dict[str, Any], ...] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=tuple[dict[str, Any], ...])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise RunDocumentError(
            f"--messages: not a JSON list of chat messages: {error}", param="messages"
        ) from None


def _value(text: str) -> Any:
    """Return a parameter's value: JSON where it is that, else the text itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
