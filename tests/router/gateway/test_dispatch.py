"""The retry loop, against scripted providers in this process and with time in the test's hands."""

import asyncio

import msgspec
import pytest

from providers.errors import (
    ClientGoneError,
    TargetBusyError,
    UpstreamConnectError,
    UpstreamProtocolError,
    UpstreamStatusError,
    UpstreamTimeoutError,
)
from providers.offline.scripted import Rule, Scripted, ScriptedConfig
from router.config.routes import Breaker, Hedge, Retries
from router.gateway.dispatch import Dispatcher
from router.gateway.routing import MAX_TARGETS, ConcurrencyLimit, Plan, Policy, TimeLimits
from router.gateway.upstream import UpstreamRequest, clock
from router.records import Target

MESSAGES = {"messages": msgspec.Raw(b'[{"role": "user", "content": "hi"}]')}


class World:
    """A dispatcher over scripted models `p/NAME`, its waits noted instead of slept.

    Attributes:
        gate: while it is cleared, models that take their time do not go on.
    """

    def __init__(self, **models):
        script = {name: tuple(Rule(**rule) for rule in rules) for name, rules in models.items()}
        self.requested = []
        self.waits = []
        self.gate = asyncio.Event()
        self.gate.set()
        config = ScriptedConfig(kind="scripted", script=script)
        self.provider = Scripted("p", config, sleep=self.take_time)
        self.dispatcher = Dispatcher(
            {"p": self}, sleep=self.sleep, random=lambda: 1.0, now=lambda: 1_000_000.0
        )

    async def send(self, call):
        self.requested.append(call.model)
        return await self.provider.send(call)

    async def sleep(self, seconds):
        self.waits.append(seconds)

    async def open(self, *names, stream=False, traffic_class="live", started=None, **policy):
        targets = tuple(Target("p", name) for name in names)
        envelope = MESSAGES | {"stream": msgspec.Raw(b"true" if stream else b"false")}
        request = UpstreamRequest(
            "chat/completions", envelope, stream, "id", traffic_class, started=started
        )
        return await self.dispatcher.open(Plan("r", targets, Policy(**policy)), request)

    async def text(self, *names, **policy):
        response = await self.open(*names, **policy)
        await response.aclose()
        return msgspec.json.decode(response.body)["choices"][0]["message"]["content"]

    def results(self, attempts):
        return [(one.target[2:], one.result) for one in attempts]

    async def take_time(self, seconds):
        if self.gate.is_set():
            await asyncio.sleep(seconds)
        await self.gate.wait()

    def running(self):
        return sum(one.running for one in self.dispatcher.states())

    async def until_running(self, count):
        while self.running() != count:
            await asyncio.sleep(0)


OK = {"answer": "ok"}
HANG = {"fault": "hang"}


async def test_backoff_doubles_with_full_jitter_up_to_its_bound():
    world = World(m=[{"status": 500, "times": 4}, OK])
    assert await world.text("m", retries=Retries(attempts=5, backoff=1, backoff_max=3)) == "ok"
    assert world.waits == [1, 2, 3, 3]
    assert world.running() == 0


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_these_are_retried(status):
    world = World(m=[{"status": status, "times": 1}, OK])
    assert await world.text("m") == "ok"
    assert world.requested == ["m", "m"]


@pytest.mark.parametrize("status", [400, 405, 413, 415, 418, 422])
async def test_a_clients_mistake_is_final(status):
    world = World(m=[{"status": status}], n=[OK])
    with pytest.raises(UpstreamStatusError) as caught:
        await world.open("m", "n")
    assert caught.value.status == status
    assert world.requested == ["m"]
    assert world.running() == 0


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_what_speaks_of_our_key_is_tried_elsewhere_at_once(status):
    world = World(m=[{"status": status}], n=[OK])
    assert await world.text("m", "n") == "ok"
    assert world.requested == ["m", "n"]


