"""A comparison of runs for people, as `table.py` has reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluators.reports.cells import (
    ABSENT,
    caveats,
    difference,
    empty_table,
    grid,
    heading,
    outcomes,
    output_title,
    p_value,
    plain,
    signed,
    verdict_of,
)
from evaluators.reports.compare import Comparisons, Contrast, Side
from evaluators.reports.scores import OutputInfo, decimals
from evaluators.stats.comparison import Comparison

if TYPE_CHECKING:  # rich takes its time to import, and only the command line prints
    from rich.console import Group, RenderableType
    from rich.text import Text

# Columns of the terminal from which on these are shown; `--json` always has everything.
_ROOM_FOR_MEANS = 90
_ROOM_FOR_OUTCOMES = 105
_ROOM_FOR_WORDS = 120
# A verdict of equivalence names its margin, and so takes the room of the means.
_ROOM_FOR_MARGINS = 12


def to_compare_table(comparisons: Comparisons, *, width: int = 100) -> Group:
    """Draw each pair's differences, the samples that moved most, caveats and method.

    Args:
        comparisons: from `compare`.
        width: columns to fit.
    """
    from rich.console import Group  # noqa: PLC0415  (see TYPE_CHECKING above)

    parts: list[RenderableType] = []
    infos = {output.name: output for output in comparisons.outputs}
    pairs = list(dict.fromkeys((contrast.a, contrast.b) for contrast in comparisons.contrasts))
    for a, b in pairs:
        contrasts = [
            contrast for contrast in comparisons.contrasts if (contrast.a, contrast.b) == (a, b)
        ]
        parts += _pair((a, b), contrasts, infos, width)
        parts += _moved(contrasts, infos)
    parts += caveats(comparisons.warnings)
    parts.append(heading("How it was compared", ""))
    method = grid()
    method.add_row(plain("statistics", "dim"), plain(comparisons.method, "dim"))
    parts.append(method)
    return Group(*parts)


def _pair(
    pair: tuple[Side, Side],
    contrasts: Sequence[Contrast],
    infos: Mapping[str, OutputInfo],
    width: int,
) -> Iterable[RenderableType]:
    a, b = pair
    names = [f"{side.route} in {side.name} ({side.run})" for side in (a, b)]
    if a.run == b.run:
        names = [a.route, f"{b.route} in {b.name} ({b.run})"]
    yield heading(
        f"{names[0]} minus {names[1]}",
        "sample by sample [95% interval]; p (Holm) is corrected for all comparisons here; p "
        "unpaired is Welch's, as if the samples were different questions",
    )
    has_margins = any(contrast.margin for contrast in contrasts)
    room = width - (_ROOM_FOR_MARGINS if has_margins else 0)
    drawn = empty_table()
    drawn.add_column("output", overflow="fold", min_width=10)
    if room >= _ROOM_FOR_MEANS:
        drawn.add_column("a", justify="right", no_wrap=True)
        drawn.add_column("b", justify="right", no_wrap=True)
    drawn.add_column("difference", justify="right", min_width=22)
    if room >= _ROOM_FOR_OUTCOMES:
        drawn.add_column("better/\nsame/worse", justify="right", no_wrap=True)
    drawn.add_column("n", justify="right", no_wrap=True)
    any_shared = any(contrast.shared for contrast in contrasts)
    if any_shared:
        drawn.add_column("same\nanswers", justify="right", no_wrap=True)
    drawn.add_column("p\n(Holm)", justify="right", no_wrap=True)
    drawn.add_column("p un-\npaired", justify="right", no_wrap=True)
    drawn.add_column("finds\n4 in 5", justify="right", no_wrap=True)
    drawn.add_column("verdict", min_width=12 if has_margins else 11)
    for contrast in contrasts:
        info = infos[contrast.output]
        row = comparison_of(contrast)
        means = [_number(info, contrast.mean_a), _number(info, contrast.mean_b)]
        drawn.add_row(
            output_title(info),
            *(means if room >= _ROOM_FOR_MEANS else ()),
            difference(info, row),
            *((outcomes(info, row),) if room >= _ROOM_FOR_OUTCOMES else ()),
            _samples(contrast),
            *((f"{contrast.shared:,}",) if any_shared else ()),
            p_value(contrast.p_holm),
            p_value(contrast.p_welch),
            _number(info, contrast.detectable),
            _verdict(contrast, row, width),
        )
    yield drawn
    yield plain("")


def _moved(
    contrasts: Sequence[Contrast], infos: Mapping[str, OutputInfo]
) -> Iterable[RenderableType]:
    moved = [contrast for contrast in contrasts if contrast.moved]
    if not moved:
        return
    yield heading("Samples that moved most", "a, b, difference")
    drawn = grid()
    for contrast in moved:
        info = infos[contrast.output]
        for sample in contrast.moved:
            digits = decimals(info, sample.a, sample.b)
            drawn.add_row(
                plain(contrast.output, "dim"),
                plain(
                    f"{sample.sample_id}: {sample.a:,.{digits}f}, {sample.b:,.{digits}f}, "
                    f"{signed(sample.difference, digits)}"
                ),
            )
    yield drawn
    yield plain("")


def _samples(contrast: Contrast) -> str:
    if contrast.joined or contrast.shared:
        return f"{contrast.n:,}"
    return f"{contrast.n_a:,}/{contrast.n_b:,}"


def _verdict(contrast: Contrast, row: Comparison, width: int) -> Text:
    if contrast.shared and not contrast.n:
        return plain("  not measured")
    return verdict_of(row, in_full=width >= _ROOM_FOR_WORDS)


def comparison_of(contrast: Contrast) -> Comparison:
    """Return the contrast as the comparison that a report's cells are made of."""
    return Comparison(
        route=contrast.a.route,
        output=contrast.output,
        n=contrast.n or min(contrast.n_a, contrast.n_b),
        difference=contrast.difference,
        low=contrast.low,
        high=contrast.high,
        p_value=contrast.p_value,
        p_holm=contrast.p_holm,
        wins=contrast.wins,
        ties=contrast.ties,
        losses=contrast.losses,
        verdict=contrast.verdict,
        margin=contrast.margin,
        gatekept=contrast.gatekept,
        headline=contrast.headline,
    )


def _number(info: OutputInfo, value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.{decimals(info, value)}f}"
