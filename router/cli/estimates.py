"""How an estimate is shown on a terminal."""

from __future__ import annotations

from rich.table import Column, Table

from router.cli.border import escape, out
from router.estimate import Estimate, TargetEstimate

UNKNOWN = "unknown"


def print_estimate(found: Estimate) -> None:
    """Print what a run will take; what is unknown says so."""
    looked_at = "" if found.looked_at == found.samples else f", {found.looked_at} looked at"
    out.print(
        f"{escape(found.dataset)}: {found.samples} samples{looked_at}, {found.cells} answers, "
        f"{found.cached} of them from the run cache; nothing was sent",
        highlight=False,
    )
    table = Table(
        "route",
        "target",
        *(Column(name, justify="right") for name in ("calls", "cached", "prompt tokens")),
        *(Column(name, justify="right") for name in ("answer tokens", "USD", "time")),
        *(Column(name, justify="right") for name in ("first byte", "one answer")),
    )
    for one in found.targets:
        table.add_row(*(escape(cell) for cell in _row(one)))
    if len(found.targets) > 1:
        bound = "≤ " if found.at_most else ""
        cost = _money(found.cost_usd)
        table.add_section()
        table.add_row(
            "all",
            "",
            str(found.calls),
            str(found.cached),
            _count(found.prompt_tokens),
            _count(found.completion_tokens),
            cost if found.cost_usd is None else bound + cost,
            _time(found.seconds),
        )
    out.print(table)
    for one in found.targets:
        out.print(
            f"  {escape(one.target)}: {one.tokens_from}; times: {one.speed_from}", highlight=False
        )
    for effect in found.detectable:
        size = UNKNOWN if effect.difference is None else f"{effect.difference:.3g}"
        out.print(
            f"smallest difference in {effect.output} that shows with 80 % probability: {size} "
            f"({effect.sd_from})",
            highlight=False,
        )
    for note in found.notes:
        out.print(f"[yellow]note[/]: {escape(note)}", highlight=False)


def _row(one: TargetEstimate) -> list[str]:
    bound = "≤ " if one.at_most else ""
    completion, cost = _count(one.completion_tokens), _money(one.cost_usd)
    return [
        one.route,
        "" if one.target == one.route else one.target,
        str(one.calls),
        str(one.cached),
        _count(one.prompt_tokens),
        completion if one.completion_tokens is None else bound + completion,
        cost if one.cost_usd is None else bound + cost,
        _time(one.seconds),
        _time(one.first_byte_s),
        _time(one.total_s),
    ]


def _count(tokens: int | None) -> str:
    return UNKNOWN if tokens is None else f"{tokens:,}"


def _money(dollars: float | None) -> str:
    if dollars is None:
        return UNKNOWN
    return f"{dollars:.2f}" if dollars >= 1 or not dollars else f"{dollars:.2g}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
