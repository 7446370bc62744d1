"""`evalrouter dataset label`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from evaluators.data.sampling import MAX_ROWS
from providers.errors import ConfigError
from router.cli.commands import config_option, err, json_option, out, print_json, with_services
from router.cli.evals import execute
from router.config.loading import load
from router.datasets.registry import SHOWN_HASH, check_dataset_name, name_of
from router.evals.labelling import begin, finish
from router.services import Services
from router.store.datasets import DatasetRow


@click.command("label")
@click.option("--route", help="A route, or provider/model, whose answers become the references.")
@click.option("--dataset", "named", help="A registered dataset, a path or an address.")
@click.option("--run", "run_id", help="Continue labelling that was stopped; without --dataset.")
@click.option("--name", default="", help="Default: the dataset's name, which gets a new version.")
@click.option("--prompt", help="A Jinja template over the row's columns.")
@click.option("--limit", type=click.IntRange(1, MAX_ROWS), help="Only the first LIMIT rows.")
@config_option
@json_option
def dataset_label(  # noqa: PLR0917 - one parameter for each option
    route: str | None,
    named: str | None,
    run_id: str | None,
    name: str,
    prompt: str | None,
    limit: int | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Send every row of a dataset to a route; its answers are the references of a new version."""
    if run_id is None and (route is None or named is None):
        raise ConfigError(
            "name what to label with --route and --dataset, or what to continue with --run"
        )
    if run_id is not None and (route or named or prompt or limit):
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
            run = await begin(
                runs, route=route, dataset=named, base=Path(), prompt=prompt, limit=limit
            )
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
    summary = f"{row.name}@{row.hash[:SHOWN_HASH]}: {row.rows} rows, {row.source}"
    out.print(summary, highlight=False, markup=False)
