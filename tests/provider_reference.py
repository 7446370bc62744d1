"""Writes the table of `docs/reference/providers.md` from the conformance suite's reports.

    python tests/provider_reference.py           # ask every server that runs here, then write
    python tests/provider_reference.py --write   # write from the reports that are there

Reports lie in `docs/reference/conformance/`, one JSON file per server: the report and the server's
version. `make test-llama-cpp` and `make test-vllm` add theirs from environments of their own.
"""

from __future__ import annotations

import argparse
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
sys.path.insert(0, str(ROOT))

from providers.base import Lifecycle  # noqa: E402  # the path is set above
from providers.checks import CHECKS  # noqa: E402
from providers.conformance import Host, Report, examine  # noqa: E402
from providers.kinds import make  # noqa: E402

FOLDER = ROOT / "docs" / "reference" / "conformance"
PAGE = ROOT / "docs" / "reference" / "providers.md"
BEGIN, END = "<!-- conformance: begin -->\n", "<!-- conformance: end -->\n"
SIGNS = {"pass": "yes", "fail": "**no**", "unsupported": "-"}


class Kept(msgspec.Struct, kw_only=True):
    """A report and what it is about.

    Attributes:
        title: the column's head.
        version: of the server.
        stand_in: whether it stands for a host that cannot be asked offline.
        report: the suite's.
    """

    title: str
    version: str
    stand_in: bool
    report: Report


class Server(NamedTuple):
    """One to be asked: a kind, the fields of its config, and the model there."""

    name: str
    title: str
    version: str
    kind: str
    fields: dict[str, Any]
    model: str
    stand_in: bool = False
    long_words: int = 5000


async def keep(server: Server) -> Kept:
    """Ask a server all questions and keep its report."""
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
            host = Host(
                provider, server.model, wrong_key=wrong, long_words=server.long_words, timeout=120
            )
            report = await examine(host, CHECKS, kind=server.kind)
        finally:
            if isinstance(provider, Lifecycle):
                await provider.close()
    kept = Kept(
        title=server.title, version=server.version, stand_in=server.stand_in, report=_public(report)
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{server.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    sys.stdout.write(f"{server.name}: {report.counts}\n")
    return kept


def _public(report: Report) -> Report:
    """Without this machine's folders, which servers tell as the name of their model."""
    folder = re.escape(tempfile.gettempdir())
    text = re.sub(rf"{folder}/[^/\"]+/", "", msgspec.json.encode(report).decode())
    return msgspec.json.decode(text, type=Report)


@asynccontextmanager
async def stand_in(name: str, dialect: Any, source: str) -> AsyncIterator[Server]:
    """A strict stand-in as a server to ask."""
    from stand_ins import KEY, MODEL, StandIn

    async with StandIn(dialect) as host:
        fields: dict[str, Any] = {"base_url": host.url}
        if dialect.needs_key:
            fields["api_key"] = KEY
        yield Server(name, name.title(), source, name, fields, MODEL, stand_in=True)


async def ask_all() -> None:
    """Every server that needs nothing but the dev extra."""
    import stand_ins
    import tiny_gguf

    await keep(Server("baseline", "baseline/lead-1", "0.1", "baseline", {}, "lead-1"))
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_gguf.write(Path(folder) / "tiny.gguf")
        command = [sys.executable, str(ROOT / "tests" / "llama_server.py"), "-m", str(model)]
        for name, title, more in (
            ("llama-server", "llama.cpp's server (llamafile ≥ 0.10)", ["--api-key", "sk-local"]),
            ("llama-server-embedding", "the same with --embedding", ["--embedding"]),
        ):
            fields: dict[str, Any] = {"command": [*command, *more], "log": f"{folder}/log"}
            if "--api-key" in more:
                fields["api_key"] = "sk-local"
            told = f"xllamacpp {version('xllamacpp')}, tiny random Llama"
            await keep(Server(name, title, told, "llamafile", fields, "tiny"))
    dialects: dict[str, Callable[[], Any]] = {
        "mistral": stand_ins.MistralDialect,
        "groq": stand_ins.GroqDialect,
        "gemini": stand_ins.GeminiDialect,
        "ollama": stand_ins.OllamaDialect,
        "anthropic": stand_ins.AnthropicDialect,
    }
    for name, dialect in dialects.items():
        async with stand_in(name, dialect(), "stand-in of 2026-11") as server:
            await keep(server)


def table() -> str:
    """The Markdown of all reports: real servers first, then stand-ins."""
    kept = [
        msgspec.json.decode(path.read_bytes(), type=Kept) for path in sorted(FOLDER.glob("*.json"))
    ]
    kept.sort(key=lambda one: (one.stand_in, one.title))
    lines = ["", "| | server | version | asked | yes | no | - |", "|---|---|---|---|---|---|---|"]
    for number, one in enumerate(kept, start=1):
        counts = one.report.counts
        title = f"stand-in: {one.title}" if one.stand_in else one.title
        lines.append(
            f"| {number} | {title} | {one.version} | {one.report.date[:10]} "
            f"| {counts['pass']} | {counts['fail']} | {counts['unsupported']} |"
        )
    numbers = range(1, len(kept) + 1)
    lines += ["", "| check | " + " | ".join(map(str, numbers)) + " |"]
    lines.append("|---|" + "---|" * len(kept))
    found = [{result.name: result for result in one.report.results} for one in kept]
    for check in CHECKS:
        signs = [SIGNS[one[check.name].outcome] if check.name in one else "" for one in found]
        lines.append(f"| {check.title} | " + " | ".join(signs) + " |")
    lines += ["", "Why a real server was given a **no**:", ""]
    for number, one in enumerate(kept, start=1):
        if one.stand_in:
            continue
        for result in one.report.results:
            if result.outcome == "fail":
                evidence = result.evidence.replace("`", "'").replace("\n", " ")[:100]
                lines.append(f"- {number}, {result.name}: `{evidence}`")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="do not ask, only write the page")
    given = parser.parse_args()
    isolate()
    if not given.write:
        asyncio.run(ask_all())
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
