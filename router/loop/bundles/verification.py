"""Verifies a bundle on any machine: who vouches for it, and whether its numbers follow from it.

    verification = await verify(path, trusted=None)
    verification.refused         # why it was not even read; "" otherwise
    verification.differing       # how many numbers do not come out as stated

The order is what keeps a forged file from doing anything: the archive's bounds, the signature over
the manifest's bytes, the hash of every entry, and only then what the entries say. Nothing in a
bundle is executed: no metric with code, no template, no pickle. No network and no database is used.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec

from evaluators.judge.calibration import calibrate
from evaluators.judge.graded import Graded
from evaluators.reports.gates import Gate
from providers.errors import EvalrouterError, EvidenceError
from router.evals.judges.studies import calibration_of, items_of
from router.evals.validation import parse_gates
from router.loop.bundles.archive import Archive, open_archive
from router.loop.bundles.bundled_run import BundledRun, decoded, from_json, numbers_of
from router.loop.bundles.consistency import check_rollout, check_run
from router.loop.bundles.contents import (
    ENTRIES,
    FORMAT,
    MANIFEST,
    NUMBERS,
    PUBLIC_KEY,
    SIGNATURE,
    VERSION,
    BundleManifest,
    RunNumbers,
)
from router.loop.bundles.differences import MAX_SHOWN, Compared, Difference, differences
from router.loop.bundles.rescoring import RecomputedScores, rescored
from router.loop.bundles.rollout_replay import RULES, BundledRollout, Replayed, replay
from router.loop.bundles.signatures import (
    MAX_KEY_BYTES,
    SIGNATURE_BYTES,
    fingerprint,
    is_signed,
)
from router.store.evidence import Bodies, BundleKind
from router.store.rollouts import RolloutDecision

MAX_MANIFEST_BYTES = 1 << 20
# Texts may have been written to take hours.
SCORING_S = 300.0

# What is done, and how far: bytes of hashes, answers of scores.
ProgressCallback = Callable[[str, int], None]


class Verification(msgspec.Struct, kw_only=True):
    """What came of verifying a bundle.

    Attributes:
        file: its name.
        manifest: SHA-256 of its manifest, hex: the same for the same evidence.
        signature: `trusted`, signed by the key that was named; `unnamed`, signed by a key where
            none was named; `none`.
        signed_by: the fingerprint of the key; "" without a signature.
        refused: why it was not read any further: the signature or a hash is wrong. "" otherwise.
        kind, subject, name, bodies: as its manifest has them.
        agree: how many numbers come out as stated.
        differing: how many do not.
        differences: the first of these.
        checked: what was held against what is stored beside it, each a sentence.
        not_recomputed: what can only be believed, each a sentence.
        unscored: how many answers were not scored once more, because the time was over.
        versions: versions that are others here than where the bundle was written.
    """

    file: str
    manifest: str = ""
    signature: Literal["trusted", "unnamed", "none"] = "none"
    signed_by: str = ""
    refused: str = ""
    kind: BundleKind | None = None
    subject: str = ""
    name: str = ""
    bodies: Bodies | None = None
    agree: int = 0
    differing: int = 0
    differences: list[Difference] = []
    checked: list[str] = []
    not_recomputed: list[str] = []
    unscored: int = 0
    versions: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether it was not refused, and every number was checked and comes out as stated."""
        return not self.refused and not self.differing and not self.unscored

    def add(self, compared: Compared) -> None:
        """Add what came of a comparison."""
        self.agree += compared.alike
        self.differing += compared.differing
        self.differences += compared.shown[: MAX_SHOWN - len(self.differences)]


