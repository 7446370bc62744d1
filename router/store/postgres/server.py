"""The PostgreSQL server: how to reach it, how long to wait for it, and what its errors mean."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import conninfo

from providers.base import Secret
from providers.errors import (
    ConfigError,
    EvalrouterError,
    StoreError,
    StoreFault,
    StoreUnavailableError,
)
from router.store.postgres.text import adapters

_Result = TypeVar("_Result")
log = logging.getLogger("evalrouter")

WAIT_S = 45.0  # how long reads and writes wait for a server that does not work
CONNECT_S = 5  # how long one attempt to connect may take
OLDEST = 13_00_00
# Between two attempts: the first pause, and the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
# A connection whose host has vanished is given up after this.
SILENT_MS = 15_000

# SQLSTATEs, or their classes, of a server that does not work at present, is not the primary, or has
# ended a transaction in which nothing happened.
_AWAY = ("08", "57P01", "57P02", "57P03", "57P05", "53300", "25006", "25P03")
# What the server says to those it will never let in; everything else may pass.
_REFUSED = ("authentication", "does not exist", "no pg_hba.conf entry", "not permitted")
# What libpq says where the address's options cannot work.
_MISTAKEN = ("invalid ", "no password supplied", "does not support SSL", "certificate")


class PostgresServer:
    """A PostgreSQL database, as its address names it.

    Args:
        address: `postgresql://user@host:port/name?sslmode=...`, without its password.
        password: the password; empty for none.

    Attributes:
        name: `postgresql://host:port/name`, for messages.
        has_pooler: whether a pooler is between, as far as the last connection showed.
        is_full: whether its disk was when it was last written to.
    """

    def __init__(self, address: str, password: Secret) -> None:
        try:
            options = conninfo.conninfo_to_dict(address)
            for port in str(options.get("port") or "").split(","):
                int(port or 0)
        except (psycopg.ProgrammingError, ValueError):
            # libpq's message may quote a part of the address.
            raise ConfigError(
                "storage.database: PostgreSQL's client cannot read the address; it is "
                "postgresql://USER:PASSWORD@HOST:PORT/NAME, with %-escapes for special characters"
            ) from None
        self.name = _name(options)
        self.has_pooler = False
        self.is_full = False
        usual: dict[str, Any] = {
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": SILENT_MS,
            "keepalives_idle": 30,
            "application_name": "evalrouter",
        }
        self._address = conninfo.make_conninfo(**(usual | options | {"client_encoding": "utf8"}))
        self._password = password
        self._patience = threading.Lock()
        # Since when it has not worked; 0 while it does.
        self._down_since = 0.0
        self._give_up_at = math.inf

    def connect(self) -> psycopg.Connection:
        """Connect once, in autocommit mode.

        Raises:
            psycopg.Error: it cannot be reached, or refuses.
            StoreError: its encoding is not UTF-8, or it is too old.
        """
        secret = {"password": self._password.reveal()} if self._password else {}
        address = conninfo.make_conninfo(self._address, **secret)
        connection = psycopg.connect(address, autocommit=True, context=_Adapted())
        try:
            self._refuse_unfit(connection.info)
            # A pooler cannot know which server's process will execute the next transaction.
            [pid] = connection.execute("SELECT pg_backend_pid()").fetchone() or [0]
            self.has_pooler = pid != connection.info.backend_pid
            if self.has_pooler:
                # They would be another process's, or nobody's, at the next transaction.
                connection.prepare_threshold = None
        except BaseException:
            connection.close()
            raise
        return connection

    def _refuse_unfit(self, info: psycopg.ConnectionInfo) -> None:
        if info.server_version < OLDEST:
            raise StoreError(
                f"{self.name}: PostgreSQL is older than version {OLDEST // 10000}; upgrade it"
            )
        encoding = info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StoreError(
                f"{self.name}: the database has the encoding {encoding}; create it with UTF8"
            )

    # waiting for it

    @property
    def is_down(self) -> bool:
        """Whether it did not work when it was last tried."""
        return self._down_since > 0

    def end_within(self, seconds: float) -> None:
        """Stop waiting so long from now: each read or write tries once after that."""
        self._give_up_at = time.monotonic() + seconds

    def patiently(self, action: Callable[[], _Result]) -> _Result:
        """Call `action` until the server works, for up to `WAIT_S` since it does not.

        Raises:
            Exception: what `action` raised last.
        """
        pause = PAUSE_S
        while True:
            try:
                result = action()
            except psycopg.Error as error:
                if not is_away(error):
                    raise
                self._went_down()
                if time.monotonic() + pause > min(self._down_since + WAIT_S, self._give_up_at):
                    raise
            else:
                self._came_back()
                return result
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _went_down(self) -> None:
        with self._patience:
            if not self._down_since:
                self._down_since = time.monotonic()
                log.warning("%s does not work; waiting up to %.0f s for it", self.name, WAIT_S)

    def _came_back(self) -> None:
        if self._down_since:
            with self._patience:
                self._down_since = 0.0
            log.warning("%s works again", self.name)

    # errors

    def away(self) -> StoreUnavailableError:
        """Return the error of a check that waits for the server."""
        reason = "PostgreSQL cannot be reached"
        return StoreUnavailableError(reason, fault="unreachable", reason=reason)

    def refusal(self, doing: str, error: Exception) -> EvalrouterError:
        """Return the error for the caller whose `doing` failed; our own errors stay as they are.

        Each caller gets an object of its own, because a traceback grows wherever it is raised.
        """
        if isinstance(error, StoreUnavailableError):
            fault, reason, text = error.fault, error.reason, error.reason
        elif isinstance(error, EvalrouterError):
            return error
        else:
            text = _first_line(error)
            database_fault = _fault(error)
            if database_fault is None:
                return _caused(
                    StoreError(f"cannot {doing}: {self.name}: {text}", place=self.name), error
                )
            fault, reason = database_fault
            self.is_full = self.is_full or fault == "full"
            text = f"{reason} ({text})"
        message = f"cannot {doing}: {self.name}: {text}"
        return _caused(
            StoreUnavailableError(message, fault=fault, reason=reason, place=self.name), error
        )


class _Adapted:
    """Gives a connection our adapters."""

    adapters = adapters
    connection = None


def is_away(error: Exception) -> bool:
    """Return whether the server, and not the statement, is at fault, and trying again may help."""
    if isinstance(error, psycopg.InterfaceError):
        return True
    if error_state := getattr(error, "sqlstate", None):
        return str(error_state).startswith(_AWAY)
    # libpq's own errors, and refusals to connect, have no SQLSTATE.
    return isinstance(error, psycopg.OperationalError) and not _is_refused(error)


def is_conflict(error: Exception) -> bool:
    """Return whether another process's transaction was in the way, and trying again helps."""
    return isinstance(error, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure)


