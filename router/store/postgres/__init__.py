"""The store in a PostgreSQL database: `PostgresStore(address)`, then as `SqliteStore`.

As for SQLite, writes go through one thread that commits them in groups (see `sql/writer.py`), and
reads run on a few threads with connections of their own. While the server cannot be reached, both
wait and try again, up to a bound. Needs the extra `postgres`, which has the driver psycopg.

Any number of processes on any number of hosts may share a database, also through a pooler: nothing
is kept in a session but what a transaction needs. One more connection listens for what others
change; without it (behind a pooler, say), changes are seen at the next look.
"""

from router.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
