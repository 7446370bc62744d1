"""Runs a command on a Ray cluster through its Jobs API, and follows the command's log.

    job = submit("http://head:8265", folder=folder, command=["evalrouter", "eval", "list"])
    code = follow(job, sys.stdout.write)

Ray copies the folder to the cluster, where the command begins in it. Only HTTP goes there: this
process joins no cluster.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from providers.errors import EvalrouterError

_POLL_EVERY_S = 0.5

# What Ray says of packages and connections is not the job's log.
for _name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
    logging.getLogger(f"ray.{_name}").setLevel(logging.WARNING)
logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)


class SubmissionError(EvalrouterError):
    """The Jobs API cannot be reached, or refuses the job."""

    code = "submission_failed"


class SubmittedJob(NamedTuple):
    """A job that was submitted.

    Attributes:
        id: Ray's name for the job.
        address: the address of the Jobs API.
        client: Ray's client of that API.
    """

    id: str
    address: str
    client: Any


def submit(
    address: str,
    *,
    folder: Path,
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    name: str = "",
) -> SubmittedJob:
    """Run a command on the cluster's head.

    Args:
        address: the address of the Jobs API, such as `http://head:8265`.
        folder: what the command needs; at most what Ray takes, 512 MiB.
        command: the program and its arguments.
        environ: variables for it. Whoever may look at the cluster's jobs can see them.
        name: a name for the job's metadata.

    Raises:
        SubmissionError: it could not be submitted.
    """
    try:
        client = JobSubmissionClient(address)
        job_id: str = client.submit_job(
            entrypoint=shlex.join(command),
            runtime_env={"working_dir": str(folder), "env_vars": dict(environ or {})},
            metadata={"name": name},
        )
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SubmissionError(f"no job at {address}: {_first_line(error)}") from error
    return SubmittedJob(job_id, address, client)


def follow(job: SubmittedJob, write: Callable[[str], Any]) -> int:
    """Pass a job's log on until the job ends.

    Args:
        job: what `submit` returned.
        write: takes what the job has written, in pieces.

    Returns:
        The command's exit code; 1 when it was stopped or never began.

    Raises:
        SubmissionError: the cluster was lost on the way; the job may go on.
    """
    try:
        return asyncio.run(_follow(job, write))
    except (RayError, ConnectionError, RuntimeError, OSError, aiohttp.ClientError) as error:
        raise SubmissionError(
            f"lost sight of job {job.id} at {job.address}: {_first_line(error)}"
        ) from error


async def _follow(job: SubmittedJob, write: Callable[[str], Any]) -> int:
    async for piece in job.client.tail_job_logs(job.id):
        write(piece)
    # The log may end a little before the job does.
    while True:
        info = await asyncio.to_thread(job.client.get_job_info, job.id)
        if JobStatus(info.status).is_terminal():
            break
        await asyncio.sleep(_POLL_EVERY_S)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.driver_exit_code is None or info.status == JobStatus.STOPPED:
        write(f"{info.message}\n")
    return info.driver_exit_code or 1


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
