"""Hugging Face's `evaluate` metrics, from local folders; the hub cannot be reached from here."""

import textwrap
from statistics import fmean

import pytest

from evaluators.base import Answer, Sample, Scorable
from evaluators.execution.scoring import Scorer, score
from evaluators.metrics.registry import build
from providers.errors import RunDocumentError

pytestmark = pytest.mark.filterwarnings("ignore")  # of datasets and pyarrow


@pytest.fixture(autouse=True)
def extra():
    pytest.importorskip("evaluate", reason="the extra 'evaluate' is not installed")


METRIC = """
import datasets
import evaluate

class {name}(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="",
            features=datasets.Features({{"predictions": {prediction}, "references": {reference}}}),
        )

    def _compute(self, predictions, references{more}):
{body}
"""
TEXT = 'datasets.Value("string")'
NUMBER = 'datasets.Value("int32")'


@pytest.fixture
def module(tmp_path):
    """A metric's folder from the body of its `_compute`; what to write in a run document."""

    def write(name, body, *, prediction=TEXT, reference=TEXT, more="", **options):
        folder = tmp_path / name
        folder.mkdir()
        source = METRIC.format(
            name=name.title(),
            prediction=prediction,
            reference=reference,
            more=more,
            body=textwrap.indent(textwrap.dedent(body).strip(), " " * 8),
        )
        (folder / f"{name}.py").write_text(source)
        return {"name": f"hf:{name}", "path": str(folder), **options}

    return write


def item(text, *references):
    return Scorable(Sample(id="1", messages=(), references=references), Answer(text=text))


def scored(spec, items):
    """In this process, as the import of `evaluate` takes many seconds; workers are tested last."""
    metric = build(spec)
    metric.load()
    return [score([metric], one)[0] for one in items]


def test_a_metric_over_texts(module):
    spec = module(
        "overlap",
        """
        shared = set(predictions[0].split()) & set(references[0].split())
        return {"overlap": len(shared) / 4, "extra": "x"}
        """,
    )
    found = scored(spec, [item("a b c", "a b"), item("a", "b", "a"), item(""), item("", "x")])
    assert [one.value for one in found] == [0.5, 0.25, None, 0.0]
    assert found[2].error == "no reference"


def test_outputs_options_and_lists_of_references(module):
    spec = module(
        "many",
        'return {"first": [len(references[0])], "second": weight, "third": "x"}',
        reference=f"datasets.Sequence({TEXT})",
        more=", weight=1.0",
        outputs=["first", "second", "third"],
        options={"weight": 2.5},
    )
    metric = build(spec)
    metric.load()
    first, second, third = score([metric], item("x", "a", "b", "c"))
    assert (first.error, second.error) == ("", "")
    assert (first.value, second.value) == (3.0, 2.5)
    assert third.value is None
    assert build(spec).signature.count('"weight":2.5') == 1


def test_a_metric_over_numbers(module):
    body = 'return {"right": float(predictions == references)}'
    spec = module("right", body, prediction=NUMBER, reference=NUMBER)
    found = scored(spec, [item("3", "3"), item("4", "3"), item("three", "3")])
    assert [one.value for one in found] == [1.0, 0.0, None]
    assert "invalid literal for int()" in found[2].error


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ('return {"other": 1.0}', "returned no number named 'bad'; it returned other"),
        ('return {"bad": float("nan")}', "not finite"),
    ],
)
def test_a_bad_one_costs_its_own_scores_only(module, body, why):
    body = f"if predictions[0] == 'bad':\n    {body}\nreturn {{'bad': 1.0}}"
    spec = module("bad", body)
    found = scored(spec, [item("x", "y"), item("bad", "y"), item("x", "y")])
    assert [one.value for one in found] == [1.0, None, 1.0]
    assert why in found[1].error


def test_a_broken_one_is_told_plainly(module):
    broken = module("broken", "return {}", more=", 3")
    with pytest.raises(RuntimeError, match="broken cannot be used: SyntaxError"):
        scored(broken, [item("x", "y")])


async def test_a_worker_tells_when_the_hub_cannot_be_reached(monkeypatch):
    # The worker inherits this: the hub's library answers at once that it cannot be reached.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RunDocumentError) as caught:
        async with Scorer(["hf:no_such_metric_anywhere"]):
            pass
    assert caught.value.message.startswith(
        "hf:no_such_metric_anywhere: RuntimeError: no_such_metric_anywhere cannot be had from the "
        "Hugging Face hub ("
    )
    assert "name it with `path`" in caught.value.message


async def test_a_worker_scores_and_one_that_hangs_is_contained(module):
    body = "if predictions[0] == 'bad':\n    import time; time.sleep(60)\nreturn {'slow': 1.0}"
    spec = module("slow", body, timeout_s=3.0)
    async with Scorer([spec, "length"]) as scorer:
        found = await scorer.score([item("x", "y"), item("bad", "y")])
    assert [one[0].value for one in found] == [1.0, None]
    assert found[1][0].error == "took longer than 3 s"
    assert found[1][1].value == 1.0


def test_signatures_follow_the_program(module, tmp_path):
    spec = module("some", "return {'some': 1.0}")
    first = build(spec).signature
    (tmp_path / "some" / "some.py").write_text("changed")
    assert build(spec).signature != first
    assert "from:hub" in build("hf:exact_match").signature


def test_a_name_is_never_looked_for_on_this_machine(tmp_path, monkeypatch):
    """`evaluate.load` itself would run ./theirs/theirs.py, and anything that ends in .py."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    program = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
    for place in ("theirs/theirs.py", "some/one/one.py"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(program)
    for name in ("theirs", "some/one"):
        metric = build(f"hf:{name}")
        with pytest.raises(RuntimeError, match=f"{name} cannot be had from the Hugging Face hub"):
            metric.load()
    assert not list(tmp_path.rglob("*.ran"))


@pytest.mark.parametrize(
    "name", ["theirs.py", "./theirs", "../theirs", "/tmp/theirs", "a/../b", "a/b/c", "a\\b", "~/a"]
)
def test_what_cannot_be_a_name_on_the_hub_is_refused(name):
    with pytest.raises(RunDocumentError, match="is named with `path`"):
        build(f"hf:{name}")


def test_a_configuration_is_a_name():
    with pytest.raises(RunDocumentError) as caught:
        build({"name": "hf:glue", "config": "../../elsewhere"})
    assert caught.value.param == "metrics.config"


def test_scores_of_a_real_metric_script(module):
    """As `exact_match` on the hub is written: a mean over what it is given."""
    spec = module(
        "exact",
        """
        import numpy as np
        score = np.mean([one == other for one, other in zip(predictions, references)])
        return {"exact": score}
        """,
    )
    items = [item("a", "a"), item("a", "b"), item("c", "c")]
    found = scored(spec, items)
    assert fmean(one.value for one in found) == pytest.approx(2 / 3)