@pytest.mark.parametrize(
    ("headers", "waits"),
    [
        ({"retry-after-ms": "1500"}, [1.5]),
        ({"Retry-After": "2"}, [2.0]),
        ({"Retry-After": "Mon, 12 Jan 1970 13:46:43 GMT"}, [3.0]),
        ({"Retry-After": "soon"}, [0.5]),
        ({"Retry-After": "60"}, []),
    ],
)
async def test_retry_after_is_honoured_in_every_form(headers, waits):
    world = World(m=[{"status": 429, "times": 1, "headers": headers}, OK], n=[OK])
    assert await world.text("m", "n") == "ok"
    assert world.waits == waits
    # A wait that is too long sends the request to the next target at once.
    assert world.requested == (["m", "m"] if waits else ["m", "n"])


@pytest.mark.parametrize("text", ["0", "-1", "Mon, 12 Jan 1970 13:46:39 GMT", "garbage", "1e400"])
async def test_no_hint_makes_retries_come_without_a_pause(text):
    world = World(m=[{"status": 503, "headers": {"retry-after": text}}])
    with pytest.raises(UpstreamStatusError):
        await world.open("m", retries=Retries(attempts=3, backoff=1))
    assert world.waits == [1.0, 2.0]


async def test_a_short_hint_does_not_shorten_the_pause():
    world = World(m=[{"status": 503, "headers": {"retry-after-ms": "0.001"}, "times": 1}, OK])
    assert await world.text("m", retries=Retries(backoff=1)) == "ok"
    assert world.waits == [1.0]


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"fault": "reset"}, UpstreamConnectError),
        ({"fault": "truncate"}, UpstreamProtocolError),
        ({"fault": "error_in_200"}, UpstreamStatusError),
    ],
)
async def test_what_breaks_before_the_first_byte_is_retried_then_raised(rule, error):
    world = World(m=[rule])
    with pytest.raises(error) as caught:
        await world.open("m", retries=Retries(attempts=2))
    assert len(caught.value.attempts) == 2
    assert world.running() == 0


async def test_an_error_event_at_the_start_of_a_stream_is_retried():
    error = 'data: {"error": {"message": "overloaded"}}\n\n'
    headers = {"content-type": "text/event-stream"}
    world = World(m=[{"body": error, "headers": headers, "times": 1}, OK])
    response = await world.open("m", stream=True)
    assert world.results(response.attempts) == [("m", "upstream_502"), ("m", "ok")]
    await response.aclose()


@pytest.mark.parametrize("phase", ["first_byte", "total"])
async def test_each_time_out_has_its_own_error(phase):
    world = World(m=[HANG])
    with pytest.raises(UpstreamTimeoutError) as caught:
        await world.open("m", timeout=TimeLimits(**{phase: 0.01}), retries=Retries(attempts=1))
    assert caught.value.phase == phase
    assert world.running() == 0


async def test_a_quiet_stream_is_between_chunks():
    world = World(m=[{"fault": "hang_midway", "answer": "a b c"}])
    response = await world.open("m", stream=True, timeout=TimeLimits(between_chunks=0.01))
    with pytest.raises(UpstreamTimeoutError) as caught, response.reading():
        async for _ in response.chunks():
            pass
    assert caught.value.phase == "between_chunks"
    await response.aclose()
    assert world.running() == 0


async def test_the_total_goes_on_while_the_client_does_not_read():
    world = World(m=[OK])
    response = await world.open("m", stream=True, timeout=TimeLimits(total=0.5))

    async def read_slowly():
        with response.reading():
            async for _ in response.chunks():
                await asyncio.sleep(30)

    with pytest.raises(ClientGoneError) as caught:
        await read_slowly()
    assert caught.value.code == "client_too_slow"
    await response.aclose()
    assert world.running() == 0


