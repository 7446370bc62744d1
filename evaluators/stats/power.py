"""How many samples it takes: power, sample size, and the smallest difference that shows.

    power(0.02, sd=0.1, n=200)          -> 0.80...
    sample_size(0.02, sd=0.1)           -> 199
    minimum_detectable_effect(0.1, 200) -> 0.0199...

    minimum_detectable_share(0.1, 200)  -> 0.0604...

The first three are of a two-sided paired t test; `sd` is the standard deviation of the differences
between the two routes, sample by sample. The last is of McNemar's mid-p test, for scores of 0 and
1. Correcting for a family of K comparisons costs power: Holm's first step is a test at alpha / K.
That of a run that was looked at, `always_valid_effect`, is larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evaluators.stats.intervals import t_quantile
from evaluators.stats.resampling import Floats
from evaluators.stats.sequential import ASYMPTOTIC_MINIMUM, BETS, asymptotic_spread

MAX_SAMPLES = 10**9
"""The largest number of pairs that `sample_size` tries."""

_MANY_DIFFERENT = 200  # so many make the binomial distribution a normal one


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


def effect_of_verdict(effect: float, n: int, *, tests: int, power: float = 0.8) -> float:
    """Return what `minimum_detectable_effect` is of one test out of several, from that of one.

    Args:
        effect: the smallest difference that n pairs find by a single test at 5%.
        n: pairs, or clusters.
        tests: by how many the level is divided.
        power: the probability.
    """
    quantiles = [t_quantile(1 - 0.05 / 2 / parts, n - 1) for parts in (1, tests)]
    alone, corrected = (quantile + t_quantile(power, n - 1) for quantile in quantiles)
    return effect * corrected / alone


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


def always_valid_effect(
    sd: float,
    n: int,
    *,
    width: float | None,
    whole: bool = False,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float | None:
    """Return the smallest true mean difference that a run finds which was looked at before.

    By the tests of `always_valid.py`, after n pairs; where a run may end early it can be shown
    sooner, and so is found at least as often. Without `whole`, a difference of scores with a range
    is taken to lie a standard deviation above the mean or below.

    Args:
        sd: standard deviation of the differences.
        n: pairs, or clusters where pairs are in clusters; then `sd` is that of a cluster's mean.
        width: the largest difference that the score's range allows; None without a range, and for
            clusters.
        whole: whether each difference is of the whole range or none, as of scores of 0 and 1.
        power: the probability.
        alpha: level of the two-sided test.

    None where not even the largest difference is found.
    """
    if n < 2 or sd <= 0:
        return None
    if width is None:
        if n < ASYMPTOTIC_MINIMUM:
            return None
        spread = n * asymptotic_spread(0.05)
        evidence = math.log(1 / alpha) + math.log(spread + 1) / 2
        needed = math.sqrt(2 * (spread + 1) / spread * evidence)
        return (needed + NormalDist().inv_cdf(power)) * sd / math.sqrt(n)
    quantile, bets = NormalDist().inv_cdf(power), np.array(BETS)
    variance = min(1.0, (sd / width) ** 2)

    def shows(effect: float) -> bool:
        if whole:
            differing = min(1.0, variance + effect**2)
            gap = effect * n - quantile * math.sqrt(n * max(0.0, differing - effect**2))
            wins = min(max((differing * n + gap) / 2, 0.0), differing * n)
            logs = wins * np.log1p(bets) + (differing * n - wins) * np.log1p(-bets)
        else:
            up, down = (max(-1.0, min(1.0, effect + x)) for x in (variance**0.5, -(variance**0.5)))
            above = max(0.0, n / 2 - quantile * math.sqrt(n) / 2)
            logs = above * np.log1p(bets * up) + (n - above) * np.log1p(bets * down)
        top = float(logs.max())
        capital = top + math.log(float(np.exp(logs - top).sum()))
        return capital > math.log(2 * len(BETS) / alpha)

    smallest = _smallest(shows, 1.0)
    return None if smallest is None else smallest * width


def share_power(effect: float, *, discordant: float, n: int, alpha: float = 0.05) -> float:
    """Return the chance that n pairs of 0 and 1 show a true difference, by McNemar's mid-p test.

    Args:
        effect: the true difference of the two shares.
        discordant: the share of pairs that differ, at least the size of the effect.
        n: pairs.
        alpha: level of the two-sided test.
    """
    from scipy.special import bdtr, bdtrik, gammaln, xlog1py, xlogy  # noqa: PLC0415  (slow to import)

    def below(losses: Floats, pairs: NDArray[np.int64], chance: float) -> Floats:
        """Return the chance of at most so many losses."""
        return np.where(losses < 0, 0.0, bdtr(np.maximum(losses, 0.0), pairs, chance))

    spread = 7 * math.sqrt(n * discordant * (1 - discordant)) + 1
    first, last = max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread) + 1)
    differing = np.arange(first, last + 1)
    # The largest number of losses at which the one-sided mid-p value is below alpha / 2.
    quantile = bdtrik(alpha / 2, np.maximum(differing, 1), 0.5)
    fewest = np.ceil(np.where(np.isnan(quantile), 0, quantile)) + 1
    for _ in range(4):
        mid_p = (below(fewest, differing, 0.5) + below(fewest - 1, differing, 0.5)) / 2
        fewest = np.where((mid_p < alpha / 2) | (fewest < 0), fewest, fewest - 1)
    losing = (discordant - abs(effect)) / (2 * discordant) if discordant else 0.5
    shown = below(fewest, differing, losing) + below(fewest, differing, 1 - losing)
    log_chances = (
        gammaln(n + 1)
        - gammaln(differing + 1)
        - gammaln(n - differing + 1)
        + xlogy(differing, discordant)
        + xlog1py(n - differing, -discordant)
    )
    return float((np.exp(log_chances) * np.minimum(shown, 1.0)).sum())


# It takes milliseconds, and comparisons of one report are of the same few tables.
@lru_cache(maxsize=4096)
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
    if n * discordant >= _MANY_DIFFERENT:
        level, part = (NormalDist().inv_cdf(share) for share in (1 - alpha / 2, power))

        def needed(effect: float) -> float:
            differing = max(discordant, effect)
            spread = math.sqrt(max(0.0, differing - effect**2))
            return level * math.sqrt(differing) + part * spread

        return _smallest(lambda effect: effect * n**0.5 >= needed(effect), 1.0)

    def shows(effect: float) -> bool:
        both = max(discordant, effect)
        return share_power(effect, discordant=both, n=n, alpha=alpha) >= power

    return _smallest(shows, 1.0) if n > 0 else None


def _smallest(shows: Callable[[float], bool], largest: float) -> float | None:
    """Return the smallest effect that shows, by halving; None where the largest does not."""
    if not shows(largest):
        return None
    small, large = 0.0, largest
    for _ in range(20):
        middle = (small + large) / 2
        small, large = (small, middle) if shows(middle) else (middle, large)
    return large
