"""Runs carried out by the command line, on the session's Ray cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(folder: Path, cluster: Any, *resume: str) -> subprocess.Popen[str]:
    """`eval run` of the folder's run.json on the cluster, or `eval` with other words."""
    command = [sys.executable, "-m", "router", "eval", *(resume or ("run", "run.json")), "--json"]
    if not resume:
        command += ["--ray-address", cluster.address]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=cluster.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(run: subprocess.Popen[str], *, within: float = 60) -> tuple[str, str]:
    """What it told, and its errors; it is killed when it takes too long."""
    try:
        return run.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        run.kill()
        return run.communicate()


def finish(run: subprocess.Popen[str], *, within: float = 60) -> dict[str, Any]:
    """What it told, when all went well."""
    told, errors = ended(run, within=within)
    assert run.returncode == 0, errors
    outcome: dict[str, Any] = json.loads(told)
    return outcome
