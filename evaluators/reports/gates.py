"""Gates: conditions on a run's scores that decide whether it passes.

    rougeL >= 0.20                          a route's score against a number
    rougeL >= baseline                      against the baseline's, on the samples both have
    rougeL non_inferior baseline by 0.01    shown to be worse by less than 0.01, if at all
    rougeL equivalent baseline by 0.01      shown to differ by less than 0.01, either way
    p95(latency_s) < 2                      a percentile of its answers
    coverage >= 0.99                        the share of answers that have every score
    coverage(rougeL) >= 0.99                or this one

The gates of a schedule may name `last` in the place of `baseline`: the same route's answers in the
last run that was accepted.

A gate holds for every route of the run but the baseline itself. Errors fail a gate and never pass
it: one about a score fails where any answer failed or has no such score, unless a coverage gate of
the same run says how much may be missing; in a percentile, what is missing is worse than all else.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from evaluators.base import Output
from evaluators.metrics.output_names import not_produced
from evaluators.reports.accumulator import ScoreAccumulator
from evaluators.reports.headlines import headline_score, headlines
from evaluators.reports.report import Report, RouteReport, runs_in_words, score_of
from evaluators.reports.scores import RouteScore
from evaluators.stats.comparison import (
    ALPHA,
    FEWEST_FOR_A_MARGIN,
    Comparison,
    MarginTest,
    units_within,
)
from evaluators.stats.sequential import ASYMPTOTIC_MINIMUM
from providers.errors import RunDocumentError

_NAME = r"[\w.:-]+"
_GATE = re.compile(
    rf"\s*(?:(?P<function>p\d[\d.]*|coverage)\s*\(\s*(?P<inner>{_NAME})\s*\)|(?P<output>{_NAME}))"
    r"\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>\S+)\s*"
)
_MARGIN = re.compile(
    rf"\s*(?P<output>{_NAME})\s+(?P<kind>non_inferior|equivalent)\s+"
    r"(?P<reference>baseline|last)\s+by\s+(?P<margin>\S+)\s*"
)
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_COVERAGE = "coverage"
_REFERENCES = frozenset({"baseline", "last"})
_NOTHING_COMMON = "the baseline has no samples in common with it"


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed gate.

    Attributes:
        text: as it was written.
        kind: the kind of number that is compared.
        output: the output's name; "" for the coverage of all.
        sign: `>=`, `<=`, `>` or `<`; "" for a margin.
        bound: the number, or the margin of `non_inferior` or `equivalent`; None for `baseline` and
            `last`.
        quantile: the quantile, between 0 and 1; 0 for the other kinds.
        last: whether it compares with the last accepted run of a schedule.
    """

    text: str
    kind: Literal["score", "quantile", "coverage", "non_inferior", "equivalent"]
    output: str = ""
    sign: str = ""
    bound: float | None = None
    quantile: float = 0.0
    last: bool = False


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a gate for one route.

    Attributes:
        gate: as it was written.
        route: the route's name.
        passed: whether it holds.
        found: the route's number; None if it has none.
        bound: the number that it was compared with; None if unknown.
        why: why it fails although the numbers may say otherwise; "" when they decided.
        output: the output whose number was compared: for a judge's score that people's labels
            correct, the corrected one; "" for the coverage of all.
        note: why that is a judge's raw score although the run has labels; "" otherwise.
    """

    gate: str
    route: str
    passed: bool
    found: float | None
    bound: float | None
    why: str = ""
    output: str = ""
    note: str = ""


def parse(
    text: str,
    outputs: Sequence[Output],
    *,
    has_baseline: bool,
    has_last: bool = False,
    param: str,
) -> Gate:
    """Read a gate.

    An output may be named by its beginning where that is unambiguous: `latency` for `latency_s`.

    Args:
        text: as it was written.
        outputs: those that the run produces.
        has_baseline: whether `baseline` means something.
        has_last: whether `last` does.
        param: where it stands, for messages.

    Raises:
        RunDocumentError: not of the form, an output no metric of the run produces, or `baseline`
            or `last` without one.
    """
    if match := _MARGIN.fullmatch(text):
        _check_reference(match["reference"], has_baseline, has_last, param)
        return _margin_gate(match, outputs, param=param)
    match = _GATE.fullmatch(text)
    if match is None:
        raise RunDocumentError(
            f"{param}: {text!r} is not a gate; write for example 'rougeL >= 0.20', "
            "'p95(latency_s) < 2', 'coverage >= 0.99' or 'rougeL non_inferior baseline by 0.01'",
            param=param,
        )
    bound, last = None, match["bound"] == "last"
    if match["bound"] in _REFERENCES:
        _check_reference(match["bound"], has_baseline, has_last, param)
    else:
        words = "neither a number nor 'baseline'" + (" nor 'last'" if has_last else "")
        bound = _number(match["bound"], words, param)
    function, sign = match["function"], match["sign"]
    names = {output.name for output in outputs}
    if function == _COVERAGE or (match["output"] == _COVERAGE and _COVERAGE not in names):
        if bound is None or sign not in {">=", ">"} or not 0 <= bound <= 1:
            raise RunDocumentError(
                f"{param}: coverage is a share; write for example 'coverage >= 0.99'", param=param
            )
        output = _output(match["inner"], outputs, param).name if function else ""
        return Gate(text=text, kind="coverage", output=output, sign=sign, bound=bound)
    named = _output(match["inner"] or match["output"], outputs, param)
    output = named.name
    if function and named.corrects:
        raise RunDocumentError(
            f"{param}: only the mean of {output} is known, so it has no percentiles", param=param
        )
    if function:
        quantile = _number(function[1:], "not a percentile", param) / 100
        if not 0 < quantile < 1:
            raise RunDocumentError(
                f"{param}: {function!r} is not a percentile; write p50 to p99", param=param
            )
        return Gate(
            text=text,
            kind="quantile",
            output=output,
            sign=sign,
            bound=bound,
            quantile=quantile,
            last=last,
        )
    return Gate(text=text, kind="score", output=output, sign=sign, bound=bound, last=last)


def margin_kind(text: str) -> Literal["non_inferior", "equivalent"] | None:
    """Return the kind of a gate on a margin, by its text; None for other gates."""
    match = _MARGIN.fullmatch(text)
    return None if match is None else _margin_kind(match)


def _margin_kind(match: re.Match[str]) -> Literal["non_inferior", "equivalent"]:
    return "non_inferior" if match["kind"] == "non_inferior" else "equivalent"


def _check_reference(word: str, has_baseline: bool, has_last: bool, param: str) -> None:
    if word == "baseline" and not has_baseline:
        raise RunDocumentError(f"{param}: the run names no baseline", param=param)
    if word == "last" and not has_last:
        raise RunDocumentError(
            f"{param}: only the gates of a schedule compare with the last accepted run",
            param=param,
        )


def _margin_gate(match: re.Match[str], outputs: Sequence[Output], *, param: str) -> Gate:
    output = _output(match["output"], outputs, param)
    kind = _margin_kind(match)
    if kind == "non_inferior" and output.higher_is_better is None:
        raise RunDocumentError(
            f"{param}: neither direction of {output.name} is better, so nothing is inferior; "
            f"write '{output.name} equivalent {match['reference']} by ...'",
            param=param,
        )
    margin = _number(match["margin"], "not a number", param)
    if margin <= 0:
        raise RunDocumentError(f"{param}: the margin must be above 0", param=param)
    return Gate(
        text=match[0].strip(),
        kind=kind,
        output=output.name,
        bound=margin,
        last=match["reference"] == "last",
    )


def _output(name: str, outputs: Sequence[Output], param: str) -> Output:
    known = {output.name: output for output in outputs}
    if name in known:
        return known[name]
    meant = [output for output in outputs if output.name.startswith(f"{name}_")]
    if len(meant) == 1:
        return meant[0]
    raise RunDocumentError(f"{param}: {not_produced(name, known)}", param=param)


def _number(text: str, otherwise: str, param: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RunDocumentError(f"{param}: {text!r} is {otherwise}", param=param)
    return number


def check(gates: Sequence[Gate], accumulator: ScoreAccumulator, report: Report) -> list[GateResult]:
    """Check every gate for every route but the baseline.

    Args:
        gates: from `parse`.
        accumulator: the run's rows, those of answers that it took from other runs without scores.
        report: of those rows.
    """
    judge = _Judge(gates, accumulator, report)
    routes = sorted(
        (route for route in report.routes if route.route != report.baseline),
        key=lambda route: route.route,
    )
    return [judge.result(gate, route) for gate in gates for route in routes]


class _Judge:
    def __init__(
        self, gates: Sequence[Gate], accumulator: ScoreAccumulator, report: Report
    ) -> None:
        self._accumulator, self._always_valid = accumulator, report.always_valid
        self._routes = {route.route: route for route in report.routes}
        self._baseline = self._routes[report.baseline] if report.baseline else None
        self._compared = {
            (compared.route, compared.output): compared for compared in report.comparisons
        }
        self._outputs = {
            output.name: output for metric in accumulator.metrics for output in metric.outputs
        }
        self._demanded = [gate for gate in gates if gate.kind == "coverage"]
        self._corrected = headlines(report.outputs)
        self._shown = {output.name for output in report.outputs}

    def result(self, gate: Gate, route: RouteReport) -> GateResult:
        """Return the outcome of a gate for a route."""
        if gate.output and gate.output not in self._shown:
            why = "people have scored none of the run's answers"
            return GateResult(
                gate=gate.text,
                route=route.route,
                passed=False,
                found=None,
                bound=gate.bound,
                why=why,
                output=gate.output,
            )
        deciding = self._deciding(gate, route)
        result = self._decided(msgspec.structs.replace(gate, output=deciding), route)
        return msgspec.structs.replace(
            result, output=deciding, note=self._note(gate.output, deciding, route)
        )

    def _deciding(self, gate: Gate, route: RouteReport) -> str:
        """Return the output whose number decides: where the report has a corrected one, that."""
        corrected = self._corrected.get(gate.output)
        if corrected is None or gate.kind in {"coverage", "quantile"}:
            return gate.output
        if gate.kind != "score" or gate.bound is None:
            compared = self._compared.get((route.route, corrected))
            return corrected if compared and compared.headline else gate.output
        return headline_score(route.scores, gate.output, self._corrected).output

    def _note(self, named: str, deciding: str, route: RouteReport) -> str:
        corrected = self._corrected.get(named)
        if corrected is None or deciding == corrected:
            return ""
        why = score_of(route, corrected).withheld
        if not why and self._baseline is not None:
            why = score_of(self._baseline, corrected).withheld
        return f"{named} is raw, as the judge scores" + (f": {why}" if why else "")

    def _decided(self, gate: Gate, route: RouteReport) -> GateResult:
        match gate.kind:
            case "coverage":
                return self._coverage(gate, route)
            case "quantile":
                return self._quantile(gate, route)
            case "non_inferior" | "equivalent":
                return self._margin(gate, route)
            case "score":
                return self._score(gate, route)

    def _coverage(self, gate: Gate, route: RouteReport) -> GateResult:
        # That people scored other routes' answers only is no lack of this one's.
        scores = [
            score
            for score in route.scores
            if (not gate.output and not score.withheld) or gate.output == score.output
        ]
        share = min((_covered(route, score) for score in scores), default=None)
        result = _result(gate, route, share, gate.bound)
        why = "" if result.passed else _taken(route)
        return msgspec.structs.replace(result, why=why)

    def _score(self, gate: Gate, route: RouteReport) -> GateResult:
        score = score_of(route, gate.output)
        why = score.withheld or self._missing(gate, route)
        if gate.bound is not None:
            return _result(gate, route, score.estimate, gate.bound, why)
        compared = self._comparison(gate, route)
        why = why or self._missing(gate, self._baseline)
        if score.estimate is None or compared.difference is None:
            return _result(gate, route, score.estimate, None, why or _NOTHING_COMMON)
        # On the samples that both have, which the two scores need not be of.
        passed = _SIGNS[gate.sign](compared.difference, 0.0)
        bound = score.estimate - compared.difference
        return GateResult(
            gate=gate.text,
            route=route.route,
            passed=passed and not why,
            found=score.estimate,
            bound=bound,
            why=why,
        )

    def _margin(self, gate: Gate, route: RouteReport) -> GateResult:
        """Compare a margin with the interval of the test for margins.

        For `non_inferior` that is a one-sided bound of 97.5%, the usual level (ICH E9, Statistical
        Principles for Clinical Trials, section 5.5), and for `equivalent` two of them. It holds all
        of the interval that the report shows, and what differences too rare to be among the samples
        add to it. So the gate never passes what that interval does not show.
        """
        assert gate.bound is not None, "a margin is always a number"
        compared, margin = self._comparison(gate, route), gate.bound
        why = self._missing(gate, route) or self._missing(gate, self._baseline)
        found = self._margin_test(gate, route)
        interval = None if found is None else found.test.interval(1 - ALPHA)
        tested, of_share = margin, gate.output not in self._outputs
        if of_share:
            interval, tested = self._rescaled(gate, route, margin)
        low, high = interval or (None, None)
        # Whether the lower end decides, or the upper: of two, the one further from zero.
        rises = self._output_of(gate).higher_is_better is not False
        if gate.kind == "equivalent":
            rises = low is not None and high is not None and -low > high
        sign, end, bound = (">", low, -margin) if rises else ("<", high, margin)
        if found is None or end is None:
            why = why or self._looked_at(gate, _no_interval(compared))
            return _result(gate, route, None, bound, why)
        if compared.labelled is not None and compared.labelled < FEWEST_FOR_A_MARGIN:
            why = why or (
                f"{compared.labelled:,} labels are too few for a margin; "
                f"{FEWEST_FOR_A_MARGIN} on each side are needed"
            )
        tail = found.test.tails(-tested).above if rises else found.test.tails(tested).below
        # The interval of a corrected share is not that of a test of the raw difference.
        if (tail >= ALPHA / 2 and not of_share) or not _SIGNS[sign](end, bound):
            why = why or self._looked_at(
                gate, self._how_many(gate, route, found, tested, rises=rises)
            )
        return _result(msgspec.structs.replace(gate, sign=sign), route, end, bound, why)

    def _how_many(
        self, gate: Gate, route: RouteReport, found: MarginTest, tested: float, *, rises: bool
    ) -> str:
        """Say how many samples, clusters or labels would be enough for a margin.

        Args:
            gate: a margin.
            route: that it fails for.
            found: the test of the gate.
            tested: the margin, on the scale of the test.
            rises: whether the lower end decides, or the upper.
        """
        compared = self._comparison(gate, route)
        difference, margin = compared.difference or 0.0, gate.bound or 0.0
        if (difference if rises else -difference) <= -margin:
            return "the difference itself is beyond the margin, so more samples would not help"
        units = "samples" if compared.clusters is None else "clusters"
        if compared.labelled is not None:
            units = "labels" if compared.clusters is None else "clusters with labels"
        shown = f"not shown with {found.units:,} {units}"
        side = None if gate.kind == "equivalent" else rises
        fewest = units_within(found, tested, rises=side)
        if fewest is None:
            return shown
        enough = f"{shown}; if others are alike, about {fewest:,} would be enough 4 times in 5"
        # What the user does next is often to add samples to these.
        going_on = None if self._always_valid else self._margin_test(gate, route, looked_at=True)
        more = None if going_on is None else units_within(going_on, tested, rises=side)
        return enough if more is None else f"{enough}, or {more:,} with these among them"

    def _looked_at(self, gate: Gate, why: str) -> str:
        """Add which interval decided where the run was looked at before it had all samples."""
        if not self._always_valid:
            return why
        output = self._output_of(gate)
        no_range = output.low is None or output.high is None
        from_where = f" (of a score without a range, from {ASYMPTOTIC_MINIMUM} samples on)"
        return (
            f"{why}; the run was looked at before it had all samples, so the interval is one that "
            f"holds whenever one looks{from_where if no_range else ''}"
        )

    def _rescaled(
        self, gate: Gate, route: RouteReport, margin: float
    ) -> tuple[tuple[float, float] | None, float]:
        """Return the interval of a share corrected by known errors, and the margin of the raw one.

        The correction stretches the raw difference, and its interval by as much or more.
        """
        compared = self._comparison(gate, route)
        raw = self._compared[route.route, self._output_of(gate).name]
        if compared.low is None or compared.high is None or raw.low is None or raw.high is None:
            return None, margin
        stretch = (compared.high - compared.low) / (raw.high - raw.low)
        return (compared.low, compared.high), margin / stretch

    def _margin_test(
        self, gate: Gate, route: RouteReport, *, looked_at: bool = False
    ) -> MarginTest | None:
        output = self._output_of(gate)
        always_valid = looked_at or self._always_valid
        tests = self._accumulator.tests(route.route, output, always_valid=always_valid)
        return None if tests is None else MarginTest(tests.margin, tests.units)

    def _quantile(self, gate: Gate, route: RouteReport) -> GateResult:
        percentile = self._percentile(gate, route)
        bound = gate.bound
        if bound is None and self._baseline is not None:
            bound = self._percentile(gate, self._baseline)
            if not math.isfinite(bound):
                return _result(
                    gate, route, _finite(percentile), None, "the baseline has too few answers"
                )
        why = ""
        if not math.isfinite(percentile):
            why = _taken(route) or (
                f"{_finished(route) - score_of(route, gate.output).scored:,} answers are missing"
            )
        return _result(gate, route, _finite(percentile), bound, why)

    def _percentile(self, gate: Gate, route: RouteReport) -> float:
        """Return the smallest value that the gate's share of the answers does not exceed."""
        column = self._accumulator.routes[route.route].columns[gate.output]
        values = np.asarray(column.values, dtype=np.float64)
        values = np.sort(values[np.isfinite(values)])
        finished = max(_finished(route), len(values))
        missing = finished - len(values)
        if finished == 0:
            return math.inf
        place = max(0, math.ceil(gate.quantile * finished - 1e-9) - 1)
        if gate.sign in {"<", "<="}:  # what is missing stands behind the largest
            return float(values[place]) if place < len(values) else math.inf
        return float(values[place - missing]) if place >= missing else -math.inf

    def _output_of(self, gate: Gate) -> Output:
        """Return the output; a share that is corrected by known errors is like the raw one."""
        raw = {corrected: raw for raw, corrected in self._corrected.items()}
        return self._outputs.get(gate.output) or self._outputs[raw[gate.output]]

    def _comparison(self, gate: Gate, route: RouteReport) -> Comparison:
        return self._compared[route.route, gate.output]

    def _missing(self, gate: Gate, route: RouteReport | None) -> str:
        """Say why a score is not enough: too many answers lack it. "" when enough have it."""
        if route is None:
            return ""
        bounds = [
            demanded.bound for demanded in self._demanded if demanded.output in {"", gate.output}
        ]
        enough = max((bound for bound in bounds if bound is not None), default=1.0)
        score = score_of(route, gate.output)
        if _covered(route, score) >= enough:
            return ""
        finished = _finished(route)
        if finished == 0:
            return f"{route.route} has no answers"
        return _taken(route) or (
            f"{finished - score.scored:,} of {finished:,} answers of {route.route} have no "
            f"{gate.output}; a gate 'coverage >= ...' says how many may be missing"
        )


