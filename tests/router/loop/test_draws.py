"""Draws by keys: numbers are uniform, and say nothing about those of another draw."""

from __future__ import annotations

import pytest

from router.loop.draws import NUMBERS, draw_by
from router.records import key_of_user

COUNT = 10_000
CELLS = 10
# What chi-square with 9 and with 99 degrees of freedom exceeds once in a million times.
UNLIKELY_9, UNLIKELY_99 = 45.1, 180.8

KEYS = {
    "users by number": [key_of_user(str(n)) for n in range(COUNT)],
    "users by address": [key_of_user(f"user.{n}@example.com") for n in range(COUNT)],
    "texts": [f'"Summarize this: {"the quick brown fox " * 9}{n}"'.encode() for n in range(COUNT)],
    "texts that begin alike": [b'"' + b"a" * n + b'"' for n in range(2000)],
    "requests": [f"req_{0x187C0FFEE000000 + 1000 * n:016x}{n:016x}".encode() for n in range(COUNT)],
}


def cell(number, cells=CELLS):
    return number * cells // NUMBERS


def chi_square(cells, keys):
    counts: dict[object, int] = {}
    for key in cells:
        counts[key] = counts.get(key, 0) + 1
    expected = len(cells) / keys
    empty = keys - len(counts)
    return sum((n - expected) ** 2 / expected for n in counts.values()) + empty * expected


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_numbers_are_uniform(keys):
    for name in ("ro_1", "ro_2", "chat"):
        numbers = list(map(draw_by(name), keys))
        assert 0 <= min(numbers) < max(numbers) < NUMBERS
        assert chi_square([cell(number) for number in numbers], CELLS) < UNLIKELY_9


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_shares_vary_between_draws_as_those_of_coins_do(keys):
    # A share of 0.1 of n keys has a variance of 0.09 / n; of 200 draws, it is known within a third.
    shares = []
    for n in range(200):
        draw = draw_by(f"ro_{n}")
        shares.append(sum(draw(key) < NUMBERS // 10 for key in keys[:1000]) / 1000)
    variance = sum((share - 0.1) ** 2 for share in shares) / len(shares)
    assert 0.6 < variance / (0.09 / 1000) < 1.5


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_two_draws_are_independent(keys):
    for names in (("ro_1", "ro_2"), ("ro_1", "chat"), ("ro_187c0ffee1", "ro_187c0ffee2")):
        first, second = map(draw_by, names)
        pairs = [(cell(first(key)), cell(second(key))) for key in keys]
        assert chi_square(pairs, CELLS**2) < UNLIKELY_99


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_the_lower_half_of_a_number_says_nothing_about_the_upper_one(keys):
    for name in ("ro_1", "ro_2", "chat"):
        numbers = list(map(draw_by(name), keys))
        pairs = [(cell(number), cell(number << 32 & NUMBERS - 1)) for number in numbers]
        assert chi_square(pairs, CELLS**2) < UNLIKELY_99


def test_a_key_has_the_same_number_in_every_version_and_process():
    assert draw_by("ro_1")(key_of_user("ann")) == 11190445662716927536
