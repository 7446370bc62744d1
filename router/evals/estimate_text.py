"""What estimates of runs say in words: the same on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evaluators.reports.report import dollars
from router.evals.estimate import Detectable, Estimate, TargetEstimate

UNKNOWN = "unknown"


class EstimateRow(NamedTuple):
    """What one target of a route would take, in words."""

    name: str
    calls: str
    tokens: str
    cost: str
    time: str


def in_words(row: TargetEstimate) -> EstimateRow:
    """Return what a target would take, as the cells of a table."""
    return EstimateRow(
        name(row),
        calls(row),
        tokens(row),
        money(row.cost_usd, is_limit=row.at_most),
        time(row.seconds),
    )


def promise(estimate: Estimate) -> str:
    """Return what the smallest differences of a run are, as a heading."""
    effects = estimate.detectable
    comparisons = max(effect.comparisons for effect in effects)
    corrected = f", corrected for {comparisons:,} comparisons" if comparisons > 1 else ""
    if any(effect.after_primary for effect in effects):
        corrected += " (all but the primary output: if that one shows a difference)"
    if estimate.baseline is None:
        return (
            "No baseline is named, so the run tests no differences. With one, it would show these "
            f"with 80% probability{corrected}:"
        )
    return f"What the run's verdicts would show with 80% probability{corrected}:"


def size(effect: Detectable) -> str:
    """Return the smallest difference that a run would show."""
    if effect.difference is None:
        return UNKNOWN
    # The worst case's spread is the score's whole range: a difference cannot be larger.
    if effect.worst_case and effect.sd is not None and effect.difference > effect.sd:
        return "none: too few samples"
    return f"{'at worst ' if effect.worst_case else ''}{effect.difference:.3g}"


def calls(row: TargetEstimate) -> str:
    """Return how many requests a target gets, and how many answers need none."""
    return f"{row.calls:,} + {row.cached:,} cached" if row.cached else f"{row.calls:,}"


def tokens(row: TargetEstimate) -> str:
    """Return the tokens of a target's requests and answers."""
    completion = count(row.completion_tokens)
    if row.at_most and row.completion_tokens is not None:
        completion = f"≤ {completion}"
    return f"{count(row.prompt_tokens)} / {completion}"


def pace(row: TargetEstimate) -> str:
    """Return how fast a target answers."""
    if row.total_s is None:
        return f"time of an answer {UNKNOWN}"
    first = "" if row.first_byte_s is None else f", first byte after {time(row.first_byte_s)}"
    return f"an answer in {time(row.total_s)}{first}"


def sources(rows: Sequence[TargetEstimate]) -> dict[str, list[str]]:
    """Return where the numbers are from, each with the names of the rows that have them so."""
    alike: dict[str, list[str]] = {}
    for row in rows:
        source = f"{pace(row)}; {row.tokens_from}; times: {row.speed_from}"
        alike.setdefault(source, []).append(name(row))
    return alike


def name(row: TargetEstimate) -> str:
    """Return a route with the target that it has."""
    return row.route if row.target == row.route else f"{row.route} → {row.target}"


def count(number: int | None) -> str:
    """Return a number of tokens."""
    return UNKNOWN if number is None else f"{number:,}"


def money(amount: float | None, *, is_limit: bool) -> str:
    """Return US dollars, or the most that they can be."""
    if amount is None:
        return UNKNOWN
    return f"≤ {dollars(amount)}" if is_limit else dollars(amount)


def total_time(estimate: Estimate) -> str:
    """Return the time of a run; where it is not known of some targets, the least that it is."""
    known = [row.seconds for row in estimate.targets if row.seconds]
    if estimate.seconds is None and known:
        return f"at least {time(max(known))}"
    return time(estimate.seconds)


def time(seconds: float | None) -> str:
    """Return a time in the unit that suits it."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.001:
        return "<1 ms"
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
