"""Metrics without a reference implementation, worked out by hand."""

import pytest

from evaluators.base import Answer, Sample
from evaluators.metrics.readability import syllables
from evaluators.metrics.registry import build
from providers.errors import RunDocumentError


def sample(*references: str, said: str = "", **fields) -> Sample:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": said})
    return Sample(id="1", messages=messages, references=references, fields=fields)


def values(spec, text: str, of: Sample) -> list[float | None]:
    return [one.value for one in build(spec).score(of, Answer(text=text))]


def value(spec, text: str, *references: str):
    [found] = values(spec, text, sample(*references))
    return found


def why(spec, text: str, of: Sample) -> str:
    scores = build(spec).score(of, Answer(text=text))
    assert all(one.value is None for one in scores)
    return scores[0].error


@pytest.mark.parametrize(
    ("text", "reference", "equal"),
    [
        ("So 3 + 4 = 7.", "7", 1),
        ("So 3 + 4 = 7.", "#### 7", 1),
        ("It costs $1,234.50.", "1234.5", 1),
        ("1,23", "123", 0),  # not a group of three: 1 and 23
        ("-5 degrees", "-5", 1),
        ("\u22125 degrees", "-5", 1),
        ("5 degrees", "-5", 0),
        ("pages 3-4", "4", 1),  # no minus there
        ("6.02e23 of them", "602e21", 1),
        ("42%", "42", 1),
        ("v1.2.3 has none", "9", 0),
        ("0.30000001", "0.3", 1),
        ("0.301", "0.3", 0),
        ("none", "3", 0),
        ("", "3", 0),
        ("1e400", "3", 0),
    ],
)
def test_numeric(text, reference, equal):
    assert value("numeric", text, reference) == equal


def test_numeric_choices():
    assert value({"name": "numeric", "pick": "first"}, "7, not 8", "7") == 1
    assert value({"name": "numeric", "decimal": ","}, "1.234,5 Euro", "1.234,5") == 1
    assert value({"name": "numeric", "decimal": ","}, "3,5", "3,5") == 1
    assert value({"name": "numeric", "abs_tol": 0.5}, "10.4", "10") == 1
    assert value({"name": "numeric", "rel_tol": 0.0}, "0.30000001", "0.3") == 0
    assert value("numeric", "It is 8.", "seven or 7", "8") == 1
    assert why("numeric", "7", sample("seven")) == "the reference has no number"


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (b). ", "B"),
        ("**C**", "C"),
        ("The answer is C.", "C"),
        ("Answer: (D) because A is wrong", "D"),
        ("At first the answer is A; no, the answer is B.", "B"),
        ("B) Paris", "B"),
        ("B. Paris, and not A. Rome", "B"),
        ("I would go with D here", "D"),
        ("a cat and a dog", ""),  # "a" is a word
        ("Either A or B", ""),
        ("the answer is apple", ""),
        ("The answer isn't given", ""),
        ("A's", ""),
        ("F", ""),  # not one of the choices
        ("", ""),
    ],
)
def test_multiple_choice(text, choice):
    metric = build("multiple_choice")
    for letter in "ABCDE":
        [score] = metric.score(sample(letter), Answer(text=text))
        assert score.value == (letter == choice), (letter, text)
        assert bool(score.note) == (not choice)


def test_multiple_choice_references():
    assert value("multiple_choice", "B", "B. Paris") == 1
    assert value("multiple_choice", "B", "A", "B") == 1
    assert why("multiple_choice", "B", sample("Paris")) == "the reference names no choice"
    assert value({"name": "multiple_choice", "choices": "ABCDEFGH"}, "H", "H") == 1
    with pytest.raises(RunDocumentError, match="different capital letters"):
        build({"name": "multiple_choice", "choices": "AA"})


@pytest.mark.parametrize(
    ("text", "plain", "fenced"),
    [
        ('{"a": [1, null, "x"]}', 1, 1),
        (" 3\n", 1, 1),
        ('```json\n{"a": 1}\n```', 0, 1),
        ('```\n{"a": 1}\n```\n', 0, 1),
        ('Here: ```json\n{"a": 1}\n```', 0, 0),
        ("{'a': 1}", 0, 0),
        ("NaN", 0, 0),
        ('{"a": 1} and more', 0, 0),
        ("[" * 100_000 + "]" * 100_000, 0, 0),
        ('"\ud800"', 0, 0),
        ("", 0, 0),
    ],
)
def test_json_valid(text, plain, fenced):
    assert value("json_valid", text) == plain
    assert value({"name": "json_valid", "fenced": True}, text) == fenced


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "size": {"$ref": "#/$defs/size"}},
    "required": ["city"],
    "$defs": {"size": {"type": "integer", "minimum": 1}},
}


