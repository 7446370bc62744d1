"""Datasets of recorded requests."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from evaluators.data.rows import Row
from evaluators.data.template import to_sample
from evaluators.document import RunDocument
from providers.errors import (
    ConflictError,
    InputError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    RunDocumentError,
)
from router.config.loading import parse
from router.config.review import Pranks, Review
from router.evals.labelling import LabelRequest, begin, finish
from router.evals.requests import EvalRequester
from router.loop.dataset_owners import key_of
from router.loop.review import ReviewQueue
from router.loop.traffic_dataset import (
    MAX_OWN_VERSIONS,
    TrafficDatasets,
    TrafficSelection,
    prepare,
)
from router.records import Record, Target
from router.services import Services
from router.store.feedback import FeedbackRow, NewFeedback, conversation_subject, request_subject
from router.store.review import ReviewFilter
from router.store.traffic import TrafficFilter

CONFIG = """
providers: {{baseline: {{kind: baseline}}}}
routes:
  chat: {{targets: [{{model: baseline/echo}}], record: full}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
"""
NOW = time.time()
QUESTIONS = [
    "Where is my parcel, and when does it come to my house?",
    "Wo ist mein Paket, und wann kommt es zu mir nach Hause?",
    "Où est mon colis, et quand arrive-t-il chez moi à la maison ?",
]


def chat(text, **fields):
    return json.dumps(
        {"model": "chat", "messages": [{"role": "user", "content": text}], **fields}
    ).encode()


def answer(text, finish_reason="stop", **message):
    message = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


def streamed(*pieces, finish_reason="stop", done=True):
    deltas = [{"role": "assistant"}, *({"content": piece} for piece in pieces)]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if finish_reason:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish_reason})
    chunks = [{"object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def record(n, **fields):
    return Record(
        **{
            "id": f"req_{n}",
            "at": NOW - 1000 + n,
            "route": "chat",
            "target": Target("baseline", "echo"),
            "status": 200,
            "cost_usd": 0.25,
            "finish_reason": "stop",
            "keep": "full",
            "request": chat(f"question number {n}?"),
            "response": answer(f"answer number {n}"),
        }
        | fields
    )


def feedback(n, name, value, kind="number", key_id="", **fields):
    return NewFeedback(
        FeedbackRow(
            id=f"f_{n}_{name}_{key_id}",
            at=NOW,
            key_id=key_id,
            user="",
            name=name,
            kind=kind,
            value=value,
            score=None,
            subject=request_subject(f"req_{n}"),
            record_id=f"req_{n}",
            request_key="",
            request_user="",
            route="chat",
            request_at=NOW,
            **fields,
        )
    )


@pytest.fixture
async def services(tmp_path):
    config = parse(CONFIG.format(folder=tmp_path), "test.yaml", {})
    async with Services(config) as services:
        yield services


async def made(services, only=None, **fields):
    selection = TrafficSelection(name="live", route="chat", **fields)
    plan = prepare(selection, now=time.time(), only=only)
    return await services.traffic_datasets.create(plan, only=only, progress=lambda _: None)


async def rows(services, named="live"):
    row = await services.datasets.find(named)
    chunks = [chunk async for chunk in services.datasets.artifacts.get(row.path)]
    return [json.loads(line) for line in b"".join(chunks).splitlines()]


def dropped(made):
    counts = {each.reason: each.count for each in made.funnel.dropped}
    assert made.funnel.records == sum(counts.values()) + made.funnel.rows
    return counts


async def test_a_row_has_what_was_sent_the_answer_and_where_it_came_from(services):
    body = chat("hi there", tools=[{"type": "function"}], temperature=0, stream=True, user="ann",
                stream_options={"include_usage": True}, max_tokens=None)  # fmt: skip
    await services.store.keep_traffic(
        [record(1, request=body, response=streamed("Hel", "lo"), stream=True, user="ann")]
    )
    result = await made(services)
    assert dropped(result) == {}
    [row] = await rows(services)
    cluster = row.pop("cluster")
    assert "ann" not in json.dumps(row)
    assert len(cluster) == 16
    assert row == {
        "id": "req_1",
        "messages": [{"role": "user", "content": "hi there"}],
        "answer": "Hello",
        "request_parameters": {"tools": [{"type": "function"}], "temperature": 0},
        "route": "chat",
        "target": "baseline/echo",
        "at": NOW - 999,
        "cost_usd": 0.25,
        "prompt_tokens": None,
        "completion_tokens": None,
        "total_s": 0.0,
        "finish_reason": "stop",
        "turns": 1,
        "length": 8,
    }
    assert result.dataset.rows == 1
    assert result.dataset.provenance["from_traffic"]["masked"] is True
    copied = await services.store.copied_rows(TrafficFilter(user="ann", route="chat"))
    assert copied.rows == {"req_1"}


async def test_what_cannot_be_a_row_is_counted_by_its_reason(services):
    unusable = [
        record(1, path="embeddings"),
        record(2, path="completions"),
        record(3, status=503),
        record(4, error_code="error_event", stream=True),
        record(5, cached=True),
        record(6, keep="metadata", request=None, response=None),
        record(7, response=None),
        record(16, keep="metadata", request=None, response=None, stored=False),
        record(8, request=b"{"),
        record(9, request=chat("x", messages=[])),
        record(10, response=streamed("cut", finish_reason=None, done=False), stream=True),
        record(11, response=answer(None, "tool_calls", tool_calls=[{"id": "1"}])),
        record(12, response=b'{"error": "?"}'),
        record(13, route="other"),
        record(14, traffic_class="eval"),
        record(15, at=NOW + 1000),
    ]
    await services.store.keep_traffic([*unusable, record(20)])
    assert dropped(await made(services)) == {
        "embeddings": 1,
        "completions": 1,
        "failed": 2,
        "cached": 1,
        "no_bodies": 1,
        "not_stored": 1,
        "bodies_missing": 1,
        "unreadable": 3,
        "unfinished": 1,
        "no_text": 1,
    }
    # The same, where texts have to be read to know which rows can be drawn.
    text = await made(services, where="length > 0 or status > 0")
    assert sum(dropped(text).values()) == 13


async def test_conditions_select_by_records_feedback_and_texts(services):
    await services.store.keep_traffic([record(n) for n in range(6)])
    await services.store.add_feedback(
        [feedback(n, "thumb", n % 2 * 2 - 1, comment="no" * n) for n in range(4)]
    )

    async def ids(where):
        await made(services, where=where)
        return {row["id"] for row in await rows(services)}

    assert await ids("feedback.thumb < 0") == {"req_0", "req_2"}
    assert await ids("not has feedback.thumb") == {"req_4", "req_5"}
    assert await ids("feedback.thumb.comment contains 'nono' and answer contains 'NUMBER 3'") == {
        "req_3"
    }
    with pytest.raises(ConflictError, match="6 requests that do not meet the condition"):
        await made(services, where="status > 200")


async def test_the_last_feedback_of_a_name_counts_and_corrections_are_references(services):
    await services.store.keep_traffic([record(1)])
    message = {"role": "assistant", "content": "Better, from ann@example.com."}
    await services.store.add_feedback(
        [
            feedback(1, "thumb", 1, key_id="key_1"),
            feedback(1, "thumb", -1, key_id="key_2", comment="mail ann@example.com"),
            feedback(1, "edit", "Best.", "correction", key_id="key_1"),
            feedback(1, "other", message, "correction", key_id="key_2"),
        ]
    )
    await made(services, where="feedback.thumb < 0")
    [row] = await rows(services)
    assert "ann@" not in json.dumps(row)
    assert row["reference"][1] == "Best."
    assert row["reference"][0].startswith("Better, from [EMAIL_")
    assert row["feedback"]["thumb"]["value"] == -1
    assert set(row["feedback"]) == {"thumb"}


async def test_a_row_goes_with_those_whose_feedback_it_has(services):
    await services.store.keep_traffic([record(1, user="ann"), record(2, user="ann")])
    said = feedback(1, "edit", "Bob's words.", "correction").row
    said = msgspec.structs.replace(said, user="bob")
    await services.store.add_feedback([NewFeedback(said), feedback(2, "thumb", 1)])
    await made(services)
    assert "Bob's words." in str(await rows(services))
    await made(services, review=True)
    assert await services.store.count_review_rows(ReviewFilter()) == 2
    assert (await services.deletion.delete(TrafficFilter(user="bob"))).related == 3
    assert [row["id"] for row in await rows(services)] == ["req_2"]
    [waiting] = await services.store.review_rows(ReviewFilter(), limit=2)
    assert waiting.source.id == "req_2"


async def test_personal_data_is_masked_alike_in_all_texts_of_a_dataset(services):
    text = "Write to ann@example.com or bob@example.com"
    await services.store.keep_traffic(
        [
            record(1, request=chat(text), response=answer("I wrote to ann@example.com.")),
            record(2, request=chat("Is ann@example.com right?")),
        ]
    )
    result = await made(services)
    first, second = await rows(services)
    place = first["messages"][0]["content"].split()[2]
    assert place.startswith("[EMAIL_")
    assert first["answer"] == f"I wrote to {place}."
    assert second["messages"][0]["content"] == f"Is {place} right?"
    assert result.dataset.provenance["findings"]["email"] == 4
    unmasked = await made(services, mask=False)
    assert (await rows(services))[0]["messages"][0]["content"] == text
    assert "not masked" in unmasked.dataset.source
    with pytest.raises(PermissionDeniedError):
        prepare(TrafficSelection(name="a", route="b", mask=False), now=NOW, may_unmask=False)


async def test_a_sample_is_reproducible_and_shared_out_by_strata(services):
    languages = [0] * 60 + [1] * 30 + [2] * 10
    await services.store.keep_traffic(
        [record(n, request=chat(f"{QUESTIONS[at]} {n}")) for n, at in enumerate(languages)]
    )
    result = await made(services, sample=10, stratify=("language", "length"))
    assert dropped(result) == {"not_drawn": 90}
    first = await rows(services)
    counts = [[row["language"] for row in first].count(code) for code in ("en", "de", "fr")]
    assert counts == [6, 3, 1]
    again = await made(services, sample=10, stratify=("language", "length"))
    assert again.dataset.hash == result.dataset.hash
    other = await made(services, sample=10, seed=1, stratify=("language", "length"))
    assert other.dataset.hash != result.dataset.hash
    # Without strata, a larger sample has all rows of a smaller one.
    await made(services, sample=20)
    small = {row["id"] for row in await rows(services)}
    await made(services, sample=50)
    assert small < {row["id"] for row in await rows(services)}


async def test_what_says_the_same_is_one_row_and_others_take_its_place(services):
    text = "Please tell me how I can change the address of an order that I placed yesterday, {}"
    same = [record(n, request=chat("Where is my order?")) for n in range(5)]
    alike = [record(10 + n, request=chat(text.format(n))) for n in range(5)]
    others = [record(20 + n, request=chat(f"{n} {QUESTIONS[n]}")) for n in range(3)]
    await services.store.keep_traffic([*same, *alike, *others])
    assert dropped(await made(services, dedupe=True)) == {"duplicate": 4, "near_duplicate": 4}
    assert len(await rows(services)) == 5
    # So many are drawn until there are enough.
    assert (await made(services, dedupe=True, sample=5)).funnel.rows == 5


async def test_requests_of_one_user_are_one_cluster(services):
    await services.store.keep_traffic(
        [
            record(1, user="ann", key_id="key_1"),
            record(2, user="ann", key_id="key_1"),
            record(3, user="ann", key_id="key_2"),
            record(4),
            record(5),
            record(6, conversation="c", key_id="key_1"),
            record(7, conversation="c", key_id="key_1"),
            record(8, conversation="c", key_id="key_2"),
        ]
    )
    await made(services)
    clusters = {row["id"]: row["cluster"] for row in await rows(services)}
    assert clusters["req_1"] == clusters["req_2"]
    assert clusters["req_6"] == clusters["req_7"]
    assert len(set(clusters.values())) == 6


async def test_drawn_rows_wait_for_a_review_and_those_accepted_become_a_version(services):
    question = "Where is the parcel of ann@example.com?"
    body = chat(question, temperature=0, metadata={"from": "ann"})
    await services.store.keep_traffic(
        [
            record(1, request=body, user="ann", key_id="key_1", request_id="x-1"),
            record(2, conversation="c"),
            record(3, conversation="c"),
            record(4, status=503),
        ]
    )
    thumb = feedback(1, "thumb", -1, key_id="key_1", comment="ask ann@example.com")
    edit = feedback(1, "edit", "At the post office.", "correction", key_id="key_1")
    await services.store.add_feedback([thumb, edit])
    result = await made(services, review=True)
    assert result.dataset is None
    assert dropped(result) == {"failed": 1}
    assert result.funnel.rows == 3
    assert await services.store.datasets() == []

    waiting = ReviewFilter(state="waiting", dataset="live", origin="traffic", route="chat")
    listed = await services.store.review_rows(waiting, limit=10)
    by_request = {row.source.id: row for row in listed}
    assert set(by_request) == {"req_1", "req_2", "req_3"}
    row = by_request["req_1"]
    assert "ann@" not in msgspec.json.encode(row).decode()
    assert row.content.answer == "answer number 1"
    assert row.content.reference == "At the post office."
    assert row.source.feedback == (thumb.row.id, edit.row.id)
    assert (row.source.request_id, row.source.user, row.source.at) == ("x-1", "ann", NOW - 999)

    # The same requests do not wait twice.
    with pytest.raises(ConflictError, match="3 requests with the same words as another row"):
        await made(services, review=True)

    await services.review.reject(by_request["req_2"].id, "eve")
    for request in ("req_1", "req_3"):
        await services.review.accept(by_request[request].id, "eve")
    published = await services.review.publish("live", "eve")
    assert published.published == 2
    first, third = await rows(services)
    assert first["messages"][0]["content"].startswith("Where is the parcel of [EMAIL_")
    assert first["request_parameters"] == {"temperature": 0}
    assert first["feedback"]["thumb"]["value"] == -1
    assert (first["review"]["origin"], first["review"]["request"]) == ("traffic", "req_1")
    assert first["review"]["feedback"] == [thumb.row.id, edit.row.id]
    assert (first["review"]["reviewer"], third["review"]["request"]) == ("eve", "req_3")
    assert first["cluster"] != third["cluster"]
    # Deleting the request finds the row.
    copied = await services.store.copied_rows(TrafficFilter(user="ann", route="chat"))
    assert copied.rows == {first["id"]}


async def test_requests_of_one_conversation_are_one_cluster_after_a_review(services):
    await services.store.keep_traffic([record(n, conversation="c" * (n % 2)) for n in range(4)])
    await made(services, review=True)
    for row in await services.store.review_rows(ReviewFilter(), limit=10):
        await services.review.accept(row.id, "eve")
    await services.review.publish("live", "eve")
    clusters = {row["review"]["request"]: row.get("cluster") for row in await rows(services)}
    assert clusters["req_1"] == clusters["req_3"] is not None
    assert clusters["req_0"] is clusters["req_2"] is None


async def test_what_the_review_queue_does_not_take_is_counted(services):
    queue = ReviewQueue(
        services.store,
        services.datasets,
        Review(max_rows=5, pranks=Pranks(too_short="drop", min_letters=9)),
    )
    many = [{"role": "user", "content": f"{n}"} for n in range(1001)]
    await services.store.keep_traffic(
        [
            record(10, request=chat("short?")),
            record(11, request=chat("question number 1?")),
            record(12, request=chat("", messages=many)),
            *(record(n) for n in range(9)),
        ]
    )
    datasets = TrafficDatasets(
        services.store, services.recorded, services.datasets, Review(), queue=queue
    )
    plan = prepare(TrafficSelection(name="live", route="chat", review=True), now=time.time())
    result = await datasets.create(plan, progress=lambda _: None)
    counts = dropped(result)
    assert result.funnel.rows == 5
    assert (counts["check"], counts["duplicate"], counts["unreviewable"]) == (1, 1, 1)
    assert counts["queue_full"] == 4
    assert len(await services.store.review_rows(ReviewFilter(), limit=10)) == 5
    with pytest.raises(ConflictError, match="no room"):
        await datasets.create(plan, progress=lambda _: None)


def test_who_may_not_review_and_what_is_never_stored_is_refused():
    selection = TrafficSelection(name="a", route="b", review=True)
    with pytest.raises(PermissionDeniedError, match="reviewer") as refused:
        prepare(selection, now=NOW, only="key_1")
    assert (refused.value.param, refused.value.code) == ("review", "reviewer_required")
    with pytest.raises(RequestError, match="always replaced"):
        prepare(msgspec.structs.replace(selection, mask=False), now=NOW)


async def test_feedback_about_a_conversation_counts_for_its_requests(services):
    await services.store.keep_traffic(
        [record(n, conversation="c", key_id=f"key_{n % 2}") for n in range(4)]
    )
    about_all = feedback(9, "thumb", -1).row
    about_all = msgspec.structs.replace(
        about_all, record_id="", conversation="c", subject=conversation_subject("key_0", "c")
    )
    await services.store.add_feedback([NewFeedback(about_all), feedback(2, "thumb", 1)])
    await made(services, where="feedback.thumb < 0")
    # What is about one request stands before what is about its conversation.
    assert [row["id"] for row in await rows(services)] == ["req_0"]


async def test_without_bodies_the_error_says_what_to_set_and_how_many_rows_there_were(services):
    with pytest.raises(ConflictError, match="No request of 'chat' is on record"):
        await made(services)
    await services.store.keep_traffic(
        [record(n, keep="metadata", status=200 + 300 * (n > 6)) for n in range(9)]
    )
    with pytest.raises(ConflictError) as error:
        await made(services)
    assert error.value.code == "no_rows"
    assert "record: full" in error.value.message
    assert "up to 7 rows" in error.value.message
    with pytest.raises(ConflictError, match="up to 5 rows"):
        await made(services, sample=5)
    assert await services.store.datasets() == []


async def test_a_key_gets_its_own_requests_and_feedback_alone(services):
    await services.store.keep_traffic([record(1, key_id="key_1"), record(2, key_id="key_2")])
    await services.store.add_feedback(
        [feedback(1, "thumb", 1, key_id="key_1"), feedback(1, "grade", 2, key_id="key_2")]
    )
    result = await made(services, only="key_1")
    assert dropped(result) == {}
    [row] = await rows(services)
    assert set(row["feedback"]) == {"thumb"}
    assert key_of(result.dataset) == "key_1"
    # A name that is another's is not added to.
    with pytest.raises(ConflictError, match="take another name"):
        await made(services, only="key_2")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "a/b"}, "name"),
        ({"where": "status"}, "where"),
        ({"since": "yesterday"}, "since"),
        ({"since": "1h", "until": "2h"}, "since"),
        ({"sample": 5, "stratify": ("answer",)}, "stratify"),
        ({"sample": 5, "stratify": ("route", "route")}, "stratify"),
        ({"stratify": ("route",)}, "sample"),
    ],
)
def test_a_bad_selection_is_refused_before_anything_is_read(fields, param):
    with pytest.raises(InputError) as error:
        prepare(TrafficSelection(**{"name": "n", "route": "r"} | fields), now=NOW)
    assert error.value.param == param


async def test_a_candidate_is_compared_with_the_live_answers_pair_by_pair(services, tmp_path):
    """What would the candidate have said, and is it better?"""
    await services.store.keep_traffic(
        [record(n, request=chat(f"say {n}", temperature=0), response=answer(f"say {n % 2}"),
                user=f"user {n // 2}")
         for n in range(12)]
    )  # fmt: skip
    await services.store.add_feedback(
        [feedback(n, "edit", f"say {n}", "correction") for n in range(12)]
    )
    await made(services)
    document = RunDocument(
        dataset="live",
        routes=("chat", "dataset/answer"),
        metrics=("exact_match",),
        baseline="dataset/answer",
    )
    run = await services.runs.create(document, base=tmp_path, runner="command")
    await services.jobs.execute(run.id)
    outcome = await services.runs.outcome(run.id)
    routes = {route.route: route for route in outcome.report.routes}
    assert routes["chat"].scores[0].estimate == 1.0
    assert routes["dataset/answer"].scores[0].estimate == pytest.approx(2 / 12)
    assert routes["chat"].scores[0].clusters == 6


async def test_rows_of_one_id_are_told_apart_and_deleted_together(services):
    """Records of earlier versions have the ids that clients chose."""
    await services.store.keep_traffic([record(1), record(1, at=NOW - 5), record(2)])
    await made(services)
    assert len({row["id"] for row in await rows(services)}) == 3
    assert (await services.deletion.delete(TrafficFilter(id="req_1"))).related == 2
    assert [row["id"] for row in await rows(services)] == ["req_2"]


@pytest.mark.parametrize(
    ("user", "left"), [("ann", ["req_2"]), ("none", ["req_1", "req_2"]), (None, [])]
)
async def test_requests_deleted_while_the_rows_are_written_are_left_out(
    services, tmp_path, user, left
):
    records = [record(1, user="ann"), record(2, user="bob")]
    await services.store.keep_traffic(records)

    def delete(progress):
        # Once the rows have been read, and before their lineage is stored.
        if not progress.rows:
            return
        with ThreadPoolExecutor(1) as pool:
            pool.submit(
                asyncio.run, deleted_by_another(tmp_path, TrafficFilter(user=user))
            ).result()

    plan = prepare(TrafficSelection(name="live", route="chat"), now=time.time())
    if not left:
        with pytest.raises(ConflictError, match="deleted meanwhile"):
            await services.traffic_datasets.create(plan, progress=delete)
        assert await services.store.datasets() == []
        return
    result = await services.traffic_datasets.create(plan, progress=delete)
    assert [row["id"] for row in await rows(services)] == left
    assert result.funnel.rows == result.dataset.rows == len(left)
    assert dropped(result) == ({"deleted": 1} if len(left) == 1 else {})


async def deleted_by_another(folder, matching):
    """Delete requests as another process would."""
    async with Services(parse(CONFIG.format(folder=folder), "test.yaml", {})) as services:
        await services.deletion.delete(matching)


async def test_labels_of_a_dataset_of_requests_are_deleted_with_them(services, tmp_path):
    await services.store.keep_traffic([record(1, user="ann"), record(2, user="bob")])
    await made(services)
    request = LabelRequest(route="chat", dataset="live")
    run = await begin(services.runs, request, base=tmp_path)
    await services.jobs.execute(run.id)
    await finish(services.store, services.datasets, run, name="gold")
    assert len(await rows(services, "gold")) == 2
    await services.deletion.delete(TrafficFilter(user="ann"))
    for name in ("live", "gold"):
        assert [row["id"] for row in await rows(services, name)] == ["req_2"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, {"temperature": 1, "tools": []}), ({"temperature": 0}, {"temperature": 0, "tools": []})],
)
async def test_a_row_s_parameters_are_sent_where_the_run_gives_none(services, given, expected):
    row = Row(id="1", number=1, fields={"request_parameters": {"temperature": 1, "tools": []}})
    sample = to_sample(row, lambda _: ({"role": "user", "content": "hi"},))
    requester = EvalRequester(
        services.routes, services.dispatcher, services.prices, services.traffic
    )
    request = requester.prepare("chat", sample, given, fallback=False).upstream
    sent = {name: json.loads(bytes(value)) for name, value in request.envelope.items()}
    assert sent == expected | {"messages": [{"role": "user", "content": "hi"}]}
    # What a host cannot express is left out, as it is in live requests.
    assert request.on_unsupported == "drop"


@pytest.mark.parametrize(
    "parameters", [5, [], {"model": "x"}, {"messages": []}, {"stream": True}, {"n": 2}]
)
def test_a_row_s_parameters_that_cannot_be_sent_are_refused(parameters):
    row = Row(id="1", number=1, fields={"request_parameters": parameters})
    with pytest.raises(RunDocumentError, match="request_parameters of row 1"):
        to_sample(row, lambda _: ())


@pytest.mark.parametrize("where", ["", "answer contains 'number'"])
async def test_sealed_and_live_requests_are_read_alike(tmp_path, where):
    text = CONFIG.format(folder=tmp_path).replace("{database", "{seal_after_days: 1, database")
    async with Services(parse(text, "test.yaml", {})) as services:
        old = [record(n, at=NOW - 5 * 86400 + n) for n in range(4)]
        await services.store.keep_traffic([*old, *(record(n) for n in range(4, 6))])
        sealed = await services.sealing.run_once()
        assert sealed.requests == 4
        assert (await made(services, where=where)).funnel.rows == 6
        answers = {row["id"]: row["answer"] for row in await rows(services)}
        assert answers == {f"req_{n}": f"answer number {n}" for n in range(6)}
        assert (await services.deletion.delete(TrafficFilter(id="req_2"))).related == 1


async def test_parameters_are_masked_and_stay_what_they_are_otherwise(services):
    tool = {"type": "function", "function": {"name": "f", "description": "by ann@example.com"}}
    numbers = {"seed": 4111111111111111, "temperature": 0.5, "logit_bias": {"50256": -100}}
    await services.store.keep_traffic(
        [record(1, request=chat("hi", tools=[tool], **numbers)), record(2), record(3)]
    )
    await made(services)
    first, *others = await rows(services)
    parameters = first["request_parameters"]
    description = parameters.pop("tools")[0]["function"]["description"]
    assert description.startswith("by [EMAIL_")
    assert parameters == numbers
    assert all("request_parameters" not in row for row in others)


async def test_a_process_makes_few_datasets_at_a_time(services):
    await services.store.keep_traffic([record(1)])
    begun = [asyncio.create_task(made(services, mask=False)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimitError):
        await made(services)
    await asyncio.gather(*begun)
    assert (await made(services)).funnel.rows == 1


async def test_a_key_makes_a_bounded_number_of_versions(services):
    await services.store.keep_traffic([record(1, key_id="key_1")])
    row = (await made(services, only="key_1")).dataset
    for n in range(MAX_OWN_VERSIONS - 1):
        await services.store.add_dataset(msgspec.structs.replace(row, hash=f"h{n}"))
    with pytest.raises(ConflictError, match="has made 100 versions"):
        await made(services, only="key_1")
