"""TER, METEOR, edits, classification and intervals against the packages that define them."""

import random
import time
from statistics import fmean

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_data import vicuna_pairs

from evaluators.base import Answer, Metric, Sample, Score
from evaluators.data import language_data, wordnet
from evaluators.metrics.registry import build
from evaluators.stats import differences, intervals


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    return vicuna_pairs()


def scores(metric: Metric, text: str, *references: str) -> tuple[Score, ...]:
    return metric.score(Sample(id="1", messages=(), references=references), Answer(text=text))


def sums(found: list[Score]) -> list[float]:
    return [sum(column) for column in zip(*(one.statistics for one in found), strict=True)]


WORDS = st.lists(
    st.sampled_from(
        ["the", "The", "cat", "cats", "sat", "sat.", "on", ",", "naïve", "猫", "2", "ran"]
    )
)
TEXT = st.one_of(st.text(max_size=30), WORDS.map(" ".join))
SAID = TEXT.filter(str.strip)

# ROUGE: the options that the first tests do not have


def test_rouge_by_googles_own_package_gives_the_same_numbers(pairs):
    ours, slow = build("rouge"), build({"name": "rouge", "implementation": "rouge-score"})
    assert ours.signature != slow.signature
    for text, reference in pairs[::40]:
        assert scores(ours, text, reference) == scores(slow, text, reference)
    assert scores(slow, "今天", "今天")[0].value is None


def test_rouge_lsum_by_segmented_sentences_is_rouge_of_one_sentence_a_line(pairs):
    import sentencex

    lines, whole = build("rouge"), build({"name": "rouge", "lsum": "segment"})
    different = 0
    for text, reference in pairs[::16]:
        split = ["\n".join(sentencex.segment("en", one)) for one in (text, reference)]
        assert scores(whole, text, reference) == scores(lines, *split)
        assert scores(whole, text, reference)[:3] == scores(lines, text, reference)[:3]
        different += scores(whole, text, reference)[3] != scores(lines, text, reference)[3]
    assert different


@pytest.mark.parametrize(
    ("text", "reference", "noted"),
    [
        ("naïve café", "a naive cafe", False),
        ("Погода 2024 хорошая", "weather 2024", True),
        ("weather 2024", "Погода 2024 хорошая", True),
        ("今天", "the weather is good today", True),
        ("plain", "plain", False),
    ],
)
def test_rouge_says_where_its_tokenizer_erased_text(text, reference, noted):
    for score in scores(build("rouge"), text, reference):
        assert score.value is not None
        assert ("use tokenizer: unicode" in score.note) == noted
    unicode = build({"name": "rouge", "tokenizer": "unicode"})
    assert not any(one.note for one in scores(unicode, text, reference))


# TER


