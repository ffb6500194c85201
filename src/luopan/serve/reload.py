"""`POST /v1/reload`: other weights for a model that is being served, for a training that samples here.

There only with `--reload-from DIR`, only for clients of this machine, only for folders below DIR, behind the API key
like the rest. The weights are read beside the running requests and copied in between two of them: while generations
run it is a 503 that asks to come again, so that no answer is of two policies. The session goes with the old weights,
whose keys and values it holds. `/v1/models` says which weights are in place (`luopan.weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from luopan.errors import LuopanError
from luopan.model.decoder import Decoder
from luopan.model.hf import load as load_decoder
from luopan.serve.config import is_loopback
from luopan.serve.desk import Desk, unless_gone
from luopan.serve.errors import ApiError, refusal
from luopan.serve.models import ServedModel
from luopan.serve.protocol import Strict
from luopan.serve.responses import ERRORS


class ReloadRequest(Strict):
    """`path`: a folder in Hugging Face's form, seen from the server. `version`: what the weights are called."""

    model: str
    path: Annotated[str, Field(min_length=1, max_length=4096)]
    version: Annotated[str, Field(min_length=1, max_length=200)]


def reload_router(desk: Desk, root: Path) -> APIRouter:
    """The route; `root` is the folder below which weights may be read."""
    router = APIRouter()

    @router.post("/v1/reload", responses=ERRORS)
    async def reload(body: ReloadRequest, request: Request) -> Response:
        """Copy the weights of a folder into a model."""
        if request.client is None or not is_loopback(request.client.host):
            raise ApiError(403, "weights can be changed from the server's own machine only", code="not_local")
        served, worker = desk.find(body.model)
        check_alone(served, list(desk.models.values()))
        folder = below(root, body.path)
        read = await unless_gone(request, desk.prepare(read_like, folder, served.generator.model), desk.deadline())
        # From here on it is done to the end, whether the client waits or not.
        await worker.replace(partial(copy_in, served.generator.model, read))
        desk.entries[body.model]["luopan"]["weights"] = body.version
        return JSONResponse({"model": body.model, "weights": body.version})

    return router


def below(root: Path, path: str) -> Path:
    """The folder `path` where it is within `root`, links followed; ApiError 403 where it is not."""
    try:
        folder = Path(path).resolve()
    except (OSError, ValueError):  # ValueError: a NUL in it
        raise refusal("path", "path is no path") from None
    if not folder.is_relative_to(root.resolve()):
        raise ApiError(403, f"path: weights are read below {root} only (--reload-from)", param="path", code="outside")
    return folder


def check_alone(served: ServedModel, others: Sequence[ServedModel]) -> None:
    """ApiError 400 for a model whose weights another one would change with."""
    mine = {id(parameter) for parameter in served.generator.model.parameters()}
    for other in others:
        if other is not served and any(id(parameter) in mine for parameter in other.generator.model.parameters()):
            raise refusal("model", f"{served.name} shares its weights with {other.name}; serve it alone")


def read_like(folder: Path, model: Decoder) -> Decoder:
    """The model of a folder, of the same shape as `model`; ApiError 400 where it is none."""
    try:
        read = load_decoder(folder)
    except LuopanError as error:
        raise refusal("path", f"path: {error.message}") from error
    theirs = {name: tensor.shape for name, tensor in read.state_dict().items()}
    if theirs != {name: tensor.shape for name, tensor in model.state_dict().items()} or read.config != model.config:
        raise refusal("path", "path: that model has another shape, or the server holds this one in fewer bits")
    return read


@torch.no_grad()
def copy_in(model: Decoder, read: Decoder) -> None:
    """Every number of `read` into `model`, in the precision and on the device of the latter."""
    found = read.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.copy_(found[name])
