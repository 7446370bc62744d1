"""Writes many choices in one `generate` of transformers, each drawn in a way of its own.

Each choice is a `Generation`; transformers sees only `Draw` (a logits processor) and `Watch` (a
stopping criterion). Tokens are drawn by adding Gumbel noise to the scores and taking the largest,
which is the same as drawing from their softmax (Gumbel 1954; Maddison, Tarlow, Minka 2014,
https://arxiv.org/abs/1411.0030). So every row has a temperature and a seed of its own in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from serve.engines.requests import TokenSampling
from serve.engines.text_writer import Piece, TextWriter, TokenScore


class GivenUpError(Exception):
    """Every row of a batch was given up by its client."""


class Generation:
    """One choice while it is written.

    Args:
        prompt: the prompt's tokens.
        sampling: how to draw; `temperature` None counts as 1.
        writer: makes text of the tokens.
        adapter: the model's LoRA adapter that writes it; "" for none.
        on_piece: called with each piece, in the thread that generates; None where the answer is
            not streamed.
        token_text: returns a token as text.
        device: the device that the scores are on.

    Attributes:
        prompt: as given.
        adapter: as given.
        pieces: what was written, where the answer is not streamed.
        writer: as given.
        cancelled: set it to give the row up.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: TokenSampling,
        writer: TextWriter,
        *,
        adapter: str = "",
        on_piece: Callable[[Piece], None] | None = None,
        token_text: Callable[[int], str],
        device: torch.device,
    ) -> None:
        self.prompt = prompt
        self.adapter = adapter
        self.sampling = sampling
        self.writer = writer
        self.pieces: list[Piece] = []
        self.cancelled = False
        self._on_piece = on_piece or self.pieces.append
        self._token_text = token_text
        self._logprobs: torch.Tensor | None = None
        self._counts: torch.Tensor | None = None
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            # torch takes 64 bits, and clients send anything.
            self._random.manual_seed(sampling.seed % (1 << 63))

    @property
    def done(self) -> bool:
        """Whether the choice needs no more tokens."""
        return self.cancelled or bool(self.writer.finish)

    def draw(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the model's scores of all tokens, changed so that the largest is drawn."""
        sampling = self.sampling
        if sampling.logprobs is not None:
            # Of the model itself, before anything below changes them.
            self._logprobs = torch.log_softmax(scores, dim=-1)
        if sampling.frequency_penalty or sampling.presence_penalty:
            if self._counts is None:
                self._counts = torch.zeros_like(scores)
            scores = scores - sampling.frequency_penalty * self._counts
            scores = scores - sampling.presence_penalty * (self._counts > 0)
        for token, bias in sampling.logit_bias.items():
            if 0 <= token < scores.numel():
                scores[token] += bias
        temperature = 1.0 if sampling.temperature is None else sampling.temperature
        if temperature == 0:
            return scores
        scores = _likeliest(scores / temperature, sampling.top_k, sampling.top_p)
        # Exponential noise is Gumbel noise after a logarithm.
        noise = torch.empty_like(scores).exponential_(generator=self._random)
        return scores - noise.log()

    def take(self, token: int) -> None:
        """Add a token that was drawn."""
        if self.done:
            return
        score = None
        if self._logprobs is not None:
            score = self._score(token, self._logprobs)
        if self._counts is not None:
            self._counts[token] += 1
        piece = self.writer.add(token, score)
        if piece.text or piece.finish:
            self._on_piece(piece)

    def _score(self, token: int, logprobs: torch.Tensor) -> TokenScore:
        count = self.sampling.logprobs or 0
        top = torch.topk(logprobs, count) if count else None
        others = [] if top is None else zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return TokenScore(
            **self._as_json(token, float(logprobs[token])),
            top_logprobs=[self._as_json(other, value) for other, value in others],
        )

    def _as_json(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._token_text(token)
        # A part of a letter has no text to take the bytes from.
        raw = None if "\ufffd" in text else list(text.encode())
        # JSON has no infinity; OpenAI writes this number for it.
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": raw}


def _likeliest(scores: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Return the scores with all but the likeliest tokens ruled out."""
    if 0 < top_k < scores.numel():
        smallest = torch.topk(scores, top_k).values[-1]
        scores = scores.masked_fill(scores < smallest, float("-inf"))
    if top_p < 1:
        ordered, indices = torch.sort(scores, descending=True)
        before = torch.cumsum(torch.softmax(ordered, dim=-1), dim=-1)
        # The first token that reaches top_p is still in.
        out = torch.cat([before.new_zeros(1), before[:-1]]) >= top_p
        scores = scores.masked_fill(out[torch.argsort(indices)], float("-inf"))
    return scores


class Draw(LogitsProcessor):  # type: ignore[misc]  # its types are not installed everywhere
    """Makes each row draw its token."""

    def __init__(self, rows: Sequence[Generation]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """Return the scores, of shape (rows, vocabulary), changed row by row."""
        del input_ids
        for number, row in enumerate(self._rows):
            if not row.done:
                scores[number] = row.draw(scores[number])
        return scores


class _Watch(StoppingCriteria):  # type: ignore[misc]  # as above
    """Ends a batch that nobody waits for, and lets other batches have their turn.

    Args:
        rows: the rows of the batch.
        pause: called after each token.
    """

    def __init__(self, rows: Sequence[Generation], pause: Callable[[], None]) -> None:
        self._rows = rows
        self._pause = pause

    def _next(self) -> None:
        """Let others have their turn.

        Raises:
            GivenUpError: all rows were given up.
        """
        self._pause()
        if all(row.cancelled for row in self._rows):
            raise GivenUpError


class Watch(_Watch):
    """Gives each row its token, and ends the rows that are done."""

    def __call__(
        self, input_ids: torch.LongTensor, scores: tuple[torch.Tensor] | None, **_: Any
    ) -> torch.Tensor:
        """Return which rows are done, of shape (rows,).

        Raises:
            GivenUpError: all rows were given up.
        """
        del scores
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.take(token)
        self._next()
        done = [row.done for row in self._rows]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class WatchBeams(_Watch):
    """Ends a beam search whose rows were all given up; else they get their text at its end."""

    def __call__(
        self, input_ids: torch.LongTensor, scores: tuple[torch.Tensor] | None, **_: Any
    ) -> torch.Tensor:
        """Return False for every beam, as none is ended early; of shape (beams,).

        Raises:
            GivenUpError: all rows were given up.
        """
        del scores
        self._next()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
