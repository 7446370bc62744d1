"""Fits a learned route's model in a process of its own, at a low priority.

What takes long is the held-out test: as many predictions as there are prompts. One thread computes,
and live requests come first. The process gets the model's file on its stdin, and answers with the
report on its stdout. It can be killed at any time: nothing is stored before it has ended.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import msgspec
import numpy as np

from evaluators.data.child_environment import child_environment
from providers.errors import EvalrouterError
from router.loop.learned.examples import Examples
from router.loop.learned.held_out import HeldOutReport, held_out_report
from router.loop.learned.model_file import decoded
from router.loop.learned.neighbours import Criterion, similarity

FIT_S = 900.0
_UNLIKE = 0.01
_NICENESS = 10
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; from router.loop.learned.fitting import main; main()"
)


class FitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is fitted; as in the config's LearnedRoute.

    Attributes:
        reference: the position of the target that others are compared with; -1 for none.
    """

    at_least: float | None
    within: float
    reference: int
    confidence: float
    neighbours: int
    margin: float
    min_saving: float

    @property
    def criterion(self) -> Criterion:
        """When a target is good enough."""
        return Criterion(self.at_least, self.within, self.reference, self.confidence)


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """What fitting gives.

    Attributes:
        report: the held-out test.
        low_cosine: prompts whose neighbours are less similar are unlike all that are known.
    """

    report: HeldOutReport
    low_cosine: float


class _Job(msgspec.Struct):
    options: FitOptions
    file: bytes


def fit(examples: Examples, options: FitOptions) -> Fitted:
    """Test a model held out, and see how like each other prompts of different users are."""
    report = held_out_report(
        examples,
        options.criterion,
        neighbours=options.neighbours,
        margin=options.margin,
        min_saving=options.min_saving,
    )
    return Fitted(report=report, low_cosine=_low_cosine(examples, options.neighbours))


def _low_cosine(examples: Examples, neighbours: int) -> float:
    """Return the similarity of neighbours below which a prompt is unlike all that are known.

    It is half-way between the mean cosine of two prompts and the similarity that nearly all prompts
    have among those of other users. That alone would be too much: prompts of a dataset may all be
    nearly the same, and requests are less so.
    """
    similarities = []
    total = 0.0
    for start in range(0, len(examples.vectors), 256):
        rows = slice(start, start + 256)
        cosines = examples.vectors[rows] @ examples.vectors.T
        same_unit = examples.units[rows, None] == examples.units[None, :]
        others = np.where(same_unit, np.float32(-1.0), cosines)
        similarities.append(similarity(others, neighbours))
        total += float(cosines.sum())
    low = float(np.quantile(np.concatenate(similarities), _UNLIKE))
    return (low + total / len(examples.vectors) ** 2) / 2


async def fit_apart(file: bytes, options: FitOptions) -> Fitted:
    """Return what `fit` does, computed in a process of its own.

    Raises:
        EvalrouterError: the process failed, or took too long.
    """
    job = msgspec.msgpack.encode(_Job(options, file))
    process = await asyncio.to_thread(
        subprocess.Popen,
        (sys.executable, "-c", _PROGRAM, *sys.path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    communicating = asyncio.ensure_future(asyncio.to_thread(process.communicate, job))
    try:
        async with asyncio.timeout(FIT_S):
            answer, errors = await asyncio.shield(communicating)
    except TimeoutError:
        raise EvalrouterError(f"the model was not fitted within {FIT_S:g} s") from None
    finally:
        process.kill()
        if not communicating.done():
            await asyncio.wait({communicating})
    if process.returncode:
        lines = errors.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise EvalrouterError(
            f"the process that fitted the model ended with code {process.returncode}: {lines[-1]}"
        )
    return msgspec.msgpack.decode(answer, type=Fitted)


def main() -> None:
    """Fit the model on stdin, and write the result to stdout."""
    os.nice(_NICENESS)
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Job)
    fitted = fit(decoded(job.file).examples, job.options)
    sys.stdout.buffer.write(msgspec.msgpack.encode(fitted))
