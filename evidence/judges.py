"""Judges against people: corrected means, agreement, warnings of bias, and tournaments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import NamedTuple
from zlib import crc32

import numpy as np

from evaluators.stats.agreement import Pairs, krippendorff
from evaluators.stats.corrected_means import corrected_difference, corrected_mean
from evaluators.stats.false_discovery import benjamini_hochberg
from evaluators.stats.intervals import t_interval, wilson
from evaluators.stats.label_plan import plan_labels
from evaluators.stats.prediction_powered import corrected_share, rows_of
from evaluators.stats.ratings import Game, rate
from evaluators.stats.regression import partial_slope
from evaluators.stats.reliability import icc
from evidence.cells import ALPHA, Cell, Data, Ends, Floats, Outcome, ends
from evidence.differences import Draw

SENSITIVITY, SPECIFICITY = 0.9, 0.7
GOOD = 0.7
"""The share of answers that people find good."""


def judged_binary(people: Floats, random: np.random.Generator) -> Floats:
    """Draw verdicts of a judge that misses some good answers and lets some bad ones pass."""
    chance = np.where(people > 0, SENSITIVITY, 1 - SPECIFICITY)
    return (random.random(people.shape) < chance).astype(np.float64)


def _corrected(
    labelled: int,
    *,
    scale: tuple[float, float] = (0.0, 1.0),
    by_chance: bool = False,
    alone: bool = True,
) -> Callable[[Data], Outcome]:
    """Correct a judge's mean by the labels of the first answers.

    Args:
        labelled: the number of answers with a label.
        scale: the lowest and the highest score.
        by_chance: whether answers were chosen with probabilities, the last row of the values.
        alone: whether the labels alone are a candidate, whose t interval holds here.
    """

    def compute(data: Data) -> Outcome:
        judge, people = data.values[0], data.values[1]
        given: list[float | None] = [*people[:labelled].tolist()]
        given += [None] * (len(judge) - labelled)
        chances = data.values[2].tolist() if by_chance else None
        if by_chance:
            chosen = data.values[3] > 0
            given = [
                value if label else None
                for value, label in zip(people.tolist(), chosen, strict=True)
            ]
        corrected = corrected_mean(
            judge.tolist(),
            given,
            clusters=data.clusters,
            probabilities=chances,
            low=scale[0],
            high=scale[1],
        )
        if corrected is None:
            return Outcome(method="PPI++")
        interval = ends(corrected.mean.low, corrected.mean.high)
        others: dict[str, Ends] = {}
        if not by_chance and alone:
            index = data.clusters
            raw = t_interval(judge, clusters=index)
            by_labels = t_interval(
                people[:labelled], clusters=None if index is None else index[:labelled]
            )
            others = {
                "labels alone": ends(by_labels.low, by_labels.high),
                "raw judge": ends(raw.low, raw.high),
            }
        return Outcome(interval, "PPI++", candidates=others)

    return compute


def draw_graded(n: int, noise: float) -> Draw:
    """Return a sampler of people's grades, and of a judge that is kinder and less sure."""

    def draw(random: np.random.Generator) -> Data:
        people = random.choice(np.arange(1.0, 6), n, p=[0.1, 0.2, 0.3, 0.25, 0.15])
        judge = np.clip(np.round(people + 0.6 + random.normal(0, noise, n)), 1, 5)
        return Data(np.stack([judge, people]))

    return draw


def _draw_fives(n: int, share: float) -> Draw:
    """Draw grades that are nearly all five, and a judge that does not see which are not."""

    def draw(random: np.random.Generator) -> Data:
        people = np.where(random.random(n) < share, 5.0, 2.0)
        return Data(np.stack([np.where(random.random(n) < 0.1, 4.0, 5.0), people]))

    return draw


def _draw_nearly_right(n: int) -> Draw:
    """Draw verdicts of a judge that is wrong in 3% of the answers."""

    def draw(random: np.random.Generator) -> Data:
        people = (random.random(n) < GOOD).astype(np.float64)
        wrong = random.random(n) < 0.03
        return Data(np.stack([np.where(wrong, 1 - people, people), people]))

    return draw


