"""Requests to Anthropic's Messages API as chat requests."""

import json

import msgspec
import pytest
from message_requests import (
    CLAUDE_CODE,
    CONVERSATION,
    HI,
    MARK,
    PDF,
    PIXEL,
    USER_CONTENTS,
    WEATHER,
    assistant,
    result,
    text,
    use,
    user,
)
from message_streams import call, completion

from providers.errors import RequestError
from providers.translation.messages_input import has_unsigned, without_unsigned
from providers.translation.messages_requests import to_chat
from providers.translation.translate import Edits


def raw(fields):
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}


def chat_of(policy="error", *, takes_reasoning=False, counting=False, **fields):
    """The chat request's fields and the record, for fields beside those that are required."""
    least = {"messages": HI} if counting else {"messages": HI, "max_tokens": 50}
    chat = to_chat(
        raw({**least, **fields}),
        policy=policy,
        host="lab",
        takes_reasoning=takes_reasoning,
        counting=counting,
    )
    sent = {name: json.loads(bytes(value)) for name, value in chat.fields.items()}
    return sent, chat.translation


def messages_of(*messages, **options):
    sent, done = chat_of(messages=list(messages), **options)
    return sent["messages"], done


def test_a_whole_conversation():
    sent, done = chat_of(**CONVERSATION)
    assert sent == {
        "model": "m",
        "max_tokens": 50,
        "messages": [
            {"role": "system", "content": "Be brief.\nIn English."},
            {
                "role": "user",
                "content": [
                    text("Look:"),
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}},
                ],
            },
            {
                "role": "assistant",
                "content": "I see.",
                "tool_calls": [
                    {
                        "id": identity,
                        "type": "function",
                        "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'},
                    }
                    for identity, city in (("a", "Oslo"), ("b", "Rome"))
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "sun"},
            {"role": "tool", "tool_call_id": "b", "content": "rain\nall day"},
            {"role": "user", "content": "Which?"},
            {"role": "system", "content": "Be kind."},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "It.",
                    "parameters": WEATHER["input_schema"],
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "user": "ada",
        "reasoning_effort": "high",
    }
    assert done.passed == ("max_tokens", "temperature", "top_p", "top_k")
    assert done.renamed == {"stop_sequences": "stop", "metadata.user_id": "user"}
    assert done.converted == {
        "system": "to a system message",
        "messages": "to chat messages",
        "cache_control": "left out: it has no effect on the answer",
        "tools": "to functions",
        "tools.cache_control": "left out: it has no effect on the answer",
        "tool_choice": "to tool_choice of chat completions",
        "tool_choice.disable_parallel_tool_use": "to parallel_tool_calls",
        "output_config.effort": "to reasoning_effort",
    }
    assert done.dropped == {}


