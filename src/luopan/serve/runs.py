"""The runs folder over HTTP: runs, their stages, curves while they train, samples, reports. Reads, never writes.

Reports are pages of our making, but they show text that models wrote: they are served under a policy that runs no
script and puts them into an origin of their own (`sandbox`). A browser cannot send the API key with a frame or a new
tab; so the page, which has the key, asks for a link with a random ticket in it, good for `TICKET_SECONDS`.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from luopan.serve.metrics_file import MetricsFiles
from luopan.serve.plain_http import Refusal, plain_router
from luopan.serve.run_files import NotThere, list_folder, read_text
from luopan.serve.run_state import REPORT_BYTES, RunState, StageState, manifest_of, read_json, read_run

MAX_RUNS = 500
MAX_SAMPLES = 200
PAGE_BYTES = 64 << 20
TEXT_BYTES = 1 << 20
TICKET_SECONDS = 600.0
MAX_TICKETS = 256
SANDBOX = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)


class Tickets:
    """Random links to pages of runs, forgotten after a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()
        self._lock = Lock()

    def give(self, parts: list[str]) -> str:
        """A ticket for the file at `parts`."""
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            self._known[ticket] = self._clock() + TICKET_SECONDS, parts
            while len(self._known) > MAX_TICKETS:
                self._known.popitem(last=False)
        return ticket

    def take(self, ticket: str) -> list[str]:
        """Where a ticket leads. Raises NotThere for an unknown or an old one."""
        with self._lock:
            until, parts = self._known.get(ticket, (0.0, []))
            if not parts or until < self._clock():
                self._known.pop(ticket, None)
                raise NotThere("ticket")
        return parts


def runs_router(runs: Path) -> APIRouter:
    """GET `/api/runs…` and `/reports/TICKET` over the folder `runs`, which need not exist yet."""
    router = plain_router()
    files, tickets = MetricsFiles(), Tickets()

    @router.get("/api/runs")
    def list_runs() -> dict[str, Any]:
        return {"folder": str(runs), "runs": [_brief(run) for run in _all_runs(runs)]}

    @router.get("/api/runs/{run}")
    def one_run(run: str) -> dict[str, Any]:
        return _details(runs, _run(runs, run))

    @router.get("/api/runs/{run}/stages/{stage}")
    def one_stage(run: str, stage: str) -> dict[str, Any]:
        return _stage_details(runs, run, _stage(runs, run, stage))

    @router.get("/api/runs/{run}/stages/{stage}/metrics")
    def metrics(
        run: str,
        stage: str,
        points: Annotated[int, Query(ge=10, le=5000)] = 600,
        seen: Annotated[str, Query(max_length=80)] = "",
    ) -> dict[str, Any]:
        found = _stage(runs, run, stage)
        parts = [run, found.folder, "metrics.jsonl"]
        reader = files.of(parts)
        try:
            reader.update(runs, parts)
        except NotThere:
            return {"version": "none", "state": found.state, "rows": 0, "series": {}, "last": {}, "skipped": 0}
        version = f"{reader.inode[1]}-{reader.offset}-{found.state}"
        about = {"version": version, "state": found.state, "more": reader.rest > (1 << 20), "skipped": reader.skipped}
        if seen == version:
            return {**about, "unchanged": True}
        return {**about, "rows": reader.rows, "last": reader.last, "series": reader.thinned(points)}

    @router.get("/api/runs/{run}/stages/{stage}/samples")
    def samples(run: str, stage: str) -> dict[str, Any]:
        return _samples(runs, run, _stage(runs, run, stage))

    @router.post("/api/runs/{run}/pages/{page:path}")
    def link(run: str, page: str) -> dict[str, Any]:
        parts = [run, *page.split("/")]
        if page not in [known["path"] for known in _pages(runs, _run(runs, run))]:
            raise _not_found(page)
        return {"url": f"reports/{tickets.give(parts)}", "seconds": TICKET_SECONDS}

    @router.get("/reports/{ticket}")
    def report(ticket: str) -> Response:
        try:
            text, cut = read_text(runs, tickets.take(ticket), PAGE_BYTES)
        except NotThere as error:
            raise Refusal(404, "this link is no longer good: open it from the page again", code="not_found") from error
        if cut:
            raise Refusal(413, f"this page is larger than {PAGE_BYTES:,} bytes: open the file itself", code="too_large")
        headers = {"Content-Security-Policy": SANDBOX, "Referrer-Policy": "no-referrer"}
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)

    return router


