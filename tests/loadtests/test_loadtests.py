"""The load generators, the upstream and the floor, on each other; nothing here looks at times."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop
from servers import reserved_port

from loadtests import closed_loop, gateway, open_loop, report, sealing, streams, traffic, turns
from loadtests.client import RequestFailed, body, parse_header
from loadtests.processes import cpu_seconds, resident_bytes, started, tree

ROOT = Path(__file__).parents[2]
HEADERS = {"authorization": "Bearer x"}


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    """The ports of the upstream, and of the floor in front of it; both pids with them."""
    logs = tmp_path_factory.mktemp("logs")
    with reserved_port() as up, reserved_port() as floor:
        yield from served(up, floor, logs)


def served(up, floor, logs):
    run = [sys.executable, "-m"]
    upstream = [*run, "loadtests.upstream", "--port", str(up), "--chunks", "5", "--interval", "1"]
    relay = [*run, "loadtests.floor", "--port", str(floor)]
    relay += ["--upstream", f"http://127.0.0.1:{up}/v1"]
    with (
        started(upstream, log=logs / "upstream.log", cwd=ROOT) as one,
        started(relay, log=logs / "floor.log", cwd=ROOT) as two,
    ):
        gateway.wait_for_answer(up, {}, one)
        gateway.wait_for_answer(floor, HEADERS, two)
        yield up, floor, two.pid


@pytest.fixture
def url(ports):
    return f"http://127.0.0.1:{ports[1]}/v1/chat/completions"


def test_the_open_loop_sends_what_it_was_told(url):
    found = open_loop.measure(url, HEADERS, rate=200, seconds=0.1)
    assert (found.answered, found.failed) == (20, 0)


def test_programs_that_take_turns_are_compared_by_their_cpu_time(ports):
    one = turns.StartedOne(ports[1], ports[2], HEADERS)
    found = uvloop.run(
        turns.measure({"floor": one, "again": one}, 20, 40, warm_up=20, idle_s=0.05, settled_s=0.01)
    )
    assert {name: len(values) for name, values in found.items()} == {"floor": 10, "again": 10}
    # Both have the CPU time of the one process, in which it answered the requests of both.
    assert all(cost.whole > 0 and cost.in_turns > 0 for costs in found.values() for cost in costs)
    floor, loop = ([turns.Cost(2, 1), turns.Cost(4, 1)], [turns.Cost(2.5, 1), turns.Cost(4, 2)])
    shown = turns.markdown({"floor": floor, "loop": loop}, "# Turns", 20, 40)
    assert "| floor | 3.0 (2.0 to 4.0) | 1.000 (1.000 to 1.000) | 1.0 (1.0 to 1.0) |" in shown
    loops = "3.2 (2.5 to 4.0) | 1.125 (1.000 to 1.250) | 1.5 (1.0 to 2.0) | 1.500 (1.000 to 2.000)"
    assert f"| loop | {loops} |" in shown


def test_a_programs_cpu_time_has_what_its_children_take(tmp_path):
    spin = "import time\nwhile time.process_time() < 0.3: pass\n"
    child = f"subprocess.Popen([sys.executable, '-c', {spin!r}])"
    program = f"import subprocess, sys, time\n{child}\ntime.sleep(60)"
    with started([sys.executable, "-c", program], log=tmp_path / "log") as process:
        while turns.cpu_ns(process.pid) < 300_000_000:
            time.sleep(0.01)


def test_the_warm_up_does_not_count(url):
    found = open_loop.measure(url, HEADERS, rate=200, seconds=0.05, warm_up=0.05)
    assert found.answered == 10


def test_an_error_of_the_gateway_is_a_failure(ports):
    wrong = f"http://127.0.0.1:{ports[0]}/v1/nothing"
    with pytest.raises(RequestFailed, match="status 404"):
        open_loop.measure(wrong, HEADERS, rate=200, seconds=0.02)


def test_streams_come_through_whole(url):
    found = uvloop.run(streams.measure(url, HEADERS, streams=2, rounds=1, length=0.01))
    # Five chunks, the finish reason, the usage, [DONE].
    assert (found.streams, found.failed, found.events) == (2, 0, 2 * 8)


def test_an_answer_that_is_no_stream_fails_as_one(ports):
    wrong = f"http://127.0.0.1:{ports[0]}/v1/nothing"
    with pytest.raises(RequestFailed, match="status 404"):
        uvloop.run(streams.measure(wrong, HEADERS, streams=1, rounds=1, length=0.01))


def hold(port):
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = [sys.executable, "-m", "loadtests.streams", url, "--hold", "20"]
    return subprocess.run(command, check=False, cwd=ROOT, input="", capture_output=True, text=True)


@pytest.fixture
def pace(ports, http):
    """Sets the upstream's pace until the test ends."""

    def put(**pace):
        assert http.put(f"http://127.0.0.1:{ports[0]}/pace", json=pace).status_code == 200

    yield put
    put(chunks=5, interval=1)


def test_streams_are_held_open_until_standard_input_ends(ports, pace):
    pace(chunks=1000, interval=5000)
    done = hold(ports[1])
    assert (done.returncode, json.loads(done.stdout)) == (0, {"open": 20})


