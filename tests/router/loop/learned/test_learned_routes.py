"""Learned routes with real requests: learned of a run, applied, and with parts that fail."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import asynccontextmanager

import httpx
import pytest
from click.testing import CliRunner
from embedding_host import embedding_host
from servers import gateway

from router.cli import main
from router.client import Client
from router.config.loading import parse
from router.services import Services

CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  up:
    kind: scripted
    script:
      cheap: [{{match: "easy", answer: "right"}}, {{answer: "wrong"}}]
      dear: [{{answer: "right"}}]
  words: {{kind: compatible, base_url: "{url}", api_key: k}}
prices:
  up/cheap: {{input: 10, output: 10}}
  up/dear: {{input: 1000, output: 1000, cached_input: 100}}
routes:
  chat:
    strategy: learned
    targets: [{{model: up/cheap, weight: 0.001}}, {{model: up/dear, weight: 1000}}]
    share_bodies_with: [words]
    retries: {{attempts: 1}}
    record: full
    {more}
    learned:
      quality: {quality}
      within: 0.1
      of: up/dear
      embeddings: words/w
      embed_seconds: {embed_seconds}
      neighbours: 10
      margin: 0.05
      mode: {mode}
"""
RUN = {
    "dataset": "rows.jsonl",
    "routes": ["up/cheap", "up/dear"],
    "metrics": ["exact_match"],
    "prompt": "{{ input }}",
}
EASY, HARD = "easy sum of apples", "hard proof about primes"


def config_text(folder, host, *, mode="apply", quality="exact_match", more="", embed_seconds=5):
    return CONFIG.format(
        folder=folder,
        url=host.url,
        mode=mode,
        quality=quality,
        more=more,
        embed_seconds=embed_seconds,
    )


