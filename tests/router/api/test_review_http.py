"""`/review` over HTTP: who may decide, what is refused, and the SDK."""

import asyncio

import httpx
import pytest
from servers import gateway

from router.client import AsyncClient, Client
from router.config.loading import parse
from router.services import Services

MESSAGES = [{"role": "user", "content": "How old is it?"}]


def create_keys(config):
    async def inside():
        async with Services(parse(config, "test.yaml", {})) as services:
            from router.gateway.key_administration import create

            return {
                role: (await create(services.store, role, now=1.0, role=role))[0]
                for role in ("client", "reviewer", "admin")
            }

    return asyncio.run(inside())


@pytest.fixture
def config(tmp_path):
    return (
        f"{{server: {{port: 0}}, storage: {{database: 'sqlite:///{tmp_path}/e.db', "
        f"artifacts: '{tmp_path}/artifacts'}}}}"
    )


def test_rows_are_reviewed_and_published(config):
    with gateway(config) as url, Client(url) as client:
        arrivals = client.review.add(
            [
                {"messages": MESSAGES, "answer": "Mail ann@example.org", "metadata": {"n": 1}},
                {"messages": [{"role": "user", "content": "Who is it?"}], "reference": "Me."},
                {"messages": MESSAGES, "answer": "Another answer"},
            ],
            dataset="mine",
        )
        one, two, three = (arrival["id"] for arrival in arrivals)
        assert three is None
        assert [finding["kind"] for finding in arrivals[2]["findings"]] == ["duplicate"]
        rows = client.review.list(dataset="mine")
        assert [row["id"] for row in rows] == [one, two]
        assert rows[0]["content"]["answer"].startswith("Mail [EMAIL_")
        client.review.edit(one, reference="Four.", version=1)
        assert client.review.accept(one, version=2)["decided_by"] == "a client without a key"
        assert client.review.reject(two, reason="odd")["state"] == "rejected"
        assert client.review.undo(two)["state"] == "waiting"
        assert client.review.show(two)["version"] == 3
        published = client.review.publish("mine")
        assert published["published"] == published["dataset"]["rows"] == 1
        assert client.datasets.show("mine")["preview"][0]["reference"] == "Four."
        assert [row["id"] for row in client.review.list(state="accepted")] == [one]
        assert client.review.list(limit=1, after=rows[0]["number"])[0]["id"] == two


async def test_of_several_who_decide_at_once_one_wins(config):
    with gateway(config) as url:
        async with AsyncClient(url) as client, httpx.AsyncClient(base_url=url) as http:
            [arrival] = await client.review.add([{"messages": MESSAGES}])
            path = f"/review/{arrival['id']}"
            answers = await asyncio.gather(
                *(http.post(f"{path}/{action}", json={}) for action in ("accept", "reject") * 3)
            )
            assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
            errors = [answer.json()["error"] for answer in answers if answer.status_code == 409]
            assert {error["code"] for error in errors} == {"already_decided"}
            assert all("a client without a key" in error["message"] for error in errors)
            assert all("UTC" in error["message"] for error in errors)


def test_only_reviewers_and_administrators_review(config, http):
    keys = create_keys(config)
    with gateway(config) as url:
        for role, allowed in (("client", False), ("reviewer", True), ("admin", True)):
            headers = {"authorization": f"Bearer {keys[role]}"}
            added = http.post(
                f"{url}/review",
                headers=headers,
                json={"rows": [{"messages": [{"role": "user", "content": f"Am I {role}?"}]}]},
            )
            assert added.status_code == (201 if allowed else 403)
            assert http.get(f"{url}/review", headers=headers).status_code == (
                200 if allowed else 403
            )
            if allowed:
                row = added.json()["data"][0]["id"]
                accepted = http.post(f"{url}/review/{row}/accept", headers=headers).json()
                assert accepted["decided_by"].startswith(f"key {role} (key_")


def said(role, content):
    return {"rows": [{"messages": [{"role": role, "content": content}]}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("GET", "/review/rv_none", None, 404, "rv_none"),
        ("POST", "/review/rv_none/accept", {}, 404, "rv_none"),
        ("POST", "/review/rv_none/undo", {"x": 1}, 400, "x"),
        ("POST", "/review", {"rows": []}, 400, "rows"),
        ("POST", "/review", {"rows": [{"messages": []}]}, 400, "messages"),
        ("POST", "/review", {"rows": [{"messages": [{"content": "x"}]}]}, 400, "role"),
        ("POST", "/review", said("zz", "x"), 400, "role"),
        ("POST", "/review", said("user", 5), 400, "content"),
        ("POST", "/review", said("user", [1, 2]), 400, "content"),
        ("POST", "/review", said("assistant", None), 400, "content"),
        ("POST", "/review", {"rows": [{"messages": MESSAGES, "odd": 1}]}, 400, "odd"),
        ("POST", "/review", {"rows": [{"messages": MESSAGES}], "dataset": "a/b"}, 400, "a/b"),
        ("POST", "/review/publish", {"dataset": "../x"}, 400, "../x"),
        ("POST", "/review/publish", {}, 409, "No accepted row"),
        ("PATCH", "/review/rv_none", {"reference": 3}, 400, "reference"),
        ("POST", "/review/rv_none/reject", {"reason": "x" * 1001}, 400, "reason"),
        ("GET", "/review?state=odd", None, 400, "state"),
        ("GET", "/review?limit=0", None, 400, "limit"),
    ],
)
def test_bad_requests_are_answered_with_their_fault(refusing, method, path, body, status, word):
    answer = refusing.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert word in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review")
    config = f"{{server: {{port: 0}}, storage: {{database: 'sqlite:///{folder}/e.db'}}}}"
    with gateway(config) as url, httpx.Client(base_url=url) as http:
        yield http
