"""A worker process: it builds metrics from their specs, and scores what comes in on its stdin.

The parent (`worker_pool.py`) writes frames (four bytes of length, then JSON): first a WorkerSetup,
then ScoringBatches. This answers with one frame Ready, then one frame of scores for each answer, in
order, each as soon as it is known, so that the parent sees which answer a metric died or hangs on.

It ends when its stdin does, so it never outlives its parent, even one that was killed.
"""

from __future__ import annotations

import ctypes
import io
import math
import os
import queue
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

import msgspec

from evaluators.base import (
    AnyMetric,
    EmbeddingMetric,
    IsolatedMetric,
    JudgeMetric,
    PreloadedMetric,
    Scorable,
    Score,
)
from evaluators.metrics.registry import build
from providers.errors import EvalrouterError

# Live requests come before scores.
_NICENESS = 10
_PR_SET_PDEATHSIG = 1

LENGTH = struct.Struct(">I")
# Not MessagePack: its integers end at 64 bits, those of a dataset's rows do not.
encode = msgspec.json.Encoder().encode


class WorkerSetup(msgspec.Struct, frozen=True):
    """The first frame to a worker: the specs of its metrics, as the run document has them."""

    specs: tuple[str | dict[str, Any], ...]


class Ready(msgspec.Struct, frozen=True):
    """The first frame from a worker: its metrics are loaded, or `error` says why they are not."""

    error: str = ""


class ScoringBatch(msgspec.Struct, frozen=True):
    """Answers to score."""

    items: tuple[Scorable, ...]


def score(metrics: Sequence[AnyMetric], item: Scorable) -> tuple[Score, ...]:
    """Compute all metrics' scores of one answer, in the order of their declared outputs.

    A metric that raises, or returns NaN, an infinity or other outputs than it declared, leaves
    scores without a value that say why; the other metrics' scores are kept.
    """
    return tuple(result for metric in metrics for result in _scores(metric, item))


def _scores(metric: AnyMetric, item: Scorable) -> Iterable[Score]:
    try:
        if isinstance(metric, IsolatedMetric):
            [scores] = metric.score_batch([item])
        else:
            assert not isinstance(metric, EmbeddingMetric | JudgeMetric), (
                "scored where the router is"
            )
            scores = metric.score(item.sample, item.answer)
    except Exception as error:  # noqa: BLE001  # a user's metric may raise anything
        return unscored(metric, f"{type(error).__name__}: {error}")
    return checked(metric, scores)


def checked(metric: AnyMetric, scores: Sequence[Score]) -> Iterable[Score]:
    """Return the scores, with an error in place of those that are not declared or not finite."""
    if [score.output for score in scores] != [output.name for output in metric.outputs]:
        return unscored(metric, "the metric returned other outputs than it declares")
    return map(_finite, scores)


def unscored(metric: AnyMetric, why: str) -> tuple[Score, ...]:
    """Return scores without a value, one for each of a metric's outputs."""
    return tuple(Score(output=output.name, value=None, error=why) for output in metric.outputs)


def _finite(score: Score) -> Score:
    numbers = score.statistics if score.value is None else (score.value, *score.statistics)
    if all(map(math.isfinite, numbers)):
        return score
    return msgspec.structs.replace(
        score, value=None, statistics=(), error="the metric returned a number that is not finite"
    )


def main() -> None:
    """Serve until stdin ends."""
    _die_with_parent()
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    # The frames' channels are ours alone: a metric's prints go to stderr, and it reads nothing.
    requests = os.fdopen(os.dup(0), "rb")
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # The process is killed in the end, which would cost what waits to be written.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()

    def report(message: Any) -> None:
        body = encode(message)
        frames.write(LENGTH.pack(len(body)) + body)
        frames.flush()

    setup = msgspec.json.decode(waiting.get(), type=WorkerSetup)
    try:
        metrics = [load(build(spec)) for spec in setup.specs]
    except EvalrouterError as error:
        report(Ready(error=error.message))
        return
    except Exception as error:  # noqa: BLE001  # a user's module may raise anything
        report(Ready(error=f"{type(error).__name__}: {error}"))
        return
    report(Ready())
    decode = msgspec.json.Decoder(ScoringBatch).decode
    while True:
        serve(metrics, decode(waiting.get()).items, report)


def load(metric: AnyMetric) -> AnyMetric:
    """Return the metric, ready to score."""
    if isinstance(metric, PreloadedMetric):
        metric.load()
    return metric


def serve(
    metrics: Sequence[AnyMetric], items: Sequence[Scorable], report: Callable[[Any], None]
) -> None:
    """Score a batch, and report each answer's scores as soon as they are known, in order."""
    [first, *others] = metrics
    if others or not isinstance(first, IsolatedMetric):
        for item in items:
            report(score(metrics, item))
        return
    done = 0
    try:
        for scores in first.score_batch(items):
            report(tuple(checked(first, scores)))
            done += 1
    except Exception:  # noqa: BLE001  # one answer must not cost the others of its batch
        for item in items[done:]:
            report(score(metrics, item))


def _listen(requests: BinaryIO, waiting: queue.SimpleQueue[bytes]) -> None:
    """Hand over frames; end the process, whatever it is doing, when its input ends."""
    while len(header := requests.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(header)
        body = requests.read(length)
        if len(body) < length:
            break
        waiting.put(body)
    os._exit(0)


def _die_with_parent() -> None:
    """Have Linux end the process, even while a metric holds the lock and `_listen` cannot run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
