"""Creates the first administrator's key when a server starts, from the config or into a file.

A key of the config (or of the environment) is created unless an administrator has a key that can be
used. A key that is written into a file is only created where no key exists at all, because then
nobody could call the server.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from providers.errors import ConfigError, ConflictError
from router.config.environment import read_key_file
from router.gateway.key_administration import add, new_key, state_of
from router.gateway.keys import digest_of
from router.store.keys import KeyStore, KeyTable

log = logging.getLogger("evalrouter")

NAME = "admin"
FILE = "admin-key"


async def ensure_configured_key(store: KeyStore, key: str, now: float) -> None:
    """Create the administrator's key that the config has, unless there is one; log what was done.

    Args:
        store: where its hash is stored.
        key: the key.
        now: seconds since the epoch.

    Raises:
        ConfigError: the name of the key is taken by one that is not an administrator's.
    """
    table = await store.keys()
    if _is_known(table, key, now):
        return
    if _has_admin(table, now):
        log.warning(
            "the configured administrator's key is not created, because an administrator has "
            "another one; 'evalrouter key create NAME --admin' creates more"
        )
        return
    try:
        row = await add(store, NAME, key, now=now, role="admin")
    except ConflictError:
        # Another server that starts at the same time may have created it.
        if not _is_known(await store.keys(), key, now):
            raise ConfigError(
                f"the administrator's key cannot be created, because a key named {NAME!r} exists "
                "that is not an administrator's; revoke it with 'evalrouter key revoke admin'"
            ) from None
        return
    log.info("created the administrator's key %s (%s) from the config", row.id, row.name)


def _is_known(table: KeyTable, key: str, now: float) -> bool:
    """Return whether a key is stored; log it where that key can be used no more."""
    row = table.by_hash.get(digest_of(key.encode()))
    if row is not None and state_of(row, now) != "active":
        log.warning(
            "the configured administrator's key %s was revoked or has expired, and is not created "
            "again; configure another one, or use 'evalrouter key create NAME --admin'",
            row.id,
        )
    return row is not None


def _has_admin(table: KeyTable, now: float) -> bool:
    return any(
        row.role == "admin" and state_of(row, now) == "active" for row in table.by_hash.values()
    )


async def ensure_written_key(store: KeyStore, folder: Path, now: float) -> None:
    """Create an administrator's key and write it into a folder, unless any key exists; log where.

    Args:
        store: where its hash is stored.
        folder: where the file `admin-key` is written, with mode 0600. A file that is there already
            has the key.
        now: seconds since the epoch.

    Raises:
        ConfigError: the file cannot be written, or what is there cannot be read.
    """
    if (await store.keys()).by_hash:
        return
    path = folder / FILE
    # Written first: a key that is stored and lost would lock every user out.
    key, is_new = _read_or_write(path)
    try:
        row = await add(store, NAME, key, now=now, role="admin")
    except ConflictError:
        if is_new:
            path.unlink()
        log.info("another server has created the first administrator's key")
        return
    log.info("the administrator's key %s (%s) is in the file %s", row.id, row.name, path)


def _read_or_write(path: Path) -> tuple[str, bool]:
    """Return the key in a file, and whether it was written just now."""
    key = new_key()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key_file(path, "the administrator's key"), False
    except OSError as error:
        raise ConfigError(
            f"cannot write the administrator's key to {path}: {error.strerror}"
        ) from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise ConfigError(
            f"cannot write the administrator's key to {path}: {error.strerror}"
        ) from None
    return key, True
