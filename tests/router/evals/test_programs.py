"""`file:` metrics over HTTP: administrators', and only out of the folder that the config names."""

import asyncio
from pathlib import Path

import httpx
import pytest
from servers import finished, gateway

from providers.errors import ConfigError
from router.config.loading import parse
from router.gateway.key_administration import create
from router.store.sqlite import SqliteStore

POLITE = "def score(answer, references, row): return float('please' in answer)\n"
TOUCH = "from pathlib import Path\nPath({!r}).touch()\n"


def config(folder, programs="programs"):
    line = f'  programs: "{folder / programs}"' if programs else ""
    return f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
datasets: {{roots: ["{folder}"]}}
evaluation:
  roots: ["{folder}"]
{line}
"""


@pytest.fixture
def folder(tmp_path):
    marker = TOUCH.format(str(tmp_path / "ran"))
    for place in ("programs/team", "elsewhere", "programs-too"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "programs" / "polite.py").write_text(POLITE)
    (tmp_path / "programs" / "team" / "rude.py").write_text(POLITE.replace("please", "damn"))
    for place in ("elsewhere", "programs-too"):
        (tmp_path / place / "bad.py").write_text(marker + POLITE)
    (tmp_path / "programs" / "link.py").symlink_to(tmp_path / "elsewhere" / "bad.py")
    (tmp_path / "programs" / "inside.py").symlink_to(tmp_path / "programs" / "polite.py")
    (tmp_path / "programs" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d.jsonl").write_text('{"input": "please"}\n{"input": "damn"}\n')
    return tmp_path


def document(folder, *metrics):
    return {"dataset": str(folder / "d.jsonl"), "routes": ["baseline/echo"], "metrics": metrics}


def estimates(outcome):
    [route] = outcome["report"]["routes"]
    return {score["output"]: score["estimate"] for score in route["scores"]}


def test_an_administrators_run_names_files_of_the_folder(folder):
    with gateway(config(folder)) as url, httpx.Client(base_url=url, timeout=60) as http:
        metrics = ("file:polite.py", {"name": "file:team/rude.py", "outputs": ["rude"]})
        made = http.post("/eval", json=document(folder, *metrics))
        assert made.status_code == 202, made.text
        run = made.json()
        outcome = finished(http, run["id"])
        assert outcome["run"]["state"] == "completed", outcome["run"]["error"]
        assert estimates(outcome) == {"polite": 0.5, "rude": 0.5}
        assert "sha256:" in run["metrics"]["file:polite.py"]
        # Scoring again and going on read the same files, by the paths that are stored.
        again = http.post(f"/eval/{run['id']}/rescore", json={"metrics": ["file:polite.py"]})
        assert again.status_code == 202, again.text
        assert estimates(finished(http, run["id"])) == {"polite": 0.5, "rude": 0.5}
        assert http.post(f"/eval/{run['id']}/extend", json={"repeats": 2}).status_code == 202
        assert finished(http, run["id"])["run"]["state"] == "completed"


def test_a_file_that_has_changed_does_not_go_on_with_a_run(folder):
    with gateway(config(folder)) as url, httpx.Client(base_url=url, timeout=60) as http:
        run = http.post("/eval", json=document(folder, "file:polite.py")).json()
        finished(http, run["id"])
        (folder / "programs" / "polite.py").write_text(POLITE + "#\n")
        refused = http.post(f"/eval/{run['id']}/extend", json={"repeats": 2})
        assert refused.status_code == 409, refused.text


def test_nothing_else_is_named(folder):
    paths = [
        "../elsewhere/bad.py",
        "team/../../elsewhere/bad.py",
        "team/../polite.py",
        "../programs-too/bad.py",
        "../programs/polite.py",
        str(folder / "elsewhere" / "bad.py"),
        str(folder / "programs-too" / "bad.py"),
        "link.py",
        "inside.py",
        "out/bad.py",
        "~/bad.py",
        "file:///" + str(folder / "elsewhere" / "bad.py"),
        "..\\elsewhere\\bad.py",
        "polite.py\0",
        "polite.py\n",
        f"/proc/self/root{folder}/elsewhere/bad.py",
        f"/proc/self/root{folder}/programs/polite.py",
    ]
    with gateway(config(folder)) as url, httpx.Client(base_url=url, timeout=60) as http:
        for path in paths:
            for spec in (f"file:{path}", {"name": f"file:{path}", "low": 0}):
                for query in ("", "?dry_run=true"):
                    refused = http.post(f"/eval{query}", json=document(folder, spec))
                    assert refused.status_code == 400, path
                    assert refused.json()["error"]["code"] == "not_allowed", refused.text
                    assert refused.json()["error"]["param"] == "metrics[0]"
        for path in ("absent.py", "team", "."):
            refused = http.post("/eval", json=document(folder, f"file:{path}"))
            assert refused.status_code == 400, path
        assert http.get("/eval").json()["data"] == []
    assert not (folder / "ran").exists()


def test_without_the_folder_the_refusal_says_what_to_do(folder):
    with gateway(config(folder, programs="")) as url:
        refused = httpx.post(f"{url}/eval", json=document(folder, "file:programs/polite.py"))
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        "metrics[0]: a metric that is a file is run from the command line only, unless "
        "evaluation.programs in the server's config names the folder that it is in; or install it "
        "as a plugin"
    )


def test_clients_and_reviewers_name_none(folder):
    async def make_keys():
        store = SqliteStore(folder / "e.db")
        await store.open()
        try:
            for role in ("client", "reviewer", "admin"):
                key, _ = await create(store, role, now=0.5, role=role)
                yield key
        finally:
            await store.close()

    async def statuses():
        return [key async for key in make_keys()]

    keys = asyncio.run(statuses())
    with gateway(config(folder)) as url:
        answers = [
            httpx.post(
                f"{url}/eval?dry_run=true",
                json=document(folder, "file:polite.py"),
                headers={"authorization": f"Bearer {key}"},
            ).status_code
            for key in keys
        ]
    assert answers == [403, 403, 200]


def test_a_program_that_an_option_names_stays_refused(folder):
    spec = {"name": "hf:accuracy", "path": "polite.py"}
    with gateway(config(folder)) as url:
        refused = httpx.post(f"{url}/eval", json=document(folder, spec)).json()["error"]
    assert (refused["param"], refused["code"]) == ("metrics[0].path", "not_allowed")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("evaluation: {programs: artifacts}", "storage.artifacts"),
        ("evaluation: {programs: artifacts/programs}", "storage.artifacts"),
        ("evaluation: {programs: .}", "storage.artifacts"),
        (
            "evaluation: {programs: p}\nstorage: {artifacts: s3://bucket, "
            "database: 'sqlite:///p/x/e.db'}",
            "storage.database",
        ),
        (
            "evaluation: {programs: p}\nserver: {allow_anonymous: true}",
            "server.allow_anonymous is true",
        ),
    ],
)
def test_a_folder_that_others_can_write_to_or_start_is_refused(tmp_path, monkeypatch, text, why):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"evaluation\.programs: ") as caught:
        parse(text, "c", {})
    assert why in caught.value.message


def test_a_linked_artifact_folder_is_seen_through(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("real").mkdir()
    Path("programs").symlink_to("real")
    with pytest.raises(ConfigError, match=r"storage\.artifacts"):
        parse("evaluation: {programs: programs}\nstorage: {artifacts: real}", "c", {})
    assert parse("evaluation: {programs: programs}", "c", {}).evaluation.programs == "programs"