def test_claude_codes_requests_go_through():
    sent, done = chat_of("drop", **CLAUDE_CODE)
    assert set(done.dropped) == {"context_management"}
    assert done.converted == {
        "system": "to a system message",
        "messages": "to chat messages",
        "cache_control": "left out: it has no effect on the answer",
        "tools": "to functions",
        "tools.defer_loading": "left out: every tool is sent at once",
        "metadata.user_id": "to user, its SHA-256: it is too long",
        "output_config.effort": "to reasoning_effort",
        "thinking": "left out: the host decides how much its model thinks",
    }
    assert sent["messages"] == [
        {
            "role": "system",
            "content": f"{CLAUDE_CODE['system'][0]['text']}\nYou are an agent.\nUse the tools.",
        },
        {
            "role": "user",
            "content": "<system-reminder>\nNotes.\n</system-reminder>\nRun echo forty-two",
        },
        {"role": "system", "content": "# Environment"},
        {
            "role": "assistant",
            "content": "I run it.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "Bash", "arguments": '{"command":"echo forty-two"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "forty-two"},
    ]
    assert [tool["function"]["name"] for tool in sent["tools"]] == [
        *("Bash", "DeferredToolPlaceholder")
    ]
    assert (sent["reasoning_effort"], sent["max_tokens"], sent["stream"]) == ("high", 32000, True)
    assert len(sent["user"]) == 64
    assert set(sent) == {
        *("model", "messages", "tools", "user", "max_tokens", "reasoning_effort", "stream")
    }


def test_the_fields_of_one_that_counts():
    given = {"model": "m", "messages": HI, "system": "Be brief.", "tools": [WEATHER]}
    sent, _ = chat_of(counting=True, **given)
    assert list(sent) == ["messages", "model", "tools"]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(("given", "sent"), USER_CONTENTS)
def test_what_users_say(given, sent):
    messages, done = messages_of({"role": "user", "content": given})
    assert messages == [{"role": "user", "content": sent}]
    assert done.dropped == {}
    texts = [
        f"messages.content.{block['type']}"
        for block in (given if isinstance(given, list) else ())
        if block["type"] == "search_result"
        or (block["type"] == "document" and block["source"]["type"] in ("text", "content"))
    ]
    assert done.converted == {"messages": "to chat messages", **dict.fromkeys(texts, "to text")}


def test_a_run_of_messages_of_one_role_is_one_turn():
    messages, _ = messages_of(
        {"role": "user", "content": "a"},
        user(text("b"), {"type": "image", "source": PIXEL}),
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
        assistant(text("e"), use("x")),
        assistant(use("y")),
        user(result("y")),
        user(text("f"), result("x")),
    )
    assert [message["role"] for message in messages] == [
        *("user", "assistant", "tool", "tool", "user")
    ]
    assert [part.get("text") for part in messages[0]["content"]] == ["a", "b", None, "c"]
    assert messages[1]["content"] == "de"
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["x", "y"]
    assert [message["tool_call_id"] for message in messages[2:4]] == ["y", "x"]
    assert messages[4]["content"] == "f"


def test_a_call_without_words_has_no_content():
    messages, _ = messages_of(*HI, assistant(use()), user(result()))
    assert messages[1]["content"] is None
    assert len(messages) == 3


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (result(), "sun"),
        ({"type": "tool_result", "tool_use_id": "t1"}, ""),
        (result(content=[]), ""),
        (result(content=[text("a"), text("b")]), "a\nb"),
        (result(content="no such city", is_error=True), "Error: no such city"),
        (result(content="Error: none", is_error=True), "Error: none"),
        (result(content="<tool_use_error>none", is_error=True), "<tool_use_error>none"),
        (result(content="sun", is_error=False), "sun"),
        (result(content=[{"type": "tool_reference", "tool_name": "news"}]), "news"),
    ],
)
def test_results_of_tools(given, sent):
    messages, done = messages_of(*HI, assistant(use()), user(given))
    assert messages[2:] == [{"role": "tool", "tool_call_id": "t1", "content": sent}]
    assert ("messages.content.tool_result.is_error" in done.converted) == sent.startswith(
        "Error: no such"
    )


def test_pictures_of_results_follow_in_the_users_message():
    picture = {"type": "image", "source": PIXEL}
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    messages, done = messages_of(
        *HI,
        assistant(use("a"), use("b"), use("c")),
        user(result("a", [picture]), result("b", [text("two"), picture]), result("c"), text("So?")),
    )
    assert [message["content"] for message in messages[2:5]] == [
        *("The result is in the next message.", "two", "sun")
    ]
    assert messages[5:] == [
        {
            "role": "user",
            "content": [
                *(text("Result of the call a:"), url),
                *(text("Result of the call b:"), url),
                text("So?"),
            ],
        }
    ]
    assert "moved" in done.converted["messages.content.tool_result"]
    messages, _ = messages_of(*HI, assistant(use("a")), user(result("a", [picture])))
    assert messages[3:] == [{"role": "user", "content": [text("Result of the call a:"), url]}]


THOUGHTS = [
    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "eHg="},
    {"type": "thinking", "thinking": "So.", "signature": ""},
]


