"""What all plots share: the figure with its text and table, and the elements that are drawn.

    drawing = Drawing(height=100)
    drawing.line(10, 50, 350, 50, "axis")
    drawing.mark("circle", 40, 50, "point", hint="0.41")
    plot = Plot(title="Scores", description="a: 0.41.", svg=drawing.svg("Scores", "a: 0.41."),
                columns=("route", "score"), rows=(("a", "0.41"),))

Coordinates are in units of which a plot is WIDTH wide; the page decides how large a unit is.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal, TypeVar

import msgspec
import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from evaluators.reports.cells import ABSENT, printable
from providers.shortening import shortened

WIDTH = 360.0
TEXT_SIZE = 11.0
"""The size of text in `plots.css`, in the plot's units."""
MAX_LABEL = 200
"""Characters of a name that tables and hints have; a plot has what fits."""
MAX_TABLE_ROWS = 1000
MAX_SENTENCES = 12
"""So many things are described one by one; the table has the others."""

# Nothing that is measured is larger or nearer to 0; with such numbers sums and quotients overflow.
_LARGEST, _SMALLEST = 1e300, 1e-290
_NARROW, _BROAD = frozenset("iljtfrI.,:;|!'()[] "), frozenset("mwMW%@—…+=\u2212")

Shape = Literal["circle", "square", "diamond", "up", "down", "cross"]
Anchor = Literal["start", "middle", "end"]
_Item = TypeVar("_Item")


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A plot, and what it shows in words and in numbers.

    Attributes:
        title: what is plotted.
        description: the plot's numbers in sentences, for who cannot see it.
        svg: the picture.
        columns, rows: the same numbers as a table.
        left_out: rows that the table lacks, because they are too many.
    """

    title: str
    description: str
    svg: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0

    def __html__(self) -> str:
        """Return the figure as HTML: the title, the picture, and the table behind a summary."""
        head = Markup("").join(map(Markup('<th scope="col">{}</th>').format, self.columns))
        body = Markup("").join(
            Markup('<tr><th scope="row">{}</th>{}</tr>').format(
                row[0], Markup("").join(map(Markup("<td>{}</td>").format, row[1:]))
            )
            for row in self.rows
        )
        rest = (
            Markup("<p>{:,} more rows are not shown.</p>").format(self.left_out)
            if self.left_out
            else ""
        )
        numbers = Markup(
            '<details class="plot-numbers"><summary>Numbers</summary>'
            '<div class="plot-table" tabindex="0" role="region" aria-label="Numbers: {}">'
            "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>{}</details>"
        ).format(self.title, head, body, rest)
        return Markup('<figure class="plot"><figcaption>{}</figcaption>{}{}</figure>').format(
            self.title, self.svg, numbers if self.rows else ""
        )


def plot(
    drawing: Drawing,
    title: str,
    sentences: Sequence[str],
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    count: int,
) -> Plot:
    """Return a finished drawing with its texts.

    Args:
        drawing: has everything but its texts.
        title: what is plotted.
        sentences: the numbers; those after the first MAX_SENTENCES are only counted.
        columns: the table's head.
        rows: the table's cells; no more than the first MAX_TABLE_ROWS are read.
        count: how many rows there are.
    """
    title = label(title)
    more = len(sentences) - MAX_SENTENCES
    ends = [f"{more:,} more are in the table."] if more > 0 else []
    description = " ".join([*sentences[:MAX_SENTENCES], *ends])
    return Plot(
        title=title,
        description=description,
        svg=drawing.svg(title, description),
        columns=tuple(columns),
        rows=tuple(tuple(row) for row in islice(rows, MAX_TABLE_ROWS)),
        left_out=max(0, count - MAX_TABLE_ROWS),
    )


class Drawing:
    """Collects the elements of a picture.

    Args:
        height: in the plot's units.
        width: WIDTH but for pictures that stand in a line of text.
        kind: the picture's class in `plots.css`, without the prefix.
    """

    def __init__(self, height: float, *, width: float = WIDTH, kind: str = "picture") -> None:
        self.width = width
        self._kind = kind
        self._height = height
        self._parts: list[Markup] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a straight line."""
        self._parts.append(
            Markup('<line class="plot-{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
                kind, *map(_coordinate, (x1, y1, x2, y2))
            )
        )

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, *, hint: str = ""
    ) -> None:
        """Draw a rectangle from its upper left corner."""
        self._parts.append(
            Markup('<rect class="plot-{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(
                kind, *map(_coordinate, (x, y, width, height)), _hint(hint)
            )
        )

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw a line through points."""
        if len(points) < 2:
            return
        steps = " ".join(f"{_coordinate(x)},{_coordinate(y)}" for x, y in points)
        self._parts.append(Markup('<polyline class="plot-{}" points="{}"/>').format(kind, steps))

    def mark(self, shape: Shape, x: float, y: float, kind: str, *, hint: str = "") -> None:
        """Draw a shape whose middle is at a point; `data-x` and `data-y` repeat where."""
        outline = " ".join(
            f"{_coordinate(x + dx)},{_coordinate(y + dy)}" for dx, dy in _OUTLINES[shape]
        )
        self._parts.append(
            Markup(
                '<polygon class="plot-mark plot-{}" data-shape="{}" data-x="{}" data-y="{}" '
                'points="{}">{}</polygon>'
            ).format(kind, shape, _coordinate(x), _coordinate(y), outline, _hint(hint))
        )

    def text(self, x: float, y: float, text: str, kind: str, *, anchor: Anchor = "start") -> None:
        """Write a line of text, whose baseline is at y."""
        self._parts.append(
            Markup('<text class="plot-{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                kind, _coordinate(x), _coordinate(y), anchor, text
            )
        )

    def svg(self, title: str, description: str) -> Markup:
        """Return the picture as an `svg` element."""
        return Markup(
            '<svg class="plot-{}" role="img" viewBox="0 0 {} {}"><title>{}</title>'
            "<desc>{}</desc>{}</svg>"
        ).format(
            self._kind,
            _coordinate(self.width),
            _coordinate(self._height),
            title,
            description,
            Markup("").join(self._parts),
        )


def empty(title: str, reason: str) -> Plot:
    """Return a plot of nothing, which says why."""
    drawing = Drawing(48)
    drawing.text(WIDTH / 2, 28, reason, "quiet", anchor="middle")
    return plot(drawing, title, [reason + "."], (), (), count=0)


def label(text: str) -> str:
    """Return a name as it can be shown: one line, not too long, without control characters."""
    clean = " ".join(printable(shortened(text, MAX_LABEL)).split())
    return clean or "(no name)"


def isolated(name: str) -> str:
    """Return a name for the middle of a sentence, whose order it does not change."""
    clean = label(name)
    turns = any(unicodedata.bidirectional(char) in {"R", "AL", "AN"} for char in clean)
    return f"\u2068{clean}\u2069" if turns else clean


def fitted(text: str, width: float) -> str:
    """Return a name, cut to a width with an ellipsis."""
    clean = label(text)
    if text_width(clean) <= width:
        return clean
    room = width - text_width("…")
    used, end = 0.0, 0
    for char in clean:
        used += text_width(char)
        if used > room:
            break
        end += 1
    return clean[:end].rstrip() + "…"


def text_width(text: str) -> float:
    """Return about how wide a text is, in the plot's units; rather more than less."""
    return TEXT_SIZE * sum(map(_character_width, text))


