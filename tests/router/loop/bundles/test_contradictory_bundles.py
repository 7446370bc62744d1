"""Bundles whose rows contradict each other, or what is said of them; their hashes fit."""

from __future__ import annotations

import json

import pytest
from bundled_runs import entries_of, exported, packed, sealed

from providers.errors import EvidenceError
from router.loop.bundles.contents import PUBLIC_KEY, SIGNATURE, canonical
from router.loop.bundles.verification import verify


def unsigned(bundle):
    """Return the entries of a bundle, which can be changed."""
    entries = entries_of(bundle)
    return {name: entries[name] for name in entries if name not in {SIGNATURE, PUBLIC_KEY}}


class Forgery:
    """The entries of a bundle as JSON, to be changed."""

    def __init__(self, bundle):
        self._entries = unsigned(bundle)
        self._rows = {}

    def rows(self, name):
        """Return the rows of an entry, or its only value."""
        if name not in self._rows:
            content = self._entries[name]
            lines = content.splitlines() if name.endswith("l") else [content]
            self._rows[name] = list(map(json.loads, lines))
        return self._rows[name]

    def whole(self, name):
        """Return an entry that is not in lines."""
        return self.rows(name)[0]

    async def verified(self, folder):
        """Return what verifies it."""
        for name, rows in self._rows.items():
            end = b"\n" if name.endswith("l") else b""
            self._entries[name] = b"".join(canonical(row) + end for row in rows)
        return await verify(packed(folder / "forged.zip", sealed(self._entries)))


@pytest.fixture
def forgery(bundle):
    return Forgery(bundle)


def scored(forgery):
    """Return a row of an answer with scores and judgements."""
    return next(row for row in forgery.rows("results.jsonl") if row["judgements"])


def second_score(forgery):
    scores = scored(forgery)["result"]["scores"]
    scores.insert(0, {**scores[0], "value": 1.0})


def second_verdict(forgery):
    scores = scored(forgery)["result"]["scores"]
    verdicts = next(score for score in scores if score.get("verdicts"))["verdicts"]
    verdicts.append({**verdicts[0], "request_hash": "other"})


def second_judgement(forgery):
    row = scored(forgery)
    row["judgements"].append(row["judgements"][0])


def other_judgement(forgery):
    rows = [row for row in forgery.rows("results.jsonl") if row["judgements"]]
    first = rows[0]["judgements"][0]
    rows[-1]["judgements"].append({**first, "at": first["at"] + 1})


def stray_judgement(forgery):
    first = scored(forgery)["judgements"][0]
    stray = {**first, "request_hash": "x", "sample_id": "none"}
    forgery.rows("judgements.jsonl").append(stray)


def same_stray_judgement(forgery):
    rows = forgery.rows("judgements.jsonl")
    rows += [{**scored(forgery)["judgements"][0], "request_hash": "x"}] * 2


def one_cell_many_times(forgery):
    rows = forgery.rows("results.jsonl")
    rows[:1] = rows[:1] * 300


def far_repeat(forgery):
    forgery.rows("results.jsonl")[1]["result"]["cell"][2] = 10**15


def other_route(forgery):
    forgery.rows("results.jsonl")[0]["result"]["cell"][0] = "up/none"


def samples_twice(forgery):
    forgery.rows("samples.jsonl").extend(list(forgery.rows("samples.jsonl")))


def rows_dropped(forgery):
    del forgery.rows("results.jsonl")[-3:]


def other_cells(forgery):
    forgery.whole("run.json")["cells"] = 136


def label_twice(forgery):
    rows = forgery.rows("labels.jsonl")
    rows.append({**rows[0], "scores": [1.0]})


def study_twice(forgery):
    rows = forgery.rows("studies.jsonl")
    rows.append(rows[0])


def item_twice(forgery):
    items = forgery.rows("studies.jsonl")[0]["detail"]["items"]
    items.append({**items[0], "people": [1.0]})


def more_answers(forgery):
    forgery.whole("routes.json")["answered_by"][0]["answers"] += 1


def answers_that_failed_with_scores(forgery):
    rows = forgery.rows("results.jsonl")
    failed = next(row["result"] for row in rows if row["result"]["answer"]["text"] is None)
    failed["scores"] = scored(forgery)["result"]["scores"]


def changed_although_kept(forgery):
    row = scored(forgery)
    row["changed"] = True
    exact = next(each for each in row["result"]["scores"] if each["output"] == "exact_match")
    exact["value"] = 0.99


def more_changed_rows(forgery):
    forgery.whole("manifest.json")["changed_rows"] = 7


def other_name(forgery):
    forgery.whole("manifest.json")["name"] = "the best run"


def other_seed(forgery):
    forgery.whole("manifest.json")["seeds"]["resampling"] = 5


