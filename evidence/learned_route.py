"""Simulates learned routes whose truth is known: `python -m evidence.learned_route`.

    python -m evidence.learned_route                   # all worlds, 200 routes each
    python -m evidence.learned_route --routes 100      # fewer
    python -m evidence.learned_route --record          # and a page in evidence/results

A world has topics, which show in the embeddings of prompts, users who each have some topics they
write about, and two or three targets with costs and chances of a good answer that depend on the
topic. Each route is learned from such prompts and tested held out, as `evalrouter route learn`
does; then what it is really worth is computed on fresh prompts of other users. The table says how
often it was switched on, and what it saved. It fails where a world breaks its promise.

The report's interval of the saving is of models that each learned from four fifths of the prompts;
the column that counts how often it covers the truth takes the route that learned from all of them.
Where a route sends hardly any prompt elsewhere, the two may differ by more than the interval.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evidence.simulation import Simulation
from evidence.table import table
from router.loop.learned.examples import Examples, Floats
from router.loop.learned.held_out import HeldOutReport, always_target, held_out_report
from router.loop.learned.neighbours import Criterion, NeighbourModel, choose

ROUTES = 200
DIMENSIONS = 64
TOPICS = 12
NEIGHBOURS = 50
MARGIN = 0.02
FRESH = 4000
MOST_WRONG = 0.05
LEAST_SAVED = 0.30
LEAST_FOUND = 0.80


class World(NamedTuple):
    """What is true of a route.

    Attributes:
        name: in the table.
        chances: of a good answer by target and topic, shape (k, TOPICS).
        costs: US dollars per request, length k.
        pays: whether routing by prompt can save anything.
        rows: prompts that a route is learned from.
        noise: of the embeddings around their topic.
        logged: whether only the target that answered has a score, drawn evenly.
        criterion: what is good enough.
    """

    name: str
    chances: Floats
    costs: tuple[float, ...]
    pays: bool
    rows: int = 1500
    noise: float = 0.5
    logged: bool = False
    criterion: Criterion = Criterion(within=0.1, reference=1, confidence=0.9)


class Outcome(NamedTuple):
    """What became of one route.

    Attributes:
        report: of its held-out test.
        saving: what it saves in truth, as a share of what the one target costs.
        loss: how much lower its score is in truth.
    """

    report: HeldOutReport
    saving: float
    loss: float


def _chances(cheap: Sequence[float], dear: float = 0.9) -> Floats:
    return np.array([np.resize(cheap, TOPICS), np.full(TOPICS, dear)])


_COSTS = (0.0002, 0.002)
WORLDS = (
    World("easy and hard topics", _chances([0.9, 0.9, 0.4]), _COSTS, pays=True),
    World(
        "easy and hard topics, logged",
        _chances([0.9, 0.9, 0.3]),
        _COSTS,
        pays=True,
        rows=6_000,
        logged=True,
        criterion=Criterion(at_least=0.8, confidence=0.9),
    ),
    World("the cheap one is worse everywhere", _chances([0.7]), _COSTS, pays=False),
    World("worse everywhere, by little", _chances([0.86]), _COSTS, pays=False),
    World("as good everywhere, and cheaper", _chances([0.9]), _COSTS, pays=False),
    World(
        "topics do not show in the embeddings",
        _chances([0.9, 0.9, 0.4]),
        _COSTS,
        pays=False,
        noise=50.0,
    ),
    World("the same quality and the same cost", _chances([0.9]), (0.002, 0.002), pays=False),
    World(
        "worse everywhere, logged",
        _chances([0.7]),
        _COSTS,
        pays=False,
        rows=3000,
        logged=True,
        criterion=Criterion(at_least=0.8, confidence=0.9),
    ),
)


def embedded(
    world: World, topics: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return embeddings of prompts about these topics."""
    # The same in all routes of a world, as an embedding model is.
    centres = np.random.default_rng(7).normal(size=(TOPICS, DIMENSIONS))
    vectors = centres[topics] + world.noise * rng.normal(size=(len(topics), DIMENSIONS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def draw(world: World, rows: int, rng: np.random.Generator) -> tuple[Examples, NDArray[np.int64]]:
    """Return prompts with all scores, and their topics; about ten are of each user."""
    users = rng.integers(0, rows // 10, rows)
    favourites: NDArray[np.int64] = rng.integers(0, TOPICS, (rows // 10, 3))
    topics = np.asarray(favourites)[users, rng.integers(0, 3, rows)]
    vectors = embedded(world, topics, rng)
    k = len(world.costs)
    # Half of the prompts are as hard for one target as for another.
    luck = np.where(rng.random((rows, 1)) < 0.5, rng.random((rows, 1)), rng.random((rows, k)))
    scores = (luck < world.chances[:, topics].T).astype(np.float64)
    costs = np.array(world.costs) * rng.lognormal(-0.125, 0.5, (rows, 1))
    examples = Examples(
        tuple(f"target/{n}" for n in range(k)),
        vectors,
        scores,
        costs,
        np.full((rows, k), 1.0),
        np.full(rows, np.nan),
        users.astype(np.int64),
    )
    return examples, topics


def logged(examples: Examples, rng: np.random.Generator) -> Examples:
    """Return the prompts with the score and cost of one target only, drawn evenly."""
    n, k = examples.scores.shape
    answered: NDArray[np.int64] = np.asarray(rng.integers(0, k, n))
    hidden = np.arange(k) != answered[:, None]
    return examples._replace(
        scores=np.where(hidden, np.nan, examples.scores),
        costs=np.where(hidden, np.nan, examples.costs),
        propensities=np.full(n, 1 / k),
    )


def simulate(world: World, seed: int) -> Outcome:
    """Learn and test one route, and compute what it is worth."""
    rng = np.random.default_rng([seed, WORLDS.index(world)])
    examples, _ = draw(world, world.rows, rng)
    if world.logged:
        examples = logged(examples, rng)
    criterion = world.criterion
    report = held_out_report(examples, criterion, neighbours=NEIGHBOURS, margin=MARGIN)
    model = NeighbourModel(examples, criterion, neighbours=NEIGHBOURS)
    # Every topic as often as users write about it on average, and costs as they are on average, so
    # that what is true has next to no noise of its own.
    topics = np.arange(FRESH) % TOPICS
    always = always_target(examples, criterion)
    picks = choose(model.predict(embedded(world, topics, rng)), criterion)
    one = world.costs[always]
    saving = float((one - np.array(world.costs)[picks]).mean() / one)
    loss = float((world.chances[always, topics] - world.chances[picks, topics]).mean())
    return Outcome(report, saving, loss)


HEAD = (
    "world",
    "switched on, %",
    "does not pay, %",
    "untested, %",
    "saves in truth, % (10th to 90th percentile)",
    "worse in truth, points",
    "interval of the saving covers it, %",
    "promise",
)


def row(world: World, outcomes: Sequence[Outcome]) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns of a world, and its broken promises."""
    shares = {
        decision: float(np.mean([outcome.report.decision == decision for outcome in outcomes]))
        for decision in ("pays", "does_not_pay", "untested")
    }
    switched = [outcome for outcome in outcomes if outcome.report.decision == "pays"]
    faults = []
    # Three standard errors of the simulation itself.
    slack = 3 * (MOST_WRONG * (1 - MOST_WRONG) / len(outcomes)) ** 0.5
    saved = np.array([outcome.saving for outcome in (switched if world.pays else outcomes)])
    loss = np.array([outcome.loss for outcome in (switched if world.pays else outcomes)])
    if world.pays:
        promise = (
            f"on in at least {LEAST_FOUND:.0%}, saves at least {LEAST_SAVED:.0%}, "
            f"worse by more than the margin in at most {MOST_WRONG:.0%}"
        )
        if shares["pays"] < LEAST_FOUND:
            faults.append(f"on in {shares['pays']:.1%}")
        if len(saved) and float(np.median(saved)) < LEAST_SAVED:
            faults.append(f"saves {np.median(saved):.0%}")
        if len(loss) and float((loss > MARGIN).mean()) > MOST_WRONG + slack:
            faults.append(f"too much worse in {(loss > MARGIN).mean():.1%}")
    else:
        promise = f"on in at most {MOST_WRONG:.0%}"
        if shares["pays"] > MOST_WRONG + slack:
            faults.append(f"on in {shares['pays']:.1%}")
    covered = [
        outcome.report.saving_low <= outcome.saving <= outcome.report.saving_high
        for outcome in outcomes
        if outcome.report.saving_low is not None and outcome.report.saving_high is not None
    ]
    columns = (
        world.name,
        *(f"{100 * shares[decision]:.1f}" for decision in ("pays", "does_not_pay", "untested")),
        _spread(100 * saved, 0),
        _spread(100 * loss, 1),
        f"{100 * np.mean(covered):.1f}" if covered else "",
        "; ".join([promise, *(f"**{fault}**" for fault in faults)]),
    )
    return columns, faults


def _spread(values: Floats, digits: int) -> str:
    if not len(values):
        return ""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


class Job(NamedTuple):
    """Routes of a world to be counted by another process."""

    number: int
    seeds: range


def count(job: Job) -> list[Outcome]:
    """Return what became of some routes of a world."""
    return [simulate(WORLDS[job.number], seed) for seed in job.seeds]


def main() -> int:
    """Print the table; return 1 where a promise is broken."""
    simulation = Simulation(
        "learned_route", __doc__, units="routes", least=ROUTES, page="learned routes"
    )
    seed, routes = simulation.seed, simulation.size
    jobs = [
        Job(number, range(seed + start, seed + min(start + 20, routes)))
        for number in range(len(WORLDS))
        for start in range(0, routes, 20)
    ]
    outcomes: dict[int, list[Outcome]] = {number: [] for number in range(len(WORLDS))}
    for job, some in simulation.results(count, jobs):
        outcomes[job.number] += some
    rows = [row(world, outcomes[number]) for number, world in enumerate(WORLDS)]
    lines = table(HEAD, [columns for columns, _ in rows])
    broken = sum(bool(faults) for _, faults in rows)
    return simulation.end(lines, rows=len(rows), broken=broken)


if __name__ == "__main__":
    sys.exit(main())
