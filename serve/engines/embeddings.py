"""Makes the embeddings of texts with a model of transformers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import torch

from providers import wire
from providers.errors import RequestError
from serve.engines.padding import padded
from serve.engines.pretrained import Pretrained
from serve.engines.prompts import PromptEncoder


class Vectors(NamedTuple):
    """The embeddings of some texts.

    Attributes:
        values: a vector for each text.
        tokens: tokens that the model read.
        truncated: tokens that were cut off before.
    """

    values: list[list[float]]
    tokens: int
    truncated: int


class TextEmbedder:
    """Embeds texts with one model.

    Args:
        pretrained: an embedding model.
        prompts: encodes its texts.
        max_batch_size: texts that the model reads together at most.
    """

    def __init__(self, pretrained: Pretrained, prompts: PromptEncoder, max_batch_size: int) -> None:
        self._pretrained = pretrained
        self._prompts = prompts
        self._max_batch_size = max_batch_size

    def read(self, envelope: Mapping[str, msgspec.Raw]) -> wire.EmbeddingRequest:
        """Read a request.

        Raises:
            RequestError: a field is missing or ill-typed, or the model cannot do it.
        """
        request = wire.read_request(envelope, wire.EmbeddingRequest)
        if request.encoding_format not in (None, "float", "base64"):
            raise RequestError(
                "encoding_format: float or base64", param="encoding_format", code="invalid_value"
            )
        width = self._pretrained.model.config.hidden_size
        if request.dimensions not in (None, width):
            raise RequestError(
                f"dimensions: this model has {width} only", param="dimensions", code="invalid_value"
            )
        return request

    def embed(self, texts: Sequence[str], adapter: str) -> Vectors:
        """Return the mean over the last layer's tokens of each text, scaled to length 1.

        Reimers, Gurevych 2019. Takes the device for as long.
        """
        vectors: list[list[float]] = []
        tokens = truncated = 0
        device = self._pretrained.device
        pad = self._pretrained.tokenizer.pad_token_id or 0
        for start in range(0, len(texts), self._max_batch_size):
            batch = texts[start : start + self._max_batch_size]
            prompts = [self._prompts.encoder_input(text) for text in batch]
            tokens += sum(len(prompt.ids) for prompt in prompts)
            truncated += sum(prompt.truncated for prompt in prompts)
            ids, mask = padded([prompt.ids for prompt in prompts], pad, left=False)
            ids, mask = ids.to(device), mask.to(device)
            with torch.inference_mode(), self._pretrained.using([adapter] * len(prompts)):
                output = self._pretrained.model(input_ids=ids, attention_mask=mask)
            hidden = output.last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
            vectors += torch.nn.functional.normalize(mean.float(), dim=1).tolist()
        return Vectors(vectors, tokens, truncated)


def encoded(vectors: Sequence[list[float]], encoding_format: str | None) -> list[wire.Embedding]:
    """Return vectors as OpenAI's API has them: lists of numbers, or base64 of 32-bit floats."""
    packed = encoding_format == "base64"
    return [
        wire.Embedding(_pack(vector) if packed else vector, index)
        for index, vector in enumerate(vectors)
    ]


def _pack(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