def _is_refused(error: Exception) -> bool:
    """Return whether a failure to connect will be the same at the next attempt."""
    text = str(error)
    if "FATAL" in text:
        return any(words in text for words in _REFUSED)
    return any(words in text for words in _MISTAKEN)


def _fault(error: Exception) -> tuple[StoreFault, str] | None:
    """Return what is wrong with the whole database; None for a fault of one read or write."""
    match str(getattr(error, "sqlstate", None) or ""):
        case "25006":
            return "read_only", "PostgreSQL takes no writes: it is a replica, or set to read only"
        case "53100":
            return "full", (
                "the disk of PostgreSQL is full; what was stored before is safe; free some space "
                "and resume"
            )
        case "55P03":
            return "locked", "another process has kept rows locked for too long"
        case "57014":
            return "slow", "PostgreSQL cancelled a statement that took too long"
        case "XX001" | "XX002":
            return "corrupt", "the database is damaged; put a backup in its place"
        case state if state.startswith(("53", "58")):
            return "failing", "PostgreSQL has run out of memory, connections or files"
    if is_away(error):
        return "unreachable", "PostgreSQL cannot be reached"
    if isinstance(error, psycopg.OperationalError) and _is_refused(error):
        return "unreachable", "PostgreSQL refuses the connection"
    return None


def _first_line(error: Exception) -> str:
    """Return an error's first line, which has no values of rows."""
    diagnosis = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    lines = (diagnosis or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _caused(error: EvalrouterError, by: Exception) -> EvalrouterError:
    error.__cause__ = by
    return error


def _name(options: Mapping[str, Any]) -> str:
    hosts = str(options.get("host") or options.get("hostaddr") or "localhost").split(",")
    ports = str(options.get("port") or "5432").split(",")
    if len(ports) != len(hosts):
        ports = [ports[0]] * len(hosts)
    places = ",".join(
        f"{quote(host, safe='/[]:.-')}:{port}" for host, port in zip(hosts, ports, strict=True)
    )
    return f"postgresql://{places}/{options.get('dbname') or options.get('user') or ''}"
