"""Simulates logs whose truth is known: `python -m evidence.what_if`, part of `make evidence`.

    python -m evidence.what_if                        # all rows, 2,000 logs each
    python -m evidence.what_if --logs 200 drift       # fewer, of the rows that begin so
    python -m evidence.what_if --record               # and a page in evidence/results

Each row draws logs of requests whose targets were chosen with known probabilities, and estimates
a policy that never ran. The table says how often the interval held the truth where one was given,
and how often none was. It fails where less than 93% of the doubly robust intervals hold it, where
one is given although too few requests speak for the policy, or where wrong probabilities pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluators.stats.off_policy import FEWEST_EFFECTIVE, Choices, off_policy_value
from evidence.cells import Floats
from evidence.simulation import Simulation
from evidence.table import table

LOGS = 2000
COVERAGE = 0.93
CONTEXTS = 4
POLICY = np.array([[0.2, 0.8], [0.0, 1.0], [0.5, 0.5], [0.1, 0.9]])
GAINS = np.array([0.3, -0.2, 0.5, 0.1])
"""What the second target brings more, in each context."""

HEAD = (
    "log",
    "requests",
    "effective units",
    "refused, %",
    "doubly robust holds, %",
    "inverse propensity holds, %",
    "width, doubly robust / inverse propensity",
    "broken promise",
)

Ints = NDArray[np.intp]
Random = np.random.Generator


class Log(NamedTuple):
    """Requests, the policy that is judged, and what it would bring.

    Attributes:
        outcomes: what each request brought.
        choices: how it was answered.
        policy: the policy.
        truth: the mean that the policy would bring.
        share: whether outcomes are 0 or 1.
    """

    outcomes: Floats
    choices: Choices
    policy: Floats
    truth: float
    share: bool = False


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        name: in the table.
        requests: of a log.
        draw: draws one.
        must_refuse: whether no log of these may have an interval.
    """

    name: str
    requests: int
    draw: Callable[[Random, int], Log]
    must_refuse: bool = False


class Counts(NamedTuple):
    """What became of the logs of a row.

    Attributes:
        logs: how many there were.
        refused: how many had no interval.
        held, held_by_weights: in how many the doubly robust and the other interval held the truth.
        effective: the mean effective number of units.
        width: the mean of the doubly robust width over the other.
        too_few: intervals that were given below the floor.
    """

    logs: int
    refused: int
    held: int
    held_by_weights: int
    effective: float
    width: float
    too_few: int

    @property
    def given(self) -> int:
        """Return how many logs had an interval."""
        return self.logs - self.refused


def _chosen(random: Random, second: Floats | float, n: int) -> tuple[Ints, Floats]:
    """Return whether the second target was chosen, and with which probability the chosen one."""
    actions = (random.random(n) < second).astype(np.intp)
    return actions, np.where(actions == 1, second, 1 - np.asarray(second))


def _gained(contexts: Ints, actions: Ints) -> Floats:
    gained: Floats = actions * GAINS[contexts]
    return gained


_TRUTH = float((POLICY[:, 1] * GAINS).mean())


def _contexts(random: Random, n: int) -> Ints:
    return random.integers(0, CONTEXTS, n)


def weighted(second: float) -> Callable[[Random, int], Log]:
    """Return what draws logs of a weighted route, with normal outcomes."""

    def draw(random: Random, n: int) -> Log:
        contexts = _contexts(random, n)
        actions, propensities = _chosen(random, second, n)
        outcomes = _gained(contexts, actions) + random.normal(0, 1, n)
        choices = Choices(np.arange(n), contexts, actions, propensities)
        return Log(outcomes, choices, POLICY, _TRUTH)

    return draw


def exploring(random: Random, n: int) -> Log:
    """Draw a log of three targets of which the route takes the first, but explores 5%."""
    contexts = _contexts(random, n)
    actions: Ints = np.where(random.random(n) < 0.05, random.integers(0, 3, n), 0)
    propensities = np.where(actions == 0, 0.95 + 0.05 / 3, 0.05 / 3)
    values = np.array([0.0, 0.4, -0.3])
    outcomes = values[actions] * (1 + contexts) + random.normal(0, 1, n)
    policy = np.array([[0.4, 0.4, 0.2]] * CONTEXTS)
    truth = float((policy[0] @ values) * np.mean(1 + np.arange(CONTEXTS)))
    return Log(outcomes, Choices(np.arange(n), contexts, actions, propensities), policy, truth)