async def test_streams_that_break_off_open_the_breaker_and_whole_ones_do_not():
    world = World(m=[OK], n=[{"answer": "n"}])
    policy = {"stream": True, "breaker": Breaker(failures=2, open=60)}
    for ended_well in (False, True, False, False):
        response = await world.open("m", "n", **policy)
        assert response.target.model == "m"
        (response.completed if ended_well else response.broke_off)()
        await response.aclose()
    response = await world.open("m", "n", **policy)
    await response.aclose()
    assert world.results(response.attempts) == [("m", "breaker_open"), ("n", "ok")]


@pytest.mark.parametrize(("traffic_class", "times"), [("live", 3), ("eval", 1)])
async def test_a_time_out_of_an_evaluation_is_not_repeated_at_once(traffic_class, times):
    world = World(m=[HANG], n=[OK])
    limits = TimeLimits(first_byte=0.01)
    response = await world.open("m", "n", traffic_class=traffic_class, timeout=limits)
    await response.aclose()
    assert world.requested == ["m"] * times + ["n"]


@pytest.mark.parametrize("first_byte", [None, 5.0])
async def test_the_first_byte_of_a_whole_answer_may_take_as_long_as_all_of_it(first_byte):
    world = World(m=[HANG])
    with pytest.raises(UpstreamTimeoutError) as caught:
        await world.open("m", timeout=TimeLimits(first_byte=first_byte, total=0.02))
    assert caught.value.phase == "total"
    assert world.requested == ["m"]


async def test_a_providers_time_outs_are_those_of_its_targets_only():
    world = World(m=[HANG], n=[OK])
    timeouts = {Target("p", "m"): TimeLimits(total=0.02)}
    retries = Retries(attempts=1)
    response = await world.open("m", "n", timeouts=timeouts, section="routes.r", retries=retries)
    assert world.results(response.attempts) == [("m", "upstream_timeout"), ("n", "ok")]
    await response.aclose()


SPENT = {"error": {"message": "pay", "type": "x", "code": "insufficient_quota"}}


@pytest.mark.parametrize("rule", [{"status": 429, "body": SPENT}, {"status": 402}])
@pytest.mark.parametrize("traffic_class", ["live", "eval"])
async def test_a_spent_quota_is_not_retried_and_falls_back(rule, traffic_class):
    world = World(m=[rule], n=[OK])
    response = await world.open("m", "n", traffic_class=traffic_class)
    await response.aclose()
    assert world.results(response.attempts) == [("m", "insufficient_quota"), ("n", "ok")]


@pytest.mark.parametrize(
    ("status", "advice", "times"),
    [(503, "false", 1), (429, "False", 1), (503, "true", 2), (404, "true", 2), (400, "true", 2),
     (503, "maybe", 2), (404, "maybe", 1)],
)  # fmt: skip
async def test_a_host_says_whether_to_retry(status, advice, times):
    world = World(m=[{"status": status, "headers": {"x-should-retry": advice}}], n=[OK])
    response = await world.open("m", "n", retries=Retries(attempts=2))
    await response.aclose()
    assert world.requested == ["m"] * times + ["n"]


async def test_the_breaker_spares_a_broken_target_and_comes_back():
    world = World(m=[{"status": 500, "times": 4}, OK], n=[{"answer": "n"}])
    # Long enough for the fourth request to come while it is open, on a busy machine as well.
    policy = {"retries": Retries(attempts=1), "breaker": Breaker(failures=3, open=0.5)}
    for _ in range(3):
        assert await world.text("m", "n", **policy) == "n"
    response = await world.open("m", "n", **policy)
    await response.aclose()
    assert world.results(response.attempts) == [("m", "breaker_open"), ("n", "ok")]
    await asyncio.sleep(0.51)
    assert await world.text("m", "n", **policy) == "n"
    await asyncio.sleep(0.51)
    assert await world.text("m", "n", **policy) == "ok"
    assert await world.text("m", "n", **policy) == "ok"


