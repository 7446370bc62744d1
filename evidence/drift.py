"""Simulates watches whose truth is known: `python -m evidence.drift`, part of `make evidence`.

    python -m evidence.drift                     # all rows, 1,000 watches each
    python -m evidence.drift --watches 100       # fewer
    python -m evidence.drift --record            # and a page in evidence/results

Each watch has a reference of its own, drawn at random like everything else, and is probed once a
day. Quiet rows say how many of the watches ever reported a change in 1,000 days, beside the common
rule that a distance above all of the reference's is one. The other rows say within how many probes
a change of a known size is found. It fails where a share is outside of what is promised.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluators.base import Sample
from evaluators.stats.drift import SPREAD_FLOOR, DriftTest
from evidence.cells import Floats
from evidence.simulation import Simulation
from evidence.table import table
from router.config.watches import WatchSettings
from router.loop.watch_comparison import anchors_of, threshold_of
from router.loop.watch_probes import WatchRequests, anchor_of, measure

WATCHES = 1000
DAYS = 1000
REFERENCE = 20
PROMPTS, TOKENS, REPEATS = 8, 5, 2
ROWS, VARIANTS = 10, 4
NOISE = 0.05
"""The usual standard deviation of a log probability, in nats; prompts have half to twice of it."""

DEFAULT = WatchSettings(target="up/a")
ALONE = WatchSettings(target="up/a", alpha=0.05, live=None)

World = Callable[[np.random.Generator, int, int, float], Floats]


class Cell(NamedTuple):
    """A row of the table.

    Attributes:
        watch: whose `alpha` and signals say at which evidence a change is reported.
        world: draws a watch's distances; in units of each log probability's usual variation for
            `logprobs`, as the share of rows whose answers become others for `texts`.
        quiet: probes before the change, after the reference.
        size: of the change; 0 for none.
        within: probes after it in which 90 % of the watches find it; None for no promise.
    """

    watch: WatchSettings
    world: str
    quiet: int
    size: float = 0.0
    within: int | None = None

    def faults(self, found: Sequence[float]) -> list[str]:
        """Return which promises are broken, by the probes after which changes were reported.

        Negative ones were reported before there was a change; inf stands for never.
        """
        faults = []
        early = float(np.mean([each <= 0 for each in found]))
        level = self.watch.alpha
        if early > level + 3 * math.sqrt(level * (1 - level) / len(found)):
            faults.append(f"reported without a change in {early:.1%}")
        if self.within is not None:
            timely = float(np.mean([each <= self.within for each in found]))
            if timely < 0.9:
                faults.append(f"found in time in only {timely:.1%}")
        return faults


def logprob_distances(
    random: np.random.Generator, probes: int, change_at: int, size: float
) -> Floats:
    """Return distances of one-token log probabilities, as `watch_probes.measure` computes them.

    A test compares the two. Every log probability moves by `size` times its variation, up or down.
    """
    noise = NOISE * random.choice([0.5, 1.0, 2.0], PROMPTS)[None, :, None]
    drawn = random.normal(size=(probes, PROMPTS, TOKENS, REPEATS)).mean(axis=3) * noise
    drawn[change_at:] += size * noise * random.choice([-1, 1], (1, PROMPTS, TOKENS))
    return distances_of(drawn)


def distances_of(drawn: Floats) -> Floats:
    """Return the distances of draws, shape (probes, prompts, tokens), from their anchor."""
    anchors = anchors_of(REFERENCE)
    means = drawn[:anchors].mean(axis=0)
    spread = np.abs(drawn[:anchors] - means).mean(axis=(0, 2))
    apart = np.abs(drawn[anchors:] - means).mean(axis=2)
    result: Floats = (apart / (spread + SPREAD_FLOOR)).mean(axis=1)
    return result


def certain_distances(_: np.random.Generator, probes: int, change_at: int, size: float) -> Floats:
    """Return distances of a host that always answers the same, until it changes."""
    distances = np.zeros(probes - anchors_of(REFERENCE))
    distances[change_at - anchors_of(REFERENCE) :] = size
    return distances


def uneven_distances(
    random: np.random.Generator, probes: int, change_at: int, size: float
) -> Floats:
    """Return distances with a heavy tail: one probe in twenty meets another, noisier replica."""
    distances = logprob_distances(random, probes, change_at, size)
    noisier = random.random(len(distances)) < 0.05
    return np.where(noisier, distances * random.pareto(1.5, len(distances)) * 3, distances)


def text_distances(random: np.random.Generator, probes: int, change_at: int, size: float) -> Floats:
    """Return distances of texts by the metric of the default watch.

    Each row has some ways to answer, the first the most likely; a change gives a share of the rows
    others, which have half of the words in common.
    """
    watch = WatchSettings(target="up/a", dataset="rows", repeats=1)
    variants = [[_text(row, variant) for variant in range(2 * VARIANTS)] for row in range(ROWS)]
    weights = np.array([0.7, 0.15, 0.1, 0.05])
    places = random.choice(VARIANTS, (probes, ROWS), p=weights)
    changed = random.permutation(ROWS)[: round(size * ROWS)]
    places[change_at:, changed] += VARIANTS
    samples = [Sample(id=str(row), messages=()) for row in range(ROWS)]
    anchors = anchors_of(REFERENCE)
    draws = [[[variants[row][place[row]]] for row in range(ROWS)] for place in places[:anchors]]
    anchor = anchor_of(watch, draws)
    apart = np.array(
        [[_apart(watch, samples[row], anchor, row, text) for text in variants[row]]
         for row in range(ROWS)]
    )  # fmt: skip
    result: Floats = apart[np.arange(ROWS), places[anchors:]].mean(axis=1)
    return result


def _text(row: int, variant: int) -> str:
    shared = [f"word{row}-{n}" for n in range(12)]
    other = [f"other{row}-{variant}-{n}" for n in range(12)]
    if variant < VARIANTS:
        return " ".join([*shared[variant:], *other[:variant]])
    return " ".join([*shared[:6], *other[:6]])


def _apart(
    watch: WatchSettings, sample: Sample, anchor: dict[str, Any], row: int, text: str
) -> float:
    only = {"texts": [anchor["texts"][row]]}
    return measure(watch, WatchRequests((sample,)), only, [[text]]).distance


WORLDS: dict[str, World] = {
    "logprobs": logprob_distances,
    "logprobs, a noisier replica": uneven_distances,
    "logprobs, always the same": certain_distances,
    "texts": text_distances,
}
CELLS = (
    *(Cell(watch, world, DAYS) for watch in (DEFAULT, ALONE) for world in WORLDS),
    Cell(DEFAULT, "logprobs", 0, 1.0, within=25),
    Cell(DEFAULT, "logprobs", 30, 1.0, within=12),
    Cell(DEFAULT, "logprobs", 30, 0.5),
    Cell(DEFAULT, "logprobs", 365, 1.0, within=10),
    Cell(DEFAULT, "logprobs", 365, 0.5, within=80),
    Cell(DEFAULT, "logprobs, always the same", 30, 1.0, within=12),
    Cell(DEFAULT, "logprobs, a noisier replica", 365, 1.0, within=20),
    Cell(DEFAULT, "texts", 30, 1.0, within=12),
    Cell(DEFAULT, "texts", 30, 0.3, within=20),
    Cell(DEFAULT, "texts", 365, 0.3, within=15),
    Cell(DEFAULT, "texts", 365, 0.1),
)
HEAD = (
    "compared",
    "at most ever, % (alpha)",
    "quiet probes",
    "change",
    "reported without a change, %",
    "by the common rule, %",
    "probes until it is found: median, 90%",
    "promised",
)
_AFTER = 100
"""Probes after a change, in which it is looked for."""


def simulate(cell: Cell, watches: int, seed: int) -> tuple[list[float], float]:
    """Return after how many probes each watch reported a change, and the common rule's share.

    Counted from the change on; those before it are 0 or less, and inf stands for never.
    """
    found: list[float] = []
    above = 0
    after = _AFTER if cell.size else 0
    threshold = threshold_of(cell.watch, 1)
    for number in range(watches):
        random = np.random.default_rng([seed, number, cell.quiet, int(100 * cell.size)])
        change_at = REFERENCE + cell.quiet
        distances = WORLDS[cell.world](random, change_at + after, change_at, cell.size)
        change = change_at - anchors_of(REFERENCE)
        found.append(reported(distances, random.random(len(distances)), threshold) - change)
        held_out = REFERENCE - anchors_of(REFERENCE)
        above += bool((distances[held_out:change] > distances[:held_out].max()).any())
    return found, above / watches


def reported(distances: Floats, ties: Floats, threshold: float) -> float:
    """Return the number of distances after which a change is reported; inf where it never is."""
    test = DriftTest()
    for place, (distance, tie) in enumerate(zip(distances.tolist(), ties.tolist(), strict=True)):
        if test.add(distance, tie=tie).e_value >= threshold:
            return place + 1
    return math.inf


def row(cell: Cell, found: Sequence[float], common: float) -> tuple[str, ...]:
    """Return the columns of a cell."""
    late = sorted(each for each in found if each > 0)
    promises = [f"without a change at most {cell.watch.alpha:.0%}"]
    if cell.within is not None:
        promises.append(f"found within {cell.within} probes in at least 90%")
    unit = " of the rows" if cell.world == "texts" else " times the variation"
    change = f"{cell.size:g}{unit}" if cell.size else "none"
    return (
        cell.world,
        f"{100 * cell.watch.alpha:g}",
        f"{cell.quiet:,}",
        change,
        f"{100 * float(np.mean([each <= 0 for each in found])):.1f}",
        f"{100 * common:.1f}" if cell.quiet else "",
        f"{_probes(late, 0.5)}, {_probes(late, 0.9)}" if cell.size else "",
        "; ".join([*promises, *(f"**{fault}**" for fault in cell.faults(found))]),
    )


def _probes(late: Sequence[float], share: float) -> str:
    value = late[min(len(late) - 1, int(share * len(late)))] if late else math.inf
    return f"{value:g}" if math.isfinite(value) else f"over {_AFTER}"


class Job(NamedTuple):
    """A row to be counted by another process; `number` is its place in the table."""

    number: int
    watches: int
    seed: int


def count(job: Job) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns of a cell and its broken promises."""
    cell = CELLS[job.number]
    found, common = simulate(cell, job.watches, job.seed)
    return row(cell, found, common), cell.faults(found)


def main() -> int:
    """Print the table; return 1 where a promise is broken."""
    simulation = Simulation("drift", __doc__, units="watches", least=WATCHES, page="drift")
    jobs = [Job(number, simulation.size, simulation.seed) for number in range(len(CELLS))]
    rows: dict[int, tuple[str, ...]] = {}
    broken = 0
    for job, (columns, faults) in simulation.results(count, jobs):
        rows[job.number] = columns
        broken += bool(faults)
        print(f"{len(rows)} of {len(jobs)}: {' | '.join(columns)}", file=sys.stderr)
    lines = table(HEAD, [rows[job.number] for job in jobs])
    return simulation.end(lines, rows=len(jobs), broken=broken)


if __name__ == "__main__":
    sys.exit(main())
