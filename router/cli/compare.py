"""`evalrouter eval compare`: compare two runs, or the routes of one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from evaluators.reports.compare import Comparisons
from evaluators.reports.compare_table import to_compare_table
from router.cli.commands import (
    config_option,
    err,
    escape,
    json_option,
    out,
    print_json,
    with_services,
)
from router.cli.completion import complete_runs
from router.config.loading import load
from router.evals.compare import ComparisonRequest, compare_runs, parse_margins

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services


@click.command("compare")
@click.argument("run_a", shell_complete=complete_runs)
@click.argument("run_b", required=False, shell_complete=complete_runs)
@click.option("--route-a", help="The route of RUN_A. Default: every route that both have.")
@click.option("--route-b", help="The route of RUN_B, or of RUN_A without one.")
@click.option(
    "--join",
    type=click.Choice(["id", "position"]),
    help="How to pair the samples of different datasets; without it they are refused.",
)
@click.option(
    "--movers",
    type=click.IntRange(0, 1000),
    default=5,
    show_default=True,
    help="For each output, name so many of the samples that differ most.",
)
@click.option(
    "--margin",
    "margins",
    multiple=True,
    metavar="OUTPUT=NUMBER",
    help="The largest difference of an output that makes no difference to you: less is "
    "`equivalent`. Repeatable. Default: the margins of RUN_A's document.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["worse", "different"]),
    help="Exit with code 1 if any output is shown to be worse (or different at all), or was not "
    "measured.",
)
@config_option
@json_option
def eval_compare(  # noqa: PLR0917 - one parameter for each option
    run_a: str,
    run_b: str | None,
    route_a: str | None,
    route_b: str | None,
    join: Literal["id", "position"] | None,
    movers: int,
    margins: tuple[str, ...],
    fail_on: Literal["worse", "different"] | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Compare two runs, or the routes of one, sample by sample."""
    request = ComparisonRequest(
        route_a=route_a,
        route_b=route_b,
        join=join,
        movers=movers,
        margins=parse_margins(margins),
    )
    names = [run_a] if run_b is None else [run_a, run_b]

    async def compare(services: Services) -> Comparisons:
        return await compare_runs(services.runs, services.store, names, request)

    comparisons = with_services(load(config_path), compare)
    if as_json:
        print_json(comparisons)
    else:
        out.print(to_compare_table(comparisons, width=out.width))
    if fail_on is not None and (failures := list(_failures(comparisons, fail_on))):
        for failure in failures:
            err.print(escape(failure), highlight=False)
        sys.exit(1)


def _failures(comparisons: Comparisons, fail_on: Literal["worse", "different"]) -> Iterator[str]:
    """Say which outputs fail: a comparison that could not be made shows nothing to be well."""
    directions = {output.name: output.higher_is_better for output in comparisons.outputs}
    refused = {"worse"} if fail_on == "worse" else {"worse", "better"}
    for contrast in comparisons.contrasts:
        if directions[contrast.output] is None:
            continue
        name = f"{contrast.output} of {contrast.a.route}"
        if contrast.verdict in refused:
            yield f"{name} is {contrast.verdict} in {contrast.a.run} than in {contrast.b.run}"
        elif contrast.p_value is None:
            yield f"{name} was not measured: no verdict"
