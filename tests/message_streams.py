"""Chat answers and the messages that they become, for tests of the translation."""

import json
from itertools import count

import msgspec
from raw_host import event

from providers.http import sse
from providers.translation.messages_answers import AnswerFacts, MessageAnswers

SHOWN = AnswerFacts(model="m", shows_thoughts=True, stop_sequences=("END", "STOP"))
NO_USAGE = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}
EVENTS = b"content-type: text/event-stream\r\n"


def answers(facts=SHOWN, **more):
    """An attempt's, whose ids are numbered."""
    numbers = count(1)
    known = msgspec.structs.replace(facts, **more)
    return MessageAnswers(known, new_id=lambda prefix: f"{prefix}_{next(numbers)}")


def completion(message=None, **more):
    choice = {"index": 0, "message": message or {}, "finish_reason": more.pop("finish", "stop")}
    choice |= more.pop("choice", {})
    return json.dumps({"id": "chatcmpl-1", "model": "host", "choices": [choice], **more}).encode()


def whole(message=None, facts=SHOWN, **more):
    """The message of a whole answer."""
    return json.loads(answers(facts).whole(completion(message, **more)))


def chunk(delta=None, finish=None, **more):
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish} | more.pop("choice", {})
    return event({"id": "chatcmpl-1", "model": "host", "choices": [choice], **more})


def usage_chunk(**usage):
    return event({"choices": [], "usage": usage})


def call(index=None, identity=None, name=None, arguments=None):
    function = {"name": name, "arguments": arguments}
    piece = {"index": index, "id": identity}
    piece["function"] = {key: value for key, value in function.items() if value is not None}
    return {"tool_calls": [{key: value for key, value in piece.items() if value is not None}]}


def events_of(out):
    """The events of a stream."""
    events = []
    for one in sse.Parser().feed(out):
        data = json.loads(one.data)
        assert one.event == data["type"]
        events.append(data)
    return events


def feed(*chunks, facts=SHOWN, finish=True):
    told = answers(facts)
    out = b"".join([told.feed(one) for one in chunks])
    return events_of(out + (told.finish() if finish else b""))


def outline(events):
    """The events in short, such as `1 text_delta a`."""
    lines = []
    for one in events:
        match one:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                lines.append(f"{index} {block['type']}")
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                *_, value = delta.values()
                lines.append(f"{index} {delta['type']} {value}")
            case {"type": "content_block_stop", "index": index}:
                lines.append(f"{index} stop")
            case {"type": kind}:
                lines.append(kind)
    return lines


def accumulated(events):
    """The blocks that a stream's events amount to."""
    blocks, arguments = [], {}
    for one in events:
        match one:
            case {"type": "content_block_start", "content_block": block}:
                blocks.append(dict(block))
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                kind, [(name, value)] = (
                    delta["type"],
                    [(k, v) for k, v in delta.items() if k != "type"],
                )
                if kind == "input_json_delta":
                    arguments[index] = arguments.get(index, "") + value
                else:
                    blocks[index][name] += value
            case {"type": "content_block_stop", "index": index} if index in arguments:
                blocks[index]["input"] = json.loads(arguments[index])
    return blocks
