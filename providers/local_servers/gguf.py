"""Reads from a GGUF file how its weights are quantised, without reading the weights.

    read_weights(Path("prometheus-Q4_K_M.gguf")).bits_per_weight        # 4.83

The head of the file lists every tensor with its shape and type. The mean over all of them is what
llama.cpp prints as BPW; the name of the quantisation is the metadata's `general.file_type`. A
llamafile is a zip with a GGUF file in it, and a model may be split into several files.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from providers.base import ModelFacts

# The values of `general.file_type`.
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}

# The weights of a block and the bytes that they take, by the type of a tensor.
TENSOR_TYPES = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}

# The formats of the metadata's numbers, by the type of a value.
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
# Longer names and keys than any file has.
_MAX_NAME_BYTES = 2**16
_SKIP_BYTES = 2**20
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")


class GgufError(ValueError):
    """The file is no GGUF file, or has something that this module does not know."""


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How the weights of a model are stored.

    Attributes:
        file_type: the quantisation by the name that the file's metadata has, "" without one.
        parameters: the number of weights.
        bits_per_weight: the mean over all weights.
    """

    file_type: str
    parameters: int
    bits_per_weight: float


class _Head(msgspec.Struct):
    file_type: int | None = None
    parts: int = 1
    parameters: int = 0
    bytes: float = 0.0


def read_weights(path: Path) -> Weights:
    """Return how the weights of a GGUF file, or of the one in a llamafile, are stored.

    Raises:
        GgufError: the file cannot be understood.
        OSError: the file, or another part of a split one, cannot be read.
    """
    if path.suffix != ".gguf" and zipfile.is_zipfile(path):
        heads = [_head_in_zip(path)]
    else:
        heads = [_head_of(path)]
    if heads[0].parts > 1:
        heads = [_head_of(part) for part in _parts(path, heads[0].parts)]
    parameters = sum(head.parameters for head in heads)
    if not parameters:
        raise GgufError(f"{path.name} has no weights")
    types = [head.file_type for head in heads if head.file_type is not None]
    return Weights(
        file_type=FILE_TYPES.get(types[0], "") if types else "",
        parameters=parameters,
        bits_per_weight=8 * sum(head.bytes for head in heads) / parameters,
    )


def facts_of_file(path: Path) -> ModelFacts:
    """Return what `read_weights` reads, or why it cannot read the file."""
    try:
        weights = read_weights(path)
    except (GgufError, OSError) as error:
        return ModelFacts(file=path.name, note=str(error))
    return ModelFacts(
        file=path.name,
        quantization=weights.file_type,
        parameters=weights.parameters,
        bits_per_weight=weights.bits_per_weight,
    )


def _head_of(path: Path) -> _Head:
    with path.open("rb") as file:
        return _Reader(file, path.name).head()


def _head_in_zip(path: Path) -> _Head:
    try:
        with zipfile.ZipFile(path) as archive:
            models = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(models) != 1:
                raise GgufError(f"{path.name} has {len(models)} GGUF files")
            with archive.open(models[0]) as file:
                return _Reader(file, f"{path.name}: {models[0]}").head()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise GgufError(f"{path.name}: {error}") from None


def _parts(path: Path, count: int) -> Iterator[Path]:
    match = _PART.fullmatch(path.name)
    if match is None or int(match[2]) != count:
        raise GgufError(f"{path.name} is one of {count} files, and its name does not say which")
    for number in range(1, count + 1):
        yield path.with_name(f"{match[1]}-{number:05d}-of-{count:05d}.gguf")


class _Reader:
    """Reads the head of one GGUF file from its beginning on."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._order = "<"

    def head(self) -> _Head:
        if self._bytes(4) != b"GGUF":
            raise GgufError(f"{self._name} is no GGUF file")
        version = self._number("I")
        if version >= 2**16:
            self._order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise GgufError(f"{self._name} has version {version} of the format")
        tensors, values = self._number("Q"), self._number("Q")
        head = _Head()
        for _ in range(values):
            self._read_value(head)
        for _ in range(tensors):
            self._read_tensor(head)
        return head

    def _read_value(self, head: _Head) -> None:
        key, kind = self._text(), self._number("I")
        if kind == _STRING:
            self._skip(self._number("Q"))
        elif kind == _ARRAY:
            self._skip_array()
        else:
            value = self._number(self._format(kind))
            if key == "general.file_type" and isinstance(value, int):
                head.file_type = value
            elif key == "split.count" and isinstance(value, int):
                head.parts = max(1, value)

    def _skip_array(self) -> None:
        kind, count = self._number("I"), self._number("Q")
        if kind != _STRING:
            self._skip(count * struct.calcsize(self._format(kind)))
            return
        for _ in range(count):
            self._skip(self._number("Q"))

    def _read_tensor(self, head: _Head) -> None:
        name, dimensions = self._text(), self._number("I")
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise GgufError(f"{self._name}: {name} has {dimensions} dimensions")
        weights = math.prod(self._number("Q") for _ in range(dimensions))
        kind = self._number("I")
        if kind not in TENSOR_TYPES:
            raise GgufError(f"{self._name}: {name} has the unknown type {kind}")
        self._number("Q")
        block, size = TENSOR_TYPES[kind]
        head.parameters += weights
        head.bytes += weights / block * size

    def _format(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise GgufError(f"{self._name} has a value of the unknown type {kind}")
        return _NUMBERS[kind]

    def _text(self) -> str:
        size = self._number("Q")
        if size > _MAX_NAME_BYTES:
            raise GgufError(f"{self._name} has a name of {size:,} bytes")
        return self._bytes(size).decode("utf-8", "replace")

    def _number(self, letter: str) -> Any:
        form = self._order + letter
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise GgufError(f"{self._name} ends within its head")
        return data

    def _skip(self, count: int) -> None:
        while count > 0:
            count -= len(self._bytes(min(count, _SKIP_BYTES)))
