"""Scoring in worker processes: what comes back, what is contained, what is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from evaluators.base import Answer, Sample, Scorable, Score
from evaluators.execution.scoring import Scorer, score
from evaluators.execution.worker_pool import WorkerPool
from evaluators.metrics.registry import build
from providers.errors import RunDocumentError

SPECS = ["rouge", "bleu", {"name": "regex", "pattern": "a"}, "f1"]


def item(text: str = "a cat sat", reference: str = "the cat sat", **fields) -> Scorable:
    sample = Sample(id="1", messages=(), references=(reference,), fields=fields)
    return Scorable(sample, Answer(text=text))


def items(count: int) -> list[Scorable]:
    return [item(f"a cat sat {'again ' * (at % 7)}{at}") for at in range(count)]


def expected(count: int) -> list[tuple[Score, ...]]:
    metrics = [build(spec) for spec in SPECS]
    return [score(metrics, one) for one in items(count)]


@pytest.fixture
def own(tmp_path):
    """A user's metric from source; its spec."""

    def write(source: str, name: str = "mine", **options):
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return {"name": f"file:{path}", **options}

    return write


def children() -> set[int]:
    """Processes that this one has started and that still live, scoring workers among them."""
    found = set()
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        found |= {int(one) for one in path.read_text().split()}
    return found


async def scored(specs, some, **options):
    async with Scorer(specs, **options) as scorer:
        return await scorer.score(some)


# What comes back


@pytest.mark.parametrize("here_s", [float("inf"), 0.0])
async def test_here_or_in_workers_the_scores_are_the_same(here_s):
    assert await scored(SPECS, items(40), here_s=here_s, processes=2) == expected(40)


async def test_a_run_moves_to_workers_on_the_way():
    before = children()
    async with Scorer(SPECS, here_s=0.02, processes=2) as scorer:
        assert children() == before
        batches = [await scorer.score(items(60)) for _ in range(3)]
        assert len(children() - before) == 2
    assert batches == [expected(60)] * 3
    assert children() == before


async def test_a_large_run_goes_to_workers_after_its_first_answers():
    before = children()
    async with Scorer(SPECS, answers=1_000_000, processes=1) as scorer:
        found = await scorer.score(items(4))
        assert len(children() - before) == 1
    assert found == expected(4)
    async with Scorer(SPECS, answers=1_000_000, processes=1) as scorer:
        await scorer.score(items(2))
        assert children() == before


async def test_a_small_run_starts_no_process():
    before = children()
    async with Scorer(SPECS, answers=4) as scorer:
        await scorer.score(items(4))
        assert children() == before


async def test_every_output_is_there_in_the_order_declared(own):
    mine = own("def score(answer, references, row): return len(answer)")
    specs = ["f1", mine, "rouge", {"name": "embedding_similarity", "route": "r"}]
    [found] = await scored(specs, [item()])
    names = ["f1", "mine", "rouge1", "rouge2", "rougeL", "rougeLsum", "embedding_similarity"]
    assert [one.output for one in found] == names
    assert found[1].value == 9
    assert await scored(specs, []) == []


async def test_two_batches_at_once_do_not_mix(own):
    echo = own("def score(answer, references, row): return float(answer)")
    async with Scorer([echo, "length"], here_s=0.0, processes=2) as scorer:
        batches = [[item(str(100 * b + n)) for n in range(50)] for b in range(4)]
        found = await asyncio.gather(*map(scorer.score, batches))
    for batch, scores in zip(batches, found, strict=True):
        assert [one[0].value for one in scores] == [float(one.answer.text) for one in batch]


# Users' own


async def test_an_integer_of_any_size_reaches_a_metric(own):
    mine = own("def score(answer, references, row): return float(row['big'] == 10**30)")
    found = await scored([mine], [item(big=10**30)])
    assert found[0][0].value == 1.0


