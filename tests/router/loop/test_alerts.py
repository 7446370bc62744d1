"""Alerts from a condition to a receiver: real receivers on loopback, and a store of rows."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
from alert_receiver import SECRET, alert_receiver
from stores import sqlite_store

from providers.errors import ConflictError, StoreError
from providers.masking import Masks
from router.config.loading import parse
from router.loop.alert_controller import LEASE, AlertController
from router.loop.alert_sender import AlertSender
from router.loop.alerts import AlertCondition
from router.store.alerts import AlertChanges

NOTHING = AlertChanges()


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


class Source:
    """What a test says holds."""

    def __init__(self, subject="drift", *, tells_all=True):
        self.subjects = (subject,)
        self.tells_all = tells_all
        self.now = []

    async def conditions(self):
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


def drift(watch="w", **fields):
    return AlertCondition(
        subject="drift", labels={"watch": watch}, **{"summary": f"{watch} drifted"} | fields
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def store(tmp_path, clock):
    async with sqlite_store(tmp_path / "e.db", clock=clock) as store:
        yield store


class World:
    """A controller and its parts."""

    def __init__(self, text, store, source, clock, owner="here:1:1:a"):
        self.config = parse(text, "test.yaml", {})
        alerts = self.config.alerts
        self.store, self.source, self.clock = store, source, clock
        self.sender = AlertSender(
            alerts.receivers, store, Masks(self.config), clock=clock, random=lambda: 0.0
        )
        self.controller = AlertController(
            alerts,
            store,
            [source],
            self.sender,
            owner=owner,
            public_url=self.config.server.public_url,
            clock=clock,
        )

    async def round(self, seconds=5.0):
        self.clock.now += seconds
        assert await self.controller.evaluate()
        await self.controller.send()

    async def one(self):
        [alert] = await self.store.alerts()
        return alert


@asynccontextmanager
async def world(text, store, clock, **source):
    made = World(text, store, Source(**source), clock)
    await made.sender.open()
    try:
        yield made
    finally:
        await made.sender.close()


def config(receiver, *, more="", rule="subject: drift", alerts="group_seconds: 0"):
    return f"""
server: {{public_url: "https://router.example.com/base/"}}
alerts:
  {alerts}
  receivers:
    ops: {{kind: webhook, url: "{receiver.url}/hook?token=s3cr3t-token", secret: "{SECRET}"{more}}}
  rules:
    drifted: {{{rule}}}
