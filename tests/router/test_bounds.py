"""Numbers that make no sense, wherever a number can be given: refused by name, never a 500.

Each is tried at every number of a request's body, of a query and of an option. What the router does
not read goes to the target byte for byte.
"""

import json
import math

import httpx
import pytest
from raw_host import answer, by_model, chat, raw_host
from servers import evalrouter, gateway

from providers.errors import InputError
from router.gateway.key_administration import create, expiry
from router.store.sqlite import SqliteStore

HUGE = "1" + "0" * 30
# More than a float can be.
LONGER = "1" + "0" * 400
PAST_INT64 = str(2**63)
NEVER = [HUGE, LONGER, PAST_INT64, "-" + HUGE, "-1", "1e400", '"5"', "true", "[]", "{}"]
NO_COUNT = [*NEVER, "0.5", "1.0", "0"]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def host():
    with raw_host(by_model({"*": [answer(chat("hello"))]})) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounds")
    rows = [json.dumps({"input": f"q {n}", "reference": "a"}) for n in range(3)]
    (folder / "d.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def url(host, folder):
    config = f"""
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
datasets: {{roots: ["{folder}"]}}
providers:
  up: {{kind: compatible, base_url: "{host.url}"}}
"""
    with gateway(config) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def refused(reply):
    """OpenAI's error object of a 400."""
    assert reply.status_code == 400, (reply.status_code, reply.text[:500])
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def nested(path, value):
    """`a.b` and JSON as `"a":{"b":JSON}`."""
    head, *rest = path.split(".")
    for step in reversed(rest):
        value = json.dumps({step: 0}).replace("0}", f"{value}}}")
    return f'"{head}":{value}'


# Requests to models


@pytest.mark.parametrize(
    ("path", "needed", "field"),
    [
        (CHAT, '"messages":[{"role":"user","content":"a"}]', "max_tokens"),
        (CHAT, '"messages":[{"role":"user","content":"a"}]', "max_completion_tokens"),
        (CHAT, '"messages":[{"role":"user","content":"a"}]', "n"),
        ("/v1/completions", '"prompt":"a"', "max_tokens"),
        ("/v1/completions", '"prompt":"a"', "n"),
    ],
)
def test_a_model_in_this_process_refuses_what_is_no_count(client, path, needed, field):
    for value in [*NO_COUNT, "10000001"]:
        reply = client.post(path, content=f'{{"model":"baseline/echo",{needed},"{field}":{value}}}')
        assert refused(reply)["param"] == field, value
    reply = client.post(path, content=f'{{"model":"baseline/echo",{needed},"{field}":1}}')
    assert reply.status_code == 200


@pytest.mark.parametrize("model", ["up/m", "free"])
@pytest.mark.parametrize("value", [HUGE, "1e400", "-1.50", '"5"', "[1e-7]", '{"a":1.0}'])
def test_what_is_not_read_passes_as_the_bytes_it_is(host, tmp_path, model, value):
    fields = "max_tokens max_completion_tokens n top_k seed top_logprobs temperature user".split()  # noqa: SIM905
    sent = ",".join(f'"{name}": {value}' for name in fields)
    (tmp_path / "evalrouter.yaml").write_text(
        f"providers: {{up: {{kind: compatible, base_url: '{host.url}'}}}}\n"
        "routes: {free: {targets: [{model: up/m, supports: {context: 1000000}}]}}\n"
        f"storage: {{database: 'sqlite:///{tmp_path}/e.db'}}\n"
        "prices: {up/m: {input: 1, output: 1}}\nserver: {port: 0}\n"
    )
    # A key with a budget has what the answer may take counted first.
    config = tmp_path / "evalrouter.yaml"
    limits = ("--tpm", "100000", "--budget", "10")
    key = evalrouter("key", "create", "app", "--config", config, *limits).stdout.strip()
    with gateway(config.read_text()) as url:
        body = f'{{"model":"{model}","messages":[],{sent}}}'
        headers = {"authorization": f"Bearer {key}"}
        reply = httpx.post(url + CHAT, content=body, headers=headers)
        assert reply.status_code == 200, reply.text
        came = host.requests[-1].body.decode()
        for name in fields:
            assert f'"{name}":{value}' in came.replace(": ", ":").replace(":[ ", ":[")
        assert httpx.get(f"{url}/traffic", headers=headers).status_code in (200, 403)


# Queries


@pytest.fixture(scope="module")
def run_id(client):
    return finished(client, created(client, ""))


def created(client, more):
    document = f'{{"dataset":"d.jsonl","routes":["baseline/echo"],"metrics":["length"]{more}}}'
    reply = client.post("/eval", content=document.replace("d.jsonl", dataset(client)))
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]


