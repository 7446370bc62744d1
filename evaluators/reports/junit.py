"""A run's gates as JUnit XML, which continuous integration shows as tests.

    to_junit("nightly", gates, run="run_0193...", problem="", seconds=41.2)

One test case for the run itself and one for each gate and route; a gate that does not hold is a
failure, a run that did not complete an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from evaluators.judge.graded import CORRECTED
from evaluators.reports.gates import GateResult, margin_kind


def to_junit(
    name: str, gates: Sequence[GateResult], *, run: str, problem: str, seconds: float | None
) -> bytes:
    """Write the gates as one test suite, UTF-8.

    Args:
        name: of the run, the suite's name.
        gates: their outcomes.
        run: the run's id.
        problem: why the run did not complete; "" when it did.
        seconds: how long it took; None when that is not known.
    """
    failed = [gate for gate in gates if not gate.passed]
    suites = Xml.Element("testsuites")
    suite = Xml.SubElement(
        suites,
        "testsuite",
        name=_legal(name),
        tests=str(len(gates) + 1),
        failures=str(len(failed)),
        errors=str(int(bool(problem))),
        skipped="0",
        time=f"{seconds or 0.0:.3f}",
    )
    case = Xml.SubElement(suite, "testcase", classname=_legal(name), name=f"{run} completed")
    if problem:
        Xml.SubElement(case, "error", message=_legal(problem))
    for gate in gates:
        case = Xml.SubElement(
            suite, "testcase", classname=_legal(f"{name}.{gate.route}"), name=_legal(gate.gate)
        )
        if not gate.passed:
            Xml.SubElement(case, "failure", message=_legal(in_words(gate)))
        elif gate.note or gate.output.endswith(CORRECTED):
            Xml.SubElement(case, "system-out").text = _legal(in_words(gate))
    Xml.indent(suites)
    text: bytes = Xml.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def in_words(gate: GateResult) -> str:
    """Put a gate's outcome in words: `0.184 against 0.2`, and the reason if it is another.

    A judge's corrected score is called by its name, a raw one where others are corrected raw. The
    number of a margin is no score, and may lie outside the interval beside it, so it is explained.
    """
    number = "no score" if gate.found is None else f"{gate.found:.4g}"
    bound = "no score" if gate.bound is None else f"{gate.bound:.4g}"
    name = f"{gate.output} " if gate.output.endswith(CORRECTED) else ""
    kind = margin_kind(gate.gate)
    if kind is not None and gate.found is not None:
        rare = "losses" if kind == "non_inferior" else "differences"
        number = f"difference of {number} at worst, with room for rare {rare},"
    reasons = [reason for reason in (gate.why, gate.note) if reason]
    return "; ".join([f"{name}{number} against {bound}", *reasons])


def _legal(text: str) -> str:
    """Replace the characters that XML 1.0 forbids; foreign names may hold anything."""
    return "".join(
        char if char.isprintable() or char in "\t\n" else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
