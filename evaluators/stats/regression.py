"""Asks whether a score depends on something besides what it should measure.

    partial_slope(judge, words, people)   -> how the judge's score grows with words, people's equal

The difference between two scores cannot say that: where one of them is high by chance, the other
one is lower (regression to the mean), so that a judge of pure noise seems to dislike whatever
people like. Here the score is regressed on the other score and on the suspect at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from evaluators.stats.intervals import Interval, cluster_index, finite, t_quantile
from evaluators.stats.resampling import Floats

# Less variance than this share of what there was is rounding.
_ROUNDING = 1e-9


class Slope(msgspec.Struct, frozen=True, kw_only=True):
    """How much a score changes with a suspect, other things equal.

    Attributes:
        interval: the change of the score for a change of 1 in the suspect.
        p_value: two-sided, for no change; None where it cannot be computed.
    """

    interval: Interval
    p_value: float | None


def partial_slope(
    score: ArrayLike,
    suspect: ArrayLike,
    control: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    control_error: float = 0.0,
    level: float = 0.95,
) -> Slope:
    """Regress a score on a suspect and a control, by least squares.

    The standard error is that of the jackknife over clusters (the HC3 of MacKinnon and White 1985,
    J. Econometrics 29:305-325, for items that stand alone), which holds for unequal variances. A
    suspect with two values has one degree of freedom less than clusters with the rarer value.

    Args:
        score: the scores to explain, one for each item.
        suspect: what they should not depend on.
        control: what they should depend on.
        clusters: the cluster of each item; None when each stands alone.
        control_error: the variance of the error with which `control` is measured; without it, a
            suspect that the truth depends on seems to matter, because the control misses a part
            of the truth (Fuller 1987, Measurement Error Models, section 1.2).
        level: the level of the interval.
    """
    from scipy.special import stdtr  # noqa: PLC0415  (scipy takes a third of a second to import)

    y, x, z = finite(score), finite(suspect), finite(control)
    n = len(y)
    index, k = cluster_index(clusters, n) if clusters is not None else (np.arange(n), n)
    nothing = Slope(interval=Interval(estimate=None, low=None, high=None, n=k), p_value=None)
    if n < 4 or x.std() == 0:
        return nothing
    scale = float(x.std())
    columns = [np.ones(n), (x - x.mean()) / scale]
    spread = float(z.std())
    if spread > 0:
        columns.append((z - z.mean()) / spread)
    design = np.column_stack(columns)
    moments = _sums(design[:, :, None] * design[:, None, :], index, k)
    products = _sums(design * y[:, None], index, k)
    sizes = np.bincount(index, minlength=k).astype(np.float64)
    error = control_error / spread**2 if spread > 0 else 0.0
    estimate = _solve(moments.sum(axis=0)[None], products.sum(axis=0)[None], sizes.sum(), error)
    if estimate is None:
        return nothing
    slope = float(estimate[0]) / scale
    unknown = Slope(interval=Interval(estimate=slope, low=None, high=None, n=k), p_value=None)
    freedom = _freedom(x, design, index, k)
    without = _solve(
        moments.sum(axis=0) - moments, products.sum(axis=0) - products, n - sizes, error
    )
    if freedom < 1 or without is None:
        return unknown
    deviation = float(np.sqrt((k - 1) / k * ((without / scale - slope) ** 2).sum()))
    if deviation <= _ROUNDING * float(y.std()) / scale:
        # The suspect and the control explain everything, or the control alone does.
        alone = abs(slope) <= 1e-6 * float(y.std()) / scale
        return msgspec.structs.replace(unknown, p_value=None if alone else 0.0)
    half = t_quantile(0.5 + level / 2, freedom) * deviation
    return Slope(
        interval=Interval(estimate=slope, low=slope - half, high=slope + half, n=k, method="t"),
        p_value=2 * float(stdtr(freedom, -abs(slope) / deviation)),
    )


def _sums(values: Floats, index: np.ndarray[tuple[int], np.dtype[np.intp]], k: int) -> Floats:
    """Sum the values of each cluster, shape (k, ...)."""
    if k == len(values):
        return values
    sums = np.zeros((k, *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums


def _solve(moments: Floats, products: Floats, n: Floats, error: float) -> Floats | None:
    """Return the suspect's coefficients; None where one is not determined."""
    moments = moments.copy()
    if moments.shape[-1] == 3:
        # No more than most of the control's variance can be error.
        moments[:, 2, 2] -= n * min(error, 0.9)
    if np.linalg.det(moments / np.reshape(n, (-1, 1, 1))).min() <= _ROUNDING:
        return None
    coefficients = np.linalg.solve(moments, products[:, :, None])[:, 1, 0]
    return np.asarray(coefficients, dtype=np.float64)


def _freedom(
    suspect: Floats, design: Floats, index: np.ndarray[tuple[int], np.dtype[np.intp]], k: int
) -> float:
    """Return the degrees of freedom of the standard error.

    A few clusters far from the others decide the slope and its error alike. So they are counted by
    how much they weigh: by the squares of what the control does not explain of the suspect, as by
    Satterthwaite's rule for independent residuals (Imbens and Kolesar 2016, Review of Economics and
    Statistics 98:701-712).
    """
    others = np.delete(design, 1, axis=1)
    rest = design[:, 1] - others @ np.linalg.lstsq(others, design[:, 1], rcond=None)[0]
    weights = np.bincount(index, weights=rest**2, minlength=k)
    freedom = min(float(k - design.shape[1]), float(weights.sum() ** 2 / (weights**2).sum()))
    values = np.unique(suspect)
    if len(values) > 2:
        return freedom
    return min(freedom, *(len(np.unique(index[suspect == value])) - 1.0 for value in values))
