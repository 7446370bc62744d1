"""Writes the choices of requests with transformers: drawn token by token, or by beam search."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch

from providers.errors import RequestError
from serve.engines.decoding import Draw, Generation, GivenUpError, Watch, WatchBeams
from serve.engines.padding import padded
from serve.engines.pretrained import Pretrained, end_tokens
from serve.engines.prompts import Prompt
from serve.engines.requests import GenerationRequest, TokenSampling
from serve.engines.text_writer import Piece, TextWriter
from serve.engines.turn_lock import TurnLock


class TextGenerator:
    """Writes text with one model; several threads may use it at a time.

    Args:
        pretrained: a causal or seq2seq model.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        self._pretrained = pretrained
        self._settings = pretrained.settings
        self._tokenizer = pretrained.tokenizer
        self._turns = TurnLock()

    def rows(
        self,
        request: GenerationRequest,
        prompts: Sequence[Prompt],
        on_piece: Sequence[Callable[[Piece], None]] = (),
        *,
        adapter: str = "",
    ) -> list[Generation]:
        """Return a request's choices, ready to be written.

        Args:
            request: how to write them.
            prompts: the request's prompts, each of which has `n` choices.
            on_piece: called with each piece of its choice, in the thread that writes; () where
                the answer is not streamed.
            adapter: the LoRA adapter that writes them; "" for none.

        Raises:
            RequestError: a beam search has no log probabilities.
        """
        requested = request.sampling
        if self._pretrained.kind == "seq2seq" and requested.temperature is None:
            # OpenAI's default of 1 would draw where these models are used with the likeliest text.
            requested = msgspec.structs.replace(requested, temperature=0.0)
        if requested.logprobs is not None and self._searches(requested):
            raise RequestError(
                "logprobs: a beam search has none; set options.generation.num_beams: 1",
                param="logprobs",
                code="unsupported_parameter",
            )
        rows = []
        for number in range(len(prompts) * request.n):
            prompt = prompts[number // request.n]
            sampling = _of_choice(requested, number)
            writer = TextWriter(
                self._decode,
                ends=end_tokens(self._settings),
                stop=sampling.stop,
                max_tokens=self._max_tokens(sampling, prompt),
            )
            rows.append(
                Generation(
                    prompt.ids,
                    sampling,
                    writer,
                    adapter=adapter,
                    on_piece=on_piece[number] if on_piece else None,
                    token_text=lambda token: str(self._tokenizer.decode([token])),
                    device=self._pretrained.device,
                )
            )
        return rows

    def generate(self, rows: Sequence[Generation]) -> None:
        """Write all rows to their ends, which takes the device for as long."""
        beams: dict[int, list[Generation]] = {}
        drawn = []
        for row in rows:
            if self._searches(row.sampling):
                # A beam search has one length for all its rows.
                beams.setdefault(row.writer.max_tokens, []).append(row)
            else:
                drawn.append(row)
        if drawn:
            self._generate_drawn(drawn)
        for alike in beams.values():
            self._generate_beams(alike)

    def _decode(self, ids: Sequence[int]) -> str:
        # Some tokenizers cannot decode an empty list.
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _max_tokens(self, sampling: TokenSampling, prompt: Prompt) -> int:
        limit = self._pretrained.limit
        if self._pretrained.kind == "causal":
            left = limit - len(prompt.ids)
            return min(sampling.max_tokens or left, left)
        # The decoder's first token is given, and counts.
        default = self._settings.max_new_tokens or (self._settings.max_length or 21) - 1
        return min(sampling.max_tokens or default, limit - 1)

    def _searches(self, sampling: TokenSampling) -> bool:
        """Return whether beams are searched: the model sets it, and the request does not draw."""
        return (self._settings.num_beams or 1) > 1 and not sampling.temperature

    def _generate_drawn(self, rows: Sequence[Generation]) -> None:
        settings = copy.copy(self._settings)
        settings.num_beams = 1
        # Both belong to beams alone.
        settings.early_stopping, settings.length_penalty = False, 1.0
        max_tokens = max(row.writer.max_tokens for row in rows)
        self._run(rows, settings, max_tokens, Watch(rows, self._turns.next), [Draw(rows)])

    def _generate_beams(self, rows: Sequence[Generation]) -> None:
        settings = copy.copy(self._settings)
        watch = WatchBeams(rows, self._turns.next)
        written = self._run(rows, settings, rows[0].writer.max_tokens, watch, [])
        if written is None:
            return
        for row, ids in zip(rows, written, strict=True):
            # The first token is the one that every decoder starts from.
            for token in ids[1:]:
                row.take(token)

    def _run(
        self,
        rows: Sequence[Generation],
        settings: Any,
        max_tokens: int,
        watch: Any,
        draw: list[Any],
    ) -> list[list[int]] | None:
        """Call transformers once; return each row's tokens, or None when all were given up."""
        model, device = self._pretrained.model, self._pretrained.device
        settings.max_new_tokens, settings.max_length = max_tokens, None
        settings.min_length = min(settings.min_length or 0, max_tokens)
        ids, mask = padded(
            [row.prompt for row in rows],
            settings.pad_token_id,
            left=self._pretrained.kind == "causal",
        )
        adapted = self._pretrained.using([row.adapter for row in rows])
        with self._turn(), torch.inference_mode(), adapted, contextlib.suppress(GivenUpError):
            written: torch.Tensor = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                logits_processor=draw,
                stopping_criteria=[watch],
            )
            tokens: list[list[int]] = written.tolist()
            return tokens
        return None

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        # A GPU is busy with one text while the next one's step is being prepared.
        on_cpu = self._pretrained.device.type == "cpu"
        return self._turns.hold() if on_cpu else contextlib.nullcontext()


def _of_choice(sampling: TokenSampling, number: int) -> TokenSampling:
    """Return how to draw the choice of this number: choices differ although they have one seed."""
    if sampling.seed is None or not number:
        return sampling
    # The golden ratio keeps clear of neighbouring seeds, which clients use for further requests.
    return msgspec.structs.replace(sampling, seed=sampling.seed + number * 0x9E3779B97F4A7C15)
