"""Gates: conditions on a run's scores that decide whether it passes.

`rougeL >= 0.20` compares a route's score with a number, `rougeL >= baseline` with the baseline
route's score. A gate holds for every route of the run but the baseline itself; a score that is
missing fails it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from providers.errors import RunDocumentError, closest

_GATE = re.compile(r"\s*(?P<output>[\w.:-]+)\s*(?P<sign>>=|<=|>|<)\s*(?P<bound>\S+)\s*")
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Gate(msgspec.Struct, frozen=True):
    """A parsed gate. `bound` is None for `baseline`."""

    text: str
    output: str
    sign: str
    bound: float | None


class GateResult(msgspec.Struct, frozen=True):
    """What a gate found for one route."""

    gate: str
    route: str
    passed: bool
    found: float | None
    bound: float | None


def parse(text: str, outputs: Sequence[str], *, has_baseline: bool, param: str) -> Gate:
    """Read a gate.

    Raises:
        RunDocumentError: not of the form, an output no metric of the run produces, or `baseline`
            without one.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise RunDocumentError(
            f"{param}: {text!r} is not a gate; write for example 'rougeL >= 0.20'", param=param
        )
    if match["output"] not in outputs:
        raise RunDocumentError(
            f"{param}: no metric of this run produces {match['output']!r}."
            f"{closest(match['output'], outputs)}",
            param=param,
        )
    if match["bound"] == "baseline":
        if not has_baseline:
            raise RunDocumentError(f"{param}: the run names no baseline", param=param)
        return Gate(text, match["output"], match["sign"], None)
    try:
        bound = float(match["bound"])
    except ValueError:
        raise RunDocumentError(
            f"{param}: {match['bound']!r} is neither a number nor 'baseline'", param=param
        ) from None
    return Gate(text, match["output"], match["sign"], bound)


def check(
    gates: Sequence[Gate], scores: Mapping[tuple[str, str], float | None], baseline: str | None
) -> list[GateResult]:
    """Hold every gate against every route but the baseline.

    Args:
        gates: from `parse`.
        scores: (route, output) to the route's score.
        baseline: the baseline route's name.
    """
    routes = sorted({route for route, _ in scores if route != baseline})
    found = []
    for gate in gates:
        for route in routes:
            score = scores.get((route, gate.output))
            bound = gate.bound
            if bound is None and baseline is not None:
                bound = scores.get((baseline, gate.output))
            passed = score is not None and bound is not None and _SIGNS[gate.sign](score, bound)
            found.append(GateResult(gate.text, route, passed, score, bound))
    return found
