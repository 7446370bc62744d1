"""The first administrator's key, and what `evalrouter serve` says in a container."""

import asyncio
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from server_process import descendants, starting, wait_for
from servers import gateway

from providers.errors import ConfigError, StoreError
from router.cli import main
from router.config.loading import parse
from router.gateway.key_administration import create, listed, revoke
from router.services import create_first_key, refuse_open_door
from router.store.selection import open_store

KEY = "0123456789abcdef" * 4
OTHERS = "0.0.0.0"


def config_of(folder, server="", environ=None):
    return parse(
        f"server: {{{server}}}", "c.yaml", {"EVALROUTER_DATA": str(folder), **(environ or {})}
    )


def in_store(config, action):
    async def inside():
        async with open_store(config.storage) as store:
            return await action(store)

    return asyncio.run(inside())


def keys_of(config):
    rows = in_store(config, lambda store: listed(store, time.time()))
    return [(row.key.name, row.key.role == "admin", row.state) for row in rows]


ADMIN = ("admin", True, "active")


def test_a_key_of_the_environment_is_the_first_administrators(tmp_path, caplog):
    config = config_of(tmp_path, environ={"EVALROUTER_ADMIN_KEY": KEY})
    with caplog.at_level(logging.INFO, "evalrouter"):
        for _ in range(2):
            create_first_key(config, "127.0.0.1")
            refuse_open_door(config, OTHERS)
    assert keys_of(config) == [ADMIN]
    assert len(caplog.messages) == 1
    assert KEY not in caplog.text
    with gateway(config) as url, httpx.Client(base_url=url) as client:
        assert client.get("/eval").status_code == 401
        assert client.get("/eval", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert not (tmp_path / "admin-key").exists()


def test_a_key_of_the_environment_is_not_created_beside_another_administrators(tmp_path, caplog):
    config = config_of(tmp_path)
    in_store(config, lambda store: create(store, "boss", now=time.time(), role="admin"))
    create_first_key(config_of(tmp_path, environ={"EVALROUTER_ADMIN_KEY": KEY}), OTHERS)
    assert keys_of(config) == [("boss", True, "active")]
    assert "key create NAME --admin" in caplog.text


def test_a_key_of_the_environment_helps_where_only_clients_have_keys(tmp_path):
    config = config_of(tmp_path, environ={"EVALROUTER_ADMIN_KEY": KEY})
    in_store(config, lambda store: create(store, "app", now=time.time()))
    create_first_key(config, OTHERS)
    assert keys_of(config) == [("app", False, "active"), ADMIN]


def test_a_clients_key_of_the_same_name_is_not_made_an_administrators(tmp_path):
    config = config_of(tmp_path, environ={"EVALROUTER_ADMIN_KEY": KEY})
    in_store(config, lambda store: create(store, "admin", now=time.time()))
    with pytest.raises(ConfigError, match="key revoke admin"):
        create_first_key(config, OTHERS)


def test_a_revoked_key_does_not_come_back(tmp_path, caplog):
    config = config_of(tmp_path, environ={"EVALROUTER_ADMIN_KEY": KEY})
    create_first_key(config, OTHERS)
    in_store(config, lambda store: revoke(store, "admin", time.time()))
    create_first_key(config, OTHERS)
    assert keys_of(config) == [("admin", True, "revoked")]
    assert "was revoked" in caplog.text


@pytest.mark.parametrize("text", [KEY, f"{KEY}\n"])
def test_a_key_is_read_from_a_file(tmp_path, text):
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o440)
    environ = {"EVALROUTER_ADMIN_KEY_FILE": str(path)}
    assert config_of(tmp_path, environ=environ).server.admin_key.reveal() == KEY


def _missing(path):
    pass


def _world_readable(path):
    path.write_text(KEY)
    path.chmod(0o644)


def _folder(path):
    path.mkdir()


def _short(path):
    path.write_text("secret")
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "no such file"),
        (_world_readable, "every user can read it (mode 0644); chmod 600 it"),
        (_folder, "is a folder; Docker makes one"),
        (_short, "32 to 256 visible ASCII characters"),
    ],
)
def test_a_secret_file_that_cannot_be_used_says_why(tmp_path, make, message):
    path = tmp_path / "secret"
    make(path)
    with pytest.raises(ConfigError) as caught:
        parse("", "c.yaml", {"EVALROUTER_ADMIN_KEY_FILE": str(path)})
    assert f"EVALROUTER_ADMIN_KEY_FILE: {path}" in caught.value.message
    assert message in caught.value.message
    assert "secret" not in caught.value.message.replace(str(path), "")


@pytest.mark.parametrize("key", ["short", "x" * 31, "x" * 257, f"{KEY} x", "é" * 40])
def test_a_key_that_could_be_guessed_is_refused(key):
    with pytest.raises(ConfigError, match="EVALROUTER_ADMIN_KEY: a key has") as caught:
        parse("", "c.yaml", {"EVALROUTER_ADMIN_KEY": key})
    assert key not in caught.value.message
    with pytest.raises(ConfigError, match=r"server\.admin_key: a key has"):
        parse(f"server: {{admin_key: '{key}'}}", "c.yaml", {})


def test_two_sources_of_the_key_are_refused(tmp_path):
    environ = {"EVALROUTER_ADMIN_KEY": KEY, "EVALROUTER_ADMIN_KEY_FILE": str(tmp_path)}
    with pytest.raises(ConfigError, match="set one of them"):
        parse("", "c.yaml", environ)


