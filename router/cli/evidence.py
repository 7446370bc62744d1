"""`evalrouter evidence` and `evalrouter verify`: files that others can check."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.table import Table

from providers.errors import EvalrouterError, EvidenceError
from router.cli.commands import (
    Commands,
    actor,
    config_option,
    counted,
    err,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    print_text,
    with_services,
)
from router.cli.completion import complete_runs
from router.cli.progress import progress_line
from router.cli.terminal import single_line
from router.config.loading import load
from router.loop.bundles.export import BundleOptions, ExportedBundle
from router.loop.bundles.exported import PASSPHRASE, configured_key
from router.loop.bundles.signatures import (
    fingerprint,
    read_key,
    read_public_key,
    write_key,
)
from router.loop.bundles.verification import SCORING_S, Verification
from router.loop.bundles.verification import verify as verify_bundle
from router.store.evidence import Bodies, EvidenceBundle

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

_SHOWN = 20


@click.group("evidence", cls=Commands)
def evidence() -> None:
    """Write what a run's or a rollout's numbers were made of into a file that others can check."""


@evidence.command("keygen")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def evidence_keygen(file: Path, as_json: bool) -> None:
    """Make a key to sign evidence with: FILE, which stays with you, and FILE.pub for everybody.

    With the variable EVIDENCE_PASSPHRASE, FILE is encrypted with that passphrase.
    """
    key = write_key(file, passphrase=_passphrase())
    public = file.with_name(f"{file.name}.pub")
    try:
        with public.open("xb") as file_of_public:
            file_of_public.write(key.public_pem)
    except OSError as error:
        raise EvidenceError(f"{public}: {error.strerror}") from error
    if as_json:
        print_json(
            {
                "key": str(file),
                "public_key": str(public),
                "fingerprint": fingerprint(key.public_pem),
            }
        )
        return
    out.print(f"{escape(str(file))}: keep it to yourself", soft_wrap=True)
    out.print(f"{escape(str(public))}: give it to whoever verifies your files", soft_wrap=True)
    out.print(f"fingerprint {fingerprint(key.public_pem)}", highlight=False, soft_wrap=True)


def _passphrase() -> str | None:
    return os.environ.get(PASSPHRASE) or None


@evidence.command("list")
@click.option("--subject", help="Only those of this run or rollout.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@config_option
@json_option
def evidence_list(subject: str | None, limit: int, config_path: Path | None, as_json: bool) -> None:
    """List the bundles that were written, newest first."""

    async def read(services: Services) -> Sequence[EvidenceBundle]:
        return await services.evidence.list(subject=subject, limit=limit)

    bundles: Sequence[EvidenceBundle] = with_services(load(config_path), read)
    if as_json:
        print_json(bundles)
        return
    table = Table("id", "of", "texts", "signed by", "written", "where")
    for bundle in bundles:
        table.add_row(
            bundle.id,
            escape(f"{bundle.subject} {bundle.name}".rstrip()),
            bundle.bodies,
            escape(bundle.signed_by),
            local_time(bundle.created_at),
            escape(bundle.location),
        )
    print_table(table, empty="No bundle of evidence has been written.")


@evidence.command("export")
@click.argument("subject", metavar="RUN|ROLLOUT", shell_complete=complete_runs)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write. Default: the id with .evidence.zip, here.",
)
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    help="The private key to sign it with. Default: the config's `evidence.key`, else none.",
)
@click.option(
    "--bodies",
    type=click.Choice(["masked", "keep", "hashes"]),
    default="masked",
    show_default=True,
    help="Texts without personal data, as they are, or only their hashes.",
)
@click.option("--replace", is_flag=True, help="Replace a file that is there already.")
@config_option
@json_option
def evidence_export(  # noqa: PLR0917 - one parameter for each option
    subject: str,
    output: Path | None,
    key_file: Path | None,
    bodies: Bodies,
    replace: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Write all that the numbers of a run or a rollout were made of into one file.

    `evalrouter verify FILE` recomputes the numbers from it, on any machine.
    """
    config = load(config_path)
    key = (
        configured_key(config.evidence)
        if key_file is None
        else read_key(key_file, passphrase=_passphrase())
    )

    async def export(services: Services) -> tuple[Path, ExportedBundle]:
        with _progress() as show:
            options = BundleOptions(
                bodies=bodies,
                personal_data=config.review.personal_data,
                key=key,
                routes=services.routes.table.routes,
                progress=lambda entry, rows: show(f"writing {entry}: {counted(rows, 'row')}"),
            )
            return await services.evidence.write(
                subject, output, options, replace=replace, actor=actor()
            )

    path, exported = with_services(config, export)
    if as_json:
        print_json({"file": str(path), "bundle": exported})
        return
    _print_exported(path, exported)


