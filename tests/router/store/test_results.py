"""Samples, answers and scores: what any store promises."""

from __future__ import annotations

import asyncio
import random
import string

import pytest
from stores import a_run, answered, answered_cells, everything, failed, some_samples

from evaluators.base import Answer, Cell, Judgement, Sample, Score, Usage
from providers.errors import NotFoundError, StoreError
from router.store.judgements import JudgementRow
from router.store.people_labels import PeopleLabel
from router.store.runs import Progress, RunFilter


async def test_samples_come_back_in_order_across_pages(store):
    samples = [
        Sample(
            id=f"{(i * 7919) % 1201}",
            messages=({"role": "system", "content": "s"}, {"role": "user", "content": [{"x": i}]}),
            references=("one", "zwei 😀") if i % 2 else (),
            fields={"i": i, "f": i / 3, "none": None, "nested": {"a": [1, True]}},
        )
        for i in range(1201)
    ]
    await store.add_run(a_run(), samples)
    assert await everything(store.samples("run_1")) == samples
    assert await everything(store.samples("run_1", after=1000)) == samples[1000:]
    assert await everything(store.samples("run_1", after=1201)) == []


async def test_open_samples_are_those_with_something_left_to_do(store):
    await store.add_run(a_run(dataset_rows=1203), some_samples(1203))
    await answered(store, Cell("a", "s0", 0), "x")
    await failed(store, Cell("b", "s0", 0))
    await answered(store, Cell("a", "s1", 0), "x")
    await answered(store, Cell("b", "s1", 0))
    await store.begin("run_1", Cell("a", "s2", 0), "h", "t")
    page = await everything(store.open_samples("run_1", 2))
    assert [each.sample for each in page] == some_samples(1202, start=1)
    assert page[0].settled == {("a", 0)}
    assert page[0].unscored["b", 0].answer.text == "text"
    assert (page[1].settled, page[1].unscored) == (frozenset(), {})


FULL_ANSWER = Answer(
    text="an answer\0 with 😀",
    target="openai/gpt",
    model="gpt-2026",
    system_fingerprint="fp",
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
    cost_usd=0.1 + 0.2,
    estimated=True,
    logprob_sum=-1 / 7,
    logprob_tokens=2,
    first_byte_s=1 / 3,
    total_s=2.5,
    attempts=2,
    cached=True,
)


@pytest.mark.parametrize(
    "answer",
    [
        FULL_ANSWER,
        Answer(text=""),
        Answer(text=None, error="time-out", error_code="upstream_timeout", attempts=3),
    ],
)
async def test_an_answer_comes_back_as_it_went_in(store, answer):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s1", 0)
    await store.begin("run_1", cell, "hash", "openai/gpt")
    [before] = await everything(store.results("run_1"))
    assert (before.cell, before.answer, before.scores) == (cell, None, ())
    await store.keep_answer("run_1", cell, "hash", answer, [{"status": 429}, {"status": 200}])
    [after] = await everything(store.results("run_1"))
    assert (after.cell, after.answer) == (cell, answer)
    assert await answered_cells(store) == {cell}


async def test_an_answer_has_the_record_of_its_attempts(store):
    await store.add_run(a_run(), some_samples())
    attempts = [{"target": "p/m", "status": 429}, {"target": "p/m", "status": 200}]
    await store.keep_answer("run_1", Cell("r", "s0", 0), "h", Answer(text="a"), attempts)
    [result] = await everything(store.results("run_1"))
    assert list(result.attempts) == attempts


async def test_a_cell_is_begun_and_answered_once(store):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s0", 0)
    await store.begin("run_1", cell, "h", "t")
    with pytest.raises(StoreError, match=r"cell \(r, s0, repeat 0\) is sent already"):
        await store.begin("run_1", cell, "h", "t")
    await store.keep_answer("run_1", cell, "h", Answer(text="first"), [])
    with pytest.raises(StoreError, match="is answered already"):
        await store.keep_answer("run_1", cell, "h", Answer(text="second"), [])
    with pytest.raises(StoreError, match="is answered already"):
        await store.begin("run_1", cell, "h", "t")
    [result] = await everything(store.results("run_1"))
    assert result.answer == Answer(text="first")
    # Other repeats and routes are other cells; an answer without begin is kept as well.
    await store.keep_answer("run_1", Cell("r", "s0", 1), "h", Answer(text="other"), [])
    await store.begin("run_1", Cell("q", "s0", 0), "h", "t")
    assert await store.progress("run_1") == Progress(answered=2, failed=0, in_flight=1, scored=0)


