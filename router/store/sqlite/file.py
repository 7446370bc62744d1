"""The database file: how to connect to it, and whether it is still the one that was opened.

SQLite continues to read and write a file that was deleted or replaced, and whatever it writes then
is lost. So a `DatabaseFile` remembers which file it opened, and compares before every transaction.
A file that was moved away and is back is used as before. A database that was put in the place of
another one is taken over, without what the write-ahead log of the other one holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from sqlite_utils import Database

from providers.errors import EvalrouterError, StoreError, StoreFault, StoreUnavailableError
from router.store.sqlite.migrations import is_known, migrate

log = logging.getLogger("evalrouter")

BUSY_S = 10.0  # how long to wait for another process that writes
TRY_S = 0.25  # how long one attempt waits, before the writing thread decides about the next one
CHECK_BUSY_S = 1.0
PAUSE_S = 0.02  # at most, between attempts for which SQLite does not wait
# A write-ahead log that is longer is begun anew, and cut to this.
LOG_BYTES = 64 * 2**20
# How long that waits for reads that need the old one, with writes waiting behind it; and how long
# until the attempt after one that failed.
RESTART_S, RESTART_EVERY_S = 5.0, 15.0
# With less room than this, the next write may be the first one to fail.
MIN_FREE_BYTES = 2**20
# After a scan of all pages that took a second, this many seconds pass until the next one.
PAUSE_AFTER_SCAN = 5.0

_LOCKED = "another process has kept the database locked for too long"
_DAMAGED = "the database is damaged; put a backup in its place"

# Device and number of a file, which stay the same when it is moved.
_Identity = tuple[int, int]


class DatabaseFile:
    """A SQLite file in WAL mode, from `open_for_writing` on.

    Args:
        path: the file's path.
        create: whether a missing file is created.

    Attributes:
        path: the file's path.
        generation: how often another database was taken over; a connection belongs to one
            generation.
        is_corrupt: whether a read or a write met a damaged page, and no scan of all pages has been
            clean since.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._create = create
        self.generation = 0
        # Absolute, because ":memory:" and "" mean something else to SQLite.
        self._place = path.absolute()
        self._log, self._index = _beside(self._place)
        self._at_opening: tuple[_Identity | None, ...] = ()
        self.is_corrupt = False
        self._next_scan_at = 0.0
        self._next_restart_at = 0.0

    # connecting

    def open_for_writing(self) -> Database:
        """Connect and bring the schema up to date.

        Raises:
            StoreError: it cannot be opened, or was written by a newer evalrouter.
        """
        if self._place.is_dir():
            raise StoreError(f"cannot open the database {self.path}: it is a folder, not a file")
        try:
            db = connect(self._place, "rwc" if self._create else "rw", BUSY_S)
            try:
                _enable_wal(db)
                db.execute("PRAGMA synchronous = NORMAL")
                migrate(db)
                # After migrating: a step that rebuilds a table must not set off cascades.
                db.execute("PRAGMA foreign_keys = ON")
                db.execute(f"PRAGMA busy_timeout = {TRY_S * 1000:.0f}")
                db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
                self._log, self._index = _beside(self._place)
                self._at_opening = self._identities()
            except BaseException:
                db.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise self.refusal("open", error) from error
        except StoreError as error:
            raise StoreError(f"cannot open the database {self.path}: {error.message}") from error
        return db

    def open_for_reading(self) -> Database:
        """Connect to the file that `open_for_writing` opened."""
        self.check_identity()
        db = connect(self._place, "rw", BUSY_S)
        try:
            db.execute("PRAGMA query_only = ON")
        except BaseException:
            db.close()
            raise
        return db

    def bound_log(self, db: Database) -> None:
        """Begin the write-ahead log anew where it has become long.

        SQLite does that by itself when no read needs it any more. Where one read always begins
        before the last has ended, that never happens, and the log would grow for ever.
        """
        if time.monotonic() < self._next_restart_at:
            return
        try:
            if self._log.stat().st_size <= LOG_BYTES:
                return
        except OSError:
            return
        db.execute(f"PRAGMA busy_timeout = {RESTART_S * 1000:.0f}")
        try:
            is_busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error:
            is_busy = 1
        finally:
            db.execute(f"PRAGMA busy_timeout = {TRY_S * 1000:.0f}")
        if is_busy:
            self._next_restart_at = time.monotonic() + RESTART_EVERY_S

    # whether it is the same file

    def check_identity(self) -> None:
        """Raise unless the open files are those at its path. Takes some microseconds.

        Raises:
            StoreUnavailableError: one was deleted or replaced, or the folder cannot be reached.
        """
        try:
            present = self._identities()
        except OSError as error:
            raise self._unavailable(*_unreachable(error)) from None
        if present == self._at_opening:
            return
        if present[0] is None and not self._place.parent.is_dir():
            raise self._unavailable("unreachable", "the database's folder is not there")
        if present[0] is None:
            raise self._unavailable(
                "deleted", "the database file was deleted or moved away; put it back, or restart"
            )
        if present[0] != self._at_opening[0]:
            raise self._unavailable("replaced", "another file is in the place of the database")
        raise self._unavailable(
            "deleted",
            "the database's write-ahead log (-wal, -shm) was deleted or replaced; put it back, or "
            "restart, which saves what is in it",
        )

    def _identities(self) -> tuple[_Identity | None, ...]:
        return _identity(self._place), _identity(self._log), _identity(self._index)

    def current(self, db: Database) -> Database:
        """Return the connection to write to: this one, or one to a database in its file's place.

        Raises:
            StoreUnavailableError: the file at the path cannot be written to.
        """
        try:
            self.check_identity()
        except StoreUnavailableError as error:
            if error.fault != "replaced":
                raise
            return self._take_over(db)
        return db

    def _take_over(self, old: Database) -> Database:
        if self._place.is_dir():
            raise self._unavailable("replaced", "a folder is in the place of the database")
        with _locked_file(self._place):
            self._remove_old_log(old)
        # From now on, a missing file is not created: a new one would have no keys, and let all in.
        self._create = False
        db = self.open_for_writing()
        old.close()
        self.generation += 1
        self.is_corrupt = False
        log.warning("%s was replaced by another database, which is used from now on", self.path)
        return db

    def _remove_old_log(self, old: Database) -> None:
        """Keep SQLite from applying the log of the database that was replaced to the new one."""
        _, old_log, old_index = self._at_opening
        log, index = _beside(self._place)
        log_now, index_now = _identity(log), _identity(index)
        brings_log = log_now is not None and log_now != old_log
        if brings_log and index_now == old_index:
            index.unlink(missing_ok=True)
        if not self._is_whole("rw" if brings_log else "ro&immutable=1"):
            raise self._unavailable(
                "replaced", "a file that is no whole database is in the place of the database"
            )
        if log_now == old_log:
            # Completes the old file for the user who moved it away.
            with contextlib.suppress(sqlite3.Error):
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            log.unlink(missing_ok=True)
        if index_now == old_index:
            index.unlink(missing_ok=True)

    def _is_whole(self, mode: str) -> bool:
        try:
            with contextlib.closing(connect(self._place, mode, CHECK_BUSY_S)) as db:
                return is_known(db)
        except (sqlite3.Error, UnicodeError):
            # Not a database, or not copied to its end yet.
            return False

    # whether it works

    def check_reading(self) -> None:
        """Raise unless the file is there, can be read and has room. Takes well under a millisecond.

        It reads through a new connection: that sees the disk, not the cache of another connection.

        Raises:
            StoreUnavailableError: the file is gone or damaged, or the disk is full.
            sqlite3.Error: SQLite cannot read it; see `refusal`.
        """
        self.check_identity()
        self._check_room()
        with contextlib.closing(connect(self._place, "rw", CHECK_BUSY_S)) as db:
            db.execute("SELECT version FROM key_changes").fetchone()
            db.execute("SELECT id FROM runs LIMIT 1").fetchone()
            if self.is_corrupt:
                self._scan(db)

    def _check_room(self) -> None:
        place = os.statvfs(self._place.parent)
        # Only root may use the blocks reserved for root; some file systems report no numbers.
        blocks = place.f_bfree if os.geteuid() == 0 else place.f_bavail
        if place.f_blocks and blocks * place.f_frsize < MIN_FREE_BYTES:
            raise self._unavailable("full", "the disk is full; free some space")

    def _scan(self, db: Database) -> None:
        """Scan whether every page can be read, after one could not; raise unless it can."""
        began = time.monotonic()
        if began >= self._next_scan_at:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            ended = time.monotonic()
            self._next_scan_at = ended + (ended - began) * PAUSE_AFTER_SCAN
            if verdict == "ok":
                self.is_corrupt = False
                return
        raise self.corrupt()

    # errors

    def corrupt(self) -> StoreUnavailableError:
        """Return the error to raise while a page cannot be read."""
        return self._unavailable("corrupt", _DAMAGED)

    def locked(self) -> StoreUnavailableError:
        """Return the error of a check that waits for another process."""
        return self._unavailable("locked", _LOCKED)

    def refusal(self, doing: str, error: Exception) -> EvalrouterError:
        """Return the error for the caller whose `doing` failed; our own errors stay as they are.

        Each caller gets an object of its own, because a traceback grows wherever it is raised.
        """
        if isinstance(error, StoreUnavailableError):
            fault, reason = error.fault, error.reason
        elif isinstance(error, EvalrouterError):
            return error
        else:
            database_fault = _fault(error, self._place.parent)
            if database_fault is None:
                return _caused(
                    StoreError(f"cannot {doing}: {self.path}: {error}", place=str(self.path)), error
                )
            fault, reason = database_fault
        if fault == "corrupt":
            self.is_corrupt = True
        message = f"cannot {doing}: {self.path}: {reason}"
        return _caused(
            StoreUnavailableError(message, fault=fault, reason=reason, place=str(self.path)), error
        )

    def _unavailable(self, fault: StoreFault, reason: str) -> StoreUnavailableError:
        return StoreUnavailableError(reason, fault=fault, reason=reason)


