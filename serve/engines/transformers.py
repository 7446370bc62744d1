"""Hugging Face's transformers as an engine: causal, seq2seq (BART, T5, LED) and embedding models.

    engine = Transformers("bart-cnn", model)     # loads; takes seconds to minutes
    reply = await engine.send(call)              # a Provider, like any host

Requests that are not streamed are generated together, as many as come within `batch_wait`. A
stream is generated on its own, in a thread of its own, so that it begins at once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import gc
import math
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec
import torch
import transformers as hf

from providers import wire
from providers.base import BytesReply, Call, Reply
from providers.errors import ConfigError, RequestError
from providers.translation.compose import error_reply, model_list
from serve.config import TransformersModel, adapter_of
from serve.engines.answers import GeneratedAnswer, usage_of
from serve.engines.decoding import Draw, Generation, GivenUpError, Watch, WatchBeams
from serve.engines.model_files import fetch, fingerprint
from serve.engines.requests import GenerationRequest, TokenSampling, read
from serve.engines.text_writer import Piece, TextWriter
from serve.engines.turn_lock import TurnLock

if TYPE_CHECKING:
    from serve.engines.lora import Adapters

# A tokenizer without a limit says a number of 30 digits.
_NO_LIMIT = 10**9
_SEQ2SEQ_LIMITS = ("max_encoder_position_embeddings", "max_position_embeddings", "n_positions")
_CAUSAL_LIMITS = ("max_position_embeddings", "n_positions", "max_sequence_length")

Batcher = Callable[..., Callable[[Generation], Awaitable[None]]]


class _Prompt:
    """What a model reads for one choice, and how much of it was cut off."""

    def __init__(self, ids: Sequence[int], truncated: int = 0) -> None:
        self.ids = ids
        self.truncated = truncated


class Transformers:
    """One loaded model.

    Args:
        name: as its users call it.
        model: what to load, and how to run it.
        batch: makes of a function for many rows one for a single row, as `batching.batched` does;
            None generates the choices of each request together, and no others.

    Raises:
        ConfigError: the files are no such model.
    """

    def __init__(
        self, name: str, model: TransformersModel, *, batch: Batcher | None = None
    ) -> None:
        self.name = name
        self._options = options = model.options
        source = fetch(model.source)
        # Nobody looks at a copy's terminal.
        hf.logging.disable_progress_bar()
        self._device, dtype = _place(options.device, options.dtype)
        if self._device.type == "cpu":
            torch.set_num_threads(options.threads or max(1, math.ceil(model.cpus)))
        known = {
            "revision": model.revision or None,
            "trust_remote_code": options.trust_remote_code,
        }
        try:
            config = hf.AutoConfig.from_pretrained(source, **known)
            self._tokenizer: Any = hf.AutoTokenizer.from_pretrained(source, **known)
            self._kind = _kind(model.task, config)
            # Weights of the same commit as the config.
            commit = getattr(config, "_commit_hash", None)
            known["revision"] = commit or known["revision"]
            loaded = _CLASSES[self._kind].from_pretrained(source, dtype=dtype, **known)
        except (OSError, ValueError) as error:
            told = " ".join(str(error).split())[:500]
            raise ConfigError(f"{name}: {source} cannot be loaded: {told}") from error
        self._model: Any = loaded.to(self._device).eval()
        self._fingerprint = _fingerprint(commit, source, self._model.dtype)
        self._adapters = _adapters(self._model, model.adapters, name)
        self._limit = options.max_model_len or _limit(self._kind, config, self._tokenizer)
        self._task = _task_settings(model.task, config)
        self._prefix = self._task.pop("prefix", "") if options.prefix is None else options.prefix
        self._task.pop("prefix", None)
        own = copy.deepcopy(getattr(loaded, "generation_config", None))
        self._generation = self._make_generation(own)
        if loaded.can_generate():
            # Each request has its own bound, which must not be told twice.
            loaded.generation_config.max_length = None
        self._template = _template(options.chat_template)
        # Drops a limit of the tokenizer's own file, once: later it would be a race of threads.
        self._tokenizer("x")
        self._turns = TurnLock()
        self._threads = ThreadPoolExecutor(model.concurrency + 1, f"generate {name}")
        self._batched = batch and batch(
            self._generate_batch,
            max_batch_size=options.max_batch_size,
            batch_wait_timeout_s=options.batch_wait,
        )

    def _make_generation(self, own: Any) -> Any:
        """How text is generated, before a request changes it."""
        if self._kind == "embedding":
            return None
        if self._kind == "seq2seq":
            settings = own
            wanted = {**self._task, **self._options.generation}
            for key, value in wanted.items():
                if not hasattr(settings, key):
                    raise ConfigError(f"{self.name}: generation has no setting {key!r}")
                setattr(settings, key, value)
        else:
            # The model's own sampling defaults would make two hosts of one model differ.
            if self._options.generation:
                raise ConfigError(
                    f"{self.name}: options.generation is for seq2seq models; send the parameters "
                    "with the request"
                )
            settings = hf.GenerationConfig(
                bos_token_id=own.bos_token_id,
                eos_token_id=own.eos_token_id,
                pad_token_id=own.pad_token_id,
            )
        settings.do_sample = False
        if settings.pad_token_id is None:
            ends = _ends(settings)
            settings.pad_token_id = self._tokenizer.pad_token_id or (ends[0] if ends else 0)
        return settings

    async def open(self) -> None:
        """Nothing: it was loaded when it was made."""

    async def close(self) -> None:
        """Give its memory back. Nothing may be asked meanwhile, or later."""
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        # What nobody waits for any more ends with its next token.
        self._threads.shutdown(cancel_futures=True)
        self._model = self._adapters = None
        # A model's parts refer to one another.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    async def send(self, call: Call) -> Reply:
        """Answer a call; a request that cannot be answered gets OpenAI's error object."""
        try:
            if call.path == "models":
                return BytesReply(model_list([self.name]))
            if call.path == "embeddings":
                return await self._embed(call)
            return await self._write(call)
        except RequestError as error:
            return error_reply(error)

    def _adapter(self, model: str) -> str:
        return adapter_of(model, self._adapters.fingerprints) if self._adapters else ""

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        # A GPU is busy with one text while the next one's step is being prepared.
        return self._turns.one() if self._device.type == "cpu" else contextlib.nullcontext()

    def _adapted(self, adapters: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        return self._adapters.using(adapters) if self._adapters else contextlib.nullcontext()

    # Text

    async def _write(self, call: Call) -> Reply:
        assert call.path in ("chat/completions", "completions")
        if self._kind == "embedding":
            raise RequestError(
                f"{self.name} gives embeddings; it writes no text",
                param="model",
                code="unsupported_model",
            )
        asked = read(call.path, call.envelope)
        adapter = self._adapter(call.model)
        known = self._fingerprint
        if self._adapters and adapter:
            known += f"-lora-{self._adapters.fingerprints[adapter]}"
        answer = GeneratedAnswer(asked.path, call.model, known, usage_events=asked.include_usage)
        prompts = await asyncio.to_thread(self._prompts, asked)
        if asked.stream:
            return BytesReply(self._stream(answer, asked, prompts, adapter))
        rows = self._rows(asked, prompts, adapter=adapter)
        try:
            if self._batched is None:
                await self._generate_batch(rows)
            else:
                await asyncio.gather(*(self._batched(row) for row in rows))
        finally:
            # When the client has left, its rows end at their next token.
            for row in rows:
                row.cancelled = True
        usage = _usage(prompts, rows)
        return BytesReply(answer.whole([row.pieces for row in rows], usage))

    async def _stream(
        self,
        answer: GeneratedAnswer,
        asked: GenerationRequest,
        prompts: Sequence[_Prompt],
        adapter: str,
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        # Bounded by max_tokens: a model must not wait for a slow client while it holds the device.
        written: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

        def teller(number: int) -> Callable[[Piece], None]:
            def tell(piece: Piece) -> None:
                loop.call_soon_threadsafe(written.put_nowait, (number, piece))

            return tell

        count = len(prompts) * asked.n
        tell = [teller(number) for number in range(count)]
        rows = self._rows(asked, prompts, tell, adapter=adapter)
        work = loop.run_in_executor(self._threads, self._generate, rows)
        work.add_done_callback(lambda _: written.put_nowait((-1, Piece(""))))
        try:
            yield b"".join(answer.begin(number) for number in range(count))
            over = False
            while not over:
                ready = [await written.get()]
                while not written.empty():
                    ready.append(written.get_nowait())
                over = ready[-1][0] < 0
                events = [answer.piece(number, piece) for number, piece in ready if number >= 0]
                if events:
                    yield b"".join(events)
            await work
            yield answer.end(_usage(prompts, rows))
        finally:
            for row in rows:
                row.cancelled = True

    def _prompts(self, asked: GenerationRequest) -> list[_Prompt]:
        """The tokens of every prompt. Takes CPU."""
        if self._kind == "seq2seq":
            return [self._encoder_input(text) for text in _texts(asked)]
        ids = (
            [self._chat(asked)]
            if asked.messages
            else [self._tokenizer(text)["input_ids"] for text in asked.prompts]
        )
        for one in ids:
            wanted = asked.sampling.max_tokens or 1
            if not one:
                raise RequestError("prompt: there is nothing to go on from", param="prompt")
            if len(one) + wanted > self._limit:
                raise RequestError(
                    f"This model has room for {self._limit} tokens; the prompt has {len(one)} and "
                    f"{wanted} more are requested.",
                    param="messages" if asked.messages else "prompt",
                    code="context_length_exceeded",
                )
        return [_Prompt(one) for one in ids]

    def _chat(self, asked: GenerationRequest) -> list[int]:
        if not (self._template or self._tokenizer.chat_template):
            raise RequestError(
                f"{self.name} has no chat template; use completions, or set options.chat_template",
                param="messages",
                code="no_chat_template",
            )
        messages = [{"role": role, "content": text} for role, text in asked.messages]
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

    def _encoder_input(self, text: str) -> _Prompt:
        ids = self._tokenizer(self._prefix + text)["input_ids"]
        over = len(ids) - self._limit
        if over <= 0:
            return _Prompt(ids)
        if not self._options.truncate:
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
        return _Prompt(ids[: self._limit - after] + ids[len(ids) - after :], over)

    def _rows(
        self,
        asked: GenerationRequest,
        prompts: Sequence[_Prompt],
        tell: Sequence[Callable[[Piece], None]] = (),
        *,
        adapter: str = "",
    ) -> list[Generation]:
        rows = []
        said = asked.sampling
        if self._kind == "seq2seq" and said.temperature is None:
            # OpenAI's default of 1 would draw where these models are used with the likeliest text.
            said = msgspec.structs.replace(said, temperature=0.0)
        if said.logprobs is not None and self._searches(said):
            raise RequestError(
                "logprobs: a beam search has none; set options.generation.num_beams: 1",
                param="logprobs",
                code="unsupported_parameter",
            )
        for number in range(len(prompts) * asked.n):
            prompt = prompts[number // asked.n]
            sampling = _of_choice(said, number)
            writer = TextWriter(
                self._decode,
                ends=_ends(self._generation),
                stop=sampling.stop,
                max_tokens=self._room(sampling, prompt),
            )
            rows.append(
                Generation(
                    prompt.ids,
                    sampling,
                    writer,
                    adapter=adapter,
                    tell=tell[number] if tell else None,
                    token_text=lambda token: str(self._tokenizer.decode([token])),
                    device=self._device,
                )
            )
        return rows

    def _decode(self, ids: Sequence[int]) -> str:
        # A list of no tokens is not text for every tokenizer.
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _room(self, sampling: TokenSampling, prompt: _Prompt) -> int:
        if self._kind == "causal":
            left = self._limit - len(prompt.ids)
            return min(sampling.max_tokens or left, left)
        # The decoder's first token is given, and counts.
        own = self._generation.max_new_tokens or (self._generation.max_length or 21) - 1
        return min(sampling.max_tokens or own, self._limit - 1)

    async def _generate_batch(self, rows: list[Generation]) -> list[None]:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._generate, rows)
        return [None] * len(rows)

    def _generate(self, rows: Sequence[Generation]) -> None:
        """Write all rows to their ends. Takes the device for as long."""
        beams: dict[int, list[Generation]] = {}
        drawn = []
        for row in rows:
            if self._searches(row.sampling):
                # A beam search has one length for all; a row that wants fewer tokens is its own.
                beams.setdefault(row.writer.max_tokens, []).append(row)
            else:
                drawn.append(row)
        if drawn:
            self._generate_drawn(drawn)
        for alike in beams.values():
            self._generate_beams(alike)

    def _searches(self, sampling: TokenSampling) -> bool:
        """Whether beams are searched: the model wants it, and the request does not want to draw."""
        return (self._generation.num_beams or 1) > 1 and not sampling.temperature

    def _generate_drawn(self, rows: Sequence[Generation]) -> None:
        settings = copy.copy(self._generation)
        settings.num_beams = 1
        # Both belong to beams alone.
        settings.early_stopping, settings.length_penalty = False, 1.0
        most = max(row.writer.max_tokens for row in rows)
        self._run(rows, settings, most, Watch(rows, self._turns.next), [Draw(rows)])

    def _generate_beams(self, rows: Sequence[Generation]) -> None:
        settings = copy.copy(self._generation)
        watch = WatchBeams(rows, self._turns.next)
        written = self._run(rows, settings, rows[0].writer.max_tokens, watch, [])
        if written is None:
            return
        for row, ids in zip(rows, written, strict=True):
            # The first token is the one that every decoder starts from.
            for token in ids[1:]:
                row.take(token)

    def _run(
        self, rows: Sequence[Generation], settings: Any, most: int, watch: Any, draw: list[Any]
    ) -> list[list[int]] | None:
        """One call of transformers; the tokens of each row, None when all were given up."""
        settings.max_new_tokens, settings.max_length = most, None
        settings.min_length = min(settings.min_length or 0, most)
        ids, mask = _padded(
            [row.prompt for row in rows], settings.pad_token_id, left=self._kind == "causal"
        )
        adapted = self._adapted([row.adapter for row in rows])
        with (
            self._turn(),
            torch.inference_mode(),
            adapted,
            contextlib.suppress(GivenUpError),
        ):
            found: torch.Tensor = self._model.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=settings,
                logits_processor=draw,
                stopping_criteria=[watch],
            )
            tokens: list[list[int]] = found.tolist()
            return tokens
        return None

    # Embeddings

    async def _embed(self, call: Call) -> Reply:
        if self._kind != "embedding":
            raise RequestError(
                f"{self.name} writes text; it has no embeddings",
                param="model",
                code="unsupported_model",
            )
        asked = wire.read_request(call.envelope, wire.EmbeddingRequest)
        if asked.encoding_format not in (None, "float", "base64"):
            raise RequestError(
                "encoding_format: float or base64", param="encoding_format", code="invalid_value"
            )
        width = self._model.config.hidden_size
        if asked.dimensions not in (None, width):
            raise RequestError(
                f"dimensions: this model has {width} only", param="dimensions", code="invalid_value"
            )
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        loop = asyncio.get_running_loop()
        vectors, tokens, truncated = await loop.run_in_executor(
            self._threads, self._vectors, texts, self._adapter(call.model)
        )
        packed = asked.encoding_format == "base64"
        data = [
            wire.Embedding(_pack(vector) if packed else vector, index)
            for index, vector in enumerate(vectors)
        ]
        usage = usage_of(tokens, 0, truncated)
        return BytesReply(wire.encode(wire.EmbeddingList(data, call.model, usage)))

    def _vectors(self, texts: Sequence[str], adapter: str) -> tuple[list[list[float]], int, int]:
        """Mean over the last layer's tokens, scaled to length 1 (Reimers, Gurevych 2019)."""
        vectors: list[list[float]] = []
        tokens = truncated = 0
        size = self._options.max_batch_size
        for start in range(0, len(texts), size):
            prompts = [self._encoder_input(text) for text in texts[start : start + size]]
            tokens += sum(len(one.ids) for one in prompts)
            truncated += sum(one.truncated for one in prompts)
            pad = self._tokenizer.pad_token_id or 0
            ids, mask = _padded([one.ids for one in prompts], pad, left=False)
            ids, mask = ids.to(self._device), mask.to(self._device)
            with torch.inference_mode(), self._adapted([adapter] * len(prompts)):
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
            unit = torch.nn.functional.normalize(mean.float(), dim=1)
            vectors += unit.tolist()
        return vectors, tokens, truncated


_CLASSES: dict[str, Any] = {
    "causal": hf.AutoModelForCausalLM,
    "seq2seq": hf.AutoModelForSeq2SeqLM,
    "embedding": hf.AutoModel,
}


def _kind(task: str, config: Any) -> str:
    """Which of the three kinds a model is.

    Raises:
        ValueError: the task needs another kind than the files are.
    """
    seq2seq = bool(config.is_encoder_decoder)
    if task == "embedding":
        return "embedding"
    if not task:
        named = " ".join(config.architectures or ())
        if not seq2seq and "CausalLM" not in named and "LMHead" not in named:
            return "embedding"
        return "seq2seq" if seq2seq else "causal"
    if (task == "chat") == seq2seq:
        wanted = "a causal" if task == "chat" else "a seq2seq"
        raise ValueError(f"task {task!r} needs {wanted} model, this is {config.model_type}")
    return "seq2seq" if seq2seq else "causal"


def _place(device: str, dtype: str) -> tuple[torch.device, Any]:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if dtype == "auto":
        return place, torch.float32 if place.type == "cpu" else "auto"
    return place, getattr(torch, dtype)


def _limit(kind: str, config: Any, tokenizer: Any) -> int:
    """Tokens that a model has room for."""
    names = _CAUSAL_LIMITS if kind == "causal" else _SEQ2SEQ_LIMITS
    said = [getattr(config, name, None) for name in names]
    found = [one for one in said if isinstance(one, int) and one > 0][:1]
    if tokenizer.model_max_length < _NO_LIMIT:
        found.append(tokenizer.model_max_length)
    return min(found, default=2048 if kind == "causal" else 512)


def _task_settings(task: str, config: Any) -> dict[str, Any]:
    """What a model's config says for a task: T5's prefix, BART's beams."""
    said = getattr(config, "task_specific_params", None) or {}
    return dict(said.get(task) or {})


def _adapters(model: Any, sources: Mapping[str, str], owner: str) -> Adapters | None:
    if not sources:
        return None
    from serve.engines.lora import Adapters  # noqa: PLC0415  # peft takes a second to import

    return Adapters(model, sources, owner)


def _template(said: str) -> str | None:
    if not said:
        return None
    if "{" in said:
        return said
    path = Path(said).expanduser()
    if not path.is_file():
        raise ConfigError(f"options.chat_template: {said}: no such file")
    return path.read_text(encoding="utf-8")


def _fingerprint(commit: str | None, source: str, dtype: torch.dtype) -> str:
    path = Path(source)
    known = commit[:12] if commit else fingerprint(path) if path.exists() else "unknown"
    return f"{known}-{str(dtype).removeprefix('torch.')}-transformers-{hf.__version__}"


def _ends(settings: Any) -> list[int]:
    ends = settings.eos_token_id
    return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]


