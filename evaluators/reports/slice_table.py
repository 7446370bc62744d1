"""Slices of a run's score for people: `rich` tables that read well as plain text.

console.print(to_slice_table(report, width=console.width))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from evaluators.reports.cells import (
    ABSENT,
    MARKS,
    STYLES,
    caveats,
    difference,
    empty_table,
    heading,
    output_title,
    plain,
    plural,
    printable,
)
from evaluators.reports.scores import OutputInfo, decimals
from evaluators.reports.slices import Slice, SliceReport, SliceScore

if TYPE_CHECKING:  # rich takes its time to import, and only the command line prints
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

_NAME_WIDTH = 32  # longer names are folded
_COLUMN_WIDTH = 28


def to_slice_table(report: SliceReport, *, width: int = 100) -> Group:
    """Draw the scores of each slice, the differences from the baseline, and caveats.

    Args:
        report: from `sliced`.
        width: columns to fit; many routes are split over several tables.
    """
    from rich.console import Group  # noqa: PLC0415  (see TYPE_CHECKING above)

    longest = max((len(slice_name(part)) for part in report.slices), default=0)
    at_once = max(1, (width - min(longest, _NAME_WIDTH) - 10) // _COLUMN_WIDTH)
    parts: list[RenderableType] = []
    parts += _scores(report, at_once)
    parts += _differences(report, at_once)
    parts += caveats(report.warnings)
    return Group(*parts)


def slice_name(part: Slice) -> str:
    """Return what readers call a slice; a text of nothing but white space is named as such."""
    return part.name if part.kind != "value" or part.name.strip() else "(blank)"


def slice_score(output: OutputInfo, score: SliceScore) -> str:
    """Format a score with its interval."""
    if score.estimate is None:
        return ABSENT
    places = decimals(output, score.estimate, score.low, score.high)
    text = f"{score.estimate:,.{places}f}"
    if score.low is not None and score.high is not None:
        text += f" [{score.low:,.{places}f}, {score.high:,.{places}f}]"
    return text


def _scores(report: SliceReport, at_once: int) -> Iterable[RenderableType]:
    counted = f"{report.samples:,} {plural('sample', report.samples)}"
    yield heading(
        f"{output_title(report.output)} by {printable(report.column)}, {counted}",
        "[95% interval]; * few samples; in brackets, how many have a score where not all have",
    )
    routes = [score.route for score in report.whole]
    for start in range(0, len(routes), at_once):
        table = _table(routes[start : start + at_once])
        rows = [("all", report.samples, report.whole), *_rows(report.slices)]
        for name, samples, scores in rows:
            cells = (
                _score_cell(report.output, score, samples)
                for score in scores[start : start + at_once]
            )
            table.add_row(plain(name, "bold" if name == "all" else ""), f"{samples:,}", *cells)
        yield table
        yield plain("")


def _rows(slices: Sequence[Slice]) -> list[tuple[str, int, tuple[SliceScore, ...]]]:
    return [(slice_name(part), part.samples, part.scores) for part in slices]


def _table(routes: Sequence[str]) -> Table:
    table = empty_table()
    table.add_column("slice", overflow="fold", max_width=_NAME_WIDTH)
    table.add_column("samples", justify="right", no_wrap=True)
    for route in routes:
        table.add_column(printable(route), justify="right", overflow="fold")
    return table


def _score_cell(output: OutputInfo, score: SliceScore, samples: int) -> Text:
    text = plain(slice_score(output, score))
    if score.few:
        text.append(" *", "dim")
    if score.n != samples:
        text.append(f" ({score.n:,})", "dim")
    return text


def _differences(report: SliceReport, at_once: int) -> Iterable[RenderableType]:
    if not any(part.comparisons for part in report.slices):
        return
    yield heading(
        f"Differences from {report.baseline}",
        "sample by sample [95% interval]; ▲ better / ▼ worse (p < 0.05, corrected for all slices)",
    )
    routes = [compared.route for compared in report.slices[0].comparisons]
    for start in range(0, len(routes), at_once):
        table = _table(routes[start : start + at_once])
        for part in report.slices:
            cells = []
            for compared in part.comparisons[start : start + at_once]:
                text = plain(difference(report.output, compared))
                text.append(f" {MARKS[compared.verdict]}", STYLES[compared.verdict])
                cells.append(text)
            table.add_row(plain(slice_name(part)), f"{part.samples:,}", *cells)
        yield table
        yield plain("")