async def test_when_every_breaker_is_open_one_target_is_tried_all_the_same():
    world = World(m=[{"status": 500, "times": 3}, OK])
    policy = {"retries": Retries(attempts=1), "breaker": Breaker(failures=3, open=60)}
    for _ in range(3):
        with pytest.raises(UpstreamStatusError):
            await world.open("m", **policy)
    assert await world.text("m", **policy) == "ok"


async def test_evaluations_do_not_trip_the_breakers_of_live_traffic():
    world = World(m=[{"status": 500}])
    policy = {"retries": Retries(attempts=1), "breaker": Breaker(failures=1, open=60)}
    with pytest.raises(UpstreamStatusError):
        await world.open("m", traffic_class="eval", **policy)
    assert [one.state(0) for one in world.dispatcher.states("eval")] == ["open"]
    assert list(world.dispatcher.states("live")) == []


async def test_retries_have_a_budget():
    world = World(m=[{"status": 500}])
    for _ in range(20):
        with pytest.raises(UpstreamStatusError):
            await world.open(
                "m", retries=Retries(attempts=3, budget=0), breaker=Breaker(failures=999)
            )
    # Ten are saved up at the start, and none is earned.
    assert len(world.requested) == 20 + 10


async def test_a_full_target_is_passed_over_and_a_full_queue_is_429():
    world = World(m=[{"delay_s": 0.01, "answer": "m"}], n=[{"answer": "n"}])
    world.gate.clear()
    limits = {Target("p", "m"): ConcurrencyLimit(1, 1)}
    first = asyncio.create_task(world.text("m", concurrency=limits))
    await world.until_running(1)
    assert await world.text("m", "n", concurrency=limits) == "n"
    queued = asyncio.create_task(world.text("m", concurrency=limits))
    await asyncio.sleep(0)
    with pytest.raises(TargetBusyError) as caught:
        await world.open("m", concurrency=limits)
    assert caught.value.status == 429
    assert caught.value.headers == {"retry-after": "1"}
    world.gate.set()
    assert [await first, await queued] == ["m", "m"]
    assert world.running() == 0


async def test_waiting_for_room_ends_with_the_total_time_out():
    world = World(m=[{"delay_s": 0.01, "answer": "m"}])
    world.gate.clear()
    limits = {Target("p", "m"): ConcurrencyLimit(1, 5)}
    first = asyncio.create_task(world.text("m", concurrency=limits))
    await world.until_running(1)
    with pytest.raises(UpstreamTimeoutError) as caught:
        await world.open("m", concurrency=limits, timeout=TimeLimits(total=0.02))
    assert caught.value.phase == "total"
    world.gate.set()
    assert await first == "m"
    assert world.running() == 0


async def test_a_stream_keeps_its_place_until_it_is_closed():
    world = World(m=[{"answer": "a b"}])
    response = await world.open("m", stream=True)
    assert world.running() == 1
    await response.aclose()
    await response.aclose()
    assert world.running() == 0


