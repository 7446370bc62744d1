"""What a judge is asked, once; what is kept of its answers; what waiting for one of them means."""

from __future__ import annotations

import asyncio
import gc

import pytest
from servers import scripted

from evaluators.base import JudgeRequest
from providers.errors import StoreError
from router.config.schema import parse
from router.evals.judges.requests import JudgeClient
from router.evals.requests import EvalRequester
from router.services import Services
from router.store.sqlite import SqliteStore


def chat(logprobs):
    message = {"role": "assistant", "content": "[RESULT] 4"}
    return [{"body": {"choices": [{"message": message, "logprobs": logprobs}]}}]


def completion(logprobs):
    return [{"body": {"choices": [{"text": "4", "logprobs": logprobs}]}}]


def token(text, **alternatives):
    others = [{"token": name, "logprob": value} for name, value in alternatives.items()]
    return {"token": text, "logprob": 0, "top_logprobs": others}


MODELS = {
    "counting": [{"answer": "answer {n}"}],
    "late": [{"answer": "answer {n}", "delay_s": 0.1}],
    "silent": [{"fault": "hang"}],
    "chatty": chat({"content": [token(str(n), yes=-0.5, no=-1.5) for n in range(40)]}),
    "texts": completion(
        {
            "tokens": [str(n) for n in range(40)],
            "top_logprobs": [{"yes": -0.5} if n % 2 else None for n in range(40)],
        }
    ),
    "short-texts": completion({"tokens": ["a", "b", "c"], "top_logprobs": [{"yes": -0.5}]}),
    "texts-only": completion({"tokens": ["a"], "top_logprobs": None}),
    "empty": chat({"content": [], "top_logprobs": None}),
    "none": [
        {
            "body": {
                "choices": [{"message": {"content": 'it has "top_logprobs"'}, "logprobs": None}],
                "top_logprobs": None,
            }
        }
    ],
    "odd": chat({"content": "top", "top_logprobs": None}),
    "no-choices": [{"body": {"choices": [], "top_logprobs": None}}],
}


@pytest.fixture(scope="module")
def upstream():
    with scripted(MODELS) as server:
        yield server


@pytest.fixture
async def services(upstream, tmp_path):
    config = f"""
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}
"""
    async with Services(parse(config, "test.yaml", {})) as services:
        yield services


@pytest.fixture
def bench_of(services):
    """Makes benches, and collects what they were told to pay."""

    asker = EvalRequester(services.routes, services.dispatcher, services.prices, services.traffic)

    def make(owner="run_1", *, places=8, share=False, store=None, paid=None, now=1000.0):
        return JudgeClient(
            store or services.store,
            asker,
            owner,
            places=places,
            share=share,
            pay=(paid if paid is not None else []).append,
            clock=lambda: now,
        )

    return make


def inquiry(model="counting", about="a", **fields):
    message = {"role": "user", "content": about}
    given = {"metric": "m", "sample_id": about, "messages": (message,)} | fields
    return JudgeRequest(judge=f"up/{model}", **given)


def prompt(model):
    return inquiry(model, messages=(), prompt="Rate it.")


def received(upstream, model):
    return upstream.log.counts["models"].get(model, 0)


def open_at(upstream, model):
    return sum(one.model == model and one.outcome == "open" for one in upstream.log.requests)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


# One request for one judgement


@pytest.mark.parametrize("other", [{"repeat": 1}, {"attempt": 1}, {"about": "b"}])
async def test_equal_inquiries_at_a_time_are_one_request_and_others_are_not(
    bench_of, upstream, other
):
    before, paid = received(upstream, "late"), []
    bench = bench_of(paid=paid)
    first, second, third = await asyncio.gather(
        bench(inquiry("late")), bench(inquiry("late")), bench(inquiry("late", **other))
    )
    assert first == second
    assert third.answer.text != first.answer.text
    assert received(upstream, "late") - before == len(paid) == 2


@pytest.mark.parametrize("other", [{"repeat": 1}, {"attempt": 1}])
async def test_a_kept_judgement_is_that_of_its_repeat_and_attempt(bench_of, other):
    bench, paid = bench_of(), []
    first = await bench(inquiry())
    second = await bench(inquiry(**other))
    again = bench_of(paid=paid)
    assert [await again(inquiry()), await again(inquiry(**other))] == [first, second]
    assert first.answer.text != second.answer.text
    assert paid == []


