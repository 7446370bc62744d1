"""OpenAI's Responses API as chat completions: the requests."""

import json
from contextlib import suppress
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from chat_chunks import envelope, with_odd_values
from openai.types import ReasoningEffort
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses import ResponseIncludable, ResponseInputItemParam, ToolParam
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ToolChoice,
)
from pydantic import TypeAdapter

from providers.errors import RequestError
from providers.translation.responses_input import custom_arguments, signed_thoughts
from providers.translation.responses_requests import to_chat

CHAT = TypeAdapter(CompletionCreateParamsNonStreaming)

USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "4"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
IN_CHAT = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}, "strict": True},
}


def translated(policy="drop", *, takes_reasoning=False, **fields):
    fields = {"model": "tiny", "input": "Hi", **fields}
    request = to_chat(
        envelope(**fields), policy=policy, host="lab", takes_reasoning=takes_reasoning
    )
    return {name: json.loads(bytes(raw)) for name, raw in request.fields.items()}, request


def messages(*items, **more):
    return translated(input=list(items), **more)[0]["messages"]


def chat_call(identity="c1", name="f", arguments='{"a":1}'):
    return {
        "id": identity,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def said(text):
    return {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("Hi", [{"role": "user", "content": "Hi"}]),
        ([USER], [USER]),
        ([{"type": "message", **USER}], [USER]),
        ([{**USER, "content": [{"type": "input_text", "text": "Hi"}]}], [USER]),
        (
            [{**USER, "content": [{"type": "input_text", "text": t} for t in "ab"]}],
            [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}],
        ),
        ([{**USER, "content": []}], [{"role": "user", "content": ""}]),
        (
            [{**USER, "content": [{"type": "input_image", "file_id": "file_1"}]}],
            [{"role": "user", "content": ""}],
        ),
        (
            [{"role": "developer", "content": "Be brief."}, USER],
            [{"role": "system", "content": "Be brief."}, USER],
        ),
        (
            [USER, {"role": "system", "content": "a"}, {"role": "developer", "content": "b"}],
            [USER, {"role": "system", "content": "a"}, {"role": "system", "content": "b"}],
        ),
        ([USER, said("Ho")], [USER, {"role": "assistant", "content": "Ho"}]),
        (
            [USER, {"role": "assistant", "content": "Ho"}],
            [USER, {"role": "assistant", "content": "Ho"}],
        ),
        (
            [said("a"), said("b")],
            [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        (
            [{**said(""), "content": [{"type": "refusal", "refusal": "No."}]}],
            [{"role": "assistant", "content": "No."}],
        ),
        (
            [
                {
                    **said(""),
                    "content": [
                        {"type": "output_text", "text": "a"},
                        {"type": "refusal", "refusal": "b"},
                    ],
                }
            ],
            [{"role": "assistant", "content": "ab"}],
        ),
    ],
)
def test_messages(given, sent):
    assert translated(input=given)[0]["messages"] == sent


@pytest.mark.parametrize(
    ("part", "sent"),
    [
        (
            {"type": "input_image", "image_url": "https://e.test/a.png"},
            {"type": "image_url", "image_url": {"url": "https://e.test/a.png"}},
        ),
        (
            {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        ),
        (
            {"type": "input_image", "image_url": "u", "detail": "low", "file_id": None},
            {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
        ),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:x", "detail": "auto"},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x"}},
        ),
        (
            {"type": "input_file", "file_data": "data:x"},
            {"type": "file", "file": {"file_data": "data:x"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        ),
    ],
)
def test_images_files_and_sounds(part, sent):
    content = [{"type": "input_text", "text": "See"}, part]
    [message] = messages({"role": "user", "content": content})
    assert message["content"] == [{"type": "text", "text": "See"}, sent]
    assert translated(input=[{"role": "user", "content": content}])[1].translation.dropped == {}


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "input_image", "file_id": "file_1"}, "input_image.file_id"),
        ({"type": "input_file", "file_id": "file_1"}, "input_file.file_id"),
        ({"type": "input_file", "file_url": "https://e.test/a"}, "input_file.file_url"),
    ],
)
def test_files_that_are_elsewhere_are_left_out_or_refused(part, name):
    given = [{"role": "user", "content": [{"type": "input_text", "text": "See"}, part]}]
    for policy in ("drop", "pass"):
        fields, request = translated(policy, input=given)
        assert fields["messages"] == [{"role": "user", "content": "See"}]
        assert list(request.translation.dropped) == [f"input.content.{name}"]
    with pytest.raises(RequestError) as caught:
        translated("error", input=given)
    assert caught.value.param == f"input.content.{name}"
    assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("item", "converted", "dropped"),
    [
        ({**USER, "phase": "commentary"}, [], ["input.phase"]),
        ({**USER, "phase": None, "metadata": {}, "tags": [], "note": ""}, [], []),
        ({**USER, "id": "m", "status": "completed"}, [], []),
        (
            {
                **USER,
                "content": [
                    {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "x"}}
                ],
            },
            [],
            ["input.content.prompt_cache_breakpoint"],
        ),
        (
            {**USER, "content": [{"type": "input_file", "file_data": "x", "detail": "low"}]},
            [],
            ["input.content.detail"],
        ),
        (
            {
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "a", "annotations": [1], "logprobs": [2]}
                ],
            },
            ["input.content.annotations", "input.content.logprobs"],
            [],
        ),
        ({**CALL, "namespace": "n"}, [], ["input.function_call.namespace"]),
    ],
)
def test_names_that_a_chat_does_not_have_are_recorded(item, converted, dropped):
    items = [item, OUTPUT] if item.get("type") == "function_call" else [item]
    done = translated(input=items)[1].translation
    assert [name for name in done.converted if name != "input"] == converted
    assert list(done.dropped) == dropped


