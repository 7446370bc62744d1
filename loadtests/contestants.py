"""The contestants and how each is started: the router, the floor, its peers, the machine's limit.

    installed, missing = contestants(litellm=Path(...), portkey=None)

A contestant is given a Site and answers with a Start. All use the same upstream, and all
write as little to disk and to logs as they can, except the router: it is measured with
keys, limits, request records and metrics switched on.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from loadtests.client import MODEL

ROOT = Path(__file__).parents[1]


SHARED = ("httptools", "msgspec", "uvicorn", "uvloop")


class Site(NamedTuple):
    """Where a contestant is to run.

    Attributes:
        folder: an empty folder for its files.
        port: of 127.0.0.1, to listen on.
        upstream: base URL, up to and including `/v1`.
    """

    folder: Path
    port: int
    upstream: str


class NotPrepared(Exception):  # noqa: N818  # reads as what happened
    """A contestant cannot be started, and why."""


class Start(NamedTuple):
    """How to run a contestant.

    Attributes:
        command: program and arguments.
        headers: what its clients must send beside the content type.
        env: added to the environment.
        manage: headers for its own pages, where `headers` are not enough.
    """

    command: list[str]
    headers: dict[str, str]
    env: Mapping[str, str] = MappingProxyType({})
    manage: Mapping[str, str] = MappingProxyType({})


class Contestant(NamedTuple):
    """One column of the table.

    Attributes:
        name: as given to `--only`.
        versions: package to version.
        prepare: writes what files it needs, and says how to start it; raises NotPrepared.
        complaint: called after its turn, while it still runs, with its port and its Start; returns
            what it did not do although it was measured with it, None if it did everything.
    """

    name: str
    versions: dict[str, str]
    prepare: Callable[[Site], Start]
    complaint: Callable[[int, Start], str | None] = lambda _port, _start: None


def contestants(
    litellm: Path | None,
    portkey: Path | None,
    before: Path | None = None,
    postgresql: str | None = None,
) -> tuple[list[Contestant], dict[str, str]]:
    """Return those that are installed, and why each of the others is not.

    Args:
        litellm: the virtual environment that LiteLLM is installed in.
        portkey: the folder that was npm's `--prefix` for Portkey's gateway.
        before: a checkout of an earlier version of evalrouter.
        postgresql: the address of an empty database, for evalrouter with its store there.
    """
    installed = [
        Contestant(
            "evalrouter",
            _packages("evalrouter", "litestar", *SHARED),
            _evalrouter,
            _dropped_records,
        ),
        *(
            Contestant(
                name,
                _packages("evalrouter", "litestar", *SHARED),
                partial(_evalrouter, config_text=_loop(share)),
                _without_loop,
            )
            for name, share in (("loop", 0.0001), ("sampled", 0.01))
        ),
        Contestant("floor", _packages("aiohttp", *SHARED), _floor),
    ]
    if before is not None:
        installed.insert(1, _earlier(before))
    if postgresql is not None:
        installed.insert(1, _with_postgresql(postgresql))
    missing: dict[str, str] = {}
    peers = {
        "litellm": _find_litellm(litellm),
        "portkey": _find_portkey(portkey),
        "nginx": _find_nginx(),
    }
    for name, peer in peers.items():
        if isinstance(peer, str):
            missing[name] = peer
        else:
            installed.append(peer)
    return installed, missing


def _packages(*names: str) -> dict[str, str]:
    return {name: version(name) for name in names}


# Every limit is there to be checked at each request, and too high to be met.
EVALROUTER = """
providers:
  up: {{kind: compatible, base_url: "{upstream}", api_key: "upstream"}}
routes:
  {model}: {{targets: [{{model: up/m}}]}}
prices:
  up/m: {{input: 1, output: 1}}
record: metadata
storage: {{database: "{database}"}}
"""
# The same with a shadow and a rollout's first step, each with a share of the requests.
LOOP = """
providers:
  up: {{kind: compatible, base_url: "{upstream}", api_key: "upstream"}}
