"""`evalrouter doctor`: what is installed, reachable, wrong or slow, and what to do about it."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import click
import msgspec

from providers.errors import ConfigError
from providers.masking import Masks
from router.cli.commands import (
    config_option,
    escape,
    json_option,
    out,
    print_json,
    print_text,
)
from router.cli.doctor import machine, storage
from router.cli.doctor.findings import Finding, PlannedCheck, Results, run_checks
from router.cli.doctor.hosts import ProviderChecks
from router.cli.doctor.traces import traces
from router.config.documents import read_text, read_yaml
from router.config.environment import referenced_variables
from router.config.loading import (
    DEFAULT_FILE,
    answered_variables,
    load,
    source_of,
    unread_variables,
)
from router.config.providers import KEY_VARIABLES
from router.config.schema import Config
from router.config.watches import small_references

_COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "bold red"}


class Diagnosis(msgspec.Struct, frozen=True):
    """Everything that was checked. `ok` is whether there is no failure."""

    ok: bool
    findings: list[Finding]


@click.command()
@config_option
@click.option(
    "--timeout",
    "limit_s",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=10.0,
    show_default=True,
    help="Seconds that each provider may take.",
)
@json_option
def doctor(config_path: Path | None, limit_s: float, *, as_json: bool) -> None:
    """Check the config, the providers and their keys, the stores, traces and this machine.

    Each provider is requested to list its models, which costs nothing. Nothing is changed. Exit
    code 1 where something has to be mended.
    """
    results = _examined(config_path, limit_s)
    diagnosis = Diagnosis(
        all(finding.status != "failure" for finding in results.findings), results.findings
    )
    if as_json:
        print_json(diagnosis)
    else:
        _print(diagnosis)
    code = 0 if diagnosis.ok else 1
    if not results.complete:
        # Python would wait for the thread of the check that hangs.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _examined(path: Path | None, limit_s: float) -> Results:
    # A provider may take its time twice, and name servers as well.
    in_all_s = 2 * limit_s + 2
    try:
        config = load(path)
    except ConfigError as error:
        findings = [
            Finding("config", "failure", line, "correct it, and check with evalrouter config check")
            for line in error.message.splitlines()
        ]
        rest = "not checked, because the config cannot be read: providers, stores, port"
        findings.append(Finding("config", "note", rest))
        results = run_checks(_of_machine(None), in_all_s)
        return results._replace(findings=findings + results.findings)
    source = source_of(path)
    hosts = ProviderChecks(config, _variables(source, config), limit_s)
    database = storage.Database(config.storage)
    checks = [
        *_of_machine(config),
        *(PlannedCheck(name, partial(hosts.check, name)) for name in hosts.names()),
        PlannedCheck("database", database.check),
        PlannedCheck("artifacts", lambda: storage.artifacts(config.storage)),
        PlannedCheck("port", lambda: machine.port(config.server)),
    ]
    if config.schedules:
        checks.append(PlannedCheck("schedules", lambda: _schedules(config, source)))
    if config.telemetry.otlp_endpoint:
        checks.append(PlannedCheck("traces", lambda: traces(config.telemetry, limit_s)))
    if config.models:
        checks.append(PlannedCheck("models", lambda: machine.models(config)))
    results = run_checks(checks, in_all_s)
    findings = [
        _described(source, config),
        *(Finding("environment", "warning", text) for text in unread_variables(path)),
        *(Finding("watches", "warning", text) for text in small_references(config.watches)),
        *(Finding("environment", "note", text) for text in answered_variables(path)),
        *results.findings,
        *hosts.routes(),
        *hosts.retirements(),
        hosts.clock(database.clock_offset_s),
    ]
    # A host's error, or a driver's, may quote what it was sent.
    masks = Masks(config)
    return results._replace(
        findings=[
            msgspec.structs.replace(finding, message=masks.mask_text(finding.message))
            for finding in findings
        ]
    )


def _of_machine(config: Config | None) -> list[PlannedCheck]:
    return [
        PlannedCheck("versions", machine.versions),
        PlannedCheck("extras", lambda: machine.extras(config)),
        PlannedCheck("plugins", machine.plugins),
        PlannedCheck("disk", lambda: machine.disks(config)),
    ]


def _described(source: Path | None, config: Config) -> Finding:
    providers = ", ".join(config.providers)
    if source is None:
        message = f"no {DEFAULT_FILE} here; the embedded default has the providers {providers}"
        return Finding("config", "note", message, "evalrouter init writes one")
    return Finding("config", "ok", f"{source} has the providers {providers}")


def _schedules(config: Config, source: Path | None) -> list[Finding]:
    """Check the schedules' run documents and gates, which a server refuses to start with."""
    from router.services import check_schedules  # noqa: PLC0415  # takes a while to import

    try:
        check_schedules(config, source)
    except ConfigError as error:
        remedy = "correct it, and check with evalrouter config check"
        return [
            Finding("schedules", "failure", line, remedy) for line in error.message.splitlines()
        ]
    return [Finding("schedules", "ok", f"can be executed: {', '.join(config.schedules)}")]


def _variables(source: Path | None, config: Config) -> dict[str, str]:
    """Return the variables that the providers' keys come from, as far as the file shows them."""
    variables = {
        name: KEY_VARIABLES[provider.kind]
        for name, provider in config.providers.items()
        if name == provider.kind and os.environ.get(KEY_VARIABLES.get(name, ""))
    }
    if source is None:
        return variables
    document, _ = read_yaml(read_text(source, error=ConfigError), str(source), error=ConfigError)
    entries = document.data.get("providers") if isinstance(document.data, dict) else None
    for name, entry in (entries if isinstance(entries, dict) else {}).items():
        written = entry.get("api_key") if isinstance(entry, dict) else None
        referenced = referenced_variables(written) if isinstance(written, str) else []
        if referenced:
            variables[name] = referenced[0]
        else:
            variables.pop(name, None)
    return variables


def _print(diagnosis: Diagnosis) -> None:
    wide = max(len(finding.area) for finding in diagnosis.findings)
    for finding in diagnosis.findings:
        color = _COLORS[finding.status]
        out.print(
            f"[{color}]{finding.status:<8}[/] {escape(finding.area):<{wide}}  "
            f"{escape(finding.message)}",
            highlight=False,
            soft_wrap=True,
        )
        if finding.remedy:
            indent = " " * (wide + 11)
            print_text(f"{indent}{finding.remedy}")
    failures = sum(finding.status == "failure" for finding in diagnosis.findings)
    warnings = sum(finding.status == "warning" for finding in diagnosis.findings)
    out.print(f"failures: {failures}, warnings: {warnings}", highlight=False)