def test_instructions_and_the_first_system_messages_are_one():
    system = {"role": "system", "content": "b"}
    developer = {"role": "developer", "content": "c"}
    assert messages(USER, instructions="a") == [{"role": "system", "content": "a"}, USER]
    assert messages(system, developer, USER, instructions="a") == [
        {"role": "system", "content": "a\n\nb\n\nc"},
        USER,
    ]
    assert messages(system, USER, developer) == [system, USER, {**developer, "role": "system"}]
    image = {"type": "input_image", "image_url": "u"}
    shown = {"role": "system", "content": [image]}
    assert [m["role"] for m in messages(system, shown, system)] == ["system"] * 3
    assert messages(instructions="a") == [{"role": "system", "content": "a"}]
    assert messages(system, developer) == [{"role": "system", "content": "b\n\nc"}]
    assert messages(system) == [system]
    done = translated(input=[USER], instructions="a")[1].translation
    assert done.converted == {"instructions": "to a system message", "input": "to messages"}
    done = translated(input=[system, developer])[1].translation
    assert done.converted["input.role"] == "developer to system, its older name"


def test_calls_in_a_row_are_one_message_and_outputs_follow_it():
    second = {**CALL, "call_id": "c2"}
    answer = {"role": "tool", "tool_call_id": "c1", "content": "4"}
    assert messages(
        USER, said("Let me see."), CALL, second, {**OUTPUT, "call_id": "c2"}, OUTPUT
    ) == [
        USER,
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [chat_call(), chat_call("c2")],
        },
        {**answer, "tool_call_id": "c2"},
        answer,
    ]
    # Each call with its output is a turn of its own.
    assert [m["role"] for m in messages(CALL, OUTPUT, second, {**OUTPUT, "call_id": "c2"})] == [
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]
    # What was said after a call, and what came before its output, goes where a chat can have it.
    assert messages(said("a"), CALL, said("b"), USER, OUTPUT) == [
        {"role": "assistant", "content": "a\nb", "tool_calls": [chat_call()]},
        answer,
        USER,
    ]
    assert messages(CALL, OUTPUT)[0] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [chat_call()],
    }


def test_an_output_may_be_parts():
    texts = [{"type": "input_text", "text": "4"}]
    image = {"type": "input_image", "image_url": "u"}
    assert messages(CALL, {**OUTPUT, "output": texts})[1]["content"] == "4"
    assert messages(CALL, {**OUTPUT, "output": [*texts, image]})[1]["content"] == [
        {"type": "text", "text": "4"},
        {"type": "image_url", "image_url": {"url": "u"}},
    ]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([USER, OUTPUT], "No tool call found for function call output with call_id c1."),
        ([OUTPUT, CALL], "No tool call found for function call output with call_id c1."),
        ([USER, CALL], "No tool output found for function call c1."),
        (
            [CALL, {**CALL, "call_id": "c2"}, OUTPUT],
            "No tool output found for function call c2.",
        ),
        (
            [{"type": "custom_tool_call_output", "call_id": "c9", "output": "x"}],
            "No tool call found for custom tool call output with call_id c9.",
        ),
        (
            [{"type": "custom_tool_call", "call_id": "c9", "name": "f", "input": "x"}],
            "No tool output found for custom tool call c9.",
        ),
        (
            [{"type": "item_reference", "id": "msg_1"}],
            "Item with id 'msg_1' not found. Items are not stored for this model; send the item "
            "itself.",
        ),
        (
            [{"id": "msg_1"}],
            "Item with id 'msg_1' not found. Items are not stored for this model; send the item "
            "itself.",
        ),
    ],
)
def test_calls_without_outputs_and_the_like_are_refused_under_every_policy(items, message):
    for policy in ("drop", "pass", "error"):
        with pytest.raises(RequestError) as caught:
            translated(policy, input=items)
        assert (caught.value.message, caught.value.param) == (message, "input")


@pytest.mark.parametrize("kind", ["compaction", "compaction_summary"])
def test_a_compacted_conversation_is_refused(kind):
    with pytest.raises(RequestError, match="Only the host") as caught:
        translated(input=[USER, {"type": kind, "encrypted_content": "x"}])
    assert (caught.value.param, caught.value.code) == ("input[1]", "unsupported_parameter")


THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "s"}],
    "content": [{"type": "reasoning_text", "text": "a"}, {"type": "reasoning_text", "text": "b"}],
}


def test_thoughts_go_to_hosts_that_take_them():
    sent = [USER, THOUGHT, said("Ho"), CALL, OUTPUT]
    assistant = messages(*sent, takes_reasoning=True)[1]
    assert assistant == {
        "role": "assistant",
        "content": "Ho",
        "reasoning_content": "a\n\nb",
        "tool_calls": [chat_call()],
    }
    assert messages(*sent, policy="pass")[1] == assistant
    for policy in ("drop", "error"):
        fields, request = translated(policy, input=sent)
        assert "reasoning_content" not in fields["messages"][1]
        assert "takes no thoughts" in request.translation.converted["input.reasoning"]
        assert request.translation.dropped == {}


def test_thoughts_that_led_to_nothing_or_are_only_a_summary():
    assert messages(USER, THOUGHT, takes_reasoning=True) == [USER]
    summary = {**THOUGHT, "content": None}
    assert messages(summary, said("Ho"), takes_reasoning=True)[0]["reasoning_content"] == "s"
    two = messages(summary, summary, said("Ho"), takes_reasoning=True)
    assert two[0]["reasoning_content"] == "s\n\ns"
    empty = {"type": "reasoning", "id": "r", "summary": []}
    done = translated(input=[USER, empty])[1].translation
    assert "input.reasoning" not in {**done.converted, **done.dropped}


def test_signed_thoughts_return_as_they_came():
    blocks = [{"type": "thinking", "thinking": "a", "signature": "s"}]
    assert signed_thoughts(blocks).startswith("signed-thoughts.")
    item = {"type": "reasoning", "summary": [], "encrypted_content": signed_thoughts(blocks)}
    sent = messages(USER, item, item, said("Ho"), takes_reasoning=True)[1]
    assert sent == {"role": "assistant", "content": "Ho", "thinking_blocks": [*blocks, *blocks]}
    # A call that came before the thoughts, in the order of a stream.
    sent = messages(CALL, item, OUTPUT, takes_reasoning=True)[0]
    assert sent["thinking_blocks"] == blocks
    assert len(sent["tool_calls"]) == 1
    done = translated(input=[USER, item])[1].translation
    assert "takes no thoughts" in done.converted["input.reasoning"]


@pytest.mark.parametrize(
    "encrypted", ["gAAAA", "signed-thoughts.!", "signed-thoughts.e30=", "signed-thoughts.W10"]
)
def test_thoughts_of_another_host_are_left_out_with_a_record(encrypted):
    item = {"type": "reasoning", "summary": [], "encrypted_content": encrypted}
    for takes_reasoning in (False, True):
        request = translated(input=[USER, item], takes_reasoning=takes_reasoning)[1]
        assert list(request.translation.dropped) == ["input.reasoning"]
    with pytest.raises(RequestError):
        translated("error", input=[USER, item])


def type_names(shapes):
    """The values that these shapes may have as their `type`, by OpenAI's package."""
    names = set()
    for shape in shapes:
        hint = get_type_hints(shape)["type"]
        names |= {name for name in _literals(hint) if name is not None}
    return sorted(names)


def _literals(hint):
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return set().union(*(_literals(inner) for inner in get_args(hint) if inner is not type(None)))


READ_ITEMS = {
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "item_reference",
    "compaction",
}
OTHER_ITEMS = sorted({*type_names(get_args(ResponseInputItemParam))} - READ_ITEMS)


def test_openais_package_has_the_items_that_are_read():
    assert {*type_names(get_args(ResponseInputItemParam))} >= READ_ITEMS
    assert len(OTHER_ITEMS) > 20


@pytest.mark.parametrize("kind", OTHER_ITEMS)
def test_items_of_tools_that_openai_runs(kind):
    for policy in ("drop", "pass"):
        fields, request = translated(policy, input=[USER, {"type": kind, "id": "x"}])
        assert fields["messages"] == [USER]
        assert list(request.translation.dropped) == [f"input.{kind}"]
    with pytest.raises(RequestError) as caught:
        translated("error", input=[USER, {"type": kind, "id": "x"}])
    assert caught.value.param == f"input.{kind}"


# Tools


def test_function_tools():
    fields, request = translated(
        tools=[
            FUNCTION,
            {
                "type": "function",
                "name": "g",
                "description": "d",
                "parameters": None,
                "strict": None,
            },
        ],
        parallel_tool_calls=False,
    )
    assert fields["tools"] == [
        IN_CHAT,
        {"type": "function", "function": {"name": "g", "description": "d"}},
    ]
    assert fields["parallel_tool_calls"] is False
    assert request.translation.dropped == {}


