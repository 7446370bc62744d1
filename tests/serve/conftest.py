"""One Ray for the whole session: tiny models, hosted by `evalrouter models serve`."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest


def _is_installed(name: str) -> bool:
    """Return whether there is such a package; a folder of that name without code is not one."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


_MISSING = [name for name in ("ray", "transformers", "peft") if not _is_installed(name)]


class Skipped(pytest.File):
    """A file of tests that cannot be imported here."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(f"needs {' and '.join(_MISSING)}")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Skipped | None:
    """Skip a file before its imports fail."""
    return Skipped.from_parent(parent, path=module_path) if _MISSING else None


CONFIG = """\
models:
  llama: {{engine: transformers, source: {folder}/llama, cpus: 0.1, concurrency: 1}}
  bart:
    engine: transformers
    task: summarization
    source: {folder}/bart
    cpus: 0.1
    replicas: {{min: 0, max: 1, up_delay: 0, idle: 600}}
  roomless:
    engine: llamacpp
    source: {folder}/tiny.gguf
    cpus: 64
    cold_start: 3
    replicas: {{min: 0, max: 1, up_delay: 0, idle: 600}}
  tiny-gguf: {{engine: llamacpp, source: {folder}/tiny.gguf, cpus: 0.1, options: {{context: 512}}}}
  broken:
    engine: transformers
    source: {folder}/broken
    cpus: 0.1
    replicas: {{min: 0, max: 1, up_delay: 0}}
  sea:
    engine: transformers
    source: {folder}/sea
    cpus: 0.1
    share: {{name: small, keep: 2}}
    adapters: {{pirate: {folder}/pirate}}
  wind: {{engine: transformers, source: {folder}/wind, cpus: 0.1, share: {{name: small, keep: 2}}}}
  ship:
    engine: llamacpp
    source: {folder}/ship.gguf
    cpus: 0.1
    cold_start: 3
    share: {{name: small, keep: 2}}
    options: {{context: 512}}
  wreck:
    {{engine: transformers, source: {folder}/wreck, cpus: 0.1, share: {{name: small, keep: 2}}}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models' files: as CONFIG names them; `broken` and `wreck` are none."""
    import tiny_gguf
    import tiny_models

    folder = tmp_path_factory.mktemp("models")
    tiny_models.llama(folder / "llama")
    tiny_models.bart(folder / "bart")
    tiny_gguf.write(folder / "tiny.gguf")
    tiny_models.llama(folder / "sea", seed=2)
    tiny_models.adapter(folder / "pirate", folder / "sea")
    tiny_models.llama(folder / "wind", seed=3)
    tiny_gguf.write(folder / "ship.gguf", seed=4)
    for name in ("broken", "wreck"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text('{"model_type": "no-such-model"}')
    return folder


class RayCluster(NamedTuple):
    """A cluster of two machines on this one.

    Attributes:
        address: of its head.
        environ: what processes need to talk to it.
        process: `ray_cluster.py`.
    """

    address: str
    environ: dict[str, str]
    process: subprocess.Popen[str]

    def lose_a_machine(self) -> None:
        """Kill the one that is not the head, at once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """The one Ray of the session."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(16))
    environ = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        # Of the Jobs API; what a job is to run is looked for in PATH.
        "RAY_DASHBOARD_PORT": str(free_port()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    program = Path(__file__).parents[1] / "ray_cluster.py"
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "Ray did not start"
        yield RayCluster(address, environ, process)
    finally:
        # Closes its stdin, which ends it.
        process.communicate(timeout=60)


@pytest.fixture(scope="session")
def hosted(folder: Path, cluster: RayCluster) -> Iterator[str]:
    """Base URL of the hosted models, `bart` scaled to zero."""
    config = folder / "models.yaml"
    config.write_text(CONFIG.format(folder=folder))
    command = [sys.executable, "-m", "router", "models", "serve", str(config)]
    command += ["--port", str(free_port()), "--address", cluster.address]
    log = folder / "serve.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, env=cluster.environ
        )
    try:
        yield _ready(server, log)
    finally:
        # The cluster ends next, and takes all of it along.
        server.kill()
        server.wait()


def _ready(server: subprocess.Popen[bytes], log: Path) -> str:
    while server.poll() is None:
        found = re.search(r"models on (http://\S+/v1)", log.read_text())
        if found:
            return found.group(1)
        try:
            server.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail(f"the host ended with {server.returncode}: {log.read_text()[-3000:]}")
