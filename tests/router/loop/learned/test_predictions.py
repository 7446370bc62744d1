"""Predictions from the nearest prompts, the held-out test, the file, and what is embedded."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from evaluators.stats.intervals import t_interval, t_quantile
from providers.errors import ArtifactError
from router.loop.learned.examples import Examples, unit_vectors
from router.loop.learned.held_out import (
    FEWEST_ROWS,
    FOLDS,
    always_target,
    fold_of,
    held_out_report,
)
from router.loop.learned.model_file import ModelFile, decoded, encoded
from router.loop.learned.neighbours import (
    PRIOR,
    Criterion,
    NeighbourModel,
    choose,
    good_enough,
)
from router.loop.learned.predictor import _predicted
from router.loop.learned.prompt_text import (
    MAX_CHARACTERS,
    in_tool_loop,
    text_of_envelope,
    text_of_messages,
)

AT_LEAST = Criterion(at_least=0.8, confidence=0.9)
WITHIN = Criterion(within=0.1, reference=1, confidence=0.9)


def examples(n=200, k=2, seed=1, scores=None):
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(rng.normal(size=(n, 8)))
    return Examples(
        tuple(f"p/{letter}" for letter in "abcdef"[:k]),
        vectors,
        (rng.random((n, k)) < 0.7).astype(float) if scores is None else scores,
        np.tile(np.arange(1, k + 1) / 100.0, (n, 1)),
        np.ones((n, k)),
        np.full(n, np.nan),
        np.arange(n),
    )


def test_a_prediction_is_the_mean_of_the_nearest_prompts_with_a_score():
    known = examples()
    scores = known.scores.copy()
    scores[::3, 0] = np.nan
    known = known._replace(scores=scores)
    model = NeighbourModel(known, AT_LEAST, neighbours=20)
    query = unit_vectors(np.random.default_rng(2).normal(size=(3, 8)))
    found = model.predict(query)
    for n, vector in enumerate(query):
        for k in range(2):
            rows = np.flatnonzero(np.isfinite(scores[:, k]))
            near = rows[np.argsort(-(known.vectors[rows] @ vector))[:20]]
            values = scores[near, k]
            assert found.scores[n, k] == pytest.approx(values.mean())
            whole = scores[rows, k].var()
            error = np.sqrt((20 * values.var() + PRIOR * whole) / (20 + PRIOR) / 20)
            bound = values.mean() - t_quantile(0.9, 19) * error
            assert found.bounds[n, k] == pytest.approx(bound)
            assert found.costs[n, k] == pytest.approx((k + 1) / 100)
        least = np.sort(known.vectors @ vector)[-20]
        assert found.similarity[n] == pytest.approx(least, abs=1e-6)


def test_the_bound_is_student_ts_without_the_prior():
    """Where all prompts are neighbours, the prior adds what is there already."""
    known = examples(n=40)
    found = NeighbourModel(known, AT_LEAST, neighbours=40).predict(known.vectors[:1])
    values = known.scores[:, 0]
    # Of one side, and with the variance over n instead of n - 1.
    low = t_interval(values, level=0.8).low
    width = (values.mean() - low) * np.sqrt(39 / 40)
    assert found.bounds[0, 0] == pytest.approx(values.mean() - width)


def test_differences_are_of_pairs_where_there_are_enough():
    """Scores that rise and fall together show a small difference sooner."""
    rng = np.random.default_rng(3)
    dear = (rng.random(200) < 0.6).astype(float)
    known = examples(scores=np.column_stack([dear, dear]))
    paired = NeighbourModel(known, WITHIN, neighbours=50).predict(known.vectors[:5])
    assert (paired.bounds[:, 0] == 0).all()
    apart = known.scores.copy()
    apart[:100, 0] = np.nan
    apart[100:, 1] = np.nan
    alone = NeighbourModel(known._replace(scores=apart), WITHIN, neighbours=50)
    assert alone.predict(known.vectors).bounds[:, 0].mean() < -0.05
    assert (paired.bounds[:, 1] == 0).all(), "the reference is as good as itself"


def test_the_cheapest_that_is_good_enough_is_chosen():
    known = examples(k=3, scores=np.tile([0.5, 0.95, 0.99], (60, 1)), n=60)
    model = NeighbourModel(known, AT_LEAST, neighbours=20)
    found = model.predict(known.vectors[:2])
    assert choose(found, AT_LEAST).tolist() == [1, 1]
    assert good_enough(found, AT_LEAST).tolist() == [[False, True, True]] * 2
    # None is: the best of them, or the reference.
    strict = AT_LEAST._replace(at_least=1.5)
    assert choose(found, strict).tolist() == [2, 2]
    costs = known.costs.copy()
    costs[:, 1] = np.nan
    unpriced = NeighbourModel(known._replace(costs=costs), AT_LEAST, neighbours=20)
    assert choose(unpriced.predict(known.vectors[:1]), AT_LEAST).tolist() == [2]
    reference = Criterion(within=0.0, reference=0, confidence=0.9)
    low = NeighbourModel(known, reference, neighbours=20)
    assert choose(low.predict(known.vectors[:1]), reference).tolist() == [0]


@pytest.mark.parametrize("criterion", [AT_LEAST, WITHIN])
def test_the_order_on_a_request_begins_with_the_choice_of_the_test(criterion):
    known = examples(k=4)
    model = NeighbourModel(known, criterion, neighbours=15)
    for n in range(40):
        vector = known.vectors[n : n + 1]
        [choice] = choose(model.predict(vector), criterion)
        assert _predicted(model, vector).order[0] == choice


def test_prompts_of_one_user_are_in_one_fold_and_folds_are_alike():
    units = np.repeat(np.arange(5000), 2)
    folds = fold_of(units)
    assert (folds[::2] == folds[1::2]).all()
    shares = np.bincount(folds, minlength=FOLDS) / len(folds)
    assert (abs(shares - 1 / FOLDS) < 0.03).all()


def test_the_always_target_is_the_cheapest_that_is_good_enough_on_average():
    known = examples(k=3, scores=np.tile([0.5, 0.9, 0.99], (60, 1)), n=60)
    assert always_target(known, AT_LEAST) == 1
    assert always_target(known, AT_LEAST._replace(at_least=2.0)) == 2
    assert always_target(known, Criterion(within=0.1, reference=0)) == 0


def test_too_little_is_not_tested():
    report = held_out_report(examples(FEWEST_ROWS - 1), WITHIN, neighbours=20, margin=0.02)
    assert report.decision == "untested"
    assert f"at least {FEWEST_ROWS} prompts of 20 users" in report.reason
    one_user = examples()._replace(units=np.zeros(200, dtype=np.int64))
    assert held_out_report(one_user, WITHIN, neighbours=20, margin=0.02).decision == "untested"


def test_a_file_is_read_as_it_was_written():
    known = examples(n=7)
    model = ModelFile(examples=known, numbers=np.arange(7), probe=known.vectors[0], low_cosine=0.25)
    read = decoded(encoded(model))
    assert read.examples.targets == known.targets
    for ours, theirs in zip(known[1:], read.examples[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert read.low_cosine == 0.25
    left = read.without({2, 5, 99})
    assert left.numbers.tolist() == [0, 1, 3, 4, 6]
    np.testing.assert_array_equal(left.examples.vectors, known.vectors[[0, 1, 3, 4, 6]])
    data = encoded(model)
    for broken in (b"", data[:-9], b"\x00" + data, msgspec.msgpack.encode({"version": 2})):
        with pytest.raises(ArtifactError, match="cannot be read"):
            decoded(broken)


def test_embeddings_that_are_no_vectors_are_refused():
    for vectors in ([[1.0], [1.0, 2.0]], [[]], [[float("nan")]], [[float("inf"), 1.0]]):
        with pytest.raises(ValueError, match="embedding"):
            unit_vectors(vectors)
    assert unit_vectors([[0.0, 0.0], [3.0, 4.0]]).tolist() == [
        [0.0, 0.0],
        pytest.approx([0.6, 0.8]),
    ]


PARTS = [{"type": "image_url", "image_url": {}}, {"type": "text", "text": " b "}, "c"]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "system", "content": "s"}, {"role": "user", "content": " a "}], "a"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}], "a"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "b"),
        ([{"role": "user", "content": PARTS}], "b \nc"),
        ([{"role": "user", "content": None}], ""),
        ([{"role": "system", "content": "s"}], ""),
        ([{"role": "user", "content": "x" * 20_000}], "x" * MAX_CHARACTERS),
        ([], ""),
    ],
)
def test_what_is_embedded_of_a_chat(messages, text):
    assert text_of_messages(messages) == text
    raw = msgspec.Raw(json.dumps(messages).encode())
    assert text_of_envelope({"messages": raw}) == text


def test_what_is_embedded_of_other_requests():
    def text(**fields):
        return text_of_envelope(
            {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}
        )

    assert text(prompt="a") == "a"
    assert text(prompt=["a", "b"]) == "a\nb"
    assert text(prompt=[1, 2]) == ""
    assert text(messages={"role": "user"}) == ""
    assert text(messages=[1]) == ""
    assert text() == ""


def test_tools_are_being_called_where_the_last_message_is_a_result():
    def last(*roles):
        raw = json.dumps([{"role": role, "content": ""} for role in roles]).encode()
        return in_tool_loop({"messages": msgspec.Raw(raw)})

    assert last("user", "assistant", "tool")
    assert not last("user", "assistant", "tool", "user")
    assert not last()
    assert not in_tool_loop({})
