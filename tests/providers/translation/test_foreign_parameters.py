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


def openai():
    return OpenAI("openai", OpenAIConfig(kind="openai"), Transport(HttpLimits()))


@pytest.mark.parametrize("model", ["gpt-4o", "o3", "gpt-5.2"])
@pytest.mark.parametrize("name", ["repetition_penalty", "top_k"])
def test_what_openai_does_not_know_is_left_out(model, name):
    asked = call(model, messages=[], **{name: 1.03})
    rules = openai().rules(asked)
    fields, translation = translate(rules, asked, provider="openai", policy="drop")
    assert name not in fields
    assert translation.dropped == {name: "OpenAI has no such parameter"}


@pytest.mark.parametrize(
    ("model", "effort", "dropped"),
    [
        ("gpt-4o", "high", {"reasoning_effort": "this model does not reason"}),
        ("gpt-4o", "none", {}),
        ("o3", "high", {}),
        ("gpt-5.2", "high", {}),
    ],
)
def test_an_effort_goes_to_models_that_reason(model, effort, dropped):
    asked = call(model, messages=[], reasoning_effort=effort)
    rules = openai().rules(asked)
    fields, translation = translate(rules, asked, provider="openai", policy="drop")
    assert translation.dropped == dropped
    assert ("reasoning_effort" in fields) == (model != "gpt-4o")


def test_what_openai_knows_is_sent_as_it_came():
    assert openai().rules(call(messages=[], temperature=1.0)) is None


def test_a_proxy_may_know_it():
    config = OpenAIConfig(kind="openai", base_url="http://127.0.0.1:1/v1")
    provider = OpenAI("proxy", config, Transport(HttpLimits()))
    for name in ("repetition_penalty", "top_k", "reasoning_effort"):
        assert provider.rules(call(messages=[], **{name: 1})) is None