def test_thoughts_go_to_hosts_that_take_them():
    turns = (*HI, assistant(*THOUGHTS, text("Yes.")), *HI)
    messages, done = messages_of(*turns, policy="drop")
    assert messages[1] == {"role": "assistant", "content": "Yes."}
    why = "the host takes no earlier thoughts"
    assert done.dropped == {
        "messages.content.thinking": why,
        "messages.content.redacted_thinking": why,
    }
    with pytest.raises(RequestError) as refused:
        messages_of(*turns)
    assert refused.value.code == "unsupported_parameter"
    for options in ({"takes_reasoning": True}, {"policy": "pass"}):
        messages, done = messages_of(*turns, **options)
        assert messages[1] == {
            "role": "assistant",
            "content": "Yes.",
            "thinking_blocks": THOUGHTS[:2],
            "reasoning_content": "So.",
        }
        assert done.dropped == {}


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 4095}, "low"),
        ({"type": "enabled", "budget_tokens": 4096}, "medium"),
        ({"type": "enabled", "budget_tokens": 16_383}, "medium"),
        ({"type": "enabled", "budget_tokens": 16_384}, "high"),
        ({"type": "adaptive"}, None),
        ({"type": "between_tools"}, None),
        ({"type": "disabled"}, None),
        (None, None),
    ],
)
def test_budgets_are_efforts(thinking, effort):
    sent, done = chat_of(thinking=thinking)
    assert sent.get("reasoning_effort") == effort
    assert done.dropped == {}
    assert ("thinking" in done.converted) == (thinking is not None)
    sent, _ = chat_of(thinking=thinking, output_config={"effort": "max"})
    assert sent["reasoning_effort"] == "max"


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_answers_by_a_schema(name):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form = {"type": "json_schema", "schema": schema}
    value = {"format": form, "effort": None} if name == "output_config" else form
    sent, done = chat_of(**{name: value})
    place = "output_config.format" if name == "output_config" else name
    assert done.converted[place] == "to response_format"
    assert sent["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema},
    }
    schema["additionalProperties"] = False
    sent, _ = chat_of(**{name: value})
    assert sent["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    ("schema", "taken"),
    [
        ({"type": "object", "additionalProperties": False}, True),
        ({"type": "object"}, False),
        ({"type": "object", "additionalProperties": True}, False),
        (
            {
                "type": "object",
                "additionalProperties": False,
                "properties": {"a": {}},
                "required": "a",
            },
            False,
        ),
        (
            {
                "type": "object",
                "additionalProperties": False,
                "properties": {"a": {"type": "array", "items": {"type": "object"}}},
                "required": ["a"],
            },
            False,
        ),
        ({"anyOf": [{"type": "string"}, {"properties": {}}]}, False),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, True),
    ],
)
def test_strict_tools(schema, taken):
    tool = {**WEATHER, "input_schema": schema, "strict": True}
    sent, done = chat_of(tools=[tool])
    assert sent["tools"][0]["function"].get("strict") == (True if taken else None)
    assert ("tools.strict" in done.converted) != taken
    sent, _ = chat_of(tools=[{**tool, "strict": False}])
    assert "strict" not in sent["tools"][0]["function"]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "auto", "disable_parallel_tool_use": False}, "auto"),
        (None, None),
    ],
)
def test_choices_of_a_tool(choice, sent):
    chat, _ = chat_of(tools=[WEATHER], tool_choice=choice)
    assert chat.get("tool_choice") == sent
    assert "parallel_tool_calls" not in chat
    chat, done = chat_of(tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert not {"tool_choice", "parallel_tool_calls", "tools"} & chat.keys()
    assert done.converted["tool_choice"] == "left out: the request has no tools"


@pytest.mark.parametrize(
    ("kind", "name", "required"),
    [
        ("bash_20250124", "bash", []),
        ("text_editor_20250728", "str_replace_based_edit_tool", ["command", "path"]),
        ("memory_20250818", "memory", ["command"]),
        ("computer_20251124", "computer", ["action"]),
    ],
)
def test_tools_that_anthropics_clients_run_become_functions(kind, name, required):
    sent, done = chat_of(tools=[{"type": kind, "name": name}])
    [tool] = sent["tools"]
    assert tool["function"]["name"] == name
    assert tool["function"]["parameters"]["required"] == required
    assert tool["function"]["description"].endswith(".")
    words = "to a function with the input of Anthropic's tool"
    assert done.converted[f"tools.{kind}"] == words


def test_what_concerns_a_tool_alone_at_anthropics():
    tool = {
        **WEATHER,
        "type": "custom",
        "defer_loading": True,
        "eager_input_streaming": True,
        "allowed_callers": ["direct"],
        "description": None,
    }
    sent, done = chat_of(tools=[tool])
    assert set(sent["tools"][0]["function"]) == {"name", "parameters"}
    assert {"tools.defer_loading", "tools.eager_input_streaming"} < set(done.converted)
    _, done = chat_of("drop", tools=[{**tool, "input_examples": [{"city": "Oslo"}]}])
    assert set(done.dropped) == {"tools.input_examples"}


def test_long_names_of_tools_are_shortened_everywhere():
    long = "mcp__" + "x" * 80
    sent, done = chat_of(
        tools=[{**WEATHER, "name": long}],
        tool_choice={"type": "tool", "name": long},
        messages=[*HI, assistant(use(name=long)), user(result())],
    )
    short = sent["tools"][0]["function"]["name"]
    assert len(short) == 64
    assert short.startswith("mcp__xxx")
    assert sent["tool_choice"]["function"]["name"] == short
    assert sent["messages"][1]["tool_calls"][0]["function"]["name"] == short
    assert "tools.name" in done.converted
    other, _ = chat_of(tools=[{**WEATHER, "name": long + "y"}])
    assert other["tools"][0]["function"]["name"] != short
    kept, _ = chat_of(tools=[{**WEATHER, "name": "x" * 64}])
    assert kept["tools"][0]["function"]["name"] == "x" * 64


def test_a_long_user_is_a_digest():
    sent, done = chat_of(metadata={"user_id": "u" * 65})
    assert len(sent["user"]) == 64
    assert "SHA-256" in done.converted["metadata.user_id"]
    sent, _ = chat_of(metadata={"user_id": "u" * 64})
    assert sent["user"] == "u" * 64
    sent, _ = chat_of(metadata={"user_id": None})
    assert "user" not in sent


NO_FILES = "files of Anthropic's are not at hand elsewhere"
REASONS = {
    "container": "containers are Anthropic's",
    "context_management": "chat completions edit no context",
    "inference_geo": "chat completions name no place",
    "max_tokens": "0 fills Anthropic's prompt cache only",
    "mcp_servers": "chat completions call no MCP servers",
    "messages.content.container_upload": "chat completions have no such block",
    "messages.content.document.citations": "chat answers cite nothing",
    "messages.content.document.file": NO_FILES,
    "messages.content.document.url": "chat completions take the bytes of a document, not its URL",
    "messages.content.image.file": NO_FILES,
    "messages.content.search_result.citations": "chat answers cite nothing",
    "messages.content.server_tool_use": "chat completions have no such block",
    "messages.name": "messages have no such field",
    "messages.prefill": "the host may answer anew instead of going on with the last message",
    "metadata.project": "the Messages API has user_id only",
    "output_config.task_budget": "chat completions have no such choice",
    "speed": "chat completions have no such choice",
    "tools.computer_toolset_20260801": "Anthropic runs this tool, or knows alone how it is used",
    "tools.web_search_20250305": "Anthropic runs this tool, or knows alone how it is used",
    "unheard_of": "chat completions have no such field",
    "user_profile_id": "profiles of users are Anthropic's",
}


@pytest.mark.parametrize(
    ("fields", "dropped"),
    [
        ({"container": "c"}, "container"),
        ({"context_management": {"edits": [{"type": "x"}]}}, "context_management"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"speed": "fast"}, "speed"),
        ({"user_profile_id": "u"}, "user_profile_id"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"metadata": {"project": "x"}}, "metadata.project"),
        ({"max_tokens": 0}, "max_tokens"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools.web_search_20250305",
        ),
        (
            {"tools": [{"type": "computer_toolset_20260801"}]},
            "tools.computer_toolset_20260801",
        ),
        ({"messages": [*HI, {"role": "assistant", "content": "The"}]}, "messages.prefill"),
        ({"messages": [{**HI[0], "name": "ada"}]}, "messages.name"),
        ({"messages": [user({"type": "container_upload"})]}, "messages.content.container_upload"),
        (
            {"messages": [*HI, assistant({"type": "server_tool_use"}), *HI]},
            "messages.content.server_tool_use",
        ),
        (
            {
                "messages": [
                    user({"type": "image", "source": {"type": "file", "file_id": "file_1"}})
                ]
            },
            "messages.content.image.file",
        ),
        (
            {
                "messages": [
                    user({"type": "document", "source": {"type": "file", "file_id": "file_1"}})
                ]
            },
            "messages.content.document.file",
        ),
        (
            {
                "messages": [
                    user({"type": "document", "source": {"type": "url", "url": "https://x.org"}})
                ]
            },
            "messages.content.document.url",
        ),
        (
            {
                "messages": [
                    user({"type": "document", "source": PDF, "citations": {"enabled": True}})
                ]
            },
            "messages.content.document.citations",
        ),
        (
            {
                "messages": [
                    user(
                        {
                            "type": "search_result",
                            "source": "s",
                            "title": "t",
                            "content": [],
                            "citations": {"enabled": True},
                        }
                    )
                ]
            },
            "messages.content.search_result.citations",
        ),
    ],
)
def test_what_chat_completions_cannot_express(fields, dropped):
    with pytest.raises(RequestError) as refused:
        chat_of(**fields)
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param == dropped
    why = REASONS[dropped]
    assert refused.value.message.startswith(f"lab cannot express {dropped} ({why}). ")
    sent, done = chat_of("drop", **fields)
    assert done.dropped == {dropped: why}
    top = dropped.split(".")[0]
    if top not in ("messages", "metadata"):
        assert top not in sent
    _, done = chat_of("pass", **fields)
    assert done.dropped == {}


