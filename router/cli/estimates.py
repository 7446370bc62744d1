"""How an estimate is shown on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Column, Table

from evaluators.reports.report import dollars
from router.cli.commands import escape, out
from router.evals.estimate import Detectable, Estimate, TargetEstimate

UNKNOWN = "unknown"


def print_estimate(found: Estimate) -> None:
    """Print what a run will take; what is unknown says so."""
    looked_at = "" if found.looked_at == found.samples else f", {found.looked_at} looked at"
    out.print(
        f"{escape(found.dataset)}: {found.samples} samples{looked_at}, {found.cells} answers, "
        f"{found.cached} of them from the run cache; nothing was sent",
        highlight=False,
    )
    table = _table("route", "calls", "tokens in / out", "cost", "time")
    for one in found.targets:
        table.add_row(*(escape(cell) for cell in _row(one)))
    if len(found.targets) > 1:
        cost = _money(found.cost_usd, at_most=found.at_most)
        tokens = f"{_count(found.prompt_tokens)} / {_count(found.completion_tokens)}"
        table.add_section()
        table.add_row("all", str(found.calls), tokens, cost, _time(found.seconds))
    out.print(table)
    for one in found.targets:
        out.print(
            f"  {escape(_name(one))}: {_pace(one)}; {one.tokens_from}; times: {one.speed_from}",
            highlight=False,
        )
    if found.detectable:
        out.print("What the run would find with 80 % probability:", highlight=False)
        table = _table("output", "smallest difference")
        table.add_column("from", overflow="fold")
        for effect in found.detectable:
            table.add_row(effect.output, _size(effect), escape(effect.sd_from))
        out.print(table)
    for note in found.notes:
        out.print(f"[yellow]note[/]: {escape(note)}", highlight=False)


def _table(*columns: str) -> Table:
    first, *rest = columns
    right = (Column(name, justify="right", overflow="fold") for name in rest)
    return Table(Column(first, overflow="fold"), *right, box=SIMPLE)


def _name(one: TargetEstimate) -> str:
    return one.route if one.target == one.route else f"{one.route} → {one.target}"


def _row(one: TargetEstimate) -> list[str]:
    completion = _count(one.completion_tokens)
    if one.at_most and one.completion_tokens is not None:
        completion = f"≤ {completion}"
    return [
        _name(one),
        f"{one.calls} + {one.cached} cached" if one.cached else str(one.calls),
        f"{_count(one.prompt_tokens)} / {completion}",
        _money(one.cost_usd, at_most=one.at_most),
        _time(one.seconds),
    ]


def _pace(one: TargetEstimate) -> str:
    if one.total_s is None:
        return f"time of an answer {UNKNOWN}"
    first = "" if one.first_byte_s is None else f", first byte after {_time(one.first_byte_s)}"
    return f"an answer in {_time(one.total_s)}{first}"


def _size(effect: Detectable) -> str:
    if effect.difference is None:
        return UNKNOWN
    # The worst case's spread is the score's whole range: a larger difference there is not.
    if effect.worst_case and effect.sd is not None and effect.difference > effect.sd:
        return "none: too few samples"
    return f"{effect.difference:.3g}"


def _count(tokens: int | None) -> str:
    return UNKNOWN if tokens is None else f"{tokens:,}"


def _money(amount: float | None, *, at_most: bool) -> str:
    if amount is None:
        return UNKNOWN
    return f"≤ {dollars(amount)}" if at_most else dollars(amount)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 0.001:
        return "<1 ms"
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
