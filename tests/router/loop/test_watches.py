"""Watches of scripted hosts, whose model, texts or log probabilities change at a known moment."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import msgspec
import pytest
from click.testing import CliRunner
from drifting_hosts import body, noisy

from evaluators.stats.drift import MAX_TOKENS, DriftTest, alpha_of
from providers.errors import ConfigError, ConflictError, DatasetError, NotFoundError, RequestError
from providers.offline.scripted import Script, ScriptedServer
from router.cli import main
from router.config.loading import parse
from router.config.watches import FEWEST_PERIODS, FEWEST_PROBES
from router.datasets.registry import Lineage
from router.evals.lease import this_owner
from router.evals.requests import EvalRequester
from router.gateway.answer_counts import AnswerCounts
from router.loop.watch_alerts import DriftSource
from router.loop.watch_comparison import anchors_of
from router.loop.watches import Watches, WatchPin
from router.records import Record, Target
from router.services import Services
from router.store.lineage import RowSource
from router.store.sqlite import SqliteStore
from router.store.traffic import TrafficFilter

CONFIG = """
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: k}}
prices: {{up/a: {{input: 1, output: 1}}}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
watches:
  nightly: {watch}
"""
# A threshold of 4 / 2, so that few probes are enough.
QUICK = "{target: up/a, prompts: [x], repeats: 1, reference_probes: 6, alpha: 0.5, live: null"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def watched(tmp_path, rules: list, watch: str = QUICK + "}", sleep=asyncio.sleep):
    script = msgspec.convert({"models": {"a": rules}}, Script)
    async with ScriptedServer(script, sleep=sleep) as upstream:
        text = CONFIG.format(url=upstream.url, folder=tmp_path, watch=watch)
        async with Services(parse(text, "c.yaml", {})) as parts:
            parts.upstream = upstream
            yield parts


async def probe(parts, times: int) -> list:
    return [await parts.watches.probe("nightly") for _ in range(times)]


async def conditions(parts) -> list:
    return await DriftSource(parts.watches.views).conditions()


async def test_a_model_that_is_swapped_is_found_and_a_new_reference_ends_that(tmp_path):
    rules = [*noisy(20), *noisy(30, shift=1.0, seed=2, model="a-2")]
    async with watched(tmp_path, rules) as parts:
        first = await probe(parts, 1)
        view = await parts.watches.view("nightly")
        assert (first[0].kind, view.state, view.threshold) == ("anchor", "learning", 4.0)
        quiet = await probe(parts, 19)
        assert [each.kind for each in quiet[:6]] == ["held_out"] * 5 + ["probe"]
        view = await parts.watches.view("nightly")
        assert (view.state, view.changes, await conditions(parts)) == ("quiet", [], [])

        found = await probe(parts, 12)
        report = await parts.watches.report("nightly", limit=3)
        assert report.state == "drift"
        assert report.reference.drift_signal == "probe"
        assert report.reference.drift_at >= found[0].at
        assert len(report.probes) == 3
        assert report.probes[0].e_value >= report.threshold
        [furthest] = report.probes[0].detail["furthest"]
        assert furthest["id"] == "prompt 1"
        assert furthest["answer"]["a"] < furthest["reference"]["a"] - 0.5
        # The probes' own requests are among what is counted of versions.
        await parts.traffic.close()
        await parts.answer_counts.flush()
        [change] = (await parts.watches.view("nightly")).changes
        assert (change.what, change.name) == ("model", "a-2")
        told = {each.labels["signal"]: each for each in await conditions(parts)}
        assert set(told) == {"probe", "model"}
        assert told["probe"].link == "/watches/nightly"

        # Nothing is said any more of what was before.
        with pytest.raises(RequestError, match="reason"):
            await parts.watches.pin("nightly", WatchPin(reason=" "), "ann")
        view = await parts.watches.pin("nightly", WatchPin(reason="a-2 is wanted"), "ann")
        assert (view.state, view.reference.number, view.threshold) == ("learning", 2, 12.0)
        assert (view.reference.created_by, view.reference.reason) == ("ann", "a-2 is wanted")
        await probe(parts, 10)
        view = await parts.watches.view("nightly")
        assert (view.state, view.changes) == ("quiet", [])
        assert view.spent_today_usd == pytest.approx(42 * 6e-6)


async def test_texts_that_change_are_found(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"input": "What is x?"}\n{"input": "And y?"}\n')
    answers = ["It is the number one.", "It is the number one, of course."]
    rules = [
        {"times": 40, "answers": answers},
        {"answer": "I cannot say what that may be."},
    ]
    watch = QUICK.replace("prompts: [x]", f"dataset: {tmp_path}/rows.jsonl") + "}"
    async with watched(tmp_path, rules, watch) as parts:
        quiet = await probe(parts, 20)
        assert (await parts.watches.view("nightly")).state == "quiet"
        assert quiet[-1].requests == quiet[-1].answered == 2
        await probe(parts, 10)
        report = await parts.watches.report("nightly")
        assert report.state == "drift"
        shown = report.probes[0].detail["furthest"][0]
        assert shown["answer"] == "I cannot say what that may be."
        assert shown["reference"] in answers
        sent = msgspec.json.decode(parts.upstream.log.requests[0].body)
        assert (sent["temperature"], sent["messages"][0]["content"]) == (0, "What is x?")

        # Another dataset is another question, which nothing is known of.
        (tmp_path / "rows.jsonl").write_text('{"input": "What is z?"}\n')
        [after] = await probe(parts, 1)
        view = await parts.watches.view("nightly")
        assert (after.kind, view.reference.number, view.state) == ("anchor", 2, "learning")
        assert "changed" in view.reference.reason


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"status": 400}, "scripted error 400"),
        ({"body": body(None)}, "no log probabilities"),
        ({"body": body(None) | {"choices": []}}, "no choices"),
        ({"body": body({"a": "NaN"})}, "no log probabilities"),
        ({"body": body({"a": 5.0})}, "no log probabilities"),
        ({"body": msgspec.json.encode(body({"a": 0.5})).decode().replace("0.5", "NaN")}, "up/a"),
        ({"fault": "reset"}, "up"),
    ],
)
async def test_no_data_is_neither_a_pass_nor_a_drift(tmp_path, rule, why):
    rules = [*noisy(8), {"times": 50} | rule]
    async with watched(tmp_path, rules) as parts:
        await probe(parts, 8)
        before = (await parts.watches.view("nightly")).signals
        [missing] = await probe(parts, 1)
        assert missing.kind == "missing"
        assert missing.answered == 0
        assert missing.e_value is None
        assert why in missing.why
        view = await parts.watches.view("nightly")
        assert (view.state, view.signals) == ("no_data", before)
        assert view.why == missing.why
        [condition] = await conditions(parts)
        assert condition.labels["signal"] == "no_data"


async def test_giant_lists_of_log_probabilities_are_bounded(tmp_path):
    many = {f"t{n}": -0.001 * n for n in range(20_000)} | {"hardly": -9999.0, "impossible": 7.0}
    rules = [{"body": body(many, system_fingerprint="f" * 100_000)}]
    async with watched(tmp_path, rules) as parts:
        [first] = await probe(parts, 1)
        assert first.kind == "anchor"
        assert len(first.system_fingerprint) <= 200
        reference = await parts.store.watch_reference("nightly")
        [anchor] = reference.anchor["prompts"]
        assert len(anchor["tokens"]) == MAX_TOKENS
        assert "impossible" not in anchor["tokens"]
        again = await probe(parts, 6)
        assert {each.distance for each in again} == {0.0}


async def test_a_quiet_watch_says_that_the_host_names_another_model(tmp_path):
    rules = [*noisy(12), *noisy(6, seed=3, model="a-2")]
    async with watched(tmp_path, rules) as parts:
        await probe(parts, 9)
        view = await parts.watches.view("nightly")
        assert (view.state, view.why) == ("quiet", "")
        await parts.traffic.close()
        await parts.answer_counts.flush()
        counts = AnswerCounts(parts.store)
        later = await parts.store.now() + 1
        record = Record(id="1", at=later, target=Target("up", "a"), status=200, model="a-2")
        counts.add(record)
        await counts.flush()
        view = await parts.watches.view("nightly")
        assert (view.state, view.why) == ("quiet", "but the host names another model")
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(url="http://127.0.0.1:9", folder=tmp_path, watch=QUICK + "}"))
    command = ["drift", "report", "nightly", "--config", str(config)]
    shown = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert shown.exit_code == 0, shown.output
    assert "quiet, but the host names another model" in shown.output


async def test_a_host_that_names_another_model_each_time_is_bounded(tmp_path):
    rules = [rule for n in range(60) for rule in noisy(1, seed=n, model=f"m{n}" + "x" * 1000)]
    async with watched(tmp_path, rules) as parts:
        await probe(parts, 6)
        await parts.traffic.close()
        counts = AnswerCounts(parts.store)
        target = Target("up", "a")
        for n in range(3000):
            record = Record(id=str(n), at=5.0, target=target, status=200, model=f"other {n}")
            counts.add(record)
        await counts.flush()
        view = await parts.watches.view("nightly")
        assert view.unstable
        assert view.changes == []
        rows = await parts.store.model_versions("up/a")
        assert sum(row.requests for row in rows) >= 3000
        assert len(rows) <= 201
        assert all(len(row.model) <= 120 for row in rows)


async def test_probes_stop_when_the_days_money_is_spent(tmp_path):
    watch = QUICK + ", limits: {usd_per_day: 0.00001}}"
    async with watched(tmp_path, noisy(9), watch) as parts:
        probes = await probe(parts, 3)
        assert [each.kind for each in probes] == ["anchor", "held_out", "missing"]
        assert "spent" in probes[2].why
        assert probes[2].requests == 0


async def test_a_deletion_takes_the_answers_of_a_reference(tmp_path):
    watch = QUICK.replace("prompts: [x]", "dataset: own") + "}"
    async with watched(tmp_path, [{"answer": "secret"}], watch) as parts:
        await copied(parts, tmp_path)
        await probe(parts, 3)
        reference = await parts.store.watch_reference("nightly")
        assert "secret" in str(reference.anchor)
        await parts.deletion.delete(TrafficFilter(user="ann"))
        assert "secret" not in str(await parts.watches.report("nightly"))
        await probe(parts, 1)
        view = await parts.watches.view("nightly")
        assert view.reference.number == 2
        assert "changed" in view.reference.reason


@pytest.mark.parametrize(("before", "lost"), [(0, False), (2, False), (0, True)])
async def test_a_deletion_reaches_a_probe_that_is_in_flight(tmp_path, before, lost):
    """Also where the dataset's file is gone."""
    watch = QUICK.replace("prompts: [x]", "dataset: own") + "}"
    rules = [
        {"times": 2 * before, "answer": "secret"},
        {"times": 2, "answer": "secret", "delay_s": 1},
        {"answer": "public"},
    ]
    deleted = asyncio.Event()

    async def until_deleted(_) -> None:
        await deleted.wait()

    rules = rules if before else rules[1:]
    async with watched(tmp_path, rules, watch, sleep=until_deleted) as parts:
        await copied(parts, tmp_path)
        await probe(parts, before)
        sending = asyncio.create_task(parts.watches.probe("nightly"))
        while len(parts.upstream.log.requests) < 2 * before + 1:
            await asyncio.sleep(0)
        if lost:
            row = await parts.datasets.find("own")
            await parts.datasets.artifacts.delete(row.path)
        done = await parts.deletion.delete(TrafficFilter(user="ann"))
        assert done.complete
        deleted.set()
        last = await sending
        assert (last.kind, last.requests, last.detail) == ("missing", 2, {})
        assert "deleted while" in last.why
        assert (await parts.watches.view("nightly")).state == "no_data"
        present = await parts.store.watch_reference("nightly")
        probes = await parts.store.watch_probes("nightly")
        assert "secret" not in str([present, probes])
        if not lost:
            await probe(parts, 1)
            assert (await parts.watches.view("nightly")).reference.number == 2


async def copied(parts, tmp_path) -> None:
    """Register two rows that were copied from requests of two users."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "1", "input": "x"}\n{"id": "2", "input": "y"}\n')
    users = {"1": "ann", "2": "bob"}
    sources = [RowSource(row=n, id=n, at=1.0, user=user) for n, user in users.items()]
    await parts.datasets.derive(
        path, name="own", source="requests", provenance={}, lineage=Lineage(sources=sources)
    )


async def test_a_watch_whose_dataset_is_gone_has_no_data(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"input": "x"}\n')
    watch = QUICK.replace("prompts: [x]", f"dataset: {tmp_path}/rows.jsonl") + "}"
    async with watched(tmp_path, [{"answer": "a"}], watch) as parts:
        await probe(parts, 8)
        assert (await parts.watches.view("nightly")).state == "quiet"
        for text in (None, '{"input": 5', ""):
            (tmp_path / "rows.jsonl").unlink(missing_ok=True)
            if text is not None:
                (tmp_path / "rows.jsonl").write_text(text)
            with pytest.raises(DatasetError) as failed:
                await parts.watches.probe("nightly")
            report = await parts.watches.report("nightly", limit=1)
            assert (report.state, report.why) == ("no_data", failed.value.message)
            assert (report.probes[0].kind, report.probes[0].why) == ("missing", report.why)
            [condition] = await conditions(parts)
            assert condition.labels["signal"] == "no_data"
            assert report.why in condition.summary
        await parts.watches.run_once()
        assert parts.watches.states() == [(("nightly", "no_data"), 1.0)]
        # It goes on where it was.
        (tmp_path / "rows.jsonl").write_text('{"input": "x"}\n')
        await probe(parts, 1)
        view = await parts.watches.view("nightly")
        assert (view.state, view.reference.number, view.signals[0].values) == ("quiet", 1, 3)


async def test_a_watch_that_could_never_be_probed_has_no_data(tmp_path):
    watch = QUICK.replace("prompts: [x]", "dataset: nowhere.jsonl") + "}"
    async with watched(tmp_path, noisy(1), watch) as parts:
        assert (await parts.watches.view("nightly")).state == "learning"
        with pytest.raises(DatasetError):
            await parts.watches.probe("nightly")
        view = await parts.watches.view("nightly")
        assert view.state == "no_data"
        assert "nowhere.jsonl" in view.why


async def test_names_that_do_not_exist(tmp_path):
    async with watched(tmp_path, noisy(1)) as parts:
        with pytest.raises(NotFoundError, match="Did you mean 'nightly'"):
            await parts.watches.probe("nightl")
    missing = QUICK.replace("prompts: [x]", "dataset: nowhere.jsonl") + "}"
    async with watched(tmp_path, noisy(1), missing) as parts:
        with pytest.raises(DatasetError):
            await parts.watches.probe("nightly")
    (tmp_path / "empty.jsonl").write_text("")
    empty = QUICK.replace("prompts: [x]", f"dataset: {tmp_path}/empty.jsonl") + "}"
    async with watched(tmp_path, noisy(1), empty) as parts:
        with pytest.raises(DatasetError):
            await parts.watches.probe("nightly")


@pytest.mark.parametrize(
    ("watch", "why"),
    [
        ("{target: nobody/a}", "no provider 'nobody'"),
        ("{target: chats}", "neither a route nor provider/model"),
        ("{target: many}", "has several targets"),
        ("{target: up/a, dataset: d, prompts: [x]}", "a dataset or prompts, not both"),
        ("{target: up/a, cron: '61 * * * *'}", "cron"),
        ("{target: up/a, cron: '0 0 31 2 *'}", "never due"),
        ("{target: up/a, timezone: Mars/Olympus}", "no time zone"),
        ("{target: up/a, compare: text, similarity: length}", "does not compare"),
        ("{target: up/a, compare: text, similarity: nothing}", "nothing"),
        ("{target: up/a, prompts: []}", "prompts"),
        ("{target: up/a, alpha: 0}", "alpha"),
        ("{target: up/a, live: {signals: [cost, cost]}}", "named twice"),
        ("{target: up/a, alhpa: 0.1}", "alhpa"),
    ],
)
def test_mistakes_in_the_config_are_named(watch, why):
    text = CONFIG.format(url="http://127.0.0.1:9/v1", folder=".", watch=watch)
    routes = "routes:\n  many: {targets: [{model: up/a}, {model: up/b}]}\n  chat: {targets: "
    with pytest.raises(ConfigError, match=why):
        parse(text + routes + "[{model: up/a}]}\n", "c.yaml", {})


# timing: two processes on one database


@asynccontextmanager
async def two(tmp_path, rules):
    """The watches of two processes on a database whose clock goes on when a test says so."""
    clock = Clock()
    async with watched(tmp_path, rules, QUICK + ", cron: '0 * * * *'}") as parts:
        requester = EvalRequester(parts.routes, parts.dispatcher, parts.prices, parts.traffic)
        stores = [SqliteStore(tmp_path / "shared.db", clock=clock) for _ in range(2)]
        for store in stores:
            await store.open()
        yield (
            clock,
            [
                Watches(
                    store,
                    parts.datasets,
                    requester,
                    parts.routes,
                    parts.config.watches,
                    owner=f"{this_owner()}-{n}",
                )
                for n, store in enumerate(stores)
            ],
            parts,
        )
        for store in stores:
            await store.close()


async def test_each_time_is_probed_once_by_all_processes(tmp_path):
    async with two(tmp_path, noisy(20)) as (clock, processes, parts):
        for hour in range(4):
            for _ in range(3):
                for process in processes:
                    await process.run_once()
                for process in processes:
                    await process.idle()
            assert len(parts.upstream.log.requests) == hour
            clock.now += 3600
        # Nobody was there for a day: the last time is caught up with, and the others are missed.
        clock.now += 86_400
        for process in processes:
            await process.run_once()
            await process.idle()
        assert len(parts.upstream.log.requests) == 4
        states = [each.state for each in await parts_occurrences(processes)]
        assert states.count("completed") == 4
        assert states.count("missed") == 24


async def parts_occurrences(processes):
    return await processes[0]._store.occurrences("watch", "nightly", limit=200)


async def test_a_probe_whose_process_died_is_sent_by_another(tmp_path):
    async with two(tmp_path, noisy(20)) as (clock, (first, second), parts):
        await first.run_once()
        clock.now += 3600
        store = SqliteStore(tmp_path / "shared.db", clock=clock)
        await store.open()
        due = clock.now // 3600 * 3600
        assert await store.claim_occurrence("watch", "nightly", due, "dead", 30.0)
        await second.run_once()
        await second.idle()
        assert len(parts.upstream.log.requests) == 0
        with pytest.raises(ConflictError, match="right now"):
            await second.probe("nightly")
        clock.now += 31
        await second.run_once()
        await second.idle()
        assert len(parts.upstream.log.requests) == 1
        await store.close()


# live signals


async def live_day(parts, clock, *, refused: int, tokens: int = 50, dollars: float = 0.01) -> None:
    """A day of a hundred requests, and what a server does after it."""
    counts = AnswerCounts(parts.store)
    for n in range(100):
        counts.add(
            Record(
                id=f"{clock.now}-{n}",
                at=clock.now + 600 * n,
                target=Target("up", "a"),
                status=200,
                model="a-1",
                finish_reason="content_filter" if n < refused else "stop",
                completion_tokens=tokens,
                cost_usd=dollars,
            )
        )
    await counts.flush()
    clock.now += 86_400


async def test_live_signals_are_compared_day_by_day(tmp_path):
    clock = Clock()
    clock.now = clock.now // 86_400 * 86_400
    watch = QUICK.replace("live: null", "live: {periods: 8, signals: [refusals, cost]}") + "}"
    draws = random.Random(3)
    async with watched(tmp_path, noisy(9), watch) as parts:
        await parts.store.close()
        parts.store = SqliteStore(tmp_path / "live.db", clock=clock)
        await parts.store.open()
        requester = EvalRequester(parts.routes, parts.dispatcher, parts.prices, parts.traffic)
        watches = Watches(
            parts.store,
            parts.datasets,
            requester,
            parts.routes,
            parts.config.watches,
            owner=this_owner(),
        )
        await watches.probe("nightly")
        for _ in range(20):
            await live_day(parts, clock, refused=draws.randint(1, 4))
        clock.now += 100
        await watches.run_once()
        view = await watches.view("nightly")
        assert view.reference.drift_at is None
        refusals = view.signals[1]
        assert (refusals.signal, refusals.of_reference, refusals.values) == ("refusals", 9, 11)
        clock.now -= 100
        for _ in range(8):
            await live_day(parts, clock, refused=30)
        # A day without requests says nothing.
        clock.now += 86_500
        await watches.run_once()
        view = await watches.view("nightly")
        assert (view.state, view.reference.drift_signal) == ("drift", "refusals")
        assert view.signals[2].e_value < view.threshold
        [newest] = await parts.store.watch_probes("nightly", signal="refusals", limit=1)
        assert (newest.kind, newest.why) == ("missing", "0 of the 30 answers that a period needs")
        await watches.close()


def found(held_out: int, seed: int) -> bool:
    """Whether the largest change right after the reference is found, at the default levels."""
    draws = random.Random(seed)
    test = DriftTest()
    for _ in range(held_out):
        test.add(draws.random(), tie=draws.random())
    threshold = 1 / alpha_of(0.01 / 5, 1)
    changed = (test.add(10 + draws.random(), tie=draws.random()) for _ in range(300))
    return any(evidence.e_value >= threshold for evidence in changed)


def test_a_small_reference_hides_a_change_right_after_it():
    """So `evalrouter config check` warns of fewer: 15 probes have 12 that are held out."""
    enough, few = (
        sum(found(held_out, seed) for seed in range(40)) for held_out in (FEWEST_PERIODS, 5)
    )
    assert FEWEST_PROBES - anchors_of(FEWEST_PROBES) == FEWEST_PERIODS
    assert enough >= 38
    assert few <= 20


@pytest.mark.parametrize(
    ("watch", "warned"),
    [
        ("{target: up/a}", []),
        ("{target: up/a, live: null, reference_probes: 15}", []),
        ("{target: up/a, reference_probes: 14}", ["reference_probes: with 14"]),
        (
            "{target: up/a, reference_probes: 6, live: {periods: 6}}",
            ["reference_probes: with 6", "live.periods: with 6"],
        ),
    ],
)
def test_references_that_are_too_small_are_warned_of(tmp_path, watch, warned):
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(url="http://127.0.0.1:9", folder=tmp_path, watch=watch))
    checked = CliRunner().invoke(main, ["config", "check", str(config)])
    assert checked.exit_code == 0, checked.output
    assert checked.stderr.count("watches.nightly") == len(warned)
    for text in warned:
        assert text in checked.stderr