def test_streams_that_end_are_not_held_open(ports, pace):
    pace(chunks=1, interval=0)
    done = hold(ports[0])
    assert done.returncode == 1
    assert "ended while it should have been open" in done.stderr


def test_the_upstream_answers_as_openai_does(ports, http):
    answer = http.post(
        f"http://127.0.0.1:{ports[0]}/v1/chat/completions", content=body(stream=False)
    )
    assert answer.json()["usage"]["total_tokens"] == 340
    assert 900 < len(answer.content) < 1200
    assert 900 < len(body(stream=False)) < 1200


def test_the_upstream_counts_what_reaches_it(ports, url, http):
    count = f"http://127.0.0.1:{ports[0]}/count"
    before = int(http.get(count).text)
    assert http.post(url, content=body(stream=False)).status_code == 200
    assert int(http.get(count).text) == before + 1


def test_an_unknown_pace_is_refused(ports, http):
    assert http.put(f"http://127.0.0.1:{ports[0]}/pace", json={"chunk": 1}).status_code == 400


def test_cpu_and_memory_are_those_of_the_whole_tree(tmp_path):
    code = (
        "import subprocess, sys\n"
        "busy = 'sum(range(10**7)); print(1, flush=True); import time; time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', busy], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print('ready', flush=True); child.wait()\n"
    )
    log = tmp_path / "log"
    with started([sys.executable, "-c", code], log=log) as process:
        while b"ready" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
        parent, child = tree(process.pid)
        assert parent == process.pid
        assert cpu_seconds(parent) >= cpu_seconds(child) > 0
        assert resident_bytes(parent) > resident_bytes(child) > 0
    # Nobody may be there to reap it; a zombie is ended, too.
    status = Path(f"/proc/{child}/status")
    while status.exists() and "State:\tZ" not in status.read_text():
        time.sleep(0.01)


def test_the_wrk_script_quotes_what_it_is_given():
    script = closed_loop.script({"x-odd": 'a "b" ]] c'})
    assert 'wrk.headers[ [==[x-odd]==] ] = [==[a "b" ]] c]==]' in script


def test_a_header_needs_a_colon():
    assert parse_header("a: b: c") == ("a", "b: c")
    with pytest.raises(ValueError, match="nonsense"):
        parse_header("nonsense")


def test_the_report_takes_medians_and_differences():
    results = {
        "direct": [{"p50_200": 1.0}, {"p50_200": 2.0}, {"p50_200": 1.0}],
        "evalrouter": [
            {"p50_200": 1.5, "cpu_request": 130.0},
            {"p50_200": 9.0, "cpu_request": 150.0},
            {"p50_200": 1.7, "cpu_request": 900.0},
        ],
        "before": [{"cpu_request": 100.0}, {"cpu_request": 150.0}, {"cpu_request": 750.0}],
        "floor": [{"cpu_request": 100.0}] * 3,
    }
    report.add_differences(results, [200])
    assert report.value(results, "evalrouter", "added_p50_200") == pytest.approx(0.7)
    aims = {aim.what: (aim.measured, aim.met) for aim in report.aims(results)}
    assert aims["CPU per request, to the floor's"] == (1.5, False)
    # Of each run's two: a run of a noisy minute does not count for one of them alone.
    assert aims["CPU per request, to the earlier version's"] == (1.2, False)
    assert aims["added latency p50 at 200 req/s"] == (pytest.approx(0.7), True)
    text = report.markdown(results, rates=[200], heading="# Load test", notes=["a note"])
    assert "| CPU per request, µs | - | 150.0 (130.0 to 900.0) | 150.0 (100.0 to 750.0) |" in text
    assert text.endswith("- a note\n")


def test_a_measurement_that_a_run_lacks_has_no_median():
    results = {"floor": [{"per_second": 10.0}, {}]}
    assert report.value(results, "floor", "per_second") is None


def test_the_file_of_request_records_has_what_its_pages_are_about(tmp_path):
    path = tmp_path / "traffic.db"
    asyncio.run(traffic.fill(path, 30_000))
    asyncio.run(traffic.index(path))
    pages = asyncio.run(traffic.pages(path, 0.0))
    empty = {name for name, page in pages.items() if not page.rows}
    assert empty >= {name for name in pages if "nothing has" in name or "never uses" in name}
    assert not empty & {
        "everything",
        "a common route",
        "a key",
        "failures",
        "until three weeks ago",
    }
    assert asyncio.run(traffic.totals(path, 0.0))
    assert asyncio.run(traffic.writing(tmp_path / "new.db", 600, keys=3)).cpu_us > 0


def test_the_files_of_sealed_requests_have_what_their_pages_are_about(tmp_path):
    path = tmp_path / "traffic.db"
    asyncio.run(sealing.fill_with_bodies(path, 300))
    sealed = asyncio.run(sealing.seal(path))
    assert sealed["requests"] == 300
    assert sealed["bytes"] > 0
    times = {
        engine: asyncio.run(sealing.times(path, engine, 0.0)) for engine in ("duckdb", "arrow")
    }
    rows = {engine: [row[0] for row in of.values()] for engine, of in times.items()}
    assert rows["duckdb"] == rows["arrow"]
    assert times["arrow"]["everything"][0] == 50
    assert asyncio.run(sealing.delete(path))[0] == 0
