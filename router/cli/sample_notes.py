"""`evalrouter eval notes` and `eval note`: what people say of a run's samples."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.commands import (
    actor,
    config_option,
    json_option,
    local_time,
    out,
    print_json,
    print_text,
    with_services,
)
from router.cli.completion import complete_runs
from router.config.loading import load
from router.evals.sample_notes import NoteRequest, delete_note, notes_on, write_note
from router.store.sample_views import SampleNote

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

_run_argument = click.argument("run_id", shell_complete=complete_runs)
_position_argument = click.argument("position", type=click.IntRange(1))
_before_option = click.option(
    "--before",
    type=float,
    help="The `at` of the note that you have seen, 0 for none, to be refused where it is not "
    "the latest.",
)


@click.command("notes")
@_run_argument
@_position_argument
@config_option
@json_option
def eval_notes(run_id: str, position: int, config_path: Path | None, *, as_json: bool) -> None:
    """List people's labels and notes on the sample of RUN at POSITION, from 1."""

    async def read(services: Services) -> list[SampleNote]:
        run = await services.runs.find(run_id)
        return await notes_on(services.store, run.id, position)

    notes: list[SampleNote] = with_services(load(config_path), read)
    if as_json:
        print_json(notes)
        return
    if not notes:
        out.print("No notes yet.")
    for note in notes:
        label = f" [{note.label}]" if note.label else ""
        print_text(
            f"{local_time(note.at)} {note.author or 'anonymous'}{label} {note.note}".rstrip()
        )


@click.command("note")
@_run_argument
@_position_argument
@click.argument("text", required=False, default="")
@click.option("--label", default="", help="A short word, such as wrong.")
@click.option("--delete", "is_deleted", is_flag=True, help="Delete yours instead.")
@_before_option
@config_option
@json_option
def eval_note(  # noqa: PLR0917 - one parameter for each option
    run_id: str,
    position: int,
    text: str,
    label: str,
    is_deleted: bool,
    before: float | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Write TEXT about the sample of RUN at POSITION, in place of what you wrote before.

    Commands have one note on each sample, whoever runs them; keys have their own.
    """
    if is_deleted and (text or label):
        raise click.UsageError("--delete goes with neither TEXT nor --label")

    async def write(services: Services) -> SampleNote | None:
        run = await services.runs.find(run_id)
        if is_deleted:
            await delete_note(services.store, run.id, position, key_id="", before=before)
            return None
        return await write_note(
            services.store,
            run.id,
            position,
            NoteRequest(label=label, note=text, before=before),
            key_id="",
            author=actor(),
            now=time.time(),
        )

    written: SampleNote | None = with_services(load(config_path), write)
    if as_json:
        print_json(written)
    elif written is None:
        out.print("The note is deleted.")
    else:
        out.print("The note is stored.")