@pytest.mark.parametrize(
    ("more", "dropped"),
    [
        ({"defer_loading": False, "allowed_callers": ["direct"], "output_schema": None}, []),
        ({"defer_loading": True}, ["tools.defer_loading"]),
        ({"allowed_callers": ["programmatic"]}, ["tools.allowed_callers"]),
        ({"output_schema": {"type": "object"}}, ["tools.output_schema"]),
    ],
)
def test_names_of_a_tool_that_a_chat_does_not_have(more, dropped):
    fields, request = translated(tools=[{**FUNCTION, **more}])
    assert fields["tools"] == [IN_CHAT]
    assert list(request.translation.dropped) == dropped


def test_tools_that_openai_runs():
    tools = [FUNCTION, {"type": "web_search"}, {"type": "mcp", "server_label": "x"}]
    fields, request = translated(tools=tools)
    assert fields["tools"] == [IN_CHAT]
    assert list(request.translation.dropped) == ["tools.web_search", "tools.mcp"]
    assert translated("pass", tools=tools)[0]["tools"] == [IN_CHAT, *tools[1:]]
    with pytest.raises(RequestError, match=r"lab cannot express tools.web_search") as caught:
        translated("error", tools=tools)
    assert caught.value.param == "tools.web_search"


@pytest.mark.parametrize(
    "kind", sorted({*type_names(get_args(ToolParam))} - {"function", "custom"})
)
def test_every_other_tool_of_openais_package_is_known(kind):
    request = translated(tools=[FUNCTION, {"type": kind}])[1]
    assert request.translation.dropped == {f"tools.{kind}": "chat completions have functions only"}


KNOWN_CHOICES = sorted(
    {*type_names(get_args(ToolChoice)[1:])} - {"function", "custom", "allowed_tools"}
)


@pytest.mark.parametrize("kind", KNOWN_CHOICES)
def test_every_other_choice_of_openais_package_is_known(kind):
    fields, request = translated(tools=[FUNCTION], tool_choice={"type": kind})
    assert "tool_choice" not in fields
    assert list(request.translation.dropped) == [f"tool_choice.{kind}"]


@pytest.mark.parametrize("included", get_args(ResponseIncludable))
def test_every_value_of_include_of_openais_package_is_known(included):
    request = translated("error", include=[included])[1]
    assert f"include.{included}" in request.translation.converted


@pytest.mark.parametrize(
    "name", sorted(get_type_hints(ResponseCreateParamsNonStreaming).keys() - {"model"})
)
def test_every_field_of_openais_package_is_known(name):
    """None passes as a field would that is the host's own."""
    passed = []
    with suppress(RequestError):
        passed = translated(**{name: {"odd": {}}})[1].translation.passed
    assert name not in passed


def test_without_tools_nothing_is_said_of_them():
    fields, request = translated(
        tools=[{"type": "web_search"}], tool_choice="auto", parallel_tool_calls=True
    )
    assert fields.keys() == {"model", "messages"}
    assert "no tools" in request.translation.converted["tool_choice"]
    assert "no tools" in request.translation.converted["parallel_tool_calls"]
    request = translated(tools=[{"type": "web_search"}], tool_choice="required")[1]
    assert "tool_choice" in request.translation.dropped


def test_custom_tools_are_functions_with_one_text():
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: A"}
    tool = {"type": "custom", "name": "patch", "description": "Patches.", "format": grammar}
    fields, request = translated(tools=[tool, {"type": "custom", "name": "bare"}])
    patch, bare = (tool["function"] for tool in fields["tools"])
    assert patch["description"] == (
        "Patches.\n\nThe input has to match this grammar (lark):\nstart: A"
    )
    assert patch["parameters"] == {
        "type": "object",
        "properties": {"input": {"type": "string", "description": "The tool's whole input."}},
        "required": ["input"],
        "additionalProperties": False,
    }
    assert bare.keys() == {"name", "parameters"}
    assert list(request.translation.dropped) == ["tools.custom.format"]
    assert "tools.custom" in request.translation.converted
    assert request.answers.args[0].custom_tools == {"patch", "bare"}
    bare = translated("error", tools=[{**tool, "format": {"type": "text"}}])[0]["tools"][0]
    assert bare["function"]["description"] == "Patches."
    no_words = {"type": "custom", "name": "patch", "format": grammar}
    [tool] = translated(tools=[no_words])[0]["tools"]
    assert tool["function"]["description"].startswith("The input has to match")
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a "b"'}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
    assert messages(call, output) == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [chat_call(name="patch", arguments=custom_arguments('a "b"'))],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    assert json.loads(custom_arguments('a "b"')) == {"input": 'a "b"'}
    done = translated("error", input=[{**call, "id": "ctc_1", "status": "completed"}, output])[1]
    assert done.translation.converted == {
        "input.custom_tool_call": "to a call of a function",
        "input": "to messages",
    }


