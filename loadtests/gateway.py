"""`make bench`: measure the router beside the floor, its peers and the machine's limit.

    python -m loadtests.gateway                        all that is installed; about 15 minutes
    python -m loadtests.gateway --quick                one short run, to see that it works
    python -m loadtests.gateway --only evalrouter floor --seconds 5 --runs 5

Every contestant has one core to itself; the upstream and the load generators share another. In
each run every contestant takes its turn, in order, freshly started, through all scenarios: a noisy
minute hits one run of several, not one contestant. `direct` is no gateway at all: what it shows
are the limits of the upstream and the generators, and the latency that the others add to.

The medians go to standard output and to `loadtests/results/<date>.md`. Exit codes: 0 measured,
1 a scenario failed (an answer that is not 200, a stream cut short), 2 it cannot be run like this.
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from loadtests import closed_loop, open_loop, report, streams
from loadtests.client import NOT_SUSTAINED, body
from loadtests.contestants import ROOT, Contestant, NotPrepared, Site, Start, contestants
from loadtests.processes import cpu_seconds, free_port, resident_bytes, started
from loadtests.upstream import Pace

RATES = (200, 500)
START_LIMIT_S = 180
STREAMS = 64
CHUNKS = 100
INTERVAL_MS = 20
OPEN_STREAMS = 1000
# One chunk each in five seconds: open, and nearly silent.
SLOW = Pace(chunks=1000, interval=5000)
FAST = Pace(chunks=CHUNKS, interval=INTERVAL_MS)
STREAM_S = CHUNKS * INTERVAL_MS / 1000


class ScenarioFailed(Exception):  # noqa: N818  # reads as what happened
    """A scenario has no result, and why."""


class Over(Exception):  # noqa: N818  # reads as what is the matter
    """A scenario needs more than the contestant can do; a note says so, and nothing fails."""


class Turn(NamedTuple):
    """A contestant that is running, and what of it is known so far.

    Attributes:
        url: of its chat completions.
        headers: that its clients send.
        pid: of its process; None for no gateway at all.
        upstream: port of the upstream.
        seconds: length of a scenario.
        measured: measurements by name; the scenarios add to it.
        complaint: see Contestant.
    """

    url: str
    headers: dict[str, str]
    pid: int | None
    upstream: int
    seconds: float
    measured: report.Run
    complaint: Callable[[], str | None] = lambda: None


class Moment(NamedTuple):
    """What has been used and done up to a moment.

    Attributes:
        at: perf_counter().
        cpu: seconds of CPU time of the gateway.
        requested: completions that were requested of the upstream.
    """

    at: float
    cpu: float
    requested: int


def run_closed_loop(turn: Turn) -> None:
    """Measure requests per second, and CPU per request, at 64 clients.

    Both are taken between two moments while wrk is at work, from what reaches the upstream: wrk's
    own count lacks the requests that were open when it stopped, many for a slow gateway.
    """
    # Node's compiler takes seconds to warm to its task; all get the same time.
    warm_up = turn.seconds / 2
    with ThreadPoolExecutor(1) as pool:
        whole = warm_up + turn.seconds + 1
        driving = pool.submit(closed_loop.measure, turn.url, turn.headers, seconds=whole)
        time.sleep(warm_up)
        before = _now(turn)
        time.sleep(turn.seconds)
        after = _now(turn)
        try:
            wrk = driving.result()
        except closed_loop.WrkFailed as failure:
            raise ScenarioFailed(str(failure)) from None
    if wrk.bad_statuses or wrk.socket_errors or not wrk.requests:
        raise ScenarioFailed(
            f"{wrk.requests} answers, {wrk.bad_statuses} of them not 2xx,"
            f" {wrk.socket_errors} socket errors"
        )
    requested, seconds = after.requested - before.requested, after.at - before.at
    if not requested:
        raise ScenarioFailed("no request reached the upstream")
    turn.measured["per_second"] = requested / seconds
    if turn.pid is not None:
        turn.measured["cpu_request"] = (after.cpu - before.cpu) / requested * 1e6
        turn.measured["busy"] = (after.cpu - before.cpu) / seconds * 100


def _now(turn: Turn) -> Moment:
    connection = http.client.HTTPConnection("127.0.0.1", turn.upstream, timeout=10)
    connection.request("GET", "/count")
    requested = int(connection.getresponse().read())
    moment = Moment(time.perf_counter(), _cpu(turn), requested)
    connection.close()
    return moment


def run_open_loop(turn: Turn, rate: int) -> None:
    """Measure latency at a fixed rate."""
    capacity = turn.measured.get("per_second")
    if capacity is not None and rate > capacity:
        raise Over(f"{rate} req/s is more than it can do ({capacity:.0f})")
    done = _generator("open_loop", turn, "--rate", str(rate), "--seconds", str(turn.seconds))
    measured = msgspec.json.decode(_output(done), type=open_loop.Measured)
    if measured.failed:
        raise ScenarioFailed(f"{measured.failed} requests failed: {measured.failures}")
    turn.measured[f"p50_{rate}"] = measured.p50_ms
    turn.measured[f"p99_{rate}"] = measured.p99_ms


def run_streams(turn: Turn) -> None:
    """Measure CPU per chunk and time to first byte, with 64 streams of 100 chunks at a time."""
    _set_pace(turn.upstream, FAST)
    rounds = max(1, round(turn.seconds / STREAM_S))
    shape = ["--streams", str(STREAMS), "--length", str(STREAM_S)]
    before = _cpu(turn)
    done = _generator("streams", turn, *shape, "--rounds", str(rounds))
    used = _cpu(turn) - before
    measured = msgspec.json.decode(_output(done), type=streams.Measured)
    if measured.failed:
        raise ScenarioFailed(f"{measured.failed} streams failed: {measured.failures}")
    chunks = measured.streams * CHUNKS
    turn.measured["first_byte"] = measured.first_byte_p50_ms
    turn.measured["reads"] = measured.reads / chunks * 100
    if turn.pid is not None:
        turn.measured["cpu_chunk"] = used / chunks * 1e6


def run_open_streams(turn: Turn) -> None:
    """Measure resident memory with 1,000 slow streams open."""
    if turn.pid is None:
        return
    _set_pace(turn.upstream, SLOW)
    command = _command("streams", turn, "--hold", str(OPEN_STREAMS))
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as holding:
        assert holding.stdout is not None
        highest = 0
        if holding.stdout.readline():
            for _ in range(10):
                highest = max(highest, resident_bytes(turn.pid))
                time.sleep(0.2)
        _, complaint = holding.communicate()
    if holding.returncode == NOT_SUSTAINED:
        raise Over(complaint.decode().strip())
    if holding.returncode:
        raise ScenarioFailed(complaint.decode().strip())
    turn.measured["rss_open"] = highest / 1e6


def scenarios(rates: Sequence[int]) -> list[tuple[str, Callable[[Turn], None]]]:
    """Return the scenarios in their order; the last one leaves a thousand connections behind."""

    def at(rate: int) -> Callable[[Turn], None]:
        return lambda turn: run_open_loop(turn, rate)

    return [
        ("64 clients", run_closed_loop),
        *((f"{rate} req/s", at(rate)) for rate in rates),
        (f"{STREAMS} streams", run_streams),
        (f"{OPEN_STREAMS} open streams", run_open_streams),
    ]


def _cpu(turn: Turn) -> float:
    return 0.0 if turn.pid is None else cpu_seconds(turn.pid)


def _command(module: str, turn: Turn, *more: str) -> list[str]:
    headers = [f"--header={name}: {text}" for name, text in turn.headers.items()]
    return [sys.executable, "-m", f"loadtests.{module}", turn.url, *headers, *more]


def _generator(module: str, turn: Turn, *more: str) -> subprocess.CompletedProcess[str]:
    command = _command(module, turn, *more)
    limit = 120 + 5 * turn.seconds
    try:
        return subprocess.run(
            command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise ScenarioFailed(f"not done after {limit:g} s") from None


def _output(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == NOT_SUSTAINED:
        raise Over(done.stderr.strip())
    if done.returncode:
        raise ScenarioFailed(done.stderr.strip().rpartition("\n")[2])
    return done.stdout


def _set_pace(port: int, pace: Pace) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("PUT", "/pace", msgspec.json.encode(pace))
    if connection.getresponse().status != 200:
        raise ScenarioFailed("the upstream refuses the pace")
    connection.close()


def wait_for_answer(port: int, headers: dict[str, str], process: subprocess.Popen[bytes]) -> None:
    """Return at the first answer with status 200.

    Raises:
        ScenarioFailed: the process ended, or did not answer within three minutes.
    """
    until = time.monotonic() + START_LIMIT_S
    last = "nothing listens"
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ScenarioFailed(f"it ended with exit code {process.returncode} before answering")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                body(stream=False),
                {"content-type": "application/json", **headers},
            )
            answer = connection.getresponse()
            last = f"status {answer.status}: {answer.read()[:300].decode(errors='replace')}"
            if answer.status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.005)
    raise ScenarioFailed(f"no answer within {START_LIMIT_S} s; {last}")


class Settings(NamedTuple):
    """The options of the command line."""

    gateway_core: int
    load_core: int
    seconds: float
    runs: int
    rates: tuple[int, ...]
    only: tuple[str, ...]


class Benchmark:
    """The runs of one command.

    Attributes:
        results: contestant to runs.
        notes: failures, and what a contestant could not do.
        failed: whether any scenario failed.
    """

    def __init__(self, settings: Settings, upstream: int, folder: Path) -> None:
        self._settings = settings
        self._upstream = upstream
        self._folder = folder
        self.results: dict[str, list[report.Run]] = {}
        self.notes: list[str] = []
        self.failed = False

    def run(self, taking_part: Sequence[Contestant]) -> None:
        """Give every contestant a turn in each run."""
        for number in range(1, self._settings.runs + 1):
            self._take_turn(None, number)
            for contestant in taking_part:
                self._take_turn(contestant, number)

    def _take_turn(self, contestant: Contestant | None, number: int) -> None:
        name = report.DIRECT if contestant is None else contestant.name
        measured: report.Run = {}
        self.results.setdefault(name, []).append(measured)
        print(f"run {number}: {name}", file=sys.stderr, flush=True)
        try:
            with self._running(contestant, f"{name}-{number}", measured) as turn:
                for title, scenario in scenarios(self._settings.rates):
                    if self._settings.only and title not in self._settings.only:
                        continue
                    self._play(scenario, turn, f"{name}, run {number}, {title}")
                complaint = turn.complaint()
                if complaint:
                    self._fail(f"{name}, run {number}: {complaint}")
        except (NotPrepared, ScenarioFailed) as failure:
            self._fail(f"{name}, run {number}: {failure}")

    def _play(self, scenario: Callable[[Turn], None], turn: Turn, title: str) -> None:
        try:
            scenario(turn)
        except Over as over:
            self.notes.append(f"{title}: {over}")
        except ScenarioFailed as failure:
            self._fail(f"{title}: {failure}")

    def _fail(self, note: str) -> None:
        self.failed = True
        note = " ".join(note.split())
        self.notes.append(f"FAILED: {note}")
        print(f"  failed: {note}", file=sys.stderr, flush=True)

    @contextmanager
    def _running(
        self, contestant: Contestant | None, title: str, measured: report.Run
    ) -> Iterator[Turn]:
        seconds = self._settings.seconds
        if contestant is None:
            url = f"http://127.0.0.1:{self._upstream}/v1/chat/completions"
            yield Turn(url, {}, None, self._upstream, seconds, measured)
            return
        folder = self._folder / title
        folder.mkdir()
        port = free_port()
        start = contestant.prepare(Site(folder, port, f"http://127.0.0.1:{self._upstream}/v1"))
        log = folder / "output.log"
        began = time.perf_counter()
        with started(
            start.command, core=self._settings.gateway_core, log=log, env=start.env, cwd=ROOT
        ) as process:
            self._wait(port, start, process, log)
            measured["start"] = time.perf_counter() - began
            measured["rss_idle"] = resident_bytes(process.pid) / 1e6
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            yield Turn(
                url,
                start.headers,
                process.pid,
                self._upstream,
                seconds,
                measured,
                lambda: contestant.complaint(port, start),
            )

    def _wait(self, port: int, start: Start, process: subprocess.Popen[bytes], log: Path) -> None:
        try:
            wait_for_answer(port, start.headers, process)
        except ScenarioFailed:
            # The folder is gone when the command ends; what the contestant said is not to be.
            sys.stderr.write(log.read_text(encoding="utf-8", errors="replace")[-3000:])
            raise


def heading(taking_part: Sequence[Contestant], missing: dict[str, str], command: str) -> str:
    """Return the command, date, machine and versions, without names of hosts or folders."""
    lines = [
        f"# Load test of {datetime.now(UTC).date()}",
        "",
        f"    {command}",
        "",
        "Medians over the runs, with the lowest and the highest in brackets. "
        "How it is measured is in `loadtests/README.md`.",
        "",
        f"- commit: {_commit()}",
        f"- machine: {_machine()}",
        f"- python {platform.python_version()}, wrk {_wrk_version()}",
    ]
    for contestant in taking_part:
        versions = ", ".join(f"{package} {text}" for package, text in contestant.versions.items())
        lines.append(f"- {contestant.name}: {versions}")
    lines += [f"- {name}: not measured ({why})" for name, why in missing.items()]
    return "\n".join(lines)


def _machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, {system}, Linux {platform.release()}"
    )


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=False, capture_output=True)
    changed = subprocess.run([*git, "status", "--short"], check=False, capture_output=True).stdout
    if head.returncode:
        return "unknown"
    return head.stdout.decode().strip() + (" and changes not committed" if changed else "")


def _wrk_version() -> str:
    # It has no option for its version alone; the usage text that names it comes with exit code 1.
    usage = subprocess.run(["wrk", "-v"], check=False, capture_output=True, text=True)
    return (usage.stdout + usage.stderr).split()[1]


def _free_name(folder: Path) -> Path:
    """Return `<date>.md`, or `<date>-2.md` for the day's second, so that no report is lost."""
    day = str(datetime.now(UTC).date())
    number = 1
    while True:
        path = folder / (f"{day}.md" if number == 1 else f"{day}-{number}.md")
        if not path.exists():
            return path
        number += 1


