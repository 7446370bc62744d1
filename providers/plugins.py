"""Finds what installed packages add to evalrouter, by their entry points.

    [project.entry-points."evalrouter.metrics"]         # in the package's pyproject.toml
    shout = "evalrouter_shout:Shout"

    find("evalrouter.metrics", built_in=METRICS).usable["shout"].load()

`find` reads the metadata of the installed packages and imports nothing; `Plugin.load` imports.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NamedTuple

PluginGroup = Literal["evalrouter.metrics", "evalrouter.providers", "evalrouter.judges"]

# Without a dot, a colon and a slash, so that no name can be a file's, or a metric's with a preset.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# What an exception of a package's code may add to a line.
_MAX_REASON = 500


class PluginError(Exception):
    """What a package installs cannot be used; the text names both and says why, in one line."""


class Plugin(NamedTuple):
    """Something that an installed package adds.

    Attributes:
        name: its name in run documents and configs.
        package: the distribution that installs it.
        version: the distribution's version.
        point: the entry point.
    """

    name: str
    package: str
    version: str
    point: EntryPoint

    def __str__(self) -> str:
        return f"{self.name!r} of the package {self.package} {self.version}"

    @property
    def origin(self) -> str:
        """What a signature says of it: the package with its version."""
        return f"{self.package}:{self.version}"

    def load(self) -> Any:
        """Return the object that the entry point names.

        Raises:
            PluginError: it cannot be imported.
        """
        try:
            return self.point.load()
        except (Exception, SystemExit) as error:  # importing may raise anything
            raise self.error(error) from error

    def error(self, why: BaseException | str) -> PluginError:
        """Return the error that it cannot be used."""
        if isinstance(why, BaseException):
            why = f"{type(why).__name__}: {why}"
        return PluginError(f"{self} cannot be used: {in_one_line(why)[:_MAX_REASON]}")


def in_one_line(text: str) -> str:
    """Return a text from elsewhere as a line for logs: no breaks, no other control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


class Plugins(NamedTuple):
    """What packages install under one group.

    Attributes:
        usable: by name.
        refused: those that are in the way of another one, or have no usable name, and why.
    """

    usable: Mapping[str, Plugin]
    refused: tuple[tuple[Plugin, PluginError], ...]

    def get(self, name: str) -> Plugin | None:
        """Return the plugin of that name, None where no package installs one.

        Raises:
            PluginError: all that packages install under that name is refused.
        """
        for plugin, error in self.refused:
            if plugin.name == name:
                raise error
        return self.usable.get(name)


def find(group: PluginGroup, *, built_in: Collection[str]) -> Plugins:
    """Return what packages install under a group; nothing is imported.

    Args:
        group: the entry points' group.
        built_in: the names that evalrouter has already, which no package can take.
    """
    installed = sorted(map(_plugin, entry_points(group=group)), key=lambda plugin: plugin[:3])
    names = Counter(plugin.name for plugin in installed)
    usable: dict[str, Plugin] = {}
    refused: list[tuple[Plugin, PluginError]] = []
    for plugin in installed:
        if not _NAME.fullmatch(plugin.name):
            why = "its name must be letters, digits, - and _, and begin with a letter"
        elif plugin.name in built_in:
            why = "evalrouter has something of this name itself; the package must rename it"
        elif names[plugin.name] > 1:
            packages = sorted({other.package for other in installed if other.name == plugin.name})
            why = f"more than one thing has this name, of {', '.join(packages)}; remove one"
        else:
            usable[plugin.name] = plugin
            continue
        refused.append((plugin, plugin.error(why)))
    return Plugins(usable, tuple(refused))


def _plugin(point: EntryPoint) -> Plugin:
    if point.dist is None:
        return Plugin(point.name, "unknown", "unknown", point)
    # A package that was removed by hand may leave metadata without a name behind.
    fields = dict(point.dist.metadata.json)
    name, version = fields.get("name", "unknown"), fields.get("version", "unknown")
    return Plugin(point.name, str(name), str(version), point)
