"""Runs the conformance suite against every server that needs only the dev extra: `make providers`.

`make providers KIND=groq` examines the fake host of one kind and leaves the other reports alone.

The reports go to `docs/reference/conformance/`, one JSON file per server, from which `make docs`
writes the table in `docs/reference/providers.md`. `conformance_local.py` adds the reports of the
servers that need an environment of their own.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from isolation import isolate

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from providers.base import Lifecycle  # noqa: E402
from providers.conformance.checks import CHECKS  # noqa: E402
from providers.conformance.suite import ConformanceReport, ExaminedHost, examine  # noqa: E402
from providers.kinds import make  # noqa: E402
from tooling.conformance import REPORTS, ServerReport  # noqa: E402  # the path is set above


class Server(NamedTuple):
    """A server to examine: its kind, the fields of its config, and the model there."""

    name: str
    title: str
    version: str
    kind: str
    fields: dict[str, Any]
    model: str
    stand_in: bool = False
    long_words: int = 5000


async def examine_server(server: Server) -> ServerReport:
    """Run the whole suite against a server and write its report."""
    from hosts import config, transport

    async with transport() as client:
        provider = make(server.name, config(server.kind, **server.fields), client)
        wrong = None
        if "api_key" in server.fields:
            fields = {**server.fields, "api_key": "sk-wrong"}

            def wrong() -> Any:
                return make(server.name, config(server.kind, **fields), client)

        if isinstance(provider, Lifecycle):
            await provider.open()
        try:
            host = ExaminedHost(
                provider, server.model, wrong_key=wrong, long_words=server.long_words, timeout=120
            )
            report = await examine(host, CHECKS, kind=server.kind)
        finally:
            if isinstance(provider, Lifecycle):
                await provider.close()
    result = ServerReport(
        title=server.title, version=server.version, stand_in=server.stand_in, report=_public(report)
    )
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{server.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    sys.stdout.write(f"{server.name}: {report.counts}\n")
    for check in report.results:
        if check.outcome == "fail":
            sys.stdout.write(f"  failed: {check.name}: {check.title} {check.evidence}\n")
    return result


def _public(report: ConformanceReport) -> ConformanceReport:
    """Return the report without this machine's folders, which some servers name their model by."""
    folder = re.escape(tempfile.gettempdir())
    text = re.sub(rf"{folder}/[^/\"]+/", "", msgspec.json.encode(report).decode())
    return msgspec.json.decode(text, type=ConformanceReport)


@asynccontextmanager
async def fake_server(name: str, dialect: Any, source: str) -> AsyncIterator[Server]:
    """Start a strict fake host, and yield it as a server to examine."""
    from fake_hosts import KEY, MODEL, FakeHost

    async with FakeHost(dialect) as host:
        fields: dict[str, Any] = {"base_url": host.url}
        if dialect.needs_key:
            fields["api_key"] = KEY
        yield Server(name, name.title(), source, name, fields, MODEL, stand_in=True)


async def examine_all() -> None:
    """Run the suite against every server that needs nothing but the dev extra."""
    await examine_server(Server("baseline", "baseline/lead-1", "0.1", "baseline", {}, "lead-1"))
    await examine_llama_server()
    await examine_fakes()


async def examine_llama_server() -> None:
    """Run the suite against llama.cpp's server, with and without embeddings."""
    import tiny_gguf

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_gguf.write(Path(folder) / "tiny.gguf")
        server = ROOT / "providers" / "local_servers" / "xllamacpp_server.py"
        command = [sys.executable, "-P", str(server), "-m", str(model), "--threads", "1"]
        command += ["--parallel", "2", "--ctx-size", "4096", "--no-warmup"]
        for name, title, more in (
            ("llama-server", "llama.cpp's server (llamafile ≥ 0.10)", ["--api-key", "sk-local"]),
            ("llama-server-embedding", "the same with --embedding", ["--embedding"]),
        ):
            fields: dict[str, Any] = {"command": [*command, *more], "log": f"{folder}/log"}
            if "--api-key" in more:
                fields["api_key"] = "sk-local"
            description = f"xllamacpp {version('xllamacpp')}, tiny random Llama"
            await examine_server(Server(name, title, description, "llamafile", fields, "tiny"))


async def examine_fakes(kind: str = "") -> None:
    """Run the suite against the fake of one kind of host, or of all."""
    import fake_hosts

    dialects: dict[str, Callable[[], Any]] = {
        "mistral": fake_hosts.MistralDialect,
        "groq": fake_hosts.GroqDialect,
        "gemini": fake_hosts.GeminiDialect,
        "ollama": fake_hosts.OllamaDialect,
        "anthropic": fake_hosts.AnthropicDialect,
    }
    if kind and kind not in dialects:
        sys.exit(f"no fake host of the kind {kind!r}: it is one of {', '.join(dialects)}")
    for name, dialect in dialects.items():
        if kind not in ("", name):
            continue
        async with fake_server(name, dialect(), "stand-in of 2026-11") as server:
            await examine_server(server)


if __name__ == "__main__":
    isolate()
    asyncio.run(examine_fakes(sys.argv[1]) if sys.argv[1:] else examine_all())
