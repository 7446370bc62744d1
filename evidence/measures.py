"""What is counted of a cell, and the bands that the numbers have to be within."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluators.base import Output
from evaluators.stats import intervals
from evaluators.stats.comparison import (
    Comparison,
    SampleScores,
    comparison,
    judged,
    samples_for_margin,
)
from evaluators.stats.differences import Paired, paired_difference
from evaluators.stats.inversion import StudentTest
from evidence.cells import Cell, Data, Floats

COVERAGE = 0.93
OVER = 0.97
WIDER = 1.25
ALPHA = 0.05
SEQUENTIAL = 2_000
"""Replications of cells with many looks."""

Ends = tuple[float, float] | None


class Finding(NamedTuple):
    """The numbers of a cell.

    Attributes:
        cell: whose.
        method: the commonest method.
        coverage: share of the intervals that hold the truth; None where none is given.
        width: the mean width of the intervals.
        best: the narrowest candidate that covers and its mean width; None without candidates.
        rejected: share of p-values below 0.05, or of families with a false verdict.
        passed: share of samples in which a non-inferiority gate passes at its margin.
        refused: share of the samples without an interval.
        faults: what is outside its band.
    """

    cell: Cell
    method: str
    coverage: float | None
    width: float
    best: tuple[str, float] | None
    rejected: float | None
    passed: float | None
    refused: float
    faults: tuple[str, ...]


def measure(cell: Cell, replications: int) -> Finding:
    """Draw a cell's data many times and count."""
    random = np.random.Generator(np.random.PCG64(sum(map(ord, cell.kind + cell.name)) + cell.n))
    if cell.kind == "family":
        return _family(cell, replications, random)
    if cell.kind == "looks":
        return _looks(cell, min(replications, SEQUENTIAL), random)
    ends: list[Ends] = []
    methods: Counter[str] = Counter()
    candidates: dict[str, list[Ends]] = {}
    rejected = contradictions = 0
    seen: dict[bytes, _Answer] = {}
    passed = 0
    for _ in range(replications):
        data = cell.draw(random)
        # Of discrete data the same sample comes again and again.
        key = _key(data)
        if key not in seen:
            seen[key] = _ask(cell, data)
        interval, method, p_value, gate = seen[key]
        passed += gate
        ends.append(interval)
        methods[method] += 1
        if p_value is not None:
            rejected += p_value < ALPHA
            if interval is not None and abs(p_value - ALPHA) > 1e-9:
                contradictions += (p_value < ALPHA) is (interval[0] <= 0 <= interval[1])
        for name, candidate in _candidates(cell, data).items():
            candidates.setdefault(name, []).append(candidate)
    tested = cell.kind == "difference"
    coverage, width, refused = _covered(ends, cell.truth)
    finding = Finding(
        cell=cell,
        method=methods.most_common(1)[0][0],
        coverage=coverage,
        width=width,
        best=_best(candidates, cell.truth),
        rejected=rejected / replications if tested and cell.truth == 0 else None,
        passed=passed / replications if tested and cell.truth < 0 else None,
        refused=refused,
        faults=(f"{contradictions} contradictions",) if contradictions else (),
    )
    return finding._replace(faults=(*finding.faults, *_faults(finding, replications)))