@pytest.mark.parametrize(
    ("choice", "sent", "names"),
    [
        ("auto", "auto", "fg"),
        ("none", "none", "fg"),
        ("required", "required", "fg"),
        (
            {"type": "function", "name": "g"},
            {"type": "function", "function": {"name": "g"}},
            "fg",
        ),
        ({"type": "custom", "name": "g"}, {"type": "function", "function": {"name": "g"}}, "fg"),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "g"}, {"type": "image_generation"}],
            },
            "required",
            "g",
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, None, ""),
        ({"type": "web_search_preview"}, None, "fg"),
        (None, None, "fg"),
    ],
)
def test_tool_choice(choice, sent, names):
    tools = [FUNCTION, {"type": "custom", "name": "g"}]
    fields, request = translated(tools=tools, tool_choice=choice)
    assert fields.get("tool_choice") == sent
    assert [tool["function"]["name"] for tool in fields.get("tools", ())] == list(names)
    dropped = ["tool_choice.web_search_preview"] if "web" in str(choice) else []
    assert list(request.translation.dropped) == dropped


def test_a_choice_of_tools_that_are_passed_on():
    tools = [FUNCTION, {"type": "web_search"}, {"type": "mcp"}]
    choice = {"type": "web_search"}
    assert translated("pass", tools=tools, tool_choice=choice)[0]["tool_choice"] == choice
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [choice]}
    fields, _ = translated("pass", tools=tools, tool_choice=allowed)
    assert (fields["tools"], fields["tool_choice"]) == ([choice], "auto")


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "function", "name": "x"}, "tool_choice"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]},
            "tool_choice.tools",
        ),
    ],
)
def test_a_choice_of_a_tool_that_is_not_there(choice, param):
    with pytest.raises(RequestError, match="'x' not found in 'tools' parameter") as caught:
        translated(tools=[FUNCTION], tool_choice=choice)
    assert caught.value.param == param


# The other fields


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"max_output_tokens": 5}, {"max_tokens": 5}),
        (
            {"temperature": 0.5, "top_p": 1, "user": "u"},
            {"temperature": 0.5, "top_p": 1, "user": "u"},
        ),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, {"stream": True}),
        ({"stream_options": {"include_usage": True}}, {}),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"top_logprobs": 0}, {}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"include": ["reasoning.encrypted_content", "file_search_call.results"]}, {}),
        ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": {"type": "object"},
                        "strict": True,
                        "description": None,
                    }
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": None, "summary": "auto", "context": "auto"}}, {}),
        ({"reasoning": {"mode": "standard", "generate_summary": "concise"}}, {}),
        (
            {"prompt_cache_key": "k", "safety_identifier": "s"},
            {"prompt_cache_key": "k", "safety_identifier": "s"},
        ),
        (
            {"service_tier": "flex", "prompt_cache_retention": "24h"},
            {"service_tier": "flex", "prompt_cache_retention": "24h"},
        ),
        (
            {"store": True, "metadata": {"a": "b"}, "max_tool_calls": 3, "truncation": "disabled"},
            {},
        ),
        ({"background": False, "conversation": None, "previous_response_id": None}, {}),
        ({"temperature": None, "tools": None, "text": None, "n": None, "prompt": None}, {}),
        ({"n": 1, "moderation": None}, {}),
        (
            {"top_k": 5, "chat_template_kwargs": {"a": 1}},
            {"top_k": 5, "chat_template_kwargs": {"a": 1}},
        ),
    ],
)
def test_fields(fields, sent):
    got, request = translated("error", **fields)
    assert got == {"model": "tiny", "messages": [USER], **sent}
    assert request.translation.dropped == {}
    CHAT.validate_python({name: value for name, value in got.items() if name != "stream"})


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"truncation": "auto"}, "truncation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"prompt_cache_options": {"mode": "explicit"}}, "prompt_cache_options"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"budget": 3}}, "reasoning.budget"),
        ({"text": {"voice": "low"}}, "text.voice"),
    ],
)
def test_fields_that_a_chat_does_not_have(fields, name):
    got, request = translated(**fields)
    assert got.keys() == {"model", "messages"}
    assert list(request.translation.dropped) == [name]
    passed = translated("pass", **fields)[0]
    added = {name: value for name, value in passed.items() if name not in got}
    assert added == ({} if "." in name else fields)
    with pytest.raises(RequestError) as caught:
        translated("error", **fields)
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"response_format": {}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_what_has_no_place_is_refused_under_every_policy(fields, param):
    for policy in ("drop", "pass", "error"):
        with pytest.raises(RequestError) as caught:
            translated(policy, **fields)
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_a_parameter_that_has_moved_says_where():
    with pytest.raises(RequestError) as caught:
        translated(max_tokens=5)
    assert caught.value.message == (
        "Unsupported parameter: 'max_tokens'. In the Responses API, this parameter has moved to "
        "'max_output_tokens'."
    )


def test_the_names_of_a_call_and_its_output_lose_nothing():
    items = [{**CALL, "id": "fc_1", "status": "completed"}, {**OUTPUT, "id": "o", "name": "f"}]
    done = translated("error", input=[USER, *items])[1].translation
    assert done.converted == {"input": "to messages"}


