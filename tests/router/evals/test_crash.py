"""Servers killed at random moments: what runs and requests promise must hold all the same.

A few kills of what `make test-outages` does a hundred times. The moments come from a seed that is
printed; `CRASH_SEED` repeats them.
"""

import os
import random

import pytest
from kills import MODELS, Kills, say
from servers import scripted


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_address")
    return f"sqlite:///{tmp_path}/evalrouter.db"


# Most of it is starts of servers.
@pytest.mark.timeout(400)
def test_kills_of_two_servers_lose_nothing_and_pay_for_nothing_twice(tmp_path, address):
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 10**6)
    say(f"CRASH_SEED={seed}")
    with scripted(MODELS) as upstream:
        outcome = Kills(tmp_path, address, upstream, seed=seed, samples=150).execute(5, 1.0)
    say(str(outcome))
    assert outcome.faults == []
    assert outcome.interrupted > 0
    assert outcome.requests > 0
