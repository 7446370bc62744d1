"""Corrected means of judges with known faults: that the intervals hold, and are narrow."""

import numpy as np
import pytest

from evaluators.stats.corrected_means import corrected_difference, corrected_mean
from evaluators.stats.prediction_powered import (
    FOLDS,
    corrected_share,
    ppi_of_sums,
    ppi_statistics,
    rows_of,
)


def world(seed, *, answers=2000, labels=100, noise=0.5, shift=-0.6):
    """A judge that is too strict and noisy, and people's scores of a random part."""
    random = np.random.default_rng(seed)
    people = random.normal(3.84, 1, size=answers)
    judge = people + shift + noise * random.normal(size=answers)
    known = [None] * answers
    for n in random.permutation(answers)[:labels]:
        known[n] = float(people[n])
    return judge.tolist(), known


@pytest.mark.parametrize(("labels", "noise"), [(100, 0.5), (30, 0.5), (100, 30.0)])
def test_the_corrected_interval_holds(labels, noise):
    held = raw = 0
    widths = []
    for seed in range(600):
        judge, people = world(seed, labels=labels, noise=noise)
        found = corrected_mean(judge, people)
        held += found.mean.low <= 3.84 <= found.mean.high
        raw += abs(np.mean(judge) - 3.84) < 1.96 * np.std(judge) / len(judge) ** 0.5
        widths.append(found.mean.high - found.mean.low)
    assert held / 600 >= 0.93
    alone = 2 * 1.98 / labels**0.5
    if noise < 1:
        assert raw == 0
        assert np.mean(widths) < 0.75 * alone
    else:
        # A judge that knows nothing costs nothing.
        assert np.mean(widths) < 1.1 * alone
        assert found.power < 0.2


def test_answers_of_one_cluster_count_once():
    judge, people = world(1, answers=400, labels=60)
    alone = corrected_mean(judge, people)
    repeated = corrected_mean(
        np.repeat(judge, 4).tolist(),
        [given for given in people for _ in range(4)],
        clusters=np.repeat(np.arange(400), 4).tolist(),
    )
    assert repeated.mean.estimate == pytest.approx(alone.mean.estimate, abs=1e-9)
    assert repeated.mean.low == pytest.approx(alone.mean.low, abs=0.01)


def test_labels_that_were_not_drawn_alike_are_weighed():
    misses = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        people = random.normal(3, 1, size=1000)
        judge = people + random.normal(size=1000) * 0.5 - 0.5 * (people > 3.5)
        chance = np.where(judge > 3, 0.2, 0.05)
        drawn = random.random(1000) < chance
        known = [float(p) if chosen else None for p, chosen in zip(people, drawn, strict=True)]
        found = corrected_mean(judge.tolist(), known, probabilities=chance.tolist())
        misses += not found.mean.low <= 3 <= found.mean.high
    assert misses / 300 <= 0.07
    with pytest.raises(ValueError, match="no chance"):
        corrected_mean([1.0, 2.0], [1.0, 2.0], probabilities=[0.0, 0.5])


def test_few_or_all_labels():
    assert corrected_mean([1.0, 2.0, 3.0], [None, 2.0, None]) is None
    found = corrected_mean([1.0, 2.0, 3.0], [2.0, 2.5, 4.5])
    assert (found.mean.estimate, found.power, found.labelled) == (3.0, 0.0, 3)
    same = corrected_mean([1.0, 2.0], [2.0, 3.0], clusters=["a", "a"])
    assert (same.mean.estimate, same.mean.low) == (2.5, None)


