"""Tasks: every shipped one is a complete run document, and written keys win over a task's."""

from pathlib import Path

import msgspec
import pytest

from evaluators.base import AnyMetric
from evaluators.data.rows import Row
from evaluators.data.template import compile_messages
from evaluators.document import RunDocument
from evaluators.metrics import registry as metrics
from evaluators.tasks.registry import TASKS, BrokenTask, Task, fill, find, known
from providers.errors import MissingExtraError, RunDocumentError
from providers.offline.baseline import MODELS

BASE = {"dataset": "d.csv", "routes": ["a", "b"]}
NEEDED = {"classification": {"labels": ["spam", "ham"]}}


def filled(task, **written):
    return fill({**BASE, "task": task, **written})


def shipped(name):
    return msgspec.convert(filled({"name": name, **NEEDED.get(name, {})}), RunDocument)


def row(**fields):
    return Row(
        number=1,
        id="1",
        input=fields.get("input"),
        prompt=None,
        messages=None,
        references=(),
        fields=fields,
    )


@pytest.mark.parametrize("name", TASKS)
def test_a_shipped_task_needs_nothing_but_a_dataset_and_routes(name):
    document = shipped(name)
    built: list[AnyMetric] = [metrics.build(spec) for spec in document.metrics]
    assert built
    assert document.baseline in document.routes
    if document.baseline != "a":
        assert document.baseline.removeprefix("baseline/") in MODELS
    render = compile_messages(document.messages, document.prompt, ["input"])
    assert render(row(input="A text."))[-1] == {"role": "user", "content": "A text."}


def test_every_file_of_the_folder_is_a_shipped_task():
    from evaluators.tasks import registry

    files = {path.stem for path in registry._FOLDER.glob("*.yaml")}
    assert files == set(TASKS)


def test_shipped_metrics_need_no_extra():
    """What evaluators/metrics refuses without an extra is refused in its constructor."""
    folder = Path(metrics.__file__).parent
    for name in TASKS:
        for spec in shipped(name).metrics:
            metric = spec if isinstance(spec, str) else spec["name"]
            assert MissingExtraError.__name__ not in (folder / f"{metric}.py").read_text(), metric


def test_instructions_are_in_the_system_message_where_baselines_do_not_read_them():
    document = shipped("summarization")
    system, user = compile_messages(document.messages, None, ["input"])(row(input="Text."))
    assert system["role"] == "system"
    assert "Summarize" in system["content"]
    assert user["content"] == "Text."


def test_a_question_has_its_context_where_the_dataset_has_one():
    messages = shipped("question_answering").messages
    system, user = compile_messages(messages, None, ["input", "context"])(
        row(input="Who?", context="It was Ada.")
    )
    assert user["content"] == "It was Ada.\n\nWho?"
    assert "text before the question" in system["content"]
    assert "\n" not in system["content"]


def test_written_keys_win_and_parameters_are_merged():
    document = filled(
        "summarization", metrics=["chrf"], parameters={"max_tokens": None, "top_p": 0.5}
    )
    assert document["metrics"] == ["chrf"]
    assert document["parameters"] == {"temperature": 0, "top_p": 0.5}
    assert filled("summarization", parameters={"stop": None})["parameters"] == {
        "temperature": 0,
        "max_tokens": 256,
        "stop": None,
    }


def test_a_prompt_takes_the_place_of_the_tasks_messages():
    document = filled("summarization", prompt="{{ input }} TL;DR")
    assert document["prompt"] == "{{ input }} TL;DR"
    assert "messages" not in document


@pytest.mark.parametrize(
    ("written", "baseline", "routes"),
    [
        ({"task": "summarization"}, "baseline/lead-3", ["a", "b", "baseline/lead-3"]),
        ({"task": "summarization", "baseline": "b"}, "b", ["a", "b"]),
        ({"task": "summarization", "baseline": None}, None, ["a", "b"]),
        ({"task": "text_generation"}, "a", ["a", "b"]),
        ({"task": "text_generation", "routes": ["a"]}, None, ["a"]),
        (
            {"task": "summarization", "routes": ["baseline/lead-3", "a"]},
            "baseline/lead-3",
            ["baseline/lead-3", "a"],
        ),
    ],
)
def test_the_baseline_is_the_tasks_or_the_first_route(written, baseline, routes):
    document = fill({**BASE, **written})
    assert document.get("baseline") == baseline
    assert list(document["routes"]) == routes


def test_options_stand_in_texts_and_as_values():
    document = filled({"name": "classification", "labels": ["spam", "ham"]})
    assert "labels and nothing else: spam, ham." in document["messages"][0]["content"]
    assert document["metrics"] == [
        {"name": "classification", "labels": ["spam", "ham"], "match": "word"}
    ]
    assert "into English" in filled("translation")["messages"][0]["content"]
    document = filled({"name": "translation", "to": "German"})
    assert "into German" in document["messages"][0]["content"]
    assert document["task"]["to"] == "German"


def test_what_was_filled_in_is_kept_with_its_version_and_taken_as_it_is():
    once = filled("summarization", parameters={"max_tokens": None})
    assert once["task"] == {"name": "summarization", "version": find("summarization").version}
    assert fill(once) == once
    # Also where the task is not, or is another one now.
    gone = {**once, "task": {"name": "gone", "version": "0123456789ab"}}
    assert fill(gone) == gone


