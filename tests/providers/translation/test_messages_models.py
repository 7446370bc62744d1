"""Anthropic's list of models, read by Anthropic's own package."""

import json

import anthropic
import pytest
from anthropic.types import ModelInfo
from raw_host import READ, framed, raw_host

from providers.errors import RequestError
from providers.translation.messages_models import ModelEntry, model_info, model_page

MODELS = [ModelEntry(f"m{number}") for number in range(5)]


def page(**options):
    read = json.loads(model_page(MODELS, **options))
    ids = [model["id"] for model in read["data"]]
    assert (read["first_id"], read["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    return ids, read["has_more"]


@pytest.mark.parametrize(
    ("options", "ids", "has_more"),
    [
        ({}, "01234", False),
        ({"limit": 5}, "01234", False),
        ({"limit": 4}, "0123", True),
        ({"limit": 2, "after_id": "m1"}, "23", True),
        ({"limit": 2, "after_id": "m2"}, "34", False),
        ({"after_id": "m4"}, "", False),
        ({"limit": 2, "before_id": "m3"}, "12", True),
        ({"limit": 2, "before_id": "m2"}, "01", False),
        ({"before_id": "m0"}, "", False),
    ],
)
def test_pages(options, ids, has_more):
    assert page(**options) == ([f"m{number}" for number in ids], has_more)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"after_id": "x"}, "after_id"),
        ({"before_id": "x"}, "before_id"),
        ({"before_id": "m1", "after_id": "m1"}, "before_id"),
    ],
)
def test_pages_that_are_none(options, param):
    with pytest.raises(RequestError) as refused:
        model_page(MODELS, **options)
    assert refused.value.param == param
    assert refused.value.code == "invalid_value"
    assert refused.value.message.startswith(f"{param}: ")


def test_the_largest_page():
    assert page(limit=1000)[1] is False


def test_a_model():
    assert model_info(ModelEntry("a")) == {
        "type": "model",
        "id": "a",
        "display_name": "a",
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }
    ending = model_info(ModelEntry("a", 1_700_000_000, "2027-01-02"))
    assert ending["created_at"] == "2023-11-14T22:13:20Z"
    assert (ending["lifecycle"], ending["retires_at"]) == ("deprecated", "2027-01-02T00:00:00Z")
    ModelInfo.model_validate_json(json.dumps(ending), strict=True)


async def test_anthropics_client_reads_all_pages():
    pages = [model_page(MODELS, limit=3), model_page(MODELS, limit=3, after_id="m2")]
    with raw_host([step for body in pages for step in (READ, *framed(body))]) as host:
        client = anthropic.AsyncAnthropic(base_url=host.url, api_key="k", max_retries=0)
        ids = [model.id async for model in client.models.list(limit=3)]
        await client.close()
    assert ids == [model.id for model in MODELS]
