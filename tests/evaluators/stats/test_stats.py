"""Statistics against published numbers, scipy, sacreBLEU and simulation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from oracle_data import vicuna_rows
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats as scipy_stats

from evaluators.stats import intervals
from evaluators.stats.differences import (
    holm,
    mcnemar,
    paired_corpus_difference,
    paired_difference,
    paired_t,
    smallest_p_value,
    unpaired_difference,
    wilcoxon,
)
from evaluators.stats.power import (
    minimum_detectable_effect,
    minimum_detectable_share,
    power,
    sample_size,
    share_power,
)
from evaluators.stats.resampling import RESAMPLING_LIMIT
from evaluators.stats.variance import split_variance


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def vicuna() -> dict[str, dict[int, list[int]]]:
    """Model to question to its three GPT-4 scores."""
    scores: dict[str, dict[int, list[int]]] = {}
    for row in vicuna_rows():
        scores.setdefault(row["response_source"], {})[row["idx"]] = row["gpt4_score"]
    return scores


# one mean


@pytest.mark.parametrize("shape", ["normal", "skewed", "binary"])
@pytest.mark.parametrize("n", [8, 60, 400])
def test_bca_agrees_with_scipy(shape, n):
    draw = rng(n)
    values = {
        "normal": draw.normal(5, 2, n),
        "skewed": draw.exponential(1, n),
        "binary": (np.arange(n) % 3 == 0).astype(float),
    }[shape]
    ours = intervals.bca_interval(values, resamples=20_000)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=rng(1)
    ).confidence_interval
    near = 0.04 * (theirs.high - theirs.low)
    if shape == "binary":  # quantiles fall on multiples of 1/n
        near = max(near, 1.01 / n)
    assert ours.estimate == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=near)
    assert ours.high == pytest.approx(theirs.high, abs=near)
    assert (ours.n, ours.method) == (n, "bca")


def test_bca_is_not_the_percentile_interval():
    values = rng(3).exponential(1, 30)
    ours = intervals.bca_interval(values, resamples=20_000)
    plain = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(1)
    ).confidence_interval
    assert ours.high > plain.high + 0.02
    assert ours.low > plain.low + 0.005


@pytest.mark.parametrize(
    "interval", [intervals.mean_interval, intervals.bca_interval, intervals.t_interval]
)
def test_small_and_constant_inputs(interval):
    empty = interval([])
    assert (empty.estimate, empty.low, empty.high, empty.n) == (None, None, None, 0)
    one = interval([0.3])
    assert (one.estimate, one.low, one.high, one.n) == (0.3, None, None, 1)
    same = interval([0.1, 0.1, 0.1])
    assert (same.estimate, same.low, same.high, same.n) == (0.1, None, None, 3)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e100])
def test_scale_does_not_matter(scale):
    values = np.array([1.0, 2.0, 2.5, 9.0, 3.0, 2.2, 1.3, 0.7, 4.0, 4.2])
    plain, scaled = intervals.mean_interval(values), intervals.mean_interval(values * scale)
    assert scaled.low == pytest.approx(plain.low * scale)
    assert scaled.high == pytest.approx(plain.high * scale)


def test_two_distinct_samples_have_a_finite_interval():
    interval = intervals.bca_interval([0.0, 1.0])
    assert 0.0 <= interval.low < interval.estimate < interval.high <= 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        intervals.mean_interval([0.1, bad])
    with pytest.raises(ValueError, match="finite"):
        intervals.corpus_interval([[1.0, bad]], sum)
    with pytest.raises(ValueError, match="finite"):
        paired_difference([0.1, bad], [0.1, 0.2])


def test_clustered_errors_agree_with_statsmodels():
    sm = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    draw = rng(21)
    sizes = draw.integers(1, 9, 40)
    clusters = np.repeat(np.arange(40), sizes)
    values = draw.normal(0, 1, 40)[clusters] + draw.normal(0, 0.5, len(clusters))
    # Statsmodels has no CR2: its residuals of a cluster, adjusted by hand, give the same variance.
    sums = np.bincount(clusters, weights=sm.OLS(values, np.ones(len(values))).fit().resid)
    adjusted = sums / np.sqrt(1 - sizes / len(values))
    error, freedom = intervals.clustered_error(values, clusters.tolist())
    assert error == pytest.approx(np.sqrt((adjusted**2).sum()) / len(values))
    # Bell and McCaffrey's degrees of freedom, from the whole matrices of their definition.
    n = len(values)
    residual_maker = np.eye(n) - np.ones((n, n)) / n
    columns = []
    for cluster in range(40):
        member = (clusters == cluster).astype(float)
        columns.append(residual_maker @ member / np.sqrt(1 - member.sum() / n) / n)
    eigenvalues = np.linalg.eigvalsh(np.stack(columns) @ np.stack(columns).T)
    assert freedom == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    ours = intervals.t_interval(values, clusters=clusters.tolist())
    # Samples of a cluster are alike here, which leaves fewer.
    same, freedom = intervals.clustered_t(values, clusters.tolist())
    assert same == error
    half = scipy_stats.t.ppf(0.975, freedom) * error
    assert (ours.low, ours.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert (ours.estimate, ours.n, ours.method) == (pytest.approx(values.mean()), 40, "clustered t")
    # The interval of reports is wider on the side of the tail.
    shown = intervals.mean_interval(values, clusters=clusters.tolist())
    assert (shown.low, shown.high > ours.high) == (ours.low, True)


def test_clusters_of_one_size_are_samples_of_their_means():
    means = rng(31).normal(size=9)
    values = np.repeat(means, 4) + np.tile([0.1, -0.1, 0.3, -0.3], 9)
    error, freedom = intervals.clustered_error(values, np.repeat(np.arange(9), 4).tolist())
    assert (error, freedom) == pytest.approx((intervals.standard_error(means), 8))


def test_copies_of_a_sample_are_no_evidence():
    values = [0.1, 0.5, 0.9, 0.4, 0.7]
    once = intervals.t_interval(values)
    thrice = intervals.t_interval(values * 3, clusters=list("abcde") * 3)
    assert (thrice.low, thrice.high, thrice.n) == pytest.approx((once.low, once.high, once.n))
    one = intervals.mean_interval([0.1, 0.5], clusters=["a", "a"])
    assert (one.estimate, one.low, one.n) == (pytest.approx(0.3), None, 1)


def test_clusters_must_match_values():
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        intervals.mean_interval([0.1, 0.2], clusters=["a"])


def test_seed_decides():
    values = rng(5).normal(size=40)
    assert intervals.bca_interval(values, seed=4) == intervals.bca_interval(values, seed=4)
    assert intervals.bca_interval(values, seed=4) != intervals.bca_interval(values, seed=5)


def test_t_interval_agrees_with_scipy():
    values = rng(6).normal(3, 1, 25)
    theirs = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.9)
    ours = intervals.t_interval(values, level=0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_coverage_by_simulation():
    draw = rng(7)
    covered = {"bca": 0, "skewed": 0, "t": 0}
    for _ in range(300):
        normal, skewed = draw.normal(2, 1, 50), draw.exponential(1, 50)
        bca = intervals.bca_interval(normal, resamples=1000)
        student = intervals.t_interval(normal)
        lopsided = intervals.bca_interval(skewed, resamples=1000)
        covered["bca"] += bca.low <= 2 <= bca.high
        covered["t"] += student.low <= 2 <= student.high
        covered["skewed"] += lopsided.low <= 1 <= lopsided.high
    assert 0.91 <= covered["bca"] / 300 <= 0.98
    assert 0.91 <= covered["t"] / 300 <= 0.98
    assert 0.89 <= covered["skewed"] / 300 <= 0.98


SHAPES = {
    "exponential": (lambda draw, size: draw.exponential(1, size), 1.0),
    "gamma": (lambda draw, size: draw.gamma(2, 1, size), 2.0),
    "beta, low": (lambda draw, size: draw.beta(2, 6, size), 0.25),
    "beta, at zero": (lambda draw, size: draw.beta(0.5, 2, size), 0.2),
    "beta, high": (lambda draw, size: draw.beta(8, 1.2, size), 8 / 9.2),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [20, 100, 500])
def test_nominal_95_percent_are_95_percent(shape, n):
    sample, mean = SHAPES[shape]
    low, high = (0.0, 1.0) if "beta" in shape else (None, None)
    found = [
        intervals.mean_interval(values, low=low, high=high)
        for values in sample(rng(n + 1), (1000, n))
    ]
    covered = sum(one.low <= mean <= one.high for one in found) / 1000
    assert 0.93 <= covered <= 0.975


def test_the_bootstrap_interval_is_too_narrow_for_few_samples():
    """Why it is not the one in reports."""
    draw = rng(23).exponential(1, (1000, 20))
    bca = [intervals.bca_interval(values, resamples=1000) for values in draw]
    assert 0.86 <= sum(one.low <= 1 <= one.high for one in bca) / 1000 <= 0.925


def test_an_end_is_that_of_student_or_of_hall_whichever_is_further_out():
    even = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 0.5, -0.5, 2.0, -2.0, 0.0])
    ours, student = intervals.mean_interval(even), intervals.t_interval(even)
    assert (ours.low, ours.high) == pytest.approx((student.low, student.high))
    skewed = rng(24).exponential(1, 25)
    ours, student = intervals.mean_interval(skewed), intervals.t_interval(skewed)
    assert ours.method == "hall"
    assert ours.low == pytest.approx(student.low)
    assert ours.high > student.high
    # Hall's cubic function (1992, equation 2), applied to the end, gives Student's quantile back.
    n, mean, error = 25, skewed.mean(), intervals.standard_error(skewed)
    skew = scipy_stats.skew(skewed) * (np.sqrt(n * (n - 1)) / (n - 2)) ** 2.5
    t = (mean - ours.high) / error
    cubic = t + skew * t**2 / (3 * n**0.5) + skew**2 * t**3 / (27 * n) + skew / (6 * n**0.5)
    assert cubic == pytest.approx(scipy_stats.t.ppf(0.025, n - 1))
    # No end is further out than three times that of Student.
    spike = np.array([0.0] * 90 + [1.0])
    ours, student = intervals.mean_interval(spike), intervals.t_interval(spike)
    assert ours.high - ours.estimate == pytest.approx(3 * (student.high - ours.estimate))


def test_a_million_samples_fit_in_memory():
    values = rng(8).random(1_000_000)
    other = values + rng(9).normal(0.001, 0.1, 1_000_000)
    tracemalloc.start()
    try:
        interval = intervals.mean_interval(values)
        paired = paired_difference(other, values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert interval.method == "hall"
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 12**-0.5 / 1000, rel=0.01)
    assert paired.p_value < 1e-6
    assert peak < 200_000_000


def test_resampling_just_below_the_limit_is_chunked_and_agrees_with_t():
    values = rng(10).exponential(1, RESAMPLING_LIMIT)
    tracemalloc.start()
    try:
        bca = intervals.bca_interval(values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    student = intervals.t_interval(values)
    assert (bca.method, student.method) == ("bca", "t")
    assert bca.low == pytest.approx(student.low, abs=0.002)
    assert bca.high == pytest.approx(student.high, abs=0.002)
    assert peak < 100_000_000


# proportions


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(17, 20, 0.6396, 0.9476), (5, 5, 0.5655, 1.0), (11, 23, 0.2924, 0.6704)],
)
def test_wilson_published(successes, n, low, high):
    ours = intervals.wilson(successes, n)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=5e-5)
    theirs = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_wilson_at_the_edges():
    assert intervals.wilson(0, 0).estimate is None
    none = intervals.wilson(0, 7)
    assert none.low == 0.0
    assert 0.0 < none.high < 1.0
    with pytest.raises(ValueError, match="impossible"):
        intervals.wilson(3, 2)


# the vicuna questions


def test_standard_errors_of_the_vicuna_scores(vicuna):
    cells = [
        (question, float(np.mean(scores)))
        for answers in vicuna.values()
        for question, scores in answers.items()
    ]
    values = [value for _, value in cells]
    naive = intervals.standard_error(values)
    clustered = intervals.standard_error(values, clusters=[question for question, _ in cells])
    assert naive == pytest.approx(0.0437, abs=5e-5)
    assert clustered == pytest.approx(0.0642, abs=5e-5)


def test_pairing_matters_on_the_vicuna_scores(vicuna):
    llama, wizard = vicuna["llama-2-chat"], vicuna["wizard"]
    paired = paired_difference(llama, wizard)
    assert paired.difference == pytest.approx(0.1917, abs=5e-5)
    assert paired.n == 80
    assert paired.p_value == pytest.approx(0.0205, abs=0.005)
    assert paired.low > 0
    means = {name: {q: np.mean(s) for q, s in vicuna[name].items()} for name in vicuna}
    a = [means["llama-2-chat"][question] for question in llama]
    b = [means["wizard"][question] for question in llama]
    assert paired_t(np.subtract(a, b)) == pytest.approx(0.0205, abs=5e-5)
    unpaired = unpaired_difference(a, b)
    assert unpaired.difference == pytest.approx(0.1917, abs=5e-5)
    assert unpaired.p_welch == pytest.approx(0.131, abs=5e-4)
    assert paired.effect_size == pytest.approx(
        np.mean(np.subtract(a, b)) / np.std(np.subtract(a, b), ddof=1)
    )


# paired differences


def test_paired_differences_are_tested_by_t():
    a, b = rng(11).normal(0.25, 1, 120), rng(12).normal(0, 1, 120)
    ours, theirs = paired_difference(a, b), scipy_stats.ttest_rel(a, b)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))
    permuted = scipy_stats.permutation_test((a - b,), np.mean, permutation_type="samples").pvalue
    assert ours.p_value == pytest.approx(permuted, abs=0.012)


def test_no_difference_has_a_p_value_of_one():
    same = paired_difference([0.1, 0.7], [0.1, 0.7])
    assert (same.difference, same.low, same.high, same.p_value) == (0, None, None, 1)
    assert (same.effect_size, same.detectable) == (None, None)
    bounded = paired_difference([0.1, 0.7], [0.1, 0.7], low=0.0, high=1.0)
    assert (bounded.low, bounded.high) == pytest.approx((0.025**0.5 - 1, 1 - 0.025**0.5))


def test_five_of_five_cannot_be_significant():
    paired = paired_difference([0.5, 0.6, 0.7, 0.8, 0.9], [0.1] * 5)
    assert paired.p_value == 2 / 2**5 == smallest_p_value(5, paired.method)
    assert paired.low <= 0


def test_false_alarms_are_as_rare_as_promised():
    draw = rng(13)
    alarms = sum(paired_difference(*draw.normal(size=(2, 12))).p_value < 0.05 for _ in range(400))
    assert 0.02 <= alarms / 400 <= 0.08


def test_only_common_samples_count_and_repeats_are_averaged_first():
    a = {"x": [1.0, 0.0], "y": 0.75, "z": 1.0}
    b = {"y": [0.25, 0.25, 0.25], "x": 0.25, "w": 0.0}
    paired = paired_difference(a, b)
    assert paired.n == 2
    assert paired.difference == pytest.approx((0.25 + 0.5) / 2)
    assert (paired.wins, paired.ties, paired.losses) == (2, 0, 0)
    assert paired_difference({"x": 1.0}, {"y": 1.0}) is None
    assert paired_difference([], []) is None


def test_one_pair_has_no_interval():
    paired = paired_difference([0.5], [0.25])
    assert (paired.difference, paired.low, paired.high) == (0.25, None, None)
    assert (paired.p_value, paired.n, paired.effect_size) == (1.0, 1, None)


def test_rounding_noise_is_a_tie():
    paired = paired_difference([0.1 + 0.2, 0.5, 0.9], [0.3, 0.5, 0.1])
    assert (paired.wins, paired.ties, paired.losses) == (1, 2, 0)
    noise = paired_difference([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert (noise.difference, noise.p_value, noise.effect_size) == (0.0, 1.0, None)


def test_unequal_lengths_and_mixed_kinds_are_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([0.1], [0.1, 0.2])
    with pytest.raises(TypeError, match="two mappings or two sequences"):
        paired_difference({"a": 0.1}, [0.1])


def test_paired_t_agrees_with_scipy_and_survives_constants():
    differences = rng(14).normal(0.2, 1, 30)
    assert paired_t(differences) == pytest.approx(scipy_stats.ttest_1samp(differences, 0).pvalue)
    assert paired_t([0.0, 0.0]) == 1.0
    assert paired_t([0.5]) == 1.0
    assert paired_t([0.5, 0.5]) == 0.0


@pytest.mark.parametrize("n", [8, 40, 300])
def test_wilcoxon_agrees_with_scipy(n):
    values = rng(n).normal(0.2, 1, n)
    assert wilcoxon(values) == pytest.approx(scipy_stats.wilcoxon(values).pvalue)
    assert wilcoxon(np.append(values, [0.0, 0.0])) == pytest.approx(wilcoxon(values))
    assert wilcoxon([0.0, 0.0]) == 1.0


@pytest.mark.parametrize(("wins", "losses"), [(9, 1), (3, 3), (1, 0), (40, 61)])
def test_mcnemar_agrees_with_statsmodels_and_its_definition(wins, losses):
    tables = pytest.importorskip(
        "statsmodels.stats.contingency_tables", reason="statsmodels is not installed"
    )
    ours = mcnemar(wins, losses)
    theirs = tables.mcnemar([[5, wins], [losses, 5]], exact=True).pvalue
    assert ours.exact == pytest.approx(min(1.0, theirs))
    # Fagerland and others 2013, equation 6: one probability of what was seen is left out.
    n, fewer = wins + losses, min(wins, losses)
    point = scipy_stats.binom.pmf(fewer, n, 0.5)
    expected = 2 * scipy_stats.binom.cdf(fewer, n, 0.5) - point
    assert ours.mid_p == pytest.approx(expected)
    assert mcnemar(0, 0) == (1.0, 1.0)


def test_zeros_and_ones_are_tested_by_mcnemars_mid_p():
    a = [1.0] * 9 + [0.0] * 1 + [1.0] * 3
    b = [0.0] * 9 + [1.0] * 1 + [1.0] * 3
    assert paired_difference(a, b).p_value == pytest.approx(mcnemar(9, 1).mid_p)


def test_unpaired_agrees_with_scipy_and_statsmodels():
    weights = pytest.importorskip("statsmodels.stats.weightstats", reason="no statsmodels")
    a, b = rng(25).exponential(1, 37), rng(26).normal(0.6, 0.4, 52)
    ours = unpaired_difference(a, b)
    welch = scipy_stats.ttest_ind(a, b, equal_var=False)
    assert ours.p_welch == pytest.approx(welch.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(welch.confidence_interval()))
    theirs = weights.CompareMeans(weights.DescrStatsW(a), weights.DescrStatsW(b))
    assert (ours.low, ours.high) == pytest.approx(theirs.tconfint_diff(usevar="unequal"))
    assert ours.p_mann_whitney == pytest.approx(scipy_stats.mannwhitneyu(a, b).pvalue)
    delta = np.sign(a[:, None] - b[None, :]).mean()
    assert ours.cliffs_delta == pytest.approx(delta)


def test_unpaired_with_next_to_nothing():
    assert unpaired_difference([], [1.0]) is None
    same = unpaired_difference([0.5, 0.5], [0.5])
    assert (same.difference, same.low, same.p_welch) == (0.0, None, None)
    assert (same.p_mann_whitney, same.cliffs_delta) == (1.0, 0.0)


def test_clusters_differ_together():
    draw = rng(27)
    clusters = np.repeat(np.arange(12), 10).tolist()
    alone = clustered = 0
    for _ in range(200):
        differences = draw.normal(0, 1, 12)[clusters] + draw.normal(0, 0.2, 120)
        zeros = np.zeros(120)
        alone += paired_difference(differences, zeros).p_value < 0.05
        clustered += paired_difference(differences, zeros, clusters=clusters).p_value < 0.05
    assert clustered / 200 <= 0.09
    assert alone / 200 >= 0.3  # what ignoring the clusters would claim


def test_whole_clusters_are_drawn_for_corpus_scores():
    draw = rng(28)
    clusters = np.repeat(np.arange(30), 8).tolist()
    values = draw.normal(0, 1, 30)[clusters] + draw.normal(0, 0.3, 240)
    rows = np.stack([values, np.ones(240)], axis=1)
    ours = intervals.corpus_interval(rows, lambda s: s[0] / s[1], clusters=clusters)
    student = intervals.t_interval(values, clusters=clusters)
    assert ours.n == 30
    assert ours.high - ours.low == pytest.approx(student.high - student.low, rel=0.12)
    paired = paired_corpus_difference(
        rows,
        np.stack([np.zeros(240), np.ones(240)], axis=1),
        lambda s: s[0] / s[1],
        clusters=clusters,
    )
    assert paired.high - paired.low == pytest.approx(student.high - student.low, rel=0.12)


# corpus scores

REFERENCES = [
    "the cat sat on the mat by the door",
    "he went home early because it was raining hard",
    "all of the tickets were sold within one hour",
    "nobody knows where the old map was hidden away",
    "she bought three apples and a loaf of bread",
    "the train to the coast leaves at half past nine",
]


def corpus_pair(n: int) -> tuple[list[str], list[str], list[str]]:
    """References, good answers (one word dropped), worse answers (up to four dropped)."""
    draw = rng(15)
    references, good, worse = [], [], []
    for index in range(n):
        words = REFERENCES[index % len(REFERENCES)].split()
        references.append(" ".join(words))
        for into, most in ((good, 3), (worse, 4)):
            kept = sorted(
                draw.choice(len(words), len(words) - draw.integers(0, most), replace=False)
            )
            into.append(" ".join(words[place] for place in kept))
    return references, good, worse


def bleu_statistics(metric: BLEU, answers: list[str], references: list[str]) -> np.ndarray:
    return np.array(metric._extract_corpus_statistics(answers, [references]), dtype=float)


def bleu_corpus(metric: BLEU):
    return lambda sums: metric._compute_score_from_stats(list(sums)).score


def test_corpus_interval_agrees_with_sacrebleu():
    references, good, _ = corpus_pair(60)
    metric = BLEU()
    theirs = metric.corpus_score(good, [references], n_bootstrap=1000)
    rows = bleu_statistics(metric, good, references)
    ours = intervals.corpus_interval(rows, bleu_corpus(metric))
    assert ours.estimate == pytest.approx(theirs.score)
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.1)
    assert (ours.n, ours.method) == (60, "bootstrap t")


def test_paired_corpus_difference_agrees_with_sacrebleu():
    references, good, worse = corpus_pair(40)
    metric = BLEU()
    a = bleu_statistics(metric, good, references)
    b = bleu_statistics(metric, worse, references)
    ours = paired_corpus_difference(a, b, bleu_corpus(metric))
    test = PairedTest(
        [("worse", worse), ("good", good)],
        {"BLEU": BLEU(references=[references])},
        references=None,
        test_type="ar",
        n_samples=4000,
    )
    base, other = test()[1]["BLEU"]
    assert ours.difference == pytest.approx(other.score - base.score)
    assert 0.001 < other.p_value < 0.6  # else the comparison below shows nothing
    assert ours.p_value == pytest.approx(other.p_value, abs=0.03)
    assert ours.low < ours.difference < ours.high
    assert (ours.wins, ours.ties, ours.losses, ours.effect_size) == (None,) * 4


def test_paired_corpus_difference_of_a_mean_is_the_paired_difference():
    a, b = rng(16).normal(0.4, 1, (2, 40)) + np.array([[0.3], [0.0]])

    def mean(sums):
        return sums[0] / sums[1]

    ones = np.ones(40)
    ours = paired_corpus_difference(np.stack([a, ones], axis=1), np.stack([b, ones], axis=1), mean)
    plain = paired_difference(a, b)
    assert ours.difference == pytest.approx(plain.difference)
    assert ours.p_value == pytest.approx(plain.p_value, abs=0.012)
    assert ours.low == pytest.approx(plain.low, abs=0.04)
    assert ours.high == pytest.approx(plain.high, abs=0.04)
    assert ours.detectable == pytest.approx(plain.detectable, rel=0.1)


def test_identical_corpora_are_not_different():
    rows = rng(18).integers(1, 9, (30, 4)).astype(float)
    paired = paired_corpus_difference(rows, rows, lambda s: s[0] / s[1])
    assert (paired.difference, paired.low, paired.high, paired.p_value) == (0, None, None, 1)


def test_corpus_with_few_samples():
    assert intervals.corpus_interval([], sum).estimate is None
    one = intervals.corpus_interval([[1.0, 2.0]], sum)
    assert (one.estimate, one.low, one.high) == (3.0, None, None)
    assert paired_corpus_difference([], [], sum) is None
    pair = paired_corpus_difference([[1.0]], [[0.0]], sum)
    assert (pair.difference, pair.low, pair.p_value) == (1.0, None, 1.0)


def test_corpus_misuse_is_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_corpus_difference([[1.0]], [[1.0], [2.0]], sum)
    with pytest.raises(ValueError, match="one row"):
        intervals.corpus_interval([1.0, 2.0], sum)
    with pytest.raises(ValueError, match="corpus score"):
        intervals.corpus_interval([[1.0]], lambda _: float("nan"))


def test_many_samples_are_resampled_in_blocks():
    n = 3 * RESAMPLING_LIMIT + 17
    values = rng(19).exponential(1, n)
    rows = np.stack([values, np.ones(n)], axis=1)
    corpus = intervals.corpus_interval(rows, lambda s: s[0] / s[1], resamples=400)
    student = intervals.t_interval(values)
    assert corpus.estimate == pytest.approx(student.estimate)
    assert corpus.n == n
    assert corpus.high - corpus.low == pytest.approx(student.high - student.low, rel=0.15)


# families and power


def test_holm_published():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("n", [5, 20, 200])
def test_minimum_detectable_effect_has_the_promised_power(n):
    effect = minimum_detectable_effect(2.0, n)
    shift = effect / 2.0 * n**0.5
    critical = scipy_stats.t.ppf(0.975, n - 1)
    found = scipy_stats.nct.sf(critical, n - 1, shift)
    assert found == pytest.approx(0.8, abs=0.03)
    assert minimum_detectable_effect(2.0, 4 * n) == pytest.approx(effect / 2, rel=0.25)


def test_minimum_detectable_effect_needs_spread():
    assert minimum_detectable_effect(0.0, 10) is None
    assert minimum_detectable_effect(1.0, 1) is None


@pytest.mark.parametrize(("effect", "sd", "n"), [(0.02, 0.1, 200), (0.5, 1.0, 10), (0.01, 1, 50)])
def test_power_and_sample_size_agree_with_statsmodels(effect, sd, n):
    module = pytest.importorskip("statsmodels.stats.power", reason="statsmodels is not installed")
    theirs = module.TTestPower()
    assert power(effect, sd=sd, n=n) == pytest.approx(theirs.power(effect / sd, n, 0.05), abs=1e-6)
    needed = theirs.solve_power(effect / sd, power=0.8, alpha=0.05)
    assert sample_size(effect, sd=sd) == int(np.ceil(needed))


def test_power_at_the_edges():
    assert power(5.0, sd=0.01, n=1000) == 1.0
    assert power(0.0, sd=1.0, n=30) == pytest.approx(0.05)
    assert sample_size(1e-9, sd=1.0) is None
    assert sample_size(5.0, sd=0.1) >= 2
    with pytest.raises(ValueError, match="vary"):
        power(0.1, sd=0.0, n=30)
    with pytest.raises(ValueError, match="needs an effect"):
        sample_size(0.0, sd=1.0)


@pytest.mark.parametrize(
    ("discordant", "n", "alpha"),
    [
        (0.1, 200, 0.05),
        (0.1, 200, 0.05 / 12),
        (0.3, 50, 0.05),
        (0.2, 20, 0.05),
        (0.05, 500, 0.0125),
    ],
)
def test_the_smallest_difference_of_shares_is_found_in_four_of_five_runs(discordant, n, alpha):
    effect = minimum_detectable_share(discordant, n, alpha=alpha)
    differ = max(discordant, effect)
    shares = [(differ + effect) / 2, (differ - effect) / 2, 1 - differ]
    tables = rng(32).multinomial(n, shares, 3000).tolist()
    found = sum(mcnemar(wins, losses).mid_p < alpha for wins, losses, _ in tables) / 3000
    assert found == pytest.approx(0.8, abs=3 * (0.8 * 0.2 / 3000) ** 0.5)
    assert share_power(effect, discordant=differ, n=n, alpha=alpha) == pytest.approx(0.8, abs=0.02)


def test_the_smallest_difference_of_shares_at_the_edges():
    assert minimum_detectable_share(0.1, 0) is None
    assert minimum_detectable_share(0.1, 5) is not None  # five of five: p = 1/32 by mid-p
    assert minimum_detectable_share(0.1, 4) is None
    assert minimum_detectable_share(0.0, 100) == pytest.approx(
        minimum_detectable_share(1e-9, 100), abs=1e-6
    )
    # Without a difference, the level.
    assert share_power(0.0, discordant=0.5, n=400) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(("comparisons", "single"), [(4, 0.61), (12, 0.43)])
def test_a_promise_without_correction_is_not_kept_after_it(comparisons, single):
    """80% of a single test are 61% as the smallest of 4 and 43% of 12."""
    effect = minimum_detectable_effect(1.0, 200)
    corrected = power(effect, sd=1.0, n=200, alpha=0.05 / comparisons)
    assert corrected == pytest.approx(single, abs=0.04)
    promised = minimum_detectable_effect(1.0, 200, alpha=0.05 / comparisons)
    assert power(promised, sd=1.0, n=200, alpha=0.05 / comparisons) == pytest.approx(0.8, abs=0.01)


# repeats


def test_variance_is_split_as_it_was_made():
    draw = rng(29)
    samples = np.repeat(np.arange(3000), 3)
    values = draw.normal(0, 2, 3000)[samples] + draw.normal(0, 1, 9000)
    found = split_variance(samples, values)
    assert found.between_samples == pytest.approx(4, rel=0.1)
    assert found.between_repeats == pytest.approx(1, rel=0.05)
    assert found.share_of_repeats == pytest.approx(0.2, abs=0.02)
    assert (found.samples, found.repeats) == (3000, 3)


def test_variance_split_agrees_with_statsmodels():
    lmm = pytest.importorskip("statsmodels.regression.mixed_linear_model", reason="no statsmodels")
    draw = rng(30)
    samples = np.repeat(np.arange(40), 4)
    values = draw.normal(0, 2, 40)[samples] + draw.normal(0, 1, 160)
    found = split_variance(samples, values)
    fitted = lmm.MixedLM(values, np.ones(160), groups=samples).fit(reml=True)
    # For equally many repeats the ANOVA estimator is that of restricted maximum likelihood.
    assert found.between_repeats == pytest.approx(fitted.scale, rel=1e-3)
    assert found.between_samples == pytest.approx(fitted.cov_re[0, 0], rel=1e-3)


def test_variance_split_without_repeats_or_spread():
    assert split_variance([0, 1, 2], [0.1, 0.2, 0.3]) is None
    assert split_variance([0, 0], [0.1, 0.2]) is None
    same = split_variance([0, 0, 1, 1], [0.5] * 4)
    assert (same.between_samples, same.between_repeats, same.share_of_repeats) == (0, 0, None)
    noise = split_variance([0, 0, 1, 1], [0.0, 1.0, 0.0, 1.0])
    assert noise.between_samples == 0.0  # the estimator itself would be below 0


# anything finite gives something finite


@settings(max_examples=150, deadline=None)
@given(
    strategies.lists(
        strategies.one_of(
            strategies.sampled_from([0.0, 1.0, 0.1]),
            strategies.floats(-1e100, 1e100, allow_nan=False, allow_infinity=False),
        ),
        min_size=2,
        max_size=20,
    )
)
def test_never_nan(values):
    constant = min(values) == max(values)
    low, high = min(values) - 1.0, max(values) + 1.0
    for interval in (
        intervals.mean_interval(values),
        intervals.bca_interval(values, resamples=200),
        intervals.mean_interval(values, low=low, high=high),
    ):
        assert np.isfinite(interval.estimate)
        assert (interval.low is None) is (interval.method in {"constant", "none"})
        assert interval.method != "none" or len(values) < 10
        assert constant or interval.method != "constant"
        if interval.low is not None:
            assert np.isfinite([interval.low, interval.high]).all()
            assert interval.low <= interval.high
    paired = paired_difference(values, values[::-1], low=low, high=high, margin=1.0)
    assert np.isfinite([paired.difference, paired.low, paired.high, paired.p_equivalence]).all()
    assert paired.low <= paired.high
    assert 0 <= paired.p_value <= 1
    assert paired.wins + paired.ties + paired.losses == paired.n == len(values)
