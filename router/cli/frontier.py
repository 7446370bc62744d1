"""`evalrouter frontier`: the targets of a route by quality, cost and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from router.cli.commands import (
    config_option,
    escape,
    json_option,
    out,
    print_json,
    print_table,
    with_services,
)
from router.cli.what_if import PER_THOUSAND, per_thousand, shown, shown_number
from router.config.loading import load
from router.loop.frontier import Frontier, FrontierRequest, FrontierTarget

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

_WIDTH, _HEIGHT = 60, 12


@click.command("frontier")
@click.argument("route")
@click.option(
    "--quality",
    default="errors",
    show_default=True,
    help="feedback:NAME, errors, shadow:OUTPUT, or the output of a run.",
)
@click.option("--since", help="30d, 12h, ISO 8601 or seconds since the epoch. Default: all.")
@click.option("--run", default="", help="The run. Default: the newest with the output.")
@config_option
@json_option
def frontier(
    route: str,
    *,
    quality: str,
    since: str | None,
    run: str,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Compare the targets of ROUTE by quality, cost and time, and say which are worth having."""
    request = FrontierRequest(route=route, quality=quality, since=since, run=run)

    async def read(services: Services) -> Frontier:
        return await services.frontiers.of(request)

    report: Frontier = with_services(load(config_path), read)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _print(report: Frontier) -> None:
    source = f"{report.source} {report.run}".strip()
    out.print(f"{escape(report.route)}: {escape(report.quality)} of {source}", highlight=False)
    names = (report.quality, PER_THOUSAND, "seconds", "samples")
    table = Table("", "target", *(Column(escape(name), justify="right") for name in names))
    for number, target in enumerate(report.targets):
        table.add_row(
            _letter(number),
            escape(target.target if target.configured else f"{target.target} (not in the route)"),
            shown(target.quality),
            shown(target.cost_usd, number=per_thousand),
            shown(target.seconds),
            f"{target.samples:,}",
        )
    print_table(table, empty="No target has a number yet.")
    if any(target.quality.low is not None for target in report.targets):
        out.print("In parentheses: 95% intervals.", highlight=False)
    for line in _plot(report):
        out.print(line, highlight=False, markup=False)
    is_alone = sum(target.on_frontier is not None for target in report.targets) == 1
    for number, target in enumerate(report.targets):
        verdict = _verdict(target, is_alone=is_alone)
        out.print(f"{_letter(number)}  {escape(verdict)}", highlight=False)
    for warning in report.warnings:
        out.print(f"• {escape(warning)}", highlight=False)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _verdict(target: FrontierTarget, *, is_alone: bool) -> str:
    if target.refused:
        return f"{target.target}: {target.refused}"
    if target.on_frontier is None:
        return f"{target.target}: not all is known of it"
    if is_alone:
        return f"{target.target}: no other could be judged, so there is nothing to compare it with"
    if target.on_frontier:
        return f"{target.target}: no other is better in all respects"
    established = [each.by for each in target.dominated_by if each.established]
    if established:
        return f"{target.target}: {', '.join(established)} is better in all respects, as is shown"
    seems = ", ".join(each.by for each in target.dominated_by)
    return f"{target.target}: {seems} seems better in all respects, which is not shown"


def _plot(report: Frontier) -> list[str]:
    """Return a picture of quality over cost, a letter for each target."""
    points = [
        (number, target.cost_usd.estimate, target.quality.estimate)
        for number, target in enumerate(report.targets)
        if target.on_frontier is not None
    ]
    known = [(n, x, y) for n, x, y in points if x is not None and y is not None]
    if len(known) < 2:
        return []
    columns = _places([x for _, x, _ in known], _WIDTH)
    rows = _places([y for _, _, y in known], _HEIGHT)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for (number, _, _), column, row in zip(known, columns, rows, strict=True):
        cell = grid[_HEIGHT - 1 - row][column]
        grid[_HEIGHT - 1 - row][column] = _letter(number) if cell == " " else "*"
    qualities, costs = [y for _, _, y in known], [x for _, x, _ in known]
    low, high = shown_number(min(qualities)), shown_number(max(qualities))
    lines = [f"{report.quality}: {low} to {high}, upwards"]
    lines += ["|" + "".join(row).rstrip() for row in grid]
    lines.append("+" + "-" * _WIDTH)
    low, high = per_thousand(min(costs)), per_thousand(max(costs))
    lines.append(f" {PER_THOUSAND}: {low} to {high}, to the right")
    return lines


def _places(values: Sequence[float], size: int) -> list[int]:
    """Return where values lie on a scale of so many places."""
    low, high = min(values), max(values)
    if math.isclose(low, high):
        return [size // 2] * len(values)
    return [round((value - low) / (high - low) * (size - 1)) for value in values]
