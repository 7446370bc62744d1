"""Prints estimates of runs on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Column, Table

from router.cli.commands import counted, escape, out, print_table
from router.evals import estimate_text
from router.evals.estimate import Estimate


def print_estimate(estimate: Estimate) -> None:
    """Print what a run will take; what is not known is shown as unknown."""
    examined = "" if estimate.looked_at == estimate.samples else f", {estimate.looked_at} examined"
    out.print(
        f"{escape(estimate.dataset)}: {counted(estimate.samples, 'sample')}{examined}, "
        f"{counted(estimate.cells, 'answer')}, {estimate.cached} of them from the run cache; "
        "nothing was sent",
        highlight=False,
    )
    table = _table("route", "calls", "tokens in / out", "cost", "time")
    for target in estimate.targets:
        table.add_row(*map(escape, estimate_text.in_words(target)))
    if len(estimate.targets) > 1:
        cost = estimate_text.money(estimate.cost_usd, is_limit=estimate.at_most)
        counts = (estimate.prompt_tokens, estimate.completion_tokens)
        tokens = " / ".join(map(estimate_text.count, counts))
        table.add_section()
        table.add_row("all", str(estimate.calls), tokens, cost, estimate_text.total_time(estimate))
    print_table(table)
    for source, names in estimate_text.sources(estimate.targets).items():
        out.print(f"  {escape(', '.join(names))}: {escape(source)}", highlight=False)
    if estimate.detectable:
        out.print(estimate_text.promise(estimate), highlight=False)
        table = _table("output", "smallest difference")
        table.add_column("from", overflow="fold")
        for effect in estimate.detectable:
            table.add_row(effect.output, estimate_text.size(effect), escape(effect.sd_from))
        print_table(table)
    for note in estimate.notes:
        out.print(f"[yellow]note[/]: {escape(note)}", highlight=False)


def _table(*columns: str) -> Table:
    first, *rest = columns
    right = (Column(name, justify="right", overflow="fold") for name in rest)
    return Table(Column(first, overflow="fold"), *right, box=SIMPLE)
