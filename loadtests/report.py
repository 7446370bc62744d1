"""Makes the table from the measurements.

    text = markdown(results, order, heading=..., notes=...)

`results` maps a contestant to its runs, a run to its measurements by name; the names are those of
`rows()`. A cell is the median over the runs, with the lowest and the highest behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

Run = dict[str, float]
Results = Mapping[str, Sequence[Run]]

OURS = "evalrouter"
# With a shadow and a rollout.
LOOP = "loop"
DIRECT = "direct"

# A cell without a measurement.
NONE = "-"


class Row(NamedTuple):
    """A line of the table: the measurement's name, how it is called, decimals."""

    key: str
    title: str
    decimals: int


def rows(rates: Sequence[int]) -> list[Row]:
    """Return the lines of the table, for these rates of the open loop."""
    latency: list[Row] = []
    for rate in rates:
        at = f"at {rate} req/s, ms"
        latency += [
            Row(f"p50_{rate}", f"latency p50 {at}", 2),
            Row(f"added_p50_{rate}", f"added latency p50 {at}", 2),
            Row(f"p99_{rate}", f"latency p99 {at}", 2),
            Row(f"added_p99_{rate}", f"added latency p99 {at}", 2),
        ]
    return [
        Row("per_second", "requests/s, 64 clients", 0),
        Row("cpu_request", "CPU per request, µs", 1),
        Row("busy", "share of its core used meanwhile, %", 0),
        *latency,
        Row("cpu_chunk", "CPU per relayed chunk, µs", 1),
        Row("reads", "reads that 100 chunks arrive in", 1),
        Row("first_byte", "time to first byte p50, ms", 2),
        Row("added_first_byte", "added time to first byte p50, ms", 2),
        Row("rss_idle", "resident memory idle, MB", 0),
        Row("rss_open", "resident memory with 1,000 open streams, MB", 0),
        Row("start", "start to first answer, s", 2),
    ]


def add_differences(results: Results, rates: Sequence[int]) -> None:
    """Add what each contestant adds to going directly, run by run."""
    pairs = [(f"p50_{rate}", f"added_p50_{rate}") for rate in rates]
    pairs += [(f"p99_{rate}", f"added_p99_{rate}") for rate in rates]
    pairs += [("first_byte", "added_first_byte")]
    for name, runs in results.items():
        if name == DIRECT:
            continue
        for run, direct in zip(runs, results[DIRECT], strict=True):
            for through, added in pairs:
                if through in run and through in direct:
                    run[added] = run[through] - direct[through]


def value(results: Results, name: str, key: str) -> float | None:
    """Return the median of a measurement; None when it was not made in every run."""
    runs = results.get(name, ())
    values = [run[key] for run in runs if key in run]
    return median(values) if values and len(values) == len(runs) else None


def _cell(results: Results, name: str, row: Row) -> str:
    middle = value(results, name, row.key)
    if middle is None:
        return NONE
    every = [run[row.key] for run in results[name]]
    shown = f"{middle:,.{row.decimals}f}"
    if len(every) == 1:
        return shown
    return f"{shown} ({min(every):,.{row.decimals}f} to {max(every):,.{row.decimals}f})"


class Aim(NamedTuple):
    """A value that is aimed at.

    Attributes:
        what: the quantity.
        measured: its value.
        bound: the aim in words.
        met: whether the value is within it.
    """

    what: str
    measured: float
    bound: str
    met: bool


def aims(results: Results) -> list[Aim]:
    """Return the aims whose contestants were measured."""
    reached: list[Aim] = []

    def no_more_than(what: str, number: float | None, limit: float, unit: str = "times") -> None:
        if number is not None:
            reached.append(Aim(what, number, f"at most {limit:g} {unit}", number <= limit))

    def no_less_than(what: str, number: float | None, limit: float) -> None:
        if number is not None:
            reached.append(Aim(what, number, f"at least {limit:g} times", number >= limit))

    no_more_than("CPU per request, to the floor's", _ratio(results, "cpu_request", "floor"), 1.4)
    earlier = _paired_ratio(results, OURS, "before", "cpu_request")
    no_more_than("CPU per request, to the earlier version's", earlier, 1.05)
    no_more_than(
        "CPU per request with a shadow and a rollout, to that without",
        _paired_ratio(results, LOOP, OURS, "cpu_request"),
        1.02,
    )
    no_more_than(
        "latency p99 at 200 req/s with a shadow and a rollout, to that without",
        _paired_ratio(results, LOOP, OURS, "p99_200"),
        1.25,
    )
    no_less_than("requests/s, to LiteLLM's", _ratio(results, "per_second", "litellm"), 25)
    no_less_than("requests/s, to Portkey's", _ratio(results, "per_second", "portkey"), 3.5)
    no_more_than("added latency p50 at 200 req/s", value(results, OURS, "added_p50_200"), 1, "ms")
    no_more_than("CPU per chunk, to the floor's", _ratio(results, "cpu_chunk", "floor"), 1.3)
    no_more_than("memory with 1,000 open streams", value(results, OURS, "rss_open"), 200, "MB")
    return reached


def _ratio(results: Results, key: str, other: str) -> float | None:
    ours, theirs = value(results, OURS, key), value(results, other, key)
    return None if ours is None or not theirs else ours / theirs


def _paired_ratio(results: Results, name: str, other: str, key: str) -> float | None:
    """Return the median of the runs' ratios: two versions of a program differ by less than runs."""
    pairs = zip(results.get(name, ()), results.get(other, ()), strict=False)
    ratios = [one[key] / two[key] for one, two in pairs if key in one and key in two]
    return median(ratios) if ratios else None


def markdown(results: Results, *, rates: Sequence[int], heading: str, notes: Sequence[str]) -> str:
    """Return the whole report.

    Args:
        results: with the differences added.
        rates: of the open loop.
        heading: what stands above the table: command, versions, machine.
        notes: what stands below it: failures, and rates that were not sustained.
    """
    names = list(results)
    lines = [heading, "", "## Measured", ""]
    lines.append(f"| | {' | '.join(names)} |")
    lines.append(f"|---|{'---:|' * len(names)}")
    for row in rows(rates):
        cells = [_cell(results, name, row) for name in names]
        if set(cells) != {NONE}:
            lines.append(f"| {row.title} | {' | '.join(cells)} |")
    reached = aims(results)
    if reached:
        lines += ["", "## evalrouter and its aims", ""]
        lines += ["| | measured | aim | met |", "|---|---:|---|---|"]
        lines += [
            f"| {aim.what} | {aim.measured:.2f} | {aim.bound} | {'yes' if aim.met else '**no**'} |"
            for aim in reached
        ]
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join([*lines, ""])
