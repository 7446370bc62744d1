"""Estimates what a run's judges will take, before the run begins.

Tokens are the means of what the same judge took for the same metric in earlier runs. For a new
judge, four bytes of the prompt are one token, the answer to be judged is left out of the prompt,
and the judge is taken to use all of its `max_tokens`: then the money is an upper bound, except for
long answers.
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
    """An estimate for one judge of one metric.

    Attributes:
        metric: the name of the metric.
        judge: the route of the judge.
        calls: the number of requests, if no verdict needs a second one.
        prompt_tokens: tokens over all calls; None where they are unknown.
        completion_tokens: tokens over all calls; None where they are unknown.
        cost_usd: US dollars; None where the price or the tokens are unknown.
        at_most: whether the money is for all the tokens that the judge may use.
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
    requester: EvalRequester,
    metrics: Sequence[AnyMetric],
    sample: Sample | None,
    cells: int,
) -> list[JudgeEstimate]:
    """Return one estimate for each judge of each metric.

    Args:
        store: has the tokens that judges took in earlier runs.
        requester: has the prices and the routes.
        metrics: the metrics of the run.
        sample: one of the run's samples; None for a run without samples.
        cells: the number of answers to be judged.
    """
    estimates = []
    for metric in metrics:
        if not isinstance(metric, JudgeMetric):
            continue
        request = _request(metric, sample)
        for judge in metric.judges:
            tokens = await store.judgement_tokens(judge, metric.name)
            is_bound = tokens is None
            if tokens is None and request is not None:
                tokens = _upper_bound(request)
            calls = metric.calls // len(metric.judges) * cells
            estimates.append(
                _estimate(requester, metric.name, judge, calls, tokens=tokens, is_bound=is_bound)
            )
    return estimates


def _upper_bound(request: PanelRequest) -> tuple[float, float] | None:
    limit = count_of(request.parameters.get("max_tokens"))
    size = len(request.text.encode(errors="replace"))
    return None if limit is None else (size / _BYTES_PER_TOKEN, float(limit))


def _request(metric: JudgeMetric, sample: Sample | None) -> PanelRequest | None:
    if sample is None or not isinstance(metric, Graded):
        return None
    try:
        return metric.request(Scorable(sample, Answer(text="")))
    except UnjudgeableError:
        return None


def _estimate(
    requester: EvalRequester,
    metric: str,
    judge: str,
    calls: int,
    *,
    tokens: tuple[float, float] | None,
    is_bound: bool,
) -> JudgeEstimate:
    cost = None
    if tokens is not None:
        target = requester.table.plan(judge, 0.0).targets[0]
        # By the mean request: a price may change with a request's length, not with their sum.
        mean = Usage(prompt_tokens=round(tokens[0]), completion_tokens=round(tokens[1]))
        cost_each = requester.prices.cost(target, mean)
        cost = None if cost_each is None else cost_each * calls
    return JudgeEstimate(
        metric=metric,
        judge=judge,
        calls=calls,
        prompt_tokens=None if tokens is None else round(tokens[0] * calls),
        completion_tokens=None if tokens is None else round(tokens[1] * calls),
        cost_usd=cost,
        at_most=is_bound,
    )
