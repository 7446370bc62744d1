"""Intervals, p-values and verdicts of a difference of two routes, and of families of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np

from evaluators.base import Output
from evaluators.stats.comparison import (
    ALPHA,
    Comparison,
    MarginTest,
    SampleScores,
    comparison,
    judged,
    margin_test,
    shows,
)
from evaluators.stats.inversion import p_value
from evaluators.stats.unpaired import unpaired_test
from evidence import candidates
from evidence.cells import MARGIN_ALPHA, Cell, Data, Ends, Floats, Outcome, ends
from evidence.shapes import (
    EXPONENTIAL,
    NORMAL,
    Sampler,
    Sizes,
    beta,
    binary,
    both,
    clustered_binary,
    clustered_normal,
    clusters,
    fives,
)
from evidence.single import KINDS, draw_statistics

SCORE = Output(name="score")
UNBOUNDED = Output(name="score", low=None, high=None)
COMPARED = 4
GRADE = Output(name="score", low=1.0, high=5.0)
BLEU = Output(name="score", corpus=lambda sums: sums[0] / sums[1])

Draw: TypeAlias = Callable[[np.random.Generator], Data]
Sizable: TypeAlias = Callable[[np.random.Generator, tuple[int, int]], Floats]


def compare(
    output: Output,
    first: Floats,
    second: Floats,
    index: list[int] | None = None,
    *,
    always_valid: bool = False,
) -> Comparison:
    """Compare one output of two routes, as a report does."""
    return comparison(
        ("new", output),
        scores(first),
        scores(second),
        None if index is None else np.asarray(index),
        seed=0,
        always_valid=always_valid,
    )


def compare_whole(
    output: Output, first: Floats, second: Floats, *, always_valid: bool = False
) -> Comparison:
    """Compare scores that are whole numbers, of which the same few tables come again and again."""
    key = Data(first, second).key()
    return _compare_table(output, key, len(first), always_valid=always_valid)


@lru_cache(maxsize=20_000)
def _compare_table(output: Output, key: bytes, n: int, *, always_valid: bool) -> Comparison:
    first, second = np.frombuffer(key, dtype=np.float64, count=2 * n).reshape(2, n)
    return compare(output, first, second, always_valid=always_valid)


def scores(values: Floats) -> SampleScores:
    """Return scores, or the statistics of a corpus score, as reports have them."""
    present = np.ones(len(values), dtype=np.bool_)
    if values.ndim == 1:
        return SampleScores(values, np.empty((len(values), 0)), present)
    return SampleScores(values[:, 0] / values[:, 1], values, present)


def _pair(output: Output, truth: float) -> Callable[[Data], Outcome]:
    """Return the reading of a comparison; without a true difference, p below 5% is wrong."""

    def compute(data: Data) -> Outcome:
        assert data.baseline is not None, "a difference has two sides"
        compared = compare(output, data.values, data.baseline, data.clusters)
        interval = ends(compared.low, compared.high)
        wrong = None
        if truth == 0 and compared.p_value is not None:
            wrong = compared.p_value < ALPHA
        return Outcome(
            interval,
            compared.method,
            wrong,
            _contradicts(interval, compared.p_value),
            _candidates(data),
        )

    return compute


def _contradicts(interval: Ends, p_value: float | None) -> bool:
    if interval is None or p_value is None or abs(p_value - ALPHA) < 1e-9:
        return False
    return (p_value < ALPHA) is (interval[0] <= 0 <= interval[1])


def _candidates(data: Data) -> dict[str, Ends]:
    if data.values.ndim > 1 or data.baseline is None:
        return {}
    differences = data.values - data.baseline
    if data.clusters is not None:
        return candidates.of_clusters(differences, data.clusters)
    intervals = candidates.of_mean(differences)
    if all(np.isin(values, (0, 1)).all() for values in (data.values, data.baseline)):
        intervals |= candidates.of_pairs(differences)
    return intervals


def draw_binary(n: int, wins: float, losses: float) -> Draw:
    """Return a sampler of two routes that are right or wrong."""

    def draw(random: np.random.Generator) -> Data:
        first, second = np.ones(n), np.ones(n)
        won, lost, _ = random.multinomial(n, [wins, losses, 1 - wins - losses])
        second[:won] = 0.0
        first[won : won + lost] = 0.0
        return Data(first, second)

    return draw


def draw_losses(n: int, share: float) -> Draw:
    """Return a sampler of a route that is as good as the other one but for rare, large losses."""

    def draw(random: np.random.Generator) -> Data:
        lost = (random.random(n) < share) * random.beta(2, 2, n) * 0.9
        return Data(np.full(n, 0.9) - lost, np.full(n, 0.9))

    return draw


def draw_gains(n: int) -> Draw:
    """Return a sampler of grades with small gains and rarer, larger losses: -0.1 on average."""

    def draw(random: np.random.Generator) -> Data:
        change = random.choice([-3.0, -1, 0, 1], n, p=[0.05, 0.05, 0.8, 0.1])
        return Data(4 + change, np.full(n, 4.0))

    return draw


def draw_rare(n: int) -> Draw:
    """Return a sampler of grades that tie on 94%, and are lower by the whole range on 2%."""

    def draw(random: np.random.Generator) -> Data:
        change = random.choice([-4.0, -1, 0, 1], n, p=[0.02, 0.02, 0.94, 0.02])
        return Data(np.where(change > 0, 4.0, 5 + change), np.where(change > 0, 3.0, 5.0))

    return draw


def draw_shifted(n: int) -> Draw:
    """Return a sampler of normal scores that differ by 0.5 on average."""
    return lambda random: Data(random.normal(0.5, 1, n), np.zeros(n))


def draw_tied(n: int, ties: float) -> Draw:
    """Return a sampler of grades from 1 to 5 that are the same for most samples."""
    side = (1 - ties) / 2
    shares = [side * 0.25, side * 0.75, ties, side * 0.75, side * 0.25]

    def draw(random: np.random.Generator) -> Data:
        return Data(3 + random.choice([-2.0, -1, 0, 1, 2], n, p=shares), np.full(n, 3.0))

    return draw


def _binary(n: int, wins: float, losses: float) -> Cell:
    return Cell(
        "difference",
        f"0 or 1, wins {wins:.0%}, losses {losses:.0%}",
        n,
        draw_binary(n, wins, losses),
        _pair(SCORE, wins - losses),
        wins - losses,
        over="discrete" if n * (wins + losses) < 12 else "",
        group="0 or 1",
        decides=True,
    )


def _independent() -> list[Cell]:
    cells = [
        _binary(n, wins, losses)
        for wins, losses in (
            (0.01, 0.01),
            (0.05, 0.05),
            (0.01, 0.03),
            (0.2, 0.2),
            (0.1, 0.3),
            (0, 0.03),
            (0, 0.01),
            (0, 0.04),
            (0, 0.2),
        )
        for n in (10, 50, 200)
    ]
    routes: list[tuple[str, Sampler, Sampler, float, Output]] = [
        ("normal", NORMAL.sample, lambda _, n: np.zeros(n), 0.0, UNBOUNDED),
        ("skewed scores (exponential)", EXPONENTIAL.sample, EXPONENTIAL.sample, 0.0, UNBOUNDED),
        (
            "losses only (exponential)",
            lambda random, n: -random.exponential(1, n),
            lambda _, n: np.zeros(n),
            -1.0,
            UNBOUNDED,
        ),
        ("beta(2, 6)", beta(2, 6).sample, beta(2, 6).sample, 0.0, SCORE),
        ("beta(8, 1.2) against beta(2, 6)", beta(8, 1.2).sample, beta(2, 6).sample, 0.6196, SCORE),
    ]
    cells += [
        Cell(
            "difference",
            name,
            n,
            both(first, second, n),
            _pair(output, truth),
            8 / 9.2 - 0.25 if truth > 0 else truth,
        )
        for name, first, second, truth, output in routes
        for n in (10, 20, 100)
        if (name, n) != ("losses only (exponential)", 10)
    ]
    cells += [
        Cell(
            "difference",
            f"judge, {ties:.0%} tied",
            n,
            draw_tied(n, ties),
            _pair(GRADE, 0.0),
            over="discrete" if n * (1 - ties) < 12 else "",
        )
        for ties in (0.5, 0.85, 0.95)
        for n in (20, 50, 200)
    ]
    cells += [
        Cell(
            "difference",
            "judge, 94% tied, 2% lose the range",
            n,
            draw_rare(n),
            _pair(GRADE, -0.08),
            -0.08,
            # Of 200, four lose the range, and those make the mean.
            over="discrete" if n * 0.02 < 12 else "",
        )
        for n in (20, 50, 100, 200)
    ]
    cells += [
        Cell(
            "difference",
            "judge, small gains, rare large losses",
            n,
            draw_gains(n),
            _pair(GRADE, -0.1),
            -0.1,
        )
        for n in (100, 200)
    ]
    cells += [
        Cell(
            "difference",
            f"scores from 0 to 1, losses only, {share:.0%}",
            n,
            draw_losses(n, share),
            _pair(SCORE, -share * 0.45),
            -share * 0.45,
            over="discrete" if n * share < 12 else "",
        )
        for share in (0.03, 0.1, 0.3)
        for n in (20, 50, 200)
    ]
    return cells


def _repeats() -> list[Cell]:
    def draw(n: int, repeats: int) -> Draw:
        def sample(random: np.random.Generator) -> Data:
            difficulty = random.beta(3, 1, n)
            first, second = random.binomial(repeats, difficulty, (2, n)) / repeats
            return Data(first, second)

        return sample

    return [
        Cell("difference", f"means of {k} repeats of 0 or 1", n, draw(n, k), _pair(SCORE, 0.0))
        for k in (3, 10)
        for n in (20, 100)
    ]


def _corpora() -> list[Cell]:
    def draw(n: int) -> Draw:
        return lambda random: Data(draw_statistics(random, n), draw_statistics(random, n))

    return [
        Cell("difference", "corpus score, hits by length", n, draw(n), _pair(BLEU, 0.0))
        for n in (20, 100)
    ]


def _clustered() -> list[Cell]:
    def normal(kind: Sizes, k: int) -> Draw:
        def draw(random: np.random.Generator) -> Data:
            index = clusters(kind, k, random)
            values = clustered_normal(index, k, random)
            return Data(values, np.zeros(len(index)), index.tolist())

        return draw

    def right(kind: Sizes, k: int) -> Draw:
        """Each route has its own luck with a cluster."""

        def draw(random: np.random.Generator) -> Data:
            index = clusters(kind, k, random)
            first, second = (clustered_binary(0.8, index, k, random) for _ in range(2))
            return Data(first, second, index.tolist())

        return draw

    def graded(share: float) -> Callable[[Sizes, int], Draw]:
        """Fives, more in some clusters than in others, and all other grades alike."""

        def of(kind: Sizes, k: int) -> Draw:
            def draw(random: np.random.Generator) -> Data:
                index = clusters(kind, k, random)
                first, second = (
                    np.where(
                        clustered_binary(share, index, k, random) > 0,
                        5.0,
                        random.integers(1, 5, len(index)),
                    )
                    for _ in range(2)
                )
                return Data(first, second, index.tolist())

            return draw

        return of

    def lost(kind: Sizes, k: int) -> Draw:
        def draw(random: np.random.Generator) -> Data:
            index = clusters(kind, k, random)
            gone = random.random(len(index)) < 0.02
            return Data(np.where(gone, 1.0, 5.0), np.full(len(index), 5.0), index.tolist())

        return draw

    def tied(kind: Sizes, k: int) -> Draw:
        def draw(random: np.random.Generator) -> Data:
            index = clusters(kind, k, random)
            data = draw_tied(len(index), 0.94)(random)
            return data._replace(clusters=index.tolist())

        return draw

    cells = [
        Cell("difference of clusters", f"normal, {kind}", k, normal(kind, k), _pair(UNBOUNDED, 0.0))
        for kind in KINDS
        for k in (10, 20, 40)
    ]
    cells += [
        Cell(
            "difference of clusters",
            f"0 or 1, {kind}",
            k,
            right(kind, k),
            _pair(SCORE, 0.0),
            over="discrete" if k == 10 else "",
        )
        for kind in KINDS
        for k in (10, 20, 40)
    ]
    cells += [
        Cell(
            "difference of clusters",
            f"{name}, {kind}",
            k,
            draw(kind, k),
            _pair(GRADE, 0.0),
            over=over,
        )
        for name, draw, over in (
            ("judge, 70% fives", graded(0.7), ""),
            ("judge, 97% fives", graded(0.97), "bounded"),
            ("judge, 94% tied", tied, "bounded"),
        )
        for kind in ("equal", "lognormal")
        for k in (10, 20, 40)
    ]
    cells += [
        Cell(
            "difference of clusters",
            f"judge, 98% tied, 2% lose the range, {kind}",
            k,
            lost(kind, k),
            _pair(GRADE, -0.08),
            -0.08,
            over="bounded",
        )
        for kind in ("equal", "lognormal")
        for k in (10, 20, 40)
    ]
    cells.append(
        Cell(
            "difference of clusters",
            "normal, one giant (90%)",
            20,
            normal("one giant", 20),
            _pair(UNBOUNDED, 0.0),
            refused="no method covers",
        )
    )
    return cells


def _unpaired() -> list[Cell]:
    def cell(
        name: str,
        sizes: tuple[int, int],
        sides: tuple[Sampler, Sampler],
        *,
        truth: float = 0.0,
        limits: tuple[float | None, float | None] = (0.0, 1.0),
        over: str = "",
    ) -> Cell:
        def draw(random: np.random.Generator) -> Data:
            first, second = (side(random, n) for side, n in zip(sides, sizes, strict=True))
            return Data(first, second, paired=False)

        title = name if sizes[0] == sizes[1] else f"{name}, against {sizes[1]}"
        compute = partial(_unpaired_outcome, truth=truth, limits=limits)
        return Cell("unpaired difference", title, sizes[0], draw, compute, truth, over=over)

    return [
        *(
            cell(shape.name, (n, n), (shape.sample, shape.sample), limits=(shape.low, shape.high))
            for shape in (NORMAL, beta(2, 6), EXPONENTIAL)
            for n in (20, 100)
        ),
        *(
            cell(
                f"{binary(share).name}, against {binary(other).name}",
                sizes,
                (binary(share).sample, binary(other).sample),
                truth=share - other,
                over="discrete" if min(sizes) * share < 12 else "",
            )
            for share, other in ((0.02, 0.02), (0.05, 0.05), (0.5, 0.5), (0.01, 0.05), (0.3, 0.5))
            for sizes in ((30, 120), (50, 50), (200, 200))
        ),
        *(
            cell(
                f"{fives(share).name}",
                (n, n),
                (fives(share).sample, fives(share).sample),
                limits=(1.0, 5.0),
                # Of 20 scores with 70% fives, about six are others: the bound of nearly alike ones.
                over="bounded" if share > 0.9 or n == 20 else "",
            )
            for share in (0.7, 0.98)
            for n in (20, 100)
        ),
    ]


def _unpaired_outcome(
    data: Data, *, truth: float, limits: tuple[float | None, float | None]
) -> Outcome:
    """Test as `unpaired_difference` does, without the other tests that stand beside it."""
    assert data.baseline is not None, "a difference has two sides"
    low, high = limits
    test = unpaired_test(data.values, data.baseline, low=low, high=high)
    interval, p_of_zero = test.interval(1 - ALPHA), p_value(test)
    if interval is not None and low is not None and high is not None:
        interval = max(interval[0], low - high), min(interval[1], high - low)
    wrong = p_of_zero < ALPHA if truth == 0 else None
    return Outcome(interval, test.method, wrong, _contradicts(interval, p_of_zero))


def _equivalence() -> list[Cell]:
    """Verdicts of equivalence where the true difference is the margin."""
    shifted: list[tuple[str, int, Draw, float, Output]] = [
        (f"0 or 1, wins {wins:.0%}, losses {losses:.0%}", n, draw_binary(n, wins, losses), m, SCORE)
        for wins, losses, m in ((0.01, 0.03, 0.02), (0.1, 0.2, 0.1))
        for n in (10, 50, 200)
    ]
    shifted += [
        (
            "normal",
            n,
            draw_shifted(n),
            0.5,
            UNBOUNDED,
        )
        for n in (20, 100)
    ]
    shifted += [
        (
            f"scores from 0 to 1, losses only, {share:.0%}",
            n,
            draw_losses(n, share),
            share * 0.45,
            SCORE,
        )
        for share in (0.03, 0.3)
        for n in (20, 100)
    ]
    return [
        Cell(
            "verdict: equivalent",
            name,
            n,
            draw,
            partial(_equivalent, output=output, margin=margin),
            nominal=MARGIN_ALPHA,
        )
        for name, n, draw, margin, output in shifted
    ]


def _equivalent(data: Data, *, output: Output, margin: float) -> Outcome:
    """Say whether the verdict is `equivalent`, which it cannot be where the margin is not shown."""
    found = margin_test_of(data, output)
    wrong = shows(found, margin, rises=None)
    if wrong:
        assert data.baseline is not None, "a difference has two sides"
        sides = scores(data.values), scores(data.baseline)
        compared = comparison(("new", output), *sides, None, seed=0, margin=margin)
        [verdict] = judged([compared], {output.name: output})
        wrong = verdict.verdict == "equivalent"
    return Outcome(method=found.test.method, wrong=wrong)


def margin_test_of(data: Data, output: Output, *, always_valid: bool = False) -> MarginTest:
    """Return the test of a margin; repeats are averaged, as in reports."""
    assert data.baseline is not None, "a difference has two sides"
    index = None if data.clusters is None else np.asarray(data.clusters)
    first, second = (
        scores(values.reshape(len(values), -1).mean(axis=1))
        for values in (data.values, data.baseline)
    )
    found = margin_test(output, first, second, index, always_valid=always_valid)
    assert found is not None, "samples in common"
    return found


def _families() -> list[Cell]:
    """Reports of equal routes: how many have a verdict of `better` or `worse` at all."""

    def compute_of(
        made: Callable[[Output, Floats, Floats], Comparison],
    ) -> Callable[[Data], Outcome]:
        def compute(data: Data) -> Outcome:
            assert data.baseline is not None, "a difference has two sides"
            compared = [
                made(SCORE, first, second)
                for first, second in zip(data.values, data.baseline, strict=True)
            ]
            verdicts = judged(compared, {SCORE.name: SCORE})
            wrong = any(compared.verdict in {"better", "worse"} for compared in verdicts)
            return Outcome(method="Holm", wrong=wrong)

        return compute

    def draw(count: int, sample: Sizable) -> Draw:
        size = (count, 50)
        return lambda random: Data(sample(random, size), sample(random, size))

    shapes: list[tuple[str, Sizable, Callable[[Data], Outcome]]] = [
        ("beta(2, 6)", lambda random, size: random.beta(2, 6, size), compute_of(compare)),
        (
            "0 or 1",
            lambda random, size: (random.random(size) < 0.8).astype(np.float64),
            compute_of(compare_whole),
        ),
    ]
    return [
        Cell(
            "verdict: better or worse",
            f"{count} comparisons, {name}",
            50,
            draw(count, f),
            compute,
        )
        for count in (4, 12)
        for name, f, compute in shapes
    ]


def _gatekept() -> list[Cell]:
    """Reports with a primary output: whether an output without a difference has a verdict."""
    count, n = 12, 50

    def draw(effect: float) -> Draw:
        def sample(random: np.random.Generator) -> Data:
            first, second = random.beta(2, 6, (2, count, n))
            first[0] += effect
            return Data(first, second)

        return sample

    def compute(data: Data) -> Outcome:
        assert data.baseline is not None, "a difference has two sides"
        outputs = [Output(name=f"m{number}", low=None, high=None) for number in range(count)]
        compared = [
            compare(output, first, second)
            for output, first, second in zip(outputs, data.values, data.baseline, strict=True)
        ]
        verdicts = judged(compared, {output.name: output for output in outputs}, primary="m0")
        return Outcome(
            method="gatekeeping, Holm",
            wrong=any(compared.verdict in {"better", "worse"} for compared in verdicts[1:]),
        )

    return [
        Cell("verdict: better or worse", f"primary {name}, 11 others equal", n, draw(d), compute)
        for name, d in (("equal", 0.0), ("better", 0.2))
    ]


CELLS = (
    *_independent(),
    *_repeats(),
    *_corpora(),
    *_clustered(),
    *_unpaired(),
    *_equivalence(),
    *_families(),
    *_gatekept(),
)