async def verify(
    path: Path,
    *,
    trusted: bytes | None = None,
    scoring_s: float = SCORING_S,
    progress: ProgressCallback = lambda _what, _done: None,
) -> Verification:
    """Verify a bundle.

    Args:
        path: the file.
        trusted: the PEM of the public key that must have signed it; None for any or none.
        scoring_s: seconds that scoring all answers once more may take.
        progress: called with what is done, and how far.

    Raises:
        EvidenceError: it is no bundle, is damaged, or exceeds a limit.
    """
    with open_archive(path) as archive:
        result = Verification(file=path.name)
        encoded = archive.read(MANIFEST, MAX_MANIFEST_BYTES)
        result.manifest = hashlib.sha256(encoded).hexdigest()
        result.refused = _refused_signature(archive, encoded, trusted, result)
        if result.refused:
            return result
        manifest = _manifest(encoded, path.name)
        result.kind, result.subject, result.name = manifest.kind, manifest.id, manifest.name
        result.bodies = manifest.bodies
        result.refused = await asyncio.to_thread(_refused_entries, archive, manifest, progress)
        if result.refused:
            return result
        result.versions = _other_versions(manifest)
        try:
            if manifest.kind == "run":
                await _verify_run(archive, manifest, result, progress, scoring_s)
            else:
                await _verify_rollout(archive, manifest, result, progress)
        except EvalrouterError:
            raise
        except Exception as error:
            # Whoever signed it may have written anything into it.
            raise EvidenceError(
                f"{path.name}: its numbers cannot be recomputed: {type(error).__name__}: {error}"
            ) from error
    return result


def _refused_signature(
    archive: Archive, encoded: bytes, trusted: bytes | None, result: Verification
) -> str:
    """Check who signed the manifest; return why it is refused, "" where it is not."""
    if SIGNATURE not in archive.names and PUBLIC_KEY not in archive.names:
        return "" if trusted is None else "it is not signed, and a key was named"
    signature = archive.read(SIGNATURE, SIGNATURE_BYTES)
    public_pem = archive.read(PUBLIC_KEY, MAX_KEY_BYTES)
    if not is_signed(public_pem, signature, encoded):
        return "its signature is not that of its manifest"
    result.signed_by, result.signature = fingerprint(public_pem), "unnamed"
    if trusted is None:
        return ""
    if not hmac.compare_digest(fingerprint(trusted), result.signed_by):
        return f"it is signed by {result.signed_by}, and {fingerprint(trusted)} was named"
    result.signature = "trusted"
    return ""


def _manifest(encoded: bytes, where: str) -> BundleManifest:
    try:
        head = msgspec.json.decode(encoded, type=_Head)
        if (head.format, head.version) != (FORMAT, VERSION):
            raise EvidenceError(
                f"{where}: it is of the format {head.format[:40]!r}, version {head.version}; this "
                f"evalrouter reads {FORMAT!r}, version {VERSION}"
            )
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise EvidenceError(f"{where}: {MANIFEST}: {error}") from error
    return from_json(encoded, msgspec.json.Decoder(BundleManifest), f"{where}: {MANIFEST}")


class _Head(msgspec.Struct):
    """What says how the rest of a manifest is to be read."""

    format: str = ""
    version: int = 0


def _refused_entries(archive: Archive, manifest: BundleManifest, progress: ProgressCallback) -> str:
    """Compare the entries with the manifest; return why they are refused, "" where they are not."""
    named = [entry.name for entry in manifest.entries]
    if sorted(named) != sorted(ENTRIES[manifest.kind]):
        return f"its manifest names other entries than a {manifest.kind} has"
    signed = {MANIFEST, SIGNATURE, PUBLIC_KEY}
    if extra := sorted(set(archive.names) - signed - set(named)):
        return f"{extra[0]} is not in its manifest"
    read = lines = 0

    def count(chunk: bytes) -> None:
        nonlocal read, lines
        read += len(chunk)
        lines += chunk.count(b"\n")
        progress("hashes", read)

    for entry in manifest.entries:
        if entry.name not in archive.names:
            return f"{entry.name} is missing"
        if archive.size(entry.name) != entry.size:
            return f"{entry.name} is not what its manifest says: it has another size"
        lines = 0
        if archive.sha256(entry.name, count) != entry.sha256:
            return f"{entry.name} is not what its manifest says: its SHA-256 is another"
        rows = lines if entry.name.endswith(".jsonl") else None
        if entry.rows != rows:
            return f"{entry.name} is not what its manifest says: it has another number of rows"
    return ""


