"""ROUGE, BLEU and chrF against rouge-score, sacreBLEU and published numbers."""

from statistics import fmean

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_data import vicuna_pairs

from evaluators.base import Answer, Metric, Sample, Score
from evaluators.metrics.registry import build

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """320 answers of real models with their references."""
    return vicuna_pairs()


def scores(metric: Metric, text: str, *references: str) -> tuple[Score, ...]:
    return metric.score(
        Sample(id="1", messages=(), references=references),
        Answer(text=text),
    )


def corpus(metric: Metric, found: list[Score]) -> float:
    [output] = metric.outputs
    assert output.corpus is not None
    return output.corpus(
        [sum(column) for column in zip(*(s.statistics for s in found), strict=True)]
    )


# ROUGE


@pytest.mark.parametrize(
    ("stemmer", "expected"),
    [
        (False, (0.421297, 0.175212, 0.251113, 0.327347)),
        (True, (0.442811, 0.182806, 0.259924, 0.341697)),
    ],
)
def test_rouge_means_on_real_answers(pairs, stemmer, expected):
    metric = build({"name": "rouge", "stemmer": stemmer})
    found = [scores(metric, *pair) for pair in pairs]
    for at, mean in enumerate(expected):
        assert fmean(one[at].value for one in found) == pytest.approx(mean, abs=5e-7)


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_rouge_score(pairs, stemmer):
    from rouge_score.rouge_scorer import RougeScorer

    oracle = RougeScorer(list(ROUGES), use_stemmer=stemmer)
    metric = build({"name": "rouge", "stemmer": stemmer})
    for pair in pairs[::16]:
        # A newline after each sentence, so that rougeLsum has something to add up.
        text, reference = (one.replace(". ", ".\n") for one in pair)
        expected = oracle.score(reference, text)
        for score in scores(metric, text, reference):
            assert score.value == expected[score.output].fmeasure


WORDS = st.lists(st.sampled_from(["the", "cat", "sat.", "\n", "cats", "running", "naïve", "2"]))
TEXT = st.one_of(st.text(max_size=40), WORDS.map(" ".join))


@given(TEXT, st.lists(TEXT, min_size=1, max_size=3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rouge_is_rouge_score_on_any_text_and_several_references(text, references, stemmer):
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(list(ROUGES), use_stemmer=stemmer).score_multi(references, text)
    for score in scores(build({"name": "rouge", "stemmer": stemmer}), text, *references):
        if score.value is None:
            assert score.error
            assert expected[score.output].fmeasure == 0
        else:
            assert score.value == expected[score.output].fmeasure


def test_rouge_of_a_script_it_does_not_know_is_no_value():
    text = "今天天气很好"
    for score in scores(build("rouge"), text, text):
        assert score.value is None
        assert "use tokenizer: unicode" in score.error
    for tokenizer in ("unicode", "character"):
        metric = build({"name": "rouge", "tokenizer": tokenizer})
        assert [one.value for one in scores(metric, text, text)] == [1.0] * 4
    assert [one.value for one in scores(build("rouge"), text, "good weather")] == [0.0] * 4


# BLEU and chrF


def test_bleu_on_real_answers(pairs):
    metric = build("bleu")
    found = [score for pair in pairs for score in scores(metric, *pair)]
    oracle = sacrebleu.corpus_bleu([text for text, _ in pairs], [[ref for _, ref in pairs]])
    assert corpus(metric, found) == oracle.score
    assert corpus(metric, found) == pytest.approx(10.7873, abs=5e-5)
    for (text, reference), score in list(zip(pairs, found, strict=True))[::8]:
        assert score.value == sacrebleu.sentence_bleu(text, [reference]).score


def test_chrf_on_real_answers(pairs):
    metric = build("chrf")
    found = [score for pair in pairs for score in scores(metric, *pair)]
    oracle = sacrebleu.corpus_chrf([text for text, _ in pairs], [[ref for _, ref in pairs]])
    assert corpus(metric, found) == oracle.score
    assert corpus(metric, found) == pytest.approx(47.86, abs=5e-3)
    for (text, reference), score in list(zip(pairs, found, strict=True))[::8]:
        assert score.value == sacrebleu.sentence_chrf(text, [reference]).score


README = (
    ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."],
    [
        ("The dog bit the man.", "The dog had bit the man."),
        ("It was not unexpected.", "No one was surprised."),
        ("The man bit him first.", "The man had bitten the dog."),
    ],
)


@pytest.mark.parametrize(
    ("tokenize", "expected"), [("13a", 48.530827), ("none", 49.1919566), ("intl", 43.91623493)]
)
def test_bleu_of_sacrebleus_readme(tokenize, expected):
    metric = build({"name": "bleu", "tokenize": tokenize})
    found = [scores(metric, text, *refs)[0] for text, refs in zip(*README, strict=True)]
    assert corpus(metric, found) == pytest.approx(expected, abs=1e-6)


@given(
    st.lists(
        st.tuples(TEXT, TEXT.filter(str.strip), TEXT.filter(str.strip)), min_size=1, max_size=4
    )
)
@settings(max_examples=40, deadline=None)
def test_corpus_scores_are_sacrebleus_on_any_text(rows):
    texts, first, second = (list(column) for column in zip(*rows, strict=True))
    for name, oracle in (("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        metric = build(name)
        found = [scores(metric, text, one, two)[0] for text, one, two in rows]
        assert corpus(metric, found) == oracle(texts, [first, second]).score
        sentence = sacrebleu.sentence_bleu if name == "bleu" else sacrebleu.sentence_chrf
        for (text, one, two), score in zip(rows, found, strict=True):
            assert score.value == sentence(text, [one, two]).score


def test_a_short_answer_is_scored_on_the_orders_it_has():
    [score] = scores(build("bleu"), "good morning", "good morning")
    assert score.value == pytest.approx(100)


def test_bleu_keeps_no_texts():
    metric = build("bleu")
    scores(metric, "one two three four", "one two three five")
    tokenizer = metric._bleu.tokenizer
    assert type(tokenizer).__call__.cache_info().currsize == 0
    assert type(tokenizer._post_tokenizer).__call__.cache_info().currsize == 0


def test_signatures_name_the_choices_as_sacrebleu_does():
    bleu = sacrebleu.BLEU()
    bleu.corpus_score(["x"], [["x"]])
    chrf = sacrebleu.CHRF()
    chrf.corpus_score(["x"], [["x"]])
    for name, oracle in (("bleu", bleu), ("chrf", chrf)):
        ours = build(name).signature.split("|")
        theirs = str(oracle.get_signature()).split("|")
        assert set(theirs) - set(ours) == {"nrefs:1"}