def dataset(client):
    content = b'{"input":"q","reference":"a"}\n'
    reply = client.put("/datasets/d", params={"filename": "d.jsonl"}, content=content)
    assert reply.status_code == 200, reply.text
    return "d"


def finished(client, run_id):
    with client.stream("GET", f"/eval/{run_id}/events") as events:
        for _ in events.iter_lines():
            pass
    return run_id


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/eval", "limit"),
        ("/eval/{run}/samples", "limit"),
        ("/eval/{run}/samples", "after"),
        ("/eval/{run}/judgements", "limit"),
        ("/eval/{run}/judgements", "after"),
        ("/eval/compare?runs={run}", "movers"),
        ("/eval/judges", "limit"),
        ("/datasets/d", "rows"),
        ("/traffic", "limit"),
        ("/traffic", "before"),
        ("/traffic", "since"),
        ("/traffic", "until"),
        ("/traffic", "status"),
    ],
)
def test_a_number_in_a_query(client, run_id, path, name):
    path, _, query = path.format(run=run_id).partition("?")
    values = [HUGE, LONGER, PAST_INT64, "-" + HUGE, "1e400", "true", "NaN", "inf", "", "{}"]
    if name not in ("since", "until"):
        values += ["-1", "0.5", str(2**63 - 1)]
    for value in values:
        params = dict([query.split("=")]) if query else {}
        error = refused(client.get(path, params=params | {name: value}))
        assert error["param"] == name, (value, error)


# Run documents

RUN_FIELDS = {
    "limit": NO_COUNT,
    "repeats": NO_COUNT,
    "sample.n": NO_COUNT,
    "limits.concurrency": NO_COUNT,
    "limits.tokens": NO_COUNT,
    "limits.cost_usd": [*NEVER, "0", "1e308"],
    "limits.seconds": [*NEVER, "0", "1e308"],
    "limits.failure_share": [*NEVER, "0", "2"],
    "limits.per_target.baseline/echo": NO_COUNT,
    "stop_when.half_width": [*NEVER, "0", "1e308"],
    "stop_when.alpha": [*NEVER, "0", "1"],
    "stop_when.min_samples": NO_COUNT,
    "execution.workers": NO_COUNT,
    "execution.cpus": [*NEVER, "0", "1e308"],
    "execution.gpus": [*NEVER, "1e308"],
}


@pytest.mark.parametrize("field", RUN_FIELDS)
def test_a_number_in_a_run_document(client, run_id, field):
    head, _, tail = field.partition(".")
    for value in RUN_FIELDS[field]:
        if value == "{}" and tail and head != "limits":
            continue
        inner = f'{{"{tail}":{value}}}'
        if tail.startswith("per_target"):
            inner = f'{{"per_target":{{"baseline/echo":{value}}}}}'
        more = f'"{head}":{inner if tail else value}'
        body = f'{{"dataset":"d","routes":["baseline/echo"],"metrics":["length"],{more}}}'
        for query in ("", "?dry_run=true"):
            error = refused(client.post(f"/eval{query}", content=body))
            # An exponent that no number has is no JSON.
            assert error["code"] == "bad_json" or (error["param"] or "").startswith(head), error