"""


async def test_an_alert_is_told_signed_and_its_end_as_well(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver), store, clock) as made:
            made.source.now = [drift(link="/watches/w", value=0.5, severity="critical")]
            await made.round()
            await made.round()
            made.source.now = []
            await made.round()
            await made.round()
    first, last = receiver.received
    assert first.path == "/hook?token=s3cr3t-token"
    assert first.is_signed()
    assert last.is_signed()
    assert not first.is_signed(b"x" * 32)
    assert first.message != last.message
    assert int(first.headers["webhook-timestamp"]) == 1_000_005
    assert first.json["type"] == "alerts.changed"
    assert first.json["timestamp"] == "1970-01-12T13:46:45.000Z"
    [told] = first.json["data"]["alerts"]
    alert = await made.one()
    assert told == {
        "id": alert.id,
        "fingerprint": alert.fingerprint,
        "status": "firing",
        "rule": "drifted",
        "subject": "drift",
        "severity": "critical",
        "labels": {"watch": "w"},
        "summary": "w drifted",
        "value": 0.5,
        "threshold": None,
        "started_at": "1970-01-12T13:46:45.000Z",
        "ended_at": None,
        "url": "https://router.example.com/base/watches/w",
        "alert_url": f"https://router.example.com/base/alerts/{alert.id}",
    }
    [told] = last.json["data"]["alerts"]
    assert (told["id"], told["status"]) == (alert.id, "resolved")
    assert told["ended_at"] == "1970-01-12T13:46:55.000Z"
    assert alert.state == "resolved"


async def test_a_message_is_sent_again_under_its_id_until_it_arrives(store, clock):
    failures = [500, "reset", (503, {"retry-after": "120"}), 429, "hang"]
    with alert_receiver(*failures) as receiver:
        more = ", timeout_seconds: 0.2"
        async with world(config(receiver, more=more), store, clock) as made:
            made.source.now = [drift()]
            waits = []
            await made.round()
            while (message := (await made.store.messages_about([], 10))[0]).state == "waiting":
                waits.append(message.next_at - clock.now)
                clock.now = message.next_at - 5.1
                await made.round()
                # It waits until it is due.
                assert (await made.store.messages_about([], 10))[0] == message
                await made.round(0.2)
    # Half of what doubles, as nothing is drawn; or what the receiver asks for.
    assert waits == pytest.approx([2.5, 5.0, 120.0, 20.0, 40.0])
    assert len(receiver.received) == 6
    assert len({request.message for request in receiver.received}) == 1
    assert len({request.body for request in receiver.received}) == 1
    # Each attempt is signed with its own time, so that old ones can be refused.
    assert len({request.headers["webhook-timestamp"] for request in receiver.received}) == 6
    assert all(request.is_signed() for request in receiver.received)
    assert (message.state, message.attempts, message.status) == ("delivered", 6, 204)
    assert made.sender.outcomes == {("ops", "delivered"): 1, ("ops", "retried"): 5}


@pytest.mark.parametrize(
    ("status", "headers", "state"),
    [
        (200, {}, "delivered"),
        (400, {}, "failed"),
        (500, {}, "waiting"),
        # It is cut off.
        (200, {"content-length": "1000001", "connection": "close"}, "delivered"),
        (200, {"content-encoding": "gzip"}, "delivered"),
    ],
)
async def test_the_status_decides_whatever_comes_after_it(store, clock, status, headers, state):
    length = 10 if "connection" in headers else 1_000_000
    with alert_receiver((status, headers, b"x" * length)) as receiver:
        async with world(config(receiver), store, clock) as made:
            made.source.now = [drift()]
            await made.round()
            await made.round(0.1)
            [message] = await made.store.messages_about([], 10)
    assert (message.state, message.attempts, message.status) == (state, 1, status)
    assert message.error == ("" if status == 200 else f"status {status}: {'x' * 300}"[:300])
    assert len(receiver.received) == 1


async def test_what_is_too_old_is_given_up(store, clock):
    with alert_receiver(*[500] * 9) as receiver:
        more = ", max_age_seconds: 60"
        async with world(config(receiver, more=more), store, clock) as made:
            made.source.now = [drift()]
            await made.round()
            # A clock that jumps does not give up what was not tried again.
            await made.round(86400)
            # The newer one says that it goes on.
            _, message = await made.store.messages_about([], 10)
    assert (message.state, message.attempts, message.error[:10]) == ("failed", 2, "status 500")
    assert [r.message for r in receiver.received[:2]] == [message.id] * 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("place", ["http://169.254.169.254/latest", "private"])
async def test_a_redirect_is_refused(store, clock, status, place):
    with alert_receiver() as private:
        to = private.url if place == "private" else place
        with alert_receiver((status, {"location": to})) as receiver:
            async with world(config(receiver), store, clock) as made:
                made.source.now = [drift()]
                await made.round()
                await made.round(1000)
                [message] = await made.store.messages_about([], 10)
    assert message.state == "failed"
    assert message.error == f"status {status}: redirects are not followed"
    assert len(receiver.received) == 1
    assert private.received == []


async def test_no_answer_of_a_receiver_shows_a_secret(store, clock):
    echo = [(400, {"x-y": "z"})]
    with alert_receiver(*echo) as receiver:
        async with world(config(receiver), store, clock) as made:
            made.source.now = [drift()]
            await made.round()
            [message] = await made.store.messages_about([], 10)
            assert message.state == "failed"
            # The receiver answers with the path that it was sent to.
            assert message.error == "status 400: no: /hook?*** [31m"
    async with world(
        config(receiver).replace(receiver.url, "http://127.0.0.1:9"), store, clock
    ) as made:
        made.source.now = [drift("other")]
        await made.round()
        message = (await made.store.messages_about([], 10))[0]
        assert (message.state, message.status) == ("waiting", None)
        assert message.error == "ops: connection refused"


async def test_pending_alerts_wait_for_what_the_rule_says_whatever_clocks_do(store, clock):
    with alert_receiver() as receiver:
        text = config(receiver, rule="subject: drift, for_seconds: 12")
        async with world(text, store, clock) as made:
            made.source.now = [drift()]
            await made.round()
            assert (await made.one()).state == "pending"
            # The wall clock jumps; only a moment has passed.
            await made.round(86400)
            assert (await made.one()).state == "pending"
            await made.round(-2 * 86400)
            alert = await made.one()
            assert alert.state == "pending"
            assert alert.held_s < 12
            # What ends while it is pending leaves nothing.
            made.source.now = []
            await made.round()
            assert await made.store.alerts() == []
    assert receiver.received == []


async def test_nothing_known_is_neither_an_end_nor_a_beginning(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver), store, clock) as made:
            made.source.now = [drift(holds=None)]
            await made.round()
            assert await made.store.alerts() == []
            made.source.now = [drift()]
            await made.round()
            for unknown in ([drift(holds=None)], StoreError("gone"), ZeroDivisionError()):
                made.source.now = unknown
                await made.round()
                alert = await made.one()
                assert alert.state == "firing"
                assert alert.unknown_since is not None
            made.source.now = [drift()]
            await made.round()
            assert (await made.one()).unknown_since is None
            made.source.now = [drift(holds=None)]
            await made.round()
            await made.round(8 * 86400)
            alert = await made.one()
            assert alert.state == "resolved"
            assert alert.note == "nothing has been known of it for a week"


async def test_a_source_that_does_not_tell_all_ends_nothing_by_silence(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver), store, clock, tells_all=False) as made:
            made.source.now = [drift()]
            await made.round()
            made.source.now = []
            await made.round()
            assert (await made.one()).state == "firing"
            made.source.now = [drift(holds=False)]
            await made.round()
            assert (await made.one()).state == "resolved"


async def test_changes_wait_for_each_other_and_are_told_together(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver, alerts="group_seconds: 10"), store, clock) as made:
            made.source.now = [drift("a")]
            await made.round()
            made.source.now = [drift("a"), drift("b")]
            await made.round()
            assert receiver.received == []
            made.source.now = [drift("a"), drift("b"), drift("c", severity="critical")]
            await made.round()
            await made.round()
    [request] = receiver.received
    told = request.json["data"]["alerts"]
    # The worst first, in the order in which they began.
    assert [alert["labels"]["watch"] for alert in told] == ["c", "a", "b"]


async def test_what_is_over_before_it_is_told_is_not_told(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver, alerts="group_seconds: 10"), store, clock) as made:
            made.source.now = [drift()]
            await made.round()
            made.source.now = []
            await made.round()
            await made.round()
            await made.round()
    assert receiver.received == []


async def test_what_goes_on_is_told_again(store, clock):
    with alert_receiver() as receiver:
        text = config(receiver, alerts="group_seconds: 0\n  repeat_seconds: 100")
        async with world(text, store, clock) as made:
            made.source.now = [drift()]
            await made.round()
            await made.round(60)
            assert len(receiver.received) == 1
            await made.round(60)
            assert len(receiver.received) == 2
            # Without anything known, there is nothing to tell.
            made.source.now = [drift(holds=None)]
            await made.round(200)
            assert len(receiver.received) == 2
            events = [message.event for message in await made.store.messages_about([], 10)]
    assert events == ["repeat", "changes"]


async def test_a_thousand_alerts_are_few_messages(store, clock):
    with alert_receiver() as receiver, alert_receiver() as slack:
        text = config(receiver) + "    all: {subject: drift, receivers: [ops]}\n"
        text = text.replace(
            "  rules:", f"    chat: {{kind: slack, url: '{slack.url}'}}\n  rules:", 1
        )
        async with world(text, store, clock) as made:
            made.source.now = [drift(f"w{n:04}") for n in range(1000)]
            await made.round()
    # Both rules are about all: 2,000 alerts.
    told = [alert for request in receiver.received for alert in request.json["data"]["alerts"]]
    assert len(receiver.received) == 20
    assert len(told) == 2000
    assert all(request.json["data"]["total"] == 2000 for request in receiver.received)
    [request] = slack.received
    block = request.json["blocks"][0]["text"]["text"]
    assert len(block) < 3000
    assert "and 980 more" in block
    made.source.now = [drift(f"w{n:05}") for n in range(20_000)]
    clock.now += 5
    await made.controller.evaluate()
    assert made.controller.left_out > 0
    open_alerts = [alert for alert in await store.open_alerts() if alert.state == "firing"]
    assert len(open_alerts) <= 2000


async def test_more_conditions_than_are_read_end_nothing(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver), store, clock) as made:
            made.source.now = [drift("w")]
            await made.round()
            # It would be among those that are left out.
            made.source.now = [drift(f"x{n}") for n in range(10_000)] + [drift("w")]
            await made.round()
            alerts = {alert.labels["watch"]: alert for alert in await store.open_alerts()}
            assert alerts["w"].state == "firing"
            assert len(alerts) == 2000


async def test_messages_to_a_receiver_that_is_gone_do_not_pile_up(store, clock):
    with alert_receiver() as receiver:
        text = config(receiver).replace(receiver.url, "http://127.0.0.1:9")
        async with world(text, store, clock) as made:
            for n in range(30):
                made.source.now = [] if n % 2 else [drift()]
                clock.now += 5
                await made.controller.evaluate()
            assert await store.waiting_receivers() == {"ops": 30}
        without = text.replace("ops:", "others:")
        async with world(without, store, clock) as made:
            await made.round()
            messages = await store.messages_about([], 100)
            assert {message.state for message in messages} == {"dropped"}
            assert messages[0].error == "the receiver is no longer in the config"


async def test_a_rule_that_is_gone_ends_its_alerts(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver), store, clock) as made:
            made.source.now = [drift()]
            await made.round()
        changed = config(receiver, rule="subject: drift, labels: {target: other}")
        made = World(changed, store, made.source, clock)
        await made.sender.open()
        await made.round()
        await made.sender.close()
        assert (await made.one()).note == "its rule was changed or is gone"
    assert receiver.received[-1].json["data"]["alerts"][0]["status"] == "resolved"


async def test_one_process_at_a_time_decides_and_sends(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver), store, clock) as made:
            other = World(config(receiver), store, made.source, clock, owner="there:2:1:b")
            await other.sender.open()
            made.source.now = [drift()]
            await made.round()
            assert not await other.controller.evaluate()
            await other.controller.send()
            assert other.controller.counts() == []
            # It is stopped for a while, and goes on when another one has the lease.
            clock.now += 60
            assert await other.controller.evaluate()
            open_alerts = await store.open_alerts()
            with pytest.raises(ConflictError):
                await store.change_alerts(
                    msgspec.structs.replace(NOTHING, alerts=open_alerts),
                    lease=LEASE,
                    owner="here:1:1:a",
                    max_waiting=1,
                )
            await other.controller.send()
            await other.sender.close()
    assert len(receiver.received) == 1


async def test_a_process_that_dies_after_sending_sends_under_the_same_id_again(store, clock):
    with alert_receiver() as receiver:
        async with world(config(receiver), store, clock) as made:
            made.source.now = [drift()]
            clock.now += 5
            await made.controller.evaluate()
            [message] = await store.waiting_messages("ops", 10)
            # It arrives, and nothing of that is written down.
            await made.sender.attempt(message)
        async with world(config(receiver), store, clock) as successor:
            successor.source.now = [drift()]
            await successor.round(60)
    first, second = receiver.received
    assert first.message == second.message
    assert first.body == second.body


async def test_a_receiver_that_never_answers_holds_up_no_other(store, clock):
    with alert_receiver("hang") as slow, alert_receiver() as quick:
        text = config(slow, more=", timeout_seconds: 5")
        text = text.replace(
            "  rules:", f"    quick: {{kind: webhook, url: '{quick.url}'}}\n  rules:", 1
        )
        async with world(text, store, clock) as made:
            made.source.now = [drift()]
            clock.now += 5
            await made.controller.evaluate()
            sending = asyncio.create_task(made.controller.send())
            while not quick.received:
                await asyncio.sleep(0.01)
            slow.ended.set()
            await sending
    assert "webhook-signature" not in quick.received[0].headers
