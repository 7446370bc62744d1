"""Whose a version of a dataset is: a client's key owns what was made of its own requests alone."""

from __future__ import annotations

from router.store.datasets import DatasetRow


def key_of(row: DatasetRow) -> str | None:
    """Return the key whose requests alone a version was made of; "" for those of all keys.

    None stands for a version that was not made of requests.
    """
    made = row.provenance.get("from_traffic")
    return made.get("key") if isinstance(made, dict) else None
