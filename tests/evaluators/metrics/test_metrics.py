"""Metrics worked out by hand, what they do without an answer or a reference, and the registry."""

import inspect
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.base import Answer, Sample, Usage
from evaluators.execution.scoring import Scorable
from evaluators.execution.scoring import score as score_all
from evaluators.metrics.registry import METRICS, PREFIXES, build
from providers.errors import RunDocumentError

TEXT_METRICS = ["rouge", "bleu", "chrf", "exact_match", "f1", "contains"]
NEEDS = {
    "regex": {"pattern": "x"},
    "classification": {"labels": ["yes", "no"]},
    "embedding_similarity": {"route": "up/embedder"},
    "json_schema": {"schema": {"type": "object"}},
    "judge": {"judge": "up/judge", "kind": "g_eval_relevance"},
    "pairwise": {"judge": "up/judge"},
    "prometheus": {"judge": "up/judge"},
    "rag": {"judge": "up/judge"},
}
# They need a package of an extra.
EXTRAS = {
    "bertscore": "bert_score",
    "fuzzy": "rapidfuzz",
    "json_schema": "jsonschema",
    "language": "py3langid",
    "levenshtein": "rapidfuzz",
    "meteor": "nltk",
}
# Tested elsewhere: one needs a model, the others a router.
NOT_PURE = {"bertscore", "embedding_similarity", "judge", "pairwise", "prometheus", "rag"}


def built(name: str):
    """The metric with the options it cannot do without; skips where its extra is missing."""
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name], exc_type=ImportError)
    return build({"name": name, **NEEDS.get(name, {})})


def sample(*references: str) -> Sample:
    return Sample(id="1", messages=(), references=references)


def value(spec, text: str, *references: str, at: int = 0):
    return build(spec).score(sample(*references), Answer(text=text))[at].value


# By hand


@pytest.mark.parametrize(
    ("text", "references", "em", "f1"),
    [
        ("Paris", ["Paris"], 1, 1),
        ("The Eiffel Tower!", ["eiffel  tower"], 1, 1),
        ("an apple a day", ["apple day"], 1, 1),
        # 1 shared of 3 and of 1: precision 1/3, recall 1, F1 1/2.
        ("in Paris, France", ["Paris"], 0, 0.5),
        # 2 shared of 2 and of 4: precision 1, recall 1/2, F1 2/3.
        ("Denver Broncos", ["the Denver Broncos football team"], 0, 2 / 3),
        # "la" counts twice at most: 2 shared of 3 and of 2, F1 4/5.
        ("la la la", ["la la"], 0, 0.8),
        ("Rome", ["Paris", "Rome."], 1, 1),
        # Against the first 2/3, against the second 2/5: the better counts.
        ("red car", ["car", "a big blue car"], 0, 2 / 3),
        ("Rome", ["Paris"], 0, 0),
        ("café", ["CAFÉ"], 1, 1),
        ("state-of-the-art", ["stateoftheart"], 1, 1),
        # Articles and punctuation alone would leave nothing to compare.
        ("A.", ["A"], 1, 1),
        ("The", ["A"], 0, 0),
        ("?", ["!"], 0, 0),
        ("...", ["A"], 0, 0),
        ("", ["Paris"], 0, 0),
        (" \n", ["Paris"], 0, 0),
    ],
)
def test_squad(text, references, em, f1):
    assert value("exact_match", text, *references) == em
    assert value("f1", text, *references) == pytest.approx(f1)


def test_exact_match_as_it_is():
    spec = {"name": "exact_match", "normalize": False}
    assert value(spec, " Paris\n", "Paris") == 1
    assert value(spec, "paris", "Paris") == 0
    assert value(spec, "the Paris", "Paris") == 0


def test_contains():
    assert value("contains", "It is PARIS.", "Rome", "Paris") == 1
    assert value("contains", "It is Rome.", "Paris") == 0
    assert value("contains", "STRASSE", "straße") == 1
    assert value({"name": "contains", "case_sensitive": True}, "It is PARIS.", "Paris") == 0
    assert value({"name": "contains", "text": "sorry"}, "I am Sorry") == 1
    assert value({"name": "contains", "text": "sorry"}, "sorr y", "sorry") == 0
    assert build("contains").needs_reference
    assert not build({"name": "contains", "text": "x"}).needs_reference


def test_regex():
    assert value({"name": "regex", "pattern": r"^(yes|no)\b"}, "no, thanks") == 1
    assert value({"name": "regex", "pattern": r"^(yes|no)\b"}, "nothing") == 0
    assert value({"name": "regex", "pattern": r"(?i)\p{Lu}aris"}, "PARIS") == 1
    assert value({"name": "regex", "pattern": "^$"}, "") == 0


