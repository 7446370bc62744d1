"""A real PostgreSQL server for tests, and databases in it that are fresh and cheap.

The program is the newest that is installed. It runs as another user where the tests run as root,
because it refuses to be root's, and writes nothing to the disk at once.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from servers import reserved_port

from router.store.postgres.migrations import migrate

# One that has to give its password; all others are let in without.
GUARDED, PASSWORD = "guarded", "pass/word?é"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "log_min_messages": "fatal",
}


def folder_of_programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None where PostgreSQL is not installed."""
    folders = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda folder: folder.parent.name.zfill(4), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


class PostgresServer:
    """One server: `start()`, `stop()` and `kill()` as often as needed, then `remove()`.

    Args:
        programs: the folder with PostgreSQL's programs.
        primary: a server that runs, and that this one is to follow as its replica.
        settings: added to the usual ones.
    """

    def __init__(
        self,
        programs: Path,
        *,
        primary: PostgresServer | None = None,
        settings: Mapping[str, str] = {},
    ) -> None:
        self._programs = programs
        self._user = another_user()
        memory = Path("/dev/shm")
        self._folder = Path(
            tempfile.mkdtemp(prefix="evalrouter-pg", dir=memory if memory.is_dir() else None)
        )
        if self._user:
            shutil.chown(self._folder, self._user)
        self._data = self._folder / "data"
        self._settings = {**_SETTINGS, **settings}
        if primary is not None:
            self._run("pg_basebackup", "-D", self._data, "-d", primary.address("postgres"),
                      "-c", "fast", "-R", "--no-sync")  # fmt: skip
        else:
            self._run("initdb", "-D", self._data, "-U", "tests", "-A", "trust", "-E", "UTF8",
                      "--locale=C.UTF-8", "--no-sync", "--no-instructions")  # fmt: skip
            rules = self._data / "pg_hba.conf"
            rules.write_text(f"host all {GUARDED} all scram-sha-256\n{rules.read_text()}")
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self._programs / program, *map(str, arguments)],
            check=True,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            user=self._user,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )

    def start(self) -> None:
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, f"-p{self.port}", *settings],
                cwd=self._folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
                user=self._user,
                start_new_session=True,
            )
        while True:
            try:
                psycopg.connect(self.address("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                time.sleep(0.02)

    def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        """End it: all its clients are cut off."""
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it as a power cut would; `start()` recovers what was committed."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def address(self, database: str, user: str = "tests") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def make_template(self) -> None:
        """Make what `fresh_database` copies: a database that is up to date and empty."""
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {GUARDED} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
            connection.execute("CREATE DATABASE pattern")
        with psycopg.connect(self.address("pattern"), autocommit=True) as connection:
            migrate(connection)

    @contextmanager
    def fresh_database(self, template: str = "pattern") -> Iterator[str]:
        """The address of a database of its own."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.address(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def pooler(server: PostgresServer) -> Iterator[Callable[[str], str]]:
    """PgBouncer in transaction mode, with two connections to each database.

    Yields what makes an address of one that goes through it.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian's package pgbouncer)")
    # Another user reads it, who may not look into pytest's folders.
    with tempfile.TemporaryDirectory() as place, reserved_port() as port:
        folder = Path(place)
        folder.chmod(0o755)
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            f"""
[databases]
* = user=tests host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
so_reuseport = 1
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
ignore_startup_parameters = extra_float_digits
"""
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, settings], stdout=log, stderr=log, user=another_user()
            )
        try:
            while True:
                try:
                    psycopg.connect(f"postgresql://tests@127.0.0.1:{port}/postgres").close()
                    break
                except psycopg.OperationalError:
                    assert process.poll() is None, (folder / "log").read_text()
            yield lambda address: address.replace(f":{server.port}/", f":{port}/")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


@contextmanager
def a_server(programs: Path) -> Iterator[PostgresServer]:
    """A server with the database that others are copied from."""
    server = PostgresServer(programs)
    try:
        server.start()
        server.make_template()
        yield server
    finally:
        server.remove()


def another_user() -> str | None:
    """The user of servers that refuse to be root's; None where the tests are not root's."""
    if os.geteuid() != 0:
        return None
    names = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
