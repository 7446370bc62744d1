"""Finds the studies of judges that used a rubric, by the marks that it leaves in their gradings."""

from __future__ import annotations

import re

from evaluators.judge.prompts import fingerprint
from evaluators.judge.rubrics import STOCK, load, stock
from providers.errors import RequestError, closest

_FINGERPRINT = re.compile(r"[0-9a-f]{12}")


def rubric_marks(named: str, *, files: bool = False) -> tuple[str, ...]:
    """Return what the `grading` of a study has in it where it used a rubric.

    Args:
        named: a stock rubric, or the twelve digits after `rubric:` in a grading.
        files: whether it may be a file of this machine as well.

    Raises:
        RequestError: it is neither.
        RunDocumentError: the file is no rubric.
    """
    if _FINGERPRINT.fullmatch(named):
        return (f"rubric:{named}",)
    if named not in STOCK and not files:
        raise RequestError(
            f"rubric: {named!r} is neither a stock rubric nor the 12 digits after 'rubric:' in the "
            f"grading of a study.{closest(named, STOCK)}",
            param="rubric",
        )
    rubric = stock(named) if named in STOCK else load(named)
    # Of single answers, and of pairs, which are judged by the heading alone.
    return (f"rubric:{rubric.fingerprint()}", f"rubric:{fingerprint(rubric.heading())}")