def _caused(error: EvalrouterError, by: Exception) -> EvalrouterError:
    error.__cause__ = by
    return error


def _fault(error: Exception, folder: Path) -> tuple[StoreFault, str] | None:
    """Return what is wrong with the whole database; None for a fault of one read or write."""
    if isinstance(error, OSError):
        return _unreachable(error)
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return "full", (
                "the disk is full; what was stored before is safe; free some space and resume"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_PROTOCOL:
            return "locked", _LOCKED
        case sqlite3.SQLITE_READONLY:
            return "read_only", _unwritable(folder) or "the file is not writable"
        case sqlite3.SQLITE_CANTOPEN:
            return "unreachable", _unwritable(folder) or "the file cannot be opened"
        case sqlite3.SQLITE_NOTADB:
            return "corrupt", "the file is not a SQLite database"
        case sqlite3.SQLITE_CORRUPT:
            return "corrupt", _DAMAGED
        case sqlite3.SQLITE_IOERR:
            return "failing", f"the disk refuses to read or write it ({error})"
    return None


def _unwritable(folder: Path) -> str:
    """Return why no file can be written in a folder; "" where nothing is seen."""
    try:
        status, place = folder.stat(), os.statvfs(folder)
    except OSError as error:
        return f"its folder cannot be used: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return "its folder is a file"
    if place.f_flag & os.ST_RDONLY:
        return "its file system is read-only; in a container, mount a volume there"
    if not os.access(folder, os.W_OK | os.X_OK):
        return (
            f"user {os.geteuid()} may not write to its folder, which is user {status.st_uid}'s; "
            "give it to that user (Kubernetes: fsGroup)"
        )
    return ""


def _unreachable(error: OSError) -> tuple[StoreFault, str]:
    return "unreachable", f"the database's folder cannot be reached: {error.strerror}"


def connect(path: Path, mode: str, timeout: float) -> Database:
    """Connect to the file at an absolute path, in autocommit mode.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    # Plugins that the user has installed for sqlite-utils are not executed.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        return Database(connection, recursive_triggers=False, execute_plugins=False)
    except BaseException:
        connection.close()
        raise


def _enable_wal(db: Database) -> None:
    """Switch a file to a write-ahead log.

    Where another one writes to it at that moment, SQLite refuses at once, whatever its timeout is.
    """
    until = time.monotonic() + BUSY_S
    while True:
        try:
            db.enable_wal()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        else:
            return
        # Not in step with others that wait for the same.
        time.sleep(random.uniform(0, PAUSE_S))  # noqa: S311 - no secret


def _beside(path: Path) -> tuple[Path, Path]:
    """Return the paths of the write-ahead log and its index; a link's are beside its target."""
    file = path.resolve()
    return Path(f"{file}-wal"), Path(f"{file}-shm")


def _identity(path: Path) -> _Identity | None:
    """Return the identity of the file at a path; None without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _locked_file(path: Path) -> Iterator[None]:
    """Hold off other processes that want to take the same file over."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing drops all locks of SQLite on this file in this process, which has none yet.
        os.close(descriptor)