def test_the_record_says_what_became_of_each_field():
    done = translated(max_output_tokens=5, temperature=1, top_k=2, reasoning={"effort": "low"})[1]
    assert done.translation.passed == ("temperature", "top_k")
    assert done.translation.renamed == {
        "max_output_tokens": "max_tokens",
        "reasoning.effort": "reasoning_effort",
    }
    assert done.translation.converted == {"input": "to messages"}


# Bad input

PART = {"type": "input_text", "text": "a"}


def content(*parts, role="user"):
    return {"input": [USER, {"role": role, "content": list(parts)}]}


BAD = {
    "invalid_type": [
        ({"input": [{"type": "reasoning", "summary": {}}]}, "input[0].summary"),
        ({"tools": ""}, "tools"),
        ({"input": 5}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [{"type": 3}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": None}]}, "input[0].content"),
        ({"input": [{"role": "assistant", "content": 1.5}]}, "input[0].content"),
        (content("a"), "input[1].content[0]"),
        (content({"type": "input_text", "text": True}), "input[1].content[0].text"),
        (
            content({"type": "output_text", "text": []}, role="assistant"),
            "input[1].content[0].text",
        ),
        (
            content({"type": "input_image", "image_url": {"url": "u"}}),
            "input[1].content[0].image_url",
        ),
        (
            content({"type": "input_image", "image_url": "u", "detail": 1}),
            "input[1].content[0].detail",
        ),
        (content({"type": "input_image", "file_id": 1}), "input[1].content[0].file_id"),
        (content({"type": "input_file", "file_data": 1}), "input[1].content[0].file_data"),
        (
            content({"type": "input_file", "file_data": "x", "filename": 1}),
            "input[1].content[0].filename",
        ),
        ({"input": [{**CALL, "call_id": None}]}, "input[0].call_id"),
        ({"input": [{**CALL, "name": 1}]}, "input[0].name"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"input": [CALL, {**OUTPUT, "output": {}}]}, "input[1].output"),
        ({"input": [{"type": "reasoning", "summary": "a"}]}, "input[0].summary"),
        ({"input": [{"type": "reasoning", "content": [1]}]}, "input[0].content[0]"),
        ({"input": [{"type": "reasoning", "encrypted_content": 1}]}, "input[0].encrypted_content"),
        ({"instructions": ["a"]}, "instructions"),
        ({"tools": {}}, "tools"),
        ({"tools": ["a"]}, "tools[0]"),
        ({"tools": [{**FUNCTION, "parameters": []}]}, "tools[0].parameters"),
        ({"tools": [{**FUNCTION, "strict": "yes"}]}, "tools[0].strict"),
        ({"tools": [{**FUNCTION, "description": 1}]}, "tools[0].description"),
        ({"tools": [{"type": "custom", "name": "f", "format": "text"}]}, "tools[0].format"),
        ({"tools": [{"type": "custom", "name": "f", "description": 1}]}, "tools[0].description"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"text": "json"}, "text"),
        ({"text": {"format": "json"}}, "text.format"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": "x"}}},
            "text.format.schema",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": 1}}},
            "text.format.strict",
        ),
        ({"reasoning": "low"}, "reasoning"),
        ({"reasoning": {"summary": True}}, "reasoning.summary"),
        ({"reasoning": {"mode": 1}}, "reasoning.mode"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": True}, "top_p"),
        ({"top_logprobs": 1.5}, "top_logprobs"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"include": "x"}, "include"),
        ({"include": [1]}, "include[0]"),
        ({"truncation": 1}, "truncation"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"store": "no"}, "store"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
        ({"background": "yes"}, "background"),
        ({"user": 5}, "user"),
    ],
    "missing_required_parameter": [
        ({"input": None}, "input"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"type": "message", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        (content(PART, {"text": "a"}), "input[1].content[1].type"),
        (content({"type": "input_text"}), "input[1].content[0].text"),
        (content({"type": "input_image"}), "input[1].content[0].image_url"),
        (content({"type": "input_file"}), "input[1].content[0].file_data"),
        (content({"type": "input_audio"}), "input[1].content[0].input_audio"),
        (
            content({"type": "input_audio", "input_audio": {"data": "a"}}),
            "input[1].content[0].input_audio.format",
        ),
        ({"input": [{"type": "function_call"}]}, "input[0].arguments"),
        ({"input": [CALL, {"type": "function_call_output", "call_id": "c1"}]}, "input[1].output"),
        ({"input": [{"type": "function_call_output", "output": ""}]}, "input[0].call_id"),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]}, "input[0].input"),
        ({"input": [{"type": "reasoning", "summary": [{}]}]}, "input[0].summary[0].text"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        (
            {
                "tools": [
                    {"type": "custom", "name": "f", "format": {"type": "grammar", "syntax": "lark"}}
                ]
            },
            "tools[0].format.definition",
        ),
        ({"tool_choice": {}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{}]}},
            "tool_choice.tools[0].type",
        ),
        ({"text": {"format": {}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ],
    "empty_array": [
        ({"input": []}, "input"),
    ],
    "invalid_value": [
        ({"input": [{"type": "mesage"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        (content({"type": "text", "text": "a"}), "input[1].content[0].type"),
        (content({"type": "output_text", "text": "a"}), "input[1].content[0].type"),
        (content(PART, role="assistant"), "input[1].content[0].type"),
        (
            {"input": [CALL, {**OUTPUT, "output": [{"type": "input_audio"}]}]},
            "input[1].output[0].type",
        ),
        ({"tools": [{"type": "functio"}]}, "tools[0].type"),
        (
            {"tools": [{"type": "custom", "name": "f", "format": {"type": "x"}}]},
            "tools[0].format.type",
        ),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.type"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "none", "tools": []}},
            "tool_choice.mode",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": {"generate_summary": "long"}}, "reasoning.generate_summary"),
        ({"include": ["x"]}, "include[0]"),
        ({"truncation": "some"}, "truncation"),
    ],
    "integer_above_max_value": [
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
    "integer_below_min_value": [
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
    ],
    "unknown_parameter": [
        ({"n": 2}, "n"),
    ],
}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [(fields, param, code) for code, rows in BAD.items() for fields, param in rows],
)
def test_what_does_not_have_the_form_of_openais_api(fields, param, code):
    with pytest.raises(RequestError) as caught:
        translated(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"input": 5},
            "Invalid type for 'input': expected one of a string or an array, but "
            "got an integer instead.",
        ),
        ({"input": None}, "Missing required parameter: 'input'."),
        (
            {"input": ["a"]},
            "Invalid type for 'input[0]': expected an object, but got a string instead.",
        ),
        (
            {"input": [{"role": "tool", "content": "a"}]},
            "Invalid value: 'tool'. Supported values are: 'assistant', "
            "'developer', 'system', and 'user'.",
        ),
        (
            {"input": [{"role": "assistant", "content": 1.5}]},
            "Invalid type for 'input[0].content': expected one of a string or an "
            "array, but got a decimal instead.",
        ),
        (
            content(PART, role="assistant"),
            "Invalid value: 'input_text'. Supported values are: 'output_text', and 'refusal'.",
        ),
        (
            content({"type": "input_text", "text": True}),
            "Invalid type for 'input[1].content[0].text': expected a string, but "
            "got a boolean instead.",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            "Missing required parameter: 'tools[0].name'.",
        ),
        (
            {"tool_choice": "any"},
            "Invalid value: 'any'. Supported values are: 'none', 'auto', and 'required'.",
        ),
        (
            {"temperature": "hot"},
            "Invalid type for 'temperature': expected a decimal, but got a string instead.",
        ),
        (
            {"top_logprobs": 21},
            "Invalid 'top_logprobs': integer above maximum value. Expected a value "
            "<= 20, but got 21 instead.",
        ),
        ({"n": 2}, "Unknown parameter: 'n'."),
        (
            {"tool_choice": 1},
            "Invalid type for 'tool_choice': expected one of a string or an object, but got an "
            "integer instead.",
        ),
        (
            {"tools": [{"type": "custom", "name": "f", "format": {"type": "grammar"}}]},
            "Missing required parameter: 'tools[0].format.syntax'.",
        ),
        (
            {"tool_choice": {"type": "allowed_tools"}},
            "Missing required parameter: 'tool_choice.mode'.",
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "custom"}],
                }
            },
            "Missing required parameter: 'tool_choice.tools[0].name'.",
        ),
        (
            {"metadata": {"a": 1}, "n": None},
            "Invalid type for 'metadata.a': expected a string, but got an integer instead.",
        ),
    ],
)
def test_errors_are_worded_as_openais(fields, message):
    with pytest.raises(RequestError) as caught:
        translated(**fields)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("fields", "supported"),
    [
        ({"input": [{"type": "x"}]}, type_names(get_args(ResponseInputItemParam))),
        ({"tools": [{"type": "x"}]}, type_names(get_args(ToolParam))),
        ({"tool_choice": {"type": "x"}}, type_names(get_args(ToolChoice)[1:])),
        ({"include": ["x"]}, get_args(ResponseIncludable)),
        ({"reasoning": {"effort": "x"}}, get_args(get_args(ReasoningEffort)[0])),
        ({"reasoning": {"summary": "x"}}, ["auto", "concise", "detailed"]),
        ({"text": {"verbosity": "x"}}, ["low", "medium", "high"]),
        ({"text": {"format": {"type": "x"}}}, ["text", "json_schema", "json_object"]),
        ({"truncation": "x"}, ["auto", "disabled"]),
    ],
)
def test_errors_name_what_openais_package_has(fields, supported):
    with pytest.raises(RequestError) as caught:
        translated(**fields)
    assert caught.value.message.startswith("Invalid value: 'x'. Supported values are: ")
    assert [name for name in supported if f"'{name}'" not in caught.value.message] == []


