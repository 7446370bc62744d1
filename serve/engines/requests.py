"""Reads a request to a text model that runs in this process.

`read(path, envelope)` turns OpenAI's fields into a `GenerationRequest`, and refuses what the engine
cannot do. It knows nothing of torch, so that a refusal costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from providers import wire
from providers.errors import RequestError

TextEndpoint = Literal["chat/completions", "completions"]

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)] | None
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)] | None
_Probability = Annotated[float, msgspec.Meta(gt=0, le=1)] | None
_Top = Annotated[int, msgspec.Meta(ge=0, le=20)] | None

# Fields that change what is generated and that this engine does not have, with the values that
# mean "not requested". Fields that are neither here nor read below have no effect (`user`).
_LACKING: Mapping[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "guided_json": (None,),
    "guided_regex": (None,),
}


class _SamplingFields(msgspec.Struct):
    """The fields of a request to either path that say how to draw tokens."""

    temperature: _Temperature = None
    top_p: _Probability = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=wire.MAX_COUNT)] | None = None
    # As OpenAI's.
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    frequency_penalty: _Penalty = None
    presence_penalty: _Penalty = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None


class _Chat(wire.ChatCompletionRequest):
    logprobs: bool | None = None
    top_logprobs: _Top = None


class _Completion(wire.CompletionRequest):
    logprobs: _Top = None


class TokenSampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to draw the tokens of one choice.

    Attributes:
        temperature: 0 takes the likeliest token; None leaves it to the model's own way of
            generating, which for seq2seq models may be beam search.
        top_p, top_k: draw from the likeliest tokens only; 1.0 and 0 for all.
        seed: the seed of the draw; None for a fresh one.
        frequency_penalty, presence_penalty, logit_bias: as OpenAI's.
        logprobs: how many other tokens are given beside each; None gives no log probabilities.
        max_tokens: None for as many as the model has room for.
        stop: texts before which the answer ends.
    """

    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = {}
    logprobs: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to write text.

    Attributes:
        path: the request's path, which decides its form.
        messages: role and text of each message of a chat; () for `completions`.
        prompts: the texts of `completions`; () for a chat.
        n: choices to write for each prompt.
        sampling: see TokenSampling.
        stream: whether to answer with events.
        include_usage: whether a stream ends with its usage.
    """

    path: TextEndpoint
    messages: tuple[tuple[str, str], ...] = ()
    prompts: tuple[str, ...] = ()
    n: int = 1
    sampling: TokenSampling = TokenSampling()
    stream: bool = False
    include_usage: bool = False


def read(path: TextEndpoint, envelope: Mapping[str, msgspec.Raw]) -> GenerationRequest:
    """Read a request to `path`.

    Raises:
        RequestError: a field is missing, ill-typed or beyond this engine; `param` names it.
    """
    _refuse_lacking(envelope)
    sampling = wire.read_request(envelope, _SamplingFields)
    if path == "chat/completions":
        chat = wire.read_request(envelope, _Chat)
        bounds = [bound for bound in (chat.max_tokens, chat.max_completion_tokens) if bound]
        logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
        if chat.top_logprobs and not chat.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
        return GenerationRequest(
            path=path,
            messages=tuple(_message(n, message) for n, message in enumerate(chat.messages)),
            sampling=_sampling(chat, sampling, bounds, logprobs),
            **_common(chat),
        )
    completion = wire.read_request(envelope, _Completion)
    # Not OpenAI's default of 16 tokens, which would cut every summary short.
    bounds = [completion.max_tokens] if completion.max_tokens else []
    prompt = completion.prompt
    return GenerationRequest(
        path=path,
        prompts=(prompt,) if isinstance(prompt, str) else tuple(prompt),
        sampling=_sampling(completion, sampling, bounds, completion.logprobs),
        **_common(completion),
    )


def _refuse_lacking(envelope: Mapping[str, msgspec.Raw]) -> None:
    for name in _LACKING.keys() & envelope.keys():
        if _value(envelope[name]) not in _LACKING[name]:
            raise RequestError(
                f"{name}: the transformers engine cannot do this; the engines vllm and llamacpp "
                "may",
                param=name,
                code="unsupported_parameter",
            )


def _value(raw: msgspec.Raw) -> Any:
    """Return a field's value; one that cannot be read counts as requested."""
    try:
        return msgspec.json.decode(raw)
    except wire.UNREADABLE:
        return msgspec.UNSET


def _message(number: int, message: wire.Message) -> tuple[str, str]:
    content = message.content
    if isinstance(content, list) and any(part.type != "text" for part in content):
        raise RequestError(
            f"messages[{number}].content: this model reads text only",
            param=f"messages[{number}].content",
            code="unsupported_content",
        )
    # Chat templates know the older name only.
    role = "system" if message.role == "developer" else message.role
    return role, wire.message_text(content)


def _common(request: _Chat | _Completion) -> dict[str, Any]:
    options = request.stream_options
    return {
        "n": request.n or 1,
        "stream": bool(request.stream),
        "include_usage": options is not None and bool(options.include_usage),
    }


def _sampling(
    request: _Chat | _Completion, sampling: _SamplingFields, bounds: list[int], logprobs: int | None
) -> TokenSampling:
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    try:
        bias = {int(token): value for token, value in (sampling.logit_bias or {}).items()}
    except ValueError:
        raise RequestError(
            "logit_bias: its keys are token numbers", param="logit_bias", code="invalid_value"
        ) from None
    return TokenSampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p or 1.0,
        top_k=max(sampling.top_k or 0, 0),
        seed=sampling.seed,
        frequency_penalty=sampling.frequency_penalty or 0.0,
        presence_penalty=sampling.presence_penalty or 0.0,
        logit_bias=bias,
        logprobs=logprobs,
        max_tokens=min(bounds, default=None),
        stop=tuple(filter(None, stop)),
    )
