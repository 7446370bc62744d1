"""The store in one SQLite file: `SqliteStore(path)`, `await open()`, use, `await close()`.

Writes go through one thread that commits them in groups (see `sql/writer.py`); reads run on a few
threads with connections of their own, so the event loop never waits for SQLite. The file is in WAL
mode with synchronous=NORMAL: what was acknowledged outlives a kill -9 of the process, though the
last moments may be lost when the machine itself loses power. Several processes may share the file.
"""

import sys

# sqlite-utils imports pandas wherever it is installed, for types that we never store: most of a
# second and 70 MB, for each process. A None there reads as "not installed".
if "pandas" not in sys.modules:
    sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        import sqlite_utils.db  # noqa: F401  # imported for its effect
    finally:
        del sys.modules["pandas"]

from router.store.sqlite.store import SqliteStore  # after the import above

__all__ = ["SqliteStore"]
