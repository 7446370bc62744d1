"""Rules that end a run: that they stop when they should, and hardly ever when they should not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import pytest

from evaluators.base import Answer, Cell, Output, Score
from evaluators.document import RunDocument
from evaluators.stats.always_valid import always_valid_interval
from evaluators.stats.differences import paired_difference
from evaluators.stats.sequential import ASYMPTOTIC_MINIMUM, StopRule, StopWhen
from providers.errors import RunDocumentError

ROUGE = Output(name="rougeL")
COST = Output(name="cost_usd", higher_is_better=False, high=None)
WORDS = Output(name="words", higher_is_better=None, high=None)
BLEU = Output(name="bleu", high=100.0, corpus=sum)
OUTPUTS = (ROUGE, COST, WORDS, BLEU)
GOOD = Answer(text="words")
FAILED = Answer(text=None, error="broke", error_code="upstream_500")


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def rule(routes: tuple[str, ...] = ("a",), baseline: str | None = None, **when: object) -> StopRule:
    repeats = int(when.pop("repeats", 1))  # type: ignore[call-overload]
    return StopRule(
        StopWhen(**when),  # type: ignore[arg-type]
        routes=routes,
        outputs=OUTPUTS,
        baseline=baseline,
        repeats=repeats,
    )


def score(value: float, output: str = "rougeL") -> list[Score]:
    return [Score(output="other", value=0.5), Score(output=output, value=value)]


def stops_at(made: StopRule, values: Iterable[float], output: str = "rougeL") -> int | None:
    """After how many samples of route `a` it stops, looking after each one."""
    for n, value in enumerate(values, 1):
        made.add(Cell("a", str(n), 0), GOOD, score(float(value), output))
        if made.may_stop():
            return n
    return None


def decided_at(made: StopRule, gaps: Iterable[float], output: str = "rougeL") -> int | None:
    for n, gap in enumerate(gaps, 1):
        made.add(Cell("b", str(n), 0), GOOD, score(0.5, output))
        made.add(Cell("a", str(n), 0), GOOD, score(0.5 + float(gap), output))
        if made.may_stop():
            return n
    return None


# wrong stops


NULLS: dict[str, tuple[str, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "bounded": ("rougeL", lambda draw, n: (draw.random(n) - draw.random(n)) / 2),
    "zeros and ones": ("rougeL", lambda draw, n: draw.integers(-1, 2, n) / 2),
    "skewed": ("rougeL", lambda draw, n: np.where(draw.random(n) < 0.1, 0.45, -0.05)),
    "unbounded": ("cost_usd", lambda draw, n: draw.exponential(1, n) - 1),
}


@pytest.mark.parametrize("kind", NULLS)
def test_equal_routes_are_hardly_ever_decided(kind):
    """Looked at after every one of 600 samples; a t test so treated errs in every third run."""
    output, values = NULLS[kind]
    draw = rng(1)
    wrong = sum(
        decided_at(rule(("a", "b"), "b", decided=output), values(draw, 600), output) is not None
        for _ in range(300)
    )
    assert wrong / 300 <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 300)


def test_a_test_that_is_repeated_errs_where_this_does_not():
    draw = rng(2)
    wrong = 0
    for _ in range(200):
        gaps = draw.normal(0, 0.2, 600)
        n = np.arange(1, 601)
        means = np.cumsum(gaps) / n
        spread = np.sqrt(np.maximum(np.cumsum(gaps**2) / n - means**2, 1e-12))
        wrong += bool((np.abs(means) > 1.96 * spread / np.sqrt(n))[20:].any())
    assert wrong / 200 > 0.25


@pytest.mark.parametrize("output", [ROUGE, COST])
def test_the_interval_at_the_stop_holds_the_mean(output):
    draw = rng(3)
    missed = 0
    for _ in range(200):
        made = rule(half_width=0.04, output=output.name)
        values = draw.beta(2, 6, 3000)
        stopped = stops_at(made, values, output.name)
        found = always_valid_interval(values[:stopped], low=output.low, high=output.high)
        assert (found.high - found.low) / 2 <= 0.042
        missed += not found.low <= 0.25 <= found.high
    assert missed / 200 <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize("kind", NULLS)
def test_it_sees_what_a_report_shows(kind):
    """The p-value of the rule is that of a report over the same samples."""
    output, values = NULLS[kind]
    known = ROUGE if output == "rougeL" else COST
    gaps = values(rng(11), 150) + 0.1
    made = rule(("a", "b"), "b", decided=output)
    decided_at(made, gaps, output)
    first = np.full(len(gaps), 0.5)
    shown = paired_difference(
        first + gaps, first, low=known.low, high=known.high, always_valid=True
    )
    [sequence] = made._sequences.values()
    if sequence.n == len(gaps):
        assert min(1.0, math.exp(-sequence.log_evidence())) == pytest.approx(shown.p_value)
    for alpha in (0.04, 0.01):
        stopped = decided_at(rule(("a", "b"), "b", decided=output, alpha=alpha), gaps, output)
        if stopped is None:
            continue
        seen = gaps[:stopped]
        at_stop = paired_difference(
            first[:stopped] + seen,
            first[:stopped],
            low=known.low,
            high=known.high,
            always_valid=True,
        )
        assert at_stop.p_value <= alpha * (1 + 1e-9)


def test_routes_share_the_error():
    draw = rng(4)
    routes = ("a", "b", "c", "d", "e")
    wrong = 0
    for _ in range(100):
        made = rule(routes, "b", decided="rougeL")
        for n in range(200):
            for route in routes:
                made.add(Cell(route, str(n), 0), GOOD, score(float(draw.random())))
        levels = [one.log_evidence() for one in made._sequences.values()]
        wrong += max(levels) >= math.log(4 / 0.05)
    assert wrong / 100 <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 100)


# right stops


def test_a_clear_difference_is_decided_soon_and_an_unclear_one_later():
    draw = rng(5)
    clear = [
        decided_at(
            rule(("a", "b"), "b", decided="rougeL"), draw.normal(0.2, 0.2, 500).clip(-0.5, 0.5)
        )
        for _ in range(20)
    ]
    unclear = [
        decided_at(
            rule(("a", "b"), "b", decided="rougeL"), draw.normal(0.05, 0.2, 3000).clip(-0.5, 0.5)
        )
        for _ in range(20)
    ]
    assert None not in clear
    assert None not in unclear
    assert np.median(clear) <= 40
    assert 60 <= np.median(unclear) <= 500


def test_what_the_report_does_not_show_is_put_off():
    made = rule(("a", "b"), "b", decided="rougeL")
    assert decided_at(made, [0.5] * 50) == 20
    made.postpone()
    assert not made.may_stop()
    assert decided_at(made, [0.5] * 50) is not None
    assert min(one.n for one in made._sequences.values()) == 22
    made = rule(("a", "b"), "b", decided="rougeL")
    made.postpone()
    assert decided_at(made, [0.5] * 50) == 20


def test_every_route_has_to_be_decided():
    made = rule(("a", "b", "c"), "b", decided="rougeL")
    for n in range(200):
        for route, value in (("a", 0.9), ("b", 0.5), ("c", 0.5 + 0.1 * (-1) ** n)):
            made.add(Cell(route, str(n), 0), GOOD, score(value))
    assert not made.may_stop()


def test_the_wanted_width_is_reached_when_it_may_be():
    stopped = stops_at(rule(half_width=0.05, output="rougeL"), rng(6).beta(2, 6, 3000))
    # An interval for one look needs 32 samples, one for any number of looks a few times that.
    assert 60 <= stopped <= 300
    wider = stops_at(rule(half_width=0.1, output="rougeL"), rng(6).beta(2, 6, 3000))
    assert wider < stopped
    unbounded = stops_at(
        rule(half_width=0.1, output="cost_usd"), rng(7).exponential(1, 9000), "cost_usd"
    )
    assert 500 <= unbounded <= 3000


def test_intervals_of_several_routes_hold_together():
    values = rng(9).beta(2, 6, 3000)

    def stop(routes: tuple[str, ...]) -> int:
        made = rule(routes, half_width=0.05, output="rougeL")
        for n, value in enumerate(values, 1):
            for route in routes:
                made.add(Cell(route, str(n), 0), GOOD, score(float(value)))
            if made.may_stop():
                return n
        raise AssertionError("it never stopped")

    # Each gets a part of alpha: log(2 / 0.0125) / log(2 / 0.05) is 1.38.
    assert stop(("a", "b", "c", "d")) == pytest.approx(1.38 * stop(("a",)), rel=0.1)


def test_not_before_the_minimum():
    assert decided_at(rule(("a", "b"), "b", decided="rougeL"), [0.5] * 50) == 20
    made = rule(("a", "b"), "b", decided="rougeL", min_samples=33)
    assert decided_at(made, [0.5] * 50) == 33
    made = rule(("a", "b"), "b", decided="cost_usd")
    assert decided_at(made, [0.5] * 300, "cost_usd") == ASYMPTOTIC_MINIMUM


# what counts as a sample


def test_repeats_are_averaged_first():
    made = rule(("a", "b"), "b", decided="rougeL", repeats=3)
    for n in range(40):
        for repeat in range(3):
            made.add(Cell("b", str(n), repeat), GOOD, score(0.5))
            made.add(Cell("a", str(n), repeat), GOOD, score(0.9))
            assert made.may_stop() == (n * 3 + repeat >= 59)
    assert next(iter(made._sequences.values())).n == 40
    assert not made._repeated
    assert not made._waiting


def test_failed_answers_are_left_out_and_not_waited_for():
    made = rule(("a", "b"), "b", decided="rougeL")
    for n in range(60):
        made.add(Cell("a", str(n), 0), FAILED if n % 2 else GOOD, [] if n % 2 else score(0.9))
        assert not made.may_stop()
    for n in range(60):
        made.add(Cell("b", str(n), 0), GOOD, score(0.5))
    assert made.may_stop()
    assert next(iter(made._sequences.values())).n == 30
    assert not made._waiting


def test_copies_in_a_cluster_are_no_evidence():
    made = rule(("a", "b"), "b", decided="rougeL")
    for n in range(2000):
        cluster = f"text {n % 30}"
        made.add(Cell("b", str(n), 0), GOOD, score(0.5), cluster=cluster)
        made.add(Cell("a", str(n), 0), GOOD, score(0.9), cluster=cluster)
    assert not made.may_stop()  # 30 texts are fewer than the asymptotic method asks for


def test_a_cluster_counts_as_one_observation():
    draw = rng(8)
    wrong = 0
    for _ in range(60):
        made = rule(("a", "b"), "b", decided="rougeL")
        level = draw.normal(0, 0.15, 150).clip(-0.4, 0.4)
        stopped = False
        for n in range(1500):
            made.add(Cell("b", str(n), 0), GOOD, score(0.5), cluster=f"{n // 10}")
            value = 0.5 + float(level[n // 10]) + float(draw.normal(0, 0.01))
            made.add(Cell("a", str(n), 0), GOOD, score(value), cluster=f"{n // 10}")
            stopped = stopped or made.may_stop()
        wrong += stopped
    assert wrong / 60 <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 60)


# the document


def document(stop_when: object) -> RunDocument:
    body = {"dataset": "d", "routes": ["a"], "metrics": ["rouge"], "stop_when": stop_when}
    return msgspec.convert(body, RunDocument)


def test_the_document_says_one_thing():
    assert document({"half_width": 0.02, "output": "rougeL"}).stop_when.half_width == 0.02
    assert document({"decided": "rougeL"}).stop_when.alpha == 0.05
    for wrong in (
        {},
        {"half_width": 0.02, "decided": "rougeL"},
        {"decided": "rougeL", "output": "rougeL"},
        {"half_width": 0},
        {"half_width": 0.1, "alpha": 1},
        {"half_width": 0.1, "sometimes": True},
    ):
        with pytest.raises(msgspec.ValidationError):
            document(wrong)


@pytest.mark.parametrize(
    ("when", "baseline", "told"),
    [
        ({"half_width": 0.1}, "b", "stop_when.output: name one of"),
        ({"half_width": 0.1, "output": "rougel"}, "b", "Did you mean 'rougeL'?"),
        ({"half_width": 0.1, "output": "bleu"}, "b", "a score of a corpus"),
        ({"decided": "rogueL"}, "b", "Did you mean 'rougeL'?"),
        ({"decided": "rougeL"}, None, "names no baseline"),
        ({"decided": "words"}, "b", "neither direction"),
        ({"decided": "rougeL", "alpha": 0.1}, "b", "stop_when.alpha: at most 0.05"),
    ],
)
def test_what_cannot_be_watched_is_told(when, baseline, told):
    with pytest.raises(RunDocumentError) as caught:
        rule(("a", "b"), baseline, **when)
    assert told in caught.value.message
    assert caught.value.param.startswith("stop_when.")
