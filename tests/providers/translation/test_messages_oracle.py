"""Messages that chat answers become, whole and streamed, as Anthropic's own package reads them."""

import json

import anthropic
import hypothesis
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import (
    Message,
    MessageTokensCount,
    RawMessageStreamEvent,
    message_count_tokens_params,
    message_create_params,
)
from chat_chunks import envelope
from hypothesis import strategies as st
from message_requests import CONVERSATION, HI, USER_CONTENTS, WEATHER
from message_streams import answers, call, chunk, events_of, usage_chunk, whole
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter
from raw_host import DONE, READ, framed, raw_host

from providers.http import sse
from providers.translation.fold import fold
from providers.translation.messages_answers import token_count
from providers.translation.messages_requests import to_chat

EVENT = TypeAdapter(RawMessageStreamEvent)
CREATE = TypeAdapter(message_create_params.MessageCreateParamsNonStreaming)
COUNT = TypeAdapter(message_count_tokens_params.MessageCountTokensParams)
CHAT = TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming)
EVENTS = b"content-type: text/event-stream\r\n"


def accumulated(events):
    """The message that Anthropic's own accumulator makes of a stream's events."""
    snapshot, buffers = None, {}
    for one in events:
        if one["type"] != "ping":
            read = EVENT.validate_python(one, strict=True)
            snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs=buffers)
    return snapshot


# The newest types of the package know no sampling parameters.
SAMPLING = ("temperature", "top_p", "top_k")


def test_the_requests_of_the_tests_are_anthropics():
    known = {name: value for name, value in CONVERSATION.items() if name not in SAMPLING}
    CREATE.validate_python(known, extra="forbid")
    COUNT.validate_python({"model": "m", "messages": HI, "tools": [WEATHER]}, extra="forbid")
    for content, _ in USER_CONTENTS:
        turns = [{"role": "user", "content": content}]
        CREATE.validate_python({"model": "m", "max_tokens": 1, "messages": turns}, extra="forbid")


def test_what_they_become_is_openais():
    chat = to_chat(envelope(**CONVERSATION), policy="error", host="lab")
    sent = {name: json.loads(bytes(value)) for name, value in chat.fields.items()}
    assert sent.pop("top_k") == 5
    CHAT.validate_python(sent, extra="forbid")


def test_a_count_of_tokens():
    assert MessageTokensCount.model_validate_json(token_count(7), strict=True).input_tokens == 7


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
INPUTS = st.dictionaries(
    st.text('abé\\"{}', max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | WORDS,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)


@st.composite
def chat_streams(draw):
    """The deltas of an answer: thoughts, text, then calls whose pieces may be interleaved."""
    deltas = [{"reasoning_content": word} for word in draw(st.lists(WORDS, max_size=3))]
    deltas += [{"content": word} for word in draw(st.lists(WORDS, max_size=3))]
    queues = []
    for index, given in enumerate(draw(st.lists(INPUTS, max_size=3))):
        text = json.dumps(given, ensure_ascii=draw(st.booleans()))
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        first = call(index, f"call_{index}", f"tool_{index}", pieces[0])
        queues.append([first, *(call(index, arguments=piece) for piece in pieces[1:])])
    if draw(st.booleans()):
        while any(queues):
            # A call begins after those before it.
            begun = [queue for queue in queues if queue]
            fresh = (n for n, queue in enumerate(begun) if "id" in queue[0]["tool_calls"][0])
            turn = draw(st.integers(0, next(fresh, len(begun) - 1)))
            deltas.append(begun[turn].pop(0))
    else:
        deltas += [delta for queue in queues for delta in queue]
    finish = draw(st.sampled_from(["stop", "tool_calls", "content_filter"]))
    chunks = [chunk({"role": "assistant", "content": ""}), *map(chunk, deltas), chunk({}, finish)]
    if draw(st.booleans()):
        chunks.append(usage_chunk(prompt_tokens=9, completion_tokens=3, total_tokens=12))
    return [*chunks, DONE]


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(chat_streams(), st.data())
def test_a_stream_is_what_the_whole_answer_is(chunks, data):
    told = answers()
    out = b"".join([told.feed(one) for one in chunks])
    events = events_of(out)
    assert_documented_order(events)
    # However the host's bytes are cut, the events are the same.
    stream_bytes = b"".join(chunks)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream_bytes)), max_size=5)))
    again, held, cut_out = answers(), b"", b""
    for start, end in zip([0, *cuts], [*cuts, len(stream_bytes)], strict=True):
        complete, held = sse.split_complete(held + stream_bytes[start:end])
        cut_out += again.feed(complete)
    assert cut_out + again.finish() == out
    # And they amount to the whole answer.
    folded = fold([json.loads(one[6:]) for one in chunks[:-1]]) | {"object": "chat.completion"}
    for choice in folded["choices"]:
        choice["message"] = choice.pop("delta")
    said = json.loads(answers().whole(json.dumps(folded).encode()))
    Message.model_validate(said, strict=True)
    streamed = accumulated(events).to_dict(exclude_none=True)
    assert streamed["content"] == said["content"]
    for name in ("id", "model", "role", "type", "stop_reason", "usage"):
        assert streamed[name] == said[name]