async def test_cancelling_gives_the_place_back():
    world = World(m=[HANG])
    task = asyncio.create_task(world.open("m"))
    await world.until_running(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.running() == 0


async def test_a_hedge_answers_for_a_slow_target():
    world = World(m=[HANG], n=[{"answer": "n"}])
    response = await world.open("m", "n", hedge=Hedge(after=0.01))
    assert str(response.target) == "p/n"
    assert sorted(world.results(response.attempts)) == [("m", "hedge_lost"), ("n", "ok")]
    await response.aclose()
    assert world.running() == 0


async def test_attempts_say_when_they_began():
    world = World(m=[HANG], n=[{"answer": "n"}])
    response = await world.open("m", "n", hedge=Hedge(after=0.01), started=clock() - 100)
    await response.aclose()
    first, second = sorted(response.attempts, key=lambda attempt: attempt.target)
    assert (first.target, second.target) == ("p/m", "p/n")
    # Beside each other: the second one began and ended while the first one was under way.
    assert 100 <= first.began_s < second.began_s
    assert second.began_s + second.seconds <= first.began_s + first.seconds
    assert second.began_s < response.first_byte_s
    world = World(m=[{"status": 500, "times": 1}, OK])
    response = await world.open("m")
    await response.aclose()
    first, second = response.attempts
    assert 0 <= first.began_s <= first.began_s + first.seconds <= second.began_s


async def test_a_hedge_that_was_not_needed_is_cancelled():
    world = World(m=[{"delay_s": 0.03, "answer": "m"}], n=[HANG])
    assert await world.text("m", "n", hedge=Hedge(after=0.01)) == "m"
    assert world.running() == 0


async def test_both_attempts_of_a_hedge_may_fail():
    world = World(m=[{"delay_s": 0.02, "status": 500}], n=[{"status": 500}])
    with pytest.raises(UpstreamStatusError):
        await world.open("m", "n", hedge=Hedge(after=0.01), retries=Retries(attempts=1))
    assert world.running() == 0


async def test_hedges_have_a_budget():
    world = World(m=[{"delay_s": 0.003, "answer": "m"}], n=[HANG])
    # On a busy machine some answers overtake their hedge.
    for _ in range(60):
        await world.text("m", "n", hedge=Hedge(after=0.001, budget=0.01))
    assert world.requested.count("n") == 10


async def test_cancelling_a_hedged_request_cancels_both():
    world = World(m=[HANG], n=[HANG])
    task = asyncio.create_task(world.open("m", "n", hedge=Hedge(after=0.001)))
    await world.until_running(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.running() == 0


async def refused(world, name, route=None, **policy):
    """The status that a request for `p/NAME` fails with."""
    plan = Plan(route or f"p/{name}", (Target("p", name),), Policy(Retries(attempts=1), **policy))
    request = UpstreamRequest("chat/completions", MESSAGES, stream=False, request_id="id")
    with pytest.raises(UpstreamStatusError) as caught:
        await world.dispatcher.open(plan, request)
    return caught.value.status


def remembered(world):
    return [str(one.target) for one in world.dispatcher.states()]


@pytest.mark.parametrize("status", [400, 404, 422, 429])
async def test_nothing_is_remembered_of_names_that_a_provider_refuses(status):
    world = World(m=[{"status": status}])
    assert await refused(world, "m") == status
    assert await refused(world, "unheard-of") == 404
    assert remembered(world) == []


async def test_the_targets_of_routes_are_remembered_as_are_answers_and_failures():
    world = World(known=[{"times": 1, **OK}, {"status": 404}], down=[{"status": 500}])
    assert await refused(world, "typo", route="r") == 404
    assert await world.text("known") == "ok"
    assert await refused(world, "known") == 404
    assert await refused(world, "down") == 500
    assert remembered(world) == ["p/typo", "p/known", "p/down"]


async def test_a_name_is_remembered_while_another_request_for_it_is_under_way():
    world = World(m=[{"times": 1, **HANG}, {"status": 404}])
    first = asyncio.create_task(refused(world, "m"))
    while not world.running():
        await asyncio.sleep(0)
    while world.requested != ["m"]:
        await asyncio.sleep(0)
    assert await refused(world, "m") == 404
    assert world.running() == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert remembered(world) == []


async def test_no_more_targets_are_remembered_than_there_may_be():
    class Down:
        name = "p"

        async def send(self, call):
            raise UpstreamConnectError(f"no {call.model}")

    dispatcher = Dispatcher({"p": Down()})
    request = UpstreamRequest("chat/completions", MESSAGES, stream=False, request_id="id")
    for n in range(MAX_TARGETS + 10):
        plan = Plan(f"p/{n}", (Target("p", str(n)),), Policy(Retries(attempts=1)))
        with pytest.raises(UpstreamConnectError):
            await dispatcher.open(plan, request)
    assert MAX_TARGETS // 2 <= len(list(dispatcher.states())) <= MAX_TARGETS