async def test_a_users_function_gets_answer_references_and_row(own):
    mine = own(
        """
        def judge(answer, references, row):
            print("prints do not get in the way")
            return {"long": len(answer) > 5, "right": row["n"] * len(references)}
        """,
        function="judge",
        outputs=["long", "right"],
        high=10,
    )
    [found] = await scored([mine], [item(n=3)])
    assert [one.value for one in found] == [1.0, 3.0]
    metric = build(mine)
    assert metric.name == "file:mine.py"
    assert metric.outputs[1].high == 10


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("return float('nan')", "not finite"),
        ("return float('inf')", "outside its range"),
        ("return 'x'", "could not convert string to float: 'x'"),
        ("return None", "returned nothing"),
        ("return {}", "returned nothing"),
        ("return 7", "outside its range"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "died on it twice (exit status 3)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "(signal SIGSEGV)"),
        ("import time; time.sleep(60)", "took longer than 2 s"),
        ("import re; re.match('(a|a|a)+$', 'a' * 40 + 'b')", "took longer than 2 s"),
    ],
)
async def test_a_bad_function_costs_its_own_scores_only(own, body, why):
    source = f"def score(answer, *_):\n    if 'bad' in answer:\n        {body}\n    return 1"
    # The good ones have to be in time on a busy machine.
    mine = own(source, high=1, timeout_s=2)
    found = await scored([mine, "f1"], [item("good"), item("bad"), item("good again")])
    assert [one[0].value for one in found] == [1.0, None, 1.0]
    assert why in found[1][0].error
    assert all(one[1].value is not None for one in found)


async def test_closed_streams_do_no_harm(own):
    mine = own("import os\ndef score(*_): os.close(0); os.close(1); return 1")
    async with Scorer([mine]) as scorer:
        for _ in range(2):
            [found] = await scorer.score([item()])
            assert found[0].error.endswith("Bad file descriptor") or found[0].value == 1


async def test_a_function_that_always_hangs_is_given_up(own):
    mine = own("import time\ndef score(*_): time.sleep(60)", timeout_s=0.2)
    started = time.monotonic()
    found = await scored([mine], items(200))
    assert time.monotonic() - started < 30
    assert {one[0].value for one in found} == {None}
    assert "given up after 3 answers in a row" in found[-1][0].error


async def test_a_worker_that_was_killed_is_replaced(own):
    # The first worker kills itself at its second answer; the file remembers that it did.
    mine = own(
        """
        import os, pathlib, signal
        def score(answer, references, row):
            mark = pathlib.Path(row["mark"])
            if answer == "b" and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return os.getpid()
        """
    )
    mark = str(Path(mine["name"].removeprefix("file:")).with_name("mark"))
    found = await scored([mine], [item(text, mark=mark) for text in "abc"])
    pids = [one[0].value for one in found]
    assert None not in pids
    assert pids[0] != pids[1] == pids[2]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def score(:", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def other(*_): pass", "has no function 'score'"),
        ("import os; os._exit(7)", "died while it was loading (exit status 7)"),
    ],
)
async def test_what_cannot_be_loaded_is_told_before_anything_is_asked(own, source, why):
    before = children()
    with pytest.raises(RunDocumentError) as caught:
        await scored([own(source), "f1"], items(1))
    assert caught.value.message.startswith("file:mine.py: ")
    assert why in caught.value.message
    assert children() == before


async def test_loading_has_a_time_limit(own):
    pool = WorkerPool([own("import time; time.sleep(60)")], load_s=0.5)
    assert await pool.start() == "was not loaded within 0.5 s"
    assert await pool.score(items(2)) == ["was not loaded within 0.5 s"] * 2
    await pool.close()


async def test_an_entry_point_is_a_metric(tmp_path, monkeypatch):
    info = tmp_path / "politeness-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: politeness\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[evalrouter.metrics]\npolite = politeness:judge\n")
    (tmp_path / "politeness.py").write_text("def judge(a, r, row): return 'please' in a")
    monkeypatch.syspath_prepend(tmp_path)
    assert "politeness:1.5" in build("polite").signature
    found = await scored(["polite"], [item("please"), item("now")])
    assert [one[0].value for one in found] == [1.0, 0.0]


