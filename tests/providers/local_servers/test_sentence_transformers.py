"""A sentence-transformers model as a provider: what needs no model. `make test-minilm` has one."""

import json

import pytest
from hosts import config, transport

from providers.base import Call
from providers.errors import ConfigError
from providers.kinds import make
from providers.local_servers.sentence_transformers_server import RefusedError, _request

pytest.importorskip("sentence_transformers", reason="the extra 'local' is not installed")


async def test_what_cannot_be_started_is_refused(tmp_path):
    async with transport() as client:
        with pytest.raises(ConfigError, match=r"providers.own.model: ./none: no such folder"):
            make("own", config("sentence_transformers", model="./none"), client)
        model = tmp_path / "mini"
        model.mkdir()
        provider = make("own", config("sentence_transformers", model=str(model)), client)
        listed = await provider.send(Call(path="models", model="", envelope={}))
        assert json.loads(await listed.read())["data"][0]["id"] == "mini"
        refused = await provider.send(Call(path="completions", model="mini", envelope={}))
        assert refused.status == 400
        assert "embeddings only" in json.loads(await refused.read())["error"]["message"]
        await provider.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b'{"input": []}', "input is a text"),
        (b'{"input": ["a", 1]}', "input is a text"),
        (b'{"input": "a", "dimensions": 8}', "dimensions"),
        (b'{"input": "a", "encoding_format": "hex"}', "encoding_format"),
        (json.dumps({"input": ["a"] * 2049}).encode(), "at most 2048"),
    ],
)
def test_requests_that_are_refused(body, message):
    with pytest.raises(RefusedError, match=message):
        _request(body)


def test_one_text_and_several():
    assert _request(b'{"input": "a"}')[0] == ["a"]
    assert _request(b'{"input": ["a", "b"], "encoding_format": null}')[0] == ["a", "b"]