@pytest.mark.parametrize("effort", get_args(get_args(ReasoningEffort)[0]))
def test_every_effort_is_sent(effort):
    assert translated(reasoning={"effort": effort})[0]["reasoning_effort"] == effort


def test_an_input_is_required():
    with pytest.raises(RequestError, match="Missing required parameter: 'input'"):
        to_chat(envelope(model="tiny"), policy="drop", host="lab")


def test_what_is_no_json_or_nested_too_deeply():
    for raw in (b"[" * 100_000 + b"]" * 100_000, b"{", b'"\xff"'):
        with pytest.raises(RequestError) as caught:
            to_chat({"input": msgspec.Raw(raw)}, policy="drop", host="lab")
        assert (caught.value.param, caught.value.code) == ("input", "bad_json")


def test_a_thousand_items():
    items = []
    for number in range(500):
        items += [{**CALL, "call_id": f"c{number}"}, {**OUTPUT, "call_id": f"c{number}"}]
    assert len(messages(*items)) == 1000


def test_an_answer_shows_what_the_caller_resolved():
    request = to_chat(
        envelope(model="tiny", input="Hi"),
        policy="drop",
        host="lab",
        echo=envelope(previous_response_id="resp_1"),
    )
    body = b'{"choices": [{"message": {"content": "Ho"}}]}'
    assert json.loads(request.answers().whole(body))["previous_response_id"] == "resp_1"


