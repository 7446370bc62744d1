"""The form that begins a run: the document that it stands for, and back."""

import json

import msgspec
import pytest

from evaluators.document import RunDocument
from providers.errors import RunDocumentError
from router.api.run_form import RunForm, document_of_form, errors_by_field, form_of, read_form

FULL = {
    "dataset": "d@abc123",
    "routes": ["a", "b"],
    "metrics": [
        "rouge",
        {"name": "judge", "judge": "j", "kind": "harm"},
        {"name": "regex", "pattern": "[0-9]+"},
    ],
    "name": "n",
    "task": "summarization",
    "experiment": "e",
    "tags": ["x", "y"],
    "notes": "two\nlines",
    "messages": [{"role": "user", "content": "{{ input }}"}],
    "parameters": {"temperature": 0.5, "max_tokens": 100, "stop": ["."]},
    "repeats": 3,
    "sample": {"n": 10, "seed": 4},
    "baseline": "a",
    "gates": ["rougeL >= 0.2"],
    "limits": {"concurrency": 3, "cost_usd": 2.5},
}


def sorted_metrics(document):
    specs = (json.dumps(spec, sort_keys=True) for spec in document["metrics"])
    return document | {"metrics": sorted(specs)}


def test_a_document_is_the_same_after_it_was_a_form():
    form = form_of(FULL)
    assert sorted_metrics(document_of_form(form).data) == sorted_metrics(FULL)
    assert (form.judge, form.judged_by) == ("j", "judge:harm")
    assert (form.draw, form.limit, form.seed) == ("random", "10", "4")
    assert (form.temperature, form.max_tokens, form.cost_usd) == ("0.5", "100", "2.5")
    # What no field can say.
    assert "messages:" in form.rest
    assert "concurrency: 3" in form.rest
    assert "temperature" not in form.rest


@pytest.mark.parametrize(
    "document",
    [
        {"dataset": "d", "routes": ["a"], "metrics": []},
        {"dataset": "d", "routes": ["a", "b"], "metrics": ["f1"]},
        {"dataset": "d", "routes": ["a", "b"], "task": "summarization", "baseline": None},
        {"dataset": "d", "routes": ["a"], "metrics": ["f1"], "limit": 5},
        {"dataset": "d", "routes": ["a"], "metrics": ["f1"], "sample": {"n": 5, "by": "topic"}},
        {"dataset": "d", "routes": ["a"], "task": {"name": "classification", "labels": ["x"]}},
        {"dataset": "d", "routes": ["a"], "metrics": ["f1"], "tags": [], "gates": []},
        {"dataset": "d", "routes": ["a"], "metrics": ["f1"], "limit": True, "notes": 5},
        {"dataset": "d", "routes": ["a"], "metrics": [{"name": "judge", "judge": ["j", "k"]}]},
    ],
)
def test_odd_documents_are_the_same_after_they_were_a_form(document):
    defaults = {"tags": [], "gates": []}
    found = document_of_form(form_of(document)).data
    assert defaults | found == defaults | document


def test_a_whole_document_is_read_as_it_is():
    document = document_of_form(RunForm(rest='{"dataset": "d"}', whole=True, name="ignored"))
    assert document.data == {"dataset": "d"}
    with pytest.raises(RunDocumentError, match="document:1:"):
        document_of_form(RunForm(rest="a: [", whole=True))
    with pytest.raises(RunDocumentError, match="must be an object"):
        document_of_form(RunForm(rest="[1]", whole=True))


def test_what_a_stored_document_leaves_at_its_defaults_is_left_out():
    stored = msgspec.to_builtins(RunDocument(dataset="d", routes=("a",), metrics=("f1",)))
    form = form_of(stored)
    assert form == RunForm(dataset="d", models="a", metrics=("f1",))


def test_fields_and_the_rest_are_put_together():
    form = RunForm(
        dataset="d",
        routes=("a",),
        models="b\n\n c \n",
        metrics=("f1",),
        temperature="0",
        rest="parameters: {top_p: 0.5}\nroutes: [d]\nmargins: {f1: 0.1}",
    )
    data = document_of_form(form).data
    assert data["routes"] == ["a", "b", "c", "d"]
    assert data["parameters"] == {"temperature": 0, "top_p": 0.5}
    assert data["margins"] == {"f1": 0.1}


def test_without_a_baseline_it_is_the_first_route():
    form = RunForm(dataset="d", routes=("b", "a"), metrics=("f1",))
    assert document_of_form(form).data["baseline"] == "b"
    none = msgspec.structs.replace(form, no_baseline=True)
    assert "baseline" not in document_of_form(none).data
    alone = msgspec.structs.replace(form, routes=("a",))
    assert "baseline" not in document_of_form(alone).data
    # A task names its own, unless there is to be none.
    task = msgspec.structs.replace(form, task="summarization")
    assert "baseline" not in document_of_form(task).data
    none = msgspec.structs.replace(task, no_baseline=True)
    assert document_of_form(none).data["baseline"] is None
    both = msgspec.structs.replace(form, baseline="a", no_baseline=True)
    with pytest.raises(RunDocumentError, match="the run is to have none"):
        document_of_form(both)


@pytest.mark.parametrize(
    ("rest", "path"),
    [("name: x", "name"), ("parameters: {temperature: 1}", "parameters.temperature")],
)
def test_what_is_in_both_is_refused(rest, path):
    form = RunForm(dataset="d", models="a", metrics=("f1",), name="n", temperature="0", rest=rest)
    with pytest.raises(RunDocumentError, match="there is a field for it") as refused:
        document_of_form(form)
    assert refused.value.param == path


def test_what_every_run_needs_is_named_at_its_field():
    with pytest.raises(RunDocumentError) as refused:
        document_of_form(RunForm())
    assert set(errors_by_field(refused.value.problems, RunForm())) == {
        "dataset",
        "routes",
        "metrics",
    }
    # A task may have metrics.
    assert document_of_form(RunForm(dataset="d", models="a", task="summarization"))


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("", "rest"),
        ("dataset", "other_dataset"),
        ("routes[0]", "routes"),
        ("routes[1]", "models"),
        ("routes", "routes"),
        ("metrics", "metrics"),
        ("metrics[0].x", "metrics"),
        ("metrics[1]", "other_metrics"),
        ("metrics[2].judge", "judge"),
        ("sample.seed", "seed"),
        ("sample.n", "limit"),
        ("limits.cost_usd", "cost_usd"),
        ("limits.tokens", "rest"),
        ("parameters.max_tokens", "max_tokens"),
        ("messages[0]", "rest"),
        ("gates[3]", "gates"),
    ],
)
def test_each_problem_has_its_field(path, field):
    form = RunForm(
        other_dataset="x",
        routes=("a",),
        models="b",
        metrics=("f1",),
        other_metrics="{name: regex}",
        judge="j",
    )
    assert errors_by_field({path: "wrong"}, form) == {field: "wrong"}
    whole = RunForm(whole=True)
    assert errors_by_field({path: "wrong", "other": "too"}, whole) == {"rest": "wrong; too"}


def test_a_form_is_read_as_a_browser_sends_it():
    form = read_form(
        {"routes": ["a", "b"], "notes": ["x\r\ny"], "draw": ["random"], "unknown": ["z"]}
    )
    assert form == RunForm(routes=("a", "b"), notes="x\ny", draw="random")
    assert read_form({"whole": ["on"], "draw": ["?"]}) == RunForm(whole=True)