def test_a_seed_is_any_of_sqlites_integers(client, run_id):
    body = (
        '{"dataset":"d","routes":["baseline/echo"],"metrics":["length"],"sample":{"n":1,"seed":%s}}'
    )
    for value in (HUGE, PAST_INT64, "-1", "0.5", '"5"', "true"):
        assert refused(client.post("/eval", content=body % value))["param"] == "sample.seed"
    assert client.post("/eval?dry_run=true", content=body % str(2**63 - 1)).status_code == 200


@pytest.mark.parametrize("value", [HUGE, LONGER, PAST_INT64, "-1", '"5"', "true", "0.5", "[]"])
def test_parameters_of_a_run_are_the_targets_to_refuse(client, run_id, value):
    """Here a baseline; a run keeps the refusal with the sample, and goes on."""
    more = f',"parameters":{{"max_tokens":{value}}}'
    found = finished(client, created(client, more))
    outcome = client.get(f"/eval/{found}").json()
    assert outcome["run"]["state"] == "completed", outcome["run"]
    [row] = client.get(f"/eval/{found}/samples").json()["data"]
    assert "max_tokens" in row["answer"]["error"]


@pytest.mark.parametrize("value", [HUGE, LONGER, PAST_INT64, "-1", '"5"', "true", "0.5", "[]"])
def test_an_estimate_takes_no_senseless_bound_for_one(client, run_id, value):
    body = (
        '{"dataset":"d","routes":["up/m"],"metrics":[{"name":"prometheus","judge":"up/m",'
        '"rubric":"helpfulness","parameters":{"max_tokens":%s}}],"parameters":{"max_tokens":%s}}'
    )
    reply = client.post("/eval?dry_run=true", content=body % (value, value))
    assert reply.status_code == 200, reply.text
    assert reply.json()["completion_tokens"] is None
    assert [judge["at_most"] for judge in reply.json()["judges"]] == [True]
    assert reply.json()["judges"][0]["completion_tokens"] is None


@pytest.mark.parametrize(
    ("action", "path"),
    [
        ("extend", "limit"),
        ("extend", "repeats"),
        ("resume", "limits.concurrency"),
        ("resume", "limits.tokens"),
        ("resume", "limits.cost_usd"),
        ("resume", "limits.seconds"),
        ("resume", "limits.failure_share"),
    ],
)
def test_a_number_in_a_change_of_a_run(client, run_id, action, path):
    for value in NEVER:
        reply = client.post(f"/eval/{run_id}/{action}", content="{" + nested(path, value) + "}")
        error = refused(reply)
        assert error["code"] == "bad_json" or error["param"] == path, (value, error)


METRICS = [
    '"name":"ter","max_words"',
    '"name":"repetition","n"',
    '"name":"bertscore","layers"',
    '"name":"bertscore","batch_size"',
    '"name":"hf:exact_match","timeout_s"',
    '"name":"prometheus","judge":"up/m","rubric":"helpfulness","repeats"',
    '"name":"prometheus","judge":"up/m","rubric":"helpfulness","retries"',
]


@pytest.mark.parametrize("metric", METRICS)
def test_an_option_of_a_metric(client, run_id, metric):
    for value in NEVER:
        body = f'{{"metrics":[{{{metric}:{value}}}]}}'
        error = refused(client.post(f"/eval/{run_id}/rescore", content=body))
        assert error["code"] == "bad_json" or error["param"].startswith("metrics[0]"), error


# Routes

