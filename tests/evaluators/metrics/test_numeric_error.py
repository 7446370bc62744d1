"""The metric `numeric_error`, by hand and against scikit-learn."""

import math
import random
from statistics import fmean

import pytest

from evaluators.base import Answer, Sample
from evaluators.metrics.registry import build


def scores(spec, text, *references):
    return build(spec).score(Sample(id="1", messages=(), references=references), Answer(text=text))


def rmse(rows):
    [_, output] = build("numeric_error").outputs
    return output.corpus([math.fsum(column) for column in zip(*rows, strict=True)])


@pytest.mark.parametrize(
    ("text", "references", "error"),
    [
        ("It is 7.", ["7"], 0),
        ("3 + 4 = 8", ["7"], 1),
        ("-2", ["3"], 5),
        ("It costs $1,234.50.", ["1,200"], 34.5),
        ("about 3.5万", ["36000"], 1000),
        ("9", ["1", "seven", "7"], 2),  # the nearest
        ("0", ["0"], 0),
    ],
)
def test_the_error_is_the_distance_to_the_nearest_reference(text, references, error):
    mae, root = scores("numeric_error", text, *references)
    assert (mae.output, mae.value, mae.statistics) == ("mae", error, ())
    assert (root.output, root.value, root.statistics) == ("rmse", error, (error**2, 1.0))


@pytest.mark.parametrize(
    ("text", "references", "why"),
    [
        ("", ["7"], "the answer has no number"),
        ("I cannot say.", ["7"], "the answer has no number"),
        ("1e400", ["7"], "the answer has no number"),
        ("7", ["seven"], "the reference has no number"),
        ("7", [], "no reference"),
        ("1e51", ["7"], "the error is over 1e+50"),
    ],
)
def test_what_has_no_number_has_no_value(text, references, why):
    for score in scores("numeric_error", text, *references):
        assert (score.value, score.statistics, score.error) == (None, (), why)


def test_choices():
    assert scores({"name": "numeric_error", "pick": "first"}, "7, not 9", "7")[0].value == 0
    assert scores("numeric_error", "7, not 9", "7")[0].value == 2
    assert scores({"name": "numeric_error", "decimal": ","}, "3,5", "3,0")[0].value == 0.5
    for score in scores("numeric_error", "3,14", "3.14"):
        assert "decimal comma" in score.note
    for score in scores("numeric_error", "3.14", "3.14"):
        assert not score.note


def test_a_route_has_the_root_of_its_mean_squared_error():
    # Errors of 3 and 4: 3.5 on average, sqrt((9 + 16) / 2) together.
    rows = [scores("numeric_error", text, "0") for text in ("3", "-4")]
    assert fmean(mae.value for mae, _ in rows) == 3.5
    assert rmse([root.statistics for _, root in rows]) == pytest.approx(math.sqrt(12.5))


def test_the_largest_errors_give_a_number():
    [_, root] = scores("numeric_error", "1e50", "0")
    assert rmse([root.statistics] * 10) == pytest.approx(1e50)


@pytest.mark.parametrize("seed", range(3))
def test_both_are_scikit_learns(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = random.Random(seed)
    truth = [round(draw.gauss(0, 100), 3) for _ in range(50)]
    predicted = [round(value + draw.gauss(1, 20), 3) for value in truth]
    rows = [
        scores("numeric_error", f"I think it is {guess}.", str(value))
        for guess, value in zip(predicted, truth, strict=True)
    ]
    mae = fmean(score.value for score, _ in rows)
    assert mae == pytest.approx(sklearn.mean_absolute_error(truth, predicted))
    root = rmse([score.statistics for _, score in rows])
    assert root == pytest.approx(sklearn.root_mean_squared_error(truth, predicted))
