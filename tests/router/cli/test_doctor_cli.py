"""`evalrouter doctor` on an empty machine, beside real servers, and with what can be wrong."""

import json
import os
import socket
import sqlite3
from pathlib import Path

import pytest
import tiny_gguf
from click.testing import CliRunner
from collector import CollectorReply, collecting
from raw_host import HOLD, READ, answer, raw_host
from servers import evalrouter, gateway, reserved_port, s3_server
from tiny_llama_server import llama_server

from router.cli import main
from router.cli.doctor.findings import Finding, PlannedCheck, run_checks
from router.config.providers import KEY_VARIABLES
from router.store.sqlite import SqliteStore

CLEAN = dict.fromkeys([*KEY_VARIABLES.values(), "POSTGRES_HOST", "S3_BUCKET"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doctor(text=None, *args, code, **environ):
    """What it finds: area to its findings; `text` is the config."""
    if text is not None:
        Path("evalrouter.yaml").write_text(f"server: {{port: 0}}\n{text}", encoding="utf-8")
    done = CliRunner().invoke(main, ["doctor", "--json", *args], env=CLEAN | environ)
    assert done.exit_code == code, done.output
    areas = {}
    for finding in json.loads(done.stdout)["findings"]:
        areas.setdefault(finding["area"], []).append(finding)
    return areas


def one(areas, area):
    [finding] = areas[area]
    return finding["status"], finding["message"]


def test_an_empty_machine_is_well(folder):
    areas = doctor("", code=0)
    assert one(areas, "database") == ("ok", "sqlite:///evalrouter.db is made when it is first used")
    assert one(areas, "artifacts") == ("ok", "artifacts is made when it is first used")
    assert one(areas, "clock")[0] == "note"
    assert [path.name for path in folder.iterdir()] == ["evalrouter.yaml"]


def test_without_a_config_it_says_how_to_write_one(folder):
    done = CliRunner().invoke(main, ["doctor"], env=CLEAN)
    assert "no evalrouter.yaml here" in done.stdout
    assert "evalrouter init writes one" in done.stdout
    assert list(folder.iterdir()) == []


def test_every_mistake_of_a_broken_config_is_a_failure_and_the_machine_is_checked():
    areas = doctor("routs: {}\nrecord: some", code=1)
    assert [finding["status"] for finding in areas["config"]] == ["failure", "failure", "note"]
    assert "'routes'" in areas["config"][0]["message"]
    assert {"versions", "extras", "disk"} <= set(areas)


def test_a_schedule_that_a_server_refuses_is_a_failure_with_its_line():
    text = """schedules:
  s:
    run: {dataset: d, routes: [baseline/lead-3], metrics: [rouge]}
    cron: "0 2 * * *"
    gates:
      - rougeL >= 0.2
      - p95(latency_s) < 8
"""
    [finding] = doctor(text, code=1)["schedules"]
    assert finding["status"] == "failure"
    # The first line is the helper's.
    assert finding["message"] == (
        "evalrouter.yaml:8: schedules.s: gates[1]: no metric of this run produces 'latency_s'. "
        "Add the metric 'latency'."
    )
    areas = doctor(text.replace("[rouge]", "[rouge, latency]"), code=0)
    assert one(areas, "schedules") == ("ok", "can be executed: s")


@pytest.mark.parametrize("text", ["a: [", "\x00", "- 1"])
def test_a_config_that_is_no_config_is_a_failure(text):
    assert doctor(text, code=1)["config"][0]["status"] == "failure"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    model = tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    with llama_server(model, key="sk-right") as address:
        yield f"{address}/v1"


LLAMA = 'providers: {{laptop: {{kind: llamafile, base_url: "{0}", api_key: "${{LLAMA_KEY:-}}"}}}}'


def test_a_wrong_key_is_named_by_its_variable_and_not_shown(llama):
    areas = doctor(LLAMA.format(llama), code=1, LLAMA_KEY="sk-wrong-key")
    status, message = one(areas, "laptop")
    assert (status, message) == ("failure", "the key in LLAMA_KEY was refused (status 401)")
    assert "sk-wrong-key" not in json.dumps(areas)


def test_a_missing_key_is_named(llama):
    areas = doctor(LLAMA.format(llama), code=1)
    assert one(areas, "laptop")[1] == "it needs a key, and has none (status 401)"
    assert areas["laptop"][0]["remedy"] == "set LLAMA_KEY"


def test_the_right_key_is_well(llama):
    route = "\nroutes: {r: {targets: [{model: laptop/tiny}]}}"
    areas = doctor(LLAMA.format(llama) + route, code=0, LLAMA_KEY="sk-right")
    assert one(areas, "laptop")[0] == "ok"
    assert one(areas, "routes") == ("ok", "r")


LISTED = answer(json.dumps({"data": [{"id": "m-1"}]}).encode())
REFUSED = answer(b'{"error": "sk-secret-1 is wrong"}', status="403 Forbidden")


def host(script, kind="compatible", more=""):
    return (
        raw_host([READ, *script]),
        lambda url: (
            f'providers: {{it: {{kind: {kind}, base_url: "{url}", api_key: sk-secret-1}}}}\n{more}'
        ),
    )


@pytest.mark.parametrize(
    ("script", "kind", "status", "message"),
    [
        (LISTED, "vllm", "ok", "lists 1 model in"),
        (REFUSED, "vllm", "failure", "the api_key of providers.it was refused (status 403)"),
        (answer(b"{}", status="400 Bad Request"), "gemini", "failure", "was refused (status 400)"),
        (
            answer(b"x", status="404 Not Found"),
            "compatible",
            "warning",
            "list of models has status 404",
        ),
        (answer(b"<html>"), "compatible", "warning", "is no list of models"),
        ([b"SSH-2.0\r\n\r\n"], "compatible", "failure", "the answer is not valid HTTP"),
        ([HOLD], "compatible", "failure", "no answer within 0.5 s"),
    ],
)
def test_a_provider_is_requested_once_and_said_to_be_what_it_is(script, kind, status, message):
    server, config = host(script, kind)
    with server as running:
        areas = doctor(config(running.url), "--timeout", "0.5", code=status == "failure")
    assert one(areas, "it")[0] == status
    assert message in one(areas, "it")[1]
    assert "sk-secret-1" not in json.dumps(areas)


def test_a_list_that_is_open_to_anybody_does_not_hide_a_wrong_key():
    def respond(connection):
        path = connection.host.requests[-1].target
        connection.play(LISTED if path.endswith("/models") else REFUSED)

    for kind in ("openrouter", "llamafile"):
        server, config = host([respond], kind)
        with server as running:
            areas = doctor(config(running.url), code=1)
        assert "was refused (status 403)" in one(areas, "it")[1]


def test_nothing_listens():
    with reserved_port() as port:
        text = f'providers: {{o: {{kind: ollama, base_url: "http://127.0.0.1:{port}/v1"}}}}'
        areas = doctor(text, code=1)
    assert one(areas, "o") == ("failure", "connection refused")
    assert areas["o"][0]["remedy"] == f"start it at http://127.0.0.1:{port}/v1: ollama serve"


def test_a_route_to_a_model_that_is_not_listed_is_a_warning():
    server, config = host(LISTED, more="routes: {r: {targets: [{model: it/m-2}]}}")
    with server as running:
        areas = doctor(config(running.url), code=0)
    assert one(areas, "routes") == ("warning", "r: it lists no model 'm-2'. Did you mean 'm-1'?")


def test_a_model_that_will_be_shut_down_is_a_warning():
    listed = answer(b'{"data": [{"id": "m-1", "shutdown_date": "2024-06-13"}]}')
    server, config = host(listed, more="routes: {r: {targets: [{model: it/m-1}]}}")
    with server as running:
        areas = doctor(config(running.url), code=0)
    assert one(areas, "models") == (
        "warning",
        "it/m-1 was shut down on 2024-06-13; it is used by the route r: the host's list of models",
    )


def test_a_clock_that_is_off_is_a_failure():
    dated = [
        LISTED[0].replace(b"\r\n", b"\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 1),
        *LISTED[1:],
    ]
    server, config = host(dated)
    with server as running:
        areas = doctor(config(running.url), code=1)
    assert one(areas, "clock")[0] == "failure"
    assert "s ahead of other machines" in one(areas, "clock")[1]


def test_a_model_file_or_a_program_that_is_not_there(folder):
    (folder / "m.gguf").write_bytes(b"GGUF")
    text = """providers:
  a: {kind: llamafile, model: ./nope.gguf}
  b: {kind: llamafile, command: "no-such-program -m x.gguf"}
"""
    areas = doctor(text, code=1)
    assert one(areas, "a") == ("failure", "providers.a.model: ./nope.gguf: no such file")
    assert one(areas, "b") == ("failure", "no-such-program: no such program")


async def test_a_database_is_examined_and_not_changed(folder):
    store = SqliteStore(folder / "evalrouter.db")
    await store.open()
    await store.close()
    before = (folder / "evalrouter.db").read_bytes()
    assert one(doctor("", code=0), "database") == ("ok", "sqlite:///evalrouter.db")
    assert (folder / "evalrouter.db").read_bytes() == before


def make_other(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (a)")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"not a database" * 100), "is not a SQLite database"),
        (lambda path: path.mkdir(), "is a folder, not a file"),
        (make_other, "is the database of another program"),
    ],
)
def test_a_database_that_cannot_be_used_is_a_failure(folder, make, message):
    make(folder / "evalrouter.db")
    status, told = one(doctor("", code=1), "database")
    assert status == "failure"
    assert message in told


def test_stores_in_places_that_are_not_there(folder):
    (folder / "file").write_text("")
    text = "storage: {database: 'sqlite:///no/where/e.db', artifacts: ./file}"
    areas = doctor(text, code=1)
    assert "its folder" in one(areas, "database")[1]
    assert one(areas, "artifacts") == ("failure", "file is no folder")


def test_postgresql(postgres_address):
    areas = doctor(f"storage: {{database: '{postgres_address}'}}", code=0)
    assert one(areas, "database")[1].startswith(postgres_address)
    assert one(areas, "clock") == ("ok", "agrees with other machines")
    with reserved_port() as port:
        text = f"storage: {{database: 'postgresql://u:pw-secret@127.0.0.1:{port}/x'}}"
        areas = doctor(text, code=1)
    assert "PostgreSQL cannot be reached" in one(areas, "database")[1]
    assert "pw-secret" not in json.dumps(areas)


def test_s3():
    with s3_server("store") as s3:
        text = """storage:
  artifacts: s3://%s/x
  s3: {endpoint_url: "%s", region: us-east-1, access_key_id: a, secret_access_key: b}
"""
        assert one(doctor(text % ("store", s3.endpoint_url), code=0), "artifacts")[0] == "ok"
        areas = doctor(text % ("not-there", s3.endpoint_url), code=1)
    assert "NoSuchBucket" in one(areas, "artifacts")[1]


def test_the_port():
    with gateway("storage: {database: 'sqlite:///x.db'}") as url:
        port = url.rpartition(":")[2]
        Path("other.yaml").write_text(f"server: {{port: {port}}}")
        areas = doctor(None, "--config", "other.yaml", code=0)
        assert one(areas, "port") == ("ok", f"an evalrouter listens on 127.0.0.1:{port}")
    with raw_host([READ, *answer(b"hi")]) as other:
        Path("other.yaml").write_text(f"server: {{port: {other.port}}}")
        areas = doctor(None, "--config", "other.yaml", code=1)
    assert "address already in use" in one(areas, "port")[1]


def test_models_that_do_not_fit_this_machine():
    cores = len(os.sched_getaffinity(0))
    text = f"models: {{a: {{engine: transformers, source: ./nope, cpus: {cores + 1}}}}}"
    areas = doctor(text, code=1)
    told = [finding["message"] for finding in areas["models"]]
    assert told == [
        f"they reserve {cores + 1} cores; this machine has {cores}",
        "models.a.source: ./nope: no such file",
    ]


def test_variables_that_nothing_reads():
    environ = {"OAI_API_URL": "http://x", "MAX_DATASET_SIZE": "1", "EVALROUTER_DATTA": "x"}
    areas = doctor("", code=0, **environ)
    [unread, *answered] = areas["environment"]
    assert unread["status"] == "warning"
    assert unread["message"].startswith("nothing reads the variable EVALROUTER_DATTA. Did you mean")
    assert [(finding["status"], finding["message"]) for finding in answered] == [
        (
            "note",
            "nothing reads Lumigator's variable OAI_API_URL: "
            "write base_url at a provider of the kind openai",
        ),
        (
            "note",
            "nothing reads Lumigator's variable MAX_DATASET_SIZE: "
            "write datasets.max_bytes in the config",
        ),
    ]
    # Other programs have variables of that name, and a config may refer to any.
    assert "environment" not in doctor("", code=0, MAX_DATASET_SIZE="1")
    text = 'providers: {o: {kind: baseline, models: ["lead-1"]}} # ${OAI_API_URL}'
    assert "environment" not in doctor(text, code=0, OAI_API_URL="http://x")


def test_config_check_answers_them_too(folder):
    (folder / "c.yaml").write_text("")
    environ = {"S3_ENDPOINT_URL": "http://x", "LUMIGATOR_SECRET_KEY": "hidden"}
    done = CliRunner().invoke(main, ["config", "check", "c.yaml"], env=CLEAN | environ)
    assert done.exit_code == 0, done.output
    assert "note: nothing reads Lumigator's variable S3_ENDPOINT_URL: name it" in done.stderr
    assert "hidden" not in done.output


def test_a_check_that_hangs_is_a_failure_and_the_others_count():
    listener = socket.create_server(("127.0.0.1", 0))

    def hang():
        listener.accept()
        return []

    def break_off():
        raise RuntimeError("a secret")

    good = Finding("good", "ok", "well")
    checks = [
        PlannedCheck("hangs", hang),
        PlannedCheck("broken", break_off),
        PlannedCheck("good", lambda: [good]),
    ]
    results = run_checks(checks, 0.5)
    listener.close()
    assert not results.complete
    assert results.findings == [
        Finding("hangs", "failure", "no answer within 0.5 s", "see whether it hangs"),
        Finding("broken", "failure", "the check broke off: RuntimeError"),
        good,
    ]


def test_the_process_ends_and_prints_a_line_for_each(folder):
    done = evalrouter("doctor", "--config", folder / "none.yaml", check=1)
    assert "none.yaml: no such file" in done.stdout
    assert done.stdout.endswith("failures: 1, warnings: 0\n")


def test_where_traces_go_is_tried_without_a_trace():
    with collecting() as collector:
        telemetry = {"otlp_endpoint": collector.url, "phoenix": collector.url}
        areas = doctor(f"telemetry: {json.dumps(telemetry)}", code=0)
        assert [finding["status"] for finding in areas["traces"]] == ["ok", "ok"]
        assert collector.sizes == [0]
        assert json.loads(collector.posted["/v1/span_annotations"][0]) == {"data": []}
    with collecting(lambda *_: CollectorReply(401)) as collector:
        secret = {"otlp_headers": {"authorization": "Bearer hunter22-hunter22"}}
        section = json.dumps({"otlp_endpoint": collector.url, **secret})
        status, message = one(doctor(f"telemetry: {section}", code=0), "traces")
    assert status == "warning"
    assert "answered with status 401" in message
    assert "hunter22" not in message
