"""Finds out whether a run's number of samples may have been chosen by looking at its scores.

    reasons = await looks_at(store, run, document)      # () for a run that went as planned

Numbers for a fixed number of samples hold only where it was fixed before anything could be seen. A
run that was extended is a second look at its first samples, and so is a new run over more of them:
the run cache, or a target that always answers alike, gives it the answers that were seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from evaluators.document import RunDocument
from evaluators.reports.report import runs_in_words
from providers.errors import RunDocumentError
from router.evals.stored_runs import stored_document
from router.store.history import EarlierAnswers
from router.store.protocol import Store
from router.store.runs import Run


async def looks_at(store: Store, run: Run, document: RunDocument) -> tuple[str, ...]:
    """Return why a run's numbers have to hold whenever one looks, each to follow "The run ..."."""
    reasons = []
    if document.looks:
        reasons.append("was extended after it could be read")
    if run.stopped:
        reasons.append(f"ended early ({run.stopped})")
    elif document.stop_when is not None:
        reasons.append("was looked at after every answer, to end early (stop_when)")
    if run.state != "completed" and not run.stopped:
        reasons.append(f"is {run.state}")
    seen, gone = await _earlier_looks(store, run, document)
    if seen:
        reasons.append(
            f"has answers that {runs_in_words(seen)} showed before it was created, with other "
            "samples or repeats"
        )
    elif gone:
        reasons.append(f"has answers of {runs_in_words(gone)}, of which nothing is known any more")
    return tuple(reasons)


def looked_at_warning(reasons: tuple[str, ...]) -> list[str]:
    """Say in a report why its numbers hold whenever one looks; nothing where they need not."""
    if not reasons:
        return []
    return [
        f"The run {' and '.join(reasons)}, so intervals, p-values, verdicts and gates are those "
        "that hold whenever one looks; they are wider than those of a run that went as planned."
    ]


async def _earlier_looks(
    store: Store, run: Run, document: RunDocument
) -> tuple[list[str], list[str]]:
    """Return the earlier runs that show a part of this one, and those that are gone."""
    earlier = {before.run_id: before for before in await store.answered_before(run.id)}
    # The run cache took its answers from these, however few.
    origins = await store.origins(run.id)
    seen, gone = [], []
    for name in dict.fromkeys([*earlier, *origins]):
        other = await store.run(name) if name else None
        if other is None:
            gone.append(name)
        elif other.created_at < run.created_at:
            before = earlier.get(name) or EarlierAnswers(run_id=name, compared=1, alike=1)
            if _shows_a_part(before, other, run, document):
                seen.append(name)
    if len(origins) == 1 and gone == [*origins]:
        [copied] = origins.values()
        if copied == (await store.progress(run.id)).scored:
            gone = []  # all of them are of one run, whose samples it has
    return seen, gone


def _shows_a_part(before: EarlierAnswers, other: Run, run: Run, document: RunDocument) -> bool:
    """Say whether an earlier run shows part of a run's answers, and so may have led to its size.

    One with the same samples and repeats shows the same as this one, which is no other look.
    """
    if 2 * before.alike < before.compared:
        return False
    try:
        theirs = stored_document(other)
    except RunDocumentError:
        return True
    if theirs.stop_when is not None or (other.stopped and other.state == "completed"):
        return True
    plan = run.dataset_rows, document.repeats
    size = other.dataset_rows, theirs.repeats
    if theirs.looks == 1 and size != plan and (before.samples, before.repeats) == plan:
        # It was as large as this run, and has been extended since.
        return _differs(other, theirs, run.dataset_hash, document)
    return size != plan or theirs.looks > 0 or _differs(other, theirs, run.dataset_hash, document)


def _differs(other: Run, theirs: RunDocument, dataset_hash: str, document: RunDocument) -> bool:
    """Say whether another run has other samples although it has as many."""
    return other.dataset_hash != dataset_hash or _selection(theirs) != _selection(document)


async def is_part_of_another(
    store: Store,
    requests: Sequence[tuple[str, int]],
    document: RunDocument,
    *,
    samples: int,
    dataset_hash: str,
) -> bool:
    """Say whether a run that is planned gets answers that a run of another size has shown.

    Args:
        store: has the runs.
        requests: of the plan: the hash and repeat of each that will be answered as before.
        document: the plan.
        samples: how many it has.
        dataset_hash: of its dataset.
    """
    for run_id in await store.runs_with(requests):
        other = await store.run(run_id)
        if other is None:
            continue  # It was deleted just now.
        try:
            theirs = stored_document(other)
        except RunDocumentError:
            return True
        if (other.dataset_rows, theirs.repeats) != (samples, document.repeats):
            return True
        if theirs.looks or _differs(other, theirs, dataset_hash, document):
            return True
    return False


def _selection(document: RunDocument) -> tuple[object, bool]:
    return msgspec.to_builtins(document.sample), document.unlabelled