routes:
  {model}:
    targets: [{{model: up/m}}]
    share_bodies_with: [up]
    shadow: {{targets: [up/shadowed], sample: SHARE}}
    rollout: {{candidate: up/candidate, steps: [PERCENT, 100], force: true}}
prices:
  up/m: {{input: 1, output: 1}}
  up/shadowed: {{input: 1, output: 1}}
  up/candidate: {{input: 1, output: 1}}
record: metadata
storage: {{database: "{database}"}}
"""
KEY = {
    "rpm": "100000000",
    "tpm": "1000000000",
    "parallel": "100000",
    "budget": "1000000",
    "per": "month",
    "expires": "30d",
    "route": MODEL,
}


def _loop(share: float) -> str:
    """Return the config of a route whose shadow and candidate have a share of its requests."""
    return LOOP.replace("SHARE", str(share)).replace("PERCENT", f"{100 * share:g}")


def _earlier(checkout: Path) -> Contestant:
    """Return an earlier version of the router, run by this environment's Python and packages."""
    git = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    return Contestant(
        "before",
        {"evalrouter": commit},
        lambda site: _evalrouter(site, checkout.resolve()),
        _dropped_records,
    )


def _with_postgresql(address: str) -> Contestant:
    """Return this version with its store in a PostgreSQL database."""
    return Contestant(
        "postgresql",
        _packages("evalrouter", "psycopg"),
        lambda site: _evalrouter(site, database=address),
        _dropped_records,
    )


def _evalrouter(
    site: Site, checkout: Path = ROOT, database: str = "", config_text: str = EVALROUTER
) -> Start:
    config = site.folder / "evalrouter.yaml"
    text = config_text.format(
        upstream=site.upstream,
        model=MODEL,
        database=database or f"sqlite:///{site.folder}/evalrouter.db",
    )
    config.write_text(text, encoding="utf-8")
    # -P, because the working folder would come before the checkout.
    command = [sys.executable, "-P", "-m", "router"]
    env = {"PYTHONPATH": str(checkout)}
    limits = [f"--{name}={value}" for name, value in KEY.items()]
    serve = [*command, "serve", "--config", str(config), "--port", str(site.port)]
    return Start(
        serve,
        {"authorization": f"Bearer {_key(command, env, config, f'load-{site.port}', *limits)}"},
        env,
        # A key that is confined to routes may not read the metrics.
        manage={
            "authorization": f"Bearer {_key(command, env, config, f'look-{site.port}', '--admin')}"
        },
    )


def _key(program: list[str], env: Mapping[str, str], config: Path, name: str, *options: str) -> str:
    """Return a new key.

    Raises:
        NotPrepared: the command line refuses, and what it says.
    """
    command = [*program, "key", "create", name, *options, "--config", str(config), "--json"]
    made = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}
    )
    if made.returncode:
        raise NotPrepared(f"no key: {made.stderr.strip()}")
    key: str = json.loads(made.stdout)["key"]
    return key


DROPPED = re.compile(r"^evalrouter_traffic_dropped_total(?:\{.*\})? (\S+)$", re.MULTILINE)


def _without_loop(port: int, start: Start) -> str | None:
    """Return why the measurement does not count: there was no shadow, or no rollout."""
    for path in ("/shadows", "/rollouts"):
        states = [row.get("state") for row in json.loads(_page(port, start, path))["data"]]
        if states not in (["running"], ["holding"]):
            return f"{path} has {states}"
    return _dropped_records(port, start)


def _page(port: int, start: Start, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=start.manage)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def _dropped_records(port: int, start: Start) -> str | None:
    """Return why the measurement does not count: request records that were dropped."""
    text = _page(port, start, "/metrics")
    counts = [float(number) for number in DROPPED.findall(text)]
    if not counts:
        return f"its metrics do not count dropped request records: {text[:200]}"
    return f"{sum(counts):.0f} request records were dropped" if sum(counts) else None


def _floor(site: Site) -> Start:
    command = [sys.executable, "-m", "loadtests.floor", "--port", str(site.port)]
    return Start([*command, "--upstream", site.upstream], {"authorization": "Bearer client"})


