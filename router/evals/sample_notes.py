"""What people say of a run's samples: each person has one label and one note on each.

await write_note(store, run.id, 3, NoteRequest(label="wrong"), key_id="", author="a", now=now)
await notes_on(store, run.id, 3)
await delete_note(store, run.id, 3, key_id="")
"""

from __future__ import annotations

import msgspec

from providers.errors import NotFoundError, RequestError
from router.store.sample_views import SampleNote, SampleViewStore

MAX_LABEL, MAX_NOTE = 60, 4_000


class NoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person says of a sample, in place of what that person has said before.

    Attributes:
        label: a short word, "" for none.
        note: a text, "" for none.
        before: the `at` of the note that this one replaces, 0 for none: it is refused where the
            person has another one by now. None for whatever there is.
    """

    label: str = ""
    note: str = ""
    before: float | None = None


def note_problem(label: str, note: str) -> str:
    """Return why a label and a note cannot be stored; "" where they can."""
    if len(label) > MAX_LABEL:
        return f"A label has at most {MAX_LABEL} characters; this one has {len(label):,}."
    if len(note) > MAX_NOTE:
        return f"A note has at most {MAX_NOTE:,} characters; this one has {len(note):,}."
    return ""


async def notes_on(store: SampleViewStore, run_id: str, position: int) -> list[SampleNote]:
    """Return what people have said of a sample, the oldest first.

    Raises:
        NotFoundError: the run has no such sample.
    """
    if await store.sample_at(run_id, position) is None:
        raise NotFoundError(f"run {run_id!r} has no sample {position}")
    return await store.notes(run_id, position)


async def write_note(
    store: SampleViewStore,
    run_id: str,
    position: int,
    request: NoteRequest,
    *,
    key_id: str,
    author: str,
    now: float,
) -> SampleNote:
    """Store what a person says of a sample, and return it.

    Raises:
        RequestError: it says nothing, or is too long.
        NotFoundError: the run has no such sample.
        ConflictError: the person has written another one meanwhile.
    """
    label, text = " ".join(request.label.split()), request.note.replace("\r\n", "\n").strip()
    if not label and not text:
        raise RequestError("label: give a label, a note or both", param="label")
    if problem := note_problem(label, text):
        param = "label" if len(label) > MAX_LABEL else "note"
        raise RequestError(f"{param}: {problem}", param=param, code="string_above_max_length")
    note = SampleNote(
        position=position, key_id=key_id, author=author, label=label, note=text, at=now
    )
    await store.keep_note(run_id, note, before=request.before)
    return note


async def delete_note(
    store: SampleViewStore,
    run_id: str,
    position: int,
    *,
    key_id: str,
    before: float | None = None,
) -> None:
    """Delete what a person has said of a sample.

    Args:
        store: has it.
        run_id: the run.
        position: the sample's.
        key_id: the id of the person's key.
        before: the `at` of the note; None for whatever there is.

    Raises:
        NotFoundError: there is no such sample, or nothing of this person's on it.
        ConflictError: the person has written another one meanwhile.
    """
    if not any(each.key_id == key_id for each in await notes_on(store, run_id, position)):
        raise NotFoundError(f"You have written nothing about sample {position} of {run_id}.")
    empty = SampleNote(position=position, key_id=key_id, author="", label="", note="", at=0.0)
    await store.keep_note(run_id, empty, before=before)
