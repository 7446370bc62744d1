"""How many samples it takes: power, sample size, and the smallest difference that shows.

    power(0.02, sd=0.1, n=200)          -> 0.80...
    sample_size(0.02, sd=0.1)           -> 199
    minimum_detectable_effect(0.1, 200) -> 0.0199...

    minimum_detectable_share(0.1, 200)  -> 0.0604...

The first three are of a two-sided paired t test; `sd` is the standard deviation of the differences
between the two routes, sample by sample. The last is of McNemar's mid-p test, for scores of 0 and
1. Correcting for a family of K comparisons costs power: Holm's first step is a test at alpha / K.
"""

from __future__ import annotations

import math

import numpy as np

from evaluators.stats.intervals import t_quantile

MAX_SAMPLES = 10**9
"""The largest number of pairs that `sample_size` tries."""


def power(effect: float, *, sd: float, n: int, alpha: float = 0.05) -> float:
    """Return the chance that n pairs show a true mean difference (Cohen 1988, by the noncentral t).

    Args:
        effect: the true mean difference.
        sd: standard deviation of the differences, above 0.
        n: pairs, at least 2.
        alpha: level of the two-sided test.

    Raises:
        ValueError: n or sd is too small.
    """
    from scipy.special import nctdtr  # noqa: PLC0415  (scipy takes a third of a second to import)

    if n < 2 or sd <= 0:
        raise ValueError("power needs at least two pairs, and differences that vary")
    critical = t_quantile(1 - alpha / 2, n - 1)
    shift = abs(effect) / sd * math.sqrt(n)
    if shift > critical + 38:  # beyond what the distribution function resolves
        return 1.0
    missed = nctdtr(n - 1, shift, critical) - nctdtr(n - 1, shift, -critical)
    return min(1.0, max(0.0, 1.0 - float(missed)))


def sample_size(
    effect: float, *, sd: float, min_power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Return the fewest pairs with which a true mean difference shows with this probability.

    None where `MAX_SAMPLES` are not enough. Arguments as for `power`.

    Raises:
        ValueError: the effect is 0, or sd is not above 0.
    """
    if effect == 0 or sd <= 0:
        raise ValueError("a sample size needs an effect, and differences that vary")

    def enough(n: int) -> bool:
        return power(effect, sd=sd, n=n, alpha=alpha) >= min_power

    few, many = 1, 2
    while not enough(many):
        few, many = many, many * 2
        if many > MAX_SAMPLES:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def minimum_detectable_effect(
    sd_of_differences: float, n: int, *, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """Return the smallest true mean difference that n pairs find with probability `power`.

    For a single two-sided paired t test at level `alpha`, by the usual (t quantile + t quantile)
    times standard error. None when n is below 2 or the differences do not vary.
    """
    if n < 2 or sd_of_differences <= 0:
        return None
    quantiles = t_quantile(1 - alpha / 2, n - 1) + t_quantile(power, n - 1)
    return quantiles * sd_of_differences / math.sqrt(n)


def share_power(effect: float, *, discordant: float, n: int, alpha: float = 0.05) -> float:
    """Return the chance that n pairs of 0 and 1 show a true difference, by McNemar's mid-p test.

    Args:
        effect: the true difference of the two shares.
        discordant: the share of pairs that differ, at least the size of the effect.
        n: pairs.
        alpha: level of the two-sided test.
    """
    from scipy.stats import binom  # noqa: PLC0415  (scipy.stats takes a second to import)

    spread = 7 * math.sqrt(n * discordant * (1 - discordant)) + 1
    first, last = max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread) + 1)
    differing = np.arange(first, last + 1)
    # The largest number of losses at which the one-sided mid-p value is below alpha / 2.
    fewest = binom.ppf(alpha / 2, differing, 0.5).astype(np.int64) + 1
    for _ in range(3):
        mid_p = (binom.cdf(fewest, differing, 0.5) + binom.cdf(fewest - 1, differing, 0.5)) / 2
        fewest = np.where(mid_p < alpha / 2, fewest, fewest - 1)
    losing = (discordant - abs(effect)) / (2 * discordant) if discordant else 0.5
    shown = binom.cdf(fewest, differing, losing) + binom.cdf(fewest, differing, 1 - losing)
    return float((binom.pmf(differing, n, discordant) * np.minimum(shown, 1.0)).sum())


def minimum_detectable_share(
    discordant: float, n: int, *, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """Return the smallest true difference of two shares that n pairs find with this probability.

    A difference larger than `discordant` makes more pairs differ: then all of them differ one way.

    Args:
        discordant: the share of pairs that differ.
        n: pairs.
        power: the probability.
        alpha: level of the two-sided test.

    None where not even a difference of 1 is found.
    """

    def shows(effect: float) -> bool:
        both = max(discordant, effect)
        return share_power(effect, discordant=both, n=n, alpha=alpha) >= power

    if n < 1 or not shows(1.0):
        return None
    small, large = 0.0, 1.0
    for _ in range(30):
        middle = (small + large) / 2
        small, large = (small, middle) if shows(middle) else (middle, large)
    return large
