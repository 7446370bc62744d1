"""What the image does, without a container engine; `deploy/check` runs it.

    python tests/container_check.py ROOT INSPECTED

ROOT is the image's root file system. It runs in namespaces of its own, as engines run it: its
first process is process 1, its root is read-only, its user is not root, and its network is its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

USER = 10001
PATIENCE_S = 120.0
CONFIG = """
providers:
  scripted:
    kind: scripted
    script: {slow: [{answer: "one two three four five six seven", chunk_delay_s: 0.5}]}
"""
# Inside: a read-only root, a volume at /data (if there is one), and what every engine mounts.
START = """
set -e
ip link set lo up
mount --bind "$1" "$1"
mount -t tmpfs -o mode=1777 tmp "$1/tmp"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
[ -z "$2" ] || mount --bind "$2" "$1/data"
mount -o remount,ro,bind "$1"
cd "$1"
root=$1 user=$3
shift 3
exec chroot --userspec="$user:$user" . env -i --chdir=/data "$@"
"""
CLIENT = """
import http.client, sys
method, path, body, key = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 4000, timeout=60)
headers = {"content-type": "application/json"}
if key:
    headers["authorization"] = "Bearer " + key
try:
    connection.request(method, path, body or None, headers)
except ConnectionRefusedError:
    sys.exit(1)
response = connection.getresponse()
print(response.status, flush=True)
while line := response.readline():
    print(line.decode(), end="", flush=True)
"""


class Image(NamedTuple):
    """An image.

    Attributes:
        root: its root file system.
        environ: its variables, `NAME=value`.
        command: what it runs.
        health_check: what tells whether that works.
    """

    root: Path
    environ: Sequence[str]
    command: Sequence[str]
    health_check: Sequence[str]


class Container:
    """A command in the image.

    Attributes:
        process: the one that waits for the first process inside.
    """

    def __init__(self, image: Image, volume: Path | None, command: Sequence[str]) -> None:
        self._image = image
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the object
        self.process = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-c"),
                *(START, "sh", str(image.root), str(volume or ""), str(USER)),
                *(*image.environ, *command),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    @property
    def first_process(self) -> int:
        """Its number out here."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the image beside the first process."""
        enter = ["nsenter", "--all", "--root", f"--target={self.first_process}"]
        return subprocess.run(
            [*enter, "env", "-i", *self._image.environ, *command],
            capture_output=True,
            text=True,
            check=False,
        )

    def client(self, *command: str) -> subprocess.Popen[str]:
        """Start a command of this machine in the container's network."""
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{self.first_process}/ns/net", *command],
            stdout=subprocess.PIPE,
            text=True,
        )

    def request(
        self, method: str, path: str, body: object = None, key: str = ""
    ) -> tuple[int, str]:
        """Return the status and the body of an answer; 0 where nothing listens."""
        text = "" if body is None else json.dumps(body)
        with self.client(sys.executable, "-c", CLIENT, method, path, text, key) as client:
            out, _ = client.communicate()
        status, _, answer = out.partition("\n")
        return int(status or 0), answer

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def running(image: Image, volume: Path | None, *command: str) -> Iterator[Container]:
    container = Container(image, volume, command)
    try:
        yield container
    finally:
        if container.process.poll() is None:
            container.process.kill()
        container.process.wait()


@contextlib.contextmanager
def volume_of(user: int, mode: int = 0o770) -> Iterator[Path]:
    """A folder that is a user's, as an engine makes a volume."""
    folder = Path(tempfile.mkdtemp(prefix="evalrouter-volume-"))
    os.chown(folder, user, user)
    folder.chmod(mode)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def show(text: str) -> None:
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()


def chat(model: str, **fields: object) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "One. Two. Three. Four."}],
        **fields,
    }


def check_demo(image: Image) -> None:
    with volume_of(USER) as volume, running(image, volume, "evalrouter", "demo") as container:
        assert container.wait() == 0, container.log
        took = re.search(r"Done in ([\d.]+) s", container.log)
        assert took, container.log
        show(f"the demo took {took[1]} s")


