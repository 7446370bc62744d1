"""The rules of translation, and streams between whole answers and pieces, by property."""

import json

import msgspec
import pytest
from hosts import call
from hypothesis import given, settings
from hypothesis import strategies as st

from providers import wire
from providers.anthropic_answers import MessagesRewriter
from providers.base import BytesReply, Translation
from providers.compatible import _GROQ
from providers.errors import RequestError, UpstreamProtocolError
from providers.gemini import _CHAT as GEMINI
from providers.gemini import ToolCallsRewriter
from providers.http import sse
from providers.mistral import _CHAT as MISTRAL
from providers.mistral import _Answers
from providers.translation.fold import fold, unfold
from providers.translation.rewrite import RewrittenReply
from providers.translation.translate import OMIT, Rules, translate

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "seed",
        "n",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "stream_options",
        "store",
        "user",
        "tool_choice",
        "temperature",
        "x_new",
    ]
)
RULES = {"mistral": MISTRAL, "groq": _GROQ, "gemini": GEMINI}


def run(rules, policy="drop", supported=frozenset(), **fields):
    sent, done = translate(rules, call(**fields), provider="it", policy=policy, supported=supported)
    return {name: msgspec.json.decode(wire.encode(value)) for name, value in sent.items()}, done


@pytest.mark.parametrize("name", RULES)
@given(fields=st.dictionaries(NAMES, JSON), policy=st.sampled_from(["drop", "pass"]))
def test_no_field_is_lost_without_a_word(name, fields, policy):
    sent, done = run(RULES[name], policy, **fields)
    for field, value in fields.items():
        told = [
            field in done.passed,
            field in done.renamed,
            any(one.split(".")[0] == field for one in done.converted),
            any(one.split(".")[0] == field for one in done.dropped),
        ]
        assert any(told), field
        if field in done.passed:
            assert sent[field] == value
        if field in done.renamed:
            assert sent[done.renamed[field]] == value
    assert sent["messages"] == [{"role": "user", "content": "hi"}]
    if policy == "pass":
        assert done.dropped == {}


@pytest.mark.parametrize("name", RULES)
@given(fields=st.dictionaries(NAMES, JSON))
def test_refusing_is_the_same_as_dropping_something(name, fields):
    _, done = run(RULES[name], "drop", **fields)
    if done.dropped:
        with pytest.raises(RequestError) as refused:
            run(RULES[name], "error", **fields)
        assert refused.value.param == next(iter(done.dropped))
        assert refused.value.status == 400
    else:
        assert run(RULES[name], "error", **fields)[1] == done


@given(raw=st.sampled_from([b'{"a": 1.50}', b"1e400", b'"\\u00e9"', b"[ ]"]))
def test_what_passes_keeps_its_bytes(raw):
    asked = call()
    asked = msgspec.structs.replace(asked, envelope={**asked.envelope, "stop": msgspec.Raw(raw)})
    sent, _ = translate(MISTRAL, asked, provider="it", policy="error")
    assert bytes(sent["stop"]) == raw


def test_both_names_of_one_field():
    sent, done = run(MISTRAL, max_tokens=5, max_completion_tokens=6)
    assert sent["max_tokens"] == 5
    assert done.converted == {
        "max_completion_tokens": "left out: the request says max_tokens as well"
    }


def test_a_converter_may_leave_a_field_out():
    def leave(value, edits):
        edits.convert("a", "not needed")
        return OMIT

    sent, done = run(Rules(convert={"a": leave}), a=1, b=2)
    assert sent.keys() == {"messages", "b", "model"}
    assert done.converted == {"a": "not needed"}


def test_supported_names_are_sent_in_every_policy():
    sent, done = run(MISTRAL, "error", frozenset({"logprobs"}), logprobs=True)
    assert sent["logprobs"] is True
    assert done.dropped == {}


def test_a_field_that_is_no_json_is_the_clients_mistake():
    asked = call()
    asked = msgspec.structs.replace(asked, envelope={"messages": msgspec.Raw(b"[{]")})
    with pytest.raises(RequestError) as refused:
        translate(MISTRAL, asked, provider="it", policy="drop")
    assert refused.value.code == "bad_json"


def test_a_record_is_small_in_json():
    assert wire.encode(Translation()) == b"{}"


# Streams

PIECES = st.lists(st.text(max_size=6), min_size=1, max_size=5)
TOOL_CALLS = st.lists(
    st.builds(
        lambda name, arguments: {
            "id": f"id{name}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        },
        st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1, max_size=5),
        st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    ),
    min_size=1,
    max_size=3,
)


