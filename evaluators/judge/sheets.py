"""Shows a study of judges to people: `rich` tables on a terminal, a fragment of HTML on a page.

sheets = list(calibration_sheets(report))
for sheet in sheets:
    console.print(table(sheet))
page += fragment("laptop/prometheus, 2026-11-21", sheets, report.warnings)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader

from evaluators.judge.calibration import MEASURES, Calibration, Group, JudgeChange, Repeats
from evaluators.judge.pairwise import PairwiseReport
from evaluators.stats.intervals import Interval
from evaluators.stats.ratings import Ratings
from evaluators.stats.style_ratings import StyleControl

if TYPE_CHECKING:  # rich takes its time to import, and only the command line prints
    from rich.table import Table

_ABSENT = "-"
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    keep_trailing_newline=True,
)


class Sheet(NamedTuple):
    """A table of texts, for whatever shows it.

    Attributes:
        title: what the table says.
        head: the names of its columns.
        rows: each as long as the head.
    """

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def interval(measured: Interval | None, digits: int = 3) -> str:
    """Return the text of an interval, as in `0.799 [0.733, 0.851]`, or a dash without a number."""
    if measured is None or measured.estimate is None:
        return _ABSENT
    text = f"{measured.estimate:.{digits}f}"
    if measured.low is None or measured.high is None:
        return text
    return f"{text} [{measured.low:.{digits}f}, {measured.high:.{digits}f}]"


def calibration_sheets(report: Calibration) -> Iterator[Sheet]:
    """Yield the tables of agreement, ceiling and confusion, and of each kind of group."""
    yield _agreement_sheet(report)
    repeated = [
        row
        for who, repeats in (("the judge", report.itself), ("people", report.people))
        if repeats is not None
        for row in _repeat_rows(who, repeats)
    ]
    if report.ceiling is not None:
        repeated += [
            ("highest correlation of one score of each", f"{report.ceiling.single:.3f}"),
            ("highest correlation of the means", f"{report.ceiling.means:.3f}"),
        ]
    if repeated:
        yield Sheet("Agreement with oneself, and the ceiling", ("measure", "value"), repeated)
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
            yield Sheet(title, _GROUP_HEAD, [_group_row(group) for group in groups])


def _agreement_sheet(report: Calibration) -> Sheet:
    scored = report.scored
    rows = [
        (
            MEASURES[name],
            interval(measured),
            f"{measured.n:,} pairs" if name == "pairwise" else _counted(measured.n, scored),
        )
        for name, measured in report.agreement.items()
    ]
    length = report.length_slope
    name = "100 words more, people's scores equal"
    rows.append((name, interval(length), _counted(length.n, scored)))
    if report.people_unparsed is not None:
        for name, mean, answers in (
            ("people's mean of the answers scored", report.people_parsed, scored),
            (
                "people's mean of the answers without a score",
                report.people_unparsed,
                report.items - scored,
            ),
        ):
            rows.append((name, interval(mean), _counted(mean.n, answers) if mean else _ABSENT))
    return Sheet(
        f"Judge against people: {report.scored:,} of {report.items:,} answers scored",
        ("measure", "value [95% interval]", "over"),
        rows,
    )


def _counted(n: int, answers: int) -> str:
    """Say what an interval is over: it counts answers, or the questions that several belong to."""
    return f"{n:,} {'questions' if n < answers else 'answers'}"


_GROUP_HEAD = (
    "",
    "answers",
    "judge",
    "people",
    "judge - people",
    "more than others scored the same",
    "p (BH)",
    "Pearson",
)


def _group_row(group: Group) -> tuple[str, ...]:
    return (
        group.name,
        f"{group.answers or group.judge.n:,}",
        interval(group.judge, 2),
        interval(group.people, 2),
        interval(group.bias, 2),
        interval(group.excess, 2),
        _ABSENT if group.p_value is None else f"{group.p_value:.3f}",
        interval(group.pearson, 2),
    )


def pairwise_sheets(report: PairwiseReport, names: Sequence[str] = ()) -> Iterator[Sheet]:
    """Yield the table of win rates, and of what may be wrong with them."""
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


def board_sheets(board: Ratings, style: StyleControl | None = None) -> Iterator[Sheet]:
    """Yield the tables of ratings, of the effects of style, and of the points of each pair."""
    names = tuple(board.ratings)
    yield Sheet(
        f"Bradley-Terry ratings over {board.games:,} games",
        ("", "rating [95% interval]", "at equal style", "games", "surely better than"),
        [
            (
                name,
                interval(rating, 0),
                interval(style.ratings.get(name) if style else None, 0),
                f"{rating.n:,}",
                ", ".join(other for better, other in board.surely if better == name) or _ABSENT,
            )
            for name, rating in board.ratings.items()
        ],
    )
    if style is not None:
        yield Sheet(
            "What one standard deviation more is worth",
            ("", "rating points [95% interval]"),
            [(name, interval(effect, 0)) for name, effect in style.effects.items()],
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
    """Yield the table that compares two judges, or one judge on two dates."""
    moved = change.difference
    rows = [(MEASURES[name], interval(measured)) for name, measured in change.agreement.items()]
    rows[-1] = ("mean of second - first", interval(change.agreement["bias"]))
    rows += [
        ("p-value of that difference", f"{moved.p_value:.4f}" if moved else _ABSENT),
        ("Pearson of the first with people", interval(change.pearson_first)),
        ("Pearson of the second with people", interval(change.pearson_second)),
    ]
    yield Sheet(f"Both scored {change.n:,} answers", ("measure", "second against first"), rows)


def table(sheet: Sheet) -> Table:
    """Return the sheet as a table for a terminal."""
    from rich.table import Table  # noqa: PLC0415  (see TYPE_CHECKING above)
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(title=sheet.title, title_justify="left")
    for number, name in enumerate(sheet.head):
        drawn.add_column(name, justify="left" if number == 0 else "right")
    for row in sheet.rows:
        # A name may look like markup.
        drawn.add_row(*map(Text, row))
    return drawn


def fragment(title: str, sheets: Sequence[Sheet], warnings: Sequence[str]) -> str:
    """Return a section of HTML with a table for each sheet; everything in it is escaped."""
    template = _TEMPLATES.get_template("study.html")
    return template.render(title=title, sheets=sheets, warnings=warnings)


def _repeat_rows(who: str, repeats: Repeats) -> Iterator[tuple[str, str]]:
    yield f"{who}: Krippendorff's alpha over up to {repeats.most} scores", interval(repeats.alpha)
    yield f"{who}: Pearson of the first two scores", interval(repeats.pearson)
    yield f"{who}: all scores equal", interval(repeats.exact)
    yield f"{who}: mean standard deviation", interval(repeats.deviation)
    if repeats.icc_single is not None:
        yield f"{who}: ICC(1,1), of one score", interval(repeats.icc_single)
        yield f"{who}: ICC(1,k), of the mean of {repeats.k:.3g}", interval(repeats.icc_mean)