def _differences() -> list[Cell]:
    """Return equal routes, whose answers to the same samples (or others) have labels."""

    def draw(random: np.random.Generator) -> Data:
        question = random.normal(0, 0.6, 500)
        rows = []
        for _ in range(2):
            people = np.clip(np.round(3.5 + question + random.normal(0, 0.8, 500)), 1, 5)
            wrong = random.random(500) < 0.4
            rows += [np.clip(people + wrong * random.integers(-1, 3, 500), 1, 5), people]
        return Data(np.stack(rows))

    def compute_of(labelled: int, *, same: bool) -> Callable[[Data], Outcome]:
        def compute(data: Data) -> Outcome:
            sides = []
            for number in range(2):
                judge, people = data.values[2 * number], data.values[2 * number + 1]
                first = 0 if same else number * labelled
                given: list[float | None] = [None] * len(judge)
                given[first : first + labelled] = people[first : first + labelled].tolist()
                sides.append(rows_of(judge, given, np.arange(len(judge))))
            found = corrected_difference(*sides, width=4.0)
            assert found is not None, "500 samples"
            interval = ends(found.low, found.high)
            wrong = found.p_value < ALPHA
            covers = interval is not None and interval[0] <= 0 <= interval[1]
            return Outcome(interval, "PPI++", wrong, contradicts=wrong == covers)

        return compute

    return [
        Cell(
            "corrected difference",
            f"grades, {labelled} of 500 labelled, {'the same' if same else 'others'} of each",
            labelled,
            draw,
            compute_of(labelled, same=same),
            over="discrete" if labelled < 50 else "",
        )
        for labelled in (20, 100)
        for same in (True, False)
    ]


def _draw_good(n: int) -> Draw:
    def draw(random: np.random.Generator) -> Data:
        people = (random.random(n) < GOOD).astype(np.float64)
        return Data(np.stack([judged_binary(people, random), people]))

    return draw


def _draw_useless(n: int) -> Draw:
    def draw(random: np.random.Generator) -> Data:
        people = (random.random(n) < GOOD).astype(np.float64)
        return Data(np.stack([(random.random(n) < 0.5).astype(np.float64), people]))

    return draw


def _draw_chosen(n: int) -> Draw:
    """Draw answers of which those that the judge finds bad are labelled more often."""

    def draw(random: np.random.Generator) -> Data:
        people = (random.random(n) < GOOD).astype(np.float64)
        judge = judged_binary(people, random)
        chances = np.where(judge > 0, 0.07, 0.2)
        return Data(np.stack([judge, people, chances, random.random(n) < chances]))

    return draw


def _draw_questions(questions: int) -> Draw:
    """Draw questions with eight answers each, alike in how good they are."""

    def draw(random: np.random.Generator) -> Data:
        chance = random.beta(GOOD * 3, (1 - GOOD) * 3, questions)
        index = np.repeat(np.arange(questions), 8)
        people = (random.random(len(index)) < chance[index]).astype(np.float64)
        return Data(np.stack([judged_binary(people, random), people]), None, index.tolist())

    return draw