def test_a_pattern_that_backtracks_without_end_is_stopped():
    metric = build({"name": "regex", "pattern": r"(a|a|a)+(b|b)+(a|a)+$"})
    [score] = metric.score(sample(), Answer(text="a" * 60 + "b" * 60 + "c"))
    assert score.value is None
    assert score.error == "the pattern took longer than 1 s"


def test_length():
    metric = build("length")
    words, characters = metric.score(sample(), Answer(text="one two\n naïve 🎉"))
    assert (words.value, characters.value) == (4, 16)
    assert all(output.higher_is_better is None for output in metric.outputs)


def test_latency_and_cost():
    known = Answer(
        text="x",
        total_s=1.5,
        first_byte_s=0.25,
        cost_usd=0.002,
        usage=Usage(prompt_tokens=11, completion_tokens=0),
    )
    unknown = Answer(text="x", cached=True)
    latency, cost, tokens = build("latency"), build("cost"), build("tokens")
    assert [one.value for one in latency.score(sample(), known)] == [1.5, 0.25]
    assert [one.value for one in cost.score(sample(), known)] == [0.002]
    assert [one.value for one in tokens.score(sample(), known)] == [11, 0, 11, 0]
    for metric in (latency, cost, tokens):
        for score in metric.score(sample(), unknown):
            assert score.value is None
            assert score.error


def test_tokens_per_second_is_of_a_measured_answer_only():
    usage = Usage(prompt_tokens=11, completion_tokens=30, total_tokens=99)
    fresh = Answer(text="x", usage=usage, total_s=1.5)
    assert [one.value for one in build("tokens").score(sample(), fresh)] == [11, 30, 99, 20]
    cached = Answer(text="x", usage=usage, total_s=1.5, cached=True)
    *_, rate = build("tokens").score(sample(), cached)
    assert (rate.value, rate.error) == (None, "the answer came from the cache")


# Every metric


@pytest.mark.parametrize("name", METRICS)
def test_declares_itself(name):
    metric = built(name)
    # A judge's name goes on with what it judges.
    assert metric.name.partition(":")[0] == name
    assert metric.source
    assert metric.signature.startswith(name)
    assert metric.outputs
    assert all(output.description.endswith((".", "?")) for output in metric.outputs)
    module, _, _ = METRICS[name].partition(":")
    assert module.startswith("evaluators.judge.") or module == f"evaluators.metrics.{name}"


def test_every_file_is_listed():
    folder = Path(inspect.getfile(import_module("evaluators.metrics"))).parent
    files = {path.stem for path in folder.glob("*.py")}
    shared = {"__init__", "model_folder", "output_names", "reference", "registry"}
    prefixed = {target.partition(":")[0].rpartition(".")[2] for target in PREFIXES.values()}
    here = {name for name, path in METRICS.items() if path.startswith("evaluators.metrics.")}
    assert files - shared - prefixed == here


@pytest.mark.parametrize("name", TEXT_METRICS)
@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_a_blank_answer_is_zero(name, blank):
    metric = build(name)
    scores = metric.score(sample("a reference"), Answer(text=blank))
    assert [one.value for one in scores] == [0.0] * len(metric.outputs)
    assert not any(one.error for one in scores)
    for output, score in zip(metric.outputs, scores, strict=True):
        assert output.corpus is None or output.corpus(score.statistics) == 0.0


@pytest.mark.parametrize("name", TEXT_METRICS)
@pytest.mark.parametrize("references", [(), ("",), (" ", "\n")])
def test_no_reference_is_no_value(name, references):
    metric = build(name)
    assert metric.needs_reference
    scores = metric.score(sample(*references), Answer(text="an answer"))
    assert [one.output for one in scores] == [one.name for one in metric.outputs]
    assert {(one.value, one.error, one.statistics) for one in scores} == {
        (None, "no reference", ())
    }


ANY = st.text(max_size=30)


@pytest.fixture(scope="module")
def pure():
    return [built(name) for name in METRICS if name not in NOT_PURE]