def _looks(cell: Cell, replications: int, random: np.random.Generator) -> Finding:
    """Count runs that show a difference, or miss the truth, at any of ten looks."""
    shown = missed = 0
    widths = []
    method = ""
    for _ in range(replications):
        data = cell.draw(random)
        assert data.baseline is not None
        order = random.permutation(cell.n)
        ours, theirs = data.values[order], data.baseline[order]
        looks = [
            paired_difference(ours[:n], theirs[:n], low=cell.low, high=cell.high, always_valid=True)
            for n in range(cell.n // 10, cell.n + 1, cell.n // 10)
        ]
        found = [look for look in looks if look is not None]
        shown += any(look.p_value < ALPHA for look in found)
        ends = [_ends(look.low, look.high) for look in found]
        missed += any(end is not None and not end[0] <= cell.truth <= end[1] for end in ends)
        last = ends[-1]
        widths.append(0.0 if last is None else last[1] - last[0])
        method = found[-1].method
    finding = Finding(
        cell=cell,
        method=method,
        coverage=1 - missed / replications,
        width=float(np.mean(widths)),
        best=None,
        rejected=shown / replications,
        passed=None,
        refused=0.0,
        faults=(),
    )
    return finding._replace(faults=tuple(_faults(finding, replications)))


def _key(data: Data) -> bytes:
    parts = [
        np.sort(data.values) if data.baseline is None and data.clusters is None else data.values
    ]
    if data.baseline is not None:
        parts.append(data.baseline)
    if data.clusters is not None:
        parts.append(np.asarray(data.clusters, dtype=np.float64))
    return b"|".join(part.tobytes() for part in parts)


class _Answer(NamedTuple):
    """What a report says of one sample."""

    interval: Ends
    method: str
    p_value: float | None = None
    gate: bool = False


def _ask(cell: Cell, data: Data) -> _Answer:
    """Return what a report would say, and a non-inferiority gate whose margin is the truth."""
    if data.baseline is None:
        found = intervals.mean_interval(
            data.values, clusters=data.clusters, low=cell.low, high=cell.high
        )
        return _Answer(_ends(found.low, found.high), found.method)
    paired = paired_difference(
        data.values, data.baseline, clusters=data.clusters, low=cell.low, high=cell.high
    )
    assert isinstance(paired, Paired)
    gate = False
    if cell.truth < 0 and paired.low is not None and paired.low > cell.truth:
        compared = Comparison(
            route="new",
            output="m",
            n=paired.n,
            wins=paired.wins,
            losses=paired.losses,
            method=paired.method,
        )
        output = Output(name="m", low=cell.low, high=cell.high)
        gate = samples_for_margin(compared, output, -cell.truth) is None
    return _Answer(_ends(paired.low, paired.high), paired.method, paired.p_value, gate)


def _ends(low: float | None, high: float | None) -> Ends:
    return None if low is None or high is None else (low, high)


def _candidates(cell: Cell, data: Data) -> dict[str, Ends]:
    """Return what other methods give, to see what a narrower one would cost."""
    values = data.values if data.baseline is None else data.values - data.baseline
    if data.clusters is not None:
        return {"CR1, t(k - 1)": _liang_zeger(values, data.clusters)}
    if len(values) < 2 or values.min() == values.max():
        return {"t": None, "Hall": None}
    n, mean = len(values), float(values.mean())
    centred = values - mean
    spread = float(np.sqrt((centred**2).mean()))
    skew = float((centred**3).mean()) / spread**3 / n**0.5
    error = spread / (n - 1) ** 0.5
    found: dict[str, Ends] = {
        "t": StudentTest(mean, error, n - 1).interval(0.95),
        "Hall": StudentTest(mean, error, n - 1, skew=skew).interval(0.95),
    }
    if data.baseline is not None and _dichotomous(data):
        found["Agresti and Min"] = _agresti_min(values)
    return found


def _dichotomous(data: Data) -> bool:
    return bool(np.isin(data.values, (0, 1)).all() and np.isin(data.baseline, (0, 1)).all())


def _agresti_min(differences: Floats) -> Ends:
    """Return Wald's interval after half a pair is added to each cell (2005)."""
    n = len(differences) + 2
    wins, losses = (np.count_nonzero(differences == sign) + 0.5 for sign in (1, -1))
    estimate = (wins - losses) / n
    half = 1.959964 * ((wins + losses) / n - estimate**2) ** 0.5 / n**0.5
    return estimate - half, estimate + half


def _liang_zeger(values: Floats, clusters: Sequence[int]) -> Ends:
    index = np.asarray(clusters)
    k, n = int(index.max()) + 1, len(values)
    sums = np.bincount(index, weights=values - values.mean())
    half = intervals.t_quantile(0.975, k - 1) * float(np.sqrt(k / (k - 1) * (sums**2).sum())) / n
    return float(values.mean()) - half, float(values.mean()) + half


def _covered(ends: Sequence[Ends], truth: float) -> tuple[float | None, float, float]:
    given = [interval for interval in ends if interval is not None]
    if not given:
        return None, 0.0, 1.0
    low, high = np.array(given).T
    held = float(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean())
    return held, float((high - low).mean()), 1 - len(given) / len(ends)


def _best(candidates: dict[str, list[Ends]], truth: float) -> tuple[str, float] | None:
    """Return the narrowest candidate that covers; one that gives no interval covers nothing."""
    covering = []
    for name, ends in candidates.items():
        coverage, width, refused = _covered(ends, truth)
        if coverage is not None and coverage * (1 - refused) >= COVERAGE:
            covering.append((width, name))
    return (min(covering)[1], min(covering)[0]) if covering else None


def _faults(finding: Finding, replications: int) -> list[str]:
    cell = finding.cell
    if cell.refused:
        return [] if finding.refused > 0.99 else ["an interval is given"]
    faults = []
    error = (0.05 * 0.95 / replications) ** 0.5
    if finding.coverage is None or finding.coverage < COVERAGE:
        faults.append("covers too little")
    elif finding.coverage > OVER and not cell.discrete:
        faults.append("covers too much")
    if finding.best is not None and finding.width > WIDER * finding.best[1] and not cell.discrete:
        faults.append("too wide")
    if finding.rejected is not None and finding.rejected > ALPHA + 3 * error:
        faults.append("rejects too often")
    gate_error = (0.025 * 0.975 / replications) ** 0.5
    if finding.passed is not None and finding.passed > 0.025 + 3 * gate_error:
        faults.append("the gate passes too often")
    return faults


def _family(cell: Cell, replications: int, random: np.random.Generator) -> Finding:
    """Count reports of equal routes with any verdict."""
    wrong = 0
    none = np.empty((cell.n, 0))
    present = np.ones(cell.n, dtype=np.bool_)
    for _ in range(replications):
        data = cell.draw(random)
        assert data.baseline is not None
        outputs = {
            f"m{place}": Output(name=f"m{place}", low=cell.low, high=cell.high)
            for place in range(len(data.values))
        }
        compared = [
            comparison(
                ("new", output),
                SampleScores(ours, none, present),
                SampleScores(theirs, none, present),
                None,
                seed=0,
            )
            for output, ours, theirs in zip(
                outputs.values(), data.values, data.baseline, strict=True
            )
        ]
        wrong += any(one.verdict in {"better", "worse"} for one in judged(compared, outputs))
    rejected = wrong / replications
    error = (0.05 * 0.95 / replications) ** 0.5
    faults = ("rejects too often",) if rejected > ALPHA + 3 * error else ()
    return Finding(cell, "Holm", None, 0.0, None, rejected, None, 0.0, faults)