def test_fields_are_sent_as_they_came_where_the_config_says_so():
    search = {"type": "web_search_20250305", "name": "web_search"}
    sent, _ = chat_of("pass", tools=[search])
    assert sent["tools"] == [search]
    sent, done = chat_of("pass", speed="fast", unheard_of=1)
    assert (sent["speed"], sent["unheard_of"]) == ("fast", 1)
    assert done.passed == ("max_tokens", "speed", "unheard_of")
    block = {"type": "container_upload", "file_id": "f"}
    sent, _ = chat_of("pass", messages=[user(text("a"), block)])
    assert sent["messages"][0]["content"] == [text("a"), block]
    block = {"type": "server_tool_use", "id": "s"}
    sent, _ = chat_of("pass", messages=[*HI, assistant(text("a"), block), *HI])
    assert sent["messages"][1]["content"] == [text("a"), block]


def test_a_document_by_url_is_sent_where_the_config_says_so():
    document = {"type": "document", "source": {"type": "url", "url": "https://x.org/a.pdf"}}
    messages, _ = messages_of(user(document), policy="pass")
    file = {"filename": "document.pdf", "file_data": "https://x.org/a.pdf"}
    assert messages[0]["content"] == [{"type": "file", "file": file}]


def test_citations_of_an_earlier_answer_are_left_out():
    cited = {**text("a"), "citations": [{"type": "char_location"}]}
    messages, done = messages_of(*HI, assistant(cited), *HI)
    assert messages[1]["content"] == "a"
    assert done.converted["messages.content.citations"] == (
        "left out: they are no part of the text"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"anthropic_beta": ["x"]},
        {"anthropic_version": "2023-06-01"},
        {"betas": ["x"]},
        {"cache_control": MARK},
        {"diagnostics": {"previous_message_id": "m"}},
        {"context_management": None},
        {"context_management": {"edits": []}},
        {"mcp_servers": []},
        {"speed": "standard"},
        {"container": None},
        {"service_tier": "auto"},
        {"service_tier": "standard_only"},
    ],
)
def test_what_loses_nothing_is_left_out(fields):
    [name] = fields
    sent, done = chat_of(**fields)
    assert name not in sent
    betas, nothing = "it names features of Anthropic's API", "it has no effect on the answer"
    why = {
        "anthropic_beta": betas,
        "anthropic_version": "it names a version of Anthropic's API",
        "betas": betas,
        "cache_control": nothing,
        "diagnostics": nothing,
        "service_tier": "it concerns Anthropic's own capacity",
    }
    assert done.converted[name] == f"left out: {why.get(name, 'the host does this anyway')}"


