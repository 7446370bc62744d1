"""What a judge is asked, once; what is kept of its answers; what waiting for one of them means."""

from __future__ import annotations

import asyncio
import gc

import pytest
from servers import scripted

from evaluators.base import JudgeRequest
from providers.errors import StoreError
from router.config.loading import parse
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
def client_of(services):
    """Makes clients, and collects what they were told to pay."""

    requester = EvalRequester(
        services.routes, services.dispatcher, services.prices, services.traffic
    )

    def make(owner="run_1", *, concurrency=8, share=False, store=None, paid=None, now=1000.0):
        return JudgeClient(
            store or services.store,
            requester,
            owner,
            concurrency=concurrency,
            share=share,
            pay=(paid if paid is not None else []).append,
            clock=lambda: now,
        )

    return make


def request(model="counting", about="a", **fields):
    message = {"role": "user", "content": about}
    given = {"metric": "m", "sample_id": about, "messages": (message,)} | fields
    return JudgeRequest(judge=f"up/{model}", **given)


def prompt(model):
    return request(model, messages=(), prompt="Rate it.")


def received(upstream, model):
    return upstream.log.counts["models"].get(model, 0)


def open_at(upstream, model):
    return sum(one.model == model and one.outcome == "open" for one in upstream.log.requests)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


# One request for one judgement


@pytest.mark.parametrize("other", [{"repeat": 1}, {"attempt": 1}, {"about": "b"}])
async def test_equal_requests_at_a_time_are_one_request_and_others_are_not(
    client_of, upstream, other
):
    before, paid = received(upstream, "late"), []
    client = client_of(paid=paid)
    first, second, third = await asyncio.gather(
        client(request("late")), client(request("late")), client(request("late", **other))
    )
    assert first == second
    assert third.answer.text != first.answer.text
    assert received(upstream, "late") - before == len(paid) == 2


@pytest.mark.parametrize("other", [{"repeat": 1}, {"attempt": 1}])
async def test_a_kept_judgement_is_that_of_its_repeat_and_attempt(client_of, other):
    client, paid = client_of(), []
    first = await client(request())
    second = await client(request(**other))
    again = client_of(paid=paid)
    assert [await again(request()), await again(request(**other))] == [first, second]
    assert first.answer.text != second.answer.text
    assert paid == []


async def test_what_is_kept_names_the_request(client_of, services):
    await client_of(now=12.0)(request(about="x", metric="quality", repeat=2, attempt=3))
    [(_, row)] = await services.store.judgements("run_1")
    assert (row.judge, row.metric, row.sample_id) == ("up/counting", "quality", "x")
    assert (row.repeat, row.attempt, row.at, row.reused) == (2, 3, 12.0, False)


async def test_what_another_run_paid_for_is_kept_once_for_each_that_reuses_it(client_of, services):
    first = await client_of("run_1")(request())
    paid = []
    for client in (
        client_of("run_2", share=True, paid=paid),
        client_of("run_2", paid=paid, now=9.0),
    ):
        assert await client(request()) == first
    assert paid == []
    [(_, row)] = await services.store.judgements("run_2")
    assert (row.reused, row.at) == (True, 1000.0)
    assert await client_of("run_3", paid=paid)(request()) != first
    assert len(paid) == 1


async def test_no_more_requests_are_under_way_than_the_limit_allows(client_of, upstream):
    client = client_of(concurrency=2)
    task = asyncio.gather(*(client(request("late", about=str(n))) for n in range(6)))
    most = 0
    while not task.done():
        most = max(most, open_at(upstream, "late"))
        await asyncio.sleep(0.005)
    await task
    assert most == 2


# Waiting


async def test_who_stops_waiting_stops_nobody_else(client_of, upstream):
    client = client_of()
    before = received(upstream, "late")
    first = asyncio.create_task(client(request("late", about="w")))
    await until(lambda: received(upstream, "late") > before)
    waiting = asyncio.create_task(client(request("late", about="w")))
    await asyncio.sleep(0)
    waiting.cancel()
    assert (await first).answer.text
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_who_asked_first_may_stop_waiting_and_the_others_still_get_the_answer(
    client_of, upstream
):
    paid = []
    client = client_of(paid=paid)
    before = received(upstream, "late")
    first = asyncio.create_task(client(request("late", about="f")))
    await until(lambda: received(upstream, "late") > before)
    waiting = asyncio.create_task(client(request("late", about="f")))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await waiting).answer.text
    assert received(upstream, "late") - before == len(paid) == 1


async def test_a_request_is_cancelled_once_nobody_waits_for_it(client_of, upstream):
    client = client_of()
    before = received(upstream, "silent")
    callers = [asyncio.create_task(client(request("silent")))]
    await until(lambda: received(upstream, "silent") > before)
    callers.append(asyncio.create_task(client(request("silent"))))
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    assert all(caller.cancelled() for caller in callers)
    await until(lambda: not open_at(upstream, "silent"))


async def test_who_comes_after_a_cancelled_request_is_answered_by_one_of_its_own(
    client_of, upstream
):
    client = client_of()
    before = received(upstream, "late")
    first = asyncio.create_task(client(request("late", about="n")))
    await until(lambda: received(upstream, "late") > before)
    first.cancel()
    # The cancelled request has not ended yet.
    await asyncio.sleep(0)
    assert (await client(request("late", about="n"))).answer.text
    assert first.cancelled()
    assert received(upstream, "late") - before == 2


async def test_all_who_wait_learn_what_went_wrong_and_the_next_is_asked_anew(client_of, tmp_path):
    store = SqliteStore(tmp_path / "other.db")
    client = client_of(store=store)
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    found = await asyncio.gather(client(request()), client(request()), return_exceptions=True)
    assert [type(one) for one in found] == [StoreError, StoreError]
    with pytest.raises(StoreError):
        await client(request())
    gc.collect()
    await asyncio.sleep(0)
    assert told == []
    await store.open()
    try:
        assert (await client(request())).answer.text
    finally:
        await store.close()


# Probabilities


async def test_the_last_tokens_of_a_chat_are_kept_with_their_alternatives(client_of):
    found = await client_of()(request("chatty"))
    assert found.tokens == tuple((str(n), {"yes": -0.5, "no": -1.5}) for n in range(8, 40))


async def test_the_last_tokens_of_a_completion_are_kept_with_their_alternatives(client_of):
    found = await client_of()(prompt("texts"))
    assert found.tokens == tuple((str(n), {"yes": -0.5} if n % 2 else {}) for n in range(8, 40))


async def test_tokens_without_their_own_alternatives_are_left_out(client_of):
    assert (await client_of()(prompt("short-texts"))).tokens == (("a", {"yes": -0.5}),)
    assert (await client_of()(prompt("texts-only"))).tokens == ()


@pytest.mark.parametrize("model", ["empty", "none", "odd"])
async def test_a_host_without_probabilities_still_gives_a_verdict(client_of, model):
    found = await client_of()(request(model))
    assert found.answer.error is None
    assert found.tokens == ()


async def test_an_answer_without_choices_is_a_failure(client_of):
    found = await client_of()(request("no-choices"))
    assert found.answer.text is None
    assert found.tokens == ()
