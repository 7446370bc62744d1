"""Hugging Face's transformers as an engine: causal, seq2seq (BART, T5, LED) and embedding models.

    engine = Transformers("bart-cnn", model)     # loads; takes seconds to minutes
    reply = await engine.send(call)              # a Provider, like any host

Requests that are not streamed are generated together, as many as come within `batch_wait`. A
stream is generated on its own, in a thread of its own, so that it begins at once.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import torch

from providers import wire
from providers.base import BytesReply, Call, ModelFacts, Reply
from providers.errors import RequestError
from providers.translation.compose import error_reply, model_list
from serve.config import TransformersModel
from serve.engines.answers import GeneratedAnswer, usage_of
from serve.engines.decoding import Generation
from serve.engines.embeddings import TextEmbedder, encoded
from serve.engines.pretrained import load_pretrained, weights_of
from serve.engines.prompts import Prompt, PromptEncoder
from serve.engines.requests import GenerationRequest, read
from serve.engines.text_generation import TextGenerator
from serve.engines.text_writer import Piece

Batcher = Callable[..., Callable[[Generation], Awaitable[None]]]


class Transformers:
    """One loaded model.

    Args:
        name: the model as its users call it.
        model: what to load, and how to run it.
        batch: makes of a function for many rows one for a single row, as `batching.batched` does;
            None generates the choices of each request together, and no others.

    Attributes:
        name: as given.
        pretrained: the model with its tokenizer.
        prompts: encodes what the model reads.
        generator: writes text.

    Raises:
        ConfigError: the files are no such model.
    """

    def __init__(
        self, name: str, model: TransformersModel, *, batch: Batcher | None = None
    ) -> None:
        self.name = name
        options = model.options
        self.pretrained = load_pretrained(name, model)
        self.prompts = PromptEncoder(self.pretrained, options)
        self.generator = TextGenerator(self.pretrained)
        self._embedder = TextEmbedder(self.pretrained, self.prompts, options.max_batch_size)
        self._threads = ThreadPoolExecutor(model.concurrency + 1, f"generate {name}")
        self._batched = batch and batch(
            self._generate_batch,
            max_batch_size=options.max_batch_size,
            batch_wait_timeout_s=options.batch_wait,
        )

    async def open(self) -> None:
        """Do nothing: the constructor has loaded the model."""

    async def close(self) -> None:
        """Give the model's memory back. No request may be sent meanwhile, or later."""
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        # What clients have given up ends with its next token.
        self._threads.shutdown(cancel_futures=True)
        cuda = self.pretrained.device.type == "cuda"
        del self.pretrained, self.generator, self._embedder
        # A model's parts refer to one another.
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()

    async def facts(self, model: str) -> ModelFacts:
        """Return how the weights are stored in memory, and what PyTorch took of a GPU for them."""
        del model
        device = self.pretrained.device
        gpu = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
        return msgspec.structs.replace(weights_of(self.pretrained.model), peak_gpu_memory_bytes=gpu)

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

    async def _write(self, call: Call) -> Reply:
        assert call.path in ("chat/completions", "completions")
        if self.pretrained.kind == "embedding":
            raise RequestError(
                f"{self.name} gives embeddings; it writes no text",
                param="model",
                code="unsupported_model",
            )
        request = read(call.path, call.envelope)
        adapter = self.pretrained.adapter_of(call.model)
        answer = GeneratedAnswer(
            request.path,
            call.model,
            self.pretrained.fingerprint_with(adapter),
            usage_events=request.include_usage,
        )
        prompts = await asyncio.to_thread(self.prompts.encode, request)
        if request.stream:
            return BytesReply(self._stream(answer, request, prompts, adapter))
        rows = self.generator.rows(request, prompts, adapter=adapter)
        try:
            if self._batched is None:
                await self._generate_batch(rows)
            else:
                await asyncio.gather(*(self._batched(row) for row in rows))
        finally:
            _give_up(rows)
        return BytesReply(answer.whole([row.pieces for row in rows], _usage(prompts, rows)))

    async def _stream(
        self,
        answer: GeneratedAnswer,
        request: GenerationRequest,
        prompts: Sequence[Prompt],
        adapter: str,
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        # Bounded by max_tokens: a model must not wait for a slow client while it holds the device.
        written: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

        def sender(number: int) -> Callable[[Piece], None]:
            def send(piece: Piece) -> None:
                loop.call_soon_threadsafe(written.put_nowait, (number, piece))

            return send

        count = len(prompts) * request.n
        senders = [sender(number) for number in range(count)]
        rows = self.generator.rows(request, prompts, senders, adapter=adapter)
        generated = loop.run_in_executor(self._threads, self.generator.generate, rows)
        generated.add_done_callback(lambda _: written.put_nowait((-1, Piece(""))))
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
            await generated
            yield answer.end(_usage(prompts, rows))
        finally:
            _give_up(rows)

    async def _generate_batch(self, rows: list[Generation]) -> list[None]:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self.generator.generate, rows)
        return [None] * len(rows)

    async def _embed(self, call: Call) -> Reply:
        if self.pretrained.kind != "embedding":
            raise RequestError(
                f"{self.name} writes text; it has no embeddings",
                param="model",
                code="unsupported_model",
            )
        request = self._embedder.read(call.envelope)
        texts = [request.input] if isinstance(request.input, str) else request.input
        adapter = self.pretrained.adapter_of(call.model)
        loop = asyncio.get_running_loop()
        vectors = await loop.run_in_executor(self._threads, self._embedder.embed, texts, adapter)
        data = encoded(vectors.values, request.encoding_format)
        usage = usage_of(vectors.tokens, 0, vectors.truncated)
        return BytesReply(wire.encode(wire.EmbeddingList(data, call.model, usage)))


def _give_up(rows: Sequence[Generation]) -> None:
    """End rows at their next token: they are done, or their client has left."""
    for row in rows:
        row.cancelled = True


def _usage(prompts: Sequence[Prompt], rows: Sequence[Generation]) -> wire.CompletionUsage:
    return usage_of(
        sum(len(prompt.ids) for prompt in prompts),
        sum(row.writer.tokens for row in rows),
        sum(prompt.truncated for prompt in prompts),
    )
