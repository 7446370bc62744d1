"""Ending a run when its question is answered: looking after every answer, at no cost in error.

    rule = StopRule(when, routes=["a", "b"], outputs=outputs, baseline="b", repeats=1)
    for row in rows_as_they_come:
        rule.add(row.cell, row.answer, row.scores)
        if rule.may_stop():
            break                          # if the report says so too; else rule.postpone()

The rule is quick, and has the formulas of `always_valid.py`, which reports use. What decides is the
report: a run ends only where its report, of every answer that there is, shows what the rule saw.

A test that is looked at again and again, and stops when it likes what it sees, is wrong far more
often than its level says. The methods here are *always valid*: the chance of a wrong stop, over all
the moments of a run together, is at most `alpha`.

- Outputs with a declared range: the capital of a gambler who bets against the hypothesis, and the
  empirical Bernstein confidence sequence. Exact for any number of samples (Waudby-Smith and Ramdas
  2024, Estimating Means of Bounded Random Variables by Betting, JRSS B 86:1-27).
- Outputs without one, and samples in clusters: asymptotic confidence sequences (Waudby-Smith,
  Arbour, Sinha, Kennedy and Ramdas 2024, Time-uniform Central Limit Theory and Asymptotic
  Confidence Sequences, Annals of Statistics 52:2613-2640). Their error is `alpha` in the limit, so
  no decision is taken before `ASYMPTOTIC_MINIMUM` samples.

Several routes share `alpha` equally (Bonferroni), so it holds for all of them together. What is
assumed: the order of the dataset's rows has nothing to do with their scores. Shuffle a sorted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec

from evaluators.base import Answer, Cell, Output, Score
from providers.errors import RunDocumentError, closest

ASYMPTOTIC_MINIMUM = 100
"""Samples (or clusters) before an asymptotic method may decide anything."""

LEVEL_OF_REPORTS = 0.05
"""The level at which reports decide, and one minus that of their intervals."""

_POSTPONED = 1.1  # times as many samples, before the report is read once more

_TUNED_AT = 300  # where an asymptotic sequence is narrowest; elsewhere it is valid all the same
BETS = tuple(0.9 * 0.5**k for k in range(7))
"""Shares of what may be bet, each half of the one before: one is within 1.5 of the best."""


class StopWhen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The condition under which a run stops early: `half_width` or `decided`.

    Attributes:
        half_width: stop once every route's mean is known to plus or minus this much, in the
            output's own unit.
        output: of which output; may be left out where the run has only one.
        decided: stop once every route is shown to be better or worse than the baseline on this
            output.
        alpha: the chance of a wrong stop, over the whole run and all routes; at most 0.05.
        min_samples: do not stop before so many samples.
    """

    half_width: Annotated[float, msgspec.Meta(gt=0, le=1e15)] | None = None
    output: str | None = None
    decided: str | None = None
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    min_samples: Annotated[int, msgspec.Meta(ge=2, le=10**9)] = 20

    def __post_init__(self) -> None:
        """Refuse a rule that sets neither condition, or both."""
        if (self.half_width is None) == (self.decided is None):
            raise ValueError("stop_when needs either half_width or decided")
        if self.decided is not None and self.output is not None:
            raise ValueError("stop_when: output belongs to half_width; decided names its own")


def check_stop(when: StopWhen, outputs: Sequence[Output], *, baseline: str | None) -> Output:
    """Return the output that a rule is about.

    Raises:
        RunDocumentError: no such output, one that is no mean, `decided` without a baseline, or a
            level above that of reports.
    """
    if when.alpha > LEVEL_OF_REPORTS:
        raise RunDocumentError(
            f"stop_when.alpha: at most {LEVEL_OF_REPORTS:g}, because the run's report decides at "
            "that level",
            param="stop_when.alpha",
        )
    key = "output" if when.decided is None else "decided"
    name = when.output if when.decided is None else when.decided
    param = f"stop_when.{key}"
    if name is None:
        if len(outputs) != 1:
            names = ", ".join(output.name for output in outputs)
            raise RunDocumentError(f"{param}: name one of the run's outputs: {names}", param=param)
        name = outputs[0].name
    output = {output.name: output for output in outputs}.get(name)
    if output is None:
        near = closest(name, [output.name for output in outputs])
        raise RunDocumentError(
            f"{param}: no metric of this run produces {name!r}.{near}", param=param
        )
    if output.corpus is not None:
        raise RunDocumentError(
            f"{param}: {name} is a score of a corpus; only a mean over samples can be watched",
            param=param,
        )
    if when.decided is not None and baseline is None:
        raise RunDocumentError(f"{param}: the run names no baseline to decide against", param=param)
    if when.decided is not None and output.higher_is_better is None:
        raise RunDocumentError(
            f"{param}: neither direction of {name} is better, so nothing can be decided",
            param=param,
        )
    return output