FULL = {
    "instructions": "a",
    "input": [
        {"role": "developer", "content": "a"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a"},
                {"type": "input_image", "image_url": "u", "detail": "low"},
                {"type": "input_file", "filename": "f", "file_data": "x"},
                {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
            ],
        },
        {**THOUGHT, "encrypted_content": "signed-thoughts.W10="},
        said("a"),
        CALL,
        {**OUTPUT, "output": [{"type": "input_text", "text": "a"}]},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "a"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "a"},
    ],
    "tools": [
        FUNCTION,
        {
            "type": "custom",
            "name": "g",
            "format": {"type": "grammar", "syntax": "lark", "definition": "a"},
        },
        {"type": "mcp"},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "f"}],
    },
    "parallel_tool_calls": True,
    "text": {
        "format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True},
        "verbosity": "low",
    },
    "reasoning": {"effort": "low", "summary": "auto", "context": "auto", "mode": "standard"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 1,
    "temperature": 1,
    "max_output_tokens": 5,
    "max_tool_calls": 5,
    "metadata": {"a": "b"},
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "store": False,
    "background": False,
    "truncation": "auto",
    "user": "u",
    "model": "tiny",
}


def test_the_record_of_a_request_with_everything_in_it():
    request = to_chat(envelope(**FULL), policy="drop", host="lab", takes_reasoning=True)
    done = request.translation
    assert done.passed == ("top_logprobs", "temperature", "stream", "user", "parallel_tool_calls")
    assert done.renamed == {
        "text.verbosity": "verbosity",
        "reasoning.effort": "reasoning_effort",
        "max_output_tokens": "max_tokens",
    }
    assert done.converted == {
        "instructions": "to a system message",
        "input.role": "developer to system, its older name",
        "input.reasoning": "to the assistant's thoughts",
        "input.custom_tool_call": "to a call of a function",
        "input.system": "the first system messages joined into one",
        "input": "to messages",
        "text.format": "to response_format",
        "reasoning.summary": "the thoughts themselves, unabridged",
        "include.message.output_text.logprobs": "to logprobs",
        "max_tool_calls": "left out: it bounds calls of tools that OpenAI runs",
        "metadata": "left out: the answer has it",
        "store": "left out: responses are stored here, not at the host",
        "tools.custom": "to a function with one text, `input`",
        "tool_choice": "the tools that it does not allow are left out",
        "tools": "to functions of a chat",
    }
    assert done.dropped == {
        "truncation": "the host shortens no conversation",
        "tools.custom.format": "no host holds functions to a grammar",
        "tools.mcp": "chat completions have functions only",
    }
    quiet = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "top_logprobs": 0}
    quiet |= {"truncation": "disabled", "text": {"verbosity": "medium"}}
    anyway = "left out: the host does this anyway"
    assert translated("error", **quiet)[1].translation.converted == {
        "input": "to messages",
        "top_logprobs": anyway,
        "truncation": anyway,
        "text.verbosity": anyway,
        "tool_choice": "left out: the request has no tools",
        "parallel_tool_calls": "left out: the request has no tools",
    }


@pytest.mark.parametrize("policy", ["drop", "pass", "error"])
def test_a_value_of_another_kind_is_translated_or_refused(policy):
    refused = []
    for fields in with_odd_values(FULL):
        if not isinstance(fields, dict):
            continue
        try:
            request = to_chat(envelope(**fields), policy=policy, host="lab", takes_reasoning=True)
        except RequestError as error:
            refused.append(error.as_openai()["error"]["param"])
        else:
            assert json.loads(bytes(request.fields["messages"]))
    assert len(refused) > 300
    assert None not in refused
