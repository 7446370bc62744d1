"""`evalrouter dataset`: register datasets under names, and look at them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.table import Column, Table

from evaluators.data import columns as statistics
from providers.errors import DatasetError
from router.cli.commands import (
    CommandsOnDemand,
    config_option,
    counted,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    with_services,
    with_store,
)
from router.config.loading import load
from router.datasets.registry import DatasetView, parse_columns, version_name
from router.store.datasets import DatasetRow

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services
    from router.store.protocol import Store


@click.group(
    "dataset",
    cls=CommandsOnDemand,
    on_demand={
        "from-traffic": (
            "router.cli.traffic_dataset:dataset_from_traffic",
            "Make the dataset NAME of requests that clients sent to a route.",
        ),
        "label": (
            "router.cli.labelling:dataset_label",
            "Send rows of a dataset to a route; its answers are the references of a new version.",
        ),
    },
)
def dataset() -> None:
    """Register datasets under names, and look at them."""


@dataset.command("add")
@click.argument("source")
@click.option("--name", default="", help="What to call it. Default: the source's own name.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="COLUMN=KNOWN",
    help="A column of the file and the name it is known by: input, reference, answer, id, ...",
)
@click.option(
    "--delimiter",
    default="",
    help="What separates the cells of CSV and TSV: ';', tab, ... Default: found out.",
)
@config_option
@json_option
def dataset_add(
    source: str,
    *,
    name: str,
    columns: tuple[str, ...],
    delimiter: str,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Register SOURCE: a file, a folder saved by Hugging Face's datasets, https://, s3:// or hf://.

    Its content is copied into the artifact store. Other content under the same name is a new
    version.
    """
    mapping = parse_columns(columns)

    async def add(services: Services) -> DatasetRow:
        return await services.datasets.add(
            source, name=name, columns=mapping, delimiter=delimiter, over_http=False
        )

    row: DatasetRow = with_services(load(config_path), add)
    if as_json:
        print_json(row)
    else:
        out.print(
            f"{version_name(row)}: {counted(row.rows, 'row')}, "
            f"{counted(len(row.columns), 'column')}, from {row.source}",
            highlight=False,
            markup=False,
        )


@dataset.command("list")
@click.argument("name", required=False)
@config_option
@json_option
def dataset_list(name: str | None, config_path: Path | None, as_json: bool) -> None:
    """List versions, newest first."""

    async def read(store: Store) -> list[DatasetRow]:
        return await store.datasets(name)

    rows = with_store(load(config_path), read)
    if as_json:
        print_json([msgspec.structs.replace(row, statistics=()) for row in rows])
        return
    table = Table(Column("dataset", no_wrap=True), "rows", "bytes", "format", "added", "from")
    for row in rows:
        when = local_time(row.created_at)
        table.add_row(
            version_name(row), str(row.rows), str(row.size), row.format, when, escape(row.source)
        )
    print_table(table, empty="No datasets yet.")


@dataset.command("show")
@click.argument("name")
@click.option("--rows", type=click.IntRange(0, 100), default=3, show_default=True)
@config_option
@json_option
def dataset_show(name: str, rows: int, config_path: Path | None, as_json: bool) -> None:
    """Show what a dataset's columns hold, and its first rows. NAME may be NAME@HASH."""

    async def read(services: Services) -> DatasetView:
        return await services.datasets.show(name, rows=rows)

    shown: DatasetView = with_services(load(config_path), read)
    if as_json:
        print_json(shown)
        return
    row = shown.dataset
    size = f"{counted(row.size, 'byte')} of {row.format}"
    summary = f"{counted(row.rows, 'row')}, {size}, from {row.source}"
    out.print(f"{version_name(row)}: {summary}", highlight=False, markup=False)
    for key, value in row.provenance.items():
        out.print(f"  {key}: {value}", highlight=False, markup=False)
    table = Table("column", "holds", "missing", "blank", "different", "range", "most often")
    for column in shown.columns:
        table.add_row(
            escape(_column_name(column.name, row.mapping)),
            ", ".join(f"{kind} ({count})" for kind, count in column.kinds.items()),
            str(column.missing),
            str(column.blank),
            f"> {statistics.MAX_DISTINCT}" if column.distinct is None else str(column.distinct),
            _range(column),
            escape(", ".join(f"{text!r} ({count})" for text, count in column.common[:3])),
        )
    print_table(table)
    for fields in shown.preview:
        out.print_json(data=fields)


@dataset.command("download")
@click.argument("name")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Default: NAME.FORMAT.")
@config_option
def dataset_download(name: str, target: Path | None, config_path: Path | None) -> None:
    """Write a dataset's file, byte for byte as it was added. NAME may be NAME@HASH."""

    async def write(services: Services) -> str:
        row = await services.datasets.find(name)
        path = target or Path(f"{row.name}.{row.format}")
        try:
            # An existing file is never overwritten.
            file = await asyncio.to_thread(path.open, "xb")
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror}") from error
        try:
            with file:
                async for chunk in services.datasets.artifacts.get(row.path):
                    await asyncio.to_thread(file.write, chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return f"{version_name(row)} is in {path}"

    out.print(with_services(load(config_path), write), highlight=False, markup=False)


@dataset.command("delete")
@click.argument("name")
@click.option("--all", "every", is_flag=True, help="Every version of the name.")
@config_option
def dataset_delete(name: str, every: bool, config_path: Path | None) -> None:
    """Delete a dataset, or its version NAME@HASH. Runs over it keep their samples."""

    async def delete(services: Services) -> list[DatasetRow]:
        return await services.datasets.delete(name, every=every)

    for row in with_services(load(config_path), delete):
        out.print(f"{version_name(row)} deleted", highlight=False)


def _column_name(name: str, mapping: Mapping[str, str]) -> str:
    return f"{name} ({mapping[name]})" if name in mapping else name


def _range(column: statistics.Column) -> str:
    if column.mean_length is not None:
        return f"{column.shortest} to {column.longest} characters, mean {column.mean_length:.0f}"
    if column.mean is not None:
        return f"{column.lowest:g} to {column.highest:g}, mean {column.mean:.4g}"
    return ""