@pytest.mark.parametrize(
    ("thinking", "shown"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "disabled", "display": "summarized"}, False),
        ({"type": "adaptive"}, True),
        ({"type": "adaptive", "display": "summarized"}, True),
        ({"type": "adaptive", "display": "omitted"}, False),
        ({"type": "between_tools"}, True),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, False),
    ],
)
def test_answers_fit_their_requests(thinking, shown):
    long = "mcp__" + "x" * 80
    fields = {
        "model": "asked",
        "messages": HI,
        "max_tokens": 5,
        "thinking": thinking,
        "stop_sequences": ["END"],
        "tools": [{**WEATHER, "name": long}],
    }
    chat = to_chat(raw(fields), policy="error", host="lab")
    [tool] = json.loads(bytes(chat.fields["tools"]))
    answer = completion(
        {"reasoning_content": "Hm.", "content": "a"} | call(0, "c", tool["function"]["name"], "{}"),
        choice={"stop_reason": "END"},
        model=None,
    )
    message = json.loads(chat.answers().whole(answer))
    assert message["model"] == "asked"
    assert [block["type"] for block in message["content"]] == [
        *(["thinking"] if shown else []),
        *("text", "tool_use"),
    ]
    assert message["content"][-1]["name"] == long
    ended = completion({"content": "a"}, choice={"stop_reason": "END"})
    assert json.loads(chat.answers().whole(ended))["stop_sequence"] == "END"


