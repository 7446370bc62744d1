"""Which users of a rollout are evidence: a sample that suffices, so that the others cost nothing.

    sample = sample_of(0.01, requests_per_s=200.0)     # all of the candidate's, a tenth of others
    sample.probability(before=0.0, weight=0.01)        # 0.0909..., of a sampled user's being there

Every request is assigned, but what is stored, counted and tested are those of a sample of the users
of each arm. Who is in it is drawn by a hash that says nothing about the arm, so a user in the
sample is the candidate's with a probability that is known exactly, as it is of all users.

A step's sample is chosen when the step begins, from the route's traffic, and stored with the
rollout. The smaller arm is in it whole, beside ten times as many users of the larger one: more of
them would narrow an interval by a twentieth at most. Where that makes more than SAMPLED_PER_S
requests a second, both arms get half of these.
"""

from __future__ import annotations

import msgspec

# Requests a second in the sample, of both arms and of all processes.
SAMPLED_PER_S = 50.0
# Users of the larger arm for each of the smaller one.
LARGER_ARM = 10.0


class RolloutSample(msgspec.Struct, frozen=True, kw_only=True):
    """The shares of each arm's users that are in a step's sample.

    Attributes:
        candidate: of those who are the candidate's, from 0 to 1.
        control: of the others.
    """

    candidate: float = 1.0
    control: float = 1.0

    def probability(self, *, before: float, weight: float) -> float:
        """Return how likely a sampled user is the candidate's.

        Args:
            before: the candidate's share before the step; users below it are left out.
            weight: its share in the step.
        """
        moved = (weight - before) * self.candidate
        return moved / (moved + (1 - weight) * self.control)

    def share(self, *, before: float, weight: float) -> float:
        """Return the share of the users above `before` that are in the sample."""
        moved = (weight - before) * self.candidate
        return (moved + (1 - weight) * self.control) / (1 - before)


def sample_of(weight: float, *, requests_per_s: float) -> RolloutSample:
    """Return the sample of a step.

    Args:
        weight: the candidate's share of users in it, above 0; at 1 there is nothing to compare.
        requests_per_s: of the route, in both arms.
    """
    if weight >= 1:
        return RolloutSample()
    smaller, larger = sorted((weight, 1 - weight))
    of_smaller = _share(SAMPLED_PER_S / 2, requests_per_s * smaller)
    left = SAMPLED_PER_S - of_smaller * requests_per_s * smaller
    of_larger = min(
        _share(LARGER_ARM * smaller * of_smaller, larger), _share(left, requests_per_s * larger)
    )
    if weight <= 0.5:
        return RolloutSample(candidate=of_smaller, control=of_larger)
    return RolloutSample(candidate=of_larger, control=of_smaller)


def _share(part: float, whole: float) -> float:
    return part / whole if part < whole else 1.0
