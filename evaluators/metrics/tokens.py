"""Tokens: how many the prompt and the answer have, and how fast they came.

Tokens().score(sample, answer)  # prompt_tokens, completion_tokens, total_tokens, tokens_per_s
"""

from __future__ import annotations

from evaluators.base import Answer, Output, Sample, Score


class Tokens:
    """Counts as the target reported them. What it did not report has no value; it is never 0.

    `tokens_per_s` is the answer's tokens over the seconds to its last byte, so it counts the wait
    for the first token too; a cached answer has none. A blank answer has the tokens it has.
    """

    name = "tokens"
    outputs = (
        Output(
            name="prompt_tokens",
            higher_is_better=None,
            high=None,
            unit="tokens",
            description="Tokens of the prompt, as the target counted them.",
        ),
        Output(
            name="completion_tokens",
            higher_is_better=None,
            high=None,
            unit="tokens",
            description="Tokens of the answer, as the target counted them.",
        ),
        Output(
            name="total_tokens",
            higher_is_better=None,
            high=None,
            unit="tokens",
            description="Tokens of prompt and answer, as the target counted them.",
        ),
        Output(
            name="tokens_per_s",
            high=None,
            unit="tokens/s",
            description="Tokens of the answer per second, from sending to the last byte.",
        ),
    )
    needs_reference = False
    signature = "tokens|tokens:target|unknown:none|rate:last-byte|cached-rate:none|v:1"
    source = "the target's usage, and the dispatcher's clock"

    def score(self, sample: Sample, answer: Answer) -> tuple[Score, ...]:
        """Return four numbers, as far as they are known."""
        del sample
        usage = answer.usage
        prompt, completion, total = (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
        )
        if total is None and prompt is not None and completion is not None:
            total = prompt + completion
        return (
            _count("prompt_tokens", prompt),
            _count("completion_tokens", completion),
            _count("total_tokens", total),
            _rate(completion, answer),
        )


def _count(output: str, value: int | None) -> Score:
    if value is None:
        return Score(output=output, value=None, error="the target reported no usage")
    return Score(output=output, value=float(value))


def _rate(tokens: int | None, answer: Answer) -> Score:
    if tokens is None:
        return Score(output="tokens_per_s", value=None, error="the target reported no usage")
    if answer.cached or not answer.total_s:
        why = "the answer came from the cache" if answer.cached else "not measured"
        return Score(output="tokens_per_s", value=None, error=why)
    return Score(output="tokens_per_s", value=tokens / answer.total_s)
