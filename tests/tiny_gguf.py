"""A tiny Llama with random weights as a GGUF file: 2 layers, half a megabyte, made in a second.

`python tests/tiny_gguf.py FILE` writes one. It speaks nonsense, but through a real tokenizer, a
chat template and every sampler there is.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

WIDTH, HIDDEN, LAYERS, HEADS, CONTEXT, MERGES = 64, 128, 2, 4, 2048, 200
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Tool calls in the form that Qwen and Hermes models write, which llama.cpp knows how to constrain.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n# Tools\n<tools>\n"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>\n"
    "Call one with <tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}'
    "\n</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
    "{{ message.content }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ message.role }}"
    "{% if message.content %}\n{{ message.content }}{% endif %}"
    "{% for tool_call in message.tool_calls or [] %}"
    '\n<tool_call>\n{"name": "{{ tool_call.function.name }}", "arguments": '
    "{{ tool_call.function.arguments | tojson }}}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "the sea is wide and the wind is cold. tell me a story about the weather in the city, "
    "and what the people there said to one another when the ships came home in the morning. "
) * 3


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: printable bytes stand for themselves, the others are moved."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(moved)) for byte in range(256)]


def merges(text: str, count: int) -> list[tuple[str, str]]:
    """The byte pair merges that TEXT teaches: the most frequent pair first."""
    letters = byte_letters()
    words = Counter(
        tuple(letters[byte] for byte in word.encode())
        for word in text.replace(" ", "\n ").split("\n")
    )
    found: list[tuple[str, str]] = []
    while len(found) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        words = Counter({_merged(word, best): times for word, times in words.items()})
    return found


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    at = 0
    while at < len(word):
        if word[at : at + 2] == pair:
            out.append("".join(pair))
            at += 2
        else:
            out.append(word[at])
            at += 1
    return tuple(out)


def write(path: Path, *, seed: int = 1, ends: bool = True, q8: bool = False) -> Path:
    """Write the model; the same seed gives the same weights.

    Answers end now and then, or with `ends=False` only where a limit or a grammar ends them: for
    tests of requests that sample. With `q8` its matrices are quantised, and its metadata say so.
    """
    learned = merges(TEXT, MERGES)
    tokens = [*SPECIAL, *byte_letters(), *("".join(pair) for pair in learned)]
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL)
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("tiny")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(WIDTH)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(HIDDEN)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_merges([f"{left} {right}" for left, right in learned])
    out.add_bos_token_id(0)
    out.add_eos_token_id(2)
    out.add_chat_template(TEMPLATE)
    if q8:
        out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    random = np.random.default_rng(seed)

    def add_matrix(name: str, weights: np.ndarray) -> None:
        if q8:
            kind = gguf.GGMLQuantizationType.Q8_0
            out.add_tensor(name, gguf.quantize(weights, kind), raw_dtype=kind)
        else:
            out.add_tensor(name, weights)

    def add(name: str, *shape: int) -> None:
        weights = (random.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
        if shape[0] == WIDTH and not name.endswith(("_q.weight", "_k.weight", "_v.weight")):
            # Nothing is added to what every token has in common.
            weights[0] = 0
        add_matrix(name, weights)

    embedding = (random.standard_normal((len(tokens), WIDTH)) / WIDTH**0.5).astype(np.float32)
    # The same in every token, so that the head can hold a bias.
    embedding[:, 0] = 1.6
    add_matrix("token_embd.weight", embedding)
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            out.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate.weight", HIDDEN, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", HIDDEN, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, HIDDEN)
    out.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    head = (random.standard_normal((len(tokens), WIDTH)) / WIDTH**0.5).astype(np.float32)
    for number, token in enumerate(tokens):
        # Rarely anything but ASCII, so that most of what it says is text.
        if not token.isascii() and "\u0120" not in token:
            head[number] *= 0.1
    if ends:
        head[SPECIAL.index("<|im_end|>"), 0] = 0.8
    else:
        # llama.cpp takes either for an answer's end.
        for end in ("<|endoftext|>", "<|im_end|>"):
            head[SPECIAL.index(end), 0] = -20
    add_matrix("output.weight", head)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def write_adapter(path: Path, *, seed: int = 1, rank: int = 4) -> Path:
    """Write a LoRA adapter of random weights for the model."""
    out = gguf.GGUFWriter(path, "llama")
    out.add_type(gguf.GGUFType.ADAPTER)
    out.add_string(gguf.Keys.Adapter.TYPE, "lora")
    out.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 2.0 * rank)
    random = np.random.default_rng(seed)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_v", "attn_output"):
            for part, shape in (("a", (rank, WIDTH)), ("b", (WIDTH, rank))):
                weights = (random.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
                out.add_tensor(f"blk.{layer}.{name}.weight.lora_{part}", weights)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


if __name__ == "__main__":
    write(Path(sys.argv[1]))