def assert_documented_order(events):
    kinds = [one["type"] for one in events if one["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    opened = -1
    is_open = signed = False
    for one in events[1:-2]:
        kind = one["type"]
        if kind == "content_block_start":
            assert not is_open
            opened, is_open, signed = opened + 1, True, False
            block = one["content_block"]["type"]
        elif kind == "content_block_delta":
            assert is_open
            assert not signed
            signed = one["delta"]["type"] == "signature_delta"
        else:
            assert kind == "content_block_stop"
            assert is_open
            assert signed == (block == "thinking")
            is_open = False
        assert one["index"] == opened
    assert not is_open


async def test_anthropics_client_reads_the_stream_from_a_socket():
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm."}),
        chunk({"content": "Sün."}),
        chunk(call(0, "a", "f", '{"b": [1, ')),
        chunk(call(0, arguments='{"c": "d"}]}')),
        chunk({}, "tool_calls"),
        usage_chunk(prompt_tokens=10, completion_tokens=5, total_tokens=15),
        DONE,
    ]
    told = answers()
    out = [told.feed(one) for one in chunks]
    with raw_host([READ, *framed(out, "chunked", headers=EVENTS)]) as host:
        client = anthropic.AsyncAnthropic(base_url=host.url, api_key="k", max_retries=0)
        async with client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as read:
            final = await read.get_final_message()
        await client.close()
    folded = {
        "content": "Sün.",
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"b":[1,{"c":"d"}]}'}}],
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    said = Message.model_validate(whole(folded, finish="tool_calls", usage=usage))
    assert final.to_dict(exclude_none=True) == said.to_dict(exclude_none=True)


def test_thoughts_and_refusals_are_anthropics():
    thought = {"type": "thinking", "thinking": "", "signature": "c2ln"}
    redacted = {"type": "redacted_thinking", "data": "eHg="}
    chunks = [
        chunk({"reasoning_content": "Hm."}),
        chunk({"thinking_blocks": [thought]}),
        chunk({"thinking_blocks": [redacted]}),
        chunk({"refusal": "No."}),
        chunk({}, "content_filter"),
    ]
    told = answers()
    events = events_of(told.feed(b"".join(chunks)) + told.finish())
    message = {
        "reasoning_content": "Hm.",
        "thinking_blocks": [thought | {"thinking": "Hm."}, redacted],
        "refusal": "No.",
    }
    said = Message.model_validate(whole(message, finish="content_filter"), strict=True)
    assert accumulated(events).to_dict(exclude_none=True) == said.to_dict(exclude_none=True)
    assert said.stop_details.explanation == "No."