def _means() -> list[Cell]:
    grade = float(np.dot([0.1, 0.2, 0.3, 0.25, 0.15], np.arange(1.0, 6)))
    graded = partial(_corrected, scale=(1.0, 5.0))
    drawn: list[tuple[str, int, Draw, Callable[[Data], Outcome], float]] = [
        *(
            (f"good or bad, {n} of 2,000 labelled", n, _draw_good(2000), _corrected(n), GOOD)
            for n in (10, 30, 100)
        ),
        ("good or bad, 100 of 200 labelled", 100, _draw_good(200), _corrected(100), GOOD),
        ("judge of pure noise, 100 of 2,000", 100, _draw_useless(2000), _corrected(100), GOOD),
        *(
            (f"grades, {n} of 1,000 labelled", n, draw_graded(1000, 0.8), graded(n), grade)
            for n in (10, 30, 100)
        ),
        (
            "20 of 200 questions labelled, 8 answers each",
            20,
            _draw_questions(200),
            _corrected(160),
            GOOD,
        ),
        (
            "bad ones labelled more often, of 1,000",
            110,
            _draw_chosen(1000),
            _corrected(0, by_chance=True),
            GOOD,
        ),
    ]
    cells = [
        Cell(
            "corrected mean",
            name,
            n,
            draw,
            compute,
            truth,
            over="discrete" if n <= 30 and "questions" not in name else "",
        )
        for name, n, draw, compute, truth in drawn
    ]
    refused = [
        ("grades, 4 of 1,000 labelled", 4, draw_graded(1000, 0.8), "fewer than ten labels"),
        ("4 of 200 questions labelled, 8 answers each", 4, _draw_questions(200), "few clusters"),
    ]
    without = [
        Cell("corrected mean", name, n, draw, _corrected(labels), refused=why)
        for (name, n, draw, why), labels in zip(refused, (4, 32), strict=True)
    ]
    bounded = [
        Cell(
            "corrected mean",
            f"95% fives, the judge sees no difference, {n} of 1,000",
            n,
            _draw_fives(1000, 0.95),
            _corrected(n, scale=(1.0, 5.0), alone=False),
            5 * 0.95 + 2 * 0.05,
            over="bounded",
        )
        for n in (10, 50)
    ]
    rare = [
        Cell(
            "corrected mean",
            f"a judge that is wrong in 3%, {n} of 1,000",
            n,
            _draw_nearly_right(1000),
            _corrected(n, alone=False),
            GOOD,
            over="bounded",
        )
        for n in (20, 50)
    ]
    return cells + without + bounded + rare


def _plans() -> list[Cell]:
    """Label a few answers, plan the others for a width, label those, and correct the mean."""
    total = 1000

    def uncertain(random: np.random.Generator) -> Data:
        people = random.normal(3, 1, total)
        unsure = np.where(random.random(total) < 0.3, 1.0, 0.2)
        return Data(np.stack([people - 0.4 + unsure * random.normal(0, 1, total), people, unsure]))

    def compute_of(pilot: int, width: float) -> Callable[[Data], Outcome]:
        def compute(data: Data) -> Outcome:
            judge, people = data.values[0].tolist(), data.values[1].tolist()
            unsure = data.values[2].tolist() if len(data.values) > 2 else [0.0] * total
            # The seed of the draw must not be the same for all replications.
            seed = crc32(data.values.tobytes())
            given: list[float | None] = [*people[:pilot], *[None] * (total - pilot)]
            plan = plan_labels(judge, unsure, given, width=width, seed=seed)
            for place in plan.chosen:
                given[place] = people[place]
            corrected = corrected_mean(judge, given, probabilities=plan.probabilities)
            if corrected is None:
                return Outcome(method="PPI++")
            return Outcome(ends(corrected.mean.low, corrected.mean.high), "PPI++")

        return compute

    grade = float(np.dot([0.1, 0.2, 0.3, 0.25, 0.15], np.arange(1.0, 6)))
    drawn: list[tuple[str, int, Draw, float, float]] = [
        ("grades, after 40 of 1,000", 40, draw_graded(total, 0.8), 0.3, grade),
        ("good or bad, after 60 of 1,000", 60, _draw_good(total), 0.14, GOOD),
        ("judge sure of some, after 60 of 1,000", 60, uncertain, 0.2, 3.0),
    ]
    return [
        # Which answers are labelled depends on earlier labels: a run with two looks.
        Cell(
            "label plan",
            name,
            pilot,
            draw,
            compute_of(pilot, width),
            truth,
            asked=width,
            sequential=True,
        )
        for name, pilot, draw, width, truth in drawn
    ]


class _Labels(NamedTuple):
    """Verdicts on answers with labels from elsewhere, and on those to be judged."""

    labelled: int
    judged: int
    share: float


