"""Extractive summarizers that need no model: the floor under every summarization table.

They read the last user message and nothing else: an instruction belongs into the system message.

    lead-1, lead-3   the first one or three sentences
    textrank         the three sentences most like all others, in the order of the text
                     (Mihalcea and Tarau, "TextRank: Bringing Order into Texts", EMNLP 2004)
    echo             the message itself

A line end ends a sentence, so that turns of a dialogue and headings stand alone; a text that was
wrapped at a fixed width must be unwrapped first.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from itertools import islice

import sentencex

from providers.base import AS_IT_CAME, BytesReply, Call, ProviderConfig, Reply
from providers.errors import ConfigError, ModelNotFoundError, RequestError, closest
from providers.translation.compose import (
    TOKEN,
    ComposedAnswer,
    TextPath,
    TextRequest,
    error_reply,
    events,
    model_list,
    read_question,
    usage_of,
    whole,
)
from providers.translation.translate import Rules, translate

# Part of the fingerprint: raise it with every change that can change an answer.
VERSION = 1

# The text beyond is not read (except by echo). TextRank's matrix is sentences x sentences.
MAX_CHARACTERS = 100_000
MAX_SENTENCES = 500
# Requests with more bytes leave the event loop: it would stand still for milliseconds.
THREAD_BYTES = 8_000
# A stream gives the event loop a turn after this many events.
_TURN = 64

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be because been before being but by can could
    did do does for from had has have he her here him his how i if in into is it its just me more
    most my no nor not of on only or other our out over own she should so some such than that the
    their them then there these they this those through to too under until up very was we were
    what when where which while who whom why will with would you your
    """.split()  # noqa: SIM905  # a list would take a line for each word
)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of the first MAX_CHARACTERS of a text, without space around them."""
    for line in text[:MAX_CHARACTERS].splitlines():
        for sentence in sentencex.segment("en", line):
            if stripped := sentence.strip():
                yield stripped


def lead(text: str, *, count: int) -> str:
    """Return the first `count` sentences."""
    return " ".join(islice(sentences(text), count))


def textrank(text: str, *, count: int = 3) -> str:
    """Return the `count` most central sentences, in the order of the text.

    Two sentences are as similar as the words they share, divided by log |a| + log |b|, the
    numbers of their words. Words are in lower case and without a short list of function words;
    the paper leaves that filter open. Sentences of one word are similar to none. Ties go to the
    earlier sentence.
    """
    listed = list(islice(sentences(text), MAX_SENTENCES + 1))
    if len(text) > MAX_CHARACTERS or len(listed) > MAX_SENTENCES:
        # The last one may be cut in the middle.
        listed = listed[: max(1, len(listed) - 1)]
    bags = [
        Counter(word for word in _WORD.findall(sentence.lower()) if word not in _STOP_WORDS)
        for sentence in listed
    ]
    # Late: every command imports this module, and NumPy takes its time.
    from providers.offline.sentence_ranks import rank, similarity  # noqa: PLC0415

    scores = rank(similarity(bags))
    best = sorted(range(len(listed)), key=lambda i: (-scores[i], i))[:count]
    return " ".join(listed[i] for i in sorted(best))


def _echo(text: str) -> str:
    return text


_EXTRACTS = "it only extracts text"
_RULES = Rules(
    lacking=dict.fromkeys(
        (
            "functions",
            "function_call",
            "logit_bias",
            "logprobs",
            "response_format",
            "tool_choice",
            "tools",
            "top_logprobs",
        ),
        _EXTRACTS,
    ),
    neutral={
        "logit_bias": ({},),
        "logprobs": (False,),
        "response_format": ({"type": "text"},),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
    },
)

MODELS: Mapping[str, Callable[[str], str]] = {
    "lead-1": partial(lead, count=1),
    "lead-3": partial(lead, count=3),
    "textrank": textrank,
    "echo": _echo,
}


def end_early(text: str, stop: Iterable[str], max_tokens: int | None) -> tuple[str, str]:
    """Return a text up to the first stop text or the last allowed token, and why it ended."""
    ends = [at for at in map(text.find, stop) if at >= 0]
    text = text[: min(ends, default=len(text))]
    if max_tokens is not None:
        tokens = list(islice(TOKEN.finditer(text), max_tokens + 1))
        if len(tokens) > max_tokens:
            return text[: tokens[max_tokens - 1].end()], "length"
    return text, "stop"


class BaselineConfig(ProviderConfig, frozen=True, kw_only=True):
    """The baselines' entry. `models` names those to list; all when it is empty."""

    @property
    def all_models(self) -> Collection[str]:
        """Every baseline, listed or not."""
        return MODELS


