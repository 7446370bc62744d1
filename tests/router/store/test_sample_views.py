"""Samples one by one: which match, what a list shows of them, and people's notes."""

from __future__ import annotations

import pytest
from stores import a_run, answered, failed

from evaluators.base import Answer, Cell, Sample, Score
from providers.errors import NotFoundError
from router.store.sample_views import SampleFilter, SampleNote

ALL = {"after": 0, "until": 100, "limit": 100}


def a_note(position=1, **fields) -> SampleNote:
    values = {"key_id": "key_1", "author": "ann", "label": "", "note": "", "at": 1.0}
    return SampleNote(position=position, **values | fields)


@pytest.fixture
async def filled(store):
    """Six samples of two routes: the third failed, the fourth is cut off, texts and columns."""
    samples = [
        Sample(
            id=f"s{n}",
            messages=(
                {"role": "system", "content": "x"},
                {"role": "user", "content": f'Say "{n}"'},
            ),
            references=("Straße",) if n == 2 else (),
            fields={"topic": "a" if n % 2 else "b", "level": n, "meta": {"of": n}},
        )
        for n in range(1, 7)
    ]
    await store.add_run(a_run(cells=24, dataset_rows=6), samples)
    for n in range(1, 7):
        await answered(store, Cell("r", f"s{n}", 0), text=f"Answer {n}")
        await store.keep_scores("run_1", {Cell("r", f"s{n}", 0): [Score(output="f", value=n)]})
    await answered(store, Cell("r", "s1", 1), text="again")
    await store.keep_scores("run_1", {Cell("r", "s1", 1): [Score(output="f", value=4.0)]})
    await store.keep_scores(
        "run_1", {Cell("r", "s6", 0): [Score(output="f", value=None, error="why")]}
    )
    await failed(store, Cell("q", "s3", 0))
    await store.begin("run_1", Cell("q", "s4", 0), "hash", "p/m")
    cut = Answer(text="ENDS HERE", target="p/m", shortfall="truncated")
    await store.keep_answer("run_1", Cell("q", "s4", 0), "hash", cut, [])
    await store.begin("run_1", Cell("q", "s5", 0), "hash", "p/m")
    return store


async def test_positions_match_all_conditions_in_either_direction(filled):
    async def positions(limits=ALL, **conditions):
        return await filled.matching_positions("run_1", SampleFilter(**conditions), **limits)

    assert await positions() == [1, 2, 3, 4, 5, 6]
    assert await positions({"after": 1, "until": 5, "limit": 3}) == [2, 3, 4]
    assert await positions({"after": 1, "until": 5, "limit": 3, "backwards": True}) == [5, 4, 3]
    assert await positions(ALL | {"among": [6, 2, 9]}) == [2, 6]
    assert await positions(failed=True) == [3]
    assert await positions(column="meta.of", value="3") == [3]
    assert await positions({"after": 3, "until": 6, "limit": 9}, failed=True) == []
    assert await positions(shortfall=True) == [4]
    assert await positions(failed=True, shortfall=True) == []
    assert await positions(column="topic", value="a") == [1, 3, 5]
    assert await positions(column="level", value="4") == [4]
    assert await positions(column="none", value="") == [1, 2, 3, 4, 5, 6]
    assert await positions(text='SAY "5"') == [5]
    assert await positions(text="STRASSE") == [2]
    assert await positions(text="ends here") == [4]
    assert await positions(text="say", column="topic", value="b") == [2, 4, 6]
    backwards = ALL | {"limit": 2, "backwards": True}
    assert await positions(backwards, text="say") == [6, 5]


async def test_a_list_has_the_scores_of_all_answers_and_no_long_texts(filled):
    first, fourth, fifth = await filled.listed_samples("run_1", [1, 4, 5, 99], output="f")
    assert (first.position, first.id, first.excerpt) == (1, "s1", 'Say "1"')
    assert [(cell.route, cell.repeat, cell.value) for cell in first.cells] == [
        ("r", 0, 1.0),
        ("r", 1, 4.0),
    ]
    assert (fourth.cells[0].route, fourth.cells[0].shortfall) == ("q", "truncated")
    assert (fifth.cells[0].state, fifth.cells[0].value) == ("sent", None)
    [sixth, third] = await filled.listed_samples("run_1", [6, 3], output="f")
    assert sixth.cells[0].value is None
    assert third.cells[0].state == "failed"


