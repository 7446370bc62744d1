"""Samples of requests: as many as they should be, and drawn by nothing else than the id."""

from __future__ import annotations

import random

import pytest

from router.loop.sampling import RequestSample, TrafficSample
from router.records import new_record_id

IDS = [f"req_{10**18 + n:016x}{random.Random(n).getrandbits(64):016x}" for n in range(10_000)]


def drawn(sample):
    return {record_id for record_id in IDS if sample.has(record_id)}


@pytest.mark.parametrize("kind", [RequestSample, TrafficSample])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 1.0])
def test_a_sample_has_its_share_of_the_requests(kind, share):
    for salt in ("chat", "summarizer", "ro_1"):
        found = drawn(kind(share, salt))
        # Six standard deviations.
        assert abs(len(found) - share * len(IDS)) <= 6 * (len(IDS) * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("kind", [RequestSample, TrafficSample])
def test_a_sample_of_all_has_every_request_whatever_its_id(kind):
    assert kind(1.0, "chat").has("rec_1")


@pytest.mark.parametrize("kind", [RequestSample, TrafficSample])
def test_a_sample_is_the_same_in_every_process_and_another_one_with_another_salt(kind):
    assert drawn(kind(0.1, "chat")) == drawn(kind(0.1, "chat"))
    assert drawn(kind(0.1, "chat")) != drawn(kind(0.1, "other"))


def test_who_is_drawn_for_a_shadow_says_nothing_about_who_is_drawn_for_a_judge():
    first, second = drawn(TrafficSample(0.3, "chat")), drawn(RequestSample(0.3, "ro_1"))
    assert 0.06 < len(first & second) / len(IDS) < 0.12


def test_the_digits_that_draw_samples_are_random():
    ids = [new_record_id() for _ in range(1000)]
    assert all(len(record_id) == 36 and record_id.startswith("req_") for record_id in ids)
    assert len({record_id[20:28] for record_id in ids}) > 990
    assert {digit for record_id in ids for digit in record_id[20:]} == set("0123456789abcdef")
