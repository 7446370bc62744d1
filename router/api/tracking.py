"""`POST /eval/{id}/track`: sends a run to MLflow."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.params import FromPath

from providers.errors import RunDocumentError
from router.api.bodies import check_no_options
from router.api.injection import Injected
from router.evals.tracking import TrackedRun


@post("/eval/{run_id:str}/track", tags=["eval"], summary="Send a run to MLflow", status_code=200)
async def track_run(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> TrackedRun:
    """Send a run that has ended to the MLflow of the config (`tracking.mlflow`), or once more.

    The body may be empty, or `{}`.
    """
    await check_no_options(request, error=RunDocumentError)
    return await services.tracker.send(run_id)
