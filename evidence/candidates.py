"""Other methods, whose intervals stand beside those of reports: is there a narrower one?

None of these is used by reports: they cover in some cells and not in others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluators.stats.intervals import clustered_error, t_quantile
from evaluators.stats.inversion import StudentTest
from evidence.cells import Ends, Floats

Z = 1.959964


def of_mean(values: Floats, low: float | None = None, high: float | None = None) -> dict[str, Ends]:
    """Return Student's interval of a mean, plain and corrected for skew by Hall's method.

    Ends beyond the range are cut off.
    """
    least = -math.inf if low is None else low
    most = math.inf if high is None else high
    found: dict[str, Ends] = {"t": None, "Hall": None}
    if len(values) > 1 and values.min() < values.max():
        n, mean = len(values), float(values.mean())
        centred = values - mean
        squares = centred * centred
        spread = math.sqrt(float(squares.mean()))
        skew = float((squares * centred).mean()) / spread**3 / n**0.5
        error = spread / (n - 1) ** 0.5
        for name, test in (
            ("t", StudentTest(mean, error, n - 1)),
            ("Hall", StudentTest(mean, error, n - 1, skew=skew)),
        ):
            below, above = test.interval(0.95)
            found[name] = max(below, least), min(above, most)
    return found


def of_share(values: Floats) -> dict[str, Ends]:
    """Return the intervals of Jeffreys and of Agresti and Coull (1998, Am. Stat. 52:119-126)."""
    from scipy.special import betaincinv  # noqa: PLC0415  (slow to import)

    n, right = len(values), float(values.sum())
    below, above = right + 0.5, n - right + 0.5
    size = n + Z * Z
    centre = (right + Z * Z / 2) / size
    half = Z * (centre * (1 - centre) / size) ** 0.5
    return {
        "Jeffreys": (
            0.0 if right == 0 else float(betaincinv(below, above, 0.025)),
            1.0 if right == n else float(betaincinv(below, above, 0.975)),
        ),
        "Agresti and Coull": (max(0.0, centre - half), min(1.0, centre + half)),
    }


def of_pairs(differences: Floats) -> dict[str, Ends]:
    """Return intervals for differences of -1, 0 and 1 that add half a pair, or one, to each cell.

    Agresti and Min (2005, Statistics in Medicine 24:729-740) add a half to each of the four cells,
    Bonett and Price (2012, J. Educational and Behavioral Statistics 37:479-488) one to those that
    differ.
    """
    wins, losses = (float(np.count_nonzero(differences == sign)) for sign in (1, -1))
    n = len(differences) + 2
    return {
        "Agresti and Min": _wald(wins + 0.5, losses + 0.5, n),
        "Bonett and Price": _wald(wins + 1, losses + 1, n),
    }


def _wald(wins: float, losses: float, n: float) -> Ends:
    estimate = (wins - losses) / n
    half = Z * (((wins + losses) / n - estimate**2) / n) ** 0.5
    return max(-1.0, estimate - half), min(1.0, estimate + half)


def of_clusters(values: Floats, clusters: Sequence[int]) -> dict[str, Ends]:
    """Return t intervals with k - 1 degrees of freedom and the errors CR1 and CR2."""
    index = np.asarray(clusters)
    k, n, mean = int(index.max()) + 1, len(values), float(values.mean())
    if k < 2:
        return {"CR1, t(k - 1)": None, "CR2, t(k - 1)": None}
    sums = np.bincount(index, weights=values - mean)
    quantile = t_quantile(0.975, k - 1)
    liang_zeger = quantile * float(np.sqrt(k / (k - 1) * (sums**2).sum())) / n
    bell_mccaffrey = quantile * clustered_error(values, clusters)[0]
    return {
        "CR1, t(k - 1)": (mean - liang_zeger, mean + liang_zeger),
        "CR2, t(k - 1)": (mean - bell_mccaffrey, mean + bell_mccaffrey),
    }