@pytest.mark.parametrize(("address", "server"), [(OTHERS, ""), ("127.0.0.1", "require_keys: true")])
def test_without_a_key_one_is_written_to_the_data_folder(tmp_path, caplog, address, server):
    config = config_of(tmp_path, server)
    with caplog.at_level(logging.INFO, "evalrouter"):
        create_first_key(config, address)
    path = tmp_path / "admin-key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = path.read_text().strip()
    assert str(path) in caplog.text
    assert key not in caplog.text
    assert keys_of(config) == [ADMIN]
    create_first_key(config, address)
    assert path.read_text().strip() == key
    # The database was lost, or is another one: who has the file has a key.
    (tmp_path / "evalrouter.db").unlink()
    create_first_key(config, address)
    with gateway(config) as url:
        answer = httpx.get(f"{url}/eval", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("address", "server"), [("127.0.0.1", ""), (OTHERS, "allow_anonymous: true")]
)
def test_no_key_is_written_where_none_is_needed(tmp_path, address, server):
    create_first_key(config_of(tmp_path, server), address)
    assert not any(tmp_path.iterdir())


def test_no_key_is_written_beside_others(tmp_path):
    config = config_of(tmp_path)
    in_store(config, lambda store: create(store, "app", now=time.time()))
    create_first_key(config, OTHERS)
    assert not (tmp_path / "admin-key").exists()


def test_a_key_file_that_everybody_can_read_is_not_used(tmp_path):
    _world_readable(tmp_path / "admin-key")
    with pytest.raises(ConfigError, match="every user can read it"):
        create_first_key(config_of(tmp_path), OTHERS)


def test_a_data_folder_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="its folder cannot be used: No such file"):
        create_first_key(config_of(tmp_path / "missing"), OTHERS)


def test_the_data_folder_has_what_nothing_else_names_a_place_for(tmp_path):
    storage = config_of(tmp_path).storage
    assert storage.database == f"sqlite:///{tmp_path}/evalrouter.db"
    assert storage.artifacts == f"{tmp_path}/artifacts"
    named = "storage: {folder: /elsewhere, artifacts: s3://bucket}"
    environ = {"EVALROUTER_DATA": str(tmp_path), "POSTGRES_HOST": "db"}
    storage = parse(named, "c.yaml", environ).storage
    assert storage.folder == "/elsewhere"
    assert storage.database == "postgresql://postgres@db:5432/postgres"
    assert storage.artifacts == "s3://bucket"


# variables that nothing reads


def test_config_check_names_variables_that_nothing_reads(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "server:\n  host: ${EVALROUTER_HOST}\n  port: ${EVALROUTER_PORTS:-4000}\n"
    )
    environ = {
        "EVALROUTER_CONFIG": str(tmp_path / "c.yaml"),
        "EVALROUTER_HOST": "127.0.0.1",
        "EVALROUTER_ADMIN_KEYFILE": "/x",
        "EVALROUTER_PORT": "4000",
        # Kubernetes sets these for a service called evalrouter.
        "EVALROUTER_SERVICE_HOST": "10.0.0.1",
        "EVALROUTER_SERVICE_PORT_HTTP": "4000",
        "EVALROUTER_PORT_4000_TCP_ADDR": "10.0.0.1",
        "EVALROUTER_WEB_PORT": "tcp://10.0.0.1:4000",
    }
    done = CliRunner(env=environ).invoke(main, ["config", "check"], catch_exceptions=False)
    assert "c.yaml: good" in " ".join(done.stdout.split())
    warnings = re.findall(r"nothing reads the variable (\w+)\.(.*)", done.stderr)
    assert [name for name, _ in warnings] == ["EVALROUTER_ADMIN_KEYFILE", "EVALROUTER_PORT"]
    assert "'EVALROUTER_ADMIN_KEY_FILE'" in warnings[0][1]


# a container


def test_a_server_in_a_container_writes_its_first_key_and_ends_as_process_1(tmp_path):
    """On an overlay, as containers are, as process 1 of its own namespace."""
    data = tmp_path / "data"
    # The upper layer of an overlay may not be one itself.
    mount = (
        f"mkdir -p {tmp_path}/layers {data} && mount -t tmpfs layers {tmp_path}/layers && "
        f"mkdir {tmp_path}/layers/upper {tmp_path}/layers/work && mount -t overlay overlay -o "
        f"lowerdir={data},upperdir={tmp_path}/layers/upper,workdir={tmp_path}/layers/work {data}"
    )
    container = (
        "unshare",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
    )
    if (
        not shutil.which("unshare")
        or subprocess.run([*container, mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("a container needs unshare, user namespaces and overlays")
    before = (
        *("env", f"EVALROUTER_DATA={data}", "EVALROUTER_ADMIN_KEYS=x"),
        *(*container, f'{mount} && exec "$@"', "sh"),
    )
    (tmp_path / "evalrouter.yaml").write_text("server: {drain_seconds: 60}\n")
    with starting(tmp_path, "--host", OTHERS, "--port", "0", before=before) as server:
        wait_for(server.is_ready)
        [inside] = descendants(server.process.pid)[:1]
        seen = Path(f"/proc/{inside}/root")
        key = (seen / str(data / "admin-key")[1:]).read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{server.url}/eval", headers=headers).status_code == 200
        status = Path(f"/proc/{inside}/status").read_text()
        assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE)
        os.kill(inside, signal.SIGTERM)
        assert server.wait() == 0
        log = server.log
    assert f"is in the file {data}/admin-key" in log
    assert key not in log
    assert f"{data} is no volume" in log
    assert "nothing reads the variable EVALROUTER_ADMIN_KEYS" in log
    assert "Traceback" not in log
