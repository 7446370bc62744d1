"""`POST /eval/{id}/export`: a run's rows into the artifact store."""

from __future__ import annotations

from litestar import post
from litestar.params import FromPath

from router.api.injection import Injected
from router.evals.export import Manifest, export_run


@post("/eval/{run_id:str}/export", tags=["eval"], summary="Export a run", status_code=200)
async def export(services: Injected, run_id: FromPath[str]) -> Manifest:
    """Write its rows as JSON lines and parquet, with a manifest, below `runs/{id}` there."""
    run = await services.runs.find(run_id)
    return await export_run(services.store, run, services.datasets.artifacts, f"runs/{run.id}")
