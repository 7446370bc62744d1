"""llama.cpp's own server behind a small executable, started by us; the old llamafile's rules."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import tiny_gguf
from fake_hosts import Dialect
from hosts import ask, config, open_host, stream, texts, transport
from servers import reserved_port

from providers.base import AS_IT_CAME
from providers.errors import ConfigError, UpstreamConnectError
from providers.kinds import make
from providers.local_servers import xllamacpp_server
from providers.local_servers.llamafile import command_of, weights_file
from providers.local_servers.managed import ManagedServer

SERVER = Path(xllamacpp_server.__file__)
# Little work, and room for two requests.
SMALL = ("--threads", "1", "--parallel", "2", "--ctx-size", "4096", "--no-warmup")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """A small executable in the place of llama-server or of a llamafile."""
    path = tmp_path_factory.mktemp("bin") / "tiny.llamafile"
    # Not `exec`: a shell between us and the server must not leave it an orphan.
    start = f'"{sys.executable}" -P "{SERVER}" {" ".join(SMALL)} "$@"'
    path.write_text(f"#!/bin/sh\n{start}\nexit $?\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
async def managed(binary, model, tmp_path):
    log = tmp_path / "server.log"
    async with transport() as client:
        entry = config("llamafile", model=str(model), binary=str(binary), log=str(log))
        provider = make("laptop", entry, client)
        await provider.open()
        try:
            yield provider
        finally:
            await provider.close()


def processes_with(text):
    """Numbers of the processes whose command line has the text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if text.encode() in command and state != "Z":
                found.append(int(entry.name))
    return found


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


async def test_a_server_of_ours(managed, model):
    """Started by the first request, used, and gone at the end with all that it started."""
    assert (await ask(managed, "models")).json["data"][0]["id"] == "tiny"
    assert processes_with(str(model)) == [], "a list of models starts nothing"
    said = await ask(managed, model="tiny", max_tokens=5, temperature=0)
    assert said.status == 200
    assert said.translation is AS_IT_CAME
    assert said.json["usage"]["completion_tokens"] <= 5
    fields = {"model": "tiny", "max_tokens": 12, "temperature": 0, "logprobs": True}
    streamed = await stream(managed, **fields)
    whole = await ask(managed, **fields)
    assert texts(streamed) == whole.json["choices"][0]["message"]["content"]
    assert whole.json["choices"][0]["logprobs"]["content"]
    assert processes_with(str(model))
    await managed.close()
    assert processes_with(str(model)) == []
    log = managed._server._log.read_text()
    assert "llama.cpp's server on" in log
    assert str(model) in log


async def test_it_is_never_asked_more_than_its_slots(managed):
    answers = await asyncio.gather(
        *(ask(managed, model="tiny", max_tokens=40, ignore_eos=True) for _ in range(6))
    )
    assert [one.status for one in answers] == [200] * 6
    # The server says in its properties that it has two.
    assert managed._room._value == 2
    begun = [await managed.send(_long()) for _ in range(2)]
    third = asyncio.create_task(managed.send(_long()))
    done, _ = await asyncio.wait({third}, timeout=0.2)
    assert not done, "both slots are taken"
    await begun[0].aclose()
    reply = await third
    await reply.aclose()
    await begun[1].aclose()
    assert managed._room._value == 2


def _long():
    from hosts import call

    return call(model="tiny", stream=True, max_tokens=1500, ignore_eos=True)


async def test_a_cancelled_wait_for_a_slot_takes_none(managed):
    await ask(managed, model="tiny", max_tokens=1)
    begun = [await managed.send(_long()) for _ in range(2)]
    third = asyncio.create_task(managed.send(_long()))
    await asyncio.sleep(0)
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    for reply in begun:
        await reply.aclose()
    assert managed._room._value == 2


async def test_it_is_started_again_when_it_dies(managed, model):
    await ask(managed, model="tiny", max_tokens=2)
    server = next(pid for pid in processes_with(str(model)) if _is_python_server(pid))
    os.kill(server, signal.SIGKILL)
    assert await asyncio.to_thread(until, lambda: not _alive(server))
    statuses = []
    for _ in range(200):
        try:
            statuses.append((await ask(managed, model="tiny", max_tokens=2)).status)
            break
        except UpstreamConnectError:
            await asyncio.sleep(0.05)
    assert statuses == [200]
    assert managed._server.starts == 2


