"""The pages of settings: what they show of a server, and the examination of its providers."""

from __future__ import annotations

import re

import pytest
from page_elements import Elements, browsers, check_policy, csrf_token
from servers import gateway, scripted
from stores import add_keys

from evaluators.judge.kinds import BUILT_IN
from router.api.access import ACCESS, reach_of
from router.api.settings_page import ACTIVITIES, ROLES
from router.config.loading import parse
from router.evals.extras import missing_packages
from router.gateway.prices import PriceBook, list_prices

PAGES = ("", "/config", "/prices", "/metrics", "/roles", "/providers/up")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    keys = add_keys(folder / "e.db", "client", "reviewer", "admin", "viewer")
    with scripted({"m": [{"answer": "one two"}]}) as upstream:
        config = f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-very-secret, models: [m]}}
  openai: {{kind: openai, api_key: sk-another-secret}}
routes: {{r: {{targets: [{{model: up/m}}, {{model: openai/gpt-unheard-of}}]}}}}
prices: {{up/m: {{input: 1.5, output: 2}}}}
"""
        with gateway(config) as url:
            yield url, keys


@pytest.fixture
def browser(world):
    """Makes browsers that are signed in."""
    with browsers(*world) as sign_in:
        yield sign_in


def test_settings_are_shown_to_those_who_see_everything_and_have_no_secret(browser):
    admin, viewer, reviewer = (browser(role) for role in ("admin", "viewer", "reviewer"))
    for path in PAGES:
        page = admin.get(f"/settings{path}")
        assert page.status_code == 200
        check_policy(page)
        assert "sk-" not in page.text.replace("task-", "")
        shown = viewer.get(f"/settings{path}")
        assert shown.status_code == 200
        forms = [
            attributes
            for tag, attributes in Elements(shown.text).elements
            if tag == "form" and attributes["action"].startswith("/pages/settings")
        ]
        assert forms == []
        assert reviewer.get(f"/settings{path}").status_code == 403
    assert admin.get("/settings/providers/nobody").status_code == 404


def test_the_server_is_described(browser):
    text = Elements(browser("viewer").get("/settings").text).text
    for shown in ("sqlite:///", "30 days", "evalrouter", "Python", "litestar", "compatible"):
        assert shown in text
    installed = [extra for extra, packages in missing_packages().items() if not packages]
    assert ", ".join(installed) in text


def test_prices_are_those_of_the_config_and_of_hosts_that_are_configured(browser):
    http = browser("viewer")
    page = http.get("/settings/prices").text
    assert "openai/gpt-unheard-of" in page
    assert list_prices().as_of in page
    assert "mistral/" not in Elements(page).text
    filtered = http.get("/settings/prices?q=UP/&export=csv").text.splitlines()
    assert filtered[1:] == ["up/m,1.5,2.0,,the config"]
    assert "No price is known of a model" in http.get("/settings/prices?q=nothing").text


def test_a_config_price_hides_the_list_price():
    name = next(name for name in list_prices().prices if name.startswith("openai/"))
    text = "providers: {openai: {kind: openai, api_key: x}}\n"
    config = parse(f"{text}prices: {{{name}: {{input: 9, output: 9}}}}", "test.yaml", {})
    prices = PriceBook(config.prices, config.providers).listed()
    assert [(kind, price.input) for target, kind, price in prices if target == name] == [
        (None, 9.0)
    ]


def test_metrics_judges_and_roles_are_listed(browser):
    http = browser("viewer")
    text = http.get("/settings/metrics").text
    assert "<td>exact_match</td>" in text
    assert f"<td>{BUILT_IN[0]}</td>" in text
    text = http.get("/settings/roles").text
    assert "<code>POST /keys</code>" in text
    assert "/pages/" not in Elements(text).text
    shown = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    assert "May it no key client viewer reviewer admin" in shown
    assert "Read runs and their samples no its own yes yes yes" in shown
    assert "Start, pause, cancel, rescore and delete runs no no no no yes" in shown


def test_what_an_activity_is_said_to_be_is_one_thing_to_each_role():
    for operations in ACTIVITIES.values():
        assert set(operations) <= set(ACCESS)
        for role in ROLES:
            assert len({reach_of(operation, role) for operation in operations}) == 1, operations


def test_a_provider_is_examined_on_demand(browser):
    http = browser("admin")
    page = http.get("/settings/providers/up")
    assert "Not examined since the server started" in page.text
    form = {"csrf_token": csrf_token(page.text)}
    address = "/pages/settings/providers/up/conformance"
    assert http.post(address).status_code == 403
    done = http.post(address, data=form | {"model": "m"})
    assert (done.status_code, done.headers["location"]) == (303, "/settings/providers/up?model=m")
    report = http.get(done.headers["location"])
    check_policy(report)
    assert "<code>chat." in report.text
    assert "sk-very-secret" not in report.text
    overview = Elements(http.get("/settings").text)
    assert "huggingface (always there)" in overview.text
    assert "openai (always there)" not in overview.text
    assert "/settings/providers/up?model=m" in {
        attributes.get("href") for _, attributes in overview.elements
    }
    assert re.search(r"m: \d+ of \d+ pass", overview.text)
    program = http.get(
        "/providers/up/conformance?model=m", headers={"accept": "application/json"}
    ).json()
    assert program["provider"] == "up"


def test_what_is_wrong_with_an_examination_is_said_on_its_page(browser):
    http = browser("admin")
    form = {"csrf_token": csrf_token(http.get("/settings/providers/up").text)}
    answer = http.post("/pages/settings/providers/up/conformance", data=form | {"model": "\u0007"})
    assert answer.status_code == 400
    assert answer.headers["hx-push-url"] == "false"
    assert 'role="alert"' in answer.text
    unknown = http.post("/pages/settings/providers/nobody/conformance", data=form)
    assert unknown.status_code == 404