def rows(count=160):
    for n in range(count):
        text = f"{(EASY, HARD)[n % 2]} number {n}"
        yield {"id": str(n), "input": text, "reference": "right"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A folder with a database in which both targets have answered a dataset."""
    folder = tmp_path_factory.mktemp("evaluated")
    with embedding_host() as host:
        (folder / "c.yaml").write_text(config_text(folder, host))
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
        (folder / "run.json").write_text(json.dumps({**RUN, "dataset": str(folder / "rows.jsonl")}))
        done = CliRunner().invoke(
            main, ["eval", "run", str(folder / "run.json"), "--config", str(folder / "c.yaml")]
        )
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def folder(evaluated, tmp_path):
    """A copy of that database."""
    with sqlite3.connect(evaluated / "e.db") as source:
        with sqlite3.connect(tmp_path / "e.db") as copy:
            source.backup(copy)
        copy.close()
    source.close()
    return tmp_path


@pytest.fixture
def host():
    with embedding_host() as host:
        yield host


@asynccontextmanager
async def services(folder, host, **options):
    config = parse(config_text(folder, host, **options), "c.yaml", {})
    async with Services(config) as parts:
        yield parts
        await parts.learned_routes.close()


def ask(url, text, **more):
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def target(response):
    assert response.status_code == 200, response.text
    return response.headers["x-evalrouter-target"]


def choice_of(url, response):
    """The choice in the record of a request, once that is stored."""
    record = response.headers["x-evalrouter-record"]
    while (shown := httpx.get(f"{url}/traffic/{record}")).status_code == 404:
        time.sleep(0.01)
    return shown.json()


def learn(folder, host, **options):
    (folder / "c.yaml").write_text(config_text(folder, host, **options))
    return CliRunner().invoke(main, ["route", "learn", "chat", "--config", f"{folder}/c.yaml"])


def test_a_learned_route_takes_the_cheap_target_where_it_is_good_enough(folder, host):
    done = learn(folder, host)
    assert done.exit_code == 0, done.output
    assert "chat: applied" in done.output
    assert "it chooses: saves" in done.output
    assert "50%" in done.output
    with gateway(config_text(folder, host)) as url:
        easy, hard = ask(url, f"{EASY} today"), ask(url, f"{HARD} today")
        assert (target(easy), target(hard)) == ("up/cheap", "up/dear")
        row = choice_of(url, easy)
        choice = row["learned"]
        assert (choice["reason"], choice["target"], choice["applied"]) == (
            "cheapest", "up/cheap", True,
        )  # fmt: skip
        assert choice["neighbours"] == 10
        cheap, dear = choice["predictions"]
        assert (cheap["target"], cheap["score"], cheap["good"]) == ("up/cheap", 1.0, True)
        assert cheap["cost_usd"] < dear["cost_usd"]
        assert (row["first_target"], row["propensity"]) == ("up/cheap", 1.0)
        hard_choice = choice_of(url, hard)["learned"]
        assert hard_choice["reason"] == "cheapest"
        assert hard_choice["predictions"][0].get("good", False) is False

        embedded = len(host.texts)
        same = ask(url, f"{EASY} today")
        assert target(same) == "up/cheap"
        assert len(host.texts) == embedded, "the same prompt is not embedded twice"

        choice_of(url, same)
        client = Client(url)
        report = client.routes.learned("chat")
        assert (report["state"], report["test"]["decision"]) == ("applied", "pays")
        assert report["test"]["always"] == "up/dear"
        assert 0.4 < report["test"]["saving"] < 0.6
        assert report["model"]["rows"] == 160
        assert report["model"]["made_of"]["prompts"] == 160
        assert report["recent"]["by_reason"] == {"cheapest": 3}
        assert report["recent"]["applied"] == 3
        client.close()
        metrics = httpx.get(f"{url}/metrics").text
        assert 'evalrouter_learned_choices_total{reason="cheapest",route="chat"} 3.0' in metrics
        assert 'evalrouter_learned_saving{route="chat"}' in metrics


def test_observe_predicts_and_leaves_the_choice_to_the_other_strategy(folder, host):
    assert learn(folder, host, mode="observe").exit_code == 0
    with gateway(config_text(folder, host, mode="observe")) as url:
        answered = ask(url, f"{EASY} today")
        assert target(answered) == "up/dear"
        choice = choice_of(url, answered)["learned"]
        assert (choice["target"], choice.get("applied", False)) == ("up/cheap", False)
        client = Client(url)
        report = client.routes.learned("chat")
        assert report["state"] == "observing"
        assert report["recent"]["saved_usd"] > 0
        # Over HTTP it is learned in the background, and the earlier model stays until then.
        began = client.routes.learn("chat")
        assert began["state"] == "learning"
        while (report := client.routes.learned("chat"))["learning"] is not None:
            time.sleep(0.05)
        assert report["model"]["id"] == began["id"]
        client.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"seconds": 60.0}, "embeddings_slow"),
        ({"status": 500}, "embeddings_failed"),
        ({"dimensions": 16}, "dimensions"),
        ({"salt": "another model"}, "embeddings_changed"),
    ],
)
async def test_embeddings_that_fail_leave_the_choice_to_the_other_strategy(
    folder, host, fault, reason
):
    async with services(folder, host) as parts:
        await parts.learned_routes.learn("chat", actor="a test")
    for name, value in fault.items():
        setattr(host, name, value)
    embed_seconds = 0.05 if reason == "embeddings_slow" else 5
    try:
        with gateway(config_text(folder, host, embed_seconds=embed_seconds)) as url:
            answered = await asyncio.to_thread(ask, url, f"{EASY} today")
            assert target(answered) == "up/dear"
            assert (await asyncio.to_thread(choice_of, url, answered))["learned"][
                "reason"
            ] == reason
            metrics = await asyncio.to_thread(httpx.get, f"{url}/metrics")
            assert f'learned_choices_total{{reason="{reason}",route="chat"}} 1.0' in metrics.text
    finally:
        host.seconds = 0.0