def long_tailed(random: Random, n: int) -> Log:
    """Draw costs with a long tail, of which the second target takes twice as much."""
    contexts = _contexts(random, n)
    actions, propensities = _chosen(random, 0.2, n)
    spread = 1.2
    outcomes: Floats = np.exp(random.normal(0, spread, n)) * ((1.0 + actions) * (1.0 + contexts))
    each = (1 + POLICY[:, 1]) * (1 + np.arange(CONTEXTS)) * np.exp(spread**2 / 2)
    choices = Choices(np.arange(n), contexts, actions, propensities)
    return Log(outcomes, choices, POLICY, float(each.mean()))


def sticky_users(random: Random, n: int) -> Log:
    """Draw users with one to ten requests, who are alike and stay on one target."""
    sizes = np.minimum(random.geometric(0.4, n), 10)
    units = np.repeat(np.arange(n), sizes)[:n]
    users = int(units.max()) + 1
    actions, propensities = _chosen(random, 0.3, users)
    contexts = _contexts(random, n)
    outcomes = _gained(contexts, actions[units]) + random.normal(0, 1, users)[units]
    outcomes += random.normal(0, 0.5, n)
    choices = Choices(units, contexts, actions[units], propensities[units])
    return Log(outcomes, choices, POLICY, _TRUTH)


def drifting(random: Random, n: int) -> Log:
    """Draw outcomes that rise while the second target's weight grows from 2% to 50%."""
    contexts = _contexts(random, n)
    actions, propensities = _chosen(random, np.linspace(0.02, 0.5, n), n)
    outcomes = np.linspace(-1.5, 1.5, n) + _gained(contexts, actions) + random.normal(0, 1, n)
    choices = Choices(np.arange(n), contexts, actions, propensities)
    return Log(outcomes, choices, POLICY, _TRUTH)


def misspecified(random: Random, n: int) -> Log:
    """Draw outcomes that depend on what the model does not see, and are skewed by it."""
    contexts = _contexts(random, n)
    actions, propensities = _chosen(random, 0.2, n)
    unseen = random.normal(0, 1, n)
    outcomes = unseen**2 + actions * (GAINS[contexts] + unseen) + random.normal(0, 0.5, n)
    choices = Choices(np.arange(n), contexts, actions, propensities)
    return Log(outcomes, choices, POLICY, 1 + _TRUTH)


def failing(random: Random, n: int) -> Log:
    """Draw errors: 1% to 2.5% of the first target's requests, 3% to 4.5% of the second's."""
    contexts = _contexts(random, n)
    actions, propensities = _chosen(random, 0.2, n)
    rates = 0.01 + 0.02 * np.arange(2)[None] + 0.005 * np.arange(CONTEXTS)[:, None]
    outcomes = (random.random(n) < rates[contexts, actions]).astype(np.float64)
    choices = Choices(np.arange(n), contexts, actions, propensities)
    return Log(outcomes, choices, POLICY, float((POLICY * rates).sum(axis=1).mean()), share=True)


def falsified(random: Random, n: int) -> Log:
    """Draw a log with wrong probabilities: 40% are recorded as 20%."""
    log = weighted(0.4)(random, n)
    wrong = np.where(log.choices.actions == 1, 0.2, 0.8)
    return log._replace(choices=log.choices._replace(propensities=wrong))


