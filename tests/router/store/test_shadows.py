"""Shadows: pairs that become samples of a run, what became of them, and how they are forgotten."""

from __future__ import annotations

import msgspec
import pytest
from stores import a_run

from evaluators.base import PRECOMPUTED, Answer, Cell, Judgement, Sample, Score
from providers.errors import ConflictError
from router.store.judgements import JudgementRow
from router.store.shadows import SettledPairs, ShadowPair, ShadowRow, TakenPairs
from router.store.traffic import TrafficFilter

ROUTES = [PRECOMPUTED, "up/b"]
RETRY = {"max_tries": 3, "since": 0.0}


def a_pair(name: str, *, keep: bool = True, **fields) -> ShadowPair:
    sample = Sample(
        id=name,
        messages=({"role": "user", "content": f"secret {name}"},),
        fields={"cluster": "ann"},
        answer=f"live {name}",
        parameters={"temperature": 0},
    )
    live = Answer(text=f"live {name}", target="up/a", cost_usd=0.5)
    return ShadowPair(
        **{"id": name, "at": 5.0, "user": "ann", "key_id": "key_1", "target": "up/a"} | fields,
        keep_texts=keep,
        sample=sample,
        answer=live,
    )


async def begin(store, *pairs: ShadowPair, run: str = "run_1", route: str = "chat") -> None:
    document = a_run().document | {"routes": ROUTES, "repeats": 1}
    await store.add_run(
        a_run(run, dataset_rows=0, cells=0, state="completed", document=document), []
    )
    row = ShadowRow(run=run, route=route, config={"a": [1]}, changed_at=1.0, created_at=1.0)
    await store.add_shadow(row)
    await store.add_pairs(run, pairs, max_waiting=100)


async def take(store, *, new: int = 10, again: int = 10, run: str = "run_1") -> TakenPairs:
    return await store.take_pairs(run, 30.0, new=new, again=again, **RETRY)


async def answer(store, name: str, text: str | None = "cheap", **fields) -> None:
    cell = Cell("up/b", name, 0)
    await store.keep_answer("run_1", cell, f"hash {name}", Answer(text=text, **fields), ())
    if text is not None:
        await score(store, cell, 1.0)
    await score(store, Cell(PRECOMPUTED, name, 0), 0.5)


async def score(store, cell: Cell, value: float | None, error: str = "") -> None:
    scores = [Score(output="win_rate", value=value, error=error)]
    await store.keep_scores("run_1", {cell: scores})


async def judged(store, name: str, text: str | None) -> None:
    row = JudgementRow(owner="run_1", metric="pairwise", judge="j", sample_id=name, repeat=0,
                       attempt=0, request_hash=f"j{name}", at=20.0,
                       judgement=Judgement(answer=Answer(text=text, cost_usd=0.25)))  # fmt: skip
    await store.keep_judgement(row)


async def texts(store) -> str:
    """Everything that the run says, as one text."""
    samples = [sample async for sample in store.samples("run_1")]
    results = [result async for result in store.results("run_1")]
    judgements = await store.judgements("run_1")
    return msgspec.json.encode([samples, results, judgements]).decode()


async def test_a_shadow_takes_the_place_of_the_routes_present_one(store):
    await begin(store, a_pair("r1"))
    await store.change_shadow("run_1", state="paused", reason="holiday", changed_by="key_2")
    [row] = await store.shadows()
    assert (row.state, row.reason, row.config) == ("paused", "holiday", {"a": [1]})
    await begin(store, run="run_2")
    assert [row.run for row in await store.shadows()] == ["run_2"]
    # What still waited was never sent, and a process that has not heard of it adds nothing.
    assert await store.add_pairs("run_1", [a_pair("r2")], max_waiting=9) == 0
    assert await store.shadow_funnel("run_1") == {"stopped": 2}


async def test_more_than_may_wait_is_shed(store):
    await begin(store)
    pairs = [a_pair(f"r{n}") for n in range(4)]
    assert await store.add_pairs("run_1", pairs[:2], max_waiting=3) == 2
    assert await store.add_pairs("run_1", pairs[:2], max_waiting=9) == 0  # they are there
    assert await store.add_pairs("run_1", pairs[2:], max_waiting=3) == 1
    await store.count_shadow("run_1", {"not_sampled": 7, "excluded": 0})
    assert await store.shadow_funnel("run_1") == {"waiting": 3, "shed": 1, "not_sampled": 7}
    assert await store.drop_waiting("run_1", "over_budget") == 3
    assert (await store.shadow_funnel("run_1"))["over_budget"] == 3