def check_serving(image: Image) -> None:
    with volume_of(USER) as volume:
        (volume / "evalrouter.yaml").write_text(CONFIG)
        began = time.monotonic()
        with running(image, volume, *image.command) as container:
            until = began + PATIENCE_S
            # Probed from within, as by the engine's health check, whose own start takes a while.
            while not (volume / "admin-key").exists():
                assert container.process.poll() is None, container.log
                assert time.monotonic() < until, container.log
                time.sleep(0.01)
            while container.request("GET", "/health/ready")[0] != 200:
                assert container.process.poll() is None, container.log
                assert time.monotonic() < until, container.log
            show(f"ready {time.monotonic() - began:.1f} s after the start (a probe takes 0.1 s)")

            inside = Path(f"/proc/{container.first_process}")
            assert (inside / "comm").read_text() == "tini\n"
            status = (inside / "status").read_text()
            assert re.search(rf"^Uid:\t{USER}\t{USER}\t{USER}\t{USER}$", status, re.M), status
            assert re.search(r"^NSpid:\t\d+\t1$", status, re.M), status
            show(f"process 1 is tini, its user is {USER}, its root is read-only")

            key_file = volume / "admin-key"
            key = key_file.read_text().strip()
            assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
            assert key_file.stat().st_uid == USER
            assert "is in the file /data/admin-key" in container.log, container.log
            assert key not in container.log

            healthy = container.execute(*image.health_check)
            assert healthy.returncode == 0, healthy
            assert json.loads(healthy.stdout) == {"status": "ready"}

            assert (
                container.request("POST", "/v1/chat/completions", chat("baseline/lead-3"))[0] == 401
            )
            code, answer = container.request(
                "POST", "/v1/chat/completions", chat("baseline/lead-3"), key
            )
            assert code == 200, answer
            content = json.loads(answer)["choices"][0]["message"]["content"]
            assert content == "One. Two. Three.", content
            show("a request with the key of /data/admin-key was served, one without was refused")

            body = json.dumps(chat("scripted/slow", stream=True))
            with container.client(
                sys.executable, "-c", CLIENT, "POST", "/v1/chat/completions", body, key
            ) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == "200\n"
                while "one" not in client.stdout.readline():
                    pass
                os.kill(container.first_process, signal.SIGTERM)
                rest, _ = client.communicate()
            assert "seven" in rest, rest
            assert "data: [DONE]" in rest, rest
            assert container.wait() == 0, container.log
            assert "Traceback" not in container.log, container.log
            show("SIGTERM let an open stream finish, and the exit code was 0")


def check_unhealthy(image: Image) -> None:
    with running(image, None, *image.health_check) as container:
        assert container.wait() == 1
        assert "no answer at port 4000" in container.log, container.log
    show("the health check fails where nothing listens")


def check_refusals(image: Image) -> None:
    with running(image, None, *image.command) as container:
        assert container.wait() != 0
        assert "its file system is read-only; in a container, mount a volume" in container.log, (
            container.log
        )
        assert "Traceback" not in container.log, container.log
    with volume_of(0, 0o755) as volume, running(image, volume, *image.command) as container:
        assert container.wait() != 0
        assert f"user {USER} may not" in container.log, container.log
        assert "Traceback" not in container.log, container.log
    show("no volume, and a volume of another user's, are refused with a reason")


def read_image(root: Path, inspected: Path) -> Image:
    """Check what the image says about itself, and return it."""
    config = json.loads(inspected.read_text())["Docker"]["config"]
    assert config["Labels"]["org.opencontainers.image.title"] == "evalrouter", config
    assert config["User"] == f"{USER}:{USER}", config
    assert list(config["Volumes"]) == ["/data"], config
    assert config["WorkingDir"] == "/data", config
    kind, *health_check = config["Healthcheck"]["Test"]
    assert kind == "CMD", config
    # Whatever pip was told is in no setting.
    assert "PIP_" not in inspected.read_text()
    return Image(root, config["Env"], [*config["Entrypoint"], *config["Cmd"]], health_check)


def check_contents(image: Image) -> None:
    sbom = json.loads((image.root / "opt/evalrouter/sbom.cdx.json").read_text())
    names = {component["name"].lower() for component in sbom["components"]}
    assert {"litestar", "msgspec", "uvicorn", "psycopg"} <= names, names
    show(f"the SBOM lists {len(names)} packages")


def main(root: Path, inspected: Path) -> None:
    """Check an image.

    Args:
        root: its root file system.
        inspected: a file with what `buildah inspect --type image` prints of it.
    """
    image = read_image(root, inspected)
    check_contents(image)
    check_demo(image)
    check_serving(image)
    check_unhealthy(image)
    check_refusals(image)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