def test_nothing_is_made_of_null_and_empty_fields():
    names = ("system", "stop_sequences", "metadata", "thinking", "tools", "tool_choice")
    more = ("temperature", "top_p", "top_k", "output_config", "output_format")
    sent, _ = chat_of(**dict.fromkeys((*names[1:], *more)), stream=False)
    assert set(sent) == {"messages", "max_tokens", "stream"}
    sent, _ = chat_of(stop_sequences=[], tools=[], output_config={}, metadata={}, system="")
    assert set(sent) == {"messages", "max_tokens"}
    sent, _ = chat_of(system=[])
    assert [message["role"] for message in sent["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 1.5}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"model": 5}, "model: Input should be a valid string"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"temperature": "1"}, "temperature: Input should be a valid number"),
        ({"temperature": True}, "temperature: Input should be a valid number"),
        ({"temperature": 1.1}, "temperature: range: 0..1"),
        ({"temperature": -0.1}, "temperature: range: 0..1"),
        ({"top_p": 1.1}, "top_p: range: 0..1"),
        ({"top_k": -1}, "top_k: Input should be at least 0"),
        ({"stop_sequences": "END"}, "stop_sequences: Input should be a valid list"),
        ({"stop_sequences": ["a", 5]}, "stop_sequences.1: Input should be a valid string"),
        ({"metadata": "ada"}, "metadata: Input should be an object"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id: Input should be a valid string"),
        ({"service_tier": "fast"}, "service_tier: Input should be 'auto' or 'standard_only'"),
        ({"thinking": "on"}, "thinking: Input should be an object"),
        ({"thinking": {}}, "thinking.type: Field required"),
        ({"thinking": {"type": 5}}, "thinking.type: Input should be a valid string"),
        (
            {"thinking": {"type": "on"}},
            "thinking: Input tag 'on' found using 'type' does not match any of the expected tags: "
            "'enabled', 'disabled', 'between_tools', 'adaptive'",
        ),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: Field required"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1023}},
            "thinking.budget_tokens: Input should be greater than or equal to 1024",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": "many"}},
            "thinking.budget_tokens: Input should be a valid integer",
        ),
        ({"output_config": []}, "output_config: Input should be an object"),
        ({"metadata": []}, "metadata: Input should be an object"),
        ({"output_config": "x"}, "output_config: Input should be an object"),
        (
            {"output_config": {"effort": "huge"}},
            "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
        ),
        ({"output_config": {"effort": ["low"]}}, "output_config.effort: Input should be 'low'"),
        ({"output_config": {"format": {}}}, "output_config.format.type: Field required"),
        (
            {"output_config": {"format": {"type": "json"}}},
            "output_config.format.type: Input should be 'json_schema'",
        ),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema: Field required"),
        (
            {"output_format": {"type": "json_schema", "schema": 5}},
            "output_format.schema: Input should be an object",
        ),
        ({"tools": {}}, "tools: Input should be a valid list"),
        ({"tools": [5]}, "tools.0: Input should be an object"),
        ({"tools": [{"type": 5}]}, "tools.0.type: Input should be a valid string"),
        ({"tools": [WEATHER, {}]}, "tools.1.name: Field required"),
        ({"tools": [{"name": 5}]}, "tools.0.name: Input should be a valid string"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema: Field required"),
        (
            {"tools": [{"name": "a", "input_schema": []}]},
            "tools.0.input_schema: Input should be an object",
        ),
        (
            {"tools": [{**WEATHER, "description": 5}]},
            "tools.0.description: Input should be a valid string",
        ),
        ({"tool_choice": "auto"}, "tool_choice: Input should be an object"),
        ({"tool_choice": {}}, "tool_choice.type: Field required"),
        (
            {"tool_choice": {"type": "all"}},
            "tool_choice: Input tag 'all' found using 'type' does not match any of the expected "
            "tags: 'auto', 'any', 'tool', 'none'",
        ),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name: Field required"),
        (
            {"tool_choice": {"type": "tool", "name": 5}},
            "tool_choice.name: Input should be a valid string",
        ),
        (
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": "no"}},
            "tool_choice.disable_parallel_tool_use: Input should be a valid boolean",
        ),
        ({"system": 5}, "system: Input should be a valid list"),
        ({"system": ["a"]}, "system.0: Input should be an object"),
        ({"system": [{"text": "a"}]}, "system.0.type: Field required"),
        ({"system": [{"type": "image"}]}, "system.0.type: Input should be 'text'"),
        ({"system": [{"type": "text"}]}, "system.0.text: Field required"),
        ({"messages": "hi"}, "messages: Input should be a valid list"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": ["hi"]}, "messages.0: Input should be an object"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role: Field required"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": 5, "content": "a"}]}, "messages.0.role: Input should be a valid"),
        (
            {"messages": [{"role": "king", "content": "a"}]},
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: Input should be a"),
        ({"messages": [user()]}, "messages.0: all messages must have non-empty content"),
        (
            {"messages": [{"role": "user", "content": ""}]},
            "messages.0: all messages must have non-empty content",
        ),
        (
            {"messages": [*HI, assistant(), *HI]},
            "messages.1: all messages must have non-empty content",
        ),
        ({"messages": [user("a")]}, "messages.0.content.0: Input should be an object"),
        ({"messages": [user({})]}, "messages.0.content.0.type: Field required"),
        (
            {"messages": [*HI, *HI, user(text("a"), {"type": 5})]},
            "messages.2.content.1.type: Input should be a valid string",
        ),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text: Field required"),
        ({"messages": [user(text(5))]}, "messages.0.content.0.text: Input should be a valid"),
        ({"messages": [user({"type": "image"})]}, "messages.0.content.0.source: Field required"),
        (
            {"messages": [user({"type": "image", "source": "x"})]},
            "messages.0.content.0.source: Input should be an object",
        ),
        (
            {"messages": [user({"type": "image", "source": {}})]},
            "messages.0.content.0.source.type: Field required",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "url"}})]},
            "messages.0.content.0.source.url: Field required",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "url", "url": 5}})]},
            "messages.0.content.0.source.url: Input should be a valid string",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "url", "url": 5}})]},
            "messages.0.content.0.source.url: Input should be a valid string",
        ),
        (
            {
                "messages": [
                    user(
                        {
                            "type": "search_result",
                            "title": "t",
                            "source": "s",
                            "content": [{"type": "text"}],
                        }
                    )
                ]
            },
            "messages.0.content.0.content.0.text: Field required",
        ),
        (
            {
                "messages": [
                    user(
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": 5, "data": "a"},
                        }
                    )
                ]
            },
            "messages.0.content.0.source.media_type: Input should be a valid string",
        ),
        (
            {"messages": [*HI, assistant({"type": "text"}), *HI]},
            "messages.1.content.0.text: Field required",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "base64", "data": "a"}})]},
            "messages.0.content.0.source.media_type: Field required",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "text", "data": 5}})]},
            "messages.0.content.0.source.data: Input should be a valid string",
        ),
        (
            {"messages": [user({"type": "document", "title": 5, "source": PDF})]},
            "messages.0.content.0.title: Input should be a valid string",
        ),
        (
            {
                "messages": [
                    user(
                        {
                            "type": "document",
                            "source": {"type": "content", "content": [{"type": "document"}]},
                        }
                    )
                ]
            },
            "messages.0.content.0.source.content.0.type: Input should be 'text' or 'image'",
        ),
        (
            {"messages": [user({"type": "search_result", "title": "t"})]},
            "messages.0.content.0.source: Field required",
        ),
        (
            {"messages": [*HI, assistant({"type": "tool_use", "id": "a", "name": "b"})]},
            "messages.1.content.0.input: Field required",
        ),
        (
            {"messages": [*HI, assistant({**use(), "input": "{}"})]},
            "messages.1.content.0.input: Input should be an object",
        ),
        (
            {"messages": [*HI, assistant({**use(), "id": 5})]},
            "messages.1.content.0.id: Input should be a valid string",
        ),
        (
            {"messages": [*HI, assistant({**use(), "name": 5})]},
            "messages.1.content.0.name: Input should be a valid string",
        ),
        (
            {"messages": [*HI, assistant(use(), use()), user(result())]},
            "messages.1.content: `tool_use` ids must be unique",
        ),
        (
            {"messages": [*HI, assistant(use()), user({"type": "tool_result"})]},
            "messages.2.content.0.tool_use_id: Field required",
        ),
        (
            {"messages": [*HI, assistant(use()), user(result(is_error="no"))]},
            "messages.2.content.0.is_error: Input should be a valid boolean",
        ),
        (
            {"messages": [*HI, assistant(use()), user(result(content=5))]},
            "messages.2.content.0.content: Input should be a valid list",
        ),
        (
            {"messages": [user(result("zz"))]},
            "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: zz. "
            "Each `tool_result` block must have a corresponding `tool_use` block in the previous "
            "message.",
        ),
        (
            {"messages": [*HI, assistant(use()), user(result(), result())]},
            "messages.2.content.1: each tool_use must have a single result. Found multiple "
            "`tool_result` blocks with id: t1",
        ),
        (
            {"messages": [*HI, assistant(use(), use("t2")), user(result())]},
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: "
            "t2. Each `tool_use` block must have a corresponding `tool_result` block in the next "
            "message.",
        ),
        (
            {"messages": [*HI, assistant(use()), *HI, assistant(text("a")), *HI]},
            "messages.1: `tool_use` ids were found without `tool_result` blocks",
        ),
    ],
)
def test_requests_that_are_not_anthropics(fields, message):
    with pytest.raises(RequestError) as refused:
        chat_of("pass", takes_reasoning=True, **fields)
    assert refused.value.status == 400
    assert refused.value.message.startswith(message)
    assert refused.value.param == message.split(": ")[0]
    assert refused.value.code in ("invalid_type", "invalid_value", "missing_required_parameter")


