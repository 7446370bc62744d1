"""The metric `ranking`, by hand and against scikit-learn."""

import json
import random

import pytest

from evaluators.base import Answer, Sample
from evaluators.metrics.registry import build
from providers.errors import RunDocumentError


def scores(k, text, *references, **options):
    metric = build({"name": "ranking", "k": k, **options})
    return metric.score(Sample(id="1", messages=(), references=references), Answer(text=text))


def values(k, text, *references, **options):
    return [score.value for score in scores(k, text, *references, **options)]


@pytest.mark.parametrize(
    ("k", "text", "precision", "recall"),
    [
        (1, "Rome\nParis", 0, 0),
        (2, "Rome\nParis", 1 / 2, 1 / 4),
        (3, "Rome\nParis\nOslo", 2 / 3, 2 / 4),
        (4, "Paris\nOslo\nBern\nRiga", 1, 1),
        (8, "Paris\nOslo\nBern\nRiga", 4 / 8, 1),  # a short list is over k too
        (2, "Rome\nBonn\nParis\nOslo", 0, 0),  # what is behind the k-th place does not count
        (3, "Paris\nParis\nOslo", 2 / 3, 2 / 4),  # a repeated item takes up a place
        (2, "Here is the list:\nParis", 1 / 2, 1 / 4),
        (2, "", 0, 0),
        (2, "[]", 0, 0),
        (2, "\n \n", 0, 0),
    ],
)
def test_the_first_k_items_count(k, text, precision, recall):
    assert values(k, text, "Paris", "Oslo", "Bern", "Riga") == [precision, recall]


@pytest.mark.parametrize(
    "text",
    [
        '["Rome", "Paris", "Oslo"]',
        ' {"cities": ["Rome", "Paris", "Oslo"]}\n',
        '```json\n["Rome", "Paris", "Oslo"]\n```',
        '[["Rome"], "Paris", "Oslo"]',
        '[null, "Paris", "Oslo"]',
        "1. Rome\n2. Paris\n3. Oslo",
        "1) Rome\n2) Paris\n3) Oslo",
        "- Rome\n\n- **Paris**\n- `oslo`",
        "* Rome,\n* \u201cPARIS\u201d;\n* Oslo.",
        "\u2022 Rome\r\n\u2022 'Paris'\r\n\u2022 **\"Oslo\"**",
    ],
)
@pytest.mark.parametrize(
    "references", [("Paris", "Oslo"), ('["Paris", "Oslo"]',), ("Paris\nOslo",)]
)
def test_lists_of_every_form(text, references):
    assert values([1, 2, 3], text, *references) == [0, 0, 1 / 2, 1 / 2, 2 / 3, 1]


@pytest.mark.parametrize(
    ("text", "reference", "recall"),
    [
        ("C++", "C#", 0),
        ("C++", "c++", 1),
        ("2001: A Space Odyssey", "2001: a space odyssey", 1),
        ("2001: A Space Odyssey", "1968: A Space Odyssey", 0),
        ("2001. A Space Odyssey", "1968. A Space Odyssey", 0),
        ("2001. A Space Odyssey", "A Space Odyssey", 0),
        ("2001: A Space Odyssey", "A Space Odyssey", 0),
        ("200: A Space Odyssey", "A Space Odyssey", 0),
        ("200. A Space Odyssey", "A Space Odyssey", 1),
        ("3. Liga", "3. Liga", 1),
        ("3. Liga", "2. Liga", 0),
        ("1. 3. Liga", "3. Liga", 1),
        ('["1. Paris"]', "Paris", 1),
        ("1. Paris", "- Paris\n- Oslo", 0.5),
        ("-5", "5", 0),
        ("[7, 8]", "7", 1),
        ("[1.50]", "1.5", 1),
        ("New  York", "new york", 1),
        ("caf\u00e9", "cafe\u0301", 1),
        ("\uff21", "A", 0),
        ('{"a": ["A"], "b": ["A"]}', "A", 0),
        ("[" * 5000, "A", 0),
        ("[" + "1" * 5000 + "]", "1", 0),
        ('["\\ud800"]', "A", 0),
        ("*" * 100_000, "A", 0),
    ],
)
def test_items_are_equal_but_for_what_does_not_count(text, reference, recall):
    assert values(1, text, reference) == [float(recall > 0), recall]


def test_the_normal_form_is_a_choice():
    assert values(1, "\uff21", "A", unicode="nfkc") == [1, 1]


def test_an_item_of_several_references_is_taken_as_it_is():
    assert values(2, '["[1]", "Paris"]', "[1]", "Paris") == [1, 1]


def test_equal_references_are_one():
    assert values(1, "Paris", "Paris", "paris.") == [1, 1]


@pytest.mark.parametrize(("references", "why"), [([], "no reference"), (["[]"], "no items")])
def test_without_relevant_items_nothing_is_scored(references, why):
    for score in scores([1, 2], "Paris", *references):
        assert score.value is None
        assert why in score.error


def test_outputs_are_named_by_their_k():
    names = [output.name for output in build({"name": "ranking", "k": [1, 5]}).outputs]
    assert names == ["precision_at_1", "recall_at_1", "precision_at_5", "recall_at_5"]
    assert [score.output for score in scores([1, 5], "a", "a")] == names
    assert [output.name for output in build("ranking").outputs] == names_at(10)


def names_at(k):
    return [f"precision_at_{k}", f"recall_at_{k}"]


@pytest.mark.parametrize(
    ("k", "message"),
    [([2, 2], "k: a number occurs twice"), (0, "k: "), ([], "k: "), (True, "k: "), ("5", "k: ")],
)
def test_a_k_that_makes_no_sense_is_refused(k, message):
    with pytest.raises(RunDocumentError) as caught:
        build({"name": "ranking", "k": k}, param="metrics[0]")
    assert caught.value.param == "metrics[0].k"
    assert message in caught.value.message


@pytest.mark.parametrize("seed", range(4))
def test_precision_and_recall_are_scikit_learns(seed):
    """With k items given, they are those of the labels "relevant" and "among the first k"."""
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = random.Random(seed)
    every = [f"item {number}" for number in range(30)]
    relevant = draw.sample(every, 8)
    ranked = draw.sample(every, 20)
    for k in (1, 3, 10, 20):
        due = [item in relevant for item in every]
        given = [item in ranked[:k] for item in every]
        for text in ("\n".join(ranked), json.dumps(ranked)):
            assert values(k, text, *relevant) == pytest.approx(
                [
                    sklearn.precision_score(due, given, zero_division=0),
                    sklearn.recall_score(due, given, zero_division=0),
                ]
            )
