"""What `evalrouter doctor` reports, and how its checks run: side by side, each in bounded time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from providers.errors import EvalrouterError

Status = Literal["ok", "note", "warning", "failure"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was checked.

    Attributes:
        area: what it is about, such as `config`, `database` or a provider's name.
        status: `ok`, `note` (nothing is wrong), `warning` (something may be), `failure`.
        message: what is the case.
        remedy: what to do about it; "" where there is nothing to do.
    """

    area: str
    status: Status
    message: str
    remedy: str = ""


class PlannedCheck(NamedTuple):
    """A check, and the area of what it finds. It may block."""

    area: str
    run: Callable[[], Iterable[Finding]]


class Results(NamedTuple):
    """What the checks found, in their order.

    Attributes:
        findings: of all checks; one that was not done in time is a failure.
        complete: whether all were done in time.
    """

    findings: list[Finding]
    complete: bool


def run_checks(checks: Sequence[PlannedCheck], limit_s: float) -> Results:
    """Run the checks side by side, for so long at most.

    Each has a thread, which goes on where its check hangs.
    """
    done: queue.SimpleQueue[tuple[int, list[Finding]]] = queue.SimpleQueue()

    def run(number: int, check: PlannedCheck) -> None:
        done.put((number, _guarded(check)))

    for number, check in enumerate(checks):
        threading.Thread(target=run, args=(number, check), daemon=True).start()
    results: dict[int, list[Finding]] = {}
    deadline = time.monotonic() + limit_s
    while len(results) < len(checks):
        try:
            number, findings = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        results[number] = findings
    findings = [
        finding
        for number, check in enumerate(checks)
        for finding in results.get(number, [_late(check.area, limit_s)])
    ]
    return Results(findings, len(results) == len(checks))


def _guarded(check: PlannedCheck) -> list[Finding]:
    try:
        return list(check.run())
    except EvalrouterError as error:
        return [Finding(check.area, "failure", error.message)]
    except Exception as error:  # noqa: BLE001 - the other checks count all the same
        return [Finding(check.area, "failure", f"the check broke off: {type(error).__name__}")]


def _late(area: str, limit_s: float) -> Finding:
    return Finding(area, "failure", f"no answer within {limit_s:g} s", "see whether it hangs")