class StopRule:
    """Watches a run's answers and says when its question may be answered, in O(1) per answer.

    Repeats of a sample are averaged once all of them are there; a sample counts for a difference
    once the baseline has answered it too. Failed answers and missing scores are left out, as in
    the report. After a resume, add what the store has first, each cell once.

    Args:
        when: of the run document.
        routes: the run's.
        outputs: of the run's metrics, all of them.
        baseline: the run's, or None.
        repeats: the number of answers per sample.

    Raises:
        RunDocumentError: as `check_stop`.
    """

    def __init__(
        self,
        when: StopWhen,
        *,
        routes: Sequence[str],
        outputs: Sequence[Output],
        baseline: str | None = None,
        repeats: int = 1,
    ) -> None:
        self._when = when
        self._output = check_stop(when, outputs, baseline=baseline)
        self._repeats = repeats
        self._baseline = baseline if when.decided is not None else None
        self._routes = tuple(routes)
        self._watched = [route for route in routes if route != self._baseline]
        alpha = when.alpha / max(1, len(self._watched))
        self._sequences = {route: self._sequence(alpha) for route in self._watched}
        self._repeated: dict[Cell, list[float | None]] = {}
        self._waiting: dict[str, dict[str, float | None]] = {}
        self._fewest = when.min_samples

    def add(
        self, cell: Cell, answer: Answer, scores: Sequence[Score], *, cluster: str = ""
    ) -> None:
        """Count an answer with its scores, once.

        Args:
            cell: of a route of the run.
            answer: failed ones too, so that their samples are not waited for.
            scores: of that answer; only the watched output is looked at.
            cluster: the sample's `cluster`; samples of one cluster count as one observation.
        """
        value = None
        if answer.text is not None:
            value = next(
                (score.value for score in scores if score.output == self._output.name), None
            )
        if self._repeats > 1:
            first = cell._replace(repeat=0)
            values = self._repeated.setdefault(first, [])
            values.append(value)
            if len(values) < self._repeats:
                return
            del self._repeated[first]
            there = [score for score in values if score is not None]
            value = math.fsum(there) / len(there) if there else None
        if self._baseline is None:
            if value is not None:
                self._sequences[cell.route].add(value, cluster)
        else:
            self._pair(cell.route, cell.sample_id, value, cluster)

    def may_stop(self) -> bool:
        """Say whether the answers so far are enough, by what this rule sees of them."""
        return bool(self._watched) and all(map(self._answered, self._watched))

    def postpone(self) -> None:
        """Wait for a tenth more samples, because the report did not show what the rule saw."""
        fewest = min(sequence.n for sequence in self._sequences.values())
        self._fewest = max(self._fewest, math.ceil(fewest * _POSTPONED), fewest + 1)

    def _sequence(self, alpha: float) -> _Sequence:
        low, high, half_width = self._output.low, self._output.high, self._when.half_width
        asymptotic = _Asymptotic(alpha)
        if low is None or high is None or high <= low:
            return _Sequence(None, asymptotic)
        if half_width is None:
            return _Sequence(_Betting(high - low), asymptotic)
        return _Sequence(_Bernstein(alpha, low, high, half_width), asymptotic)

    def _pair(self, route: str, sample_id: str, value: float | None, cluster: str) -> None:
        """Add the differences that have become known; forget the sample after its last route."""
        waiting = self._waiting.setdefault(sample_id, {})
        waiting[route] = value
        if self._baseline in waiting:
            theirs = waiting[self._baseline]
            for other in waiting if route == self._baseline else (route,):
                ours = waiting[other]
                if other != self._baseline and ours is not None and theirs is not None:
                    self._sequences[other].add(ours - theirs, cluster)
        if len(waiting) == len(self._routes):
            del self._waiting[sample_id]

    def _answered(self, route: str) -> bool:
        sequence = self._sequences[route]
        if sequence.n < self._fewest or not sequence.ready:
            return False
        if self._when.half_width is not None:
            return sequence.half_width() <= self._when.half_width
        return sequence.log_evidence() >= math.log(len(self._watched) / self._when.alpha)


def asymptotic_spread(alpha: float) -> float:
    """Return the variance, per sample, of the mixture that makes an asymptotic sequence."""
    doubled = -2 * math.log(alpha)
    return (doubled + math.log(doubled + 1)) / _TUNED_AT


class _Exact(Protocol):
    """A method for outputs whose range is known."""

    def add(self, value: float) -> None: ...

    def half_width(self) -> float: ...

    def log_evidence(self) -> float: ...


class _Sequence:
    """The values of one route (or differences of one pair), and what they show so far."""

    def __init__(self, exact: _Exact | None, asymptotic: _Asymptotic) -> None:
        self._exact = exact
        self._asymptotic = asymptotic
        self.n = 0

    def add(self, value: float, cluster: str) -> None:
        """Add a sample. With a cluster, samples are not independent, which `exact` needs."""
        self.n += 1
        self._asymptotic.add(value, cluster)
        if cluster:
            self._exact = None
        if self._exact is not None:
            self._exact.add(value)

    @property
    def ready(self) -> bool:
        return self._exact is not None or self._asymptotic.units >= ASYMPTOTIC_MINIMUM

    def half_width(self) -> float:
        return (self._exact or self._asymptotic).half_width()

    def log_evidence(self) -> float:
        """Return the logarithm of one over the two-sided p-value of a mean of zero."""
        return (self._exact or self._asymptotic).log_evidence()


