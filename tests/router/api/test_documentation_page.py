"""The documentation of the API: its policy, and who sees it."""

import re

import httpx
import pytest
from page_elements import BROWSER, Elements
from servers import gateway


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server with a key, and the key."""
    folder = tmp_path_factory.mktemp("documentation")
    with gateway(f"{{storage: {{database: 'sqlite:///{folder}/e.db'}}}}") as url:
        made = httpx.post(f"{url}/keys", json={"name": "c", "role": "client"})
        assert made.status_code == 201, made.text
        yield url, made.json()["secret"]


def page_of(world):
    url, key = world
    answer = httpx.get(f"{url}/docs", headers={**BROWSER, "authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return answer


def test_scripts_run_by_the_nonce_of_the_response_alone(world):
    nonces = set()
    for _ in range(2):
        answer = page_of(world)
        policy = answer.headers["content-security-policy"]
        [nonce] = re.findall(r"script-src 'nonce-([\w-]{22})';", policy)
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        scripts = [
            attributes for tag, attributes in Elements(answer.text).elements if tag == "script"
        ]
        assert [script["nonce"] for script in scripts] == [nonce, nonce]
        assert all(script["src"].startswith("/static/") for script in scripts)
        assert answer.headers["cache-control"] == "no-store"
        nonces.add(nonce)
    assert len(nonces) == 2


def test_what_the_page_refers_to_is_on_this_server(world):
    url, key = world
    for _, attributes in Elements(page_of(world).text).elements:
        for name in ("href", "src", "data-schema"):
            target = attributes.get(name, "#")
            if not target.startswith("#"):
                answer = httpx.get(url + target, headers={"authorization": f"Bearer {key}"})
                assert answer.status_code == 200, target


def test_it_is_for_every_key_and_for_no_stranger(world):
    url, _ = world
    answer = httpx.get(f"{url}/docs", headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fdocs")
    assert httpx.get(f"{url}/docs").status_code == 401