def _is_python_server(pid):
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return command[1] == b"-P" and command[2] == os.fsencode(SERVER)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


ROUTER = """
import asyncio, sys
from hosts import ask, config, transport
from providers.kinds import make

async def main():
    async with transport() as client:
        entry = config("llamafile", model=sys.argv[1], binary=sys.argv[2], log=sys.argv[3])
        provider = make("laptop", entry, client)
        assert (await ask(provider, model="tiny", max_tokens=2)).status == 200
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphans_when_the_router_is_killed(binary, tmp_path, number):
    own = tiny_gguf.write(tmp_path / f"own-{number}.gguf")
    tests = Path(__file__).parents[2]
    paths = [str(tests), str(tests.parent)]
    router = subprocess.Popen(
        [sys.executable, "-c", ROUTER, str(own), str(binary), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert router.stdout.readline() == b"ready\n"
    # The guard, the shell and the server.
    assert len(processes_with(str(own))) >= 3
    router.send_signal(number)
    router.wait()
    router.stdout.close()
    assert until(lambda: processes_with(str(own)) == [])


def test_no_orphans_when_the_guard_is_killed_too(binary, tmp_path):
    """Its parent-death signal ends the shell; the server itself needs no shell in between."""
    own = tiny_gguf.write(tmp_path / "own-guard.gguf")
    guard = Path(sys.modules[ManagedServer.__module__].__file__).with_name("guard.py")
    with reserved_port() as port:
        command = [sys.executable, "-P", str(SERVER), "-m", str(own), "--port", str(port)]
        started = subprocess.Popen(
            [sys.executable, "-I", "-S", str(guard), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert started.stdout.readline().startswith(b"llama.cpp")
    started.kill()
    started.wait()
    started.stdin.close()
    started.stdout.close()
    assert until(lambda: processes_with(str(own)) == [])


async def server_of(command, tmp_path, probe=None, **fields):
    async def never(_):
        return False

    return ManagedServer(
        "it", command, log=tmp_path / "log", probe=probe or never, start_timeout=30, **fields
    )


async def test_a_command_that_ends_is_told_and_tried_later_and_later(tmp_path):
    waits = []
    gate = asyncio.Event()

    async def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 4:
            gate.set()
            await asyncio.sleep(60)

    command = [sys.executable, "-c", "print('cannot'); raise SystemExit(3)"]
    server = await server_of(command, tmp_path, sleep=sleep)
    with pytest.raises(UpstreamConnectError, match="ended with code 3"):
        await server.ready()
    await gate.wait()
    await server.close()
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert server.starts == 4
    assert (tmp_path / "log").read_text().count("\ncannot\n") == 4


async def test_a_command_that_is_not_there(tmp_path):
    server = await server_of(["./no-such-command"], tmp_path)
    with pytest.raises(UpstreamConnectError, match="code 127"):
        await server.ready()
    await server.close()
    assert "./no-such-command: No such file or directory" in (tmp_path / "log").read_text()


async def test_a_server_that_is_never_ready_is_ended(tmp_path):
    mark = f"mark-{tmp_path.name}"
    now = [0.0]

    async def never(_):
        now[0] += 10
        return False

    server = await server_of(
        [sys.executable, "-c", "import time; time.sleep(60)", mark],
        tmp_path,
        probe=never,
        clock=lambda: now[0],
    )
    with pytest.raises(UpstreamConnectError, match="not ready within 30 s"):
        await server.ready()
    assert processes_with(mark) == []
    await server.close()


async def test_a_server_that_ignores_sigterm_is_killed(tmp_path):
    mark = f"mark-{tmp_path.name}"
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)"

    async def up(_):
        return "\nup\n" in (tmp_path / "log").read_text()

    server = await server_of([sys.executable, "-u", "-c", code, mark], tmp_path, probe=up)
    await server.ready()
    assert processes_with(mark)
    await server.close()
    assert processes_with(mark) == []


# What the config may say


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({}, []),
        ({"base_url": "http://x/v1"}, []),
        (
            {"command": "./p.llamafile -ngl 9"},
            ["./p.llamafile", "-ngl", "9", "--server", "--host", "{host}", "--port", "{port}"],
        ),
        ({"command": ["serve", "--at", "{port}"]}, ["serve", "--at", "{port}"]),
        ({"command": "serve {port}", "args": ["-x"]}, ["serve", "{port}", "-x"]),
    ],
)
def test_the_command(fields, command):
    assert command_of("it", config("llamafile", **fields)) == command


@pytest.mark.parametrize("installed", [True, False])
def test_the_extras_server_is_used_where_there_is_no_llama_server(tmp_path, monkeypatch, installed):
    monkeypatch.setenv("PATH", str(tmp_path))
    if installed:
        program = tmp_path / "llama-server"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    start = [str(tmp_path / "llama-server")] if installed else [sys.executable, "-P", str(SERVER)]
    command = command_of("it", config("llamafile", model=str(model), args=["-c", "512"]))
    assert command == [
        *start, "-m", str(model), "-c", "512", "--host", "{host}", "--port", "{port}"
    ]  # fmt: skip


async def test_a_gguf_file_alone_is_served_by_the_extra(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    log = tmp_path / "server.log"
    args = [*SMALL, "--alias", "tiny"]
    async with transport() as client:
        provider = make(
            "it", config("llamafile", model=str(model), args=args, log=str(log)), client
        )
        await provider.open()
        try:
            answer = await ask(provider, model="any", max_tokens=4)
            assert answer.status == 200, answer.body
            assert answer.json["usage"]["completion_tokens"] > 0
        finally:
            await provider.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", "none.gguf", "--port", "1"], "none.gguf cannot be loaded"),
        (["-m", "x", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["-m", "x", "--pooling", "y"], "invalid choice: 'y'"),
    ],
)
def test_the_extras_server_says_what_it_cannot_do(options, message):
    done = subprocess.run(
        [sys.executable, "-P", str(SERVER), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"base_url": "http://x/v1", "command": "x"}, "base_url and command exclude each other"),
        ({"model": "no-such.gguf"}, "no such file"),
        ({"model": __file__, "binary": "./no-such"}, r"binary: \./no-such: no such program"),
    ],
)
def test_a_config_that_contradicts_itself(fields, told):
    with pytest.raises(ConfigError, match=told):
        make("it", config("llamafile", **fields), None)


# A llamafile up to 0.9


class OldLlamafile(Dialect):
    """llamafile's own server: strings as content, no tools; it ignores what it does not know."""

    needs_key = False
    ignored = frozenset({"n", "tools", "tool_choice", "logprobs", "top_logprobs", "logit_bias"})

    def check(self, body):
        for message in body["messages"]:
            if not isinstance(message.get("content"), str):
                raise self.refuse(400, "message content must be a string")
            if message["role"] not in ("system", "user", "assistant"):
                raise self.refuse(400, "message role not system user assistant")

    def answer(self, body):
        return super().answer({k: v for k, v in body.items() if k not in self.ignored})


