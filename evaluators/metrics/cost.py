"""Cost: money of the answer.

Cost().score(sample, answer)  # (Score(output="cost_usd", value=0.0021),)
"""

from __future__ import annotations

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import unscored


class Cost:
    """US dollars of the call. An unknown price has no value; it is never 0.

    See `tokens` for counts.
    """

    name = "cost"
    outputs = (
        Output(
            name="cost_usd",
            higher_is_better=False,
            high=None,
            unit="USD",
            description="What the call cost in US dollars.",
        ),
    )
    needs_reference = False
    signature = "cost|unknown:none|cached:original|v:2"
    source = "the target's usage and the configured prices"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the answer's cost."""
        del sample
        if answer.cost_usd is None:
            return unscored(self.outputs, "the price or the usage is unknown")
        return (Score(output="cost_usd", value=answer.cost_usd),)
