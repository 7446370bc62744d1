"""`evalrouter demo`, `config` and `data`: the commands that need no server."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import click

from evaluators.data import language_data
from providers.errors import ConflictError
from router.cli.commands import (
    Commands,
    err,
    escape,
    out,
    print_warning,
)
from router.config.loading import answered_variables, load, source_of, unread_variables
from router.config.watches import small_references


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Route, evaluate and compare, offline, in under a minute."""
    if ctx.invoked_subcommand is None:
        from router.cli.demo import show  # noqa: PLC0415  # Litestar takes a while to import

        show(out)


@demo.command("loop")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the server's config and database go. Default: a new temporary folder.",
)
def demo_loop(folder: Path | None) -> None:
    """Go from traffic to a promoted model, and back from a worse one, offline, in two minutes.

    People write to a route and say whether the answers are right. What they wrote is reviewed,
    replayed by a candidate and answered by it in the shadow; then the candidate gets a growing
    share of the requests until the rules promote it. A second one, which is worse, is rolled back.
    """
    from router.cli.demo_loop import show  # noqa: PLC0415  # as above

    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="evalrouter-loop-"))
    elif (folder / "evalrouter.yaml").exists():
        raise ConflictError(f"{folder} has an evalrouter.yaml already; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    show(out, folder.resolve())


@click.group(cls=Commands)
def config() -> None:
    """Work with config files."""


@config.command("check")
@click.argument("path", type=click.Path(path_type=Path), required=False)
def config_check(path: Path | None) -> None:
    """Check a config file: show everything that is wrong with it, or what it defines.

    Without PATH, it checks what a server would start with.
    """
    checked = load(path)
    if checked.schedules:
        from router.services import check_schedules  # noqa: PLC0415  # takes a while to import

        check_schedules(checked, source_of(path))
    for warning in [*unread_variables(path), *small_references(checked.watches)]:
        print_warning(warning)
    for answer in answered_variables(path):
        err.print(f"[cyan]note:[/] {escape(answer)}", soft_wrap=True, highlight=False)
    source = source_of(path) or "the embedded default"
    good = f"{source}: good. Providers: {', '.join(checked.providers)}."
    out.print(good, soft_wrap=True, highlight=False)
    for name, route in checked.routes.items():
        targets = ", ".join(f"{target.model} ({target.weight:g})" for target in route.targets)
        then = f", then {', '.join(route.fallback)}" if route.fallback else ""
        out.print(f"  {name}: {targets}{then}", highlight=False)
    for name, schedule in checked.schedules.items():
        off = "" if schedule.enabled else " (not enabled)"
        out.print(f"  schedule {name}: {schedule.line}{off}", highlight=False)
    for name, watch in checked.watches.items():
        out.print(f"  watch {name}: {watch.target}, {watch.cron} {watch.timezone}", highlight=False)
    for name, rule in checked.alerts.rules.items():
        out.print(f"  alert {name}: {rule.subject}", highlight=False)


@click.group(cls=Commands)
def data() -> None:
    """Data that some metrics need and that is never downloaded by itself."""


@data.command("install")
@click.argument("name", type=click.Choice(get_args(language_data.Name)))
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="The folder that has it. Default: where Debian (wordnet) or NLTK (punkt) keeps it.",
)
def data_install(name: language_data.Name, source: Path | None) -> None:
    """Copy WordNet or punkt's sentence data into your data folder, for the metric meteor."""
    out.print(f"{name} is in {language_data.install(name, source)}", highlight=False)
