"""Models that cannot exist: refused where a route, a shadow or a rollout begins to name them."""

import asyncio

import pytest
from page_elements import BROWSER, text_of
from servers import gateway, scripted

from providers.base import ProviderConfig
from providers.compatible import CompatibleConfig
from providers.http.transport import Transport
from providers.kinds import build
from providers.offline.scripted import Rule, Script, Scripted, ScriptedConfig, ScriptedServer
from router.gateway.model_lists import FRESH_S, ModelLists

CONFIG = """
server: {{require_keys: false}}
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  host: {{kind: openai, base_url: "{url}", api_key: x}}
  named: {{kind: compatible, base_url: "{url}", models: [small, new]}}
  any: {{kind: compatible, base_url: "{url}"}}
routes:
  chat: {{targets: [{{model: host/small}}, {{model: named/old, weight: 0}}]}}
"""
QUICK = {"steps": [50], "step_seconds": 0, "cycle_seconds": 0}


@pytest.fixture(scope="module")
def upstream():
    with scripted({"small": [{}], "new": [{}]}) as server:
        yield server


@pytest.fixture(scope="module")
def url(tmp_path_factory, upstream):
    with gateway(CONFIG.format(folder=tmp_path_factory.mktemp("e"), url=upstream.url)) as url:
        yield url


def shadowed(target):
    return {
        "targets": [{"model": "host/small"}],
        "share_bodies_with": ["any", "host", "named"],
        "shadow": {"targets": [target]},
    }


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("baseline/lead-2", "baseline has no model 'lead-2'. Did you mean 'lead-3' or 'lead-1'?"),
        ("nobody/m", "no provider 'nobody'."),
        ("named/newer", "named lists no model 'newer'. Did you mean 'new'? Name it in"),
    ],
)
def test_what_cannot_exist_is_refused_at_the_start(http, url, target, message):
    def refused(answer):
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["error"]["message"]

    refused(http.post(f"{url}/routes/chat/rollout", json={"candidate": target, **QUICK}))
    refused(http.put(f"{url}/routes/chat", json={"targets": [{"model": target}]}))
    refused(http.put(f"{url}/routes/chat", json=shadowed(target)))
    begun = {"targets": [{"model": "host/small"}], "rollout": {"candidate": target}}
    refused(http.put(f"{url}/routes/chat", json=begun))
    fields = {"candidate": target, "steps": "50", "step_hours": "1", "cycle_hours": "1"}
    page = http.post(f"{url}/pages/routes/chat/rollout", data=fields, headers=BROWSER)
    assert message in text_of(page.text)
    assert http.get(f"{url}/rollouts").json()["data"] == []


def test_a_person_who_knows_better_than_a_list_can_start_a_rollout(http, url):
    start = {"candidate": "named/newer", "force": True, **QUICK}
    assert http.post(f"{url}/routes/chat/rollout", json=start).status_code == 201


def test_a_host_s_list_counts_once_it_was_read_and_is_not_read_for_it(http, url):
    route = {"targets": [{"model": "host/small"}, {"model": "host/gone"}]}
    assert http.put(f"{url}/routes/unread", json=route).status_code == 200
    http.get(f"{url}/v1/models").raise_for_status()
    # What a route has already stays, so that its weights can be changed.
    assert http.put(f"{url}/routes/unread", json=route).status_code == 200
    refused = http.put(f"{url}/routes/read", json=route)
    assert refused.status_code == 400
    assert "routes.read: host lists no model 'gone'." in refused.json()["error"]["message"]
    # Nobody knows whether a host of this kind lists all that it answers to.
    assert http.put(f"{url}/routes/any", json=shadowed("any/gone")).status_code == 200


def test_a_shadow_of_the_config_that_cannot_exist_does_not_begin(http, tmp_path, upstream):
    config = CONFIG.format(folder=tmp_path, url=upstream.url)
    shadow = "shadow: {targets: [named/newer]}, share_bodies_with: [named]"
    with gateway(f"{config}  shadowed: {{targets: [{{model: any/small}}], {shadow}}}\n") as url:
        assert "named lists no model 'newer'" in http.get(f"{url}/routes/shadowed/shadow").text


@pytest.mark.parametrize(
    ("kind", "listed", "model", "refused"),
    [
        ("openai", ["gpt"], "gpt-2", True),
        ("openai", ["gpt"], "ft:gpt:me::1:ckpt-step-9", False),
        ("ollama", ["llama:latest"], "llama", False),
        ("ollama", ["llama:latest"], "llama:7b", True),
        ("gemini", ["models/flash"], "flash", False),
        # These have names that no list has.
        ("azure", ["gpt"], "my-deployment", False),
        ("anthropic", ["claude-1-20990101"], "claude-1-latest", False),
        ("openrouter", ["a/b"], "a/b:nitro", False),
        ("llamafile", ["a"], "b", False),
    ],
)
async def test_which_lists_have_all_models(kind, listed, model, refused):
    script = {name: (Rule(),) for name in listed}
    provider = Scripted("p", ScriptedConfig(kind="scripted", script=script))
    lists = ModelLists({"p": provider}, {"p": ProviderConfig(kind=kind)})
    assert lists.unlisted(f"p/{model}") == ""
    await lists.of(["p"])
    assert bool(lists.unlisted(f"p/{model}")) is refused


async def test_of_a_list_that_cannot_be_read_any_more_nothing_is_known():
    now = [0.0]
    transport = Transport()
    await transport.open()
    try:
        async with ScriptedServer(Script(models={"m": (Rule(),)})) as server:
            config = CompatibleConfig(kind="vllm", base_url=server.url)
            provider = build("p", config, transport)
            lists = ModelLists({"p": provider}, {"p": config}, clock=lambda: now[0])
            await lists.of(["p"])
            assert "lists no model 'n'" in lists.unlisted("p/n")
        now[0] = FRESH_S + 1
        # The last list is returned at once, and read again meanwhile.
        while not (await lists.of(["p"]))["p"].why:
            await asyncio.sleep(0)
        assert lists.unlisted("p/n") == ""
        await lists.close()
    finally:
        await transport.close()
