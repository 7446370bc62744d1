"""`evalrouter eval export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.commands import config_option, counted, json_option, out, print_json, with_services
from router.cli.completion import complete_runs
from router.config.loading import load
from router.datasets.artifacts import open_artifacts
from router.evals.export import Manifest, export_run, verify
from router.evals.tables import FORMATS, Format

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.command("export")
@click.argument("run_id", shell_complete=complete_runs)
@click.option("--to", "target", help="A folder or s3://bucket/prefix. Default: the artifact store.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    help="Write only this beside JSON lines; parquet needs the extra of its name. Default: all.",
)
@click.option("--jsonl-only", is_flag=True, help="JSON lines only.")
@click.option("--verify", "reread", is_flag=True, help="Read everything back and compare it.")
@config_option
@json_option
def eval_export(  # noqa: PLR0917 - one parameter for each option
    run_id: str,
    target: str | None,
    formats: tuple[Format, ...],
    jsonl_only: bool,
    reread: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Write a run's rows and judgements with a manifest into a folder of its name.

    They are written as JSON lines, CSV and parquet. In the tables, each repeat of a judge has
    columns for its score and its feedback.
    """
    config = load(config_path)
    chosen: tuple[Format, ...] = ("jsonl",) if jsonl_only else formats or FORMATS

    async def export(services: Services) -> Manifest:
        run = await services.runs.find(run_id)
        if target is None:
            artifacts, prefix = services.datasets.artifacts, f"runs/{run.id}"
        else:
            artifacts, prefix = open_artifacts(target, config.storage.s3), run.id
        manifest = await export_run(services.store, run, artifacts, prefix, formats=chosen)
        return await verify(artifacts, prefix) if reread else manifest

    manifest: Manifest = with_services(config, export)
    if as_json:
        print_json(manifest)
        return
    out.print(
        f"{counted(manifest.rows, 'row')} in {manifest.location}", highlight=False, markup=False
    )
    for file in manifest.files:
        line = f"  {file.name}: {file.size} bytes, sha256 {file.sha256}"
        out.print(line, highlight=False, markup=False, soft_wrap=True)