async def test_scores_come_back_and_are_replaced_by_output(store):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s0", 0)
    await answered(store, cell)
    scores = (
        Score(output="bleu", value=1 / 3, statistics=(1.0, 2.5, 1e300)),
        Score(output="none", value=None, error="no reference"),
        Score(output="pass", value=1.0, passed=True),
        Score(output="qualified", value=0.5, note="the text was cut"),
        Score(output="refuse", value=0.0, passed=False),
    )
    await store.keep_scores("run_1", {cell: scores})
    [result] = await everything(store.results("run_1"))
    assert result.scores == scores
    await store.keep_scores("run_1", {cell: [Score(output="bleu", value=2.0)]})
    [result] = await everything(store.results("run_1"))
    assert result.scores == (Score(output="bleu", value=2.0), *scores[1:])
    assert (await store.progress("run_1")).scored == 1


async def test_only_an_answer_can_be_scored(store):
    await store.add_run(a_run(), some_samples())
    score = [Score(output="o", value=1.0)]
    with pytest.raises(StoreError, match="no answer that could be scored: it does not exist"):
        await store.keep_scores("run_1", {Cell("r", "s0", 0): score})
    await store.begin("run_1", Cell("r", "s0", 0), "h", "t")
    with pytest.raises(StoreError, match="it is sent"):
        await store.keep_scores("run_1", {Cell("r", "s0", 0): score})
    await failed(store, Cell("r", "s1", 0))
    with pytest.raises(StoreError, match="it is failed"):
        await store.keep_scores("run_1", {Cell("r", "s1", 0): score})
    await answered(store, Cell("r", "s2", 0))
    await store.keep_scores("run_1", {Cell("r", "s2", 0): []})
    assert (await store.progress("run_1")).scored == 1  # by no metrics


NAN = float("nan")


@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
async def test_numbers_that_are_not_finite_are_refused(store, bad):
    await store.add_run(a_run(), some_samples())
    cell = Cell("r", "s0", 0)
    await answered(store, cell)
    other = Cell("r", "s1", 0)
    for refused in (
        store.keep_scores("run_1", {cell: [Score(output="o", value=bad)]}),
        store.keep_scores("run_1", {cell: [Score(output="o", value=1.0, statistics=(1.0, bad))]}),
        store.keep_answer("run_1", other, "h", Answer(text="a", cost_usd=bad), []),
        store.keep_answer("run_1", other, "h", Answer(text="a"), [{"seconds": [bad]}]),
        store.add_run(a_run("run_2", document={"p": {"t": bad}}), []),
        store.add_run(a_run("run_2"), [Sample(id="s", messages=(), fields={"x": bad})]),
        store.update_run("run_1", started_at=bad),
    ):
        with pytest.raises(StoreError, match="not a finite number"):
            await refused
    assert await store.progress("run_1") == Progress(answered=1, failed=0, in_flight=0, scored=0)
    assert await store.run("run_2") is None


async def test_what_cannot_be_stored_is_a_store_error(store):
    await store.add_run(a_run(), some_samples())
    for text in ("lone surrogate \ud800", object()):
        with pytest.raises(StoreError, match="cannot keep an answer"):
            await store.keep_answer("run_1", Cell("r", "s0", 0), "h", Answer(text=text), [])
    assert await answered_cells(store) == set()


ODD = "a\0b\x10@\x10\x10 \\u0000 \0\0 😀 \x7f"


async def test_text_with_any_character_comes_back_as_it_went_in(store):
    """PostgreSQL's text cannot have NUL."""
    sample = Sample(
        id=f"s{ODD}",
        messages=({"role": "user", "content": ODD},),
        references=(ODD,),
        fields={"cluster": ODD, ODD: ODD, "other": "\\u0000\0"},
        answer=ODD,
    )
    run = a_run(name=ODD, notes=ODD, tags=(ODD, "t,"), experiment=ODD, document={ODD: ODD})
    await store.add_run(run, [sample])
    cell = Cell(f"r{ODD}", sample.id, 0)
    answer = Answer(text=ODD, thinking=ODD, model=ODD, target=ODD)
    await store.keep_answer("run_1", cell, ODD, answer, [{"target": ODD}])
    score = Score(output=ODD, value=1.0, note=ODD)
    await store.keep_scores("run_1", {cell: [score]})
    assert await everything(store.samples("run_1")) == [sample]
    [result] = await everything(store.results("run_1"))
    assert (result.cell, result.answer, result.scores) == (cell, answer, (score,))
    assert await store.clusters("run_1") == {sample.id: ODD}
    assert await store.runs(RunFilter(tag=ODD, experiment=ODD)) == [run]
    assert await store.runs(RunFilter(tag=",")) == await store.runs(RunFilter(tag="t")) == []
    assert await store.cached_answer(ODD, 0) is not None


