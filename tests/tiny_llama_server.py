"""llama.cpp's own server in this process, for a model of `tiny_gguf.py`."""

import xllamacpp


def llama_server(model, *, key=""):
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = ["tiny"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 256
    params.warmup = False
    params.endpoint_props = True
    if key:
        params.api_keys = [key]
    return xllamacpp.Server(params)
