"""Metrics over text of any script, and what they share with the published ones in English."""

# ruff: noqa: RUF001  # the texts are in other scripts on purpose

import re
import string
import unicodedata
from collections import Counter

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_data import vicuna_pairs

from evaluators.base import Answer, Sample
from evaluators.metrics.registry import build, resolve
from providers.errors import RunDocumentError

CHINESE = ("今天天气很好，我们去公园跑步。", "今天天气很好，我们去公园散步。")


def scores(spec, text, *references):
    row = Sample(
        id="1", messages=({"role": "user", "content": references[0]},), references=references
    )
    return build(spec).score(row, Answer(text=text))


def value(spec, text, *references):
    return scores(spec, text, *references)[0].value


# SQuAD's script, version 1.1, and MLQA's for other scripts


def squad_words(text):
    plain = "".join(sign for sign in text.lower() if sign not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def squad_f1(text, reference):
    found, expected = squad_words(text), squad_words(reference)
    same = sum((Counter(found) & Counter(expected)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(found), same / len(expected)
    return 2 * precision * recall / (precision + recall)


ASCII = st.text(alphabet=string.ascii_letters + string.digits + " .,'-$%the", max_size=40)


@given(ASCII, ASCII.filter(squad_words))
@settings(max_examples=200)
def test_english_scores_are_those_of_squads_script(text, reference):
    if squad_words(text) or not text.strip():
        assert value("f1", text, reference) == pytest.approx(squad_f1(text, reference), abs=1e-15)
        equal = squad_words(text) == squad_words(reference)
        assert value("exact_match", text, reference) == equal
    for name, expected in (
        ("f1", squad_f1(text, reference)),
        ("exact_match", float(squad_words(text) == squad_words(reference))),
    ):
        strict = value({"name": name, "rules": "squad1.1"}, text, reference)
        assert strict == pytest.approx(expected, abs=1e-15)


TYPOGRAPHIC = st.text(alphabet="ab the\u201c\u201d\u2013\u00e9", max_size=12)


@given(TYPOGRAPHIC, TYPOGRAPHIC.filter(squad_words))
def test_the_strict_rules_are_the_script_on_typographic_text_too(text, reference):
    strict = value({"name": "f1", "rules": "squad1.1"}, text, reference)
    assert strict == pytest.approx(squad_f1(text, reference), abs=1e-15)


@pytest.mark.parametrize("name", ["exact_match", "f1", "contains"])
@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("北京。", "北京"),
        ("「東京」", "東京"),
        ("ประเทศไทย", "ประเทศไทย"),
        ("¿Madrid?", "Madrid"),
        ("القاهرة،", "القاهرة"),
        ("दिल्ली।", "दिल्ली"),
        ("“Paris”", "Paris"),
        ("cafe\u0301", "café"),
        ("\u2067ירושלים\u2069", "ירושלים"),
        ("Pa\u00adris\u200b", "Paris"),
        ("ལྷ་ས།", "ལྷ་ས"),
    ],
)
def test_punctuation_of_all_scripts_and_composed_characters(name, text, reference):
    assert value(name, text, reference) == 1


@pytest.mark.parametrize("name", ["exact_match", "f1", "contains", "chrf", "levenshtein", "fuzzy"])
def test_compatibility_characters_are_equal_only_if_wanted(name):
    full = "ＡＢＣ"
    assert value({"name": name, "unicode": "nfkc"}, full, "ABC") in (1, 100)
    assert value(name, full, "ABC") == 0


@pytest.mark.parametrize(
    "name", ["bleu", "chrf", "ter", "levenshtein", "fuzzy", "novelty", "meteor", "exact_match"]
)
def test_texts_that_look_the_same_are_the_same(name):
    composed = "Zoë réagit là où l’élève préfère être"
    split = unicodedata.normalize("NFD", composed)
    assert value(name, split, composed) == value(name, composed, composed)
    if name in ("bleu", "chrf", "ter", "levenshtein", "fuzzy", "meteor"):
        other = value({"name": name, "unicode": "none"}, split, composed)
        assert other != value(name, composed, composed)


def test_chinese_characters_count_as_words():
    # 12 of 13 characters are shared.
    assert value("f1", *CHINESE) == pytest.approx(12 / 13)
    assert value("f1", "北京。", "北京") == 1
    assert value("length", *CHINESE) == 13
    assert value("repetition", "天气好天气好", "x") == 0
    assert value({"name": "repetition", "n": 2}, "天气好天气好", "x") == pytest.approx(2 / 5)
    # 12 different characters, of which one is new.
    assert value("novelty", *CHINESE) == pytest.approx(1 / 12)
    assert value("compression", *CHINESE) == 1
    assert value({"name": "meteor", "tokenizer": "unicode"}, *CHINESE) > 0.8
    assert scores({"name": "levenshtein", "words": "unicode"}, *CHINESE)[2].value == 1 / 13


@pytest.mark.parametrize("name", ["exact_match", "f1", "contains", "bleu", "numeric"])
def test_a_reference_that_nobody_can_see_is_none(name):
    assert [score.error for score in scores(name, "x", "\u200b")] == ["no reference"]


def test_what_every_answer_has_cannot_be_looked_for():
    for spec in ({"name": "contains", "text": "\u200b"}, {"name": "regex", "pattern": ""}):
        with pytest.raises(RunDocumentError, match="every answer"):
            build(spec)


def test_an_emoji_is_a_word_in_every_script():
    assert value("exact_match", "北京👍", "北京👎") == 0
    assert value("exact_match", "Beijing 👍", "Beijing 👎") == 0
    assert value("exact_match", "北京＋", "北京") == 1


@pytest.mark.parametrize("name", ["bleu", "ter", "meteor", "levenshtein"])
def test_a_score_that_counts_sentences_as_words_says_so(name):
    assert "without blanks" in scores(name, *CHINESE)[-1].note
    assert "without blanks" in scores(name, "ประเทศไทย", "ประเทศไทย")[-1].note
    assert "without blanks" in scores(name, "བོད་སྐད་ཡིག", "བོད་སྐད་ཡིག")[-1].note
    assert not scores(name, "Good morning", "Good morning")[-1].note
    assert not scores(name, "Привет, мир", "Привет, мир")[-1].note


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [
        ("zh", "zh"),
        ("Simplified Chinese", "zh"),
        ("Japanese", "char"),
        ("th", "char"),
        ("Korean", "13a"),
        ("bod_Tibt", "char"),
        ("German", "13a"),
        ("Klingon", "13a"),
        ("", "13a"),
    ],
)
def test_bleus_tokenizer_follows_the_language(language, tokenizer):
    metric = build({"name": "bleu", "language": language})
    expected = sacrebleu.sentence_bleu(CHINESE[0], [CHINESE[1]], tokenize=tokenizer)
    [score] = scores({"name": "bleu", "language": language}, *CHINESE)
    assert score.value == expected.score
    assert f"|tok:{tokenizer}|" in metric.signature
    assert bool(score.note) == (tokenizer == "13a")