async def test_a_long_message_is_not_read_for_its_excerpt(store):
    parts = [{"type": "text", "text": "a part"}, {"type": "image_url"}, {"text": "b"}]
    samples = [
        Sample(id="long", messages=({"role": "user", "content": "y" * 30_000},)),
        Sample(id="parts", messages=({"role": "user", "content": parts},)),
        Sample(id="none", messages=()),
    ]
    await store.add_run(a_run(), samples)
    listed = await store.listed_samples("run_1", [1, 2, 3], output="")
    assert [len(each.excerpt) for each in listed] == [300, len("a part b"), 0]


async def test_one_sample_is_found_and_read_with_the_answers_of_some_routes(filled):
    assert await filled.position_of("run_1", "s4") == 4
    assert await filled.position_of("run_1", "none") is None
    assert (await filled.sample_at("run_1", 4)).id == "s4"
    assert await filled.sample_at("run_1", 7) is None
    both = await filled.results_at("run_1", 4, routes=["r", "q"], repeat=0)
    assert {row.cell: row.answer.text for row in both} == {
        Cell("r", "s4", 0): "Answer 4",
        Cell("q", "s4", 0): "ENDS HERE",
    }
    [again] = await filled.results_at("run_1", 1, routes=["r"], repeat=1)
    assert (again.answer.text, again.scores[0].value) == ("again", 4.0)
    with pytest.raises(NotFoundError):
        await filled.sample_at("run_2", 1)


async def test_differences_of_samples_are_those_of_means_over_repeats(filled):
    for n, repeats in ((1, 2), (4, 1)):
        for repeat in range(repeats):
            cell = Cell("q", f"s{n}", repeat)
            if n == 1:
                await answered(filled, cell, text="q")
            await filled.keep_scores("run_1", {cell: [Score(output="f", value=n + repeat)]})
    given = {"run_id": "run_1", "output": "f", "until": 100}
    assert await filled.sample_differences(a="r", b="q", **given) == [(1, 1.0), (4, 0.0)]
    assert await filled.sample_differences(a="q", b="r", **given) == [(1, -1.0), (4, 0.0)]
    assert await filled.sample_differences(a="r", b="q", **given | {"until": 3}) == [(1, 1.0)]
    assert await filled.sample_differences(a="r", b="none", **given) == []
    assert await filled.sample_differences(a="r", b="q", **given | {"output": "g"}) == []
    same = await filled.sample_differences(a="r", b="r", **given)
    assert same == [(n, 0.0) for n in range(1, 6)]


async def test_each_person_has_one_note_on_a_sample_which_others_see(filled):
    bad = a_note(label="bad", note="A <b>name</b> is wrong", at=2.0)
    good = a_note(key_id="key_2", author="bob", label="good", at=1.0)
    for note in (a_note(label="good"), bad, good, a_note(2, note="only a text")):
        await filled.keep_note("run_1", note)
    assert await filled.notes("run_1", 1) == [good, bad]
    [first, second] = await filled.listed_samples("run_1", [1, 2], output="")
    assert (first.labels, first.notes) == (("good", "bad"), 2)
    assert (second.labels, second.notes) == ((), 1)
    assert await filled.matching_positions("run_1", SampleFilter(noted=True), **ALL) == [1, 2]
    await filled.keep_note("run_1", a_note())
    assert await filled.notes("run_1", 1) == [good]
    with pytest.raises(NotFoundError):
        await filled.keep_note("run_1", a_note(7, label="x"))
    await filled.delete_run("run_1")
    await filled.add_run(a_run(), [Sample(id="s", messages=())])
    assert await filled.notes("run_1", 1) == []