def _all_runs(runs: Path) -> list[RunState]:
    """Newest first."""
    try:
        folders = [entry for entry in list_folder(runs, []) if entry.is_folder]
    except NotThere:
        return []
    found = []
    for entry in sorted(folders, key=lambda entry: -entry.modified)[:MAX_RUNS]:
        try:
            run = read_run(runs, entry.name)
        except NotThere:
            continue
        if run is not None:
            found.append(run)
    return sorted(found, key=lambda run: (run.state != "running", -run.modified))


def _run(runs: Path, name: str) -> RunState:
    try:
        run = read_run(runs, name)
    except NotThere as error:
        raise _not_found(name) from error
    if run is None:
        raise _not_found(name)
    return run


def _stage(runs: Path, run: str, stage: str) -> StageState:
    try:
        return _run(runs, run).stage(stage)
    except NotThere as error:
        raise _not_found(f"{run}/{stage}") from error


def _not_found(what: str) -> Refusal:
    return Refusal(404, f"there is no {what!r} in the runs folder", code="not_found")


def _brief(run: RunState) -> dict[str, Any]:
    stages = [{"name": stage.name, "kind": stage.kind, "state": stage.state} for stage in run.stages]
    return {
        "name": run.name,
        "description": run.description,
        "state": run.state,
        "modified": run.modified,
        "stages": stages,
    }


def _details(runs: Path, run: RunState) -> dict[str, Any]:
    try:
        recipe = read_text(runs, [run.name, "recipe.lock.yaml"], TEXT_BYTES)[0]
    except NotThere:
        recipe = ""
    return {
        **_brief(run),
        "stages": [stage.as_json() for stage in run.stages],
        "pages": _pages(runs, run),
        "recipe": recipe,
    }


def _pages(runs: Path, run: RunState) -> list[dict[str, Any]]:
    """The HTML pages of a run: its report, and what its stages left, two folders deep."""
    found: list[dict[str, Any]] = []

    def collect(parts: list[str], depth: int) -> None:
        try:
            entries = list_folder(runs, [run.name, *parts])
        except NotThere:
            return
        for entry in entries:
            if entry.is_folder and depth:
                collect([*parts, entry.name], depth - 1)
            elif not entry.is_folder and entry.name.endswith(".html"):
                found.append({"path": "/".join([*parts, entry.name]), "bytes": entry.bytes, "modified": entry.modified})

    collect([], 0)
    for stage in run.stages:
        if stage.folder:
            collect([stage.folder], 2)
    return found


def _stage_details(runs: Path, run: str, stage: StageState) -> dict[str, Any]:
    """What the page shows of a stage beside its curves: the manifest without its list of files, and the figures."""
    manifest = manifest_of(runs, run, stage.folder)
    report = read_json(runs, [run, stage.folder, "stage_report.json"], REPORT_BYTES)
    inputs = manifest.get("inputs")
    return {
        **stage.as_json(),
        "identity": str(manifest.get("identity") or ""),
        "inputs": {role: str(value.get("path", "")) for role, value in inputs.items() if isinstance(value, dict)}
        if isinstance(inputs, dict)
        else {},
        "spec": manifest.get("spec") or {},
        "versions": manifest.get("versions") or {},
        "metrics": manifest.get("metrics") or {},
        "summary": str(report.get("summary") or ""),
        "figures": _list(report, "figures"),
        "notes": _list(report, "notes"),
        "parameters": report.get("parameters"),
        "tokens": report.get("tokens"),
    }


def _samples(runs: Path, run: str, stage: StageState) -> dict[str, Any]:
    report = read_json(runs, [run, stage.folder, "stage_report.json"], REPORT_BYTES)
    try:
        text, cut = read_text(runs, [run, stage.folder, "samples.md"], TEXT_BYTES)
    except NotThere:
        text, cut = "", False
    return {"samples": _list(report, "samples")[:MAX_SAMPLES], "text": text, "cut": cut}


def _list(report: dict[str, Any], name: str) -> list[Any]:
    value = report.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