def _check_tools() -> str | None:
    """Return what this machine lacks; None if it has everything."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            return f"{tool} is not installed: apt-get install {package}"
    if len(os.sched_getaffinity(0)) < 2:
        return "this needs two cores: one for the gateway, one for the load"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.gateway",
        description="Measure the router beside the floor, its peers and the machine's limit.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="just these contestants")
    parser.add_argument("--seconds", type=float, default=10, help="length of a scenario")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="of the open loop")
    parser.add_argument("--scenarios", nargs="+", default=[], metavar="NAME", help="just these")
    parser.add_argument("--quick", action="store_true", help="one run of 2 s per scenario")
    parser.add_argument("--out", type=Path, help="the report; default: loadtests/results/<date>.md")
    parser.add_argument("--litellm", type=Path, metavar="VENV", help="default: $LITELLM_VENV")
    parser.add_argument("--portkey", type=Path, metavar="PREFIX", help="default: $PORTKEY_PREFIX")
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="an earlier version of evalrouter, measured beside this one",
    )
    parser.add_argument(
        "--postgresql",
        metavar="ADDRESS",
        help="an empty database, for evalrouter with its store in PostgreSQL (postgresql)",
    )
    options = parser.parse_args()
    lacking = _check_tools()
    if lacking:
        parser.error(lacking)
    installed, missing = contestants(
        litellm=options.litellm or _from_environment("LITELLM_VENV"),
        portkey=options.portkey or _from_environment("PORTKEY_PREFIX"),
        before=options.before,
        postgresql=options.postgresql,
    )
    unknown = set(options.scenarios) - {title for title, _ in scenarios(options.rates)}
    if unknown:
        parser.error(f"no scenario {unknown.pop()!r}")
    for name in options.only or ():
        if name not in [contestant.name for contestant in installed]:
            parser.error(f"no contestant {name!r}. {missing.get(name, '')}")
    only = options.only or [contestant.name for contestant in installed]
    taking_part = [contestant for contestant in installed if contestant.name in only]

    gateway_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    settings = Settings(
        gateway_core=gateway_core,
        load_core=load_core,
        seconds=2 if options.quick else options.seconds,
        runs=1 if options.quick else options.runs,
        rates=tuple(options.rates),
        only=tuple(options.scenarios),
    )
    # This process waits, and its children but for the contestants are upstream and generators.
    os.sched_setaffinity(0, {load_core})
    # A thousand streams are two thousand connections in a gateway.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    command = f"python -m loadtests.gateway {shlex.join(public(sys.argv[1:]))}".rstrip()
    left_out = {} if options.only else missing
    top = heading(taking_part, left_out, command)
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        serve = [sys.executable, "-m", "loadtests.upstream", "--port", str(port)]
        with started(serve, core=load_core, log=folder / "upstream.log", cwd=ROOT) as upstream:
            try:
                wait_for_answer(port, {}, upstream)
            except ScenarioFailed as failure:
                parser.exit(1, f"the upstream does not start: {failure}\n")
            benchmark = Benchmark(settings, port, folder)
            benchmark.run(taking_part)
    report.add_differences(benchmark.results, settings.rates)
    text = report.markdown(
        benchmark.results, rates=settings.rates, heading=top, notes=benchmark.notes
    )
    out = options.out or _free_name(ROOT / "loadtests" / "results")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {out}", file=sys.stderr)
    if benchmark.failed:
        sys.exit(1)


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


_FOLDERS = {
    "--litellm": "VENV",
    "--portkey": "PREFIX",
    "--before": "CHECKOUT",
    "--out": "FILE",
    "--postgresql": "ADDRESS",
}


def public(arguments: list[str]) -> list[str]:
    """Return the arguments without this machine's folders."""
    shown: list[str] = []
    hide = ""
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if hide:
            shown.append(hide)
            hide = ""
        elif option in _FOLDERS:
            place = _FOLDERS[option]
            shown.append(f"{option}={place}" if equals else option)
            hide = "" if equals else place
        else:
            shown.append(argument)
    return shown


if __name__ == "__main__":
    main()
