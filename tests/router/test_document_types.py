"""Documents that are no objects, or have keys that nobody knows: told wherever one can be given."""

import json

import httpx
import pytest
from servers import evalrouter, gateway

from providers import errors
from router.client import Client

KINDS = {
    "[1]": "an array",
    '"x"': "a string",
    "null": "null",
    "5": "a number",
    "0.5": "a number",
    "true": "a boolean",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "d.jsonl").write_text('{"input": "q", "reference": "a"}\n')
    return folder


@pytest.fixture(scope="module")
def url(folder):
    config = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
datasets: {{roots: ["{folder}"]}}
"""
    with gateway(config) as url:
        yield url


@pytest.fixture(scope="module")
def run_id(url, folder):
    document = {
        "dataset": str(folder / "d.jsonl"),
        "routes": ["baseline/echo"],
        "metrics": ["length"],
        "experiment": "one",
    }
    reply = httpx.post(f"{url}/eval", json=document)
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]


def message(reply):
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


@pytest.mark.parametrize("text", KINDS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/eval"),
        ("POST", "/eval?dry_run=true"),
        ("POST", "/eval/{run}/rescore"),
        ("POST", "/eval/{run}/extend"),
        ("POST", "/eval/{run}/resume"),
        ("POST", "/datasets"),
        ("PATCH", "/experiments/one"),
        ("PUT", "/routes/r"),
    ],
)
def test_over_http(http, url, run_id, method, path, text):
    told = message(http.request(method, url + path.format(run=run_id), content=text))
    assert "must be an object" in told
    assert f"(got {KINDS[text]})" in told


@pytest.mark.parametrize("name", ["run.yaml", "run.json"])
@pytest.mark.parametrize("text", [*KINDS, ""])
def test_in_a_file_of_a_command(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    for command in (("eval", "run"), ("eval", "run", "--dry-run")):
        told = evalrouter(*command, file, check=2).stderr
        kind = KINDS.get(text, "null")
        assert f"{name}: the document must be an object (got {kind})" in told


@pytest.mark.parametrize("text", [text for text in KINDS if text != "null"])
def test_in_a_config_file(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    told = evalrouter("config", "check", file, check=2).stderr
    assert f"c.yaml: the config must be an object (got {KINDS[text]})" in told


@pytest.mark.parametrize("text", KINDS)
def test_in_the_sdk(tmp_path, url, text):
    (tmp_path / "run.json").write_text(text)
    with Client(url) as client:
        for document in (tmp_path / "run.json", json.loads(text)):
            if isinstance(document, str):
                continue
            with pytest.raises(errors.RunDocumentError) as raised:
                client.runs.create(document)
            assert f"must be an object (got {KINDS[text]})" in raised.value.message


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"datset": 1}, "datset: unknown key. Did you mean 'dataset'?"),
        ({"limits": {"concurency": 1}}, "limits.concurency: unknown key. Did you mean"),
        ({"sample": {"n": 1, "sead": 1}}, "sample.sead: unknown key. Did you mean 'seed'?"),
    ],
)
def test_a_key_that_nobody_knows_is_named_with_the_nearest(http, url, tmp_path, more, told):
    document = {"dataset": "d", "routes": ["baseline/echo"], "metrics": ["length"]} | more
    assert told in message(http.post(f"{url}/eval", json=document))
    (tmp_path / "run.json").write_text(json.dumps(document, indent=1))
    stderr = evalrouter("eval", "run", tmp_path / "run.json", check=2).stderr
    assert told in stderr
    assert "run.json:" in stderr


@pytest.mark.parametrize(
    ("action", "body", "told"),
    [
        ("rescore", {"metric": []}, "metric: unknown key. Did you mean 'metrics'?"),
        ("extend", {"limits": 3}, "limits: unknown key. Did you mean 'limit'?"),
        ("resume", {"limit": {}}, "limit: unknown key. Did you mean 'limits'?"),
        ("resume", {"limits": {"second": 1}}, "limits.second: unknown key. Did you mean"),
    ],
)
def test_a_key_that_nobody_knows_in_a_change(http, url, run_id, action, body, told):
    assert told in message(http.post(f"{url}/eval/{run_id}/{action}", json=body))


def test_what_is_missing_is_named(http, url):
    assert message(http.post(f"{url}/eval")).startswith("the document: ")


@pytest.mark.parametrize(
    ("line", "options", "told"),
    [
        ("tags: 5", ("--tag", "a"), "tags: expected `array`, got `int`"),
        ("tags: null", ("--tag", "a"), "tags: expected `array`, got `null`"),
        ("columns: [a]", ("--column", "a=input"), "columns: expected `object`, got `array`"),
        ("task: 5", ("--task-option", "to=German"), "task: a task is a name, or an object"),
        ("task: {to: x}", ("--task-option", "to=German"), "task: a task is a name, or an object"),
    ],
)
def test_what_an_option_adds_to_must_be_of_its_kind(tmp_path, line, options, told):
    (tmp_path / "run.yaml").write_text(
        f"dataset: d\nroutes: [baseline/echo]\nmetrics: [length]\n{line}\n"
    )
    assert told in evalrouter("eval", "run", tmp_path / "run.yaml", *options, check=2).stderr
