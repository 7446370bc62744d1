"""A report for people: `rich` tables that also read well as plain text, where no colour is seen.

console.print(to_table(report, width=console.width))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluators.report import (
    Comparison,
    OutputInfo,
    Report,
    RouteReport,
    RouteScore,
    Verdict,
    decimals,
    dollars,
)

if TYPE_CHECKING:  # rich takes its time to import, and only the command line prints
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

_ABSENT = "-"
_MARKS: Mapping[Verdict | None, str] = {
    "better": "▲",
    "worse": "▼",
    "no difference shown": " ",
    None: " ",
}
_STYLES: Mapping[Verdict | None, str] = {
    "better": "green",
    "worse": "red",
    "no difference shown": "",
    None: "",
}
_ROUTE_WIDTH = 32  # longer route names are folded


def to_table(report: Report, *, width: int = 100) -> Group:
    """Scores, what they took, differences from the baseline, notes, signatures.

    Args:
        report: from `summarise`.
        width: columns to fit; many outputs are split over several tables.
    """
    from rich.console import Group  # noqa: PLC0415  (see TYPE_CHECKING above)

    parts: list[RenderableType] = []
    parts += _scores(report, width)
    parts += _confusions(report)
    parts += _taken(report)
    parts += _differences(report, width)
    parts += _notes(report)
    parts += _signatures(report)
    return Group(*parts)


def _scores(report: Report, width: int) -> Iterable[RenderableType]:
    verdicts = {(one.route, one.output): one.verdict for one in report.comparisons}
    legend = "mean or corpus score [95% interval]; ↑ higher is better, ↓ lower is better"
    if report.baseline is not None and len(report.routes) > 1:
        legend += f"; ▲ better / ▼ worse than {report.baseline} (p < 0.05, see below)"
    yield _heading(f"Scores over {report.samples:,} {_plural('sample', report.samples)}", legend)

    columns: list[tuple[OutputInfo, list[Text]]] = []
    for index, output in enumerate(report.outputs):
        found = [verdicts.get((route.route, output.name)) for route in report.routes]
        marked = any(_MARKS[verdict].strip() for verdict in found)
        cells = [
            _score_cell(output, route.scores[index], _MARKS[verdict] if marked else "", verdict)
            for route, verdict in zip(report.routes, found, strict=True)
        ]
        columns.append((output, cells))
    names = [_route_name(route.route, report.baseline) for route in report.routes]
    longest = max((line.cell_len for name in names for line in name.split()), default=5)
    left = min(longest, _ROUTE_WIDTH)
    for chosen in _fitting(columns, width - left):
        table = _table()
        table.add_column("route", overflow="fold", max_width=_ROUTE_WIDTH)
        for output, _ in chosen:
            table.add_column(_output_title(output), justify="right", no_wrap=True)
        for row, name in enumerate(names):
            table.add_row(name, *(cells[row] for _, cells in chosen))
        yield table
        yield _plain("")


def _fitting(
    columns: Sequence[tuple[OutputInfo, list[Text]]], room: int
) -> Iterable[list[tuple[OutputInfo, list[Text]]]]:
    """Groups of neighbouring columns that fit side by side; at least one each."""
    chosen: list[tuple[OutputInfo, list[Text]]] = []
    used = 0
    for output, cells in columns:
        lines = [line.cell_len for cell in cells for line in cell.split("\n")]
        needed = max([len(_output_title(output)), *lines]) + 2  # the gap between columns
        if chosen and used + needed > room:
            yield chosen
            chosen, used = [], 0
        chosen.append((output, cells))
        used += needed
    if chosen:
        yield chosen


def _score_cell(output: OutputInfo, score: RouteScore, mark: str, verdict: Verdict | None) -> Text:
    text = _plain(_ABSENT)
    if score.estimate is not None:
        places = decimals(output, score.estimate)
        text = _plain(f"{score.estimate:,.{places}f}")
        if score.low is not None and score.high is not None:
            text.append(f" [{score.low:,.{places}f}, {score.high:,.{places}f}]")
    if mark:
        text.append(f" {mark}", style=_STYLES[verdict])
    if score.scored < score.expected:
        below_mark = "  " if mark else ""
        text.append(f"\n{score.scored:,} of {score.expected:,}{below_mark}", "dim")
    return text


def _confusions(report: Report) -> Iterable[RenderableType]:
    """For each route with labels, which were due (rows) and which were given (columns)."""
    for route in report.routes:
        for one in route.confusions:
            legend = "rows: the label that was due; columns: the label that was given"
            yield _heading(f"Labels of {route.route}", legend)
            table = _table()
            table.add_column("", overflow="fold", max_width=_ROUTE_WIDTH)
            for label in one.labels:
                table.add_column(_printable(label), justify="right", overflow="fold")
            for label, counts in zip(one.labels, one.counts, strict=False):
                table.add_row(_plain(label, "bold"), *(f"{count:,.4g}" for count in counts))
            yield table
            yield _plain("")


def _taken(report: Report) -> Iterable[RenderableType]:
    yield _heading("What it took", "time to the last byte: median / 95th percentile, in seconds")
    any_cached = any(route.cached for route in report.routes)
    table = _table()
    table.add_column("route", overflow="fold", min_width=12, max_width=_ROUTE_WIDTH)
    table.add_column("answered", justify="right")
    if any_cached:
        table.add_column("cached", justify="right")
    for title in ("time", "tokens in / out", "cost"):
        table.add_column(title, justify="right")
    for route in report.routes:
        table.add_row(
            _route_name(route.route, report.baseline),
            f"{route.answered:,} of {route.expected:,}",
            *([f"{route.cached:,}"] if any_cached else []),
            _times(route),
            _tokens(route),
            _cost(route),
        )
    yield table
    for route in report.routes:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in route.targets.items())
        if len(route.targets) > 1 or (route.targets and route.route not in route.targets):
            yield _plain(f"{route.route} was answered by {shares}")
        for error in route.errors:
            example = f", for example: {error.example}" if error.example else ""
            times = _plural("time", error.count)
            yield _plain(
                f"{route.route} failed {error.count:,} {times} with {error.code}{example}", "red"
            )
    yield _plain("")


def _times(route: RouteReport) -> str:
    p50, p95 = route.times.p50_s, route.times.p95_s
    if p50 is None or p95 is None:
        return _ABSENT
    return f"{_seconds(p50)} / {_seconds(p95)}"


def _seconds(value: float) -> str:
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _tokens(route: RouteReport) -> str:
    if route.tokens.unknown == route.answered:
        return _ABSENT
    at_least = "≥ " if route.tokens.unknown else ""
    return f"{at_least}{route.tokens.prompt:,} / {route.tokens.completion:,}"


def _cost(route: RouteReport) -> str:
    if route.cost.total_usd is not None:
        return dollars(route.cost.total_usd)
    return f"≥ {dollars(route.cost.known_usd)}" if route.cost.known_usd else "unknown"


def _differences(report: Report, width: int) -> Iterable[RenderableType]:
    if not report.comparisons:
        return
    outputs = {output.name: output for output in report.outputs}
    yield _heading(
        f"Differences from {report.baseline}",
        "sample by sample [95% interval]; p is corrected for the number of comparisons",
    )
    for route in report.routes:
        compared = [one for one in report.comparisons if one.route == route.route]
        if not compared:
            continue
        table = _table()
        yield _plain(route.route, "bold")
        table.add_column("output", overflow="fold", min_width=12)
        table.add_column("difference", justify="right", min_width=22)
        table.add_column("better/\nsame/worse", justify="right", no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        table.add_column("p\n(Holm)", justify="right", no_wrap=True)
        table.add_column("verdict")
        for one in compared:
            output = outputs[one.output]
            table.add_row(
                _output_title(output),
                _difference(output, one),
                _outcomes(output, one),
                f"{one.n:,}",
                _p(one.p_holm),
                _verdict(one, in_full=width >= 96),
            )
        yield table
        yield _plain(_in_words(route.route, report.baseline or "", compared))
        yield _plain("")


def _difference(output: OutputInfo, one: Comparison) -> str:
    if one.difference is None:
        return _ABSENT
    places = decimals(output, one.difference, one.low, one.high)
    text = _signed(one.difference, places)
    if one.low is not None and one.high is not None:
        text += f" [{_signed(one.low, places)}, {_signed(one.high, places)}]"
    return text


def _signed(value: float, places: int) -> str:
    text = f"{value:+,.{places}f}"
    return text[1:] if not text.strip("+-0.,") else text  # neither +0.000 nor -0.000


def _outcomes(output: OutputInfo, one: Comparison) -> str:
    if one.wins is None or output.higher_is_better is None:
        return _ABSENT
    return f"{one.wins:,}/{one.ties:,}/{one.losses:,}"


def _p(p_value: float | None) -> str:
    if p_value is None:
        return _ABSENT
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _verdict(one: Comparison, *, in_full: bool) -> Text:
    if one.n == 0:
        return _plain("  no common samples" if in_full else "  no samples")
    if one.verdict is None:
        return _plain("  has no direction" if in_full else "  -", "dim")
    words = one.verdict if in_full or one.verdict != "no difference shown" else "not shown"
    return _plain(f"{_MARKS[one.verdict]} {words}", _STYLES[one.verdict])


def _in_words(route: str, baseline: str, compared: Sequence[Comparison]) -> str:
    found = {
        verdict: ", ".join(one.output for one in compared if one.verdict == verdict)
        for verdict in ("better", "worse", "no difference shown")
    }
    said = [f"{word} on {found[word]}" for word in ("better", "worse") if found[word]]
    if found["no difference shown"]:
        said.append(f"no difference shown on {found['no difference shown']}")
    return f"{route} against {baseline}: {'; '.join(said) or 'nothing could be compared'}."


def _notes(report: Report) -> Iterable[RenderableType]:
    if not report.warnings:
        return
    yield _heading("Caveats", "")
    table = _grid()
    for warning in report.warnings:
        table.add_row("!", _plain(warning))
    yield table
    yield _plain("")


def _signatures(report: Report) -> Iterable[RenderableType]:
    yield _heading("How it was measured", "")
    table = _grid()
    for name, signature in report.signatures.items():
        table.add_row(_plain(name, "dim"), _plain(signature, "dim"))
    table.add_row(_plain("statistics", "dim"), _plain(report.method, "dim"))
    yield table


def _output_title(output: OutputInfo) -> str:
    arrow = {True: " ↑", False: " ↓", None: ""}[output.higher_is_better]
    unit = f" ({output.unit})" if output.unit not in {"", output.name} else ""
    return _printable(output.name) + unit + arrow


def _route_name(route: str, baseline: str | None) -> Text:
    text = _plain(route, "bold")
    if route == baseline:
        text.append("\n(baseline)", "dim")
    return text


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _printable(text: str) -> str:
    """Names and messages of others may hold line breaks or terminal commands."""
    return "".join(char if char.isprintable() else " " for char in text)


def _plain(text: str, style: str = "") -> Text:
    from rich.text import Text  # noqa: PLC0415  (see TYPE_CHECKING above)

    return Text(_printable(text), style=style)


def _heading(title: str, legend: str) -> Text:
    text = _plain(title, "bold")
    if legend:
        text.append(f"\n{_printable(legend)}", "dim")
    return text


def _table() -> Table:
    from rich import box  # noqa: PLC0415  (see TYPE_CHECKING above)
    from rich.table import Table  # noqa: PLC0415

    return Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style=""
    )


def _grid() -> Table:
    from rich.table import Table  # noqa: PLC0415  (see TYPE_CHECKING above)

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