def test_json_schema():
    pytest.importorskip("jsonschema")
    spec = {"name": "json_schema", "schema": SCHEMA}
    assert value(spec, '{"city": "Oslo", "size": 3}') == 1
    assert value(spec, '{"city": "Oslo", "size": 0}') == 0
    assert value(spec, '{"size": 3}') == 0
    assert value(spec, "no JSON") == 0
    assert value(spec, "") == 0
    assert value({**spec, "fenced": True}, '```json\n{"city": "Oslo"}\n```') == 1
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": True}
    assert value({"name": "json_schema", "schema": {**draft4, "minimum": 3}}, "3") == 0


def test_json_schema_of_each_row():
    pytest.importorskip("jsonschema")
    spec = {"name": "json_schema", "column": "shape"}
    assert values(spec, "3", sample(shape={"type": "integer"})) == [1]
    assert values(spec, "3", sample(shape='{"type": "string"}')) == [0]
    assert "no usable schema" in why(spec, "3", sample())
    assert "no usable schema" in why(spec, "3", sample(shape="{"))
    assert "'wrong' is not valid" in why(spec, "3", sample(shape={"type": "wrong"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a schema, or the column"),
        ({"schema": {}, "column": "x"}, "either a schema, or the column"),
        ({"schema": {"type": "strnig"}}, "'strnig' is not valid"),
        ({"schema": {"$ref": "https://example.org/s.json"}}, "is not in the schema itself"),
    ],
)
def test_schemas_that_are_refused(options, message):
    pytest.importorskip("jsonschema")
    with pytest.raises(RunDocumentError) as caught:
        build({"name": "json_schema", **options})
    assert message in caught.value.message


def test_compression_novelty_repetition():
    article = "The ferry to the island was cancelled on Monday after a storm."
    of = sample(said=article)
    assert values("compression", "The ferry was cancelled.", of) == [3.0]
    assert values("compression", "", of) == [None]
    assert values("compression", "x", sample()) == [None]
    # Words: the ferry was cancelled today; "today" is new of 5, 2 of 4 pairs, 3 of 3 triples.
    found = values("novelty", "The ferry was cancelled today", of)
    assert found == [pytest.approx(1 / 5), pytest.approx(2 / 4), 1.0]
    assert values("novelty", "The ferry to the island", of) == [0.0, 0.0, 0.0]
    assert values("novelty", "Ferry", of) == [0.0, None, None]
    assert values("novelty", "", of) == [None, None, None]
    column = {"name": "novelty", "column": "body"}
    assert values(column, "a b c", sample(said="x", body="a b c"))[0] == 0.0
    assert why(column, "a b c", sample(said="x")) == "no source text"
    # a b a b a b: pairs ab ba ab ba ab, of which two are new and three repeat.
    assert value({"name": "repetition", "n": 2}, "A b a b. A b!") == pytest.approx(3 / 5)
    assert value("repetition", "one two three") == 0.0
    assert value("repetition", "") == 0.0


def test_the_source_may_come_in_parts():
    parts = [{"type": "text", "text": "one two"}, {"type": "image_url"}, {"text": "three four"}]
    of = Sample(id="1", messages=({"role": "user", "content": parts},))
    assert values("compression", "one two", of) == [2.0]


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("cat", 1),
        ("table", 2),
        ("made", 1),
        ("makes", 1),
        ("walked", 1),
        ("wanted", 2),
        ("houses", 2),
        ("reading", 2),
        ("beautiful", 3),
        ("I", 1),
        ("rhythm", 1),
        ("don't", 1),
        ("hmm", 1),
    ],
)
def test_syllables(word, count):
    assert syllables(word) == count


def test_readability():
    # 2 sentences, 6 words, 6 syllables: 206.835 - 1.015 * 3 - 84.6 * 1, 0.39 * 3 + 11.8 - 15.59.
    found = values("readability", "The cat sat. It was fat.", sample())
    assert found == [pytest.approx(119.19), pytest.approx(-2.62)]
    hard = "Institutional heterogeneity complicates intergovernmental coordination considerably."
    ease, grade = values("readability", hard, sample())
    assert ease < 0 < 20 < grade
    assert values("readability", "今天", sample()) == [None, None]
    assert values("readability", "", sample()) == [None, None]