def test_a_tokenizer_that_is_written_wins():
    metric = build({"name": "bleu", "language": "zh", "tokenize": "char"})
    assert "|tok:char|" in metric.signature
    with pytest.raises(RunDocumentError, match=r"tokenize: ja-mecab needs MeCab.*sacrebleu\[ja\]"):
        build({"name": "bleu", "tokenize": "ja-mecab"})


def test_ter_divides_chinese_where_the_language_is_named():
    oracle = sacrebleu.TER(normalized=True, asian_support=True)
    [score] = scores({"name": "ter", "language": "Chinese"}, *CHINESE)
    assert score.value == oracle.sentence_score(CHINESE[0], [CHINESE[1]]).score
    assert not score.note


def test_the_runs_language_goes_to_the_metrics_that_have_the_option(tmp_path):
    assert resolve("bleu", tmp_path, language="zh") == {"name": "bleu", "language": "zh"}
    spec = {"name": "bleu", "language": "ja"}
    assert resolve(spec, tmp_path, language="zh") == spec
    assert resolve("f1", tmp_path, language="zh") == "f1"
    assert resolve("bleu", tmp_path) == "bleu"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("选B。", "B"),
        ("答案是B", "B"),
        ("（Ｂ）", "B"),
        ("정답은 C입니다", "C"),
        ("答えはDです", "D"),
        ("Antwort: C, nicht A", "C"),
        ("Ответ: A", "A"),
        ("我认为C是对的", "C"),
        ("A, but the answer is B", "B"),
    ],
)
def test_choices_in_other_languages(text, letter):
    assert value("multiple_choice", text, letter) == 1


