"""Writes the prompts of Prometheus 1 and 2 as published, with chat templates and sampling.

    question = absolute(rubric, instruction="...", response="...", style="prometheus-2")
    messages(question, "prometheus-2")   # for a chat endpoint
    raw(question, "prometheus-2")        # one text, for a completions endpoint

The models were trained on these texts, so headings, order, placeholders and the result tag are
theirs to the character (the two spaces included). What a rubric with another range than 1 to 5
changes is the numbers only.

Sources: Kim et al. 2023 (arXiv:2310.08491) and the model card of prometheus-13b-v1.0 for the
first; Kim et al. 2024 (arXiv:2405.01535), the model card of prometheus-7b-v2.0 and the library
prometheus-eval 0.1.20 for the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from evaluators.data.prometheus_prompts import split_prompt
from evaluators.judge import fence
from evaluators.judge.prompts import fill, text
from evaluators.judge.rubrics import Rubric, read_rubric

Style = Literal["prometheus-1", "prometheus-2"]

SAMPLING: Mapping[str, Any] = {
    "max_tokens": 1024,
    "temperature": 1.0,
    "top_p": 0.9,
    "repetition_penalty": 1.03,
}
"""The authors' sampling; `repetition_penalty` is not OpenAI's and not every host takes it."""

_TEMPLATES: Mapping[Style, str] = {
    "prometheus-1": "template-llama-2",
    "prometheus-2": "template-mistral",
}


class JudgePrompt(NamedTuple):
    """A prompt for a judge: a system text and a user text."""

    system: str
    user: str


class Parts(NamedTuple):
    """The parts of an absolute prompt; without a reference, `reference` is None."""

    instruction: str
    response: str
    reference: str | None
    rubric: Rubric


def absolute(
    rubric: Rubric,
    *,
    instruction: str,
    response: str,
    reference: str | None = None,
    style: Style = "prometheus-2",
) -> JudgePrompt:
    """Return the prompt that asks for a score of one response.

    Args:
        rubric: the question about the response, and the meaning of each score.
        instruction: the instruction that the response answers.
        response: the text to grade; quoted where it poses as a part of the prompt.
        reference: an answer that deserves the highest score; None to grade without.
        style: the Prometheus whose texts are used.
    """
    which = "prometheus-absolute" if reference is None else "prometheus-absolute-reference"
    user = fill(
        text(which),
        instruction=fence.quote(instruction),
        response=fence.quote(response),
        reference=fence.quote(reference or ""),
        rubric=rubric.text(),
        lowest=rubric.low,
        highest=rubric.high,
    )
    return JudgePrompt(_system(style, "absolute"), user)


def relative(
    rubric: Rubric,
    *,
    instruction: str,
    response_a: str,
    response_b: str,
    reference: str | None = None,
    style: Style = "prometheus-2",
) -> JudgePrompt:
    """Return the prompt that asks which of two responses is better; see `absolute`.

    Prometheus 1 was not trained for it; its prompt has its own system text all the same.
    """
    which = "prometheus-relative" if reference is None else "prometheus-relative-reference"
    user = fill(
        text(which),
        instruction=fence.quote(instruction),
        response_a=fence.quote(response_a),
        response_b=fence.quote(response_b),
        reference=fence.quote(reference or ""),
        rubric=rubric.heading(),
    )
    return JudgePrompt(_system(style, "relative"), user)


def messages(question: JudgePrompt, style: Style) -> list[dict[str, str]]:
    """Return a prompt's messages for a chat endpoint, which applies the model's own template.

    Mistral's template refuses a system message, so Prometheus 2 gets its system text before the
    prompt in the user message, as its model card does.
    """
    if style == "prometheus-2":
        return [{"role": "user", "content": f"{question.system}\n\n{question.user}"}]
    return [
        {"role": "system", "content": question.system},
        {"role": "user", "content": question.user},
    ]


def raw(question: JudgePrompt, style: Style) -> str:
    """Return a prompt for a completions endpoint, in the model's chat template.

    The token that begins a text is left out.
    Hosts add it (`<s>`) themselves; with it in the text it would be there twice.
    """
    return fill(text(_TEMPLATES[style]), system=question.system, user=question.user)


def texts(style: Style, grading: Literal["absolute", "relative"]) -> list[str]:
    """Return all that a grading's prompts are made from, to tell whether it has changed."""
    names = (f"prometheus-{grading}", f"prometheus-{grading}-reference", _TEMPLATES[style])
    return [_system(style, grading), *map(text, names)]


def read_prompt(prompt: str) -> Parts:
    """Return the parts of a published absolute prompt.

    Raises:
        ValueError: the text is no such prompt.
    """
    texts = split_prompt(prompt)
    if texts is None:
        raise ValueError("the text is no absolute prompt of Prometheus")
    return Parts(
        instruction=texts.instruction,
        response=texts.response,
        reference=texts.reference,
        rubric=read_rubric(texts.rubric),
    )


def _system(style: Style, grading: Literal["absolute", "relative"]) -> str:
    return text(
        "prometheus-1-system" if style == "prometheus-1" else f"prometheus-2-system-{grading}"
    )