def _print_exported(path: Path, exported: ExportedBundle) -> None:
    signed = f"signed by {exported.signed_by}" if exported.signed_by else "not signed"
    lines = [
        f"{path}: {exported.size:,} bytes, {signed}",
        f"  sha256 {exported.sha256}",
        f"  manifest sha256 {exported.manifest}",
    ]
    changed = counted(exported.changed_rows, "row")
    lines.append(
        {
            "keep": "  texts are as they were: look at them before you pass the file on",
            "masked": f"  personal data was replaced in {changed}",
            "hashes": f"  texts are only there as hashes, in {changed}",
        }[exported.bodies]
    )
    for line in lines:
        print_text(line)


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--public-key",
    "key_file",
    type=click.Path(path_type=Path),
    help="The key that must have signed the file, from whom you trust for it.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=SCORING_S,
    show_default=True,
    help="How long answers may be scored once more.",
)
@json_option
def verify(file: Path, key_file: Path | None, seconds: float, as_json: bool) -> None:
    """Recompute every number of a file of evidence, and say what differs.

    Nothing in the file is executed, and no network, database or config is used. Exits with 1 where
    the file was changed, where another key signed it, where a number does not come out, or where
    there was not enough time.
    """
    trusted = None if key_file is None else read_public_key(key_file)

    async def run() -> Verification:
        with _progress() as show:
            return await verify_bundle(
                file,
                trusted=trusted,
                scoring_s=seconds,
                progress=lambda what, done: show(f"checking {what}" + f": {done:,}" * bool(done)),
            )

    try:
        result = asyncio.run(run())
    except EvalrouterError as error:
        raise EvidenceError(single_line(error.message)) from error
    if as_json:
        print_json({"passed": result.passed, **msgspec.structs.asdict(result)})
    else:
        _print_verification(result)
    if not result.passed:
        sys.exit(1)


def _print_verification(result: Verification) -> None:
    for text, style in _lines(result):
        # What the bundle says must not look like a line of this program.
        print_text(single_line(text), style=style)


def _lines(result: Verification) -> Iterator[tuple[str, str | None]]:
    """Yield the lines about a verification, each with its style."""
    yield f"{result.file}: manifest sha256 {result.manifest}", None
    if result.refused:
        yield f"REFUSED: {result.refused}", "bold red"
        return
    of = f"{result.kind} {result.subject} ({result.name})"
    yield f"evidence of {of}, texts: {result.bodies}", None
    yield (
        {
            "trusted": f"signed by {result.signed_by}, the key that you named",
            "unnamed": f"signed by {result.signed_by}, which you have not named as trusted "
            "(--public-key)",
            "none": "not signed: where it comes from cannot be checked",
        }[result.signature],
        None,
    )
    for sentence in result.checked:
        yield sentence, None
    for sentence in result.not_recomputed:
        yield f"not recomputed: {sentence}", None
    for sentence in result.versions:
        yield f"note: {sentence}", None
    for difference in result.differences[:_SHOWN]:
        yield (
            f"differs: {difference.what}: stated {difference.stated}, recomputed "
            f"{difference.recomputed}",
            "red",
        )
    if result.differing > _SHOWN:
        yield f"and {result.differing - _SHOWN:,} more; --json has more of them", None
    if result.differing:
        yield (
            f"DIFFERS: {result.differing:,} numbers do not come out as stated, {result.agree:,} do",
            "bold red",
        )
    elif result.unscored:
        yield (
            f"INCOMPLETE: {counted(result.unscored, 'answer')} could not be scored in time; "
            f"{result.agree:,} numbers come out as stated",
            "bold yellow",
        )
    else:
        yield f"OK: {result.agree:,} numbers come out as stated", "green"


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show progress on stderr: one line that changes on a terminal, else a line for each step."""
    if not err.is_terminal:
        shown = ""

        def show_once(text: str) -> None:
            nonlocal shown
            step = text.partition(":")[0]
            if step != shown:
                err.print(escape(step), highlight=False)
                shown = step

        yield show_once
        return
    with progress_line() as show:
        yield show
