"""A study of judges for people: `rich` tables for a terminal, a fragment of HTML for a page.

console.print(*calibration_tables(report))
page += calibration_fragment(report, title="laptop/prometheus, 2026-11-21")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from evaluators.judge.calibration import MEASURES, Calibration, JudgeChange, Repeats
from evaluators.judge.pairwise import PairwiseReport
from evaluators.stats.intervals import Interval
from evaluators.stats.ratings import Ratings

if TYPE_CHECKING:  # rich takes its time to import, and only the command line prints
    from rich.table import Table

_ABSENT = "-"


class Sheet(NamedTuple):
    """A table before it is written in any way: a title, a head, and rows of the head's length."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def interval(found: Interval | None, digits: int = 3) -> str:
    """`0.799 [0.733, 0.851]`; a dash where there is nothing."""
    if found is None or found.estimate is None:
        return _ABSENT
    text = f"{found.estimate:.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def calibration_sheets(report: Calibration) -> Iterator[Sheet]:
    """Agreement, confusion, ceiling, bias by length, category and model."""
    rows = [(MEASURES[name], interval(found)) for name, found in report.agreement.items()]
    rows.append(("longer answers (per 100 words)", interval(report.length_slope)))
    yield Sheet(
        f"Judge against people: {report.scored:,} of {report.items:,} answers scored",
        ("measure", "value [95% interval]"),
        rows,
    )
    rows = [
        row
        for who, found in (("the judge", report.itself), ("people", report.people))
        if found is not None
        for row in _repeats(who, found)
    ]
    if rows:
        yield Sheet("Agreement with oneself: the ceiling", ("measure", "value"), rows)
    if report.scores:
        columns = tuple(f"{score:g}" for score in report.scores)
        yield Sheet(
            "How often people (rows) and the judge (columns) gave each score",
            ("", *columns),
            [
                (name, *(f"{count:,}" for count in counts))
                for name, counts in zip(columns, report.confusion, strict=True)
            ],
        )
    for title, groups in (
        ("By model", report.models),
        ("By length", report.lengths),
        ("By category", report.categories),
    ):
        if groups:
            yield Sheet(
                title,
                ("", "n", "judge", "people", "judge - people", "Pearson"),
                [
                    (
                        group.name,
                        f"{group.judge.n:,}",
                        interval(group.judge, 2),
                        interval(group.people, 2),
                        interval(group.bias, 2),
                        interval(group.pearson, 2),
                    )
                    for group in groups
                ],
            )


def pairwise_sheets(report: PairwiseReport, names: Sequence[str] = ()) -> Iterator[Sheet]:
    """Win rates and what is wrong with them."""
    first = names[0] if names else "the first"
    rows = [
        ("pairs", f"{report.pairs:,}"),
        ("without a readable verdict", f"{report.unparsed:,}"),
        ("wins, ties, losses", f"{report.wins:,} / {report.ties:,} / {report.losses:,}"),
        ("win rate, ties half", interval(report.win_rate)),
        ("win rate at equal length", interval(report.length_controlled)),
        ("log odds per standard deviation of length", interval(report.length_slope, 2)),
        ("verdicts flipped by the order", interval(report.flip_rate)),
        ("verdicts for the answer shown first", interval(report.position_a)),
    ]
    if report.agreement is not None:
        rows.append(("says what people say, ties included", interval(report.agreement)))
    if report.accuracy is not None:
        rows.append(("accuracy where people decided", interval(report.accuracy)))
        rows.append(("the same, of one order only", interval(report.one_order)))
    yield Sheet(f"Both orders, from the side of {first}", ("measure", "value"), rows)


def board_sheets(board: Ratings) -> Iterator[Sheet]:
    """Ratings, and who won how much against whom."""
    names = tuple(board.ratings)
    yield Sheet(
        f"Bradley-Terry ratings over {board.games:,} games",
        ("", "rating [95% interval]", "games", "surely better than"),
        [
            (
                name,
                interval(found, 0),
                f"{found.n:,}",
                ", ".join(other for better, other in board.surely if better == name) or _ABSENT,
            )
            for name, found in board.ratings.items()
        ],
    )
    yield Sheet(
        "Share of the points of a row against a column",
        ("", *names),
        [
            (name, *(_ABSENT if share is None else f"{share:.0%}" for share in shares))
            for name, shares in zip(names, board.matrix, strict=True)
        ],
    )


def change_sheets(change: JudgeChange) -> Iterator[Sheet]:
    """Two judges, or one on two dates."""
    moved = change.difference
    rows = [(MEASURES[name], interval(found)) for name, found in change.agreement.items()]
    rows[-1] = ("mean of second - first", interval(change.agreement["bias"]))
    rows += [
        ("p-value of that difference", f"{moved.p_value:.4f}" if moved else _ABSENT),
        ("Pearson of the first with people", interval(change.pearson_first)),
        ("Pearson of the second with people", interval(change.pearson_second)),
    ]
    yield Sheet(f"Both scored {change.n:,} answers", ("measure", "second against first"), rows)


def table(sheet: Sheet) -> Table:
    """For a terminal."""
    from rich.table import Table  # noqa: PLC0415  (see TYPE_CHECKING above)
    from rich.text import Text  # noqa: PLC0415

    found = Table(title=sheet.title, title_justify="left")
    for number, name in enumerate(sheet.head):
        found.add_column(name, justify="left" if number == 0 else "right")
    for row in sheet.rows:
        # A name may look like markup.
        found.add_row(*map(Text, row))
    return found


def fragment(title: str, sheets: Sequence[Sheet], warnings: Sequence[str]) -> str:
    """For a page: a section with a table for each sheet, everything escaped."""
    parts = [f'<section class="judge-study">\n<h2>{escape(title)}</h2>']
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in warnings]
    for sheet in sheets:
        head = "".join(f"<th>{escape(name)}</th>" for name in sheet.head)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in sheet.rows
        )
        parts.append(
            f"<table>\n<caption>{escape(sheet.title)}</caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
        )
    return "\n".join([*parts, "</section>\n"])


def _repeats(who: str, found: Repeats) -> Iterator[tuple[str, str]]:
    yield f"{who}: Krippendorff's alpha over up to {found.most} scores", interval(found.alpha)
    yield f"{who}: Pearson of the first two scores", interval(found.pearson)
    yield f"{who}: all scores equal", interval(found.exact)
    yield f"{who}: mean standard deviation", interval(found.deviation)
