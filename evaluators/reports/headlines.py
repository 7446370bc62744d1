"""Decides which of a judge's two numbers counts: the corrected one, or the judge's own.

    headlines(outputs)                          # raw output to the one that corrects it
    judged_headlines(comparisons, outputs, primary=None)

Where people's labels (or a judge's known errors) correct a score, the corrected number is what the
verdict, the margin, the primary output and the gates go by; the raw one stands beside it without
any. Where a route has too few labels, its raw number decides, and a warning says so and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from evaluators.base import Output
from evaluators.reports.scores import OutputInfo, RouteScore
from evaluators.stats.comparison import FEWEST_FOR_A_MARGIN, Comparison, judged
from evaluators.stats.prediction_powered import FEWEST_LABELS


class _Correcting(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def corrects(self) -> str: ...


def headlines(outputs: Sequence[_Correcting]) -> dict[str, str]:
    """Return the name of each output that is corrected, with that of the corrected one."""
    return {output.corrects: output.name for output in outputs if output.corrects}


def headline_score(
    scores: Sequence[RouteScore], output: str, corrected: Mapping[str, str]
) -> RouteScore:
    """Return a route's corrected score of an output where it has one, else its score."""
    by_name = {score.output: score for score in scores}
    first = by_name.get(corrected.get(output, ""))
    return by_name[output] if first is None or first.estimate is None else first


def enough_labels(compared: Comparison) -> Comparison:
    """Return a corrected comparison, without its numbers where a side has too few labels."""
    if compared.labelled is None or compared.labelled >= FEWEST_LABELS:
        return compared
    return Comparison(route=compared.route, output=compared.output, n=0, labelled=compared.labelled)


def judged_headlines(
    comparisons: Sequence[Comparison],
    outputs: Mapping[str, Output],
    *,
    primary: str | None,
) -> tuple[Comparison, ...]:
    """Do as `comparison.judged` does, with one comparison of each output that is corrected.

    Args:
        comparisons: all of them, corrected and raw.
        outputs: by name.
        primary: the output that opens the gate for the others, by its raw name.
    """
    corrects = {name: output.corrects for name, output in outputs.items() if output.corrects}
    replaced = {
        (compared.route, corrects[compared.output])
        for compared in comparisons
        if compared.output in corrects and compared.difference is not None
    }
    family = [
        place
        for place, compared in enumerate(comparisons)
        if (compared.route, compared.output) not in replaced
        and (compared.output not in corrects or compared.difference is not None)
    ]
    # By one name, whichever of the two numbers decides.
    deciding = [
        msgspec.structs.replace(
            comparisons[place],
            output=corrects.get(comparisons[place].output, comparisons[place].output),
            p_equivalence=_with_labels(comparisons[place]),
        )
        for place in family
    ]
    results = [
        msgspec.structs.replace(
            compared, headline=False, verdict=None, p_holm=None, p_equivalence=None
        )
        for compared in comparisons
    ]
    for place, compared in zip(family, judged(deciding, outputs, primary=primary), strict=True):
        results[place] = msgspec.structs.replace(compared, output=comparisons[place].output)
    return tuple(results)


def _with_labels(compared: Comparison) -> float | None:
    """Return the p-value of equivalence; None where too few labels carry it."""
    if compared.labelled is not None and compared.labelled < FEWEST_FOR_A_MARGIN:
        return None
    return compared.p_equivalence


def headline_warnings(
    names: Mapping[str, str],
    comparisons: Sequence[Comparison],
    outputs: Sequence[OutputInfo],
    withheld: Mapping[tuple[str, str], str],
) -> Iterator[str]:
    """Warn of scores and differences that are raw although others are corrected.

    Args:
        names: what to call each comparison, by the route that it is of.
        comparisons: from `judged_headlines`.
        outputs: described for readers.
        withheld: why a route has no corrected score, by route and corrected output.
    """
    for (route, output), why in withheld.items():
        yield f"{route}: {_raw_name(output, outputs)} is raw, as the judge scores: {why}."
    corrected = set(headlines(outputs).values())
    for compared in comparisons:
        if compared.output not in corrected:
            continue
        raw = _raw_name(compared.output, outputs)
        if compared.difference is None:
            few = (
                f"only {compared.labelled:,} samples of both have labels"
                if compared.labelled
                else "one side has no corrected score"
            )
            yield (
                f"{names[compared.route]}: the difference of {raw} is that of the judge's raw "
                f"scores on both sides, and so is its verdict: {few}, and a corrected difference "
                f"needs {FEWEST_LABELS} labels on each side."
            )
        elif (
            compared.margin is not None
            and compared.labelled is not None
            and compared.labelled < FEWEST_FOR_A_MARGIN
        ):
            yield (
                f"{names[compared.route]}: {compared.labelled:,} labels are too few to show that "
                f"{compared.output} is equivalent; that needs {FEWEST_FOR_A_MARGIN}."
            )


def _raw_name(corrected: str, outputs: Sequence[OutputInfo]) -> str:
    return next(output.corrects for output in outputs if output.name == corrected)
