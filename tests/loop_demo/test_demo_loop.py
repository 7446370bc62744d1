"""`evalrouter demo loop`, whole: the rules decide by what they see, as they would anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from router.store.rollouts import Rollout
from router.store.sqlite import SqliteStore


def demo_loop(folder, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "router", "demo", "loop", "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop") / "new"
    return folder, demo_loop(folder).stdout


def number(text, pattern):
    return int(re.search(pattern, text)[1])


def test_what_people_say_becomes_a_dataset_that_the_candidate_replays(played):
    _, text = played
    assert number(text, r"said whether the answer was right, (\d+) said yes") > 100
    accepted = number(text, r"A reviewer accepted (\d+) of them")
    assert 0 < number(text, r"and rejected (\d+): support-reviewed@") < accepted
    assert f"Scores over {accepted} samples" in text
    assert "house/large against dataset/answer: better on exact_match." in text
    assert re.search(r"(\d+) of \1 requests were also answered by house/large", text)


async def test_the_better_candidate_is_promoted_and_the_worse_one_rolled_back(played):
    folder, text = played
    assert re.search(r"^promoted after .* answered by house/large\.$", text, re.MULTILINE)
    assert re.search(r"^rolled_back after .* answered by house/hasty\.$", text, re.MULTILINE)
    assert text.count("The route support is now: house/large (1), house/small (0)") == 2
    store = SqliteStore(folder / "evalrouter.db")
    await store.open()
    try:
        rollouts: list[Rollout] = await store.rollouts()
        decisions = [await store.rollout_decisions(rollout.id) for rollout in rollouts]
    finally:
        await store.close()
    assert [(one.candidate, one.state) for one in rollouts] == [
        ("house/hasty", "rolled_back"),
        ("house/large", "promoted"),
    ]
    # The audit has every decision of the store.
    audit = text.partition("7. The audit")[2]
    for rollout, taken in zip(rollouts, decisions, strict=True):
        assert audit.count(f"\n{rollout.candidate} ") == len(taken) >= 3
    whole = audit.replace("\n      ", " ")
    assert re.search(r"errors \(guardrail\): e-value .* times the control's$", whole, re.MULTILINE)
    lines = [line for line in audit.splitlines() if line.startswith(("house/", "    "))]
    assert max(map(len, lines)) <= 80


def test_a_folder_that_has_a_config_is_left_alone(played):
    folder, _ = played
    before = (folder / "evalrouter.yaml").read_bytes()
    assert "has an evalrouter.yaml already" in demo_loop(folder, code=2).stderr
    assert (folder / "evalrouter.yaml").read_bytes() == before
