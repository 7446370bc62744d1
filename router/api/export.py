"""`POST /eval/{id}/export`: writes a run's rows and judgements into the artifact store."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.params import FromPath

from providers.errors import RunDocumentError
from router.api.bodies import check_no_options
from router.api.injection import Injected
from router.evals.export import Manifest, export_run


@post("/eval/{run_id:str}/export", tags=["eval"], summary="Export a run", status_code=200)
async def export(
    services: Injected, request: Request[Any, Any, Any], run_id: FromPath[str]
) -> Manifest:
    """Write the run's rows and judgements, with a manifest, below `runs/{id}` there.

    They are written as JSON lines, CSV and parquet.

    The body may be empty, or `{}`.
    """
    await check_no_options(request, error=RunDocumentError)
    run = await services.runs.find(run_id)
    return await export_run(services.store, run, services.datasets.artifacts, f"runs/{run.id}")
