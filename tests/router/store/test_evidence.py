"""Rows of bundles of evidence."""

from __future__ import annotations

from router.store.evidence import EvidenceBundle


def a_bundle(number=1, **fields) -> EvidenceBundle:
    return EvidenceBundle(
        **{
            "id": f"ev_{number}",
            "kind": "run",
            "subject": "run_1",
            "name": "a name",
            "bodies": "masked",
            "changed_rows": 3,
            "size": 2**40,
            "sha256": "ab" * 32,
            "manifest": "cd" * 32,
            "signed_by": "SHA256:x",
            "location": "/tmp/b.zip",
            "stored": True,
            "key_id": "k1",
            "created_at": 12.5,
            "created_by": "cli ann",
        }
        | fields
    )


async def test_bundles_are_listed_newest_first_and_by_what_they_are_of(store):
    bundles = [
        a_bundle(1),
        a_bundle(2, subject="ro_1", kind="rollout", key_id="", stored=False),
        a_bundle(3, bodies="keep", key_id="k2"),
    ]
    for bundle in bundles:
        await store.add_evidence(bundle)
    assert await store.evidence("ev_2") == bundles[1]
    assert await store.evidence("ev_9") is None
    assert await store.evidence_bundles() == bundles[::-1]
    assert await store.evidence_bundles(limit=1) == bundles[2:]
    assert await store.evidence_bundles(before="ev_3", limit=1) == bundles[1:2]
    assert await store.evidence_bundles(subjects=["run_1"], key_id="k1") == bundles[:1]
    assert await store.evidence_bundles(subjects=["run_1", "ro_1"]) == bundles[::-1]
    assert await store.evidence_bundles(subjects=[]) == []
    await store.note_stored("ev_2")
    assert (await store.evidence("ev_2")).stored
    await store.delete_evidence("ev_2")
    await store.delete_evidence("ev_2")
    assert await store.evidence_bundles() == [bundles[2], bundles[0]]
