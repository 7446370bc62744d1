"""Finds options that need not be considered, because another is better in every respect.

    dominated_by(["a", "b"], {"quality": True, "cost": False}, means, differences)

One option *dominates* another where it is no worse in any respect and better in one. Estimates say
so easily. It is *established* where it is shown to be better, or is exactly the same, in each: the
test of a claim about all respects that each of them has to pass at its own level (the
intersection-union test of Berger 1982, Technometrics 24:295-300), with Bonferroni's correction
over the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from evaluators.stats.intervals import Interval

LEVEL = 0.95

Shown = Literal["better", "worse", "same", "not shown"]


class Respect(msgspec.Struct, frozen=True, kw_only=True):
    """How one option differs from another in one respect.

    Attributes:
        name: the respect.
        difference: the one less the other, with its interval at the corrected level.
        shown: what that shows of the one.
    """

    name: str
    difference: Interval
    shown: Shown


class Dominance(msgspec.Struct, frozen=True, kw_only=True):
    """An option that is better than another.

    Attributes:
        by: the better option.
        established: whether it is shown to be, or seems so by the estimates only.
        respects: how it differs.
    """

    by: str
    established: bool
    respects: tuple[Respect, ...]


Differences = Callable[[str, str, str, float], Interval]


def pair_level(options: int) -> float:
    """Return the level of the interval of a pair, so that all pairs together hold LEVEL."""
    return 1 - (1 - LEVEL) / max(1, options * (options - 1))


def dominated_by(
    options: Sequence[str],
    higher_is_better: Mapping[str, bool],
    means: Callable[[str, str], float | None],
    differences: Differences,
) -> dict[str, tuple[Dominance, ...]]:
    """Return by which others each option is dominated; by none, it is on the frontier.

    Options without an estimate in some respect dominate none, and are dominated by none.

    Args:
        options: their names.
        higher_is_better: the respects.
        means: returns the estimate of an option in a respect, None where there is none.
        differences: returns the interval of an option's less another's, in a respect, at a level.
    """
    level = pair_level(len(options))
    known = [
        name for name in options if all(means(name, each) is not None for each in higher_is_better)
    ]
    result: dict[str, tuple[Dominance, ...]] = dict.fromkeys(options, ())
    for name in known:
        dominances = []
        for other in known:
            if other == name or not _seems_better(other, name, higher_is_better, means):
                continue
            respects = tuple(
                _respect(each, differences(other, name, each, level), level, higher=higher)
                for each, higher in higher_is_better.items()
            )
            shown = [respect.shown for respect in respects]
            established = set(shown) <= {"better", "same"} and "better" in shown
            dominances.append(Dominance(by=other, established=established, respects=respects))
        result[name] = tuple(dominances)
    return result


def _seems_better(
    name: str,
    other: str,
    higher_is_better: Mapping[str, bool],
    means: Callable[[str, str], float | None],
) -> bool:
    gains = []
    for each, higher in higher_is_better.items():
        gain = (means(name, each) or 0.0) - (means(other, each) or 0.0)
        gains.append(gain if higher else -gain)
    return min(gains) >= 0 and max(gains) > 0


def _respect(name: str, difference: Interval, level: float, *, higher: bool) -> Respect:
    low, high, estimate = difference.low, difference.high, difference.estimate
    shown: Shown = "not shown"
    if low is not None and high is not None and (low > 0 or high < 0):
        shown = "better" if (low > 0) is higher else "worse"
    elif difference.method == "constant" and estimate == 0:
        shown = "same"
    elif difference.method == "constant" and estimate and 2.0 ** (1 - difference.n) <= 1 - level:
        # The same for every sample, as costs are at fixed prices: the sign test decides.
        shown = "better" if (estimate > 0) is higher else "worse"
    return Respect(name=name, difference=difference, shown=shown)
