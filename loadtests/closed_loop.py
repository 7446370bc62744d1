"""Closed-loop load with wrk: 64 clients, each sending its next request when the last is answered.

    python -m loadtests.closed_loop URL --seconds 10 [--header 'authorization: Bearer x']

prints one JSON object (see Measured). wrk is in Debian's package of that name; it costs a few
microseconds per request, so that the gateway and not the client is what gets measured.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from loadtests.client import body, parse_header

CLIENTS = 64


class WrkFailed(Exception):  # noqa: N818  # reads as what happened
    """wrk is not installed, or has nothing to report."""


class Measured(msgspec.Struct, frozen=True):
    """What wrk saw.

    Attributes:
        requests: answered in the window.
        seconds: the window.
        per_second: the two divided.
        p50_ms, p99_ms: from sent to answered; under closed-loop load mostly waiting in line.
        bad_statuses: answers with a status of 400 or more.
        socket_errors: connections refused or reset, reads and writes that failed or timed out.
    """

    requests: int
    seconds: float
    per_second: float
    p50_ms: float
    p99_ms: float
    bad_statuses: int
    socket_errors: int


class _Summary(msgspec.Struct):
    """What the script below prints; times in microseconds."""

    requests: int
    duration: float
    p50: float
    p99: float
    status: int
    socket: int


_REPORT = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"duration":%d,"p50":%d,"p99":%d,"status":%d,"socket":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


def script(headers: Mapping[str, str]) -> str:
    """Return the Lua script that makes wrk send requests and report them."""
    lines = ['wrk.method = "POST"', 'wrk.headers["content-type"] = "application/json"']
    lines += [
        f"wrk.headers[ {_quoted(name)} ] = {_quoted(value)}" for name, value in headers.items()
    ]
    lines.append(f"wrk.body = {_quoted(body(stream=False).decode())}")
    return "\n".join(lines) + _REPORT


def _quoted(text: str) -> str:
    # Level-two long brackets: nothing that JSON or a header holds ends them.
    return f"[==[{text}]==]"


def measure(url: str, headers: Mapping[str, str], *, seconds: float) -> Measured:
    """Drive `url` for `seconds`, rounded up to whole ones, which is all that wrk knows.

    Raises:
        WrkFailed: it is not installed, or did not do it.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise WrkFailed("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "post.lua"
        file.write_text(script(headers), encoding="utf-8")
        window = f"{math.ceil(seconds)}s"
        command = [wrk, "-t1", f"-c{CLIENTS}", f"-d{window}", "--timeout", "30s", "-s", str(file)]
        done = subprocess.run([*command, url], check=False, capture_output=True, text=True)
    try:
        summary = msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=_Summary)
    except msgspec.DecodeError:
        raise WrkFailed(f"wrk: exit code {done.returncode}, {done.stdout}{done.stderr}") from None
    return Measured(
        requests=summary.requests,
        seconds=summary.duration / 1e6,
        per_second=summary.requests / (summary.duration / 1e6),
        p50_ms=summary.p50 / 1e3,
        p99_ms=summary.p99 / 1e3,
        bad_statuses=summary.status,
        socket_errors=summary.socket,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Closed-loop load: 64 clients, driven by wrk.")
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--header", type=parse_header, action="append", default=[])
    options = parser.parse_args()
    try:
        measured = measure(options.url, dict(options.header), seconds=options.seconds)
    except WrkFailed as failure:
        parser.exit(1, f"{failure}\n")
    print(msgspec.json.encode(measured).decode())


if __name__ == "__main__":
    main()
