"""Checks that the rows of a bundle do not contradict each other, its run and its manifest.

    checked = check_run(bundled, manifest)       # of a rollout: check_rollout
    checked.differing, checked.shown

Numbers that are made of rows prove nothing where a row is there twice, where one is of a cell that
the run does not have, or where some are missing. Each such row is a difference.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from evaluators.base import Answer
from evaluators.document import RunDocument
from providers.errors import EvidenceError
from router.evals.judges.judged_samples import JudgementKey, key_of
from router.evals.judges.studies import items_of
from router.evals.validation import check_repeated_routes, check_repeats
from router.loop.bundles.answering_versions import AnsweringVersions
from router.loop.bundles.bundled_run import BundledRun
from router.loop.bundles.contents import (
    BATCHES,
    DECISIONS,
    JUDGEMENTS,
    LABELS,
    LATER_VALUES,
    MANIFEST,
    METRICS,
    NUMBERS,
    REQUESTS,
    RESULTS,
    ROLLOUT,
    ROUTES,
    RUN,
    SAMPLES,
    STATED,
    STUDIES,
    BundledResult,
    BundledSample,
    BundleManifest,
    RolloutNumbers,
    canonical,
)
from router.loop.bundles.differences import Compared, Difference, differences
from router.loop.bundles.rollout_replay import BundledRollout
from router.loop.bundles.subjects import BundleSubject, subject_of_rollout, subject_of_run
from router.store.judgements import JudgementRow

# The fourth power of a number can still be added up.
MAX_NUMBER = 1e60
# Fields with anything in them, of which no number is made.
_FREE = frozenset(
    {
        "attempts",
        "base",
        "detail",
        "document",
        "forecast",
        "override",
        "report",
        "sample",
        "seen",
        "settings",
        "translation",
    }
)
_SHA256 = re.compile("[0-9a-f]{64}")
_ONCE, _NONE = "(once)", "(none)"

_Row = TypeVar("_Row")


def check_run(bundled: BundledRun, manifest: BundleManifest) -> Compared:
    """Compare the rows of a run with each other, and with what is said of them. Blocks.

    Raises:
        EvidenceError: an answer is of no sample, a number is out of bounds, or an entry cannot be
            read.
        RunDocumentError: the run's document could not have been executed.
    """
    return _RunCheck(bundled, manifest).compared()


def check_rollout(
    bundled: BundledRollout, manifest: BundleManifest, stated: RolloutNumbers
) -> Compared:
    """Compare the rows of a rollout with each other, and with what is said of them. Blocks.

    Args:
        bundled: the rollout.
        manifest: the bundle's.
        stated: the numbers as they are stated.

    Raises:
        EvidenceError: a number is out of bounds, or an entry cannot be read.
    """
    table = _Tables()
    rollout = bundled.rollout
    _check_numbers(rollout, ROLLOUT)
    table.agree(MANIFEST, _of_subject(manifest), _of_subject(subject_of_rollout(rollout)))
    table.agree(MANIFEST, {"changed_rows": manifest.changed_rows}, {"changed_rows": 0})
    revisions = {"revision": rollout.revision}
    table.agree(ROLLOUT, revisions, {"revision": len(bundled.decisions)})
    for number, decision in enumerate(bundled.decisions, 1):
        of = {"rollout": decision.rollout, "revision": decision.revision}
        expected = {"rollout": rollout.id, "revision": number}
        table.agree(f"{DECISIONS}, line {number}", of, expected)
        _check_numbers(decision, f"{DECISIONS}, line {number}")
    table.each(DECISIONS, ((decision.revision,) for decision in bundled.decisions))
    table.each(BATCHES, ((row.number,) for row in _bounded(bundled.batches(), BATCHES)))
    requests = _bounded(bundled.requests(), REQUESTS)
    table.each(REQUESTS, ((row.request.number, row.request.id) for row in requests))
    values = _bounded(bundled.later_values(), LATER_VALUES)
    table.each(LATER_VALUES, ((row.score.number,) for row in values))
    table.each(f"{NUMBERS}, judged", (((row.day, row.outcome),) for row in stated.judged))
    return table.compared


class _Tables:
    """Notes what of rows contradicts others.

    Attributes:
        compared: the differences.
    """

    def __init__(self) -> None:
        self.compared = Compared()

    def differ(self, what: str, stated: Any, expected: Any) -> None:
        """Note a difference."""
        self.compared.add(Difference(what=what, stated=stated, recomputed=expected))

    def agree(self, where: str, stated: dict[str, Any], expected: dict[str, Any]) -> None:
        """Compare what is said with what is there."""
        compared = differences({where: stated}, {where: expected})
        for difference in compared.shown:
            self.compared.add(difference)

    def once(self, seen: set[int], key: Hashable, what: str) -> None:
        """Note a key that was seen before. Of each, a number is remembered."""
        number = hash(key)
        if number in seen:
            self.differ(what, "a second time", _ONCE)
        seen.add(number)

    def each(self, entry: str, keys: Iterable[tuple[Hashable, ...]]) -> None:
        """Note rows one of whose keys another row has, each of the same place."""
        seen: list[set[int]] = []
        for line, of_row in enumerate(keys, 1):
            seen = seen or [set() for _ in of_row]
            for known, key in zip(seen, of_row, strict=True):
                self.once(known, key, f"{entry}, line {line}: {_words(key)}")


def _words(key: Hashable) -> str:
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


class _RunCheck:
    """Checks the rows of a run."""

    def __init__(self, bundled: BundledRun, manifest: BundleManifest) -> None:
        self._bundled = bundled
        self._manifest = manifest
        self._tables = _Tables()
        self._bodies = manifest.bodies
        self._changed = self._judged = 0
        self._samples: set[str] = set()
        self._judgements: dict[JudgementKey, int] = {}

    def compared(self) -> Compared:
        """Return what differs."""
        bundled, tables = self._bundled, self._tables
        run, document = bundled.run, bundled.document
        check_repeated_routes(document)
        check_repeats(document)
        _check_numbers(run, RUN)
        _check_numbers(bundled.stated, STATED)
        _check_numbers(bundled.declarations, METRICS)
        for line, row in enumerate(bundled.samples(), 1):
            self._sample(row, f"{SAMPLES}, line {line}")
        results = self._results(document)
        self._other_tables()
        tables.agree(MANIFEST, _of_subject(self._manifest), _of_subject(subject_of_run(run)))
        samples = len(self._samples)
        cells = len(document.routes) * document.repeats
        counts = {"dataset_rows": samples, "cells": samples * cells}
        tables.agree(RUN, {name: getattr(run, name) for name in counts}, counts)
        if run.state == "completed" and not run.stopped and not bundled.is_shadow:
            # A shadow grows while one looks at it; others have an answer in every cell.
            tables.agree(RESULTS, {"rows": results}, {"rows": samples * cells})
        # Rows of judgements that were changed are not marked.
        changed = self._manifest.changed_rows
        unmarked = 0 if self._bodies == "keep" else self._judged
        if not self._changed <= changed <= self._changed + unmarked:
            tables.differ(f"{MANIFEST}.changed_rows", changed, self._changed)
        return tables.compared

    def _sample(self, row: BundledSample, where: str) -> None:
        if row.sample.id in self._samples:
            self._tables.differ(f"{where}: {row.sample.id}", "a second time", _ONCE)
        self._samples.add(row.sample.id)
        self._treated(row, where)

    def _treated(self, row: BundledSample | BundledResult, where: str) -> None:
        """Count a row that was changed; only some bundles can have such rows, or hashes."""
        self._changed += row.changed
        if row.changed and self._bodies == "keep":
            self._tables.differ(f"{where}: changed", row.changed, False)
        if row.sha256 and (self._bodies != "hashes" or not _SHA256.fullmatch(row.sha256)):
            self._tables.differ(f"{where}: sha256", row.sha256, _NONE)

    def _results(self, document: RunDocument) -> int:
        """Check the answers; return how many there are."""
        tables, versions = self._tables, AnsweringVersions()
        of_sample: set[int] = set()
        before = ""
        number = 0
        for number, (_, row) in enumerate(self._bundled.pairs(), 1):
            route, sample_id, repeat = row.result.cell
            where = f"{RESULTS}, line {number}: {row.place}"
            _check_numbers(row, where)
            if sample_id != before:
                of_sample, before = set(), sample_id
            tables.once(of_sample, (route, repeat), where)
            if route not in document.routes or not 0 <= repeat < document.repeats:
                tables.differ(where, "a cell", "(not one of the run)")
            self._treated(row, where)
            self._scores(row, where)
            self._judgements_of(row, where)
            versions.add(row.result)
        rows = {"answered_by": versions.rows()}
        tables.agree(ROUTES, {"answered_by": self._bundled.routes.answered_by}, rows)
        return number

    def _scores(self, row: BundledResult, where: str) -> None:
        tables, answer = self._tables, row.result.answer
        outputs: set[int] = set()
        for score in row.result.scores:
            tables.once(outputs, score.output, f"{where}: {score.output}")
            verdicts: set[int] = set()
            for verdict in score.verdicts:
                key = verdict.judge, verdict.repeat, verdict.attempt
                tables.once(verdicts, key, f"{where}: {score.output}: verdict {_words(key)}")
        if outputs and (answer is None or answer.text is None):
            tables.differ(f"{where}: scores", len(outputs), "(no answer)")
        if self._bodies == "hashes" and not _is_hashed(answer, row.sha256):
            tables.differ(f"{where}: text", "a text", "(a hash)")

    def _judgements_of(self, row: BundledResult, where: str) -> None:
        seen: set[int] = set()
        for judgement in row.judgements:
            key = key_of(judgement)
            self._tables.once(seen, key, f"{where}: judgement {_words(key)}")
            self._judgement(judgement, where)

    def _judgement(self, judgement: JudgementRow, where: str) -> None:
        """Check one; it may be about several answers, and is the same there."""
        self._judged += 1
        key, content = key_of(judgement), hash(canonical(judgement))
        if self._judgements.setdefault(key, content) != content:
            self._tables.differ(f"{where}: judgement {_words(key)}", "another one", _ONCE)
        if judgement.sample_id not in self._samples:
            self._tables.differ(f"{where}: judgement of {judgement.sample_id}", "a row", _NONE)

    def _other_tables(self) -> None:
        tables, bundled = self._tables, self._bundled
        seen: set[int] = set()
        for line, judgement in enumerate(_bounded(bundled.judgements(), JUDGEMENTS), 1):
            where = f"{JUDGEMENTS}, line {line}"
            tables.once(seen, key_of(judgement), f"{where}: {_words(key_of(judgement))}")
            self._judgement(judgement, where)
        labels = _bounded(bundled.all_labels(), LABELS)
        tables.each(LABELS, (((label.output, *label.cell),) for label in labels))
        tables.each(STUDIES, ((study.id,) for study in _bounded(bundled.calibrations(), STUDIES)))
        for study in bundled.calibrations():
            if "calibration" in study.report:
                items = _bounded(items_of(study), f"{STUDIES}, {study.id}")
                tables.each(f"{STUDIES}, {study.id}", ((item.id,) for item in items))
        embeddings = bundled.stated.embeddings
        tables.each(f"{STATED}, embeddings", (((use.route, use.target),) for use in embeddings))


def _is_hashed(answer: Answer | None, digest: str) -> bool:
    return answer is None or not answer.text or answer.text == f"sha256:{digest}"


def _of_subject(source: BundleManifest | BundleSubject) -> dict[str, Any]:
    """Return what a manifest says of its run or rollout, without the versions of what wrote it."""
    return {
        "id": source.id,
        "name": source.name,
        "dataset": source.dataset,
        "seeds": source.seeds,
        "versions": {
            name: known for name, known in source.versions.items() if name.startswith("run.")
        },
    }


def _bounded(every: Iterable[_Row], entry: str) -> Iterator[_Row]:
    """Yield rows whose numbers are within bounds. Raises EvidenceError for others."""
    for line, row in enumerate(every, 1):
        _check_numbers(row, f"{entry}, line {line}")
        yield row


def _check_numbers(value: Any, where: str) -> None:
    if isinstance(value, int | float):
        if not abs(value) <= MAX_NUMBER:
            raise EvidenceError(f"{where}: a number is larger than {MAX_NUMBER:g}")
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if name not in _FREE:
                _check_numbers(getattr(value, name), where)
    elif isinstance(value, dict):
        for inner in value.values():
            _check_numbers(inner, where)
    elif isinstance(value, Sequence | frozenset) and not isinstance(value, str):
        for inner in value:
            _check_numbers(inner, where)
