"""What evalrouter and installed packages offer to run documents and configs, for people to see.

    for plugin in installed():
        print(plugin.name, plugin.error)

Each is imported, which may take as long as its package likes.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from evaluators.judge import kinds as judge_kinds
from evaluators.metrics import registry
from providers import kinds as provider_kinds
from providers.errors import EvalrouterError
from providers.plugins import Plugin, PluginError, PluginGroup, Plugins

log = logging.getLogger("evalrouter")

# A package may import slowly; a server that waits for one says which.
SLOW_S = 10.0


class InstalledPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an installed package adds.

    Attributes:
        group: the group of its entry point.
        name: its name in run documents and configs.
        package: the distribution that installs it.
        version: the distribution's version.
        error: why it cannot be used, "" where it can.
    """

    group: PluginGroup
    name: str
    package: str
    version: str
    error: str = ""


class MetricEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A metric that a run document may name.

    Attributes:
        name: its name.
        package: the distribution that it comes from; `evalrouter` for those that ship.
        version: the version of another distribution; "" for those that ship.
        description: what it measures, in a line.
        options: the names of its options.
        required: the options that it cannot do without.
        outputs: its scores with default options; empty where it has required options, or needs a
            package that is not installed.
        error: why it cannot be used here, "" where it can.
    """

    name: str
    package: str = "evalrouter"
    version: str = ""
    description: str = ""
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    error: str = ""


def installed() -> Iterator[InstalledPlugin]:
    """Yield what packages install, each imported and checked. Blocks while they are imported."""
    groups: tuple[tuple[PluginGroup, Callable[[], Plugins], Callable[[Plugin], object]], ...] = (
        (registry.ENTRY_POINTS, registry.installed_metrics, registry.installed_metric),
        (
            provider_kinds.ENTRY_POINTS,
            provider_kinds.installed_kinds,
            lambda plugin: provider_kinds.kind_of(plugin.name),
        ),
        (judge_kinds.ENTRY_POINTS, judge_kinds.installed_kinds, judge_kinds.installed_kind),
    )
    for group, find, check in groups:
        plugins = find()
        for plugin in plugins.usable.values():
            yield _shown(group, plugin, _error(plugin, check))
        for plugin, error in plugins.refused:
            yield _shown(group, plugin, str(error))


def _shown(group: PluginGroup, plugin: Plugin, error: str) -> InstalledPlugin:
    return InstalledPlugin(
        group=group, name=plugin.name, package=plugin.package, version=plugin.version, error=error
    )


def _error(plugin: Plugin, check: Callable[[Plugin], object]) -> str:
    slow = threading.Timer(SLOW_S, log.warning, ("%s is still being imported", plugin))
    slow.daemon = True
    slow.start()
    try:
        check(plugin)
    except PluginError as error:
        return str(error)
    finally:
        slow.cancel()
    return ""


def report() -> None:
    """Import what packages install, and log a line for each that cannot be used.

    What is imported once does not hold up the requests that use it.
    """
    for plugin in installed():
        if plugin.error:
            log.error("%s: %s", plugin.group, plugin.error)


def metrics() -> Iterator[MetricEntry]:
    """Yield every metric that has a name: those that ship, then those of packages."""
    for name in registry.METRICS:
        yield _entry(name, registry.constructor(name))
    plugins = registry.installed_metrics()
    for plugin in plugins.usable.values():
        known = MetricEntry(name=plugin.name, package=plugin.package, version=plugin.version)
        try:
            kind = registry.installed_metric(plugin)
        except PluginError as error:
            yield msgspec.structs.replace(known, error=str(error))
            continue
        entry = _entry(plugin.name, kind)
        yield msgspec.structs.replace(entry, package=plugin.package, version=plugin.version)
    for plugin, refusal in plugins.refused:
        yield MetricEntry(
            name=plugin.name, package=plugin.package, version=plugin.version, error=str(refusal)
        )


def _entry(name: str, kind: Callable[..., Any]) -> MetricEntry:
    options = [
        option
        for option in inspect.signature(kind).parameters.values()
        if option.kind is option.KEYWORD_ONLY
    ]
    required = tuple(option.name for option in options if option.default is option.empty)
    outputs: tuple[str, ...] = ()
    error = ""
    if not required:
        try:
            outputs = tuple(output.name for output in registry.build(name).outputs)
        except EvalrouterError as problem:
            error = problem.message
    return MetricEntry(
        name=name,
        description=(inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " "),
        options=tuple(option.name for option in options),
        required=required,
        outputs=outputs,
        error=error,
    )
