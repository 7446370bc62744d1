"""What a run's judges will take, said before it begins.

Tokens are the means of what the same judge took for the same metric before, where it has; else four
bytes of the prompt are one token, the answer to be judged is left out of it, and the judge is taken
to use all of its `max_tokens`: then the money is an upper bound but for long answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from evaluators.base import Answer, AnyMetric, JudgeMetric, Sample, Scorable, Usage
from evaluators.judge.graded import Graded, UnjudgeableError
from evaluators.judge.panel import PanelRequest
from providers.wire import count_of
from router.evals.requests import EvalRequester
from router.store.judgements import JudgementStore

_BYTES_PER_TOKEN = 4


class JudgeEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """One judge of one metric.

    Attributes:
        metric: which.
        judge: the route.
        calls: requests, if every verdict can be read at once.
        prompt_tokens: over all calls; None where that is unknown.
        completion_tokens: the same.
        cost_usd: US dollars; None where the price or the tokens are unknown.
        at_most: whether the money is of the most tokens that the judge may use.
    """

    metric: str
    judge: str
    calls: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    at_most: bool


async def estimate_judges(
    store: JudgementStore,
    asker: EvalRequester,
    metrics: Sequence[AnyMetric],
    sample: Sample | None,
    cells: int,
) -> list[JudgeEstimate]:
    """For each judge of each metric.

    Args:
        store: knows what judges took before.
        asker: knows prices and routes.
        metrics: the run's.
        sample: one of its samples; None for none.
        cells: answers to be judged.
    """
    found = []
    for metric in metrics:
        if not isinstance(metric, JudgeMetric):
            continue
        request = _request(metric, sample)
        for judge in metric.judges:
            each = await store.judgement_tokens(judge, metric.name)
            at_most = each is None
            if each is None and request is not None:
                most = count_of(request.parameters.get("max_tokens"))
                size = len(request.text.encode(errors="replace"))
                each = None if most is None else (size / _BYTES_PER_TOKEN, float(most))
            calls = metric.calls // len(metric.judges) * cells
            found.append(_of(asker, metric.name, judge, calls, each=each, at_most=at_most))
    return found


def _request(metric: JudgeMetric, sample: Sample | None) -> PanelRequest | None:
    if sample is None or not isinstance(metric, Graded):
        return None
    try:
        return metric.request(Scorable(sample, Answer(text="")))
    except UnjudgeableError:
        return None


def _of(
    asker: EvalRequester,
    metric: str,
    judge: str,
    calls: int,
    *,
    each: tuple[float, float] | None,
    at_most: bool,
) -> JudgeEstimate:
    cost = None
    if each is not None:
        target = asker.table.plan(judge, 0.0).targets[0]
        # By the mean request: a price may change with a request's length, not with their sum.
        mean = Usage(prompt_tokens=round(each[0]), completion_tokens=round(each[1]))
        one = asker.prices.cost(target, mean)
        cost = None if one is None else one * calls
    return JudgeEstimate(
        metric=metric,
        judge=judge,
        calls=calls,
        prompt_tokens=None if each is None else round(each[0] * calls),
        completion_tokens=None if each is None else round(each[1] * calls),
        cost_usd=cost,
        at_most=at_most,
    )
