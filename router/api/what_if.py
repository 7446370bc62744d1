"""`/what-if`: estimates what another routing policy would have brought."""

from __future__ import annotations

from typing import Any

from litestar import Request, post

from router.api.bodies import body_as
from router.api.injection import Injected
from router.loop.what_if import WhatIf, WhatIfRequest


@post("/what-if", tags=["routes"], summary="Estimate what a policy would bring", status_code=200)
async def estimate_policy(services: Injected, request: Request[Any, Any, Any]) -> WhatIf:
    """Estimate quality, errors, cost and time of a policy from requests that others answered.

    All requests of the time are read, some ten thousand in a second. An estimate that too few
    requests speak for has no interval, and says how many would be enough.
    """
    return await services.what_ifs.estimate(await body_as(request, WhatIfRequest))
