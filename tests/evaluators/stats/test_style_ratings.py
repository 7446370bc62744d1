"""Ratings at equal style, of routes whose strength and style are known."""

import numpy as np
import pytest
import statsmodels.api as sm

from evaluators.stats.ratings import Game, chance, rate, schedule
from evaluators.stats.style_ratings import relative_difference, style_controlled

TRUE = {"a": 1100.0, "b": 1000.0, "c": 900.0}


def played(effect, *, questions=300, seed=0):
    """Games where `c` writes more, and the judge gives `effect` points for it."""
    random = np.random.default_rng(seed)
    games, styles = [], []
    for first, second, question in schedule(list(TRUE), [f"q{n}" for n in range(questions)]):
        words = [random.normal(3 if name == "c" else 2, 0.4) for name in (first, second)]
        gap = words[0] - words[1]
        won = random.random() < chance(TRUE[first] + effect * gap, TRUE[second])
        games.append(Game(first, second, float(won), question))
        styles.append((gap, random.normal()))
    return games, styles


def test_style_is_taken_out_of_the_ratings():
    games, styles = played(300)
    plain = rate(games)
    assert next(iter(plain.ratings)) == "c"
    found = style_controlled(games, styles, names=("length", "markdown"))
    assert list(found.ratings) == ["a", "b", "c"]
    for name, true in TRUE.items():
        assert found.ratings[name].low < true < found.ratings[name].high
    spread = float(np.std([gap for gap, _ in styles]))
    length, markdown = found.effects["length"], found.effects["markdown"]
    assert length.low < 300 * spread < length.high
    assert length.low > 0
    assert markdown.low < 0 < markdown.high


def test_the_estimate_is_that_of_logistic_regression():
    games, styles = played(100, questions=400)
    found = style_controlled(games, styles, names=("length", "markdown"))
    style = np.array(styles) / np.std(styles, axis=0)
    design = np.column_stack(
        [[(game.first == name) - (game.second == name) for game in games] for name in ("a", "b")]
        + [style]
    )
    fit = sm.Logit([game.score for game in games], design).fit(disp=0)
    scale = 400 / np.log(10)
    assert found.ratings["a"].estimate - found.ratings["c"].estimate == pytest.approx(
        scale * fit.params[0], abs=5
    )
    assert found.effects["length"].estimate == pytest.approx(scale * fit.params[2], abs=3)
    assert sum(one.estimate for one in found.ratings.values()) == pytest.approx(3000, abs=0.01)


def test_without_differences_of_style_there_is_nothing_to_control():
    games = [Game("a", "b", 1.0, f"q{n}") for n in range(5)]
    assert style_controlled(games, [(0.0,)] * 5, names=("length",)) is None
    assert style_controlled([], [], names=("length",)) is None
    found = style_controlled(games, [(float(n), 0.0) for n in range(5)], names=("length", "none"))
    assert list(found.effects) == ["length"]
    # Who won every game may lose the next one.
    assert found.ratings["a"].low < found.ratings["a"].estimate < found.ratings["a"].high < 3000


def test_relative_differences():
    assert relative_difference(30, 10) == 0.5
    assert relative_difference(10, 30) == -0.5
    assert relative_difference(0, 0) == 0