ROUTE_FIELDS = {
    "targets.weight": [*NEVER, "1e308"],
    "targets.max_concurrency": NO_COUNT,
    "targets.max_queue": [*NEVER, "0.5"],
    "targets.price_per_hour": [*NEVER, "0", "1e308"],
    "targets.supports.context": NO_COUNT,
    "retries.attempts": NO_COUNT,
    "retries.backoff": [*NEVER, "0", "1e308"],
    "retries.backoff_max": [*NEVER, "0", "1e308"],
    "retries.budget": [*NEVER, "1e308"],
    "timeout.connect": [*NEVER, "0", "1e308"],
    "timeout.first_byte": [*NEVER, "0", "1e308"],
    "timeout.between_chunks": [*NEVER, "0", "1e308"],
    "timeout.total": [*NEVER, "0", "1e308"],
    "breaker.failures": NO_COUNT,
    "breaker.open": [*NEVER, "0", "1e308"],
    "hedge.after": [*NEVER, "0", "1e308"],
    "hedge.budget": [*NEVER, "0", "2"],
    "record_sample": [*NEVER, "2"],
    "traffic_days": [*NEVER, "1e308"],
    "cache.ttl": [*NEVER, "0", "1e308"],
}


@pytest.mark.parametrize("field", ROUTE_FIELDS)
def test_a_number_in_a_route(client, field):
    before = client.get("/routes").json()
    for value in ROUTE_FIELDS[field]:
        if field.startswith("targets."):
            inner = nested(field.removeprefix("targets."), value)
            body = f'{{"targets":[{{"model":"up/m",{inner}}}]}}'
        else:
            body = f'{{"targets":[{{"model":"up/m"}}],{nested(field, value)}}}'
        error = refused(client.put("/routes/r", content=body))
        assert error["code"] == "bad_json" or field.split(".")[0] in error["param"], error
    assert client.get("/routes").json() == before


# The command line


@pytest.mark.parametrize(
    "limits",
    [
        *({name: value} for name in ("rpm", "tpm", "parallel") for value in (0, -1, 2**63, 10**30)),
        *({"budget_usd": value} for value in (0.0, -1.0, math.nan, math.inf, 1e308, 10**30)),
        *({"expires_at": value} for value in (0.0, math.inf, 1e308)),
    ],
)
async def test_a_limit_of_a_key(tmp_path, limits):
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    with pytest.raises(InputError):
        await create(store, "k", now=1.0, **limits)
    assert not (await store.keys()).by_hash
    await store.close()


@pytest.mark.parametrize("text", [HUGE, HUGE + "d", LONGER + "w", "9999999w", "-1d", "nan", ""])
def test_a_time_that_a_key_is_to_last(text):
    with pytest.raises(InputError, match="is not a time"):
        expiry(text, 1.0)


@pytest.mark.parametrize(
    "options",
    [("--rpm", HUGE), ("--budget", "nan"), ("--budget", "1e400"), ("--expires", "999999w")],
)
def test_a_limit_of_a_key_on_the_command_line(tmp_path, options):
    (tmp_path / "c.yaml").write_text(f"storage: {{database: 'sqlite:///{tmp_path}/k.db'}}\n")
    told = evalrouter("key", "create", "k", *options, "--config", tmp_path / "c.yaml", check=2)
    assert any(word in told.stderr for word in ("--rpm", "budget", "time must be within"))


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "run", "run.json", "--limit"),
        ("eval", "extend", "run_1", "--limit"),
        ("eval", "extend", "run_1", "--repeats"),
        ("eval", "list", "--limit"),
        ("judge", "calibrate", "--judge", "up/m", "--dataset", "d.jsonl", "--limit"),
        ("judge", "list", "--limit"),
        ("dataset", "show", "d", "--rows"),
    ],
)
def test_a_number_on_the_command_line(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for value in (HUGE, "0.5"):
        assert command[-1] in evalrouter(*command, value, check=2).stderr


@pytest.mark.parametrize("option", ["--tokens", "--cost-usd", "--seconds"])
def test_a_limit_that_a_resumed_run_is_to_have(folder, url, run_id, option):
    (folder / "resume.yaml").write_text(f"storage: {{database: 'sqlite:///{folder}/e.db'}}\n")
    for value in (HUGE, "nan"):
        command = ("eval", "resume", run_id, option, value, "--config", folder / "resume.yaml")
        told = evalrouter(*command, check=2).stderr
        assert option.strip("-").replace("-", "_") in told.replace("-", "_"), told
