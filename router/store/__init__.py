"""Where everything is stored that must survive a crash.

`protocol.py` composes the store from small protocols, one module each: `runs`, `requeue`, `claims`,
`results`, `history`, `usage`, `experiments`, `judgements`, `studies`, `datasets`, `routes`, `keys`,
`traffic`, `readiness` and `changes`. Each has the rows that it stores. `columns/` turns those rows
into table columns and back, and `sql/` has the statements, both for any database; `sqlite/` and
`postgres/` are the databases, and `selection` takes the one that the config names.
"""
