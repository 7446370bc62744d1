"""Plans of labels: that they keep their promise, with a judge whose errors are known."""

import numpy as np
import pytest

from evaluators.stats.corrected_means import corrected_mean
from evaluators.stats.label_plan import plan_labels


def world(seed, answers=3000):
    """Answers of which the judge is sure and right, and others of which it is neither."""
    random = np.random.default_rng(seed)
    people = random.normal(3, 1, size=answers)
    uncertainty = np.where(random.random(answers) < 0.3, 1.0, 0.2)
    return people, people - 0.4 + uncertainty * random.normal(size=answers), uncertainty


def graded(seed, answers=1000):
    """Grades of people, and of a judge of 0 to 10 who is sure of all of them alike."""
    random = np.random.default_rng(seed)
    people = random.choice(np.arange(1.0, 6), answers)
    return people, 2 * people + random.normal(size=answers), np.zeros(answers)


@pytest.mark.parametrize(("kind", "truth", "width"), [(world, 3.0, 0.15), (graded, 3.0, 0.2)])
def test_the_labels_give_the_width_that_was_promised(kind, truth, width):
    held, widths, promised, labels = 0, [], [], []
    for seed in range(150):
        people, judge, uncertainty = kind(seed)
        random = np.random.default_rng(seed + 1000)
        known = [None] * len(people)
        for place in random.permutation(len(people))[:100]:
            known[place] = float(people[place])
        plan = plan_labels(judge.tolist(), uncertainty.tolist(), known, width=width, seed=seed)
        assert plan.measured
        assert not any(known[place] is not None for place in plan.chosen)
        for place in plan.chosen:
            known[place] = float(people[place])
        found = corrected_mean(judge.tolist(), known, probabilities=plan.probabilities)
        held += found.mean.low <= truth <= found.mean.high
        widths.append(found.mean.high - found.mean.low)
        promised.append(plan.expected_width)
        labels.append(sum(given is not None for given in known) / plan.needed)
    assert held / 150 >= 0.9
    assert np.mean(promised) == pytest.approx(width, rel=0.02)
    assert np.mean(widths) == pytest.approx(width, rel=0.06)
    assert np.mean(labels) == pytest.approx(1, rel=0.02)


def test_a_plan_goes_by_what_the_judge_leaves_unexplained():
    """The judge's scores are of another scale: only their correlation with people's counts."""
    people, judge, uncertainty = graded(3)
    known = [float(given) if n < 60 else None for n, given in enumerate(people)]
    plans = [
        plan_labels((factor * judge).tolist(), uncertainty.tolist(), known, width=0.2)
        for factor in (0.5, 0.6)
    ]
    assert plans[0].error == pytest.approx(0.5, abs=0.1)
    assert plans[0].needed == pytest.approx(plans[1].needed, rel=0.05)
    # Without labels the judge may be of no use, and every answer has to be labelled.
    unknown = plan_labels(judge.tolist(), uncertainty.tolist(), [None] * 1000, width=0.2)
    assert plans[0].needed < 500 < unknown.needed == 1000


def test_a_plan_has_enough_labels_to_be_corrected_by():
    judge = [n / 100 for n in range(100)]
    for labelled in (0, 9, 10, 19):
        known = [judge[n] if n < labelled else None for n in range(100)]
        plan = plan_labels(judge, [0.0] * 100, known, width=10.0)
        assert plan.measured is (labelled >= 10)
        assert plan.needed == 20
        assert len(plan.chosen) <= 30
    assert plan_labels(judge[:5], [0.0] * 5, [None] * 5, width=10.0).needed == 5


def test_uncertain_answers_are_chosen_more_often():
    _, judge, uncertainty = world(0)
    plan = plan_labels(judge.tolist(), uncertainty.tolist(), [None] * 3000, width=0.2)
    assert len(plan.chosen) == pytest.approx(plan.needed, rel=0.2)
    assert (uncertainty[list(plan.chosen)] == 1).mean() > 0.42
    assert (uncertainty == 1).mean() == pytest.approx(0.3, abs=0.03)
    assert sum(plan.probabilities) == pytest.approx(plan.needed, abs=0.5)
    # Without labels the judge may be of no use.
    assert not plan.measured
    assert plan.error == pytest.approx(float(judge.std()))
    assert plan.expected_width == pytest.approx(0.2, rel=0.1)


def test_labels_that_suffice_need_no_more():
    people, judge, uncertainty = world(1)
    known = [float(given) if n < 2000 else None for n, given in enumerate(people)]
    plan = plan_labels(judge.tolist(), uncertainty.tolist(), known, width=0.5)
    assert (plan.needed, plan.chosen) == (2000, ())
    assert plan.probabilities == pytest.approx([2 / 3] * 3000)
    chances = [0.5] * 3000
    plan = plan_labels(judge.tolist(), uncertainty.tolist(), known, width=0.5, earlier=chances)
    assert plan.probabilities == pytest.approx(chances)


def test_a_width_that_nothing_gives_takes_every_answer():
    plan = plan_labels([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [None] * 3, width=1e-6)
    assert plan.needed == 3
    assert (plan.chosen, plan.probabilities) == ((0, 1, 2), (1.0, 1.0, 1.0))
    for judge, width in (([], 0.1), ([1.0], 0.0)):
        with pytest.raises(ValueError, match="a plan needs"):
            plan_labels(judge, [1.0] * len(judge), [None] * len(judge), width=width)
