"""llama.cpp's own server in a process of its own, for a model of `tiny_gguf.py`."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from chat_chunks import envelope

from providers.http import sse
from providers.local_servers import xllamacpp_server

SERVER = Path(xllamacpp_server.__file__)


@contextmanager
def llama_server(model, *, key=""):
    """A server of one model, `tiny`; yields its address without a path.

    Not in this process, where the library's destructor may wait for its threads for ever.
    """
    options = ["-m", model, "-a", "tiny", "--port", "0", "-c", "256", "--no-warmup"]
    command = [sys.executable, "-P", SERVER, *options, "--api-key", key]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.kill()


def post(url, body):
    """What it answers."""
    request = Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urlopen(request) as response:
        return response.read()


def both_answers(server, path, to_chat, fields):
    """Its own answer to a request, and ours, made of what it answers to the chat request.

    Args:
        server: its address.
        path: of the request, below `/v1`.
        to_chat: the translator of that path.
        fields: the request's.
    """
    fields = {"model": "tiny", **fields}
    native = post(f"{server}/v1/{path}", fields)
    request = to_chat(envelope(**fields), policy="error", host="lab")
    body = {name: json.loads(bytes(raw)) for name, raw in request.fields.items()}
    if fields.get("stream"):
        body["stream_options"] = {"include_usage": True}
    chat = post(f"{server}/v1/chat/completions", body)
    answers = request.answers()
    if fields.get("stream"):
        return native, answers.feed(chat) + answers.finish()
    return native, answers.whole(chat)


def data_of_events(events):
    """The data of its events, or of ours."""
    return [json.loads(event.data) for event in sse.Parser().feed(events)]
