"""Parameters that OpenAI's own API refuses and that other hosts of the same wire know."""

import msgspec
import pytest

from providers.base import Call
from providers.http.transport import HttpLimits, Transport
from providers.openai import OpenAI, OpenAIConfig
from providers.translation.translate import translate


def call(model="gpt-4o", **fields):
    envelope = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    return Call(path="chat/completions", model=model, envelope=envelope)


@pytest.mark.parametrize("model", ["gpt-4o", "o3"])
def test_the_published_sampling_of_prometheus_is_told_apart_from_openais(model):
    provider = OpenAI("openai", OpenAIConfig(kind="openai"), Transport(HttpLimits()))
    asked = call(model, messages=[], repetition_penalty=1.03)
    fields, translation = translate(provider.rules(asked), asked, provider="openai", policy="drop")
    assert "repetition_penalty" not in fields
    assert translation.dropped == {"repetition_penalty": "OpenAI has no such parameter"}


def test_what_openai_knows_is_sent_as_it_came():
    provider = OpenAI("openai", OpenAIConfig(kind="openai"), Transport(HttpLimits()))
    assert provider.rules(call(messages=[], temperature=1.0)) is None


def test_a_proxy_may_know_it():
    config = OpenAIConfig(kind="openai", base_url="http://127.0.0.1:1/v1")
    provider = OpenAI("proxy", config, Transport(HttpLimits()))
    assert provider.rules(call(messages=[], repetition_penalty=1.03)) is None
