"""Models that will be shut down: what hosts say in their lists, who uses them, and what to do."""

from __future__ import annotations

import json
import logging
import shlex
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from raw_host import READ, answer, raw_host
from servers import gateway

from evaluators.document import RunDocument
from providers.errors import NotFoundError, RequestError
from providers.retirements import KNOWN, known_retirement
from providers.wire import UNREADABLE, read_listed, read_models
from router.cli import main
from router.client import Client
from router.config.documents import Document
from router.config.loading import parse
from router.loop.conditions import parse_condition
from router.loop.retirements import RetirementSource
from router.loop.traffic_dataset import TrafficSelection
from router.services import Services

SOON = f"{datetime.now(UTC) + timedelta(days=20):%Y-%m-%d}"
LATER = f"{datetime.now(UTC) + timedelta(days=400):%Y-%m-%dT%H:%M:%SZ}"
CONFIG = """
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  up: {{kind: {kind}, base_url: "{url}", api_key: k}}
routes:
  chat:
    targets: [{{model: up/old}}, {{model: up/new, weight: 0}}]
    fallback: [up/spare]
  other: {{targets: [{{model: up/spare}}]}}
watches:
  nightly: {{target: up/old}}
"""


def models(*rows) -> bytes:
    return json.dumps({"object": "list", "data": list(rows)}).encode()


LISTED = models(
    {"id": "old", "shutdown_date": SOON, "deprecation_replacement_model": "new"},
    {"id": "spare", "shutdown_date": None, "deprecation": LATER},
    {"id": "new"},
)


def config_of(url, folder, kind="compatible"):
    return CONFIG.format(url=url, folder=folder, kind=kind)


@asynccontextmanager
async def services(tmp_path, body=LISTED, kind="compatible"):
    with raw_host([READ, *answer(body)]) as host:
        text = config_of(host.url, tmp_path, kind)
        async with Services(parse(text, "c.yaml", {})) as parts:
            yield parts


@pytest.mark.parametrize(
    ("fields", "date"),
    [
        ({"shutdown_date": "2026-12-11"}, "2026-12-11"),
        ({"shutdown_date": None}, None),
        ({"deprecation": "2026-08-31T12:00:00Z"}, "2026-08-31"),
        ({"deprecation": {"inference": 1751241600}}, "2025-06-30"),
        ({"deprecation": {"fine_tune": 1751241600}}, None),
        ({"expiration_date": "2027-01-01"}, "2027-01-01"),
        ({"deprecation_date": 1751241600}, "2025-06-30"),
        ({"retirement_date": "2027-02-03"}, "2027-02-03"),
        ({"shutdown_date": "soon", "expiration_date": "2027-01-01"}, "2027-01-01"),
        *(
            ({"shutdown_date": value}, None)
            for value in ("", "2026-13-01", 1e300, -5, True, [], {}, "9999-12-31", "x" * 10_000)
        ),
    ],
)
def test_hosts_write_the_end_of_a_model_in_several_ways(fields, date):
    body = models({"id": "m", "deprecation_replacement_model": 5} | fields)
    [row] = read_listed(body)
    assert read_models(body) == ["m"]
    assert row.replacement == ""
    read = None if row.retires_at is None else datetime.fromtimestamp(row.retires_at, UTC)
    assert (None if read is None else f"{read:%Y-%m-%d}") == date


def test_a_list_that_cannot_be_read_is_still_refused():
    with pytest.raises(UNREADABLE):
        read_listed(b'{"data": [{"id": 5}]}')


def test_what_is_known_besides_has_a_day_and_a_source():
    known = known_retirement("anthropic", "claude-3-opus-20240229")
    assert known is not None
    assert known.date == "2026-01-05"
    assert known_retirement("compatible", "claude-3-opus-20240229") is None
    for kind in KNOWN.values():
        for each in kind.values():
            assert each.at > 1.7e9
            assert each.source.startswith("https://")


async def test_a_model_that_ends_is_warned_about_with_a_migration_that_is_ready(tmp_path, caplog):
    async with services(tmp_path) as parts:
        with caplog.at_level(logging.WARNING, logger="evalrouter"):
            for _ in range(2):
                await parts.retirements.run_once()
        told = [each.message for each in caplog.records if "shut down" in each.message]
        assert len(told) == 1
        assert f"up/old will be shut down on {SOON}" in told[0]
        assert "the route chat, the watch nightly" in told[0]

        [old, spare] = await parts.retirements.views()
        assert (old.target, old.date, old.replacement) == ("up/old", SOON, "up/new")
        assert 18 < old.days_left < 20
        assert (old.routes, old.watches, spare.routes) == (["chat"], ["nightly"], ["chat", "other"])
        # A route that names no other model has nowhere to go.
        assert [each.route for each in spare.migrations] == ["chat"]
        [migration] = old.migrations
        assert migration.candidate == "up/new"
        assert any("stores no bodies" in note for note in migration.notes)
        assert migration.rollout_command.startswith("evalrouter rollout start chat up/new --reason")
        assert "--where" not in migration.dataset_command
        [note] = spare.notes
        assert note.startswith("other names no other model: pass --target up/spare --candidate")
        # A fallback has no share that a rollout could give to a candidate.
        [migration] = spare.migrations
        assert (migration.rollout, migration.rollout_command) == (None, "")
        assert migration.route_change.startswith("take up/spare out of the definition of chat")

        conditions = await RetirementSource(parts.retirements).conditions()
        assert [(each.labels["target"], each.severity) for each in conditions] == [
            ("up/old", "warning")
        ]
        assert dict(parts.retirements.days_left())[("up/old",)] == old.days_left


