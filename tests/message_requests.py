"""Requests to Anthropic's Messages API, for tests of their translation."""

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "name": "weather",
    "description": "It.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "aGVsbG8="}
MARK = {"type": "ephemeral"}


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def text(words):
    return {"type": "text", "text": words}


def use(identity="t1", name="weather", **given):
    return {"type": "tool_use", "id": identity, "name": name, "input": given}


def result(identity="t1", content="sun", **more):
    return {"type": "tool_result", "tool_use_id": identity, "content": content, **more}


# With all that chat completions have a place for.
CONVERSATION = {
    "model": "m",
    "max_tokens": 50,
    "system": [{**text("Be brief."), "cache_control": MARK}, text("In English.")],
    "messages": [
        user(text("Look:"), {"type": "image", "source": PIXEL}),
        assistant(text("I "), text("see."), use("a", city="Oslo"), use("b", city="Rome")),
        user(result("a"), result("b", [text("rain"), text("all day")]), text("Which?")),
        {"role": "system", "content": "Be kind."},
    ],
    "tools": [{**WEATHER, "cache_control": MARK}],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "stop_sequences": ["END"],
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "metadata": {"user_id": "ada"},
    "output_config": {"effort": "high"},
}

# What users say, and as chat completions.
USER_CONTENTS = [
    ("hi", "hi"),
    ([text("a")], "a"),
    ([text("a"), text("b")], "a\nb"),
    (
        [text("a"), {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}}],
        [text("a"), {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}],
    ),
    (
        [{"type": "document", "source": PDF}],
        [
            {
                "type": "file",
                "file": {
                    "filename": "document.pdf",
                    "file_data": "data:application/pdf;base64,aGVsbG8=",
                },
            }
        ],
    ),
    (
        [{"type": "document", "source": PDF, "title": "Plan", "context": "A draft."}],
        [
            text("A draft."),
            {
                "type": "file",
                "file": {
                    "filename": "Plan",
                    "file_data": "data:application/pdf;base64,aGVsbG8=",
                },
            },
        ],
    ),
    (
        [
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "Words."},
                "title": "T",
                "context": "C",
                "citations": {"enabled": False},
            }
        ],
        "T\nC\nWords.",
    ),
    (
        [{"type": "document", "source": {"type": "content", "content": "Words."}}],
        "Words.",
    ),
    (
        [
            {
                "type": "document",
                "title": "T",
                "source": {
                    "type": "content",
                    "content": [text("a"), {"type": "image", "source": PIXEL}, text("b")],
                },
            }
        ],
        [
            text("T\na\nb"),
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}},
        ],
    ),
    (
        [
            {
                "type": "search_result",
                "source": "https://x.org",
                "title": "T",
                "content": [text("a"), text("b")],
                "citations": {"enabled": False},
            }
        ],
        "T\nhttps://x.org\na\nb",
    ),
]


# The second request of `claude -p` (Claude Code 2.1.332), but for its texts and most of its tools.
CLAUDE_CODE = {
    "model": "gpt-x",
    "messages": [
        user(text("<system-reminder>\nNotes.\n</system-reminder>"), text("Run echo forty-two")),
        {"role": "system", "content": "# Environment"},
        assistant(text("I run it."), use("call_1", "Bash", command="echo forty-two")),
        user(result("call_1", "forty-two", is_error=False, cache_control=MARK)),
    ],
    "system": [
        text("x-anthropic-billing-header: cc_version=2.1.332.e8f; cc_entrypoint=sdk-cli;"),
        {**text("You are an agent."), "cache_control": MARK},
        {**text("Use the tools."), "cache_control": MARK},
    ],
    "tools": [
        {
            "name": "Bash",
            "description": "Run a command.",
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"command": {"type": "string"}},
                "required": ["command"],
                "additionalProperties": False,
            },
        },
        {
            "name": "DeferredToolPlaceholder",
            "description": "A place.",
            "input_schema": {"type": "object", "properties": {}},
            "defer_loading": True,
        },
    ],
    "metadata": {
        "user_id": '{"device_id":"1ee9b349a851efc4a92b8431052eb8c04e7aa41b4f9fa4ac4299eccb0ab1"}'
    },
    "max_tokens": 32000,
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}
