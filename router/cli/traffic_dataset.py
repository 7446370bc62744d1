"""`evalrouter dataset from-traffic`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.commands import (
    config_option,
    counted,
    err,
    json_option,
    out,
    print_json,
    with_services,
)
from router.cli.progress import progress_line
from router.config.loading import load
from router.datasets.registry import version_name
from router.loop.traffic_dataset import (
    MAX_ROWS,
    STRATA,
    Report,
    TrafficDataset,
    TrafficDatasetProgress,
    TrafficSelection,
    prepare,
)

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

# How often progress is a line where there is no terminal, in records.
_LINE_EVERY = 100_000


@click.command("from-traffic")
@click.argument("name")
@click.option("--route", required=True, help="The route, or provider/model, that clients named.")
@click.option("--since", help="7d, 12h, ISO 8601 or seconds since the epoch. Default: all.")
@click.option("--until", help="Likewise. Default: now.")
@click.option("--where", default="", help="A condition, such as 'feedback.thumb == false'.")
@click.option("--sample", type=click.IntRange(1, MAX_ROWS), help="How many rows, drawn at random.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Another one draws other rows.",
)
@click.option(
    "--stratify",
    default="",
    metavar="FIELDS",
    help=f"Fields with commas, each of whose values gets its share: {', '.join(STRATA)}.",
)
@click.option("--dedupe", is_flag=True, help="One row of requests with (nearly) the same words.")
@click.option("--no-mask", is_flag=True, help="Store personal data and secrets as they are.")
@click.option("--review", is_flag=True, help="Let a person accept or reject each row first.")
@config_option
@json_option
def dataset_from_traffic(
    name: str,
    *,
    route: str,
    since: str | None,
    until: str | None,
    where: str,
    sample: int | None,
    seed: int,
    stratify: str,
    dedupe: bool,
    no_mask: bool,
    review: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Make the dataset NAME of requests that clients sent to a route.

    A row has the conversation, the parameters of its request, the answer that the client got
    (the route dataset/answer scores it), corrections as references, and where it came from.
    """
    selection = TrafficSelection(
        name=name,
        route=route,
        since=since,
        until=until,
        where=where,
        sample=sample,
        seed=seed,
        stratify=tuple(field.strip() for field in stratify.split(",")) if stratify else (),
        dedupe=dedupe,
        mask=not no_mask,
        review=review,
    )
    plan = prepare(selection, now=time.time())

    async def make(services: Services) -> TrafficDataset:
        with _progress() as progress:
            return await services.traffic_datasets.create(plan, progress=progress)

    made: TrafficDataset = with_services(load(config_path), make)
    if as_json:
        print_json(made)
        return
    for dropped in made.funnel.dropped:
        err.print(f"{dropped.count:>9,}  {dropped.description}", highlight=False, soft_wrap=True)
    row, funnel = made.dataset, made.funnel
    of = f"{counted(funnel.rows, 'row')} of {counted(funnel.records, 'request')}"
    text = (
        f"{of}, to be reviewed: evalrouter review --dataset {name}"
        if row is None
        else f"{version_name(row)}: {of}"
    )
    out.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Report]:
    """Show progress on stderr: one line that changes on a terminal, else some lines."""
    if not err.is_terminal:
        yield _plainly()
        return
    with progress_line() as show:
        yield lambda news: show(f"{news.records} requests read, {news.rows} rows written")


def _plainly() -> Report:
    """Return what prints a line for each `_LINE_EVERY` records."""
    lines = 0

    def show(news: TrafficDatasetProgress) -> None:
        nonlocal lines
        if news.records // _LINE_EVERY > lines:
            lines = news.records // _LINE_EVERY
            err.print(f"{news.records} requests read", highlight=False)

    return show