async def test_an_old_llamafile_is_known_by_its_properties_and_spared_what_it_would_ignore():
    async with open_host("llamafile", OldLlamafile()) as host:
        said = await ask(host, n=2, logprobs=True, tools=[{"type": "function"}], seed=1)
        assert set(said.translation.dropped) == {"n", "logprobs", "tools"}
        assert host.server.received[-1].keys() == {"model", "messages", "seed"}
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": parts}]
        said = await ask(host, messages=messages, n=1, on_unsupported="error")
        assert said.status == 200, said.json
        assert [one["content"] for one in host.server.received[-1]["messages"]] == ["x", "ab"]
        assert set(said.translation.converted) == {"messages.role", "messages.content", "n"}


def test_the_tiny_model_is_the_same_every_time(tmp_path):
    one, two = (tiny_gguf.write(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert one == two
    assert json.dumps(tiny_gguf.TEMPLATE)


def peaks_of(pids):
    """The kilobytes of the peak resident memory of processes, added up."""
    status = [(Path("/proc") / str(pid) / "status").read_text() for pid in pids]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in status)


async def test_a_server_of_ours_says_how_its_model_is_stored_and_what_memory_it_took(
    managed, model
):
    facts = await managed.facts("tiny")
    assert (facts.file, facts.bits_per_weight, facts.note) == ("tiny.gguf", 32, "")
    assert facts.peak_memory_bytes is None
    assert processes_with(str(model)) == [], "to be asked that starts nothing"
    await ask(managed, model="tiny", max_tokens=5)
    guards = processes_with("guard.py")
    pids = [pid for pid in processes_with(str(model)) if pid not in guards]
    assert len(pids) == 2, "a shell and the server"
    before = peaks_of(pids)
    facts = await managed.facts("tiny")
    # The kernel counts the pages of several threads only roughly; a guard takes 10 MB.
    assert before - 512 <= facts.peak_memory_bytes / 1024 <= peaks_of(pids) + 512
    assert facts.parameters > 100_000
    await managed.close()
    assert (await managed.facts("tiny")).peak_memory_bytes is None


async def test_a_running_server_says_how_its_model_is_stored(binary, tmp_path):
    # A command that does not say which file it serves.
    quantised = tiny_gguf.write(tmp_path / "tiny-q8.gguf", q8=True)
    script = tmp_path / "serve-tiny"
    script.write_text(f'#!/bin/sh\nexec "{binary}" -m "{quantised}" "$@"\n')
    script.chmod(0o755)
    log = str(tmp_path / "server.log")
    async with transport() as client:
        ours = make("ours", config("llamafile", command=str(script), log=log), client)
        try:
            assert (await ours.facts("tiny")).bits_per_weight is None
            assert (await ask(ours, model="tiny", max_tokens=2)).status == 200
            facts = await ours.facts("tiny")
            # Its one-dimensional tensors are not quantised.
            assert 8.5 < facts.bits_per_weight < 9
            assert "Q8_0" in facts.quantization
            running = make("running", config("llamafile", base_url=ours._base), client)
            assert await running.facts("tiny") == msgspec.structs.replace(
                facts, peak_memory_bytes=None
            )
        finally:
            await ours.close()
        assert (await running.facts("tiny")).bits_per_weight is None
        assert (await running.facts("tiny")).note


async def test_weights_that_cannot_be_read_are_no_number(binary, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_text("no model")
    async with transport() as client:
        entry = config("llamafile", model=str(broken), binary=str(binary))
        facts = await make("laptop", entry, client).facts("broken")
    assert (facts.bits_per_weight, facts.parameters, facts.quantization) == (None, None, "")
    assert facts.note == "broken.gguf is no GGUF file"


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["llama-server", "-m", "a.gguf", "--mmproj", "b.gguf"], "a.gguf"),
        (["llama-server", "-md", "draft.gguf", "--model", "a.gguf"], "a.gguf"),
        (["llama-server", "--model=a.gguf", "--lora", "b.gguf"], "a.gguf"),
        (["python", "-m", "llama_cpp.server", "--model", "a.gguf"], "a.gguf"),
        (["run.sh", "a.gguf"], "a.gguf"),
        (["run.sh", "a.gguf", "b.gguf"], None),
        (["./judge.llamafile", "--server"], "judge.llamafile"),
        (["llama-server", "-hf", "org/repo"], None),
        ([], None),
    ],
)
def test_the_file_of_a_commands_weights(command, file):
    assert weights_file(command) == (None if file is None else Path(file))


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("llamafile", "-m a.gguf", "a"),
        ("llamafile", "-m a.gguf --alias writer", "writer"),
        ("llamafile", "-m a.gguf -a writer", "writer"),
        ("llama_cpp", "--model a.gguf --model_alias writer", "writer"),
    ],
)
async def test_a_command_s_model_is_listed_by_its_alias(kind, options, name):
    command = ["server", *options.split(), "--port", "{port}"]
    async with transport() as client:
        provider = make("laptop", config(kind, command=command), client)
        assert (await ask(provider, "models")).json["data"][0]["id"] == name
