from __future__ import annotations

import asyncio
import csv
import json
import math
from collections import Counter

import hosts
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from oracle_data import DIALOGUES

from providers.base import Call
from providers.errors import ConfigError
from providers.http.sse import Parser, read_end
from providers.offline.baseline import (
    MAX_CHARACTERS,
    Baseline,
    BaselineConfig,
    end_early,
    lead,
    sentences,
    textrank,
)
from providers.offline.sentence_ranks import rank, similarity
from providers.translation.compose import count_tokens

ARTICLE = """\
The council of Aldermere voted on Tuesday to keep the town library open. Dr. Okafor, who leads \
the library, said the vote was a relief. It rained all afternoon. The council will pay for the \
library from the parking fund. Three members of the council voted against the plan to keep the \
library. Nobody spoke about parking."""


def baseline() -> Baseline:
    return Baseline(
        "base", BaselineConfig(kind="baseline"), clock=lambda: 1700000000.9, new_id=lambda: "1"
    )


def call(model: str, path: str = "chat/completions", **fields) -> Call:
    raw = msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, msgspec.Raw])
    return Call(path=path, model=model, envelope=raw, stream=fields.get("stream", False))


async def ask(model: str, content, **fields) -> dict:
    messages = [{"role": "user", "content": content}]
    reply = await baseline().send(call(model, messages=messages, **fields))
    assert reply.status == 200
    return json.loads(await reply.read())


async def test_an_answer_is_openai_s_object():
    answer = await ask("lead-1", ARTICLE)
    completion = ChatCompletion.model_validate(answer, strict=True)
    assert completion.id == "chatcmpl-1"
    assert completion.created == 1700000000
    assert completion.model == "lead-1"
    assert completion.system_fingerprint is not None
    assert completion.system_fingerprint.startswith("evalrouter-lead-1-1+sentencex-")
    [choice] = completion.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content == ARTICLE.split(". Dr.", maxsplit=1)[0] + "."
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == count_tokens(ARTICLE)
    assert completion.usage.completion_tokens == 14
    assert completion.usage.total_tokens == count_tokens(ARTICLE) + 14


@pytest.mark.parametrize("model", ["lead-1", "lead-3", "textrank", "echo"])
@pytest.mark.parametrize("content", [ARTICLE, "", "  two  spaces \n\n and lines\t", "a. b. c. d."])
async def test_streamed_and_whole_texts_are_one(model, content):
    text = (await ask(model, content))["choices"][0]["message"]["content"]
    messages = [{"role": "user", "content": content}]
    reply = await baseline().send(call(model, messages=messages, stream=True))
    assert reply.headers["content-type"].startswith("text/event-stream")
    *datas, done = [event.data async for chunk in reply.chunks() for event in Parser().feed(chunk)]
    assert done == b"[DONE]"
    chunks = [ChatCompletionChunk.model_validate(json.loads(data), strict=True) for data in datas]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(b"usage" not in data for data in datas)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert len(datas) >= 2 + len(text.split())


async def test_usage_in_a_stream_only_when_asked_for():
    messages = [{"role": "user", "content": ARTICLE}]
    options = {"include_usage": True}
    reply = await baseline().send(
        call("lead-1", messages=messages, stream=True, stream_options=options)
    )
    body = await reply.read()
    end = read_end(body)
    assert end.done
    assert end.usage is not None
    assert end.usage.completion == 14
    *others, last, _done = Parser().feed(body)
    assert json.loads(last.data)["choices"] == []
    assert all(json.loads(event.data)["usage"] is None for event in others)


async def test_only_the_last_user_message_is_read():
    messages = [
        {"role": "system", "content": "Summarize."},
        {"role": "user", "content": "First."},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Second. Third."},
                {"type": "image_url", "image_url": {"url": "data:,"}},
                {"type": "text", "text": "Fourth."},
            ],
        },
        {"role": "assistant", "content": "Sure:"},
    ]
    reply = await baseline().send(call("echo", messages=messages))
    answer = json.loads(await reply.read())
    assert answer["choices"][0]["message"]["content"] == "Second. Third.\nFourth."
    assert answer["usage"]["prompt_tokens"] == 2 + 2 + 6 + 2


