"""The parts that printed reports and comparisons share: numbers, names and tables in one style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluators.reports.scores import OutputInfo, decimals
from evaluators.stats.comparison import Comparison, Verdict

if TYPE_CHECKING:  # rich takes its time to import, and only the command line prints
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

ABSENT = "-"
MARKS: Mapping[Verdict | None, str] = {
    "better": "▲",
    "worse": "▼",
    "equivalent": "≈",
    "no difference shown": " ",
    None: " ",
}
STYLES: Mapping[Verdict | None, str] = {
    "better": "green",
    "worse": "red",
    "equivalent": "cyan",
    "no difference shown": "",
    None: "",
}


def difference(output: OutputInfo, compared: Comparison) -> str:
    """Format a difference with its interval."""
    if compared.difference is None:
        return ABSENT
    digits = decimals(output, compared.difference, compared.low, compared.high)
    text = signed(compared.difference, digits)
    if compared.low is not None and compared.high is not None:
        text += f" [{signed(compared.low, digits)}, {signed(compared.high, digits)}]"
    return text


def signed(value: float, digits: int) -> str:
    """Format a number with its sign, unless it shows as zero."""
    text = f"{value:+,.{digits}f}"
    return text[1:] if not text.strip("+-0.,") else text  # neither +0.000 nor -0.000


def outcomes(output: OutputInfo, compared: Comparison) -> str:
    """Format how many samples are better, equal and worse."""
    if compared.wins is None or output.higher_is_better is None:
        return ABSENT
    return f"{compared.wins:,}/{compared.ties:,}/{compared.losses:,}"


def p_value(p_value: float | None) -> str:
    """Format a p-value to three places."""
    if p_value is None:
        return ABSENT
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def verdict_of(compared: Comparison, *, in_full: bool) -> Text:
    """Return the verdict in words, coloured."""
    if not compared.headline:
        return plain("  raw" if compared.n else "  too few labels", "dim")
    if compared.n == 0:
        return plain("  no common samples" if in_full else "  no samples")
    if compared.gatekept:
        return plain("  not tested", "dim")
    if compared.verdict is None:
        return plain("  has no direction" if in_full else "  -", "dim")
    words = verdict_words(compared)
    return plain(f"{MARKS[compared.verdict]} {words}", STYLES[compared.verdict])


def verdict_words(compared: Comparison) -> str:
    """Return the verdict in words: `better`, `worse`, `equivalent (±0.01)` or `not shown`."""
    if not compared.headline:
        return "raw" if compared.n else "too few labels"
    if compared.verdict == "equivalent":
        return f"equivalent (±{compared.margin:g})"
    return "not shown" if compared.verdict == "no difference shown" else compared.verdict or ""


def output_title(output: OutputInfo) -> str:
    """Return the output's name with its unit and an arrow in the better direction.

    A score that has a corrected one beside it is marked as raw.
    """
    arrow = {True: " ↑", False: " ↓", None: ""}[output.higher_is_better]
    unit = f" ({output.unit})" if output.unit not in {"", output.name} else ""
    raw = " (raw)" if output.raw else ""
    return printable(output.name) + raw + unit + arrow


def plural(noun: str, count: int) -> str:
    """Return the noun in the form that the count needs."""
    return noun if count == 1 else f"{noun}s"


def printable(text: str) -> str:
    """Replace line breaks and terminal commands, which foreign names and messages may hold."""
    return "".join(char if char.isprintable() else " " for char in text)


def plain(text: str, style: str = "") -> Text:
    """Return literal text: without markup or commands to the terminal."""
    from rich.text import Text  # noqa: PLC0415  (see TYPE_CHECKING above)

    return Text(printable(text), style=style)


def heading(title: str, legend: str) -> Text:
    """Return a title with a faint line below."""
    text = plain(title, "bold")
    if legend:
        text.append(f"\n{printable(legend)}", "dim")
    return text


def empty_table() -> Table:
    """Return a table without rows."""
    from rich import box  # noqa: PLC0415  (see TYPE_CHECKING above)
    from rich.table import Table  # noqa: PLC0415

    return Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style=""
    )


def grid() -> Table:
    """Return a table of two columns without lines."""
    from rich.table import Table  # noqa: PLC0415  (see TYPE_CHECKING above)

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def caveats(warnings: Sequence[str]) -> Iterable[RenderableType]:
    """Yield what a reader has to know before believing the numbers."""
    if not warnings:
        return
    yield heading("Caveats", "")
    table = grid()
    for warning in warnings:
        table.add_row("!", plain(warning))
    yield table
    yield plain("")