@given(st.lists(st.tuples(TEXT, SAID, SAID), min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_ter_is_sacrebleus_on_any_text(rows, normalized):
    texts, first, second = (list(column) for column in zip(*rows, strict=True))
    metric = build({"name": "ter", "normalized": normalized})
    oracle = sacrebleu.TER(normalized=normalized)
    found = [scores(metric, text, one, two)[0] for text, one, two in rows]
    [output] = metric.outputs
    assert output.corpus(sums(found)) == oracle.corpus_score(texts, [first, second]).score
    for (text, one, two), score in zip(rows, found, strict=True):
        assert score.value == oracle.sentence_score(text, [one, two]).score


def test_ter_on_real_answers(pairs):
    short = [pair for pair in pairs if max(len(one.split()) for one in pair) <= 90]
    assert len(short) >= 8
    metric = build({"name": "ter", "max_words": 90})
    [output] = metric.outputs
    found = [scores(metric, *pair)[0] for pair in pairs]
    kept = [score for score in found if score.value is not None]
    assert len(kept) == len(short)
    oracle = sacrebleu.corpus_ter([text for text, _ in short], [[ref for _, ref in short]])
    assert output.corpus(sums(kept)) == oracle.score
    ours = set(metric.signature.split("|"))
    oracle = sacrebleu.TER()
    oracle.corpus_score(["x"], [["x"]])
    assert set(str(oracle.get_signature()).split("|")) - ours == {"nrefs:1"}


def test_ter_of_long_texts_says_why_it_has_none():
    metric = build("ter")
    long = "word " * 151
    started = time.monotonic()
    for text, reference in ((long, "a word"), ("a word", long)):
        [score] = scores(metric, text, reference)
        assert score.value is None
        assert "longer than 150 words" in score.error
    assert time.monotonic() - started < 5
    assert scores(metric, "", "a b")[0].value == 100


# METEOR


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """WordNet in a data folder of our own, known to NLTK too."""
    nltk = pytest.importorskip("nltk")
    if not all((language_data.DEBIAN / name).is_file() for name in ("data.noun", "index.sense")):
        pytest.skip("Debian's wordnet-base and wordnet-sense-index are not installed")
    home = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(home))
        language_data.install("wordnet", None)
        nltk.data.path.append(str(home / "evalrouter" / "nltk_data"))
        yield home
        nltk.data.path.pop()


@pytest.fixture(scope="module")
def nltks_wordnet(installed):
    import warnings

    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = WordNetCorpusReader.__new__(WordNetCorpusReader)
        # Its map between versions reads half the database twice and is not needed here.
        reader.map_wn = lambda version="wordnet": None
        reader.__init__(str(language_data.wordnet()), None)
    yield reader
    for file in reader._data_file_map.values():
        file.close()


def test_synonyms_are_those_of_nltk(nltks_wordnet, pairs):
    synonyms = wordnet.read(language_data.wordnet())
    words = {word.lower() for pair in pairs[::8] for text in pair for word in text.split()}
    words |= {"better", "geese", "running", "galore", "naïve", "猫", "", "U.S.".lower()}
    for word in sorted(words):
        names = {lemma.name() for one in nltks_wordnet.synsets(word) for lemma in one.lemmas()}
        assert synonyms(word) == {word} | {name for name in names if "_" not in name}, word
    assert {"car", "auto", "automobile"} <= synonyms("cars")
    assert wordnet.version(language_data.wordnet()) == "3.0"


@pytest.mark.parametrize(("tokenizer", "mean"), [("nltk", 0.359888), ("whitespace", 0.328087)])
def test_meteor_on_real_answers(installed, pairs, tokenizer, mean):
    metric = build({"name": "meteor", "tokenizer": tokenizer})
    assert f"tok:{tokenizer}|stem:porter|synonyms:wordnet-3.0" in metric.signature
    found = [scores(metric, *pair)[0].value for pair in pairs]
    assert fmean(found) == pytest.approx(mean, abs=5e-7)


def test_meteor_is_nltks(nltks_wordnet, pairs):
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import meteor_score

    words = NLTKWordTokenizer().tokenize
    metric = build({"name": "meteor", "synonyms": "wordnet"})
    for at, (text, reference) in list(enumerate(pairs))[::16]:
        others = [reference, pairs[at - 1][1]]
        expected = meteor_score([words(one) for one in others], words(text), wordnet=nltks_wordnet)
        assert scores(metric, text, *others)[0].value == expected


class NoWords:
    def synsets(self, word):
        return []


@given(TEXT, st.lists(SAID, min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_meteor_without_wordnet_is_nltks_without_synonyms(text, references):
    pytest.importorskip("nltk")
    from nltk.translate.meteor_score import meteor_score

    metric = build({"name": "meteor", "synonyms": "none", "tokenizer": "whitespace"})
    assert "synonyms:none" in metric.signature
    expected = meteor_score([one.split() for one in references], text.split(), wordnet=NoWords())
    assert scores(metric, text, *references)[0].value == expected


def test_nltks_own_example(installed):
    text = "It is a guide to action which ensures that the military always obeys the commands of "
    reference = "It is a guide to action that ensures that the military will forever heed Party "
    metric = build({"name": "meteor", "tokenizer": "whitespace"})
    [score] = scores(metric, f"{text}the party", f"{reference}commands")
    assert round(score.value, 4) == 0.6944


# Edit distances


@given(TEXT, st.lists(SAID, min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_error_rates_are_jiwers(text, references):
    jiwer = pytest.importorskip("jiwer")
    pytest.importorskip("rapidfuzz")
    found = {one.output: one.value for one in scores(build("levenshtein"), text, *references)}
    plain = text.strip()
    assert found["cer"] == pytest.approx(min(jiwer.cer(one.strip(), plain) for one in references))
    # jiwer separates words by spaces alone; blank space of other kinds is made into those first.
    spaced = " ".join(text.split())
    words = min(jiwer.wer(" ".join(one.split()), spaced) for one in references)
    assert found["wer"] == pytest.approx(words)


def test_corpus_error_rates_are_jiwers(pairs):
    jiwer = pytest.importorskip("jiwer")
    pytest.importorskip("rapidfuzz")
    metric = build("levenshtein")
    some = [tuple(" ".join(one.split()) for one in pair) for pair in pairs[::10]]
    found = [scores(metric, *pair) for pair in some]
    texts, references = (list(column) for column in zip(*some, strict=True))
    for at, oracle in ((1, jiwer.cer), (2, jiwer.wer)):
        total = metric.outputs[at].corpus(sums([one[at] for one in found]))
        assert total == pytest.approx(oracle(references, texts))


# Classification


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(4))
def test_classification_is_scikit_learns(weights, seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = random.Random(seed)
    labels = ["low", "middle", "high", "never"]
    due = [draw.choice(labels[:3]) for _ in range(60)]
    given_ = [one if draw.random() < 0.5 else draw.choice([*labels, "what?"]) for one in due]
    metric = build({"name": "classification", "labels": labels, "weights": weights})
    found = [scores(metric, text, truth) for text, truth in zip(given_, due, strict=True)]
    total = {
        output.name: output.corpus(sums([one[at] for one in found]))
        for at, output in enumerate(metric.outputs)
        if output.corpus
    }
    total["accuracy"] = fmean(one[0].value for one in found)
    seen = [label for label in labels if label in {*due, *given_}]
    assert total["accuracy"] == pytest.approx(sklearn.accuracy_score(due, given_))
    for name, average in (("macro_f1", "macro"), ("micro_f1", "micro")):
        expected = sklearn.f1_score(due, given_, labels=seen, average=average, zero_division=0)
        assert total[name] == pytest.approx(expected)
    kind = None if weights == "none" else weights
    expected = sklearn.cohen_kappa_score(due, given_, labels=[*labels, "what?"], weights=kind)
    assert total["kappa"] == pytest.approx(expected)


def test_labels_that_leave_a_score_undefined_give_a_number():
    metric = build({"name": "classification", "labels": ["a", "b"]})
    found = scores(metric, "a", "a")
    assert [
        output.corpus(one.statistics)
        for output, one in zip(metric.outputs[1:], found[1:], strict=True)
    ] == [1, 1, 0]
    assert metric.outputs[1].corpus([0.0] * 6) == 0
    assert metric.outputs[2].corpus([0.0] * 6) == 0


# Corpus scores of a report against sacreBLEU's own significance tests


def test_paired_tests_are_sacrebleus(pairs):
    """Two systems on 80 questions: bootstrap interval and approximate randomisation."""
    from sacrebleu.significance import PairedTest

    some = pairs[:160]
    systems = {"even": some[::2], "odd": some[1::2]}
    references = [reference for _, reference in systems["even"]]
    texts = {name: [text for text, _ in chosen] for name, chosen in systems.items()}
    metric = build("bleu")
    [output] = metric.outputs
    rows = {
        name: np.array(
            [
                scores(metric, text, ref)[0].statistics
                for text, ref in zip(chosen, references, strict=True)
            ]
        )
        for name, chosen in texts.items()
    }
    ours = differences.paired_corpus_difference(rows["odd"], rows["even"], output.corpus)
    interval = intervals.corpus_interval(rows["even"], output.corpus)
    tests = {
        kind: PairedTest(
            list(texts.items()),
            {"BLEU": sacrebleu.BLEU(references=[references])},
            references=None,
            test_type=kind,
            n_samples=1000,
        )()[1]["BLEU"]
        for kind in ("bs", "ar")
    }
    even, odd = tests["ar"]
    assert interval.estimate == even.score
    assert ours.difference == odd.score - even.score
    assert ours.p_value == pytest.approx(odd.p_value, abs=0.04)
    # sacreBLEU reports half the width of a 95% interval around the bootstrap's mean.
    even, _ = tests["bs"]
    assert (interval.high - interval.low) / 2 == pytest.approx(even.ci, rel=0.15)
