"""Where everything is stored that must survive a crash.

`protocol.py` composes the store from small protocols, one module each: `runs`, `requeue`, `claims`,
`results`, `history`, `usage`, `experiments`, `judgements`, `studies`, `datasets`, `routes`, `keys`,
`traffic` and `readiness`. Each has the rows that it stores. `columns/` turns those rows into table
columns and back, for any database. `sqlite/` is the database, with a module for each protocol.
"""
