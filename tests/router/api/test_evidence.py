"""`/evidence` over HTTP: written, listed, downloaded and deleted, and who may."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil

import click.testing
import httpx
import pytest
from bundled_runs import config_of, make_run
from servers import gateway

from router.cli import main
from router.client import Client
from router.config.storage import Storage
from router.gateway.key_administration import create
from router.loop.bundles.exported import bundles_of_runs
from router.loop.bundles.signatures import fingerprint, read_key
from router.loop.bundles.verification import verify
from router.services import Services
from router.store.selection import open_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    make_run(folder)
    config = (folder / "evalrouter.yaml").read_text()
    (folder / "evalrouter.yaml").write_text(f"{config}evidence: {{key: '{folder}/key'}}\n")
    return folder


@pytest.fixture(scope="module")
def run_id(folder):
    return (folder / "run.txt").read_text()


@pytest.fixture
def url(folder):
    with gateway((folder / "evalrouter.yaml").read_text()) as url:
        yield url


def test_a_bundle_is_written_downloaded_verified_and_deleted(url, folder, run_id, tmp_path):
    with Client(url) as client:
        made = client.evidence.create(run_id)
        assert made["signed_by"] == fingerprint(
            read_key(folder / "key", passphrase=None).public_pem
        )
        assert (made["subject"], made["bodies"], made["stored"]) == (run_id, "masked", True)
        assert made["created_by"] == "a client without a key"
        path = client.evidence.download(made["id"], tmp_path / "b.zip")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == made["sha256"]
        assert path.stat().st_size == made["size"]
        found = asyncio.run(verify(path))
        assert found.passed
        assert found.manifest == made["manifest"]
        hashed = client.evidence.create(run_id, bodies="hashes")
        assert [each["id"] for each in client.evidence.list(subject=run_id, limit=1)] == [
            hashed["id"]
        ]
        older = client.evidence.list(before=hashed["id"])
        assert made["id"] in [each["id"] for each in older]
        assert client.evidence.list(subject="run_none") == []
        for bundle in (made, hashed):
            client.evidence.delete(bundle["id"])
        assert client.evidence.list(subject=run_id) == []
    answer = httpx.get(f"{url}/evidence/{made['id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert not list((folder / "artifacts" / "evidence").glob("*.zip"))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"subject": "run_none"}, 404, "There is no run 'run_none'."),
        ({"subject": "ro_none"}, 404, "There is no rollout 'ro_none'"),
        ({"subject": "x", "bodies": "all"}, 400, "bodies"),
        ({"subject": "x", "key": "/etc/passwd"}, 400, "key"),
        ({}, 400, "subject"),
        ({"subject": "a\nb"}, 400, "subject"),
    ],
)
def test_what_cannot_be_written_is_refused(url, body, status, message):
    answer = httpx.post(f"{url}/evidence", json=body)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


def test_a_key_of_the_config_that_cannot_be_read_is_named(folder, run_id, tmp_path):
    config = (folder / "evalrouter.yaml").read_text().replace(f"{folder}/key", f"{tmp_path}/none")
    with gateway(config) as url:
        answer = httpx.post(f"{url}/evidence", json={"subject": run_id})
    assert answer.status_code == 400
    assert "evidence.key: " in answer.json()["error"]["message"]


def test_only_the_owner_of_a_run_and_administrators_see_its_bundles(folder, run_id, tmp_path):
    database = tmp_path / "e.db"
    shutil.copy(folder / "e.db", database)
    config = (folder / "evalrouter.yaml").read_text()
    config = config.replace(f"{folder}/e.db", str(database))

    async def keys():
        async with open_store(Storage(database=f"sqlite:///{database}")) as store:
            made = {}
            for name, role in (("owner", "client"), ("other", "client"), ("boss", "admin")):
                made[name], row = await create(store, name, now=0.5, role=role)
                if name == "owner":
                    await store.update_run(run_id, key_id=row.id)
            return made

    secrets = asyncio.run(keys())
    with gateway(config) as url:

        def send(name, method, path, **fields):
            headers = {"authorization": f"Bearer {secrets[name]}"}
            return httpx.request(method, f"{url}{path}", headers=headers, **fields)

        made = send("boss", "POST", "/evidence", json={"subject": run_id}).json()
        assert made["created_by"].startswith("key boss (")
        for name, status, listed in (("boss", 200, 1), ("owner", 200, 1), ("other", 404, 0)):
            assert send(name, "GET", f"/evidence/{made['id']}").status_code == status, name
            assert len(send(name, "GET", "/evidence").json()["data"]) == listed, name
        [seen] = send("owner", "GET", "/evidence").json()["data"]
        assert seen == {**made, "location": "", "created_by": ""}
        assert made["location"]
        for name in ("owner", "other"):
            refused = send(name, "POST", "/evidence", json={"subject": run_id})
            assert refused.status_code == 403
            assert send(name, "DELETE", f"/evidence/{made['id']}").status_code == 403


def test_a_deletion_names_the_bundles_that_have_the_texts(folder, run_id, tmp_path):
    """Of commands, too: what was passed on cannot be recalled."""
    arguments = ["evidence", "export", run_id, "-o", str(tmp_path / "b.zip"), "--json"]
    done = click.testing.CliRunner().invoke(
        main, [*arguments, "--config", str(folder / "evalrouter.yaml")]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bundle"]["signed_by"]

    async def places():
        async with Services(config_of(folder)) as services:
            return await bundles_of_runs(services.store, [run_id])

    [place] = asyncio.run(places())
    assert place.endswith(f" of {run_id} (texts: masked): {tmp_path / 'b.zip'}")
