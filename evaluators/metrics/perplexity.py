"""Perplexity: how surprised the model was by its own answer, from the log probabilities it gives.

Perplexity().score(sample, answer)  # (Score(output="perplexity", value=3.2, statistics=(...)),)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluators.base import Answer, Output, Sample, Score
from evaluators.metrics.reference import unscored

# exp(709.8) is the largest a float holds; so little probability is a wrong report, not a score.
_MAX_EXPONENT = 700.0


def _from(statistics: Sequence[float]) -> float:
    total, tokens = statistics
    return math.exp(min(-total / tokens, _MAX_EXPONENT))


class Perplexity:
    """exp of minus the mean log probability of the answer's tokens.

    Request them with `parameters: {logprobs: true}`; an answer without them, or without tokens (a
    blank one), has no value. A route's score is over all its tokens together. It compares
    answers of one model only: another model has other tokens.
    """

    name = "perplexity"
    outputs = (
        Output(
            name="perplexity",
            higher_is_better=False,
            low=1.0,
            high=None,
            corpus=_from,
            description="Perplexity of the model's answers, over all their tokens.",
        ),
    )
    needs_reference = False
    signature = "perplexity|logprobs:target|unit:token|corpus:micro|blank:none|v:1"
    source = "Jelinek et al. 1977; log probabilities as the target reports them"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return the answer's perplexity, with its sum of log probabilities and its tokens."""
        del sample
        if answer.logprob_sum is None or not answer.logprob_tokens:
            return unscored(
                self.outputs,
                "the target gave no log probabilities; ask with parameters: {logprobs: true}",
            )
        # Rounding on the target's side makes a few sums slightly positive.
        statistics = (min(answer.logprob_sum, 0.0), float(answer.logprob_tokens))
        return (Score(output="perplexity", value=_from(statistics), statistics=statistics),)