async def test_pairs_become_samples_with_the_live_answer_stored(store):
    await begin(store, a_pair("r1"), a_pair("r2"), a_pair("r3"))
    assert await take(store, new=2) == TakenPairs(new=2, again=0, open=2)
    run = await store.run("run_1")
    assert (run.state, run.dataset_rows, run.cells) == ("queued", 2, 4)
    samples = [sample async for sample in store.samples("run_1")]
    assert samples == [a_pair("r1").sample, a_pair("r2").sample]
    open_samples = [one async for one in store.open_samples("run_1", 2)]
    [(cell, stored)] = open_samples[0].unscored.items()
    assert cell == (PRECOMPUTED, 0)
    assert stored.answer == a_pair("r1").answer
    assert await take(store) == TakenPairs(new=1, again=0, open=3)


async def test_a_run_that_is_executed_gets_no_pairs(store):
    await begin(store, a_pair("r1"), a_pair("r2"))
    await take(store, new=1)
    assert await store.claim_run("run_1", "other", 30.0)
    with pytest.raises(ConflictError):
        await take(store)
    assert (await store.run("run_1")).dataset_rows == 1
    assert (await store.shadow_funnel("run_1"))["waiting"] == 1


async def test_nothing_is_queued_where_nothing_is_open(store):
    await begin(store)
    assert await take(store) == TakenPairs(new=0, again=0, open=0)
    assert (await store.run("run_1")).state == "completed"


async def test_pairs_are_settled_by_what_their_candidates_answered(store):
    await begin(store, *(a_pair(name) for name in ("good", "down", "tools", "judge", "open")))
    await take(store)
    await answer(store, "good")
    await answer(store, "down", None, error="down", error_code="down")
    await answer(store, "tools", None, error="tool calls", error_code="no_text")
    await answer(store, "judge")
    await judged(store, "judge", None)
    settled = await store.settle_pairs("run_1", **RETRY)
    assert settled == SettledPairs(scored=1, error=2, unjudgeable=1)
    assert await store.shadow_funnel("run_1") == {
        "scored": 1, "error": 2, "unjudgeable": 1, "taken": 1,
    }  # fmt: skip


async def test_what_failed_is_tried_again_and_nothing_else_is_sent_twice(store):
    await begin(store, a_pair("good"), a_pair("down"), a_pair("judge"))
    await take(store)
    await answer(store, "good")
    await answer(store, "down", None, error="down", error_code="down")
    await answer(store, "judge")
    await score(store, Cell("up/b", "judge", 0), None, error="the judge failed")
    await judged(store, "judge", None)
    await store.settle_pairs("run_1", **RETRY)
    assert await take(store, again=9) == TakenPairs(new=0, again=2, open=2)
    left = {one.sample.id: one async for one in store.open_samples("run_1", 2)}
    assert set(left) == {"down", "judge"}
    assert not left["down"].unscored
    assert left["down"].settled == {(PRECOMPUTED, 0)}
    # Its answer is there, and lacks the one score.
    assert left["judge"].unscored["up/b", 0].scores == ()
    # A pair is tried so often and no more.
    for _ in range(2):
        await answer(store, "down", None, error="down", error_code="down")
        await score(store, Cell("up/b", "judge", 0), None, error="the judge failed")
        await store.settle_pairs("run_1", **RETRY)
        await take(store, again=9)
    assert (await store.shadow_funnel("run_1"))["error"] == 2


async def test_texts_that_are_not_kept_go_once_they_are_scored(store):
    await begin(store, a_pair("r1", keep=False), a_pair("r2", keep=False), a_pair("r3"))
    await take(store)
    for name in ("r1", "r3"):
        await answer(store, name, f"cheap {name}", cost_usd=0.125, thinking=f"thought {name}")
        await judged(store, name, f"feedback on {name}")
    await answer(store, "r2", None, error="r2 is refused", error_code="down")
    await store.settle_pairs("run_1", **RETRY)
    left = await texts(store)
    for text in ("secret r1", "live r1", "cheap r1", "thought r1", "feedback on r1", "ann"):
        assert (text in left) == (text == "ann")
    # It may be tried once more, and the other one's route keeps bodies.
    assert "secret r2" in left
    assert "cheap r3" in left
    assert await store.deleted_texts("run_1") == 1
    # The numbers stay, and no other run gets an empty answer from the run cache.
    scored = {one.cell: one async for one in store.results("run_1", route="up/b")}
    assert scored["up/b", "r1", 0].scores == (Score(output="win_rate", value=1.0),)
    assert scored["up/b", "r1", 0].answer.cost_usd == 0.125
    assert await store.cached_answer("hash r1", 0) is None
    assert (await store.cached_answer("hash r3", 0)).text == "cheap r3"
    # After the time in which it may be tried again, those of the other go as well.
    await store.settle_pairs("run_1", max_tries=3, since=1e9)
    assert "secret r2" not in await texts(store)
    assert (await store.clusters("run_1")).keys() == {"r1", "r2", "r3"}