def test_sums_say_the_same():
    judge, people = world(2)
    rows = [
        ppi_statistics(one, other, n)
        for n, (one, other) in enumerate(zip(judge, people, strict=True))
    ]
    found = ppi_of_sums(np.sum(rows, axis=0).tolist())
    # Only the folds differ.
    assert found == pytest.approx(corrected_mean(judge, people).mean.estimate, abs=0.01)
    assert len(rows[0]) == 8 * FOLDS
    unlabelled = np.sum([ppi_statistics(one, None, 0) for one in judge], axis=0)
    assert ppi_of_sums(unlabelled.tolist()) == pytest.approx(np.mean(judge))
    labelled = np.sum([ppi_statistics(1.0, 4.0, n) for n in range(9)], axis=0)
    assert ppi_of_sums(labelled.tolist()) == 4


def test_the_share_of_rogan_and_gladen():
    # Se 0.9, Sp 0.7, 40% good: 54% of the judge's verdicts are good ones.
    found = corrected_share(1080, 2000, sensitivity=(90, 100), specificity=(70, 100))
    assert found.estimate == pytest.approx((0.54 + 0.7 - 1) / 0.6)
    held = 0
    random = np.random.default_rng(0)
    for _ in range(1000):
        good = random.binomial(2000, 0.4)
        passed = random.binomial(good, 0.9) + random.binomial(2000 - good, 0.3)
        interval = corrected_share(
            passed,
            2000,
            sensitivity=(random.binomial(50, 0.9), 50),
            specificity=(random.binomial(50, 0.7), 50),
        )
        held += interval is None or interval.low <= 0.4 <= interval.high
    assert held / 1000 >= 0.93


def test_a_judge_no_better_than_chance_says_nothing_of_a_share():
    assert corrected_share(5, 10, sensitivity=(6, 10), specificity=(5, 10)) is None
    assert corrected_share(0, 0, sensitivity=(90, 100), specificity=(90, 100)) is None


def test_what_the_labels_do_not_show_is_in_the_interval():
    """A judge that is hardly ever wrong, or people who nearly always give five."""
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        people = np.where(random.random(1000) < 0.95, 5.0, 2.0)
        judge = np.where(random.random(1000) < 0.1, 4.0, 5.0)
        given = [*people[:10].tolist(), *[None] * 990]
        found = corrected_mean(judge.tolist(), given, low=1.0, high=5.0)
        held += found.mean.low <= 4.85 <= found.mean.high
    assert held / 200 >= 0.93
    # Ten labels on which all agree do not make an interval without a width.
    found = corrected_mean([5.0] * 100, [5.0] * 10 + [None] * 90, low=1.0, high=5.0)
    assert found.mean.high == 5
    assert found.mean.low == pytest.approx(5 - 4 * (1 - 0.025**0.1))


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("labels", [12, 40])
def test_interval_p_value_and_equivalence_of_a_difference_are_of_one_test(same, labels):
    shown = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        sides = []
        for number in range(2):
            people = np.clip(random.integers(1, 6, 200) + number * (seed % 3), 1, 5).astype(float)
            judge = np.clip(people + random.integers(-1, 3, 200), 1, 5)
            first = 0 if same else number * labels
            given = [
                float(score) if first <= place < first + labels else None
                for place, score in enumerate(people)
            ]
            sides.append(rows_of(judge, given, np.arange(200)))
        found = corrected_difference(*sides, width=4.0, margin=0.8)
        assert -4 <= found.low <= found.difference <= found.high <= 4
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
        # A margin also allows for what the labels do not show.
        assert found.p_equivalence >= 0.05 or (found.low > -0.8 and found.high < 0.8)
        shown += found.p_value < 0.05
    assert shown


def test_rows_are_those_of_each_answer():
    judge, people = world(3, answers=40, labels=10)
    folds = np.arange(40)
    chance = np.linspace(0.1, 1, 40)
    for chances in (None, chance.tolist()):
        one_by_one = [
            ppi_statistics(one, other, n, probability=None if chances is None else chances[n])
            for n, (one, other) in enumerate(zip(judge, people, strict=True))
        ]
        assert rows_of(np.array(judge), people, folds, chances) == pytest.approx(
            np.array(one_by_one)
        )
