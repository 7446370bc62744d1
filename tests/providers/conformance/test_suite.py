"""The conformance suite: against every local server, over the command line, and over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_hosts
import pytest
import tiny_gguf
from hosts import config, open_host, transport
from router_process import router_command
from servers import gateway, scripted

from providers.conformance.checks import CHECKS
from providers.conformance.suite import ExaminedHost, examine
from providers.kinds import make
from providers.local_servers import xllamacpp_server

SERVER = Path(xllamacpp_server.__file__)
DIALECTS = {
    "mistral": fake_hosts.MistralDialect,
    "groq": fake_hosts.GroqDialect,
    "gemini": fake_hosts.GeminiDialect,
    "anthropic": fake_hosts.AnthropicDialect,
    "ollama": fake_hosts.OllamaDialect,
}


def of(report, outcome):
    return {result.name for result in report.results if result.outcome == outcome}


@pytest.mark.parametrize("kind", DIALECTS)
async def test_every_translated_host_passes(kind):
    async with open_host(kind, DIALECTS[kind]()) as host, transport() as client:
        wrong = config(kind, base_url=host.server.url, api_key="wrong")
        asked = ExaminedHost(
            host.provider,
            fake_hosts.MODEL,
            wrong_key=lambda: make(kind, wrong, client),
            long_words=6000,
        )
        report = await examine(asked, CHECKS, kind=kind)
    # Ollama takes any key.
    allowed = {"error.bad_key"} if kind == "ollama" else set()
    assert of(report, "fail") <= allowed, [r for r in report.results if r.outcome == "fail"]
    assert len(of(report, "pass")) >= 40
    assert report.answered_as == fake_hosts.MODEL


async def test_llama_cpps_server(tmp_path):
    # Most questions leave the temperature open, so an end drawn by chance would change what is
    # seen of `length` and `logprobs`.
    model = tiny_gguf.write(tmp_path / "tiny.gguf", ends=False)
    async with transport() as client:
        command = [sys.executable, "-P", str(SERVER), "-m", str(model), "--threads", "1"]
        command += ["--parallel", "2", "--ctx-size", "4096", "--no-warmup"]
        entry = config("llamafile", command=command, log=str(tmp_path / "log"))
        provider = make("it", entry, client)
        await provider.open()
        try:
            asked = ExaminedHost(provider, "tiny", long_words=4000)
            report = await examine(asked, CHECKS, kind="llamafile")
        finally:
            await provider.close()
    # A model of random weights calls no tool unless it must, and llama.cpp lets it talk first; the
    # server has one model whatever name it is asked by.
    known = {"tools.one", "tools.required", "tools.finish", "tools.stream", "error.unknown_model"}
    assert of(report, "fail") <= known | {"models.named"}, report
    assert {"chat.n", "chat.logprobs", "stream.usage", "stream.cancel", "chat.seed"} <= of(
        report, "pass"
    )


class Sloppy(fake_hosts.Dialect):
    """Everything that can be wrong in silence."""

    def check(self, body):
        for name in ("n", "logprobs", "response_format", "tools", "tool_choice", "stop"):
            body.pop(name, None)
        body["messages"] = body["messages"][-1:]
        body["model"] = fake_hosts.MODEL
        body["max_tokens"] = body["max_completion_tokens"] = None

    def answer(self, body):
        answer = super().answer(body)
        answer["usage"]["total_tokens"] += 1
        answer["choices"][0]["finish_reason"] = "eos"
        return answer

    def events(self, body, answer):
        return [("", one) for one in fake_hosts.chunks(answer, usage="beside")[:-1]]


async def test_a_host_that_ignores_things_in_silence_fails():
    async with open_host("compatible", Sloppy()) as host:
        report = await examine(
            ExaminedHost(host.provider, fake_hosts.MODEL), CHECKS, kind="compatible"
        )
    assert {
        "chat.finish",
        "chat.usage",
        "chat.system",
        "chat.developer",
        "chat.max_tokens",
        "chat.stop",
        "chat.n",
        "chat.logprobs",
        "format.json_object",
        "format.json_schema",
        "tools.one",
        "tools.required",
        "stream.answer",
        "stream.finish",
        "stream.usage",
        "stream.n",
        "error.unknown_model",
    } <= of(report, "fail")


class Ending(fake_hosts.Dialect):
    """Its model is done in just as many tokens as are allowed, this many times."""

    def __init__(self, times):
        self.times = times

    def check(self, body):
        pass

    def answer(self, body):
        answer = super().answer(body)
        if answer["choices"][0]["finish_reason"] == "length" and self.times:
            self.times -= 1
            answer["choices"][0]["finish_reason"] = "stop"
        return answer


@pytest.mark.parametrize(("times", "outcome"), [(2, "pass"), (1000, "fail")])
async def test_one_answer_of_just_the_bounds_length_is_no_failure(times, outcome):
    checks = [check for check in CHECKS if check.name.startswith("chat.max_")]
    assert len(checks) == 2
    async with open_host("compatible", Ending(times)) as host:
        report = await examine(
            ExaminedHost(host.provider, fake_hosts.MODEL), checks, kind="compatible"
        )
    assert {result.outcome for result in report.results} == {outcome}, report


async def test_a_host_that_is_not_there_fails_everything_but_what_was_not_asked():
    async with transport() as client:
        provider = make("it", config("compatible", base_url="http://127.0.0.1:9/v1"), client)
        report = await examine(ExaminedHost(provider, "m"), CHECKS, kind="compatible")
    assert of(report, "pass") == set()
    assert of(report, "unsupported") == {"error.bad_key", "error.long_prompt"}


def test_every_check_has_a_name_a_title_and_is_asked_once():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) >= 40
    assert all(check.title.endswith(".") for check in CHECKS)


# By hand, and over HTTP

SCRIPT = {"tiny": [{"answer": "one two three four five"}]}


def run(*arguments, folder):
    return subprocess.run(
        router_command("providers", "test", *arguments),
        cwd=folder,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_line(tmp_path):
    with scripted(SCRIPT) as upstream:
        text = f'providers: {{up: {{kind: compatible, base_url: "{upstream.url}"}}}}'
        (tmp_path / "evalrouter.yaml").write_text(text)
        done = run("up", "--json", folder=tmp_path)
        assert done.returncode == 1, "scripts know no tools"
        report = json.loads(done.stdout)
        assert report["model"] == "tiny"
        assert len(report["results"]) == len(CHECKS)
        table = run("up", folder=tmp_path)
        assert "A user message is answered with text." in table.stdout
        assert f"up/tiny, {report['date'][:10]}" in table.stdout
        missing = run("pu", folder=tmp_path)
        assert missing.returncode == 2
        assert "Did you mean 'up'" in missing.stderr or "up" in missing.stderr


def test_over_http(tmp_path, http):
    with scripted(SCRIPT) as upstream:
        text = (
            f'storage: {{database: "sqlite:///{tmp_path / "e.db"}"}}\n'
            f'providers: {{up: {{kind: compatible, base_url: "{upstream.url}", api_key: sk-x}}}}'
        )
        with gateway(text) as url:
            listed = http.get(f"{url}/providers").json()
            assert {"name": "up", "kind": "compatible"} in listed
            assert http.get(f"{url}/providers/up/conformance").status_code == 404
            first = http.post(f"{url}/providers/up/conformance").json()
            assert len(first["results"]) == len(CHECKS)
            total = upstream.log.total
            assert http.get(f"{url}/providers/up/conformance").json() == first
            assert upstream.log.total == total, "asked once"
            http.post(f"{url}/providers/up/conformance")
            assert upstream.log.total > total
            assert http.get(f"{url}/providers/nobody/conformance").status_code == 404
            assert "sk-x" not in json.dumps(first)
