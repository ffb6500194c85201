"""`POST /v1/embeddings`: the mean of a text's last hidden states.

A plain measure of likeness: a language model that was not trained for it puts most texts near each other. The vectors
have length 1. Texts are read one after another between the steps of generations, which wait for it.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from luopan.model.decoder import Decoder
from luopan.serve.desk import Desk, unless_gone
from luopan.serve.errors import refusal
from luopan.serve.prepare import texts
from luopan.serve.protocol import EmbeddingRequest
from luopan.serve.responses import ERRORS, Embeddings


def embedding_router(desk: Desk) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/embeddings", response_model=Embeddings, responses=ERRORS)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """A vector of length 1 for each text."""
        served, worker = desk.find(body.model)
        deadline = desk.deadline()
        model = served.generator.model
        size = model.config.hidden_size
        if body.dimensions not in (None, size):
            raise refusal("dimensions", f"this model's vectors have {size} numbers; they cannot be shortened")
        encoded = await unless_gone(request, desk.prepare(texts, served, body.input, "input"), deadline)
        data: list[dict[str, Any]] = []
        for index, ids in enumerate(encoded):
            work = worker.call(partial(mean_state, model, ids))
            vector = await unless_gone(request, work, deadline)
            made: list[float] | str = vector
            if body.encoding_format == "base64":
                made = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": made})
        count = sum(map(len, encoded))
        used = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": used})

    return router


@torch.inference_mode()
def mean_state(model: Decoder, ids: Sequence[int]) -> list[float]:
    """[C]: the mean over places of the hidden states after the final norm, scaled to length 1."""
    device = next(model.parameters()).device
    hidden = model.hidden(torch.tensor([list(ids)], device=device))[0].float()  # [T, C]
    vector: list[float] = torch.nn.functional.normalize(hidden.mean(0), dim=0).tolist()
    return vector
