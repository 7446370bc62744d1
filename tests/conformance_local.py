"""Runs the conformance suite against local servers that need an environment of their own.

    python tests/conformance_local.py llama_cpp --python .venv-llama/bin/python
    python tests/conformance_local.py vllm --python .venv-vllm/bin/python

`make test-llama-cpp` and `make test-vllm` make the environments. Ends with 1 when a check fails
that is not in `KNOWN`.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import tiny_gguf
from conformance_reports import Server, ServerReport, examine_server
from isolation import isolate

from providers.local_servers.managed import ManagedServer

# What these servers do in their own way, with models of random weights.
KNOWN: dict[str, set[str]] = {
    # Without a pooling model, it gives a vector for every token.
    "llama_cpp": {"more.embedding", "more.embeddings", "more.embedding_base64"},
    "vllm": set(),
}

TINY_LLAMA = """
import sys, torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = sys.argv[1]
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.train_from_iterator([sys.argv[2]], trainers.BpeTrainer(
    vocab_size=512, special_tokens=special,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
fast = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[2], pad_token=special[0])
fast.chat_template = sys.argv[3]
fast.save_pretrained(folder)
torch.manual_seed(1)
# vLLM's CPU kernels want heads of 64.
LlamaForCausalLM(LlamaConfig(
    vocab_size=len(fast), hidden_size=256, intermediate_size=512, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048,
    bos_token_id=0, eos_token_id=2, tie_word_embeddings=False)).save_pretrained(folder)
"""


def version_of(python: str, package: str) -> str:
    """A package's version in another environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return f"{package} {done.stdout.strip()}, tiny random Llama"


async def llama_cpp(python: str, folder: Path) -> ServerReport:
    """`python -m llama_cpp.server`, started and stopped by the provider itself."""
    model = tiny_gguf.write(folder / "tiny.gguf")
    command = [python, "-m", "llama_cpp.server", "--model", str(model)]
    command += ["--interrupt_requests", "False", "--n_ctx", "2048", "--model_alias", "tiny"]
    command += ["--embedding", "True"]
    command += ["--host", "{host}", "--port", "{port}"]
    fields = {"command": command, "log": str(folder / "log")}
    version = version_of(python, "llama-cpp-python")
    return await examine_server(
        Server("llama_cpp", "llama_cpp.server", version, "llama_cpp", fields, "tiny")
    )


async def vllm(python: str, folder: Path) -> ServerReport:
    """vLLM's OpenAI server on the CPU."""
    subprocess.run(
        [python, "-c", TINY_LLAMA, str(folder / "tiny"), tiny_gguf.TEXT, tiny_gguf.TEMPLATE],
        check=True,
    )
    # By itself it would take half of the memory for its cache.
    command = ["env", "VLLM_CPU_KVCACHE_SPACE=1"]
    command += [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "tiny")]
    command += ["--served-model-name", "tiny", "--host", "{host}", "--port", "{port}"]
    command += ["--max-model-len", "2048", "--api-key", "sk-local", "--enforce-eager"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    server = ManagedServer("vllm", command, log=folder / "log", probe=_healthy, start_timeout=400)
    try:
        url = await server.ready()
        fields = {"base_url": f"{url}/v1", "api_key": "sk-local"}
        version = version_of(python, "vllm-cpu")
        return await examine_server(
            Server("vllm", "vLLM (CPU build)", version, "vllm", fields, "tiny")
        )
    finally:
        await server.close()


async def _healthy(url: str) -> bool:
    def ask() -> bool:
        import urllib.error
        import urllib.request

        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return await asyncio.to_thread(ask)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=["llama_cpp", "vllm"])
    parser.add_argument("--python", required=True, help="of the environment that has the server")
    given = parser.parse_args()
    # An interpreter's link must not be resolved: it would lead out of its environment.
    python = str(Path(given.python).absolute())
    isolate()
    with tempfile.TemporaryDirectory() as folder:
        ask = llama_cpp if given.server == "llama_cpp" else vllm
        try:
            result = asyncio.run(ask(python, Path(folder)))
        except BaseException:
            log = Path(folder) / "log"
            sys.stderr.write(log.read_text()[-20000:] if log.exists() else "")
            raise
    failed = {check.name for check in result.report.results if check.outcome == "fail"}
    return 1 if failed - KNOWN[given.server] else 0


if __name__ == "__main__":
    sys.exit(main())
