"""Watches over HTTP and on the command line, with a server whose host changes at a known moment."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from drifting_hosts import noisy
from servers import gateway, scripted

from providers.errors import NotFoundError, RequestError
from router.cli import main
from router.client import Client

CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db"}}
providers:
  up: {{kind: compatible, base_url: "{url}", api_key: k}}
watches:
  nightly: {{target: up/a, prompts: [x], repeats: 1, reference_probes: 6, alpha: 0.5, live: null}}
"""


def test_a_swapped_model_is_seen_by_every_client(http, tmp_path):
    rules = [*noisy(20), *noisy(30, shift=1.0, seed=2, model="a-2", system_fingerprint="fp_2")]
    with scripted({"a": rules}) as upstream:
        text = CONFIG.format(folder=tmp_path, url=upstream.url)
        config = tmp_path / "evalrouter.yaml"
        config.write_text(text)
        with gateway(text) as url, Client(url) as client:
            probes = [client.watches.probe("nightly") for _ in range(20)]
            assert probes[-1]["kind"] == "probe"
            assert [view["state"] for view in client.watches.list()] == ["quiet"]
            for _ in range(10):
                client.watches.probe("nightly")
            report = client.watches.show("nightly", signal="probe", limit=2)
            assert report["state"] == "drift"
            older = client.watches.show("nightly", before=report["probes"][-1]["number"], limit=1)
            assert older["probes"][0]["number"] < report["probes"][-1]["number"]
            assert "anchor" not in json.dumps(report["reference"]["anchor"])
            with pytest.raises(NotFoundError, match="There is no watch 'nothing'"):
                client.watches.show("nothing")
            with pytest.raises(RequestError, match="reason"):
                client.watches.pin("nightly", "")
            refused = http.get(f"{url}/watches/nightly?signal=probes")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "signal")
            refused = http.post(f"{url}/watches/nightly/probe", json={"now": True})
            assert (refused.status_code, "now" in refused.json()["error"]["message"]) == (400, True)
        # The counts of versions are written when the server ends.
        with gateway(text) as url, Client(url) as client:
            [versions] = client.models.versions()
            assert {each["model"]: each["requests"] for each in versions["versions"]} == {
                "a-1": 20,
                "a-2": 10,
            }
            assert versions["versions"][0]["system_fingerprint"] == "fp_2"
            assert sum(each["share"] for each in versions["versions"]) == pytest.approx(1)
            assert list(client.models.versions("up/b")) == []

        def run(*args: str, code: int = 0) -> str:
            done = CliRunner().invoke(main, ["drift", *args, "--config", str(config)])
            assert done.exit_code == code, done.output
            return done.output

        listed = json.loads(run("list", "--json"))
        assert listed[0]["state"] == "drift"
        assert "nightly" in run("list")
        shown = run("report", "nightly", code=1)
        assert "the host claims another model since" in shown
        assert "a-2" in shown
        assert json.loads(run("report", "nightly", "--json", "--limit", "3", code=1))["probes"][2]
        assert "the next 6 probes of nightly are its reference" in run(
            "pin", "nightly", "--reason", "wanted"
        )
        assert "of the reference" in run("probe", "nightly")
        assert "learning" in run("report", "nightly")
        run("report", "nothing", code=2)