GERMAN = "Die Fähre zur Insel fällt heute wegen des Sturms leider aus."
ENGLISH = "The ferry to the island is cancelled today because of the storm."


def test_language():
    pytest.importorskip("py3langid")
    assert value({"name": "language", "expect": "de"}, GERMAN) == 1
    assert value({"name": "language", "expect": "de"}, ENGLISH) == 0
    assert values("language", GERMAN, sample(said="Warum fährt die Fähre heute nicht?")) == [1]
    assert values("language", ENGLISH, sample(said="Warum fährt die Fähre heute nicht?")) == [0]
    column = {"name": "language", "column": "lang"}
    assert values(column, GERMAN, sample(lang="DE")) == [1]
    assert "cannot be detected" in why(column, GERMAN, sample())
    assert "fewer than 12 letters" in why({"name": "language", "expect": "de"}, "Ja.", sample())
    assert value({"name": "language", "expect": "de"}, " ") == 0
    with pytest.raises(RunDocumentError, match="code of two letters"):
        build({"name": "language", "expect": "german"})
    with pytest.raises(RunDocumentError, match="not both"):
        build({"name": "language", "expect": "de", "column": "x"})


def test_perplexity():
    metric = build("perplexity")
    [output] = metric.outputs
    # Tokens of probability 1/2 and 1/8: the geometric mean is 1/4.
    [score] = metric.score(sample(), Answer(text="x", logprob_sum=-2.772588722, logprob_tokens=2))
    assert score.value == pytest.approx(4.0)
    [other] = metric.score(sample(), Answer(text="x", logprob_sum=0.0, logprob_tokens=2))
    sums = [sum(column) for column in zip(score.statistics, other.statistics, strict=True)]
    assert output.corpus(sums) == pytest.approx(2.0)
    [absurd] = metric.score(sample(), Answer(text="x", logprob_sum=-1e9, logprob_tokens=1))
    assert absurd.value == pytest.approx(1.0142e304, rel=1e-4)
    for unknown in (Answer(text="x"), Answer(text="", logprob_sum=0.0, logprob_tokens=0)):
        [none] = metric.score(sample(), unknown)
        assert none.value is None
        assert "ask with parameters: {logprobs: true}" in none.error


def test_labels_are_read_as_declared():
    spec = {"name": "classification", "labels": ["Positive", "Negative", "Not sure"]}

    def accuracy(text, *references, **options):
        return values({**spec, **options}, text, sample(*references))[0]

    assert accuracy("positive.", "Positive") == 1
    assert accuracy("  NOT   sure!", "Not sure") == 1
    assert accuracy("It is positive.", "Positive") == 0
    assert accuracy("It is positive.", "Positive", match="word") == 1
    assert accuracy("It is positive, not negative.", "Positive", match="word") == 0
    assert accuracy("positively", "Positive", match="word") == 0
    assert accuracy("I am not sure about it", "not sure", match="word") == 1
    assert accuracy("", "Positive") == 0
    assert accuracy("negative", "odd", "Negative") == 1
    assert why(spec, "x", sample("odd")) == "the reference is not one of the labels"
    for labels in (["a", "A"], ["a", "..."]):
        with pytest.raises(RunDocumentError, match="two are equal"):
            build({"name": "classification", "labels": labels})


def test_fuzzy_and_levenshtein():
    pytest.importorskip("rapidfuzz")
    # kitten, sitting: 3 edits; 7 characters.
    similarity, cer, wer = values("levenshtein", "kitten", sample("sitting"))
    assert (similarity, cer, wer) == (pytest.approx(1 - 3 / 7), pytest.approx(3 / 7), 1.0)
    assert values("levenshtein", "", sample("a b")) == [0.0, 1.0, 1.0]
    assert values("levenshtein", "a b c", sample("x", "a b c d")) == [
        pytest.approx(5 / 7),
        pytest.approx(2 / 7),
        pytest.approx(1 / 4),
    ]
    assert value("fuzzy", "York, New!", "new york") < 100
    assert value({"name": "fuzzy", "method": "token_sort_ratio"}, "York, New!", "new york") == 100
    assert value({"name": "fuzzy", "normalize": False}, "ABC", "abc") == 0
    assert value("fuzzy", " ", "abc") == 0
