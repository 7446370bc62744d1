"""Whose token opens a private dataset of the hub: the user's own, or the config's, never the
server's environment for a client."""

from __future__ import annotations

import io

import httpx
import pytest
from hub_server import hub
from servers import evalrouter, gateway

parquet = pytest.importorskip("pyarrow.parquet", reason="the parquet extra is not installed")
pa = pytest.importorskip("pyarrow")

NAMED = "hf://org/private"
OWN, CONFIGURED = "hf_of-the-operator-1", "hf_of-the-config-2"


def table(count: int) -> bytes:
    file = io.BytesIO()
    rows = [{"input": f"ask {n}", "reference": f"{n}"} for n in range(count)]
    parquet.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


class Hub:
    """A hub with one private dataset.

    Attributes:
        url: its address.
        received: the Authorization of every request that came.
    """

    def __init__(self, url: str, received: list[str]) -> None:
        self.url, self.received = url, received

    def config(self, folder, **datasets: str) -> str:
        more = "".join(f", {name}: {value}" for name, value in datasets.items())
        return (
            "server: {port: 0}\n"
            f"storage: {{database: 'sqlite:///{folder}/e.db', artifacts: '{folder}/artifacts'}}\n"
            f"datasets: {{hub: '{self.url}'{more}}}\n"
        )


@pytest.fixture
def host():
    received: list[str] = []
    repositories = {"org/private": {"main": {"data/test-00000-of-00001.parquet": table(3)}}}
    with hub(repositories, tokens={OWN, CONFIGURED}, received=received) as url:
        yield Hub(url, received)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", OWN)
    return tmp_path


def document(**more):
    return {"dataset": NAMED, "routes": ["baseline/echo"], "metrics": ["length"], **more}


# What a client may have the server do with a dataset.
REQUESTS = {
    "register": ("/datasets", {"source": NAMED}),
    "create": ("/eval", document()),
    "dry run": ("/eval?dry_run=true", document()),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_over_http_the_servers_own_token_is_not_used(host, folder, name):
    path, body = REQUESTS[name]
    with gateway(host.config(folder)) as url:
        reply = httpx.post(url + path, json=body, timeout=60)
    assert reply.status_code == 400, reply.text
    assert "datasets.hf_token in the server's config" in reply.json()["error"]["message"]
    assert set(host.received) == {""}


@pytest.mark.parametrize("name", REQUESTS)
def test_over_http_the_configs_token_is_used(host, folder, name):
    path, body = REQUESTS[name]
    with gateway(host.config(folder, hf_token='"${TOKEN}"'), {"TOKEN": CONFIGURED}) as url:
        reply = httpx.post(url + path, json=body, timeout=60)
        assert reply.status_code < 300, reply.text
        assert CONFIGURED not in reply.text
    assert set(host.received) == {f"Bearer {CONFIGURED}"}


@pytest.mark.parametrize("command", ["add", "run", "dry run"])
@pytest.mark.parametrize("configured", [False, True])
def test_on_the_command_line_it_is_the_users_own_unless_the_config_has_one(
    host, folder, command, configured
):
    more = {"hf_token": CONFIGURED} if configured else {}
    (folder / "evalrouter.yaml").write_text(host.config(folder, **more))
    (folder / "run.yaml").write_text(
        f"dataset: {NAMED}\nroutes: [baseline/echo]\nmetrics: [length]\n"
    )
    arguments = {
        "add": ("dataset", "add", NAMED),
        "run": ("eval", "run", "run.yaml"),
        "dry run": ("eval", "run", "run.yaml", "--dry-run"),
    }
    done = evalrouter(*arguments[command], HF_TOKEN=OWN)
    assert OWN not in done.stdout + done.stderr
    assert set(host.received) == {f"Bearer {CONFIGURED if configured else OWN}"}


def test_a_client_extends_no_run_of_a_command_into_what_is_private(host, folder):
    (folder / "evalrouter.yaml").write_text(host.config(folder))
    (folder / "run.yaml").write_text(
        f"dataset: {NAMED}\nroutes: [baseline/echo]\nmetrics: [length]\nlimit: 1\n"
    )
    evalrouter("eval", "run", "run.yaml", HF_TOKEN=OWN)
    host.received.clear()
    with gateway(host.config(folder)) as url:
        run_id = httpx.get(f"{url}/eval").json()["data"][0]["id"]
        reply = httpx.post(f"{url}/eval/{run_id}/extend", json={"limit": 3}, timeout=60)
        assert reply.status_code == 400, reply.text
        assert "datasets.hf_token" in reply.json()["error"]["message"]
        assert set(host.received) == {""}
    # Whoever has the token may.
    evalrouter("eval", "extend", run_id, "--limit", "3", HF_TOKEN=OWN)
    assert set(host.received) == {"", f"Bearer {OWN}"}


def test_a_token_that_no_header_can_have_is_refused(folder):
    (folder / "evalrouter.yaml").write_text('datasets: {hf_token: "hf_x\\n"}\n')
    stderr = evalrouter("config", "check", "evalrouter.yaml", check=2).stderr
    assert "datasets.hf_token: has characters that no header can have" in stderr
    assert "hf_x" not in stderr