def test_the_signature_follows_the_files_content(own):
    first = build(own("def score(*_): return 1")).signature
    assert build(own("def score(*_): return 1")).signature == first
    changed = own("def score(*_): return 2")
    assert build(changed).signature != first
    Path(changed["name"].removeprefix("file:")).unlink()
    assert "sha256:missing" in build(changed).signature


# Own metrics in this process: a metric that breaks the rules


class Wrong:
    name = "wrong"
    outputs = build("f1").outputs
    needs_reference = False
    signature = source = "wrong"

    def __init__(self, found):
        self.found = found

    def score(self, sample, answer):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (RuntimeError("broken"), "RuntimeError: broken"),
        ((Score(output="f2", value=1.0),), "other outputs than it declares"),
        ((), "other outputs than it declares"),
        ((Score(output="f1", value=float("nan")),), "not finite"),
        ((Score(output="f1", value=1.0, statistics=(float("inf"),)),), "not finite"),
    ],
)
def test_a_metric_that_misbehaves_is_contained(found, why):
    wrong, right = score([Wrong(found), build("exact_match")], item())
    assert (wrong.output, wrong.value, wrong.statistics) == ("f1", None, ())
    assert why in wrong.error
    assert right.value == 1.0


# What is left behind


async def test_closing_in_mid_batch_leaves_no_process(own):
    before = children()
    slow = own("import time\ndef score(*_): time.sleep(60)", timeout_s=120)
    async with Scorer([slow, "meteor"], processes=2) as scorer:
        task = asyncio.create_task(scorer.score(items(20)))
        while len(children() - before) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert children() == before


def scoring_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("scoring")]


async def test_closing_in_mid_batch_leaves_no_thread():
    many = [item("a cat sat " * 500, "the cat sat " * 500)] * 5_000
    async with Scorer(["rouge"], here_s=float("inf")) as scorer:
        task = asyncio.create_task(scorer.score(many))
        while not scoring_threads():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert scoring_threads() == []


async def test_a_cancelled_batch_does_not_leak_into_the_next(own):
    mine = own("import time\ndef score(a, *_): time.sleep(float(a) / 100); return float(a)")
    async with Scorer([mine]) as scorer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await scorer.score([item("20") for _ in range(10)])
        found = await scorer.score([item("1"), item("2")])
    assert [one[0].value for one in found] == [1.0, 2.0]


PARENT = """
import asyncio, sys
from evaluators.base import Answer, Sample, Scorable
from evaluators.execution.scoring import Scorer

async def main():
    some = [Scorable(Sample(id="1", messages=()), Answer(text="x"))] * 4
    async with Scorer([{"name": "file:" + path, "timeout_s": 600} for path in sys.argv[1:]]) as one:
        await one.score(some)

asyncio.run(main())
"""


def test_kill_9_of_the_parent_ends_the_workers(tmp_path):
    """One worker sleeps; the other holds the interpreter's lock in a regular expression."""
    bodies = ("import time; time.sleep(600)", "import re; re.match('(a|a|a)+$', 'a' * 60 + 'b')")
    paths, marks = [], []
    for at, body in enumerate(bodies):
        mark = tmp_path / f"pid{at}"
        path = tmp_path / f"metric{at}.py"
        path.write_text(
            f"import os\ndef score(*_):\n    open({str(mark)!r}, 'w').write(str(os.getpid()))\n"
            f"    {body}\n"
        )
        paths.append(str(path))
        marks.append(mark)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *paths])
    try:
        wait_for(lambda: all(mark.exists() and mark.read_text() for mark in marks))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    for mark in marks:
        wait_for(lambda mark=mark: is_gone(int(mark.read_text())))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"