class _Bernstein:
    """The empirical Bernstein confidence sequence of a mean (theorem 2 of the paper).

    A value's weight may be anything below 1 that follows from the values before it. Ours reaches
    the requested half width w soonest: for a variance v of the values, that is w / (w + v).
    """

    def __init__(self, alpha: float, low: float, high: float, half_width: float) -> None:
        self._low, self._range = low, high - low
        self._half_width = half_width / self._range
        self._log = math.log(2 / alpha)
        self._n = 0
        self._sum = self._squares = 0.0
        self._weights = self._penalty = 0.0

    def add(self, value: float) -> None:
        x = min(max((value - self._low) / self._range, 0.0), 1.0)
        before = (0.5 + self._sum) / (1 + self._n)
        variance = (0.25 + self._squares) / (1 + self._n)
        weight = self._half_width / (self._half_width + variance)
        self._weights += weight
        self._penalty += (x - before) ** 2 * (-math.log1p(-weight) - weight)
        self._n += 1
        self._sum += x
        self._squares += (x - (0.5 + self._sum) / (1 + self._n)) ** 2

    def half_width(self) -> float:
        if not self._weights:
            return math.inf
        return self._range * (self._log + self._penalty) / self._weights

    def log_evidence(self) -> float:
        return -math.inf  # never read: this is the sequence of a mean, not of a difference


class _Betting:
    """The capital of bets against a mean difference of zero; see `BettingTest` in always_valid.py.

    While the mean is zero no bet gains on average, so the chance that the capital ever reaches
    1 / alpha is at most alpha (Ville's inequality). The stake is split over both signs and bets of
    several sizes.
    """

    def __init__(self, width: float) -> None:
        self._width = width
        self._logs = {sign: [0.0] * len(BETS) for sign in (1, -1)}

    def add(self, value: float) -> None:
        x = min(max(value / self._width, -1.0), 1.0)
        for sign, logs in self._logs.items():
            self._logs[sign] = [
                log + math.log1p(sign * bet * x) for log, bet in zip(logs, BETS, strict=True)
            ]

    def half_width(self) -> float:
        return math.inf  # never read: this is a test of zero, not an interval

    def log_evidence(self) -> float:
        capitals = []
        for logs in self._logs.values():
            top = max(logs)
            capitals.append(top + math.log(math.fsum(math.exp(log - top) for log in logs)))
        return max(capitals) - math.log(2 * len(BETS))


class _Asymptotic:
    """The asymptotic confidence sequence of a mean over clusters (theorem 2.2 of the paper).

    Sums over clusters are kept up to date, so a value costs the same however large its cluster is.
    """

    def __init__(self, alpha: float) -> None:
        self._rho2 = asymptotic_spread(LEVEL_OF_REPORTS)
        self._log = -math.log(alpha)
        self._clusters: dict[str, tuple[float, int]] = {}
        self._offset: float | None = None
        self.units = 0
        self._n = 0
        self._sum = self._ss = self._sn = self._nn = 0.0

    def add(self, value: float, cluster: str) -> None:
        if self._offset is None:
            self._offset = value
        x = value - self._offset  # squares of large numbers that are close would cancel
        total, size = self._clusters.get(cluster, (0.0, 0)) if cluster else (0.0, 0)
        self.units += size == 0
        self._n += 1
        self._sum += x
        self._ss += (total + x) ** 2 - total**2
        self._sn += (total + x) * (size + 1) - total * size
        self._nn += (size + 1) ** 2 - size**2
        if cluster:
            self._clusters[cluster] = (total + x, size + 1)

    @property
    def mean(self) -> float:
        return (self._offset or 0.0) + self._sum / self._n

    def _error(self) -> float:
        """Cluster-robust standard error of the mean (Liang and Zeger 1986)."""
        centre = self._sum / self._n
        squares = max(0.0, self._ss - 2 * centre * self._sn + centre * centre * self._nn)
        return math.sqrt(squares * self.units / (self.units - 1)) / self._n

    def half_width(self) -> float:
        if self.units < 2:
            return math.inf
        spread = self.units * self._rho2
        wide = math.sqrt(2 * (spread + 1) / spread * (self._log + math.log(spread + 1) / 2))
        return self._error() * wide

    def log_evidence(self) -> float:
        error = self._error()
        if error == 0:
            return math.inf if self.mean else 0.0
        spread = self.units * self._rho2
        return (self.mean / error) ** 2 * spread / (2 * (spread + 1)) - math.log(spread + 1) / 2
