"""Requests embeddings for the metrics of a run, and charges the run for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluators.base import Answer
from router.evals.requests import EvalRequester
from router.records import Trace
from router.store.usage import EmbeddingUse, UsageStore


class EmbeddingClient:
    """Requests embeddings on behalf of one run; `evaluators.base.Embed`.

    Args:
        store: stores what the requests took.
        requester: sends the requests.
        run_id: the run.
        pay: called with each request that may have been paid for.
        new_trace: returns the trace that a request is recorded in; None without one.
    """

    def __init__(
        self,
        store: UsageStore,
        requester: EvalRequester,
        run_id: str,
        *,
        pay: Callable[[Answer], None],
        new_trace: Callable[[], Trace | None] = lambda: None,
    ) -> None:
        self._store = store
        self._requester = requester
        self._run_id = run_id
        self._pay = pay
        self._new_trace = new_trace

    async def __call__(self, route: str, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector for each text, in order.

        Raises:
            ModelNotFoundError: `route` is neither a route nor `provider/model`.
            UpstreamError: the target failed, or sent something else than one vector per text.
        """
        vectors, answer, error = await self._requester.embed(route, texts, trace=self._new_trace())
        await self._store.add_embedding_use(self._run_id, _use_of(route, answer))
        self._pay(answer)
        if error is not None:
            raise error
        return vectors


def _use_of(route: str, answer: Answer) -> EmbeddingUse:
    failed = answer.error is not None
    return EmbeddingUse(
        route=route,
        target=answer.target,
        requests=1,
        failed=int(failed),
        tokens=answer.usage.total_tokens or 0,
        cost_usd=answer.cost_usd or 0.0,
        # A target that sent nothing charges nothing.
        unpriced=int(answer.cost_usd is None and bool(answer.target)),
        estimated=int(answer.estimated),
    )