async def test_what_is_kept_names_the_inquiry(bench_of, services):
    await bench_of(now=12.0)(inquiry(about="x", metric="quality", repeat=2, attempt=3))
    [(_, row)] = await services.store.judgements("run_1")
    assert (row.judge, row.metric, row.sample_id) == ("up/counting", "quality", "x")
    assert (row.repeat, row.attempt, row.at, row.reused) == (2, 3, 12.0, False)


async def test_what_another_run_paid_for_is_kept_once_for_each_that_reuses_it(bench_of, services):
    first = await bench_of("run_1")(inquiry())
    paid = []
    for bench in (bench_of("run_2", share=True, paid=paid), bench_of("run_2", paid=paid, now=9.0)):
        assert await bench(inquiry()) == first
    assert paid == []
    [(_, row)] = await services.store.judgements("run_2")
    assert (row.reused, row.at) == (True, 1000.0)
    assert await bench_of("run_3", paid=paid)(inquiry()) != first
    assert len(paid) == 1


async def test_no_more_requests_are_under_way_than_there_are_places(bench_of, upstream):
    bench = bench_of(places=2)
    task = asyncio.gather(*(bench(inquiry("late", about=str(n))) for n in range(6)))
    most = 0
    while not task.done():
        most = max(most, open_at(upstream, "late"))
        await asyncio.sleep(0.005)
    await task
    assert most == 2


# Waiting


async def test_who_stops_waiting_stops_nobody_else(bench_of, upstream):
    bench = bench_of()
    before = received(upstream, "late")
    first = asyncio.create_task(bench(inquiry("late", about="w")))
    await until(lambda: received(upstream, "late") > before)
    waiting = asyncio.create_task(bench(inquiry("late", about="w")))
    await asyncio.sleep(0)
    waiting.cancel()
    assert (await first).answer.text
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_who_waits_for_a_request_that_is_cancelled_does_not_wait_for_good(bench_of, upstream):
    bench = bench_of()
    before = received(upstream, "silent")
    first = asyncio.create_task(bench(inquiry("silent")))
    await until(lambda: received(upstream, "silent") > before)
    waiting = asyncio.create_task(bench(inquiry("silent")))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first, waiting})
    assert first.cancelled()
    assert waiting.cancelled()


async def test_all_who_wait_learn_what_went_wrong_and_the_next_is_asked_anew(bench_of, tmp_path):
    store = SqliteStore(tmp_path / "other.db")
    bench = bench_of(store=store)
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    found = await asyncio.gather(bench(inquiry()), bench(inquiry()), return_exceptions=True)
    assert [type(one) for one in found] == [StoreError, StoreError]
    with pytest.raises(StoreError):
        await bench(inquiry())
    gc.collect()
    await asyncio.sleep(0)
    assert told == []
    await store.open()
    try:
        assert (await bench(inquiry())).answer.text
    finally:
        await store.close()


# Probabilities


async def test_the_last_tokens_of_a_chat_are_kept_with_their_alternatives(bench_of):
    found = await bench_of()(inquiry("chatty"))
    assert found.tokens == tuple((str(n), {"yes": -0.5, "no": -1.5}) for n in range(8, 40))


async def test_the_last_tokens_of_a_completion_are_kept_with_their_alternatives(bench_of):
    found = await bench_of()(prompt("texts"))
    assert found.tokens == tuple((str(n), {"yes": -0.5} if n % 2 else {}) for n in range(8, 40))


async def test_tokens_without_their_own_alternatives_are_left_out(bench_of):
    assert (await bench_of()(prompt("short-texts"))).tokens == (("a", {"yes": -0.5}),)
    assert (await bench_of()(prompt("texts-only"))).tokens == ()


@pytest.mark.parametrize("model", ["empty", "none", "odd"])
async def test_a_host_without_probabilities_still_gives_a_verdict(bench_of, model):
    found = await bench_of()(inquiry(model))
    assert found.answer.error is None
    assert found.tokens == ()


async def test_an_answer_without_choices_is_a_failure(bench_of):
    found = await bench_of()(inquiry("no-choices"))
    assert found.answer.text is None
    assert found.tokens == ()