def _of_choice(sampling: TokenSampling, number: int) -> TokenSampling:
    """Choices of one request differ although they have one seed."""
    if sampling.seed is None or not number:
        return sampling
    # The golden ratio keeps clear of neighbouring seeds, which clients use for further requests.
    return msgspec.structs.replace(sampling, seed=sampling.seed + number * 0x9E3779B97F4A7C15)


def _texts(asked: GenerationRequest) -> tuple[str, ...]:
    """What an encoder reads: the prompts, or the last user message."""
    if not asked.messages:
        return asked.prompts
    users = [text for role, text in asked.messages if role == "user"]
    if not users:
        raise RequestError(
            "messages: there is no user message to read",
            param="messages",
            code="missing_required_parameter",
        )
    return (users[-1],)


def _usage(prompts: Sequence[_Prompt], rows: Sequence[Generation]) -> wire.CompletionUsage:
    return usage_of(
        sum(len(prompt.ids) for prompt in prompts),
        sum(row.writer.tokens for row in rows),
        sum(prompt.truncated for prompt in prompts),
    )


def _padded(
    prompts: Sequence[Sequence[int]], pad: int, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers and mask, both of shape (prompts, longest)."""
    longest = max(map(len, prompts))
    ids, mask = [], []
    for one in prompts:
        more = longest - len(one)
        padding, hidden = [pad] * more, [0] * more
        ids.append(padding + list(one) if left else list(one) + padding)
        mask.append(hidden + [1] * len(one) if left else [1] * len(one) + hidden)
    return torch.tensor(ids), torch.tensor(mask)


def _pack(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