@pytest.mark.parametrize("name", ["messages", "max_tokens"])
def test_required_fields(name):
    fields = raw({"messages": HI, "max_tokens": 1})
    del fields[name]
    with pytest.raises(RequestError) as refused:
        to_chat(fields, policy="drop", host="lab")
    assert refused.value.message == f"{name}: Field required"
    assert refused.value.code == "missing_required_parameter"


def test_a_thought_without_words_is_refused_where_it_would_be_sent():
    with pytest.raises(RequestError, match=r"messages\.1\.content\.0\.thinking: Field"):
        chat_of(takes_reasoning=True, messages=[*HI, assistant({"type": "thinking"}), *HI])


def test_an_empty_prefill_is_taken():
    sent, _ = chat_of("drop", messages=[*HI, assistant()])
    assert sent["messages"][1] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize("bad", [b'"\xff"', b"[" * 5000, b'{"a"', b""])
@pytest.mark.parametrize(
    "name", ["messages", "tools", "system", "thinking", "unheard_of", "stream"]
)
def test_fields_that_are_no_json(name, bad):
    fields = raw({"messages": HI, "max_tokens": 1}) | {name: msgspec.Raw(bad)}
    with pytest.raises(RequestError) as refused:
        to_chat(fields, policy="drop", host="lab")
    assert refused.value.param == name


