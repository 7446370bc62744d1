"""Calibration of real ratings, and of judges whose faults are known."""

import json

import msgspec
import numpy as np
import pytest
from oracle_data import PAIRWISE, vicuna_rows

from evaluators.judge.calibration import Calibration, Item, calibrate, change, length_slope
from evaluators.judge.pairwise import PairwiseComparison, decide, summarise
from evaluators.judge.prometheus import read_prompt


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
    assert length_slope([5, 5], [1.0, 2.0]).estimate is None


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
    assert "The judge is kinder than people in the category code." in found.warnings


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


def test_no_pairs_no_numbers():
    found = summarise([PairwiseComparison(id="1", forward="A", backward=None)])
    assert (found.unparsed, found.win_rate.estimate, found.flip_rate.estimate) == (1, None, None)
