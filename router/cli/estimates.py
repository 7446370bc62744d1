"""Prints estimates of runs on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Column, Table

from evaluators.reports.report import dollars
from router.cli.commands import counted, escape, out, print_table
from router.evals.estimate import Detectable, Estimate, TargetEstimate

UNKNOWN = "unknown"


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
        table.add_row(*(escape(cell) for cell in _row(target)))
    if len(estimate.targets) > 1:
        cost = _money(estimate.cost_usd, is_limit=estimate.at_most)
        tokens = f"{_count(estimate.prompt_tokens)} / {_count(estimate.completion_tokens)}"
        table.add_section()
        table.add_row("all", str(estimate.calls), tokens, cost, _time(estimate.seconds))
    print_table(table)
    alike: dict[str, list[str]] = {}
    for target in estimate.targets:
        sources = f"{_pace(target)}; {target.tokens_from}; times: {target.speed_from}"
        alike.setdefault(sources, []).append(_name(target))
    for sources, names in alike.items():
        out.print(f"  {escape(', '.join(names))}: {escape(sources)}", highlight=False)
    if estimate.detectable:
        out.print(_promise(estimate.detectable), highlight=False)
        table = _table("output", "smallest difference")
        table.add_column("from", overflow="fold")
        for effect in estimate.detectable:
            table.add_row(effect.output, _size(effect), escape(effect.sd_from))
        print_table(table)
    for note in estimate.notes:
        out.print(f"[yellow]note[/]: {escape(note)}", highlight=False)


def _table(*columns: str) -> Table:
    first, *rest = columns
    right = (Column(name, justify="right", overflow="fold") for name in rest)
    return Table(Column(first, overflow="fold"), *right, box=SIMPLE)


def _name(row: TargetEstimate) -> str:
    return row.route if row.target == row.route else f"{row.route} → {row.target}"


def _row(row: TargetEstimate) -> list[str]:
    completion = _count(row.completion_tokens)
    if row.at_most and row.completion_tokens is not None:
        completion = f"≤ {completion}"
    return [
        _name(row),
        f"{row.calls} + {row.cached} cached" if row.cached else str(row.calls),
        f"{_count(row.prompt_tokens)} / {completion}",
        _money(row.cost_usd, is_limit=row.at_most),
        _time(row.seconds),
    ]


def _pace(row: TargetEstimate) -> str:
    if row.total_s is None:
        return f"time of an answer {UNKNOWN}"
    first = "" if row.first_byte_s is None else f", first byte after {_time(row.first_byte_s)}"
    return f"an answer in {_time(row.total_s)}{first}"


def _promise(effects: Sequence[Detectable]) -> str:
    comparisons = max(effect.comparisons for effect in effects)
    corrected = f", corrected for {comparisons:,} comparisons" if comparisons > 1 else ""
    if any(effect.after_primary for effect in effects):
        corrected += " (all but the primary output: if that one shows a difference)"
    return f"What the run's verdicts would show with 80% probability{corrected}:"


def _size(effect: Detectable) -> str:
    if effect.difference is None:
        return UNKNOWN
    # The worst case's spread is the score's whole range: a difference cannot be larger.
    if effect.worst_case and effect.sd is not None and effect.difference > effect.sd:
        return "none: too few samples"
    return f"{effect.difference:.3g}"


def _count(tokens: int | None) -> str:
    return UNKNOWN if tokens is None else f"{tokens:,}"


def _money(amount: float | None, *, is_limit: bool) -> str:
    if amount is None:
        return UNKNOWN
    return f"≤ {dollars(amount)}" if is_limit else dollars(amount)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 0.001:
        return "<1 ms"
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
