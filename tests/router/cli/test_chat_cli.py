"""`evalrouter chat` through a server and without one: streams, conversations, Ctrl-C, errors."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from raw_host import HOLD, READ, answer, by_model, framed, raw_host, stream
from servers import gateway, reserved_port

from router.cli import main
from router.cli.terminal import harmless


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chat(*args, code=0, text=None, **environ):
    done = CliRunner().invoke(
        main, ["chat", *args], input=text, env={"EVALROUTER_API_KEY": None} | environ
    )
    assert done.exit_code == code, done.output
    return done


def config(url, name="evalrouter.yaml"):
    Path(name).write_text(
        f'providers: {{up: {{kind: vllm, base_url: "{url}"}}}}\n'
        "routes: {r: {targets: [{model: up/m}], retries: {attempts: 1}}}\n"
    )
    return name


def event(text=None, **more):
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish", None)}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**body, "choices": [choice], **more}).encode()


END = b"data: [DONE]\n\n"
USAGE = event(finish="stop", usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})


def test_a_message_is_sent_with_its_options_and_the_answer_printed():
    with raw_host([READ, *stream(event("Hel"), event("lo."), USAGE, END)]) as up:
        config(up.url)
        options = ["--system", "Be brief.", "--temperature", "0.5", "--max-tokens", "9"]
        options += ["--param", "top_p=0.9", "--param", "user=ann"]
        done = chat("r", "Hi", "there", *options)
    assert done.stdout == "Hello.\n"
    sent = up.requests[-1].json
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi there"},
    ]
    assert (sent["temperature"], sent["max_tokens"], sent["top_p"]) == (0.5, 9, 0.9)
    assert (sent["user"], sent["stream"]) == ("ann", True)


def test_json_has_the_whole_answer_unchanged():
    with raw_host([READ, *stream(event("a\x1b[2J"), USAGE, END)]) as up:
        config(up.url)
        told = json.loads(chat("r", "-", "--json", text="Hi").stdout)
    assert told.pop("seconds") > 0
    assert told == {
        "model": "r",
        "target": "up/m",
        "answer": "a\x1b[2J",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def test_without_a_config_the_baselines_answer_and_keys_do_not_matter():
    made = CliRunner().invoke(main, ["key", "create", "someone", "--admin"])
    assert made.exit_code == 0, made.output
    assert chat("baseline/lead-1", text="One. Two.\n").stdout == "One.\n"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b]0;title\x07\x1b[31mred", "\u241b]0;title\u2407\u241b[31mred"),
        ("\x9b31m\x90", "\ufffd31m\ufffd"),
        ("over\rwritten\r\n\tx\n", "over\u240dwritten\n\tx\n"),
        ("\u202egpj.exe\u2066", "\ufffdgpj.exe\ufffd"),
        ("\x7f\x00", "\u2421\u2400"),
        ("\ud83d", "\ufffd"),
        ("plain äöü 🦙 日本", "plain äöü 🦙 日本"),
    ],
)
def test_text_for_a_terminal_moves_nothing(given, shown):
    assert harmless(given) == shown


def test_escape_sequences_of_a_model_and_of_a_hosts_error_are_shown_not_obeyed():
    with raw_host([READ, *stream(event("\x1b]52;c;eA==\x07ok"), USAGE, END)]) as up:
        config(up.url)
        assert chat("r", "Hi").stdout == "\u241b]52;c;eA==\u2407ok\n"
    body = json.dumps({"error": {"message": "no\x1b[2J\nway", "type": "x", "code": "y"}})
    with raw_host([READ, *answer(body.encode(), status="400 Bad Request")]) as up:
        config(up.url)
        assert chat("r", "Hi", code=2).stderr == "error: no\u241b[2J way\n"


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        (answer(b"{}", status="500 Oops"), 1, "up/m"),
        (answer(b"{}", status="401 Unauthorized"), 1, "up"),
        ([b"SSH-2.0\r\n\r\n"], 1, "not valid HTTP"),
        (stream(event("Hel"), b'data: {"error": {"message": "boom\\nx"}}\n\n'), 1, "boom x"),
        (framed([event("Hel")], "close"), 1, "error: "),
    ],
)
def test_what_goes_wrong_at_a_host_is_a_line(script, code, told):
    with raw_host([READ, *script]) as up:
        config(up.url)
        done = chat("r", "Hi", code=code)
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_provider_that_cannot_be_reached_is_for_the_doctor():
    with reserved_port() as port:
        config(f"http://127.0.0.1:{port}")
        done = chat("r", "Hi", code=1)
    assert done.stderr == (
        "error: up: connection refused (evalrouter doctor says what is wrong with a provider)\n"
    )


def test_through_a_server_with_keys(tmp_path):
    text = f"storage: {{database: 'sqlite:///{tmp_path}/s.db'}}\nserver: {{require_keys: true}}"
    Path("s.yaml").write_text(text)
    made = CliRunner().invoke(main, ["key", "create", "me", "--config", "s.yaml", "--json"])
    key = json.loads(made.stdout)["key"]
    with gateway(text) as url:
        for address in (url, f"{url}/v1", f"{url}/v1/"):
            done = chat("baseline/lead-1", "One. Two.", "--url", address, EVALROUTER_API_KEY=key)
            assert done.stdout == "One.\n"
        done = chat("baseline/lead-1", "A.", "--url", url, code=2)
        assert "EVALROUTER_API_KEY" in done.stderr
        done = chat("nope", "A.", "--url", url, code=2, EVALROUTER_API_KEY=key)
        assert "'nope' does not exist" in done.stderr
        bad = chat("m", "A.", "--url", url, code=2, EVALROUTER_API_KEY="a\nb")
        assert bad.stderr == "error: EVALROUTER_API_KEY has characters that no header can have\n"


def test_what_answers_at_the_url_may_be_anything():
    with reserved_port() as port:
        done = chat("m", "A.", "--url", f"http://127.0.0.1:{port}", code=1)
        assert done.stderr == f"error: http://127.0.0.1:{port}: connection refused\n"
    for script in (
        answer(b"<html>hello"),
        answer(b"<html>no", status="404 Not Found"),
        stream(b"data: [1]\n\n"),
        stream(b'data: {"choices": [7], "usage": 3}\n\n', b"data: \xff\n\n"),
        stream(b'data: {"choices": {"a": 1}, "error": "a\\u001bb"}\n\n'),
    ):
        with raw_host([READ, *script]) as host:
            done = CliRunner().invoke(main, ["chat", "m", "A.", "--url", host.url])
        assert done.exit_code in (1, 2), done.output
        [line] = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert "\x1b" not in line


@pytest.mark.parametrize(
    ("args", "text", "told"),
    [
        (["m", "--param", "x"], None, "'x' is not of the form NAME=VALUE"),
        (["m", "--param", "=1"], None, "'=1' is not of the form NAME=VALUE"),
        (["m", "--param", "stream=false"], None, "stream is set by the command itself"),
        (["m"], "", "nothing on standard input"),
        (["m"], b"\xff\xfe", "standard input is not UTF-8 at byte 0"),
        (["m\nn", "hi"], None, "MODEL: has the character U+000A"),
        (["m", "hi", "--url", "localhost:4000"], None, "--url must begin with http://"),
        (["m", "hi", "--url", "http://h", "--config", "c.yaml"], None, "exclude each other"),
        (["m", "hi", "--config", "none.yaml"], None, "none.yaml: no such file"),
        (["m", "hi", "--temperature", "x"], None, "not a valid float"),
        (["nope", "hi"], None, "The model 'nope' does not exist"),
    ],
)
def test_bad_input_is_a_line(args, text, told):
    done = chat(*args, text=text, code=2)
    assert told in done.stderr
    assert "Traceback" not in done.output


# On a terminal


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *args):
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router", "chat", *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "TERM": "dumb"},
        )
        os.close(slave)
        self.shown = ""
        self._seen = 0

    def until(self, text):
        """Read until the text appears after the one before."""
        while (at := self.shown.find(text, self._seen)) < 0:
            self.shown += os.read(self._master, 4096).decode()
        self._seen = at + len(text)

    def type(self, text):
        os.write(self._master, text.encode())

    def end(self):
        # Linux's terminals have no end of file but this error.
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 4096):
                self.shown += data.decode()
        os.close(self._master)
        return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def test_a_conversation_goes_on_after_ctrl_c_and_errors():
    answers = {
        "m": [
            stream(event("First."), USAGE, END),
            [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", event("Half"), HOLD],
            answer(b'{"error": {"message": "busy", "code": "x"}}', status="400 Bad Request"),
            stream(event("Second."), USAGE, END),
            stream(event("Afresh."), USAGE, END),
        ]
    }
    with raw_host(by_model(answers)) as up:
        config(up.url)
        with Terminal("r", "--system", "S.") as terminal:
            for typed, shown in [
                ("one", "First."),
                ("two", "Half"),
                ("three", "error: busy"),
                ("four", "Second."),
                ("/reset", ""),
                ("/help", "/exit or Ctrl-D"),
                ("five", "Afresh."),
            ]:
                terminal.until("> ")
                terminal.type(f"{typed}\n")
                terminal.until(shown)
                if shown == "Half":
                    os.killpg(terminal.process.pid, signal.SIGINT)
                    terminal.until("interrupted")
            terminal.until("> ")
            terminal.type("\x04")
            assert terminal.end() == 0
    assert "Traceback" not in terminal.shown
    assert "up/m, " in terminal.shown
    said = [[one["content"] for one in request.json["messages"]] for request in up.requests]
    assert said == [
        ["S.", "one"],
        ["S.", "one", "First.", "two"],
        ["S.", "one", "First.", "three"],
        ["S.", "one", "First.", "four"],
        ["S.", "five"],
    ]


def test_a_conversation_is_ended_by_a_command():
    with Terminal("baseline/lead-1") as terminal:
        terminal.until("> ")
        terminal.type("/exit\n")
        assert terminal.end() == 0


def test_ctrl_c_ends_a_single_answer_cleanly():
    begun = [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", event("Half"), HOLD]
    with raw_host([READ, *begun]) as up:
        config(up.url)
        with Terminal("r", "hi") as terminal:
            terminal.until("Half")
            os.killpg(terminal.process.pid, signal.SIGINT)
            assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert up.connections[0].ended in ("closed", "reset")
