"""The review queue: what arrives is checked, people decide, and accepted rows become a version."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from providers.errors import ConflictError, DatasetError, NotFoundError, RequestError
from router.config.loading import parse
from router.config.review import PersonalData, Pranks, Review
from router.config.storage import Storage
from router.loop.review import ReviewCandidate, ReviewEdit, ReviewQueue
from router.services import Services
from router.store.review import ReviewFilter, ReviewSource
from router.store.traffic import TrafficFilter


@pytest.fixture
async def services(tmp_path):
    storage = Storage(database=f"sqlite:///{tmp_path}/e.db", artifacts=str(tmp_path / "artifacts"))
    config = msgspec.structs.replace(parse("", "test.yaml", {}), storage=storage)
    async with Services(config) as services:
        yield services


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_queue(services, clock):
    def make(**config):
        return ReviewQueue(services.store, services.datasets, Review(**config), clock=clock)

    return make


@pytest.fixture
def queue(make_queue):
    return make_queue()


def candidate(text, **fields):
    return ReviewCandidate(messages=[{"role": "user", "content": text}], **fields)


async def added(queue, *texts, **fields):
    arrivals = await queue.add([candidate(text, **fields) for text in texts])
    return [arrival.id for arrival in arrivals]


async def content(services, named):
    row = await services.datasets.find(named)
    chunks = [chunk async for chunk in services.datasets.artifacts.get(row.path)]
    return [json.loads(line) for line in b"".join(chunks).splitlines()]


async def test_what_is_stored_has_no_personal_data(queue, services, tmp_path):
    mail = "ann.example@mail.org"
    [arrival] = await queue.add(
        [
            candidate(
                f"Write to {mail}, please.",
                answer=f"I write to {mail}.",
                reference=f"Dear {mail}",
                metadata={"from": mail, "tries": 2},
            )
        ]
    )
    row = await services.store.review_row(arrival.id)
    texts = msgspec.json.encode(row).decode()
    assert "ann.example" not in texts
    # One placeholder wherever the value was.
    [placeholder] = {word.strip(".,") for word in row.content.answer.split() if "[" in word}
    assert placeholder in row.content.messages[0]["content"]
    assert row.content.metadata == {"from": placeholder, "tries": 2}
    assert [finding["place"] for finding in row.findings] == [
        "messages[0].content", "answer", "reference", "metadata.from"
    ]  # fmt: skip
    await services.store.close()
    for file in tmp_path.glob("e.db*"):
        assert b"ann.example" not in file.read_bytes()
    await services.store.open()


async def test_a_row_that_a_check_leaves_out_is_not_stored(make_queue, services):
    queue = make_queue(personal_data=PersonalData(card="drop"))
    arrivals = await queue.add([candidate("It is 4111 1111 1111 1111."), candidate("It is fine.")])
    assert [arrival.id is None for arrival in arrivals] == [True, False]
    assert [finding.kind for finding in arrivals[0].findings] == ["card"]
    assert await services.store.count_review_rows(ReviewFilter()) == 1


async def test_duplicates_are_left_out_and_near_ones_flagged(queue, services):
    words = [f"word{number}" for number in range(60)]
    first, same, other = await added(queue, " ".join(words), " ".join(words).upper(), "Why?")
    assert None not in (first, other)
    assert same is None
    words[30] = "changed"
    [near] = await added(queue, " ".join(words))
    [finding] = (await services.store.review_row(near)).findings
    assert finding["kind"] == "near_duplicate"
    assert finding["detail"].startswith(first)
    # Another dataset may have the same row.
    assert await added(queue, "Why?", dataset="second") != [None]
    assert await added(queue, "why") == [None]


async def test_duplicates_may_be_ignored(make_queue):
    queue = make_queue(pranks=Pranks(duplicate="ignore"))
    assert None not in await added(queue, "Why?", "Why?")


async def test_accepted_rows_become_a_version_with_their_provenance(queue, services, clock):
    source = ReviewSource(id="req_1", at=5.0, user="ann", route="chat", target="p/m",
                          feedback=("fb_1",))  # fmt: skip
    one, two, three = await added(
        queue, "How old is it?", "Who is it?", "What is it?", origin="feedback", source=source
    )
    await queue.accept(one, "eve", ReviewEdit(reference="Four, says bob@example.org."))
    await queue.reject(two, "eve", reason="odd")
    published = await queue.publish("reviewed", "eve")
    assert (published.published, published.dataset.rows) == (1, 1)
    [row] = await content(services, "reviewed")
    assert row["id"] == one
    assert row["messages"] == [{"role": "user", "content": "How old is it?"}]
    assert row["reference"].startswith("Four, says [EMAIL_")
    assert len(row["cluster"]) == 16
    assert row["review"] == {
        "origin": "feedback",
        "request": "req_1",
        "route": "chat",
        "target": "p/m",
        "feedback": ["fb_1"],
        "findings": [{"kind": "email", "action": "placeholder", "place": "reference"}],
        "edited": True,
        "reviewer": "eve",
        "decided_at": 1000.0,
    }
    # The next version has the earlier rows, too.
    await queue.accept(three, "bob")
    again = await queue.publish("reviewed", "bob")
    assert again.dataset.provenance["of"]["hash"] == published.dataset.hash
    rows = await content(services, "reviewed")
    assert [row["id"] for row in rows] == [one, three]
    assert rows[0] == row
    with pytest.raises(ConflictError, match="No accepted row"):
        await queue.publish("reviewed", "eve")


async def test_rows_join_a_dataset_of_another_form(queue, services, tmp_path):
    path = tmp_path / "old.csv"
    path.write_text("question,reference\nWho?,Me\n")
    await services.datasets.add(
        str(path), name="old", columns={"question": "input"}, over_http=False
    )
    [row_id] = await added(queue, "Why?", reference="So.", dataset="old")
    await queue.accept(row_id, "eve")
    await queue.publish("old", "eve")
    rows = await content(services, "old")
    assert [(row["id"], row.get("input"), row["reference"]) for row in rows] == [
        ("1", "Who?", "Me"),
        (row_id, None, "So."),
    ]


async def test_of_two_who_decide_at_once_one_wins(queue, services):
    [row_id] = await added(queue, "Why?")
    done = await asyncio.gather(
        queue.accept(row_id, "eve"),
        queue.reject(row_id, "bob"),
        queue.accept(row_id, "ann", ReviewEdit(reference="So.")),
        return_exceptions=True,
    )
    lost = [result for result in done if isinstance(result, ConflictError)]
    [won] = [result for result in done if not isinstance(result, BaseException)]
    assert len(lost) == 2
    for error in lost:
        assert error.message.startswith(f"{won.decided_by} {won.state} {row_id} at 1970-01-01")
    assert await services.store.review_row(row_id) == won


async def test_rows_that_a_client_made_of_its_requests_do_not_become_reviewed(
    queue, services, tmp_path
):
    for n, key in enumerate(["key_1", ""]):
        file = tmp_path / f"{n}.jsonl"
        file.write_text(
            json.dumps({"id": f"req_{n}", "messages": [{"role": "user", "content": "Why?"}]}) + "\n"
        )
        await services.datasets.derive(
            file, name=f"mine{n}", source="", provenance={"from_traffic": {"key": key}}
        )
        [row] = await added(queue, f"How old is number {n}?", dataset=f"mine{n}")
        await queue.accept(row, "eve")
        await queue.publish(f"mine{n}", "eve")
        rows = await content(services, f"mine{n}")
        assert [each["id"] for each in rows] == [*(["req_1"] if not key else []), row]


async def test_a_decision_can_be_undone_until_it_is_published(queue):
    [one] = await added(queue, "Why?")
    with pytest.raises(ConflictError, match="waits"):
        await queue.undo(one, "eve")
    await queue.reject(one, "eve")
    assert (await queue.undo(one, "bob")).state == "waiting"
    await queue.accept(one, "bob")
    await queue.publish("reviewed", "bob")
    with pytest.raises(ConflictError, match="is in a version"):
        await queue.undo(one, "bob")
    with pytest.raises(NotFoundError):
        await queue.undo("rv_gone", "bob")


async def test_an_edit_of_what_somebody_has_changed_is_a_conflict(queue):
    [row_id] = await added(queue, "Why?")
    row = await queue.edit(row_id, ReviewEdit(version=1, reference="So."), "eve")
    assert (row.version, row.edited, row.content.reference) == (2, True, "So.")
    with pytest.raises(ConflictError, match="has been changed since version 1"):
        await queue.edit(row_id, ReviewEdit(version=1, reference="No."), "bob")
    with pytest.raises(ConflictError):
        await queue.accept(row_id, "bob", ReviewEdit(version=1))
    cleared = await queue.edit(row_id, ReviewEdit(version=2, reference=None), "bob")
    assert cleared.content.reference is None


async def test_what_a_person_writes_is_checked(make_queue):
    queue = make_queue(personal_data=PersonalData(secret="drop"))
    [row_id] = await added(queue, "Why?")
    with pytest.raises(RequestError, match="secret") as caught:
        await queue.accept(row_id, "eve", ReviewEdit(reference="password: hunter2"))
    assert "hunter2" not in caught.value.message
    with pytest.raises(RequestError, match="1 to"):
        await queue.edit(row_id, ReviewEdit(messages=[]), "eve")
    with pytest.raises(DatasetError):
        await queue.edit(row_id, ReviewEdit(dataset="../x"), "eve")


async def test_rows_that_are_no_conversations_are_refused(queue, services):
    for messages in ([], [{"content": "x"}], [{"role": ""}], [3]):
        with pytest.raises(RequestError):
            await queue.add([candidate("fine"), ReviewCandidate(messages=messages)])
    with pytest.raises(DatasetError):
        await added(queue, "Why?", dataset="a/b")
    with pytest.raises(RequestError, match="metadata"):
        await added(queue, "Why?", metadata={"a\nb": 1})
    assert await services.store.count_review_rows(ReviewFilter()) == 0


async def test_rows_expire_unless_they_are_accepted(make_queue, services, clock):
    queue = make_queue(expire_days=2.0)
    one, two, _ = await added(queue, "Why?", "Who?", "When?")
    await queue.accept(one, "eve")
    await queue.reject(two, "eve")
    clock.now += 2 * 86400 - 1
    assert await queue.expire() == 0
    clock.now += 1
    assert await queue.expire() == 2
    [row] = await services.store.review_rows(ReviewFilter(), limit=9)
    assert row.id == one


async def test_rows_go_with_their_requests(queue, services):
    ids = []
    for n, (text, user) in enumerate([("Why?", "ann"), ("Who?", "bob"), ("When?", "ann")]):
        source = ReviewSource(id=f"req_{n}", user=user)
        ids += await added(queue, text, origin="traffic", source=source)
    await queue.accept(ids[0], "eve")
    await queue.accept(ids[1], "eve")
    await queue.publish("reviewed", "eve")
    done = await services.deletion.delete(TrafficFilter(user="ann"))
    # One waits, one is decided, and one row of the dataset was copied from it.
    assert (done.related + done.deleted, done.complete) == (3, True)
    assert [row.id for row in await services.store.review_rows(ReviewFilter(), limit=9)] == [ids[1]]
    assert [row["id"] for row in await content(services, "reviewed")] == [ids[1]]


async def test_a_crash_while_publishing_loses_and_doubles_nothing(queue, services):
    one, two = await added(queue, "Why?", "Who?")
    await queue.accept(one, "eve")
    published = await queue.publish("reviewed", "eve")
    # As if the process had died before it noted the version.
    await services.store.end_publishing([one], "-")
    await queue.accept(two, "eve")
    again = await queue.publish("reviewed", "eve")
    assert [row["id"] for row in await content(services, "reviewed")] == [one, two]
    assert (await services.store.review_row(one)).published == again.dataset.hash
    assert again.dataset.hash != published.dataset.hash


async def test_what_cannot_be_written_can_be_published_later(queue, services):
    [row_id] = await added(queue, "Why?")
    await queue.accept(row_id, "eve")
    full = msgspec.structs.replace(
        services.config, datasets=msgspec.structs.replace(services.config.datasets, max_bytes=10)
    )
    small = type(services.datasets)(services.store, full)
    broken = ReviewQueue(services.store, small, Review())
    with pytest.raises((DatasetError, RequestError)):
        await broken.publish("reviewed", "eve")
    assert (await queue.undo(row_id, "eve")).state == "waiting"