@pytest.mark.parametrize(
    ("fields", "text", "finish"),
    [
        ({"max_tokens": 3}, "The council of", "length"),
        ({"max_completion_tokens": 2, "max_tokens": 9}, "The council", "length"),
        ({"max_tokens": 14}, ARTICLE.split(" Dr.", maxsplit=1)[0], "stop"),
        ({"stop": " voted"}, "The council of Aldermere", "stop"),
        ({"stop": ["zzz", "to keep", "of"]}, "The council ", "stop"),
        ({"stop": " voted", "max_tokens": 2}, "The council", "length"),
        ({"stop": ""}, ARTICLE.split(" Dr.", maxsplit=1)[0], "stop"),
    ],
)
async def test_an_answer_ends_early(fields, text, finish):
    answer = await ask("lead-1", ARTICLE, **fields)
    assert answer["choices"][0]["message"]["content"] == text
    assert answer["choices"][0]["finish_reason"] == finish


@given(st.text(), st.integers(1, 20))
def test_no_text_is_over_its_bound(text, most):
    cut, finish = end_early(text, (), most)
    assert text.startswith(cut)
    assert count_tokens(cut) == min(most, count_tokens(text))
    assert (finish == "length") == (count_tokens(text) > most)


async def test_n_choices():
    answer = await ask("echo", "One two.", n=3)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"One two."}
    assert answer["usage"]["completion_tokens"] == 9


async def test_text_completions():
    reply = await baseline().send(call("lead-1", "completions", prompt=["Ab cd. Ef.", "Gh."]))
    completion = Completion.model_validate(json.loads(await reply.read()), strict=True)
    assert completion.id == "cmpl-1"
    assert [(choice.index, choice.text) for choice in completion.choices] == [
        (0, "Ab cd."),
        (1, "Gh."),
    ]
    reply = await baseline().send(call("echo", "completions", prompt="Ab cd. Ef.", stream=True))
    *events, done = Parser().feed(await reply.read())
    assert done.data == b"[DONE]"
    choices = [json.loads(event.data)["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == "Ab cd. Ef."
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]


async def test_models():
    reply = await baseline().send(call("", "models"))
    listed = json.loads(await reply.read())["data"]
    names = [Model.model_validate(model).id for model in listed]
    assert names == ["lead-1", "lead-3", "textrank", "echo"]
    some = Baseline("base", BaselineConfig(kind="baseline", models=("echo",)))
    reply = await some.send(call("", "models"))
    assert [model["id"] for model in json.loads(await reply.read())["data"]] == ["echo"]
    with pytest.raises(ConfigError, match="lead-3"):
        Baseline("base", BaselineConfig(kind="baseline", models=("lead-33",)))


@pytest.mark.parametrize(
    ("request_", "status", "param", "code", "words"),
    [
        (call("led-3", messages=[]), 404, "model", "model_not_found", "lead-3"),
        (call("lead-3", "embeddings", input="a"), 400, "model", "unsupported_model", "embeddings"),
        (call("echo"), 400, "messages", "missing_required_parameter", "required"),
        (call("echo", messages=[]), 400, "messages", "invalid_type", "length"),
        (call("echo", messages="hello"), 400, "messages", "invalid_type", "array"),
        (call("echo", messages=[{"content": "a"}]), 400, "messages", "invalid_type", "role"),
        (
            call("echo", messages=[{"role": "system", "content": "a"}]),
            400,
            "messages",
            "missing_required_parameter",
            "user",
        ),
        (
            call("echo", messages=[{"role": "user"}], max_tokens="9"),
            400,
            "max_tokens",
            "invalid_type",
            "int",
        ),
        (call("echo", messages=[{"role": "user"}], n=0), 400, "n", "invalid_type", "1"),
        (call("echo", "completions", prompt=[1, 2]), 400, "prompt", "invalid_type", "str"),
    ],
)
async def test_requests_that_cannot_be_answered(request_, status, param, code, words):
    reply = await baseline().send(request_)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    error = json.loads(await reply.read())["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert words in error["message"]


def test_sentences_of_a_dialogue_and_of_prose():
    text = "#Person1#: Hi, Mr. Fox. How are you\n#Person2#: Fine!\n\n  Notes\nIt cost $3.50. Good."
    assert list(sentences(text)) == [
        "#Person1#: Hi, Mr. Fox.",
        "How are you",
        "#Person2#: Fine!",
        "Notes",
        "It cost $3.50.",
        "Good.",
    ]


@given(st.text(alphabet="ab .!?\n\u2028é\u4e2d\x00\"'()"))
def test_segmentation_loses_no_words(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_lead_of_fewer_sentences_than_wanted():
    assert lead("Only one.", count=3) == "Only one."
    assert lead(" \n ", count=3) == ""


def literal_scores(bags: list[list[str]]) -> np.ndarray:
    """The paper's equations term by term, and its fixed point by solving the linear system."""
    n = len(bags)
    weight = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            below = math.log(len(bags[i]) or 1) + math.log(len(bags[j]) or 1)
            if i != j and below > 0:
                weight[i, j] = len(set(bags[i]) & set(bags[j])) / below
    flow = np.array(
        [
            [weight[j, i] / weight[j].sum() if weight[j].any() else 0 for j in range(n)]
            for i in range(n)
        ]
    )
    return np.linalg.solve(np.eye(n) - 0.85 * flow, np.full(n, 0.15))


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), min_size=1, max_size=8))
def test_scores_are_the_paper_s(bags):
    scores = rank(similarity([Counter(bag) for bag in bags]))
    np.testing.assert_allclose(scores, literal_scores(bags), atol=1e-7)


