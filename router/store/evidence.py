"""Bundles of evidence that were written: of what, where they are, and who wrote them.

A bundle is a file that anybody may have copied, so a row here is what is left to name when texts
have to be deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

BundleKind = Literal["run", "rollout"]
Bodies = Literal["keep", "masked", "hashes"]


class EvidenceBundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that was written.

    Attributes:
        id: `ev_...`; ids sort by age.
        kind, subject, name: of what it is evidence, by its id, and what that is called.
        bodies: what became of texts.
        changed_rows: rows in which a text was replaced.
        size: bytes of the file.
        sha256: of the file, hex.
        manifest: SHA-256 of its manifest, which is the same for the same evidence, hex.
        signed_by: the fingerprint of the key; "" without a signature.
        location: the file, or where in the artifact store; "" for a client's key.
        stored: whether it is in the artifact store, from where it can be downloaded; not while it
            is being written there.
        key_id: the id of the key that the run belongs to, whose holder may see it; "" for none.
        created_at: when it was written, seconds since the epoch, UTC.
        created_by: who had it written; "" for a client's key.
    """

    id: str
    kind: BundleKind
    subject: str
    name: str
    bodies: Bodies
    changed_rows: int
    size: int
    sha256: str
    manifest: str
    signed_by: str
    location: str
    stored: bool
    key_id: str
    created_at: float
    created_by: str


class EvidenceStore(Protocol):
    """Stores which bundles were written."""

    async def add_evidence(self, bundle: EvidenceBundle) -> None:
        """Store a bundle's row."""
        ...

    async def note_stored(self, bundle_id: str) -> None:
        """Note that a bundle's file is in the artifact store."""
        ...

    async def evidence(self, bundle_id: str) -> EvidenceBundle | None:
        """Return the bundle of an id."""
        ...

    async def evidence_bundles(
        self,
        *,
        subjects: Sequence[str] | None = None,
        key_id: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[EvidenceBundle]:
        """List bundles, newest first: of some runs or rollouts, of one key's runs, or of all."""
        ...

    async def delete_evidence(self, bundle_id: str) -> None:
        """Delete a bundle's row; not an error where it is gone."""
        ...
