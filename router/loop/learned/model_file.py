"""The file of a learned route's model: vectors and numbers, no texts and nothing to execute."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from providers.errors import ArtifactError
from router.loop.learned.examples import Examples, Ints, Vectors

_Size = Annotated[int, msgspec.Meta(ge=0, le=10**7)]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """Arrays in C order, little-endian."""

    version: Literal[1]
    targets: tuple[str, ...]
    rows: _Size
    dimensions: _Size
    numbers: bytes
    vectors: bytes
    scores: bytes
    costs: bytes
    seconds: bytes
    propensities: bytes
    units: bytes
    probe: bytes
    low_cosine: float


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is stored.

    Attributes:
        examples: what it predicts from.
        numbers: of the rows when the file was first written, shape (n,).
        probe: the embedding of `PROBE` when the model was learned, by which a changed embedding
            model is noticed; shape (d,).
        low_cosine: prompts whose neighbours are less similar are unlike all that are known.
    """

    examples: Examples
    numbers: Ints
    probe: Vectors
    low_cosine: float

    def without(self, rows: Collection[int]) -> ModelFile:
        """Return the model without the rows of some numbers."""
        left = ~np.isin(self.numbers, list(rows))
        return msgspec.structs.replace(
            self, examples=self.examples.take(left), numbers=self.numbers[left]
        )


class UnreadableModelError(ArtifactError):
    """A model's file is damaged, or of another version."""


# The text that is embedded to see whether the embedding model is the same.
PROBE = "Which of these answers is good enough, and what does it cost?"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_File).decode


def encoded(model: ModelFile) -> bytes:
    """Return the bytes of a model's file."""
    examples = model.examples
    return _encode(
        _File(
            version=1,
            targets=examples.targets,
            rows=len(examples.vectors),
            dimensions=examples.vectors.shape[1],
            numbers=model.numbers.astype("<i8").tobytes(),
            vectors=examples.vectors.astype("<f4").tobytes(),
            scores=examples.scores.astype("<f8").tobytes(),
            costs=examples.costs.astype("<f8").tobytes(),
            seconds=examples.seconds.astype("<f8").tobytes(),
            propensities=examples.propensities.astype("<f8").tobytes(),
            units=examples.units.astype("<i8").tobytes(),
            probe=model.probe.astype("<f4").tobytes(),
            low_cosine=model.low_cosine,
        )
    )


def decoded(data: bytes) -> ModelFile:
    """Return the model of a file. Raises UnreadableModelError where it is none."""
    try:
        file = _decode(data)
        n, k, d = file.rows, len(file.targets), file.dimensions
        examples = Examples(
            file.targets,
            _array(file.vectors, "<f4", (n, d)),
            _array(file.scores, "<f8", (n, k)),
            _array(file.costs, "<f8", (n, k)),
            _array(file.seconds, "<f8", (n, k)),
            _array(file.propensities, "<f8", (n,)),
            _array(file.units, "<i8", (n,)),
        )
        return ModelFile(
            examples=examples,
            numbers=_array(file.numbers, "<i8", (n,)),
            probe=_array(file.probe, "<f4", (d,)),
            low_cosine=file.low_cosine,
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnreadableModelError(
            f"the file of a learned model cannot be read: {error}"
        ) from error


def _array(data: bytes, kind: str, shape: tuple[int, ...]) -> Any:
    return np.frombuffer(data, dtype=kind).reshape(shape)
