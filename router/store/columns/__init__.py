"""How the rows of the store become columns of a table, and are read back, for any database.

Nested values are JSON text. Numbers that are NaN or infinite are refused.
"""