async def test_the_id_of_a_sample_may_be_as_long_as_a_text(store):
    rng = random.Random(5)
    ids = ["".join(rng.choices(string.printable, k=20_000)) for _ in range(2)]
    await store.add_run(a_run(), [Sample(id=each, messages=()) for each in ids])
    cell = Cell("r", ids[1], 0)
    await answered(store, cell, "o")
    label = PeopleLabel(output="o", cell=cell, answer_hash="h", scores=(1.0,), chance=None, at=1.0)
    await store.keep_labels("run_1", "o", "r", [label])
    assert await store.labels("run_1") == [label]
    [result] = await everything(store.results("run_1"))
    assert result.cell == cell
    judgement = Judgement(answer=Answer(text="1"), tokens=(), request_hash="h")
    row = JudgementRow(owner="run_1", metric="m", judge="j", sample_id=ids[1], repeat=0, attempt=0,
                       request_hash="h", at=1.0, judgement=judgement)  # fmt: skip
    await store.keep_judgement(row)
    assert await store.judgements("run_1", sample_id=ids[1]) == [(1, row)]
    assert await store.judgements("run_1", sample_id=ids[0]) == []
    assert await store.judgements_of("run_1", sample_ids=[ids[1]], request_hashes=[]) == [row]
    with pytest.raises(StoreError, match="same id"):
        await store.add_run(a_run("run_2"), [Sample(id=ids[0], messages=())] * 2)


async def test_results_are_ordered_and_paged(store):
    samples = some_samples(60)  # pages of 500 end within a sample and within a route
    cells = [
        Cell(route, sample.id, repeat)
        for sample in samples
        for route in ("a", "b", "c/d")
        for repeat in range(7)
    ]
    await store.add_run(a_run(), samples)
    shuffled = random.Random(7).sample(cells, len(cells))
    shuffled.sort(key=lambda cell: cell.route, reverse=True)  # "c/d" is known to the store first
    await asyncio.gather(*(answered(store, cell, text=str(cell)) for cell in shuffled))
    results = await everything(store.results("run_1"))
    assert [result.cell for result in results] == cells
    assert all(result.answer.text == str(result.cell) for result in results)
    of_b = await everything(store.results("run_1", route="b"))
    assert [result.cell for result in of_b] == [cell for cell in cells if cell.route == "b"]
    assert await everything(store.results("run_1", route="z")) == []


async def test_each_result_is_handed_over_in_order(store):
    await store.add_run(a_run(dataset_rows=700), some_samples(700))
    for n in range(700):
        await answered(store, Cell("a", f"s{n}", 0), "x")
    taken = []
    await store.each_result("run_1", taken.append)
    assert taken == await everything(store.results("run_1"))
    with pytest.raises(NotFoundError):
        await store.each_result("run_2", taken.append)


async def test_the_cache_has_the_newest_answer_never_an_error(store, clock):
    for run_id in ("run_1", "run_2"):
        await store.add_run(a_run(run_id), some_samples())

    async def keep(run_id: str, sample: str, repeat: int, request_hash: str, **answer) -> None:
        clock.now += 1
        cell = Cell("r", sample, repeat)
        await store.keep_answer(run_id, cell, request_hash, Answer(**answer), [])

    assert await store.cached_answer("x", 0) is None
    await store.begin("run_2", Cell("r", "s2", 0), "x", "t")  # newest row, but the oldest answer
    await keep("run_2", "s2", 0, "x", text="oldest")
    await keep("run_2", "s0", 0, "x", text="newest", total_s=1.5)
    await keep("run_1", "s0", 1, "x", text="other repeat")
    await keep("run_1", "s1", 0, "y", text="other request")
    await keep("run_1", "s2", 0, "x", text=None, error="failed later")
    assert await store.cached_answer("x", 0) == Answer(
        text="newest", total_s=1.5, cached=True, cached_from="run_2"
    )
    assert await store.cached_answer("x", 1) == Answer(
        text="other repeat", cached=True, cached_from="run_1"
    )
    assert await store.cached_answer("x", 2) is None
    await store.delete_run("run_2")
    assert await store.cached_answer("x", 0) is None


async def test_answers_count_as_newest_by_when_they_came(store, clock):
    await store.add_run(a_run(), some_samples())
    for sample in ("s0", "s1"):
        await store.begin("run_1", Cell("r", sample, 0), "x", "t")
    for sample in ("s1", "s0"):
        clock.now += 1
        await store.keep_answer("run_1", Cell("r", sample, 0), "x", Answer(text=sample), [])
    assert await store.cached_answer("x", 0) == Answer(text="s0", cached=True, cached_from="run_1")


async def test_a_copy_of_a_copy_is_of_the_run_that_sent_the_request(store, clock):
    for run_id in ("run_1", "run_2", "run_3"):
        await store.add_run(a_run(run_id), some_samples())
        clock.now += 1
        answer = await store.cached_answer("x", 0) or Answer(text="first")
        await store.keep_answer(run_id, Cell("r", "s0", 0), "x", answer, [])
    [row] = await everything(store.results("run_3"))
    assert (row.answer.cached, row.answer.cached_from) == (True, "run_1")
    assert await store.origins("run_3") == await store.origins("run_2") == {"run_1": 1}
    assert await store.origins("run_1") == {}
    await store.delete_run("run_1")
    assert (await store.cached_answer("x", 0)).cached_from == "run_1"
