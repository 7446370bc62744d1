"""Calibration of real ratings, and of judges whose faults are known."""

import json

import msgspec
import numpy as np
import pytest
from oracle_data import PAIRWISE, vicuna_rows

from evaluators.judge.calibration import Calibration, Item, calibrate, change, findings
from evaluators.judge.pairwise import PairwiseComparison, decide, summarise
from evaluators.judge.prometheus import read_prompt
from evaluators.judge.sheets import calibration_sheets


@pytest.fixture(scope="module")
def rows():
    return vicuna_rows()


def items(rows, judge=slice(0, 1), people=slice(1, 2)):
    found = []
    for n, row in enumerate(rows):
        parts = read_prompt(row["instruction"])
        found.append(
            Item(
                id=str(n),
                judge=tuple(row["gpt4_score"][judge]),
                people=tuple(row["gpt4_score"][people]),
                question=parts.instruction,
                category=row["category"],
                model=row["response_source"],
                words=len(parts.response.split()),
            )
        )
    return found


def test_gpt4_calibrated_against_itself(rows):
    found = calibrate(items(rows), low=1, high=5)
    numbers = {name: round(one.estimate, 4) for name, one in found.agreement.items()}
    assert numbers["pearson"] == 0.7992
    assert numbers["spearman"] == 0.6894
    assert numbers["kappa"] == 0.5473
    assert numbers["kappa_quadratic"] == 0.7985
    assert (found.items, found.scored, found.unparsed) == (320, 320, 0)
    assert sum(map(sum, found.confusion)) == 320
    for one in found.agreement.values():
        assert one.low < one.high
        assert one.low <= one.estimate <= one.high
    assert {group.name for group in found.models} == {
        "chat_gpt",
        "llama-2-chat",
        "vicuna",
        "wizard",
    }
    assert len(found.lengths) == 3
    assert len(found.categories) == len({row["category"] for row in rows})


def test_scores_by_model_and_the_ceiling(rows):
    found = calibrate(items(rows, slice(0, 3), slice(1, 2)), low=1, high=5)
    means = {group.name: round(group.judge.estimate, 4) for group in found.models}
    assert means == {"llama-2-chat": 4.3208, "chat_gpt": 4.2833, "wizard": 4.1292, "vicuna": 3.85}
    assert found.itself.most == 3
    assert 0.75 < found.itself.alpha.estimate < 0.85
    assert round(found.itself.pearson.estimate, 4) == 0.7992
    assert found.people is None


def test_the_report_survives_json(rows):
    found = calibrate(items(rows), low=1, high=5)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Calibration) == found


def test_a_judge_that_likes_words_is_found_out():
    random = np.random.default_rng(0)
    words = random.integers(20, 400, size=200)
    people = random.integers(1, 6, size=200)
    found = calibrate(
        [
            Item(id=str(n), judge=(p + w / 200,), people=(float(p),), words=int(w))
            for n, (p, w) in enumerate(zip(people, words, strict=True))
        ],
        low=1,
        high=5,
    )
    assert found.length_slope.estimate == pytest.approx(0.5)
    assert any("prefers longer answers" in warning for warning in found.warnings)
    assert [group.bias.estimate for group in found.lengths] == sorted(
        group.bias.estimate for group in found.lengths
    )


def test_what_could_not_be_read_is_counted_and_never_a_number():
    some = [Item(id=str(n), judge=(3.0,) if n % 2 else (), people=(3.0,)) for n in range(40)]
    found = calibrate(some, low=1, high=5)
    assert (found.items, found.scored, found.unparsed) == (40, 20, 20)
    assert found.agreement["exact"].estimate == 1.0
    assert found.agreement["pearson"].estimate is None
    assert "20 of 40 answers got no score" in " ".join(found.warnings)
    nothing = calibrate([Item(id="1", judge=(), people=(3.0,))], low=1, high=5)
    assert nothing.agreement["exact"].estimate is None
    assert nothing.confusion == ()


def test_scores_that_are_no_whole_numbers():
    said = [0, 0.5, 1, 0.5] * 10
    some = [
        Item(id=str(n), judge=(value,), people=(value if n % 4 else 0.5,))
        for n, value in enumerate(said)
    ]
    found = calibrate(some, low=0, high=1, scores=(1, 0.5, 0))
    assert found.scores == (0, 0.5, 1)
    assert found.confusion == ((0, 0, 0), (10, 20, 0), (0, 0, 10))
    assert found.agreement["exact"].estimate == 0.75
    assert found.agreement["within_one"].estimate == 1