def test_bytes_of_schemas_and_numbers_stay():
    schema = b'{"type": "object", "properties": {"a": {"maximum": 1e400, "minimum": 1.0}}}'
    tools = b'[{"name":"a","input_schema":' + schema + b"}]"
    fields = raw({"messages": HI, "max_tokens": 1}) | {"tools": msgspec.Raw(tools)}
    fields["temperature"] = msgspec.Raw(b"1.0")
    chat = to_chat(fields, policy="error", host="lab")
    assert schema in bytes(chat.fields["tools"])
    assert bytes(chat.fields["temperature"]) == b"1.0"


def test_thoughts_of_other_models_do_not_go_to_anthropic():
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    messages = [
        *HI,
        assistant(unsigned),
        *HI,
        assistant(*THOUGHTS, text("Yes."), {"type": "thinking", "thinking": "Hm."}),
        {"role": "assistant", "content": "No."},
        "odd",
        user("odd"),
    ]
    assert has_unsigned(json.dumps(messages).encode())
    assert has_unsigned(b'{"signature":""}')
    assert not has_unsigned(json.dumps(THOUGHTS[:2]).encode())
    edits = Edits("error")
    assert without_unsigned(messages, edits) == [
        *HI,
        *HI,
        assistant(*THOUGHTS[:2], text("Yes.")),
        *messages[4:],
    ]
    assert set(edits.converted) == {"messages.content.thinking"}
    assert without_unsigned("odd", edits) == "odd"
    edits = Edits("error")
    signed = [*HI, assistant(THOUGHTS[0])]
    assert without_unsigned(signed, edits) == signed
    assert edits.converted == {}