def known(value: float | None) -> float | None:
    """Return a number that can be drawn, None for all others."""
    if value is None or not math.isfinite(value) or abs(value) > _LARGEST:
        return None
    return float(value) if abs(value) >= _SMALLEST else 0.0


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the numbers that can be drawn."""
    return [number for number in map(known, values) if number is not None]


def ascending(values: ArrayLike) -> NDArray[np.float64]:
    """Return the numbers of an array that can be drawn, the least first."""
    numbers = np.asarray(values, dtype=np.float64).ravel()
    # Comparisons with NaN are false.
    return np.sort(numbers[np.abs(numbers) <= _LARGEST])


def number(value: float | None, places: int, *, sign: bool = False) -> str:
    """Format a number to so many decimal places; a minus is a real one."""
    shown = known(value)
    if shown is None:
        return ABSENT
    if abs(shown) >= 1e12:
        text = f"{shown:+.3g}" if sign else f"{shown:.3g}"
    else:
        text = f"{shown:+,.{places}f}" if sign else f"{shown:,.{places}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", "\u2212")


def interval_text(low: float | None, high: float | None, places: int, *, sign: bool = False) -> str:
    """Format an interval as `0.41 to 0.52`; an end that is not known is left out."""
    lower, upper = number(low, places, sign=sign), number(high, places, sign=sign)
    if lower == ABSENT and upper == ABSENT:
        return ABSENT
    if lower == ABSENT:
        return f"up to {upper}"
    return f"from {lower}" if upper == ABSENT else f"{lower} to {upper}"


def drawn(items: Sequence[_Item], limit: int) -> tuple[Sequence[_Item], str]:
    """Return the first items, and a sentence that says how many there are where it is not all."""
    if len(items) <= limit:
        return items, ""
    return items[:limit], f"The plot shows the first {limit:,} of {len(items):,}."


def _character_width(char: str) -> float:
    if char in _NARROW:
        return 0.36
    if char in _BROAD:
        return 0.95
    if unicodedata.combining(char):
        return 0.0
    if unicodedata.east_asian_width(char) in {"W", "F"}:
        return 1.05
    return 0.72 if char.isupper() else 0.64


def _coordinate(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _hint(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text) if text else Markup("")


_OUTLINES: dict[Shape, tuple[tuple[float, float], ...]] = {
    "circle": tuple(
        (4.0 * math.cos(n * math.pi / 8), 4.0 * math.sin(n * math.pi / 8)) for n in range(16)
    ),
    "square": ((-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)),
    "diamond": ((0.0, -5.2), (5.2, 0.0), (0.0, 5.2), (-5.2, 0.0)),
    "up": ((0.0, -5.0), (4.8, 3.6), (-4.8, 3.6)),
    "down": ((0.0, 5.0), (4.8, -3.6), (-4.8, -3.6)),
    "cross": (
        (-4.0, -2.6), (-2.6, -4.0), (0.0, -1.4), (2.6, -4.0), (4.0, -2.6), (1.4, 0.0),
        (4.0, 2.6), (2.6, 4.0), (0.0, 1.4), (-2.6, 4.0), (-4.0, 2.6), (-1.4, 0.0),
    ),
}  # fmt: skip
