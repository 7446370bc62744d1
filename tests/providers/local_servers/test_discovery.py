"""Model servers on the ports of this machine: real ones, others' lists, and what is none."""

import json

import pytest
import tiny_gguf
from raw_host import HOLD, READ, Repeat, answer, raw_host
from servers import gateway, reserved_port
from tiny_llama_server import llama_server

from providers.local_servers import discovery
from providers.local_servers.discovery import discover

NOT_THERE = answer(b"<html>", status="404 Not Found")


def port_of(url):
    return int(url.rstrip("/").rpartition(":")[2])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def by_path(**bodies):
    """A host with an answer for each path, given by its last part."""

    def respond(connection):
        ours = [one for one in connection.host.requests if one.connection == connection.number]
        body = bodies.get(ours[-1].target.rpartition("/")[2], NOT_THERE)
        connection.play(answer(body) if isinstance(body, bytes) else body)

    return raw_host([READ, respond])


async def test_llama_cpp_is_known_by_its_answers_wherever_it_listens(model):
    with llama_server(model) as address:
        [local] = await discover({"ollama": port_of(address)})
    assert (local.name, local.kind, local.models) == ("llamafile", "llamafile", ("tiny",))
    assert local.base_url == f"{address}/v1"
    assert not local.needs_key


async def test_a_server_with_a_key_is_of_the_ports_usual_kind_and_needs_the_key(model):
    with llama_server(model, key="sk-1") as address:
        [local] = await discover({"llamafile": port_of(address)})
    assert (local.kind, local.models, local.needs_key) == ("llamafile", (), True)


async def test_a_list_that_anybody_may_read_does_not_hide_that_a_key_is_needed():
    """As llama.cpp's server had it for a while."""
    refused = answer(b"{}", status="401 Unauthorized")
    with by_path(models=answer(rows("tiny", owned_by="llamacpp")), props=refused) as host:
        [local] = await discover({"llamafile": host.port})
    assert (local.kind, local.models, local.needs_key) == ("llamafile", ("tiny",), True)


def rows(*names, **more):
    return json.dumps({"data": [{"id": name, **more} for name in names]}).encode()


@pytest.mark.parametrize(
    ("usual", "bodies", "kind", "models"),
    [
        ("ollama", {"models": b'{"data": null}', "version": b'{"version": "0.9"}'}, "ollama", ()),
        ("vllm", {"models": rows("m", owned_by="vllm")}, "vllm", ("m",)),
        ("vllm", {"models": rows("m", owned_by="me")}, "llama_cpp", ("m",)),
        ("vllm", {"models": rows("m", owned_by="vllm", state="ready")}, "ray_serve", ("m",)),
        ("lm-studio", {"models": rows("a", "b", owned_by="x")}, "compatible", ("a", "b")),
        # Not of the kind that usually has the port, as nothing shows it.
        ("llamafile", {"models": rows("m")}, "compatible", ("m",)),
        ("llamafile", {"models": rows("m", owned_by={"a": 1})}, "compatible", ("m",)),
        ("vllm", {"models": rows("a\nb", "ok", "x" * 300, "\x1b[31m", "")}, "compatible", ("ok",)),
    ],
)
async def test_a_server_is_of_the_kind_that_its_answers_show(usual, bodies, kind, models):
    with by_path(**bodies) as host:
        [local] = await discover({usual: host.port})
    assert (local.kind, local.models, local.problem) == (kind, models, "")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ([READ, *NOT_THERE], "has no list of models"),
        ([READ, *answer(b"[" * 100_000)], "has no list of models"),
        ([READ, *answer(b'{"data": [{"id": 7}]}')], "has no list of models"),
        ([READ, b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], "not valid HTTP"),
        ([READ, Repeat(b"HTTP/1.1 100 Continue\r\n\r\n")], "not valid HTTP"),
        ([READ, *answer(b" " * (discovery.MAX_BYTES + 1))], "more than 1048576 bytes"),
        ([READ, HOLD], "did not answer within 0.3 s"),
    ],
)
async def test_what_is_no_model_server_has_a_problem(script, problem):
    with raw_host(script) as host:
        [local] = await discover({"vllm": host.port}, limit_s=0.3)
    assert local.kind == ""
    assert problem in local.problem


async def test_the_list_counts_although_another_request_has_no_answer():
    with by_path(models=rows("m", owned_by="vllm"), version=[HOLD]) as host:
        [local] = await discover({"vllm": host.port}, limit_s=0.3)
    assert (local.kind, local.problem) == ("vllm", "")


async def test_an_evalrouter_is_not_taken_for_a_model_server(tmp_path):
    text = f"storage: {{database: 'sqlite:///{tmp_path}/e.db'}}\n"
    text += "routes: {r: {targets: [{model: baseline/lead-3}]}}"
    with gateway(text) as url:
        [local] = await discover({"vllm": port_of(url)})
    assert local.problem == "is an evalrouter"


async def test_nothing_is_said_of_a_port_where_nothing_listens():
    with reserved_port() as port:
        assert await discover({"vllm": port, "ollama": port}) == []


async def test_two_servers_of_a_kind_have_names_of_their_own():
    body = rows("m", owned_by="vllm")
    with by_path(models=body) as one, by_path(models=body) as two:
        servers = await discover({"vllm": one.port, "llamafile": two.port})
    assert [server.name for server in servers] == ["vllm", f"vllm-{two.port}"]