def _shares() -> list[Cell]:
    def draw(labels: _Labels) -> Draw:
        def sample(random: np.random.Generator) -> Data:
            elsewhere = (random.random(labels.labelled) < 0.5).astype(np.float64)
            people = (random.random(labels.judged) < labels.share).astype(np.float64)
            judge = judged_binary(people, random)
            verdicts = judged_binary(elsewhere, random)
            good, bad = elsewhere > 0, elsewhere == 0
            counts = [
                judge.sum(),
                verdicts[good].sum(),
                good.sum(),
                (1 - verdicts[bad]).sum(),
                bad.sum(),
            ]
            return Data(np.array([counts]))

        return sample

    def compute_of(labels: _Labels) -> Callable[[Data], Outcome]:
        def compute(data: Data) -> Outcome:
            passed, hits, good, rejections, bad = (int(number) for number in data.values[0])
            interval = corrected_share(
                passed, labels.judged, sensitivity=(hits, good), specificity=(rejections, bad)
            )
            raw = wilson(passed, labels.judged)
            return Outcome(
                None if interval is None else ends(interval.low, interval.high),
                "Rogan and Gladen",
                candidates={"raw judge": ends(raw.low, raw.high)},
            )

        return compute

    return [
        Cell(
            "corrected share",
            f"{share:.0%} good, {labelled} labels from elsewhere",
            2000,
            draw(_Labels(labelled, 2000, share)),
            compute_of(_Labels(labelled, 2000, share)),
            share,
            over="bounded" if share > 0.9 else "",
        )
        for share in (0.5, 0.7, 0.95)
        for labelled in (100, 400)
    ]


# How often a judge (column) and people (row) give each pair of grades.
_GRADES = np.array(
    [
        [0.08, 0.04, 0.01, 0.00, 0.00],
        [0.03, 0.10, 0.06, 0.01, 0.00],
        [0.01, 0.05, 0.14, 0.07, 0.01],
        [0.00, 0.01, 0.06, 0.12, 0.05],
        [0.00, 0.00, 0.01, 0.04, 0.10],
    ]
)
_AGREED = np.array([[0.18, 0.02], [0.02, 0.78]])


def _kappa(table: Floats, *, power: int) -> float:
    """Return Cohen's kappa of a table of shares; `power` 0 counts disagreements alike."""
    steps = np.abs(np.subtract.outer(np.arange(len(table)), np.arange(len(table)))).astype(float)
    apart = (steps > 0).astype(float) if power == 0 else steps**power
    expected = np.outer(table.sum(axis=1), table.sum(axis=0))
    return float(1 - (table * apart).sum() / (expected * apart).sum())


def _pearson(table: Floats) -> float:
    scores = np.arange(float(len(table)))
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    first, second = float(rows @ scores), float(columns @ scores)
    shared = float(scores @ table @ scores) - first * second
    spread = (float(rows @ scores**2) - first**2) * (float(columns @ scores**2) - second**2)
    return float(shared / spread**0.5)


def draw_table(table: Floats, n: int) -> Draw:
    """Return a sampler of pairs of scores, from 0 on, by a table of shares."""

    def draw(random: np.random.Generator) -> Data:
        cell = random.choice(table.size, n, p=table.ravel() / table.sum())
        first, second = np.divmod(cell, len(table))
        return Data(first.astype(np.float64), second.astype(np.float64))

    return draw