ROWS: Sequence[Row] = (
    Row("weights 80 : 20", 400, weighted(0.2), must_refuse=True),
    Row("weights 80 : 20", 1000, weighted(0.2)),
    Row("weights 80 : 20", 4000, weighted(0.2)),
    Row("rare target, 3%", 2000, weighted(0.03), must_refuse=True),
    Row("rare target, 3%", 12_000, weighted(0.03)),
    Row("cheapest of three, 5% explored", 1200, exploring, must_refuse=True),
    Row("cheapest of three, 5% explored", 20_000, exploring),
    Row("costs with a long tail", 1000, long_tailed),
    Row("costs with a long tail", 4000, long_tailed),
    Row("users who stick and are alike", 1000, sticky_users, must_refuse=True),
    Row("users who stick and are alike", 4000, sticky_users),
    Row("drift while weights change", 1500, drifting),
    Row("drift while weights change", 6000, drifting),
    Row("misspecified model", 1000, misspecified),
    Row("misspecified model", 4000, misspecified),
    Row("errors of 1% to 4.5%", 1000, failing),
    Row("errors of 1% to 4.5%", 8000, failing),
    Row("wrong probabilities", 2000, falsified, must_refuse=True),
)


def count(number: int, logs: int, seed: int) -> Counts:
    """Draw the logs of a row, and count what became of them."""
    row = ROWS[number]
    refused = held = by_weights = too_few = 0
    effective, widths = 0.0, 0.0
    for log_number in range(logs):
        log = row.draw(np.random.default_rng([seed, number, log_number]), row.requests)
        ends = {"low": 0.0, "high": 1.0} if log.share else {}
        value = off_policy_value(log.outcomes, log.choices, log.policy, **ends)
        effective += value.effective_units
        robust, weights = value.doubly_robust, value.inverse_propensity
        if robust.low is None or robust.high is None or weights.low is None or weights.high is None:
            refused += 1
            continue
        too_few += value.effective_units < FEWEST_EFFECTIVE
        held += robust.low <= log.truth <= robust.high
        by_weights += weights.low <= log.truth <= weights.high
        widths += (robust.high - robust.low) / (weights.high - weights.low)
    given = max(1, logs - refused)
    return Counts(logs, refused, held, by_weights, effective / logs, widths / given, too_few)


def fault(row: Row, counts: Counts) -> str:
    """Return which promise is broken; "" for none.

    Of fewer logs than `LOGS`, coverage may be lower by three of its standard errors.
    """
    if counts.too_few:
        return f"{counts.too_few} intervals below {FEWEST_EFFECTIVE:g} effective units"
    if row.must_refuse:
        # A mean weight that is off by chance as much as by the mistake may pass now and then.
        return "" if counts.given <= 0.01 * counts.logs else "not refused"
    if counts.given < 0.9 * counts.logs:
        return "refused although enough requests speak for it"
    least = COVERAGE
    if counts.logs < LOGS:
        least -= 3 * (COVERAGE * (1 - COVERAGE) / counts.given) ** 0.5
    return "" if counts.held >= least * counts.given else f"below {COVERAGE:.0%}"


def columns(row: Row, counts: Counts) -> tuple[str, ...]:
    """Return the line of a row."""
    given = counts.given
    shown = given > 0.01 * counts.logs
    return (
        row.name,
        f"{row.requests:,}",
        f"{counts.effective:,.0f}",
        f"{100 * counts.refused / counts.logs:.1f}",
        f"{100 * counts.held / given:.1f}" if shown else "",
        f"{100 * counts.held_by_weights / given:.1f}" if shown else "",
        f"{counts.width:.2f}" if shown else "",
        fault(row, counts),
    )


def main() -> int:
    """Print the table; return 1 where a promise is broken."""
    simulation = Simulation(
        "what_if",
        __doc__,
        units="logs",
        least=LOGS,
        page="what-if",
        words="only the rows whose log begins so",
    )
    numbers = [
        number
        for number, row in enumerate(ROWS)
        if not simulation.words or row.name.startswith(simulation.words)
    ]
    counted: dict[int, Counts] = {}
    counting = partial(count, logs=simulation.size, seed=simulation.seed)
    for number, counts in simulation.results(counting, numbers):
        counted[number] = counts
        print(f"{len(counted)} of {len(numbers)}: {ROWS[number].name}", file=sys.stderr)
    lines = table(HEAD, [columns(ROWS[number], counted[number]) for number in numbers])
    broken = sum(bool(fault(ROWS[number], counts)) for number, counts in counted.items())
    return simulation.end(lines, rows=len(numbers), broken=broken)


if __name__ == "__main__":
    sys.exit(main())
