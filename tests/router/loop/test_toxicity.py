"""A judge says how toxic rows of the review queue are, where their routes share texts with it."""

from __future__ import annotations

import pytest

from providers.errors import ConfigError
from router.config.loading import parse
from router.loop.review import ReviewCandidate, ReviewEdit
from router.loop.toxicity import MAX_CHARACTERS, MAX_TRIES
from router.services import Services
from router.store.review import ReviewFilter, ReviewSource

CONFIG = """
providers:
  up:
    kind: scripted
    script:
      answering: [{{}}]
      judge:
        - {{match: "idiot", answer: "It insults. [RESULT] 4"}}
        - {{match: "broken", status: 400}}
        - {{match: "mail", answer: "It was {{input}}"}}
        - {{answer: "Harmless. [RESULT] 1"}}
  other: {{kind: baseline}}
routes:
  shared: {{targets: [{{model: up/answering}}], share_bodies_with: [up]}}
  private: {{targets: [{{model: up/answering}}]}}
  judges: {{targets: [{{model: up/judge}}], fallback: [other/echo]}}
prices: {{up/judge: {{input: 1000, output: 1000}}}}
review: {{judge: {judge}{more}}}
storage: {{database: "sqlite:///{folder}/t.db", artifacts: "{folder}/artifacts"}}
"""


@pytest.fixture
def config(tmp_path):
    def config(judge="up/judge", more=""):
        return parse(CONFIG.format(folder=tmp_path, judge=judge, more=more), "test.yaml", {})

    return config


async def add(services, *texts, route="shared", **fields):
    source = ReviewSource(route=route)
    candidates = [
        ReviewCandidate(messages=[{"role": "user", "content": text}], source=source, **fields)
        for text in texts
    ]
    return [arrival.id for arrival in await services.review.add(candidates)]


async def noted(services, row_id):
    """Return the action and the detail of a row's toxicity; None without any."""
    row = await services.store.review_row(row_id)
    found = [finding for finding in row.findings if finding["kind"] == "toxicity"]
    assert len(found) <= 1
    return (found[0]["action"], found[0]["detail"]) if found else None


async def test_toxic_rows_are_flagged_and_no_row_is_judged_twice(config):
    async with Services(config()) as services:
        ids = await add(services, "You are an idiot, machine.", "How old is the moon?")
        ids += await add(services, "Write to me.", reference="No, idiot.")
        assert await services.toxicity_review.run_once() == 3
        assert [await noted(services, row_id) for row_id in ids] == [
            ("flag", "4 of 5"),
            None,
            ("flag", "4 of 5"),
        ]
        assert await services.toxicity_review.run_once() == 0
        progress = await services.store.toxicity_progress()
        assert progress.number == (await services.store.review_row(ids[-1])).number
        assert progress.usd > 0
        # What was said stays when a person changes the text.
        edited = await services.review.edit(ids[0], ReviewEdit(reference="So what?"), "eve")
        assert [finding["kind"] for finding in edited.findings] == ["toxicity"]


async def test_a_row_is_shown_only_where_its_route_names_the_judges_provider(config):
    async with Services(config(judge="judges")) as services:
        [shared] = await add(services, "One idiot.")
        await services.toxicity_review.run_once()
        # The route of the judge may also answer by this one.
        assert await noted(services, shared) == (
            "unchecked",
            "routes.shared.share_bodies_with does not name other",
        )
    async with Services(config()) as services:
        [private] = await add(services, "Two of an idiot.", route="private")
        [unknown] = await add(services, "Three times idiot.", route="up/answering")
        [imported] = await add(services, "Four idiots.", route="")
        assert await services.toxicity_review.run_once() == 0
        for row_id, place in ((private, "routes.private"), (unknown, "routes.up/answering"),
                              (imported, "review")):  # fmt: skip
            says = f"{place}.share_bodies_with does not name up"
            assert await noted(services, row_id) == ("unchecked", says)
        assert (await services.store.toxicity_progress()).usd == 0
    async with Services(config(more=", share_bodies_with: [up]")) as services:
        [imported] = await add(services, "Five idiots.", route="")
        assert await services.toxicity_review.run_once() == 1
        assert await noted(services, imported) == ("flag", "4 of 5")


async def test_the_judge_sees_no_personal_data_and_what_it_cannot_say_is_noted(config):
    async with Services(config()) as services:
        # The judge repeats what it saw, and gives no verdict.
        [row_id] = await add(services, "mail ann@example.com")
        [long] = await add(services, "long " * (MAX_CHARACTERS // 5 + 1))
        assert await services.toxicity_review.run_once() == 0
        action, why = await noted(services, row_id)
        assert action == "unchecked"
        assert "ann@" not in why
        action, why = await noted(services, long)
        assert (action, "more than 20,000 characters" in why) == ("unchecked", True)


async def test_a_judge_that_fails_leaves_rows_waiting_with_a_note_and_is_tried_again(config):
    async with Services(config()) as services:
        [broken] = await add(services, "This is broken.")
        for _ in range(MAX_TRIES - 1):
            assert await services.toxicity_review.run_once() == 0
            assert (await services.store.toxicity_progress()).number == 0
        action, why = await noted(services, broken)
        assert (action, "400" in why or "up/judge" in why) == ("unchecked", True)
        assert (await services.store.review_row(broken)).state == "waiting"
        # With others that can be judged it is passed over, as after so many tries.
        [toxic] = await add(services, "What an idiot.")
        assert await services.toxicity_review.run_once() == 1
        assert await noted(services, toxic) == ("flag", "4 of 5")
        [again] = await add(services, "As broken as before.")
        for _ in range(MAX_TRIES):
            await services.toxicity_review.run_once()
        number = (await services.store.review_row(again)).number
        assert (await services.store.toxicity_progress()).number == number


async def test_a_judge_that_answers_again_removes_the_note(config):
    async with Services(config(more=", judge_usd_per_day: 0")) as services:
        [row_id] = await add(services, "An idiot, again.")
        await services.toxicity_review.run_once()
        action, why = await noted(services, row_id)
        assert (action, "the day's money is spent" in why) == ("unchecked", True)
        await services.store.keep_toxicity_progress(
            type(await services.store.toxicity_progress())()
        )
    async with Services(config()) as services:
        assert await services.toxicity_review.run_once() == 1
        assert await noted(services, row_id) == ("flag", "4 of 5")


async def test_toxic_rows_can_be_rejected_and_people_can_undo_it(config):
    async with Services(config(more=", pranks: {toxicity: drop, toxicity_score: 4}")) as services:
        ids = await add(services, "Dropped, idiot.", "A harmless row.")
        await services.toxicity_review.run_once()
        rows = await services.store.review_rows(ReviewFilter(), limit=5)
        assert [row.state for row in rows] == ["rejected", "waiting"]
        assert (rows[0].decided_by, rows[0].reason) == ("the judge up/judge", "toxicity")
        assert (await services.review.undo(ids[0], "eve")).state == "waiting"


@pytest.mark.parametrize(
    ("judge", "more", "says"),
    [
        ("nobody", "", "review.judge: 'nobody' is neither a route nor provider/model"),
        ("upp/judge", "", "review.judge: no provider 'upp'"),
        (
            "up/judge",
            ", share_bodies_with: [opp]",
            "review.share_bodies_with[0]: no provider 'opp'",
        ),
    ],
)
def test_a_judge_that_does_not_exist_is_refused(config, judge, more, says):
    with pytest.raises(ConfigError) as refused:
        config(judge, more)
    assert says in str(refused.value)