@given(text=ANY, references=st.lists(ANY, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_numbers_in_the_declared_range(pure, text, references):
    metrics = pure
    outputs = {output.name: output for metric in metrics for output in metric.outputs}
    item = Scorable(sample(*references), Answer(text=text))
    for score in score_all(metrics, item):
        output = outputs[score.output]
        if score.value is None:
            assert "Error" not in score.error
            continue
        assert math.isfinite(score.value), score
        assert output.low is None or score.value >= output.low
        assert output.high is None or score.value <= output.high + 1e-9
        if output.corpus is not None:
            total = output.corpus(score.statistics)
            assert (output.low or 0) - 1e-9 <= total
            assert output.high is None or total <= output.high + 1e-9


@given(ANY, ANY)
@settings(max_examples=60, deadline=None)
def test_an_exact_match_shares_every_word(text, reference):
    match, shared = value("exact_match", text, reference), value("f1", text, reference)
    if match == 1:
        assert shared == 1


# The registry


@pytest.mark.parametrize(
    ("spec", "param", "message"),
    [
        ("rogue", "metrics[2]", "metrics[2]: there is no metric 'rogue'. Did you mean 'rouge'?"),
        ({"metric": "rouge"}, "metrics[2]", "metrics[2]: a metric is a name, or an object with"),
        ({"name": 3}, "metrics[2]", "a metric is a name"),
        (
            {"name": "rouge", "stemer": True},
            "metrics[2].stemer",
            "metrics[2]: rouge has no option 'stemer'. Did you mean 'stemmer'?",
        ),
        (
            {"name": "cost", "x": 1},
            "metrics[2].x",
            "metrics[2]: cost has no option 'x'. It has none.",
        ),
        (
            {"name": "rouge", "stemmer": "yes"},
            "metrics[2].stemmer",
            "metrics[2]: rouge: stemmer: Expected `bool | null`, got `str`",
        ),
        (
            {"name": "bleu", "tokenize": "14a"},
            "metrics[2].tokenize",
            "metrics[2]: bleu: tokenize: '14a' is not one of 13a, intl, zh, char, ja-mecab, "
            "ko-mecab, none",
        ),
        (
            {"name": "numeric", "rel_tol": math.inf},
            "metrics[2].rel_tol",
            "metrics[2]: numeric: rel_tol: not a finite number",
        ),
        ("regex", "metrics[2].pattern", "metrics[2]: regex needs the option 'pattern'"),
        (
            {"name": "regex", "pattern": "(a"},
            "metrics[2].pattern",
            "metrics[2]: regex: pattern: '(a' is not a regular expression: missing )",
        ),
        ({"name": "regex", "pattern": None}, "metrics[2].pattern", "Expected `str`, got `null`"),
        ({"name": "contains", "text": " "}, "metrics[2].text", "contained in every answer"),
        (
            {"name": "rouge", "stemmer": True, "tokenizer": "unicode"},
            "metrics[2].stemmer",
            "the tokenizer 'unicode' cannot stem",
        ),
    ],
)
def test_specs_that_are_refused(spec, param, message):
    with pytest.raises(RunDocumentError) as caught:
        build(spec, param="metrics[2]")
    assert caught.value.param == param
    assert message in caught.value.message


def test_the_registry_imports_no_metric():
    program = (
        "import sys; import evaluators.metrics.registry as r; "
        "heavy = {'sacrebleu', 'rouge_score_rs', 'regex', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules))); r.build('bleu'); "
        "print('sacrebleu' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_signatures_tell_choices_apart():
    specs = [
        "rouge",
        {"name": "rouge", "stemmer": True},
        {"name": "rouge", "tokenizer": "unicode"},
        "bleu",
        {"name": "bleu", "lowercase": True},
        {"name": "bleu", "tokenize": "intl"},
        "contains",
        {"name": "contains", "case_sensitive": True},
        {"name": "contains", "text": "x"},
        {"name": "regex", "pattern": "x"},
        {"name": "regex", "pattern": "y"},
        "exact_match",
        {"name": "exact_match", "normalize": False},
        {"name": "rouge", "lsum": "segment"},
        {"name": "rouge", "lsum": "segment", "language": "de"},
        {"name": "ter", "max_words": 10},
        {"name": "ter", "normalized": True},
        "ter",
        "numeric",
        {"name": "numeric", "pick": "first"},
        {"name": "classification", "labels": ["a", "b"]},
        {"name": "classification", "labels": ["a", "c"]},
        {"name": "classification", "labels": ["a", "b"], "match": "word"},
        {"name": "classification", "labels": ["a", "b"], "weights": "linear"},
        "numeric_error",
        {"name": "numeric_error", "pick": "first"},
        {"name": "numeric_error", "decimal": ","},
        "ranking",
        {"name": "ranking", "k": [1, 5]},
        {"name": "ranking", "unicode": "nfkc"},
        {"name": "repetition", "n": 3},
        "novelty",
        {"name": "novelty", "column": "source"},
        {"name": "embedding_similarity", "route": "a"},
        {"name": "embedding_similarity", "route": "b"},
    ]
    assert len({build(spec).signature for spec in specs}) == len(specs)
