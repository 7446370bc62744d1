"""Which requests are recorded in a trace, and where they are in it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.telemetry import Telemetry
from router.gateway.trace_context import (
    MAX_TRACEPARENT_BYTES,
    TraceContexts,
    passed_traceparent,
    read_traceparent,
)
from router.records import new_record_id, span_id_of

INCOMING = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NONSENSE = [
    b"",
    b"nonsense",
    INCOMING.upper(),
    INCOMING[:-1],
    b"ff" + INCOMING[2:],
    b"00-" + b"0" * 32 + INCOMING[35:],
    INCOMING[:36] + b"0" * 16 + INCOMING[52:],
    INCOMING + b"x",
    INCOMING + b"\n",
    # Only a later version may go on.
    INCOMING + b"-more",
    b"cc" + INCOMING[2:] + b"more",
    b"cc" + INCOMING[2:] + b"-" + b"m" * MAX_TRACEPARENT_BYTES,
    INCOMING.replace(b"-", b"_"),
    b" " + INCOMING,
    b"\xff" * 55,
]
RECORD = new_record_id()


def contexts(**settings):
    return TraceContexts(Telemetry(**settings))


def test_the_clients_trace_goes_on():
    trace, header = contexts().begin(INCOMING, RECORD)
    assert header == ""
    assert trace.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert (trace.parent_id, trace.is_remote) == (0xB7AD6B7169203331, True)
    assert trace.span_id == span_id_of(RECORD) == int(RECORD[-16:], 16)
    sent = trace.traceparent(0xAB)
    assert sent == "00-0af7651916cd43dd8448eb211c80319c-00000000000000ab-01"


def test_a_trace_that_the_client_does_not_record_goes_on_as_it_came():
    unsampled = INCOMING[:-2] + b"00"
    assert contexts().begin(unsampled, RECORD) == (None, unsampled.decode())
    assert contexts(propagate=False).begin(unsampled, RECORD) == (None, "")


def test_a_client_that_records_is_obeyed_whatever_the_share():
    trace, _ = contexts(sample=0).begin(INCOMING, RECORD)
    assert trace.parent_id == 0xB7AD6B7169203331


@pytest.mark.parametrize("version", [b"01", b"cc", b"fe"])
def test_a_later_version_is_read_as_far_as_it_is_known(version):
    parent = read_traceparent(version + INCOMING[2:] + b"-what-comes-later")
    assert parent.span_id == 0xB7AD6B7169203331
    assert parent.sampled


@pytest.mark.parametrize("incoming", [None, *NONSENSE])
def test_nonsense_begins_a_new_trace(incoming):
    trace, header = contexts().begin(incoming, RECORD)
    assert (trace.parent_id, trace.is_remote, header) == (None, False, "")
    assert trace.trace_id != 0x0AF7651916CD43DD8448EB211C80319C


@pytest.mark.parametrize("incoming", NONSENSE)
def test_nonsense_does_not_go_on(incoming):
    assert passed_traceparent(incoming) == ""
    assert passed_traceparent(INCOMING) == INCOMING.decode()


@given(st.none() | st.binary(max_size=80), st.booleans())
def test_what_is_sent_upstream_is_always_valid(incoming, recorded):
    trace, header = contexts(sample=int(recorded)).begin(incoming, RECORD)
    sent = header if trace is None else trace.traceparent(trace.span_id)
    parent = read_traceparent(sent.encode())
    assert parent is not None
    assert parent.sampled == (trace is not None)


def test_targets_get_nothing_where_the_config_says_so():
    trace, header = contexts(propagate=False).begin(INCOMING, RECORD)
    assert (trace.traceparent(1), header) == ("", "")
    assert contexts(propagate=False, sample=0).begin(None, RECORD) == (None, "")


def test_the_share_is_that_of_the_config_and_a_larger_one_has_what_a_smaller_one_has():
    names = [("run", n) for n in range(4000)]
    recorded = {
        share: {name for name in names if contexts(sample_evaluations=share).of_evaluation(*name)}
        for share in (0.0, 0.1, 0.5, 1.0)
    }
    assert recorded[0.0] == set()
    assert len(recorded[1.0]) == 4000
    # Ids are hashes of names: the numbers are always these.
    assert 0.08 < len(recorded[0.1]) / 4000 < 0.12
    assert 0.47 < len(recorded[0.5]) / 4000 < 0.53
    assert recorded[0.1] < recorded[0.5]
    random.seed(1)
    live = [contexts(sample=0.25).begin(None, RECORD)[0] for _ in range(4000)]
    assert 0.22 < sum(trace is not None for trace in live) / 4000 < 0.28


def test_other_processes_decide_the_same_by_the_same_id():
    """As OpenTelemetry has it: recorded where the last 56 bits are not below the rejected share."""
    some = contexts(sample_evaluations=0.5)
    for n in range(200):
        recorded = some.of_evaluation("run", n) is not None
        whole = contexts().of_evaluation("run", n)
        assert recorded == ((whole.trace_id & (2**56 - 1)) >= 2**55)


def test_ids_of_evaluations_come_from_their_names():
    one, same = contexts().of_evaluation("run", "a", 0), contexts().of_evaluation("run", "a", 0)
    assert (one.trace_id, one.span_id) == (same.trace_id, same.span_id)
    other = contexts().of_evaluation("run", "a", 1)
    assert other.trace_id != one.trace_id
    # Names are not run together.
    assert contexts().of_evaluation("ru", "na", 0).trace_id != one.trace_id
    assert contexts().of_evaluation("run", "\ud800") is not None
