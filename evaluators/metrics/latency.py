"""Latency: how long the answer took.

Latency().score(sample, answer)  # latency_s and first_byte_s, in that order
"""

from __future__ import annotations

from evaluators.base import Answer, Output, Sample, Score


class Latency:
    """Seconds to the last and to the first byte. A cached answer has those of the original."""

    name = "latency"
    outputs = (
        Output(
            name="latency_s",
            higher_is_better=False,
            high=None,
            unit="s",
            description="Seconds from sending to the last byte, retries included.",
        ),
        Output(
            name="first_byte_s",
            higher_is_better=False,
            high=None,
            unit="s",
            description="Seconds from sending to the first byte of the body.",
        ),
    )
    needs_reference = False
    signature = "latency|clock:monotonic|retries:yes|cached:original|v:1"
    source = "measured by the dispatcher"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return two times; one that was not measured has no value."""
        del sample
        return (
            _seconds("latency_s", answer.total_s),
            _seconds("first_byte_s", answer.first_byte_s),
        )


def _seconds(output: str, value: float | None) -> Score:
    return Score(output=output, value=value, error="not measured" if value is None else "")
