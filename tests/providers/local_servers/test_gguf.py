"""How a GGUF file's weights are stored, against what the `gguf` package writes and reads."""

import zipfile

import gguf
import numpy as np
import pytest
import tiny_gguf

from providers.local_servers.gguf import FILE_TYPES, TENSOR_TYPES, GgufError, read_weights


def write(path, types, *, file_type=None, order=gguf.GGUFEndian.LITTLE, split=None):
    """Write a file with one tensor of 64 x 256 weights for each type."""
    out = gguf.GGUFWriter(path, "llama", endianess=order)
    if file_type is not None:
        out.add_file_type(file_type)
    out.add_token_list(["a", "bc", "\u00e9"])
    out.add_token_scores([0.0, 1.0, 2.0])
    out.add_bool("general.flag", True)
    if split is not None:
        out.add_uint16("split.count", split)
    weights = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    for number, kind in enumerate(types):
        data = weights if kind == gguf.GGMLQuantizationType.F32 else gguf.quantize(weights, kind)
        out.add_tensor(f"blk.{number}.weight", data, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


F32, Q4_0, Q8_0 = (getattr(gguf.GGMLQuantizationType, name) for name in ("F32", "Q4_0", "Q8_0"))


def test_the_names_and_sizes_are_those_of_the_format():
    assert {kind.value: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()} == TENSOR_TYPES
    published = {
        kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in gguf.LlamaFileType
        if kind is not gguf.LlamaFileType.GUESSED
    }
    assert published == FILE_TYPES


@pytest.mark.parametrize("order", gguf.GGUFEndian)
def test_the_bits_are_the_mean_over_all_weights(tmp_path, order):
    types = [F32, Q4_0, Q8_0, Q4_0] if order == gguf.GGUFEndian.LITTLE else [F32, F32]
    kind = gguf.LlamaFileType.MOSTLY_Q4_0
    path = write(tmp_path / "m.gguf", types, file_type=kind, order=order)
    weights = read_weights(path)
    assert weights.file_type == "Q4_0"
    assert weights.parameters == len(types) * 64 * 256
    by_type = {F32: 32, Q4_0: 4.5, Q8_0: 8.5}
    assert weights.bits_per_weight == sum(by_type[kind] for kind in types) / len(types)


def test_a_real_model_and_the_same_in_a_llamafile(tmp_path):
    path = tiny_gguf.write(tmp_path / "tiny.gguf")
    tensors = gguf.GGUFReader(path).tensors
    weights = read_weights(path)
    assert weights.parameters == sum(int(tensor.n_elements) for tensor in tensors)
    assert weights.bits_per_weight == 32
    # It has no such field, and the name is not concluded from the tensors.
    assert weights.file_type == ""
    llamafile = tmp_path / "tiny.llamafile"
    llamafile.write_bytes(b"#!/bin/sh\n" * 100)
    with zipfile.ZipFile(llamafile, "a") as archive:
        archive.write(path, "tiny.gguf")
        archive.writestr(".args", "-m\ntiny.gguf\n")
    assert read_weights(llamafile) == weights
    with zipfile.ZipFile(llamafile, "a") as archive:
        archive.writestr("other.gguf", b"")
    with pytest.raises(GgufError, match="2 GGUF files"):
        read_weights(llamafile)


def test_a_model_in_several_files(tmp_path):
    first = write(tmp_path / "m-00001-of-00002.gguf", [F32], file_type=7, split=2)
    with pytest.raises(FileNotFoundError):
        read_weights(first)
    write(tmp_path / "m-00002-of-00002.gguf", [Q8_0] * 3, split=2)
    weights = read_weights(first)
    assert (weights.file_type, weights.parameters) == ("Q8_0", 4 * 64 * 256)
    assert weights.bits_per_weight == (32 + 3 * 8.5) / 4
    with pytest.raises(GgufError, match="one of 2 files"):
        read_weights(first.rename(tmp_path / "renamed.gguf"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "ends within"),
        (lambda data: b"GGML" + data[4:], "no GGUF file"),
        (lambda data: data[:4] + b"\x01" + data[5:], "version 1"),
        (lambda data: data[:200], "ends within"),
        # The number of tensors, of which no file has so many.
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "m.gguf"),
        (lambda data: data.replace(b"blk.0.weight\x02", b"blk.0.weight\x09"), "9 dimensions"),
        (
            lambda data: data.replace(
                b"blk.0.weight" + data.partition(b"blk.0.weight")[2][:24],
                b"blk.0.weight" + data.partition(b"blk.0.weight")[2][:20] + b"\x63\0\0\0",
            ),
            "unknown type 99",
        ),
    ],
)
def test_what_is_no_such_file_is_said_so(tmp_path, change, message):
    path = write(tmp_path / "m.gguf", [Q4_0])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(GgufError, match=message):
        read_weights(path)