def test_another_scale_is_told():
    some = [Item(id=str(n), judge=(1.0 + n % 5,), people=(2.0 * (n % 5),)) for n in range(40)]
    # 0, 6 and 8 of 0, 2, 4, 6, 8.
    told = " ".join(calibrate(some, low=1, high=5).warnings)
    assert "24 scores of people lie outside of 1 to 5" in told


def test_bias_by_category_is_told():
    some = [
        Item(id=str(n), judge=(p + (n % 2),), people=(float(p),), category=("plain", "code")[n % 2])
        for n, p in enumerate([1, 2, 3, 4] * 10)
    ]
    found = calibrate(some, low=1, high=5)
    assert [(group.name, group.bias.estimate) for group in found.categories] == [
        ("plain", 0.0),
        ("code", 1.0),
    ]
    assert (
        "The judge gives answers in the category code 1.00 more than others that people scored the "
        "same." in found.warnings
    )


# Regression to the mean is no bias.


def rated(seed, judge, *, n=80, errors=1.0, people=2, clusters=0):
    """Answers of which longer ones are better, by what people and a judge of them say."""
    random = np.random.default_rng(seed)
    quality = random.normal(3, 1, size=n)
    words = (150 + 60 * quality + random.normal(0, 60, size=n)).clip(5).astype(int)
    scores = (quality[:, None] + errors * random.normal(size=(n, people))).round()
    given = judge(random, quality, scores.mean(axis=1), words).round(1 if n > 1000 else 0)
    return [
        Item(
            id=str(i),
            judge=tuple(np.atleast_1d(given[i])),
            people=tuple(scores[i]),
            words=int(words[i]),
            category="abcd"[i % 4],
            model=f"m{i % 5}",
            question=str(i % clusters) if clusters else "",
        )
        for i in range(n)
    ]


@pytest.mark.parametrize(
    "judge",
    [
        lambda random, quality, people, words: random.normal(3, 1, size=len(quality)),
        lambda random, quality, people, words: people,
        lambda random, quality, people, words: people + random.normal(size=len(quality)),
        lambda random, quality, people, words: quality + random.normal(size=len(quality)) / 2,
    ],
    ids=["noise", "people", "noisy people", "quality"],
)
def test_a_judge_without_bias_is_not_accused(judge):
    # A family of ten tests has a false alarm in 5% of calibrations.
    few = [calibrate(rated(seed, judge), low=1, high=5) for seed in range(12)]
    assert sum(bool(found.biases) for found in few) <= 3
    assert calibrate(rated(0, judge, n=1000), low=1, high=5).biases == ()


def test_what_a_judge_likes_is_found_at_equal_scores_of_people():
    def likes(random, quality, people, words):
        second = np.arange(len(quality)) % 4 == 1
        return quality + words / 100 + second + random.normal(size=len(quality)) / 3

    found = calibrate(rated(0, likes, n=400, errors=0.3), low=1, high=5)
    assert found.length_slope.estimate == pytest.approx(1, abs=0.3)
    assert any("prefers longer answers" in bias for bias in found.biases)
    [second] = [group for group in found.categories if group.name == "b"]
    assert second.excess.low < 1 < second.excess.high
    assert second.p_value < 0.001
    assert any("in the category b" in bias and "more than others" in bias for bias in found.biases)
    assert not any("model" in bias for bias in found.biases)
    assert set(found.biases) <= set(found.warnings)


# The ceiling


def test_the_ceiling_is_the_root_of_both_reliabilities():
    def noisy(random, quality, people, words):
        return quality[:, None] + random.normal(size=(len(quality), 3))

    found = calibrate(rated(0, noisy, n=1500), low=1, high=5)
    assert found.itself.icc_single.estimate == pytest.approx(0.5, abs=0.05)
    assert found.itself.icc_mean.estimate == pytest.approx(0.75, abs=0.05)
    assert found.itself.k == 3
    assert found.ceiling.single == pytest.approx(0.5, abs=0.05)
    # Means of three and of two scores, with reliabilities of 3/4 and 2/3.
    assert found.ceiling.means == pytest.approx(np.sqrt(3 / 4 * 2 / 3), abs=0.05)
    assert found.agreement["pearson"].estimate == pytest.approx(found.ceiling.means, abs=0.04)
    [told] = [warning for warning in found.warnings if "agree with itself" in warning]
    assert f"at most {found.ceiling.single:.2f}" in told
    assert f"at most {found.ceiling.means:.2f}" in told
    assert "cannot agree better" not in told