def _other_versions(manifest: BundleManifest) -> list[str]:
    here = {"python": platform.python_version()}
    others = []
    for name, then in sorted(manifest.versions.items()):
        if name.startswith("run."):
            continue
        if name not in here:
            try:
                here[name] = version(name)
            except PackageNotFoundError:
                here[name] = "not installed"
        if here[name] != then:
            others.append(f"{name} {here[name]} here, {then} where the bundle was written")
    return others


_CONTRADICTORY = "Any number and decision, because the rows contradict each other."


async def _verify_run(
    archive: Archive,
    manifest: BundleManifest,
    result: Verification,
    progress: ProgressCallback,
    scoring_s: float,
) -> None:
    bundled = await asyncio.to_thread(BundledRun, archive, manifest.bodies)
    _check_manifest(manifest, bundled)
    progress("rows", 0)
    result.add(await asyncio.to_thread(check_run, bundled, manifest))
    if result.differing:
        result.not_recomputed = [_CONTRADICTORY]
        return
    stated = await asyncio.to_thread(decoded, archive, NUMBERS, RunNumbers)
    progress("numbers", 0)
    recomputed = await numbers_of(bundled, bundled.metrics.metrics)
    known, made = (msgspec.to_builtins(numbers) for numbers in (stated, recomputed))
    if bundled.metrics.unknown:
        gates = parse_gates(bundled.document, bundled.metrics.metrics)
        for numbers in (known, made):
            _leave_out(numbers, bundled.metrics.unknown, gates)
    result.add(differences(known, made))
    for compared in await asyncio.to_thread(list, _calibrated(bundled)):
        result.add(compared)
    scores = await rescored(bundled, lambda done: progress("scores", done), scoring_s)
    result.add(scores.texts)
    result.add(scores.judges)
    result.unscored = scores.unscored
    if not scores.unscored:
        stated_use = [
            {name: getattr(use, name) for name in ("metric", "judge", *_COUNTED)}
            for use in bundled.stated.judges
        ]
        used = {"judges": scores.used.numbers()}
        result.add(differences({"judges": stated_use}, used))
    result.checked = _checked(scores.texts.alike, scores.judges.alike, scores.combined)
    result.not_recomputed = list(_not_recomputed(bundled, manifest, scores))
    if scores.unscored:
        result.not_recomputed.append(
            f"{scores.unscored:,} answers were not scored within {scoring_s:g} s; give them more "
            "with --seconds."
        )


async def _verify_rollout(
    archive: Archive,
    manifest: BundleManifest,
    result: Verification,
    progress: ProgressCallback,
) -> None:
    bundled = await asyncio.to_thread(BundledRollout, archive)
    if manifest.id != bundled.rollout.id:
        raise EvidenceError(f"{MANIFEST}: it is of {manifest.id}, not {bundled.rollout.id}")
    stated = await asyncio.to_thread(bundled.numbers)
    result.add(await asyncio.to_thread(check_rollout, bundled, manifest, stated))
    if result.differing:
        result.not_recomputed = [_CONTRADICTORY]
        return
    replayed = await asyncio.to_thread(
        replay, bundled, stated.judged, lambda done: progress("batches", done)
    )
    decided = [decision for decision in bundled.decisions if decision.rule in RULES]
    if replayed.missing:
        result.not_recomputed = [
            f"Numbers and {len(decided):,} decisions are as stated, because {replayed.missing}: "
            "they followed from more than what is here."
        ]
    else:
        result.add(differences(stated, replayed.numbers))
        result.add(differences({"decisions": _by_rules(decided)}, _by_revision(replayed, decided)))
        result.checked = [
            f"{len(replayed.decisions):,} decisions of the rules come out of "
            f"{replayed.batches:,} batches as they were taken."
        ]
    result.not_recomputed.append(
        "What people decided, how requests went and when they were counted is as stated: a "
        "signature says who vouches for it."
    )


def _by_rules(decisions: Sequence[RolloutDecision]) -> list[dict[str, Any]]:
    fields = ("revision", *_DECIDED)
    return [{name: getattr(decision, name) for name in fields} for decision in decisions]