async def test_spending_is_that_of_candidates_and_judges_of_all_runs_of_the_route(at):
    store = at(100.0)
    await begin(store, a_pair("r1"))
    await take(store)
    await answer(store, "r1", cost_usd=0.125)
    await judged(store, "r1", "x")  # at 20
    assert await store.shadow_spending("chat", 50.0) == 0.125
    assert await store.shadow_spending("chat", 0.0) == 0.375
    await begin(store, run="run_2")
    assert await store.shadow_spending("chat", 0.0) == 0.375
    assert await store.shadow_spending("other", 0.0) == 0.0


@pytest.mark.parametrize(
    ("matching", "gone"),
    [
        (TrafficFilter(user="ann"), {"r1", "r2"}),
        (TrafficFilter(key_id="key_1"), {"r1", "r2", "r3"}),
        (TrafficFilter(id="r2"), {"r2"}),
        (TrafficFilter(route="chat"), {"r1", "r2", "r3"}),
        (TrafficFilter(route="chat", except_routes=("chat",)), set()),
        (TrafficFilter(except_routes=("other",)), {"r1", "r2", "r3"}),
        (TrafficFilter(traffic_class="eval"), set()),
        (TrafficFilter(traffic_class="live", target="up/a", status=(200, 299)), {"r1", "r2", "r3"}),
        (TrafficFilter(request_id="mine", key_id="key_1"), {"r3"}),
        (TrafficFilter(request_id="mine", key_id="key_2"), set()),
        (TrafficFilter(response_id="answer r3"), {"r3"}),
        (TrafficFilter(conversation="talk"), {"r3"}),
        (TrafficFilter(since=6.0), {"r3"}),
        (TrafficFilter(until=6.0), {"r1", "r2"}),
    ],
)
async def test_a_deletion_finds_scored_requests_and_keeps_their_numbers(store, matching, gone):
    names = {"request_id": "mine", "response_id": "answer r3", "conversation": "talk"}
    await begin(store, a_pair("r1"), a_pair("r2"), a_pair("r3", user="bob", at=7.0, **names))
    await take(store)
    for name in ("r1", "r2", "r3"):
        await answer(store, name)
        await judged(store, name, f"feedback on {name}")
    await store.settle_pairs("run_1", **RETRY)
    assert await store.forget_shadowed(matching, 1) == min(1, len(gone))
    assert await store.forget_shadowed(matching, 9) == max(0, len(gone) - 1)
    assert await store.forget_shadowed(matching, 9) == 0
    left = await texts(store)
    assert {name for name in ("r1", "r2", "r3") if f"secret {name}" not in left} == gone
    assert {name for name in ("r1", "r2", "r3") if f"feedback on {name}" not in left} == gone
    assert await store.shadow_funnel("run_1") == {"scored": 3}
    assert (await store.progress("run_1")).scored == 6


async def test_a_request_that_is_deleted_before_it_was_sent_is_never_sent(store):
    await begin(store, a_pair("waits"), a_pair("taken"), a_pair("sent"))
    await store.forget_shadowed(TrafficFilter(id="waits"), 9)
    assert await store.shadow_funnel("run_1") == {"waiting": 2, "deleted": 1}
    await take(store)
    await store.begin("run_1", Cell("up/b", "sent", 0), "hash", "up/b")
    assert await store.forget_shadowed(TrafficFilter(user="ann"), 9) == 2
    assert await store.forget_shadowed(TrafficFilter(user="ann"), 9) == 0
    assert "secret" not in await texts(store)
    assert {one.sample.id async for one in store.open_samples("run_1", 2)} == {"taken", "sent"}
    results = {one.cell: one.answer async for one in store.results("run_1", route="up/b")}
    assert results["up/b", "taken", 0].error_code == "deleted"
    # What was in flight comes back with a text, which goes with the next settling.
    await store.keep_answer("run_1", Cell("up/b", "sent", 0), "hash", Answer(text="late"), ())
    for name in ("taken", "sent"):
        await score(store, Cell(PRECOMPUTED, name, 0), 0.5)
    await score(store, Cell("up/b", "sent", 0), 1.0)
    await store.settle_pairs("run_1", **RETRY)
    assert "late" not in await texts(store)
    assert await store.shadow_funnel("run_1") == {"deleted": 3}


async def test_the_counts_of_a_run_that_is_gone_stay(store):
    await begin(store, a_pair("r1"))
    await take(store)
    await store.update_run("run_1", state="cancelled")
    await store.delete_run("run_1")
    assert await store.forget_shadowed(TrafficFilter(), 9) == 1