def _no_interval(compared: Comparison) -> str:
    if compared.labelled is not None:
        return f"no interval: {compared.labelled:,} labels on one side are too few for one"
    if compared.n < 2:
        return "no interval: fewer than two samples in common"
    if compared.effective_clusters is not None:
        return f"no interval: only {compared.effective_clusters:.1f} effective clusters"
    return "no interval: all samples differ alike, and the score has no range"


def _finished(route: RouteReport) -> int:
    """Count the answers that came or failed: a run that stopped early does not lack the others."""
    return route.answered + route.failed


def _taken(route: RouteReport) -> str:
    """Say how many answers count as missing because another run has measured them."""
    if not route.cached_from:
        return ""
    taken = sum(route.cached_from.values())
    return (
        f"{taken:,} of {_finished(route):,} answers of {route.route} were not measured by this "
        f"run: the run cache took them from {runs_in_words(route.cached_from)}; `cache: false` "
        "requests new ones"
    )


def _covered(route: RouteReport, score: RouteScore) -> float:
    finished = _finished(route)
    return score.scored / finished if finished else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _result(
    gate: Gate, route: RouteReport, number: float | None, bound: float | None, why: str = ""
) -> GateResult:
    known = number is not None and bound is not None
    passed = not why and known and _SIGNS[gate.sign](number or 0.0, bound or 0.0)
    return GateResult(
        gate=gate.text, route=route.route, passed=passed, found=number, bound=bound, why=why
    )
