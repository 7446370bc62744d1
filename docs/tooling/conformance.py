"""Renders the table of providers, from the reports of the conformance suite.

The reports are in docs/reference/conformance, one JSON file per server. `make providers`,
`make test-llama-cpp` and `make test-vllm` write them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from providers.conformance.checks import CHECKS
from providers.conformance.suite import ConformanceReport
from tooling.markdown import REFERENCE

REPORTS = REFERENCE / "conformance"
SIGNS = {"pass": "yes", "fail": "**no**", "unsupported": "-"}


class ServerReport(msgspec.Struct, kw_only=True):
    """A report and the server that it is about.

    Attributes:
        title: the head of the server's column.
        version: the server's version.
        stand_in: whether the server stands for a host that cannot be reached offline.
        report: the result of the conformance suite.
    """

    title: str
    version: str
    stand_in: bool
    report: ConformanceReport


def table_of_reports() -> str:
    """Return the Markdown of all reports: real servers first, then stand-ins."""
    reports = [
        msgspec.json.decode(path.read_bytes(), type=ServerReport)
        for path in sorted(REPORTS.glob("*.json"))
    ]
    reports.sort(key=lambda each: (each.stand_in, each.title))
    lines = [*_servers(reports), *_checks(reports), *_failures(reports)]
    return "\n".join(lines) + "\n"


def _servers(reports: Sequence[ServerReport]) -> list[str]:
    lines = [
        "",
        "| | server | version | tested on | yes | no | - |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, each in enumerate(reports, start=1):
        counts = each.report.counts
        title = f"stand-in: {each.title}" if each.stand_in else each.title
        lines.append(
            f"| {number} | {title} | {each.version} | {each.report.date[:10]} "
            f"| {counts['pass']} | {counts['fail']} | {counts['unsupported']} |"
        )
    return lines


def _checks(reports: Sequence[ServerReport]) -> list[str]:
    numbers = range(1, len(reports) + 1)
    lines = ["", "| check | " + " | ".join(map(str, numbers)) + " |"]
    lines.append("|---|" + "---|" * len(reports))
    outcomes = [{result.name: result for result in each.report.results} for each in reports]
    for check in CHECKS:
        signs = [SIGNS[each[check.name].outcome] if check.name in each else "" for each in outcomes]
        lines.append(f"| {check.title} | " + " | ".join(signs) + " |")
    return lines


def _failures(reports: Sequence[ServerReport]) -> list[str]:
    lines = ["", "Why a real server was given a **no**:", ""]
    for number, each in enumerate(reports, start=1):
        if each.stand_in:
            continue
        for result in each.report.results:
            if result.outcome == "fail":
                evidence = result.evidence.replace("`", "'").replace("\n", " ")[:100]
                lines.append(f"- {number}, {result.name}: `{evidence}`")
    return lines
