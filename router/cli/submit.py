"""`evalrouter eval submit`: execute a run on a Ray cluster, and follow it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from providers.errors import ConfigError, MissingExtraError
from router.cli.commands import config_option, err, out
from router.cli.run_options import read_run, run_options
from router.config.loading import source_of
from router.evals.bundle import pack, read_config


@click.command("submit")
@click.argument("document", type=click.Path(path_type=Path), required=False)
@run_options
@click.option(
    "--ray-jobs",
    metavar="URL",
    help="Ray's Jobs API. Default: RAY_HEAD_NODE_HOST (127.0.0.1) at RAY_DASHBOARD_PORT (8265).",
)
@click.option("--database", help="The database on the cluster: sqlite:////full/path.db.")
@click.option("--env", "names", multiple=True, help="A variable to send along. Repeatable.")
@click.option("--no-follow", is_flag=True, help="Do not wait for it; print the job's name.")
@config_option
def eval_submit(  # noqa: PLR0917 - one parameter for each option
    document: Path | None,
    ray_jobs: str | None,
    database: str | None,
    names: tuple[str, ...],
    no_follow: bool,
    config_path: Path | None,
    **given: Any,
) -> None:
    """Execute a run on a Ray cluster, as a job of its Jobs API, and follow its log.

    The document, the files it names and the config are sent along. Ends with the run's exit code.
    """
    source = read_run(document, given)
    config = read_config(config_path or source_of(None), database)
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(f"--env: {missing[0]} is not set here")
    host = os.environ.get("RAY_HEAD_NODE_HOST") or "127.0.0.1"
    port = os.environ.get("RAY_DASHBOARD_PORT") or "8265"
    address = ray_jobs or f"http://{host}:{port}"
    try:
        from serve.batch.submission import follow, submit  # noqa: PLC0415  # imports Ray, an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("submitting runs", "ray") from error

    with tempfile.TemporaryDirectory(prefix="evalrouter-run-") as folder:
        command = pack(source.document, source.base, config, Path(folder))
        job = submit(
            address,
            folder=Path(folder),
            command=command,
            environ={name: os.environ[name] for name in names},
            name=source.document.name,
        )
    if no_follow:
        out.print(job.id, highlight=False)
        return
    err.print(f"job {job.id} at {address}", highlight=False)
    try:
        code = follow(job, _write)
    except KeyboardInterrupt:
        err.print(
            f"\nthe job goes on; follow it: ray job logs --follow --address {address} {job.id}"
            f"\nstop it: ray job stop --address {address} {job.id}",
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(1)
    sys.exit(code)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