class Baseline:
    """The baselines as a provider. Requests never leave the process.

    Args:
        name: the provider's name in the config.
        config: the provider's entry.
        clock: Unix seconds, for `created`.
        new_id: a fresh identifier for each answer.
    """

    def __init__(
        self,
        name: str,
        config: BaselineConfig,
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        for model in config.models:
            if model not in MODELS:
                raise ConfigError(f"{name} has no model {model!r}.{closest(model, MODELS)}")
        self.name = name
        self._listed = config.models or tuple(MODELS)
        self.on_unsupported = config.on_unsupported
        self._clock = clock
        self._new_id = new_id
        self._segmenter = f"sentencex-{version('sentencex')}"

    async def send(self, call: Call) -> Reply:
        """Answer on the spot; a request that cannot be answered gets OpenAI's error object."""
        try:
            return await self._reply(call)
        except RequestError as error:
            return error_reply(error)

    async def _reply(self, call: Call) -> Reply:
        if call.path == "models":
            return BytesReply(model_list(self._listed))
        if call.model not in MODELS:
            raise ModelNotFoundError(
                f"{self.name} has no model {call.model!r}.{closest(call.model, MODELS)}",
                param="model",
            )
        if call.path == "embeddings":
            raise RequestError(
                f"{self.name}/{call.model} writes text; it has no embeddings",
                param="model",
                code="unsupported_model",
            )
        translation = AS_IT_CAME
        if _RULES.lacking.keys() & call.envelope.keys():
            policy = self.on_unsupported or call.on_unsupported
            translation = translate(_RULES, call, provider=self.name, policy=policy)[1]
        path: TextPath = "completions" if call.path == "completions" else "chat/completions"
        if call.size > THREAD_BYTES:
            question, answer = await asyncio.to_thread(self._answer, path, call)
        else:
            question, answer = self._answer(path, call)
        if call.stream:
            pieces = _in_turns(events(answer, include_usage=question.include_usage))
            return BytesReply(pieces, translation=translation)
        return BytesReply(whole(answer), translation=translation)

    def _answer(self, path: TextPath, call: Call) -> tuple[TextRequest, ComposedAnswer]:
        question = read_question(path, call.envelope)
        if not question.prompts:
            raise RequestError(
                "messages: there is no user message to read",
                param="messages",
                code="missing_required_parameter",
            )
        choices = []
        for prompt in question.prompts:
            text = MODELS[call.model](prompt)
            choices += [end_early(text, question.stop, question.max_tokens)] * question.n
        kind = "chatcmpl" if path == "chat/completions" else "cmpl"
        return question, ComposedAnswer(
            path=path,
            id=f"{kind}-{self._new_id()}",
            created=int(self._clock()),
            model=call.model,
            choices=tuple(choices),
            usage=usage_of(question, (text for text, _ in choices)),
            system_fingerprint=f"evalrouter-{call.model}-{VERSION}+{self._segmenter}",
        )


async def _in_turns(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for number, chunk in enumerate(chunks):
        if number % _TURN == _TURN - 1:
            await asyncio.sleep(0)
        yield chunk
