"""A column that a judge needs and that is empty is noticed before anything is paid for."""

import pytest

from evaluators.base import Sample, SampleCheck
from evaluators.metrics.registry import build

GOOD = {"context": "Paris is in France.", "q": "Where?", "nested": {"text": ["Paris"]}}


def error(spec, fields):
    metric = build({"judge": "up/judge"} | spec)
    assert isinstance(metric, SampleCheck)
    messages = ({"role": "user", "content": "Where is Paris?"},)
    return metric.sample_error(Sample(id="1", messages=messages, fields=fields))


@pytest.mark.parametrize(
    ("spec", "column"),
    [
        ({"name": "prometheus", "instruction": "q"}, "q"),
        ({"name": "judge", "kind": "groundedness"}, "context"),
        ({"name": "judge", "kind": "completeness", "instruction": "q"}, "q"),
        ({"name": "rag"}, "context"),
        ({"name": "rag", "instruction": "q"}, "q"),
    ],
)
@pytest.mark.parametrize("empty", ["", " \n", None, [], "\u200b"])
def test_an_empty_column_is_an_error(spec, column, empty):
    assert error(spec, GOOD) == ""
    assert f"the column {column!r} is empty" in error(spec, GOOD | {column: empty})
    without = {name: value for name, value in GOOD.items() if name != column}
    assert f"the column {column!r} is empty" in error(spec, without)


@pytest.mark.parametrize("name", ["rag", "judge"])
def test_the_context_may_be_a_path(name):
    spec = {"name": name, "context": "nested.text"}
    spec |= {"kind": "groundedness"} if name == "judge" else {}
    assert error(spec, GOOD) == ""
    assert "nested.txt" in error(spec | {"context": "nested.txt"}, GOOD)


def test_a_kind_without_a_context_needs_no_such_column():
    assert error({"name": "judge", "kind": "refusal"}, {}) == ""
