"""The SQL of every part of the store, once for all databases.

One module implements each protocol of `router/store`: a class whose methods name what they do, and
functions that take a `Connection`. Every such function runs inside a transaction that its caller
holds, and keeps nothing between calls. The protocols describe the methods of the classes.

What the databases write differently is behind `connection.py`; `sqlite/` and `postgres/` have the
connections themselves, the transactions of a writer, and the migrations.
"""
