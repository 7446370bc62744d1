"""The list of outputs that messages use, against the metrics."""

import pytest

from evaluators.metrics import registry
from evaluators.metrics.output_names import metric_with, not_produced


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "classification", "labels": ["a", "b"]},
        "cost",
        "exact_match",
        "f1",
        "latency",
        "length",
        "levenshtein",
        "numeric",
        "numeric_error",
        "readability",
        "rouge",
    ],
)
def test_the_metric_of_every_output_is_known(spec):
    name = spec if isinstance(spec, str) else spec["name"]
    for output in registry.build(spec, param="metrics[0]").outputs:
        expected = None if output.name == name else name
        assert metric_with(output.name) == expected, output.name


def test_an_output_that_a_run_lacks_is_answered_with_its_metric_or_a_name_like_it():
    said = not_produced("latency_s", ["rougeL"])
    assert said == "no metric of this run produces 'latency_s'. Add the metric 'latency'."
    assert not_produced("ruogeL", ["rougeL"]).endswith("Did you mean 'rougeL'?")
