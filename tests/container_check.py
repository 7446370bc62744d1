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
from urllib.parse import urlsplit

import httpx
import yaml
from postgres_server import a_server, folder_of_programs
from servers import reserved_port, s3_server

USER = 10001
PATIENCE_S = 120.0
KEY = "0123456789abcdef" * 4
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
port, method, path, body, key = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
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
        port: where its server listens.
    """

    port = 4000

    def __init__(
        self, image: Image, volume: Path | None, command: Sequence[str], *, shares_network: bool
    ) -> None:
        self._image = image
        network = () if shares_network else ("--net",)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the object
        self.process = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", *network, "--fork", "sh", "-c", START),
                *("sh", str(image.root), str(volume or ""), str(USER)),
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

    def client(self, method: str, path: str, body: str, key: str) -> subprocess.Popen[str]:
        """Start a client of this machine in the container's network."""
        return subprocess.Popen(
            [
                *("nsenter", f"--net=/proc/{self.first_process}/ns/net"),
                *(sys.executable, "-c", CLIENT, str(self.port), method, path, body, key),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    def request(
        self, method: str, path: str, body: object = None, key: str = ""
    ) -> tuple[int, str]:
        """Return the status and the body of an answer; 0 where nothing listens."""
        text = "" if body is None else json.dumps(body)
        with self.client(method, path, text, key) as client:
            out, _ = client.communicate()
        status, _, answer = out.partition("\n")
        return int(status or 0), answer

    def wait_until_ready(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while self.request("GET", "/health/ready")[0] != 200:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End whatever is left of it: the first process takes all others with it."""
        if self.process.poll() is None:
            with contextlib.suppress(IndexError, ProcessLookupError):
                os.kill(self.first_process, signal.SIGKILL)
            self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(
    image: Image, volume: Path | None, *command: str, shares_network: bool = False
) -> Iterator[Container]:
    container = Container(image, volume, command, shares_network=shares_network)
    try:
        yield container
    finally:
        container.kill()


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
            # The first process is there once it has written its key.
            while not (volume / "admin-key").exists():
                assert container.process.poll() is None, container.log
                time.sleep(0.01)
            container.wait_until_ready()
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
            with container.client("POST", "/v1/chat/completions", body, key) as client:
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


def check_stores(image: Image) -> None:
    """Serve with PostgreSQL and an S3 store beside the container, as in compose.yaml."""
    programs = folder_of_programs()
    assert programs is not None, "PostgreSQL is not installed"
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(a_server(programs))
        address = urlsplit(stack.enter_context(database.fresh_database("template0")))
        s3 = stack.enter_context(s3_server("evalrouter"))
        volume = stack.enter_context(volume_of(USER))
        port = stack.enter_context(reserved_port())
        shutil.copy("deploy/compose/metrics_key.sh", volume)
        environ = {
            "EVALROUTER_ADMIN_KEY": KEY,
            "POSTGRES_HOST": address.hostname,
            "POSTGRES_PORT": address.port,
            "POSTGRES_USER": address.username,
            "POSTGRES_DB": address.path.removeprefix("/"),
            "S3_BUCKET": "evalrouter",
            "AWS_ENDPOINT_URL": s3.endpoint_url,
            "AWS_DEFAULT_REGION": s3.region,
            "AWS_ACCESS_KEY_ID": s3.access_key_id.reveal(),
            "AWS_SECRET_ACCESS_KEY": s3.secret_access_key.reveal(),
        }
        image = image._replace(
            environ=[*image.environ, *(f"{name}={value}" for name, value in environ.items())]
        )
        command = [*image.command[:3], "serve", "--port", str(port)]
        container = stack.enter_context(running(image, volume, *command, shares_network=True))
        container.port = port
        while f":{port}" not in container.log:
            assert container.process.poll() is None, container.log
            time.sleep(0.01)
        container.wait_until_ready()
        assert not (volume / "admin-key").exists()
        assert not (volume / "evalrouter.db").exists()
        assert container.request("GET", "/eval", key=KEY)[0] == 200
        run = {
            "dataset": "evalrouter:summaries",
            "routes": ["baseline/lead-1"],
            "metrics": ["length"],
            "limit": 2,
        }
        status, answer = container.request("POST", "/eval", run, KEY)
        assert status in (200, 201, 202), answer
        place = f"/eval/{json.loads(answer)['id']}"
        while True:
            state = json.loads(container.request("GET", place, key=KEY)[1])["run"]["state"]
            if state not in ("queued", "running"):
                break
        assert state == "completed", state
        status, answer = container.request("POST", f"{place}/export", {}, KEY)
        assert status < 300, answer
        assert list(volume.glob("artifacts/*")) == []
        show("PostgreSQL and an S3 store beside it have the run and its export")

        done = container.execute("sh", "/data/metrics_key.sh")
        assert done.returncode == 0, done
        key_file = volume / "key"
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o444
        metrics_key = key_file.read_text().strip()
        while container.request("GET", "/metrics", key=metrics_key)[0] == 401:
            # Servers notice a new key within two seconds.
            time.sleep(0.1)
        assert container.execute("sh", "/data/metrics_key.sh").returncode == 0
        assert key_file.read_text().strip() == metrics_key
        assert container.request("GET", "/metrics", key=metrics_key)[0] == 200
        check_prometheus(port, key_file)


def check_prometheus(port: int, key_file: Path) -> None:
    """Let a real Prometheus read the metrics, with compose.yaml's config and the shipped rules."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        listens_on = stack.enter_context(reserved_port())
        settings = yaml.safe_load(Path("deploy/compose/prometheus.yaml").read_text())
        [job] = settings["scrape_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        job["authorization"]["credentials_file"] = str(key_file)
        settings["rule_files"] = [str(Path("deploy/helm/evalrouter/files/rules.yaml").resolve())]
        settings["global"] = {"scrape_interval": "1s"}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
        process = subprocess.Popen(
            [
                *("prometheus", f"--config.file={folder}/prometheus.yaml"),
                *(f"--storage.tsdb.path={folder}", f"--web.listen-address=127.0.0.1:{listens_on}"),
            ],
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        url = f"http://127.0.0.1:{listens_on}/api/v1"
        query = {"query": "evalrouter_requests_total"}
        until = time.monotonic() + PATIENCE_S
        found: list[object] = []
        while not found:
            assert process.poll() is None
            assert time.monotonic() < until
            with contextlib.suppress(httpx.TransportError, KeyError, ValueError):
                found = httpx.get(f"{url}/query", params=query).json()["data"]["result"]
        [group] = httpx.get(f"{url}/rules").json()["data"]["groups"]
        show(f"Prometheus read the metrics with a key of its own, and {len(group['rules'])} rules")


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
    check_stores(image)
    check_unhealthy(image)
    check_refusals(image)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
