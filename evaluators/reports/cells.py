"""The parts that printed reports and comparisons share: numbers, names and tables in one style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluators.reports.report import OutputInfo, decimals
from evaluators.stats.comparison import Comparison, Verdict

if TYPE_CHECKING:  # rich takes its time to import, and only the command line prints
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

ABSENT = "-"
MARKS: Mapping[Verdict | None, str] = {
    "better": "▲",
    "worse": "▼",
    "no difference shown": " ",
    None: " ",
}
STYLES: Mapping[Verdict | None, str] = {
    "better": "green",
    "worse": "red",
    "no difference shown": "",
    None: "",
}


def difference(output: OutputInfo, one: Comparison) -> str:
    """A difference with its interval."""
    if one.difference is None:
        return ABSENT
    places = decimals(output, one.difference, one.low, one.high)
    text = signed(one.difference, places)
    if one.low is not None and one.high is not None:
        text += f" [{signed(one.low, places)}, {signed(one.high, places)}]"
    return text


def signed(value: float, places: int) -> str:
    """With a sign, unless it shows as zero."""
    text = f"{value:+,.{places}f}"
    return text[1:] if not text.strip("+-0.,") else text  # neither +0.000 nor -0.000


def outcomes(output: OutputInfo, one: Comparison) -> str:
    """On how many samples better, equal, worse."""
    if one.wins is None or output.higher_is_better is None:
        return ABSENT
    return f"{one.wins:,}/{one.ties:,}/{one.losses:,}"


def p_value(p_value: float | None) -> str:
    """A p-value to three places."""
    if p_value is None:
        return ABSENT
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def verdict_of(one: Comparison, *, in_full: bool) -> Text:
    """The verdict in words, coloured."""
    if one.n == 0:
        return plain("  no common samples" if in_full else "  no samples")
    if one.verdict is None:
        return plain("  has no direction" if in_full else "  -", "dim")
    words = one.verdict if in_full or one.verdict != "no difference shown" else "not shown"
    return plain(f"{MARKS[one.verdict]} {words}", STYLES[one.verdict])


def output_title(output: OutputInfo) -> str:
    """The output's name with its unit, and an arrow to what is better."""
    arrow = {True: " ↑", False: " ↓", None: ""}[output.higher_is_better]
    unit = f" ({output.unit})" if output.unit not in {"", output.name} else ""
    return printable(output.name) + unit + arrow


def plural(noun: str, count: int) -> str:
    """The noun for so many."""
    return noun if count == 1 else f"{noun}s"


def printable(text: str) -> str:
    """Names and messages of others may hold line breaks or terminal commands."""
    return "".join(char if char.isprintable() else " " for char in text)


def plain(text: str, style: str = "") -> Text:
    """Text as it is: no markup, no commands to the terminal."""
    from rich.text import Text  # noqa: PLC0415  (see TYPE_CHECKING above)

    return Text(printable(text), style=style)


def heading(title: str, legend: str) -> Text:
    """A title with a faint line below."""
    text = plain(title, "bold")
    if legend:
        text.append(f"\n{printable(legend)}", "dim")
    return text


def empty_table() -> Table:
    """A table without rows."""
    from rich import box  # noqa: PLC0415  (see TYPE_CHECKING above)
    from rich.table import Table  # noqa: PLC0415

    return Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style=""
    )


def grid() -> Table:
    """A table of two columns without lines."""
    from rich.table import Table  # noqa: PLC0415  (see TYPE_CHECKING above)

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def caveats(warnings: Sequence[str]) -> Iterable[RenderableType]:
    """What a reader has to know before believing the numbers."""
    if not warnings:
        return
    yield heading("Caveats", "")
    table = grid()
    for warning in warnings:
        table.add_row("!", plain(warning))
    yield table
    yield plain("")