LITELLM = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/m, api_base: "{upstream}", api_key: upstream}}
litellm_settings: {{telemetry: false, num_retries: 0, callbacks: []}}
general_settings: {{master_key: "{key}", disable_spend_logs: true}}
"""


def _find_litellm(folder: Path | None) -> Contestant | str:
    if folder is None:
        return "give its virtual environment with --litellm or LITELLM_VENV"
    python = folder / "bin" / "python"
    program = folder / "bin" / "litellm"
    if not program.exists():
        return f"{folder} has no bin/litellm"
    program_text = (
        "import json, platform; from importlib.metadata import version; print(json.dumps("
        "{'python': platform.python_version()}"
        " | {n: version(n) for n in ('litellm', 'uvicorn', 'uvloop', 'aiohttp', 'httpx')}))"
    )
    answer = subprocess.run([python, "-c", program_text], check=True, capture_output=True)

    def prepare(site: Site) -> Start:
        config = site.folder / "litellm.yaml"
        # It does not start without one, nor with one that is easy to guess.
        key = f"sk-{secrets.token_hex(32)}"
        text = LITELLM.format(upstream=site.upstream, model=MODEL, key=key)
        config.write_text(text, encoding="utf-8")
        command = [str(program), "--config", str(config), "--host", "127.0.0.1"]
        return Start(
            [*command, "--port", str(site.port), "--num_workers", "1"],
            {"authorization": f"Bearer {key}"},
            {
                "LITELLM_LOG": "ERROR",
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_TELEMETRY": "False",
                # Its price list comes with the package; it would fetch a newer one at the start.
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                # Its default of 500 connections to a host leaves half of 1,000 streams waiting.
                "AIOHTTP_CONNECTOR_LIMIT": "4000",
                "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "4000",
            },
        )

    return Contestant("litellm", json.loads(answer.stdout), prepare)


def _find_portkey(folder: Path | None) -> Contestant | str:
    if folder is None:
        return "give npm's prefix with --portkey or PORTKEY_PREFIX"
    package = folder / "node_modules" / "@portkey-ai" / "gateway"
    script = package / "build" / "start-server.js"
    if not script.exists():
        return f"{folder} has no node_modules/@portkey-ai/gateway"
    node = shutil.which("node")
    if node is None:
        return "node is not installed"
    packages = ("@portkey-ai/gateway", "@hono/node-server", "hono")
    versions = {name: _npm_version(folder / "node_modules" / name) for name in packages}
    runtime = subprocess.run([node, "--version"], check=True, capture_output=True, text=True)

    def prepare(site: Site) -> Start:
        return Start(
            [node, str(script), "--headless", f"--port={site.port}"],
            {
                "authorization": "Bearer upstream",
                "x-portkey-provider": "openai",
                "x-portkey-custom-host": site.upstream,
            },
            {"NODE_ENV": "production"},
        )

    return Contestant("portkey", {"node": runtime.stdout.strip()} | versions, prepare)


def _npm_version(package: Path) -> str:
    about = json.loads((package / "package.json").read_text(encoding="utf-8"))
    number: str = about["version"]
    return number


NGINX = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream host {{ server {upstream}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    keepalive_requests 100000000;
    location / {{
      proxy_pass http://host;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def _find_nginx() -> Contestant | str:
    # Debian puts it where only root's PATH looks.
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        return "nginx is not installed: apt-get install nginx-light"
    usage = subprocess.run([program, "-v"], check=True, capture_output=True, text=True).stderr

    def prepare(site: Site) -> Start:
        config = site.folder / "nginx.conf"
        host = site.upstream.removeprefix("http://").removesuffix("/v1")
        # Started by root, its worker would become a user who cannot write to our folder.
        user = "user root;" if os.geteuid() == 0 else ""
        text = NGINX.format(user=user, folder=site.folder, upstream=host, port=site.port)
        config.write_text(text, encoding="utf-8")
        return Start([program, "-e", "stderr", "-c", str(config)], {})

    return Contestant("nginx", {"nginx": usage.strip().rpartition("/")[2]}, prepare)