async def test_the_documents_of_a_migration_can_be_used(tmp_path):
    async with services(tmp_path) as parts:
        [old, _] = await parts.retirements.views()
        [migration] = old.migrations
        document = msgspec.convert(migration.run, RunDocument)
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"input": "x", "answer": "y"}\n')
        await parts.datasets.add(str(rows), name=document.dataset, over_http=False)
        estimate = await parts.runs.estimate(document, base=tmp_path)
        assert estimate is not None
        request = parts.rollouts.request_of("chat", Document(migration.rollout, "", {}))
        assert request.candidate == "up/new"
        # The options of the command are those of a selection.
        words = migration.dataset_command.split()
        assert words[:4] == ["evalrouter", "dataset", "from-traffic", document.dataset]
        assert {"route", "sample", "dedupe", "since"} <= set(TrafficSelection.__struct_fields__)


async def test_a_route_with_several_targets_gets_a_migration_that_works(tmp_path):
    with raw_host([READ, *answer(LISTED)]) as host:
        text = config_of(host.url, tmp_path).replace("up/new, weight: 0", "up/new")
        async with Services(parse(text, "c.yaml", {})) as parts:
            [old, _] = await parts.retirements.views()
            [migration] = old.migrations
            words = shlex.split(migration.dataset_command)
            where = words[words.index("--where") + 1]
            assert where == 'target == "up/old"'
            parse_condition(where)
            # The candidate has a share, which a rollout refuses.
            refused = Document({"candidate": "up/new"}, "", {})
            request = parts.rollouts.request_of("chat", refused)
            with pytest.raises(RequestError, match="has a share"):
                await parts.rollouts.start("chat", request, actor="ann")
            assert (migration.rollout, migration.rollout_command) == (None, "")
            assert migration.route_change.startswith("take up/old out of the definition of chat")
            # Another candidate may have a rollout, which is of all targets.
            named = await parts.retirements.propose("up/old", "baseline/echo")
            [migration] = named.migrations
            assert migration.rollout is not None
            assert any("takes their shares too" in note for note in migration.notes)


async def test_a_person_may_name_the_candidate(tmp_path):
    async with services(tmp_path) as parts:
        view = await parts.retirements.propose("up/spare", "baseline/echo")
        assert [each.route for each in view.migrations] == ["chat", "other"]
        assert {each.candidate for each in view.migrations} == {"baseline/echo"}
        assert "in the place of up/spare" in view.migrations[0].route_change
        assert (view.migrations[1].route_change, view.notes) == ("", [])
        with pytest.raises(NotFoundError):
            await parts.retirements.propose("up/new", "up/spare")
        for candidate in ("nobody/x", "x", "up/spare", "up/big\n\x1b[31m", f"up/{'x' * 300}"):
            with pytest.raises(RequestError, match="candidate"):
                await parts.retirements.propose("up/spare", candidate)


async def test_a_host_without_a_list_is_named(tmp_path):
    async with services(tmp_path, b"<html>") as parts:
        assert await parts.retirements.views() == []
        assert await parts.retirements.unreachable() == {"up": "its list is not OpenAI's"}
        # An alert that is firing goes on, and none begins.
        conditions = await RetirementSource(parts.retirements).conditions()
        assert {each.labels["target"]: each.holds for each in conditions} == {
            "up/old": None,
            "up/spare": None,
        }


def test_over_http_and_on_the_command_line(tmp_path):
    with raw_host([READ, *answer(LISTED)]) as host:
        text = config_of(host.url, tmp_path)
        config = tmp_path / "evalrouter.yaml"
        config.write_text(text)
        with gateway(text) as url, Client(url) as client:
            rows = {row["id"]: row for row in client.models.list()}
            assert rows["up/old"]["shutdown_date"] == SOON
            assert rows["up/new"]["shutdown_date"] is None
            assert rows["chat"]["shutdown_date"] is None
            assert client.models.show("up/old")["shutdown_date"] == SOON
            [old, spare] = client.models.retirements()
            assert old["migrations"][0]["candidate"] == "up/new"
            assert [each["target"] for each in client.models.retirements(target="up/spare")] == [
                spare["target"]
            ]
            [named] = client.models.retirements(target="up/old", candidate="baseline/echo")
            assert named["migrations"][0]["candidate"] == "baseline/echo"
            refused = httpx.get(f"{url}/models/retirements?candidate=up/x")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "candidate")

        def run(*args: str, code: int = 0) -> str:
            command = ["drift", "retirements", *args, "--config", str(config)]
            done = CliRunner().invoke(main, command)
            assert done.exit_code == code, done.output
            return done.output

        shown = run()
        assert "1. evalrouter dataset from-traffic chat-before-" in shown
        assert "win_rate non_inferior baseline by 0.05" in shown
        assert "3. evalrouter rollout start chat up/new" in shown
        assert "3. take up/spare out of the definition of chat" in shown
        assert "other names no other model: pass --target up/spare --candidate" in shown
        assert json.loads(run("--json"))[0]["target"] == "up/old"
        named = json.loads(run("--target", "up/old", "--candidate", "baseline/echo", "--json"))
        assert named[0]["migrations"][0]["candidate"] == "baseline/echo"
        run("--candidate", "up/x", code=2)
        run("--target", "up/old", "--candidate", "nobody/x", code=2)
