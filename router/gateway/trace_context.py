"""Decides which requests are recorded in a trace, and where they are in it (W3C Trace Context).

    trace_contexts = TraceContexts(settings)
    trace, header = trace_contexts.begin(headers.get(b"traceparent"), record_id)

Where a client says whether its trace is recorded, that holds. A trace that begins here is recorded
or not by the last 56 bits of its id, as OpenTelemetry's consistent sampling has it: every process
that gets the same id decides the same, and what one with a smaller share records, one with a larger
share records as well.
"""

from __future__ import annotations

import random
import re
from hashlib import sha256

from router.config.telemetry import Telemetry
from router.records import Trace, span_id_of

# A later version may go on after what the first one has.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_RANDOM_BITS = 56
# Longer than any version that is known; what is longer is not read.
MAX_TRACEPARENT_BYTES = 256


class ParentSpan:
    """What a client's `traceparent` says.

    Attributes:
        trace_id, span_id: the client's span.
        sampled: whether it is recorded.
    """

    __slots__ = ("sampled", "span_id", "trace_id")

    def __init__(self, trace_id: int, span_id: int, *, sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled


def read_traceparent(header: bytes) -> ParentSpan | None:
    """Return what a `traceparent` says; None where it is malformed, or has an id of zeros only."""
    match = _TRACEPARENT.fullmatch(header) if len(header) <= MAX_TRACEPARENT_BYTES else None
    if match is None or (match[1] == b"00" and match[5] is not None):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return ParentSpan(trace_id, span_id, sampled=bool(int(match[4], 16) & 1))


def passed_traceparent(header: bytes) -> str:
    """Return a client's `traceparent` as it goes on to targets where nothing is recorded here."""
    return "" if read_traceparent(header) is None else header.decode("ascii", "replace")


class TraceContexts:
    """Begins the traces of requests and of evaluations.

    Args:
        settings: the config's section `telemetry`.
    """

    def __init__(self, settings: Telemetry) -> None:
        self._propagates = settings.propagate
        self._live_below = _bound(settings.sample)
        self._evals_below = _bound(settings.sample_evaluations)

    def begin(self, incoming: bytes | None, record_id: str) -> tuple[Trace | None, str]:
        """Return the trace that a request is recorded in, and the header of one that is not.

        Args:
            incoming: the request's `traceparent`; without it, or where it is malformed, a new
                trace begins.
            record_id: the id of the request's record.

        Returns:
            None for a request that is not recorded, and then the `traceparent` that says so to the
            targets; "" where they get none.
        """
        parent = None if incoming is None else read_traceparent(incoming)
        if parent is not None:
            if parent.sampled:
                trace = Trace(
                    parent.trace_id,
                    span_id_of(record_id),
                    parent.span_id,
                    is_remote=True,
                    propagates=self._propagates,
                )
                return trace, ""
            assert incoming is not None, "it has been read"
            return None, incoming.decode("ascii", "replace") if self._propagates else ""
        trace_id = random.getrandbits(128) or 1
        span_id = span_id_of(record_id)
        if _is_below(trace_id, self._live_below):
            return Trace(trace_id, span_id, propagates=self._propagates), ""
        return None, f"00-{trace_id:032x}-{span_id:016x}-00" if self._propagates else ""

    def of_evaluation(self, *names: str | int) -> Trace | None:
        """Return the trace of what these names tell from anything else; None if not recorded.

        Its ids come from the names, so that whoever does more of the same finds it again.
        """
        trace_id, span_id = evaluation_ids(*names)
        if not _is_below(trace_id, self._evals_below):
            return None
        return Trace(trace_id, span_id, propagates=self._propagates)

    @property
    def has_evaluations(self) -> bool:
        """Whether anything of evaluations is recorded."""
        return self._evals_below > 0

    def below(self, trace: Trace, span_id: int) -> Trace:
        """Return the place of a request below a span of ours."""
        return Trace(trace.trace_id, span_id, trace.span_id, propagates=self._propagates)


def evaluation_ids(*names: str | int) -> tuple[int, int]:
    """Return the trace's and the first span's id of what these names tell from anything else."""
    digest = sha256("\0".join(map(str, names)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1


def _bound(share: float) -> int:
    return round(share * (1 << _RANDOM_BITS))


def _is_below(trace_id: int, bound: int) -> bool:
    """Return whether a trace is among those recorded: the higher its random bits, the sooner."""
    return (trace_id & ((1 << _RANDOM_BITS) - 1)) >= (1 << _RANDOM_BITS) - bound
