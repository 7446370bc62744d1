"""Turns the texts and messages of requests into the tokens that a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from providers.errors import ConfigError, RequestError
from serve.config import TransformersOptions
from serve.engines.pretrained import Pretrained
from serve.engines.requests import GenerationRequest


class Prompt(NamedTuple):
    """What a model reads for one choice.

    Attributes:
        ids: its tokens.
        truncated: how many tokens were cut off at its end.
    """

    ids: Sequence[int]
    truncated: int = 0


class PromptEncoder:
    """Encodes prompts for one model. Its methods take CPU, and any thread may call them.

    Args:
        pretrained: the model.
        options: its chat template, and whether a text that is too long is cut.

    Raises:
        ConfigError: the chat template's file does not exist.
    """

    def __init__(self, pretrained: Pretrained, options: TransformersOptions) -> None:
        self._name = pretrained.name
        self._seq2seq = pretrained.kind == "seq2seq"
        self._tokenizer = pretrained.tokenizer
        self._limit = pretrained.limit
        self._prefix = pretrained.prefix
        self._truncate = options.truncate
        self._template = _template(options.chat_template)

    def encode(self, request: GenerationRequest) -> list[Prompt]:
        """Return the tokens of every prompt of a request.

        Raises:
            RequestError: a prompt is empty or too long, or the chat template refuses it.
        """
        if self._seq2seq:
            return [self.encoder_input(text) for text in _texts(request)]
        prompts = (
            [self._chat(request)]
            if request.messages
            else [self._tokenizer(text)["input_ids"] for text in request.prompts]
        )
        answer = request.sampling.max_tokens or 1
        for ids in prompts:
            if not ids:
                raise RequestError("prompt: there is nothing to go on from", param="prompt")
            if len(ids) + answer > self._limit:
                raise RequestError(
                    f"This model has room for {self._limit} tokens; the prompt has {len(ids)} and "
                    f"{answer} more are requested.",
                    param="messages" if request.messages else "prompt",
                    code="context_length_exceeded",
                )
        return [Prompt(ids) for ids in prompts]

    def encoder_input(self, text: str) -> Prompt:
        """Return the tokens of a text that an encoder reads.

        Raises:
            RequestError: the text is too long, and is not to be cut.
        """
        ids = self._tokenizer(self._prefix + text)["input_ids"]
        over = len(ids) - self._limit
        if over <= 0:
            return Prompt(ids)
        if not self._truncate:
            raise RequestError(
                f"This model reads {self._limit} tokens; the text has {len(ids)}.",
                param="messages",
                code="context_length_exceeded",
            )
        # What stands after the text (an end token) stays. The tokenizer could cut too, but then
        # no other thread may use it meanwhile.
        special = set(self._tokenizer.all_special_ids)
        after = 0
        while ids[-1 - after] in special:
            after += 1
        return Prompt(ids[: self._limit - after] + ids[len(ids) - after :], over)

    def _chat(self, request: GenerationRequest) -> list[int]:
        if not (self._template or self._tokenizer.chat_template):
            raise RequestError(
                f"{self._name} has no chat template; use completions, or set options.chat_template",
                param="messages",
                code="no_chat_template",
            )
        messages = [{"role": role, "content": text} for role, text in request.messages]
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )
        except jinja2.TemplateError as error:
            # Templates refuse what their model was not trained on, such as two system messages.
            raise RequestError(
                f"messages: the model's chat template refuses them: {error}", param="messages"
            ) from error
        ids: list[int] = rendered["input_ids"]
        return ids


def _template(option: str) -> str | None:
    """Return the Jinja text of `options.chat_template`; None for the tokenizer's own."""
    if not option:
        return None
    if "{" in option:
        return option
    path = Path(option).expanduser()
    if not path.is_file():
        raise ConfigError(f"options.chat_template: {option}: no such file")
    return path.read_text(encoding="utf-8")


def _texts(request: GenerationRequest) -> tuple[str, ...]:
    """Return what an encoder reads: the prompts, or the last user message."""
    if not request.messages:
        return request.prompts
    users = [text for role, text in request.messages if role == "user"]
    if not users:
        raise RequestError(
            "messages: there is no user message to read",
            param="messages",
            code="missing_required_parameter",
        )
    return (users[-1],)