def test_without_a_task_nothing_is_filled_in():
    assert fill(BASE) == BASE


@pytest.mark.parametrize(
    ("task", "param", "message"),
    [
        ("sumarization", "task", "there is no task 'sumarization'. Did you mean 'summarization'?"),
        ({}, "task", "an object with 'name' and its options"),
        (3, "task", "an object with 'name' and its options"),
        ("classification", "task.labels", "needs the option 'labels': The labels, two or more."),
        ({"name": "classification", "labels": "spam"}, "task.labels", "Expected `array`"),
        ({"name": "translation", "too": "x"}, "task.too", "no option 'too'. Did you mean 'to'?"),
        ({"name": "summarization", "to": "x"}, "task.to", "no option 'to'. It has none."),
        ("gone.yaml", "task", "gone.yaml: No such file or directory"),
    ],
)
def test_what_is_wrong_with_a_task_is_told(task, param, message):
    with pytest.raises(RunDocumentError) as raised:
        filled(task)
    assert message in raised.value.message
    assert raised.value.param == param


def test_a_file_is_a_task(tmp_path):
    path = tmp_path / "headline.yaml"
    path.write_text("""
description: A headline.
options: {words: {description: How many words., default: "8"}}
messages:
  - {role: system, content: "A headline of ${words} words, costing $${words}."}
  - {role: user, content: "{{ input }}"}
metrics: [rouge]
""")
    document = fill({**BASE, "task": "headline.yaml"}, base=tmp_path)
    assert document["messages"][0]["content"] == "A headline of 8 words, costing ${words}."
    assert document["task"]["name"] == str(path)
    before = document["task"]["version"]
    path.write_text(path.read_text().replace("A headline.", "One headline."))
    assert find(str(path)).version != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("metrcs: [rouge]", "unknown key 'metrcs'. Did you mean 'metrics'"),
        ("dataset: d.csv", "unknown key 'dataset'"),
        ("- rouge", "a task is a mapping"),
        ("parameters: [1]", "Expected `object`, got `array` - at `$.parameters`"),
        ("prompt: ${x}", "${x} is not one of its options"),
        ("options: {name: {description: d}}", "options.name: a task has that anyway"),
        ("options: {x: {description: d, many: true, default: y}}", "a list if `many` is true"),
        ("options: {x: {}}", "missing required field `description`"),
        ("a: [", "line 1: not YAML: "),
        ("a: &a [1]\nb: *a", "YAML aliases"),
        ("[" * 5000, "not YAML"),
        ("a: \x01", "not YAML"),
        ("description: " + "x" * 200_000, "at most 100,000 bytes"),
    ],
)
def test_a_file_that_is_no_task_is_refused_with_its_name(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(RunDocumentError) as raised:
        fill({**BASE, "task": "mine.yaml"}, base=tmp_path)
    assert message in raised.value.message
    assert "mine.yaml" in raised.value.message


def test_the_text_of_a_file_that_is_no_task_is_not_told(tmp_path):
    (tmp_path / "mine.yaml").write_text("key: sk-secret: [")
    with pytest.raises(RunDocumentError) as raised:
        fill({**BASE, "task": "mine.yaml"}, base=tmp_path)
    assert "sk-secret" not in raised.value.message


def test_a_file_outside_the_allowed_folder_is_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "mine.yaml").write_text("metrics: [rouge]")
    for name in ("../mine.yaml", str(tmp_path / "mine.yaml"), "~/mine.yaml"):
        with pytest.raises(RunDocumentError, match="outside"):
            fill({**BASE, "task": name}, base=inside, within=[inside])


def test_a_path_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    for name in ("a\0.yaml", "circle.yaml", "x" * 300 + ".yaml"):
        with pytest.raises(RunDocumentError) as raised:
            fill({**BASE, "task": name}, base=tmp_path)
        assert raised.value.param == "task"


def test_installed_packages_bring_tasks(tmp_path, monkeypatch):
    info = tmp_path / "house_style-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house-style\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(
        "[evalrouter.tasks]\nminutes = house_style:MINUTES\nletter = house_style:letter\n"
        "broken = house_style:gone\nsummarization = house_style:MINUTES\n"
    )
    (tmp_path / "house_style.py").write_text(
        'MINUTES = {"description": "Minutes.", "metrics": ["rouge"]}\n'
        'def letter():\n    return {"metrics": ["length"], "parameters": {"seed": 3}}\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert filled("minutes")["metrics"] == ["rouge"]
    assert filled("letter")["parameters"] == {"seed": 3}
    assert find("minutes").source == "house-style"
    with pytest.raises(RunDocumentError, match=r"broken \(house_style:gone\): AttributeError"):
        filled("broken")
    with pytest.raises(RunDocumentError, match="Did you mean 'minutes'"):
        filled("minuts")
    installed = {task.name: task for task in known() if isinstance(task, Task)}
    assert set(installed) == {*TASKS, "minutes", "letter"}
    assert installed["summarization"].source == "evalrouter"
    broken = {task.name: task.error for task in known() if isinstance(task, BrokenTask)}
    assert set(broken) == {"broken", "summarization"}
    assert "rename yours" in broken["summarization"]