@given(
    content=st.none() | st.text(max_size=30),
    calls=st.none() | TOOL_CALLS,
    reasoning=st.none() | st.text(min_size=1, max_size=10),
    finish=st.sampled_from(["stop", "length", "tool_calls"]),
    n=st.integers(1, 3),
    usage=st.booleans(),
)
def test_unfolded_and_folded_again_is_the_same(content, calls, reasoning, finish, n, usage):
    message = {"role": "assistant", "content": content}
    if calls is not None:
        message["tool_calls"] = calls
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    whole = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": i,
                "message": message,
                "finish_reason": finish,
                "logprobs": {"content": [{"token": "a", "logprob": -1.0}]},
            }
            for i in range(n)
        ],
    }
    if usage:
        whole["usage"] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    events = sse.Parser().feed(b"".join(unfold(whole, include_usage=usage)))
    assert events[-1].data == b"[DONE]"
    again = fold(msgspec.json.decode(event.data) for event in events[:-1])
    assert again == whole


@given(text=st.text(max_size=30))
def test_text_completions_too(text):
    whole = {
        "id": "1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}],
    }
    events = sse.Parser().feed(b"".join(unfold(whole, include_usage=False)))
    assert fold(msgspec.json.decode(event.data) for event in events[:-1]) == whole


def anthropic_stream(texts, thoughts):
    yield {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {}}}
    for index, (kind, pieces) in enumerate((("thinking", thoughts), ("text", texts))):
        block = {"type": kind, kind: ""}
        yield {"type": "content_block_start", "index": index, "content_block": block}
        for piece in pieces:
            delta = {"type": f"{kind}_delta", kind: piece}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    usage = {"output_tokens": 3}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    yield {"type": "message_stop"}


def openai_stream(texts, thoughts):
    for field, pieces in (("reasoning", thoughts), ("content", texts)):
        for piece in pieces:
            choice = {"index": 0, "delta": {field: piece}, "finish_reason": None}
            yield {"id": "1", "choices": [choice]}
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield {"id": "1", "choices": [choice], "usage": {"total_tokens": 1}}


REWRITERS = {
    "anthropic": (anthropic_stream, lambda: MessagesRewriter("it", created=1, include_usage=True)),
    "mistral": (
        openai_stream,
        lambda: _Answers("it", call(stream_options={"include_usage": True})),
    ),
    "gemini": (openai_stream, ToolCallsRewriter),
}


async def rewritten(name, pieces):
    async def body():
        for piece in pieces:
            yield piece

    reply = RewrittenReply(BytesReply(body()), REWRITERS[name][1](), Translation())
    return b"".join([chunk async for chunk in reply.chunks()])


@pytest.mark.parametrize("name", REWRITERS)
@settings(deadline=None)
@given(texts=PIECES, thoughts=PIECES, data=st.data(), newline=st.sampled_from(["\n", "\r\n", "\r"]))
async def test_any_split_of_the_bytes_gives_the_same_events(name, texts, thoughts, data, newline):
    made = REWRITERS[name][0](texts, thoughts)
    events = [json.dumps(event, ensure_ascii=False) for event in made]
    if name != "anthropic":
        events.append("[DONE]")
    body = "".join(f"data: {event}{newline}{newline}" for event in events).encode(
        "utf-8", "surrogatepass"
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    try:
        whole = await rewritten(name, [body])
    except UpstreamProtocolError:
        with pytest.raises(UpstreamProtocolError):
            await rewritten(name, pieces)
        return
    # Comments may come at other places; they say nothing.
    assert sse.Parser().feed(await rewritten(name, pieces)) == sse.Parser().feed(whole)
    said = fold(
        msgspec.json.decode(event.data)
        for event in sse.Parser().feed(whole)
        if event.data != b"[DONE]"
    )
    delta = said["choices"][0]
    delta = delta.get("message") or delta["delta"]
    assert (delta.get("content") or "") == "".join(texts)


@pytest.mark.parametrize("name", REWRITERS)
@given(body=st.binary(max_size=200), data=st.data())
@settings(deadline=None)
async def test_any_bytes_at_all_end_in_events_or_in_our_error(name, body, data):
    cut = data.draw(st.integers(0, len(body)))
    outcomes = []
    for pieces in ([body], [body[:cut], body[cut:]]):
        try:
            outcomes.append(sse.Parser().feed(await rewritten(name, pieces)))
        except UpstreamProtocolError as error:
            outcomes.append(error.message)
    assert outcomes[0] == outcomes[1]


async def test_keep_alives_stay():
    found = await rewritten("gemini", [b": hello\n\n", b"data: [DONE]\n\n"])
    assert found == b": keep-alive\n\n" + sse.DONE