def _agreement() -> list[Cell]:
    def pair(statistic: Callable[[Pairs], object]) -> Callable[[Data], Outcome]:
        def compute(data: Data) -> Outcome:
            assert data.baseline is not None, "two raters"
            interval = statistic(Pairs(data.values, data.baseline))
            return Outcome(_of(interval), "bootstrap")

        return compute

    def alpha(data: Data) -> Outcome:
        assert data.baseline is not None, "two raters"
        ratings = [data.values.tolist(), data.baseline.tolist()]
        return Outcome(_of(krippendorff(ratings, level="nominal")), "bootstrap")

    grades, agreed = _GRADES / _GRADES.sum(), _AGREED / _AGREED.sum()
    pooled = (agreed.sum(axis=0) + agreed.sum(axis=1)) / 2
    nominal = float(1 - (1 - np.trace(agreed)) / (1 - (pooled**2).sum()))
    statistics: list[tuple[str, Floats, Callable[[Data], Outcome], float]] = [
        ("kappa, grades", grades, pair(lambda pairs: pairs.kappa()), _kappa(grades, power=0)),
        (
            "quadratic kappa, grades",
            grades,
            pair(lambda pairs: pairs.kappa("quadratic")),
            _kappa(grades, power=2),
        ),
        ("Pearson, grades", grades, pair(lambda pairs: pairs.pearson()), _pearson(grades)),
        ("kappa, 96% agree", agreed, pair(lambda pairs: pairs.kappa()), _kappa(agreed, power=0)),
        ("Krippendorff's alpha, 96% agree", agreed, alpha, nominal),
    ]
    return [
        Cell("agreement", name, n, draw_table(table, n), compute, truth, over="discrete")
        for name, table, compute, truth in statistics
        for n in ((60, 200) if name == "kappa, grades" else (60,))
    ]


def _of(interval: object) -> Ends:
    return ends(getattr(interval, "low", None), getattr(interval, "high", None))


def _reliability() -> list[Cell]:
    def draw(n: int) -> Draw:
        def sample(random: np.random.Generator) -> Data:
            return Data(random.normal(0, 1, (n, 1)) + random.normal(0, 1, (n, 3)))

        return sample

    def compute(data: Data) -> Outcome:
        reliability = icc(data.values.tolist())
        return Outcome(None if reliability is None else _of(reliability.single), "F")

    return [
        Cell("agreement", "ICC(1,1), three normal scores", n, draw(n), compute, 0.5)
        for n in (20, 60)
    ]


def _warnings() -> list[Cell]:
    """Judges without a bias: whether any of ten suspects is reported."""
    suspects = 10

    def draw(n: int, slope: float) -> Draw:
        def sample(random: np.random.Generator) -> Data:
            people = random.normal(0, 1, n)
            judge = slope * people + random.normal(0, 1, n)
            # People like some of the suspects themselves.
            others = (
                random.normal(0, 1, (suspects, n)) + np.linspace(0, 1, suspects)[:, None] * people
            )
            return Data(np.vstack([judge, people, others]))

        return sample

    def compute(data: Data) -> Outcome:
        judge, people, *others = data.values
        slopes = [partial_slope(judge, other, people) for other in others]
        p_values = [slope.p_value for slope in slopes if slope.p_value is not None]
        first = slopes[-1].interval
        return Outcome(
            ends(first.low, first.high), "partial slope", min(benjamini_hochberg(p_values)) <= ALPHA
        )

    return [
        Cell("warnings of bias", f"ten suspects, {name}", n, draw(n, slope), compute)
        for name, slope in (("judge of pure noise", 0.0), ("judge that agrees with people", 1.0))
        for n in (30, 100)
    ]


def _boards() -> list[Cell]:
    """Boards of equal players: whether any pair is called surely better."""

    def draw(players: int, questions: int) -> Draw:
        games = len(list(combinations(range(players), 2)))
        return lambda random: Data(random.choice([0.0, 0.5, 1.0], (questions, games)))

    def compute_of(players: int) -> Callable[[Data], Outcome]:
        pairs = [(str(a), str(b)) for a, b in combinations(range(players), 2)]

        def compute(data: Data) -> Outcome:
            games = [
                Game(a, b, float(score), str(question))
                for question, scores in enumerate(data.values)
                for (a, b), score in zip(pairs, scores, strict=True)
            ]
            return Outcome(method="Romano and Wolf", wrong=bool(rate(games).surely))

        return compute

    return [
        Cell("tournament", f"{players} equal players", 30, draw(players, 30), compute_of(players))
        for players in (5,)
    ]


CELLS = (
    *_means(),
    *_differences(),
    *_plans(),
    *_shares(),
    *_agreement(),
    *_reliability(),
    *_warnings(),
    *_boards(),
)