@pytest.mark.parametrize(
    ("forge", "place"),
    [
        (second_score, "results.jsonl, line 1: s0 by up/echo: chrf"),
        (second_verdict, "results.jsonl, line 1: s0 by up/echo: helpfulness: verdict up/judge, 0"),
        (second_judgement, "results.jsonl, line 1: s0 by up/echo: judgement "),
        (other_judgement, ": judgement "),
        (stray_judgement, "judgements.jsonl, line 1: judgement of none"),
        (same_stray_judgement, "judgements.jsonl, line 2: x, 0, 0"),
        (one_cell_many_times, "results.jsonl, line 2: s0 by up/echo"),
        (far_repeat, "results.jsonl, line 2: s0 by up/echo, 1000000000000000"),
        (other_route, "results.jsonl, line 1: s0 by up/none"),
        (samples_twice, "samples.jsonl, line 41: s0"),
        (rows_dropped, "results.jsonl.rows"),
        (other_cells, "run.json.cells"),
        (label_twice, "labels.jsonl, line "),
        (study_twice, "studies.jsonl, line 2: cal_"),
        (item_twice, "studies.jsonl, cal_"),
        (more_answers, "routes.json.answered_by[up/echo].answers"),
        (answers_that_failed_with_scores, ": scores"),
        (changed_although_kept, "results.jsonl, line 1: s0 by up/echo: changed"),
        (more_changed_rows, "manifest.json.changed_rows"),
        (other_name, "manifest.json.name"),
        (other_seed, "manifest.json.seeds.resampling"),
    ],
)
async def test_rows_that_contradict_each_other_are_named(forgery, tmp_path, forge, place):
    forge(forgery)
    found = await forgery.verified(tmp_path)
    assert not found.refused
    assert not found.passed
    assert any(place in difference.what for difference in found.differences), found.differences
    assert "because the rows contradict each other" in found.not_recomputed[0]


async def test_what_is_forged_is_otherwise_as_it_was(forgery, tmp_path):
    forgery.rows("results.jsonl")
    assert (await forgery.verified(tmp_path)).passed


async def test_only_a_shadow_has_scores_of_deleted_texts(forgery, tmp_path):
    forgery.rows("samples.jsonl")[0]["sample"]["messages"] = []
    forgery.rows("results.jsonl")[0]["result"]["answer"]["text"] = ""
    found = await forgery.verified(tmp_path)
    assert not found.passed
    assert not any("were deleted" in sentence for sentence in found.not_recomputed)


async def test_a_number_of_rows_in_the_manifest_that_is_wrong_is_refused(bundle, tmp_path):
    entries = unsigned(bundle)
    manifest = json.loads(entries["manifest.json"])
    next(each for each in manifest["entries"] if each["name"] == "samples.jsonl")["rows"] = 68
    entries["manifest.json"] = canonical(manifest)
    found = await verify(packed(tmp_path / "b.zip", entries))
    assert found.refused == (
        "samples.jsonl is not what its manifest says: it has another number of rows"
    )


def deep_field(forgery):
    forgery.whole("numbers.json")["report"]["routes"][0]["best"] = True


def run_field(forgery):
    forgery.whole("run.json")["approved"] = "yes"


def row_field(forgery):
    scored(forgery)["result"]["scores"][0]["values"] = [1.0]


def huge_tokens(forgery):
    scored(forgery)["result"]["answer"]["usage"]["prompt_tokens"] = 10**300


def huge_cost(forgery):
    scored(forgery)["result"]["answer"]["cost_usd"] = -1e308


def huge_statistics(forgery):
    score = next(each for each in scored(forgery)["result"]["scores"] if each.get("statistics"))
    score["statistics"][0] = 1e308


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (deep_field, r"^numbers\.json: it has the field 'report\.routes\[0\]\.best'"),
        (run_field, r"^run\.json: it has the field 'approved', which is unknown here"),
        (row_field, r"^results\.jsonl, line 1: it has the field 'result\.scores\[0\]\.values'"),
        (huge_tokens, r"^results\.jsonl, line 1: "),
        (huge_cost, r"^results\.jsonl, line 1: .*a number is larger than 1e\+60"),
        (huge_statistics, r"^results\.jsonl, line 1: .*a number is larger than 1e\+60"),
    ],
)
async def test_fields_and_numbers_that_nothing_reads_are_refused(forgery, tmp_path, forge, message):
    forge(forgery)
    with pytest.raises(EvidenceError, match=message):
        await forgery.verified(tmp_path)


async def test_a_field_that_is_there_twice_is_refused(bundle, tmp_path):
    """Other readers of JSON take the first."""
    entries = unsigned(bundle)
    numbers = entries["numbers.json"]
    entries["numbers.json"] = numbers.replace(b'"passed":', b'"passed":true,"passed":', 1)
    with pytest.raises(EvidenceError, match="it has the field 'passed' twice"):
        await verify(packed(tmp_path / "b.zip", sealed(entries)))


async def test_texts_of_a_bundle_of_hashes_are_hashes(evidence, tmp_path):
    await exported(evidence, tmp_path / "h.zip", bodies="hashes")
    forgery = Forgery(tmp_path / "h.zip")
    row = forgery.rows("results.jsonl")[0]
    row["result"]["answer"]["text"] = "A text of whoever forged it."
    found = await forgery.verified(tmp_path)
    assert [difference.what for difference in found.differences] == [
        "results.jsonl, line 1: s0 by up/echo: text"
    ]
