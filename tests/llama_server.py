"""llama.cpp's own server as a program: `python tests/llama_server.py -m FILE --port N`.

It comes out of the xllamacpp wheel and stands for `llama-server` and for llamafile from 0.10 on,
which are the same server. Options it does not know are ignored, as a llamafile's `--server` is.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--embedding", action="store_true")
    given, _ = parser.parse_known_args()
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames = [given.host]
    params.port = given.port
    params.n_parallel = given.parallel
    params.n_ctx = 2048 * given.parallel
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.endpoint_props = True
    params.use_jinja = True
    params.warmup = False
    params.embedding = given.embedding
    if given.embedding:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if given.api_key:
        params.api_keys = [given.api_key]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = xllamacpp.Server(params)
    sys.stdout.write(f"llama.cpp's server on {server.listening_address}\n")
    sys.stdout.flush()
    stop.wait()
    # The library's own threads have no part in an orderly end.
    os._exit(0)


if __name__ == "__main__":
    main()
