"""`--junit FILE`: a run's gates as JUnit XML, beside whatever else is printed."""

from __future__ import annotations

from pathlib import Path

import click

from evaluators.reports.junit import to_junit
from providers.errors import InputError
from router.evals.results import Outcome

_KEY = "evalrouter.junit"


def _remember(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    context.meta[_KEY] = path


junit_option = click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    expose_value=False,
    callback=_remember,
    help="Write the results of the gates to FILE as JUnit XML.",
    metavar="FILE",
)


def junit_file() -> Path | None:
    """Return the file that `--junit` names; None where it was not given."""
    path: Path | None = click.get_current_context().meta.get(_KEY)
    return path


def write_junit(outcome: Outcome) -> None:
    """Write the file that `--junit` names, if it was given.

    Raises:
        InputError: the file cannot be written.
    """
    path = junit_file()
    if path is None:
        return
    run = outcome.run
    problem = ""
    if run.state != "completed":
        why = run.error or run.stopped
        problem = f"{run.state}: {why}" if why else run.state
    text = to_junit(run.name, outcome.gates, run=run.id, problem=problem, seconds=run.ran_s or None)
    try:
        path.write_bytes(text)
    except OSError as error:
        raise InputError(f"--junit: {path} cannot be written: {error.strerror}") from None
