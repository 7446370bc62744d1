"""Bradley-Terry against a direct maximisation of the likelihood, and schedules."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy import optimize

from evaluators.stats.ratings import Game, chance, rate, schedule

TRUE = {"a": 1150.0, "b": 1050.0, "c": 950.0, "d": 850.0}


def play(pairs, seed=0):
    random = np.random.default_rng(seed)
    return [
        Game(a, b, float(random.random() < chance(TRUE[a], TRUE[b])), question)
        for a, b, question in pairs
    ]


def test_ratings_maximise_the_likelihood():
    games = play(schedule(list(TRUE), [f"q{n}" for n in range(60)], full=True))
    games += [Game("a", "b", 0.5, "q0")]
    found = rate(games).ratings
    names = sorted(TRUE)
    # The prior: half a win each way for every pair.
    all_games = games + [Game(a, b, 0.5, "") for n, a in enumerate(names) for b in names[n + 1 :]]

    def loss(ratings):
        at = dict(zip(names, ratings, strict=True))
        likelihood = 0.0
        for one in all_games:
            p = chance(at[one.first], at[one.second])
            likelihood += one.score * math.log(p) + (1 - one.score) * math.log(1 - p)
        return -likelihood + (sum(ratings) - 4000) ** 2

    best = optimize.minimize(loss, [1000.0] * 4, tol=1e-10).x
    assert [found[name].estimate for name in names] == pytest.approx(list(best), abs=0.5)
    assert sum(one.estimate for one in found.values()) == pytest.approx(4000)


def test_a_ring_finds_the_order_with_fewer_games():
    questions = [f"q{n}" for n in range(300)]
    ring, full = schedule(list(TRUE), questions), schedule(list(TRUE), questions, full=True)
    assert (len(ring), len(full)) == (1200, 1800)
    board = rate(play(ring))
    assert list(board.ratings) == list(TRUE)
    for name, true in TRUE.items():
        assert board.ratings[name].low < true < board.ratings[name].high
        assert board.ratings[name].n == 600
    assert ("a", "d") in board.surely


def test_equal_players_are_rarely_set_apart():
    random = np.random.default_rng(0)
    named = 0
    for seed in range(60):
        pairs = schedule(list("abcde"), [f"q{n}" for n in range(30)], seed=seed)
        games = [Game(a, b, random.choice([0.0, 0.5, 1.0]), question) for a, b, question in pairs]
        named += bool(rate(games, seed=seed).surely)
    # 5% of boards and three standard errors; at 95% for each pair it was 45% of them.
    assert named <= 3 + 3 * 1.7


def test_everybody_meets_about_equally_often_and_is_connected_on_each_question():
    names = [f"m{n}" for n in range(7)]
    pairs = schedule(names, [f"q{n}" for n in range(420)])
    met = Counter(frozenset(pair[:2]) for pair in pairs)
    assert len(met) == 21
    assert max(met.values()) - min(met.values()) < 60
    for question in {pair[2] for pair in pairs}:
        games = Counter(name for a, b, at in pairs if at == question for name in (a, b))
        assert set(games.values()) == {2}
    assert schedule(names, ["q"]) == schedule(names, ["q"])


def test_who_wins_everything_has_a_finite_rating():
    board = rate([Game("a", "b", 1.0, f"q{n}") for n in range(20)])
    assert 1000 < board.ratings["a"].estimate < 2000
    assert board.matrix == ((None, 1.0), (0.0, None))
    assert board.surely == (("a", "b"),)


def test_equal_players_are_equal():
    board = rate([Game("a", "b", 0.5, f"q{n}") for n in range(20)])
    assert board.ratings["a"].estimate == pytest.approx(1000)
    assert board.surely == ()


def test_who_never_met_has_no_common_scale():
    with pytest.raises(ValueError, match="never met"):
        rate([Game("a", "b", 1, "q"), Game("c", "d", 1, "q")])
    with pytest.raises(ValueError, match="two or more different"):
        schedule(["a"], ["q"])
    assert rate([]).ratings == {}