def test_textrank_picks_the_central_sentences_in_order():
    found = list(sentences(ARTICLE))
    assert textrank(ARTICLE) == " ".join([found[0], found[3], found[4]])


def test_textrank_ties_go_to_the_earlier_sentence():
    assert textrank("Red fox. Blue cow. Green owl. Pink pig.") == "Red fox. Blue cow. Green owl."


def test_huge_and_hostile_inputs_are_bounded():
    assert textrank("Cats run. " * 100_000) == "Cats run. Cats run. Cats run."
    assert len(textrank("word " * 1_000_000)) < MAX_CHARACTERS
    assert lead("(" * 5_000_000, count=1) == "(" * MAX_CHARACTERS
    assert len(textrank("\n".join(f"Line {i} of a dump" for i in range(50_000)))) < 100


async def test_a_long_text_is_summarized_beside_the_event_loop():
    seen = []

    async def other_work() -> None:
        seen.append("ran")

    text = ARTICLE + "\n" + "Another line about the weather. " * 2_000
    task = asyncio.create_task(other_work())
    answer = await ask("lead-1", text)
    assert seen == ["ran"]
    await task
    assert answer["choices"][0]["message"]["content"] == ARTICLE.split(" Dr.", maxsplit=1)[0]


async def test_on_dialogues():
    with (DIALOGUES / "references.csv").open(newline="", encoding="utf-8") as lines:
        texts = [row["examples"] for row in csv.DictReader(lines)]
    assert len(texts) == 5
    for text in texts:
        for model in ("lead-3", "textrank"):
            summary = (await ask(model, text))["choices"][0]["message"]["content"]
            assert summary
            assert all(word in text.split() for word in summary.split())


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function"}]},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_what_needs_a_model_is_dropped_and_told_or_refused(field):
    provider = Baseline("baseline", BaselineConfig(kind="baseline"))
    dropped = await hosts.ask(provider, model="lead-1", **field)
    assert dropped.status == 200
    assert list(dropped.translation.dropped) == list(field)
    refused = await hosts.ask(provider, model="lead-1", on_unsupported="error", **field)
    assert refused.json["error"]["code"] == "unsupported_parameter"
    neutral = await hosts.ask(
        provider, model="lead-1", on_unsupported="error", temperature=0, tools=[]
    )
    assert neutral.status == 200