def _by_revision(replayed: Replayed, decisions: Sequence[RolloutDecision]) -> dict[str, Any]:
    """Return the decisions that come out, with the revisions of those that were taken."""
    revisions = [decision.revision for decision in decisions]
    return {
        "decisions": [
            {"revision": revisions[n] if n < len(revisions) else "(none)", **made}
            for n, made in enumerate(replayed.decisions)
        ]
    }


# What of the judges' use can be counted.
_COUNTED = ("calls", "asked_again", "failed")
# What the rules say of a decision.
_DECIDED = (
    "rule",
    "reason",
    "signal",
    "e_value",
    "low",
    "high",
    "seen",
    "from_state",
    "to_state",
    "from_weight",
)


def _check_manifest(manifest: BundleManifest, bundled: BundledRun) -> None:
    """Check that the manifest speaks of the run that the bundle has. Raises EvidenceError."""
    run, dataset = bundled.run, manifest.dataset
    if manifest.id != run.id:
        raise EvidenceError(f"{MANIFEST}: it is of {manifest.id}, and the run is {run.id}")
    if dataset is None or (dataset.sha256, dataset.rows) != (run.dataset_hash, run.dataset_rows):
        raise EvidenceError(f"{MANIFEST}: its dataset is not that of the run")


def _leave_out(numbers: dict[str, Any], unknown: frozenset[str], gates: list[Gate]) -> None:
    """Leave out numbers of outputs whose function is not there, and what is corrected for them."""
    report = numbers["report"]
    for route in report["routes"]:
        route["scores"] = [score for score in route["scores"] if score["output"] not in unknown]
        route["confusions"] = [
            matrix for matrix in route["confusions"] if matrix["output"] not in unknown
        ]
    report["comparisons"] = [
        {**compared, "p_holm": None, "verdict": None}
        for compared in report["comparisons"]
        if compared["output"] not in unknown
    ]
    for output in report["outputs"]:
        if output["name"] in unknown:
            output["corpus"] = True
    report["warnings"] = []
    affected = {gate.text for gate in gates if gate.output in unknown}
    numbers["gates"] = [gate for gate in numbers["gates"] if gate["gate"] not in affected]


def _calibrated(bundled: BundledRun) -> Iterator[Compared]:
    """Make the numbers of each calibration of a judge once more, and compare."""
    categories = {
        metric.grading: metric.declaration().categories
        for metric in bundled.metrics.metrics
        if isinstance(metric, Graded)
    }
    for study in bundled.calibrations():
        if "calibration" not in study.report:
            continue
        stated = calibration_of(study)
        made = calibrate(
            items_of(study),
            low=stated.low,
            high=stated.high,
            scores=categories.get(study.grading, ()),
        )
        yield differences({study.id: stated}, {study.id: made})


def _checked(texts: int, judged: int, only_combined: int) -> list[str]:
    sentences = []
    if texts:
        sentences.append(f"{texts:,} scores come out of the answers as stated.")
    if judged > only_combined:
        sentences.append(
            f"{judged - only_combined:,} scores of judges come out of the judges' stored answers "
            "as stated; that a judge gave these answers cannot be recomputed."
        )
    if only_combined:
        sentences.append(
            f"{only_combined:,} scores of judges were only compared with the verdicts beside them."
        )
    return sentences


def _not_recomputed(
    bundled: BundledRun, manifest: BundleManifest, scores: RecomputedScores
) -> Iterator[str]:
    if scores.replaced:
        how = "hashes" if manifest.bodies == "hashes" else "their personal data masked"
        yield (
            f"{scores.replaced:,} answers are there with {how}, so their scores by texts are as "
            "stated."
        )
    if scores.deleted:
        yield (
            f"The texts of {scores.deleted:,} answers were deleted before the bundle was written, "
            "or never stored, so their scores by texts are as stated."
        )
    for name, why in bundled.metrics.reasons.items():
        yield f"{name}: {why}; its scores are as stated."
    for name in sorted(bundled.metrics.unknown):
        yield (
            f"{name}: what makes one score of all answers is not here, so that score, differences "
            "of it and corrections for several tests are as stated."
        )
    yield (
        "That the requests were sent and answered so, and what they took, is as stated: a "
        "signature says who vouches for it."
    )