def test_labels_in_other_scripts():
    spec = {"name": "classification", "labels": ["正面", "负面"]}
    assert value(spec, "正面。", "正面") == 1
    assert value({**spec, "match": "word"}, "这是负面的", "负面") == 1
    spaced = {"name": "classification", "labels": ["spam", "ham"], "match": "word"}
    assert value(spaced, "non-spam, so ham", "ham") == 1


def test_numbers_of_other_locales():
    assert value("numeric", "Das macht 1.234,56 Euro", "1234.56") == 1
    assert value("numeric", "答案是三十五", "35") == 1
    assert value("numeric", "٣٥", "35") == 1
    [score] = scores("numeric", "3,14", "3,14")
    assert "decimal comma" in score.note
    assert not scores({"name": "numeric", "decimal": ","}, "3,14", "3,14")[0].note


def test_the_language_of_a_short_text_without_blanks_is_detected():
    pytest.importorskip("py3langid")
    assert value({"name": "language", "expect": "zh"}, "今天天气很好。", "x") == 1
    assert value({"name": "language", "expect": "th"}, "ประเทศไทย", "x") == 1
    assert value({"name": "language", "expect": "zh"}, "你好", "x") is None
    assert value({"name": "language", "expect": "de"}, "Guten Tag", "x") is None


def test_contains_may_look_inside_words():
    assert value("contains", "42", "4") == 0
    assert value({"name": "contains", "match": "text"}, "42", "4") == 1


# ROUGE


def test_a_text_of_several_sentences_without_newlines_is_noted_or_divided():
    text, reference = "A cat sat. A dog ran.", "A dog ran. A cat sat."
    *others, lsum = scores("rouge", text, reference)
    assert "has no newline" in lsum.note
    assert not any(score.note for score in others)
    assert lsum.value == others[2].value
    for spec in ({"name": "rouge", "lsum": "segment"}, {"name": "rouge", "lsum": "auto"}):
        divided = scores(spec, text, reference)[3]
        assert (divided.value, divided.note) == (1, "")
    lines = scores("rouge", text.replace(". ", ".\n"), reference.replace(". ", ".\n"))[3]
    assert (lines.value, lines.note) == (1, "")
    assert not scores("rouge", "One sentence only.", "One sentence.")[3].note


@pytest.mark.parametrize(
    "spec", ["rouge:published", {"rouge": "published"}, {"name": "rouge", "preset": "published"}]
)
def test_the_preset_is_rouge_score_with_stemmer_and_a_sentence_a_line(spec):
    from rouge_score.rouge_scorer import RougeScorer

    oracle = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    for text, reference in vicuna_pairs()[::32]:
        one, two = (part.replace("\n", " ").replace(". ", ".\n") for part in (text, reference))
        expected = oracle.score(two, one)
        for score in scores(spec, one, two):
            assert score.value == expected[score.output].fmeasure


def test_an_option_that_is_written_wins_over_the_preset():
    plain = {"name": "rouge", "stemmer": False, "lsum": "newline"}
    assert build({**plain, "preset": "published"}).signature == build(plain).signature


@pytest.mark.parametrize("spec", ["rouge:papers", "f1:published", {"f1": "published"}])
def test_a_preset_that_does_not_exist(spec):
    with pytest.raises(RunDocumentError, match="preset"):
        build(spec)