def test_a_judge_may_agree_better_with_people_than_with_itself():
    def noisy(random, quality, people, words):
        return quality[:, None] + random.normal(size=(len(quality), 2))

    found = calibrate(rated(0, noisy, n=2000, errors=0.1, people=1), low=1, high=5)
    assert found.people is None
    assert found.itself.pearson.estimate < 0.55
    assert found.agreement["pearson"].estimate > 0.75
    [told] = [warning for warning in found.warnings if "agree with itself" in warning]
    assert "people's scores taken as exact" in told


# Questions, and answers without a score


def test_pairs_of_answers_are_of_one_question_and_counted():
    # Two turns of one conversation: other instructions, one question.
    some = [
        Item(id=str(n), judge=(float(j),), people=(float(p),), question=f"q{n // 2}")
        for n, (j, p) in enumerate([(1, 1), (2, 2), (5, 3), (4, 4), (3, 5), (3, 1), (2, 2), (2, 2)])
    ]
    found = calibrate(some, low=1, high=5)
    assert found.agreement["pairwise"].estimate == pytest.approx((1 + 0 + 0.5) / 3)
    assert (found.agreement["pairwise"].n, found.units["pairwise"]) == (3, "pairs")
    assert (found.agreement["pearson"].n, found.units["pearson"]) == (8, "answers")
    assert (found.agreement["bias"].n, found.units["bias"]) == (4, "questions")
    [agreement, *_] = calibration_sheets(found)
    over = {measure: counted for measure, _, counted in agreement.rows}
    assert over["Pearson's correlation"] == "8 answers"
    assert over["bias (judge - people)"] == "4 questions"
    alone = [msgspec.structs.replace(item, question="") for item in some]
    # 28 pairs, of which four have two answers that people scored the same.
    assert calibrate(alone, low=1, high=5).agreement["pairwise"].n == 28 - 4


def test_what_people_say_of_the_answers_without_a_score_is_shown():
    some = [
        Item(id=str(n), judge=() if n % 4 == 0 else (4.0,), people=(1.0 + n % 4,))
        for n in range(80)
    ]
    found = calibrate(some, low=1, high=5)
    assert (found.people_unparsed.estimate, found.people_unparsed.n) == (1, 20)
    assert (found.people_parsed.estimate, found.people_parsed.n) == (3, 60)
    [told] = [warning for warning in found.warnings if "got no score" in warning]
    assert "People gave them 1.00 on average and the others 3.00" in told
    assert "leaving them out changes" in told
    fair = [msgspec.structs.replace(item, people=(3.0,)) for item in some]
    assert "leaving them out" not in " ".join(calibrate(fair, low=1, high=5).warnings)
    assert calibrate(some[1:4], low=1, high=5).people_unparsed is None


# What a run says about its judge


def test_what_a_calibration_found_against_a_judge():
    def poor(random, quality, people, words):
        return people * 0.4 + random.normal(size=len(quality)) + 1.2

    against = findings(calibrate(rated(0, poor, n=400), low=1, high=5))
    assert any(clause.startswith("agrees poorly with people (Pearson 0.") for clause in against)
    assert any("less than people on average" in clause for clause in against)
    good = [
        Item(id=str(n), judge=(p + 0.1 * (n % 3 - 1),), people=(float(p),))
        for n, p in enumerate([1, 2, 3, 4, 5] * 30)
    ]
    assert findings(calibrate(good, low=1, high=5)) == []
    [few] = findings(calibrate(good[:4], low=1, high=5))
    assert "not exact enough" in few
    silent = [msgspec.structs.replace(item, judge=()) for item in good[:30]]
    [unread] = findings(calibrate([*good[30:], *silent], low=1, high=5))
    assert unread == "left 30 of 150 answers without a verdict"
    nothing = calibrate([Item(id="1", judge=(3.0,), people=(3.0,))], low=1, high=5)
    assert "could not be compared" in findings(nothing)[0]


def test_drift_between_two_dates(rows):
    before, after = items(rows), items(rows, slice(2, 3))
    found = change(before, after)
    assert found.n == 320
    # The columns 0 and 2 of the README.
    assert round(found.agreement["pearson"].estimate, 4) == 0.8043
    assert found.difference.p_value > 0.05
    harsher = [msgspec.structs.replace(one, judge=(one.judge[0] - 1,)) for one in before]
    moved = change(before, harsher)
    assert moved.difference.difference == -1
    assert moved.difference.p_value < 0.001
    assert moved.pearson_first.estimate == pytest.approx(moved.pearson_second.estimate)
    assert change(before, []).difference is None


# Pairs


