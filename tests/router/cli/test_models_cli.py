"""`evalrouter models`: what is refused before Ray starts, and lists of hosts at any address."""

import importlib.util
import json
import os
import sys

import pytest
from click.testing import CliRunner
from raw_host import READ, answer, raw_host

from router.cli import main
from serve.config import read, reserved

CORES = len(os.sched_getaffinity(0))


def serve(folder, text, *args):
    """The line that refuses to host the models; Ray has not been imported for it."""
    path = folder / "models.yaml"
    path.write_text(text)
    before = set(sys.modules)
    done = CliRunner().invoke(main, ["models", "serve", str(path), *args])
    assert done.exit_code == 2, done.output
    assert "ray" not in set(sys.modules) - before
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs xllamacpp")
@pytest.mark.parametrize(
    ("models", "args", "message"),
    [
        (
            "{a: {engine: llamacpp, source: a.gguf, cpus: 1},"
            " b: {engine: llamacpp, source: b.gguf, cpus: 1},"
            " c: {engine: llamacpp, source: c.gguf, cpus: 0.5}}",
            ["--cpus", "2"],
            "3 models need 2.5 CPUs, --cpus allows 2; ",
        ),
        (
            f"{{a: {{engine: llamacpp, source: a.gguf, cpus: {CORES + 1}}}}}",
            [],
            f"1 model needs {CORES + 1} CPUs, this machine has {CORES}; ",
        ),
        (
            f"{{a: {{engine: llamacpp, source: a.gguf, replicas: {{min: {CORES + 1}}}}}}}",
            [],
            f"1 model needs {CORES + 1} CPUs, this machine has {CORES}; ",
        ),
        (
            "{a: {engine: llamacpp, source: a.gguf, gpus: 1}}",
            [],
            "1 model needs 1 GPU, this machine has 0; give them less with gpus:",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused_at_once(tmp_path, models, args, message):
    assert message in serve(tmp_path, f"models: {models}", *args)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_an_engine_that_is_not_installed_is_refused_at_once(tmp_path):
    line = serve(tmp_path, "models: {a: {engine: vllm, source: org/model}}")
    assert line == (
        "error: models.a (engine: vllm) needs the extra 'vllm': pip install 'evalrouter[vllm]'"
    )


def test_what_models_reserve():
    base = {"engine": "llamacpp", "source": "m.gguf"}
    shared = {**base, "cpus": 2, "share": {"name": "s"}}
    models = {
        "one": {**base, "cpus": 1.5, "replicas": {"min": 2}},
        "two": shared,
        "three": shared,
        "idle": {**base, "cpus": 3, "replicas": {"min": 0}},
    }
    assert reserved(read(models, {})) == (5.0, 0.0)
    # It starts with its first request, and has to fit then.
    assert reserved(read({"idle": {**models["idle"], "cpus": 9, "gpus": 1}}, {})) == (9.0, 1.0)


def test_a_list_is_read_with_and_without_v1():
    rows = [{"id": "m", "owned_by": "llamacpp", "state": "ready", "replicas": 1}]
    with raw_host([READ, *answer(json.dumps({"data": rows}).encode())]) as host:
        for url in (host.url, host.url + "/", host.url.removesuffix("/v1")):
            done = CliRunner().invoke(main, ["models", "list", "--json", "--url", url])
            assert done.exit_code == 0, done.output
            assert json.loads(done.stdout)[0]["id"] == "m"
    assert {request.target for request in host.requests} == {"/v1/models"}
    done = CliRunner().invoke(main, ["models", "list", "--url", "127.0.0.1:8000"])
    assert (done.exit_code, done.stderr) == (
        2,
        "error: --url must begin with http:// or https:// and a host\n",
    )
