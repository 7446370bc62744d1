"""llama.cpp's own server in the extra `llamacpp`: `python xllamacpp_server.py -m FILE --port N`.

It stands in for `llama-server` where that is not installed, and takes the options of it that are
used most, by their names there. A program of its own, which nothing imports.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import Any

# Slots share one context, as llama-server has it where nobody says otherwise.
_SLOTS = 4


def main() -> None:
    """Serve one file until SIGTERM."""
    given = _parser().parse_args()
    try:
        import xllamacpp  # noqa: PLC0415  # an extra; the options are checked without it
    except ImportError as error:
        sys.exit(f"the extra 'llamacpp' is not installed: {error}")
    params = _params(xllamacpp, given)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(f"{given.model} cannot be loaded: {error}")
    sys.stdout.write(f"llama.cpp's server on {server.listening_address}\n")
    sys.stdout.flush()
    stop.wait()
    # The library's own threads have no part in an orderly end.
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama-server", allow_abbrev=False, description="llama.cpp's server, from xllamacpp."
    )
    add = parser.add_argument
    add("-m", "--model", required=True)
    add("-a", "--alias", default="")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8080)
    add("--api-key", default="")
    add("-c", "--ctx-size", type=int, default=0, help="tokens of all slots; 0: the model's own")
    add("-np", "--parallel", type=int, default=0)
    add("-t", "--threads", type=int, default=0)
    add("-ngl", "--gpu-layers", "--n-gpu-layers", type=int, default=-1)
    add("-b", "--batch-size", type=int, default=0)
    add("-ub", "--ubatch-size", type=int, default=0)
    add("--embedding", "--embeddings", action="store_true")
    add("--pooling", choices=("none", "mean", "cls", "last", "rank"), default="")
    add("--lora", action="append", default=[])
    add("--mmproj", default="")
    add("--chat-template", default="")
    add("--jinja", action="store_true", help="always on")
    add("--metrics", action="store_true", help="always on")
    add("--no-warmup", action="store_true")
    # A llamafile needs it.
    add("--server", action="store_true", help=argparse.SUPPRESS)
    return parser


def _params(xllamacpp: Any, given: argparse.Namespace) -> Any:
    """Return the settings of xllamacpp for the options of llama-server."""
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    if given.alias:
        params.model_alias = [given.alias]
    params.hostnames = [given.host]
    params.port = given.port
    if given.api_key:
        params.api_keys = [given.api_key]
    params.n_ctx = given.ctx_size
    params.n_parallel = given.parallel or _SLOTS
    params.kv_unified = not given.parallel
    params.n_gpu_layers = given.gpu_layers
    if given.threads:
        params.cpuparams.n_threads = given.threads
        params.cpuparams_batch.n_threads = given.threads
    if given.batch_size:
        params.n_batch = given.batch_size
    if given.ubatch_size:
        params.n_ubatch = given.ubatch_size
    params.embedding = given.embedding
    if given.pooling or given.embedding:
        pooling = f"LLAMA_POOLING_TYPE_{(given.pooling or 'mean').upper()}"
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, pooling)
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(file, 1.0) for file in given.lora]
    if given.mmproj:
        params.mmproj.path = given.mmproj
    if given.chat_template:
        params.chat_template = given.chat_template
    params.use_jinja = True
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.endpoint_props = True
    params.warmup = not given.no_warmup
    return params


if __name__ == "__main__":
    main()