def test_only_the_same_winner_in_both_orders_wins():
    assert decide("A", "B") == "first"
    assert decide("B", "A") == "second"
    assert decide("A", "A") == decide("B", "B") == decide("tie", "A") == "tie"
    assert decide("A", None) is None


@pytest.fixture(scope="module")
def pairs():
    lines = PAIRWISE.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


PEOPLE = {"0": "first", "1": "second", "2": "tie"}


def bouts(pairs, forward, backward):
    return [
        PairwiseComparison(
            id=str(n),
            forward=forward(row),
            backward=backward(row),
            people=PEOPLE[str(row["label"])],
            words=(len(row["response 1"].split()), len(row["response 2"].split())),
        )
        for n, row in enumerate(pairs)
    ]


def test_a_judge_that_always_says_first_scores_what_it_must(pairs):
    found = summarise(bouts(pairs, lambda _: "A", lambda _: "A"))
    assert (found.pairs, found.ties, found.unparsed) == (1392, 1392, 0)
    assert found.flip_rate.estimate == 1.0
    assert found.position_a.estimate == 1.0
    assert found.accuracy.estimate == 0.5
    assert found.one_order.estimate == pytest.approx(520 / 1019)
    assert found.agreement.estimate == pytest.approx(373 / 1392)
    assert found.win_rate.estimate == 0.5


def test_a_judge_that_always_prefers_the_longer_answer(pairs):
    def longer(row):
        first, second = len(row["response 1"].split()), len(row["response 2"].split())
        return "A" if first > second else "B" if second > first else "tie"

    other = {"A": "B", "B": "A", "tie": "tie"}
    found = summarise(bouts(pairs, longer, lambda row: other[longer(row)]))
    assert found.flip_rate.estimate == 0
    assert found.length_slope.low > 1
    assert abs(found.length_controlled.estimate - 0.5) < abs(found.win_rate.estimate - 0.5) + 0.02


def test_a_judge_that_says_what_people_say(pairs):
    says = {"0": "A", "1": "B", "2": "tie"}
    other = {"0": "B", "1": "A", "2": "tie"}
    found = summarise(
        bouts(pairs, lambda row: says[str(row["label"])], lambda row: other[str(row["label"])])
    )
    assert found.accuracy.estimate == found.agreement.estimate == found.one_order.estimate == 1
    assert (found.wins, found.ties, found.losses) == (520, 373, 499)
    assert found.win_rate.estimate == pytest.approx((520 + 373 / 2) / 1392)


def test_length_is_taken_out_of_the_win_rate():
    # The first always wins and is always a little longer: equal in all but length.
    random = np.random.default_rng(0)
    some = []
    for n in range(400):
        gap = int(random.normal(60, 50))
        won = random.random() < 1 / (1 + np.exp(-gap / 25))
        verdicts = ("A", "B") if won else ("B", "A")
        some.append(
            PairwiseComparison(
                id=str(n), forward=verdicts[0], backward=verdicts[1], words=(200 + gap, 200)
            )
        )
    found = summarise(some)
    assert found.win_rate.estimate > 0.75
    assert found.length_controlled.low < 0.5 < found.length_controlled.high
    assert found.length_slope.low > 0


def test_pairs_of_one_question_count_once():
    some = [
        PairwiseComparison(
            id=str(n), forward="A", backward="B" if n % 3 else "A", question=f"q{n // 10}"
        )
        for n in range(200)
    ]
    # All ten pairs of a question are as good as one.
    alike = [
        msgspec.structs.replace(one, backward="B" if n // 10 % 3 else "A")
        for n, one in enumerate(some)
    ]
    alone = [msgspec.structs.replace(one, question="") for one in alike]
    together, apart = summarise(alike).win_rate, summarise(alone).win_rate
    assert together.estimate == pytest.approx(apart.estimate)
    assert together.n == apart.n == 200
    assert together.high - together.low > 2 * (apart.high - apart.low)
    # The verdicts of both orders are of one pair.
    assert summarise(alone).position_a.n == 400


def test_a_perfect_judge_has_an_interval_with_a_width():
    some = [
        PairwiseComparison(id=str(n), forward="A", backward="B", people="first") for n in range(20)
    ]
    for interval in (summarise(some).win_rate, summarise(some).accuracy):
        assert (interval.estimate, interval.high) == (1, 1)
        assert interval.low < 0.9


def test_no_pairs_no_numbers():
    found = summarise([PairwiseComparison(id="1", forward="A", backward=None)])
    assert (found.unparsed, found.win_rate.estimate, found.flip_rate.estimate) == (1, None, None)
