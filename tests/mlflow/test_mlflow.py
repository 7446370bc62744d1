"""Runs that are sent to MLflow: to a folder of its own format, and to servers that refuse."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from server_process import wait_for
from servers import evalrouter, gateway
from tracked_runs import RUN, SECRET, config, write_config, write_run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path)


def values(place, kind):
    """What MLflow's folder has of a run: parameters, tags, or the last of each metric."""
    return {
        str(path.relative_to(place / kind)): path.read_text()
        for path in (place / kind).rglob("*")
        if path.is_file()
    }


def test_a_run_is_sent_when_it_ends_and_updated_when_it_is_sent_again(folder):
    mlruns = folder / "mlruns"
    chosen = write_config(folder, f"file://{mlruns}")
    done = evalrouter("eval", "run", folder / "run.json", "--json", *chosen)
    run = json.loads(done.stdout)["run"]
    [place] = [path for path in mlruns.glob("*/*") if (path / "metrics").is_dir()]
    assert "name: Mine\n" in (place.parent / "meta.yaml").read_text()
    numbers = {name: line.split()[1] for name, line in values(place, "metrics").items()}
    assert float(numbers["exact_match/baseline lead-1"]) == pytest.approx(2 / 3)
    assert float(numbers["exact_match/baseline echo"]) == 0
    low, high = (float(numbers[f"exact_match.{end}/baseline lead-1"]) for end in ("low", "high"))
    assert 0 < low < 2 / 3 < high < 1
    assert float(numbers["exact_match.difference/baseline lead-1"]) == pytest.approx(2 / 3)
    params, tags = values(place, "params"), values(place, "tags")
    assert params["dataset_hash"] == run["dataset_hash"]
    assert params["routes"] == "baseline/lead-1, baseline/echo"
    assert params["metric exact_match"] == run["metrics"]["exact_match"]
    assert json.loads(params["document"])["name"] == "first"
    assert (tags["evalrouter.run"], tags["evalrouter.tags"]) == (run["id"], "nightly")
    assert tags["mlflow.runName"] == f"first {run['id']}"
    assert "exact_match >= 0.1 (baseline/lead-1): " in tags["evalrouter.gates"]
    artifacts = place / "artifacts"
    assert json.loads((artifacts / "report.json").read_text())["run"]["id"] == run["id"]
    assert "exact_match" in (artifacts / "report.md").read_text()
    rows = (artifacts / "rows" / "rows.jsonl").read_text().splitlines()
    assert len(rows) == 6
    sent = b"".join(path.read_bytes() for path in mlruns.rglob("*") if path.is_file())
    assert b"It rained. ***" in sent
    assert SECRET.encode() not in sent
    # By hand, and to MLflow's same run.
    again = evalrouter("eval", "track", run["id"], "--json", *chosen)
    assert json.loads(again.stdout)["mlflow_run"] == place.name
    assert [path for path in mlruns.glob("*/*") if (path / "metrics").is_dir()] == [place]


class Refusing(BaseHTTPRequestHandler):
    """A server that refuses, and shows whoever sees its error what it was sent."""

    received: list[str]

    def do_GET(self):
        self.received.append(self.headers.get("authorization", ""))
        message = f"no entry for {self.headers.get('authorization')} {self.headers.get('host')}"
        body = json.dumps({"error_code": "PERMISSION_DENIED", "message": message}).encode()
        self.send_response(403)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # http.server's name

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    handler = type("Handler", (Refusing,), {"received": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.received
    server.shutdown()
    thread.join()
    server.server_close()


def finished(http, run_id):
    outcome = {}

    def ended():
        outcome.update(http.get(f"/eval/{run_id}").json())
        return outcome["run"]["finished_at"]

    wait_for(ended)
    return outcome["run"]


def test_a_server_that_refuses_fails_no_run_and_shows_no_secret(folder, refusing, caplog):
    address, received = refusing
    settings = {"username": "jo", "password": "hunter22-hunter22"}
    document = RUN | {"dataset": str(folder / "d.jsonl")}
    with (
        gateway(config(folder, address, **settings)) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        run = http.post("/eval", json=document).json()
        assert finished(http, run["id"])["state"] == "completed"
        wait_for(lambda: "was not sent" in caplog.text)
        refused = http.post(f"/eval/{run['id']}/track")
    assert received
    assert set(received) == {"Basic am86aHVudGVyMjItaHVudGVyMjI="}
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (502, "tracking_failed")
    assert "no entry for Basic ***" in error["message"]
    named = [record.getMessage() for record in caplog.records if "MLflow" in record.getMessage()]
    assert f"{run['id']} was not sent to MLflow: MLflow: RestException" in named[0]
    assert f"evalrouter eval track {run['id']}" in named[0]
    for secret in ("hunter22", "am86aHVudGVyMjItaHVudGVyMjI"):
        assert secret not in caplog.text + refused.text


def test_sending_has_a_limit_and_leaves_no_process(folder):
    import socket

    chosen = write_config(folder, "", limit_s=0.2)
    done = evalrouter("eval", "run", folder / "run.json", "--json", *chosen)
    run = json.loads(done.stdout)["run"]["id"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        failed = evalrouter("eval", "track", run, "--mlflow", address, *chosen, check=1)
    assert (
        f"MLflow did not take {run} within 0.2 s (tracking.limit_s in the config)" in failed.stderr
    )
    # Neither a run that has not ended, nor one without an address, nor one that does not exist.
    refused = evalrouter("eval", "track", run, *chosen, check=2)
    assert "the command also takes --mlflow" in refused.stderr
    missing = evalrouter("eval", "track", "run_x", "--mlflow", address, *chosen, check=2)
    assert "run_x" in missing.stderr
