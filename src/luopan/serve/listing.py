"""What the server tells about itself: models, health, figures."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from luopan.serve.desk import Desk
from luopan.serve.gate import GateState
from luopan.serve.responses import ERRORS, Health, ModelEntry, ModelList


def listing_router(desk: Desk, gate: GateState) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/v1/models", response_model=ModelList, responses=ERRORS)
    async def models() -> Response:
        """The models that can be asked."""
        return JSONResponse({"object": "list", "data": list(desk.entries.values())})

    @router.get("/v1/models/{name:path}", response_model=ModelEntry, responses=ERRORS)
    async def model(name: str) -> Response:
        """One model."""
        desk.find(name)
        return JSONResponse(desk.entries[name])

    @router.get("/health", response_model=Health, responses={503: {"model": Health}, **_without_503()})
    async def health() -> Response:
        """200 while requests are taken, else 503."""
        dead = [f"the thread of {name} has ended" for name, worker in desk.workers.items() if not worker.alive]
        reasons = dead + [worker.trouble for worker in desk.workers.values() if worker.alive and worker.trouble]
        status = "failed" if reasons else "draining" if gate.draining else "ok"
        running = sum(worker.inside for worker in desk.workers.values())
        content: dict[str, Any] = {"status": status, "models": list(desk.models), "running": running}
        if reasons:
            content["reason"] = "; ".join(reasons)
        return JSONResponse(content, 200 if status == "ok" else 503)

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **ERRORS}, response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def _without_503() -> dict[int | str, dict[str, Any]]:
    return {status: value for status, value in ERRORS.items() if status != 503}
