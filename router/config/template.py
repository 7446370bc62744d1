"""The text of a first config file, made of the keys and servers that a machine has.

    text = first_config("evalrouter.yaml", servers, os.environ)

Names that servers gave are written so that they can mean nothing else: as JSON strings, without
references to the environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from providers.local_servers.discovery import LocalServer
from router.config.providers import KEY_VARIABLES

# A model of each host that is cheap to try; `prices.json` has them.
FIRST_MODELS: Mapping[str, str] = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-5-5",
    "gemini": "gemini-flash-latest",
    "groq": "openai/gpt-oss-20b",
    "mistral": "mistral-small-latest",
    "openrouter": "openrouter/auto",
    "together": "openai/gpt-oss-20b",
}
# Those of a server that its comment names.
_SHOWN_MODELS = 8

_HEAD = """\
# {path}, written by `evalrouter init`. After a change: evalrouter config check {path}
# Every key is described in docs/reference/config.md. ${{NAME}} reads the environment.

"""
_TAIL = """\

# Where runs, records and datasets are stored; this is the default{store}.
# storage:
#   database: "sqlite:///evalrouter.db"      # or postgresql://USER@HOST:5432/NAME
#   artifacts: "./artifacts"                 # or s3://bucket/prefix

# What others than this machine may reach needs keys first: evalrouter key create NAME
# server: {host: 127.0.0.1, port: 4000}
"""


def keys_in(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the kinds of provider whose key an environment has, each with the variable's name."""
    return {kind: name for kind, name in KEY_VARIABLES.items() if environ.get(name)}


def key_variable(server: LocalServer) -> str:
    """Return the variable that the key of a local server is taken from."""
    return f"{server.name.upper().replace('-', '_')}_API_KEY"


def first_model(servers: Sequence[LocalServer], environ: Mapping[str, str]) -> str:
    """Return a model to try first, as requests name it: a local one where there is one."""
    for server in servers:
        if server.kind and not server.needs_key:
            for model in server.models:
                if "embed" not in model.lower():
                    return f"{server.name}/{model}"
    for kind in keys_in(environ):
        return f"{kind}/{FIRST_MODELS[kind]}"
    return "baseline/lead-3"


def first_config(path: str, servers: Sequence[LocalServer], environ: Mapping[str, str]) -> str:
    """Return the text of a config with the providers of these keys and servers, and a route.

    Args:
        path: the file, for the comments.
        servers: the local servers; those that are no model servers are left out.
        environ: the environment; its values are not written.
    """
    keys = keys_in(environ)
    names = ("POSTGRES_HOST", "S3_BUCKET")
    variables = [name for name in names if environ.get(name)]
    store = f", but for what {' and '.join(variables)} in the environment say" if variables else ""
    return "".join(
        [
            _HEAD.format(path=_comment(path)),
            _providers(keys, [server for server in servers if server.kind]),
            _routes(first_model(servers, environ)),
            _TAIL.replace("{store}", store),
        ]
    )


def _providers(keys: Mapping[str, str], servers: Sequence[LocalServer]) -> str:
    lines = ["providers:"]
    for kind, variable in keys.items():
        lines += [
            f"  # For example {kind}/{FIRST_MODELS[kind]}.",
            f'  {kind}: {{kind: {kind}, api_key: "${{{variable}}}"}}',
        ]
    for server in servers:
        lines += _server(server)
    absent = [kind for kind in KEY_VARIABLES if kind not in keys]
    if absent:
        lines.append("  # Others, once you have a key:")
        lines += [
            f'  # {kind}: {{kind: {kind}, api_key: "${{{KEY_VARIABLES[kind]}}}"}}'
            for kind in absent
        ]
    if not servers:
        lines += [
            "  # A model on this machine: a server that runs, or a GGUF file to serve.",
            '  # laptop: {kind: llamafile, base_url: "http://127.0.0.1:8080/v1"}',
            '  # gguf: {kind: llamafile, model: "./model.gguf"}',
        ]
    return "\n".join(lines) + "\n\n"


def _server(server: LocalServer) -> list[str]:
    shown = [_comment(model) for model in server.models[:_SHOWN_MODELS]]
    more = len(server.models) - len(shown)
    served = ", ".join(shown) + (f" and {more} more" if more else "")
    entry = f"kind: {server.kind}, base_url: {_quoted(server.base_url)}"
    if not server.needs_key:
        return [f"  # Serves {served or 'no model yet'}.", f"  {server.name}: {{{entry}}}"]
    variable = key_variable(server)
    return [
        f"  # Needs its key in {variable}.{f' Serves {served}.' if served else ''}",
        f'  {server.name}: {{{entry}, api_key: "${{{variable}:-}}"}}',
    ]


def _routes(model: str) -> str:
    return f"""\
routes:
  # Clients send model="assistant". Weights share the requests among several targets, and the
  # models of `fallback` answer when all targets fail.
  assistant:
    targets:
      - {{model: {_quoted(model)}, weight: 100}}
    # fallback: [baseline/lead-3]
"""


def _quoted(text: str) -> str:
    """Return a text as YAML reads it back, without what would be replaced in it."""
    return json.dumps(text).replace("${", "$${")


def _comment(text: str) -> str:
    """Return a text for a comment, in which it is one line of plain characters."""
    return json.dumps(text)[1:-1]
