"""A model behind an OpenAI-compatible server, asked what tasks of kind generate ask.

MODEL is the server's address with the model's name after a #: http://127.0.0.1:8000/v1#name. Limits: no
log-probabilities of given text, so no choices; a prompt that the server refuses (400) counts as one that does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luopan.errors import ModelError
from luopan.evals.tasks.written import Request, Write, Written
from luopan.evals.verdict import THINK_CLOSE, answer_of
from luopan.generate.config import SamplingParams
from luopan.rl.line import Line, Refused


def is_endpoint(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def endpoint_writer(model: str, api_key_env: str | None = None, patience: float = 60.0) -> Write:
    """What asks the server. ModelError without a model's name."""
    address, _, name = model.partition("#")
    if not name:
        raise ModelError("the model's name is missing", where=model, hint="Put it after a #: http://host:8000/v1#name")
    line = Line(address, api_key_env=api_key_env, patience=patience)

    def write(requests: Sequence[Request], params: SamplingParams, thinking: bool) -> list[Written]:
        found: list[Written | None] = [None] * len(requests)
        for path, kind in (("chat/completions", list), ("completions", str)):
            places = [at for at, one in enumerate(requests) if isinstance(one, kind)]
            bodies = [body(name, requests[at], params, thinking, at) for at in places]
            for at, answer in zip(places, line.try_all(path, bodies)):
                found[at] = read(answer)
        return [one for one in found if one is not None]

    return write


def body(name: str, request: Request, params: SamplingParams, thinking: bool, number: int) -> dict[str, Any]:
    """A request in the API's words; every answer has a seed of its own."""
    told: dict[str, Any] = {"model": name, "max_tokens": params.max_new_tokens, "temperature": params.temperature}
    told |= {"prompt": request} if isinstance(request, str) else {"messages": request}
    if params.stop:
        told["stop"] = list(params.stop)
    if params.temperature and params.seed is not None:
        told["seed"] = (params.seed * 1_000_003 + number) % 2**31
    if thinking:
        told["chat_template_kwargs"] = {"enable_thinking": True}
    return told


def read(answer: dict[str, Any] | Refused) -> Written:
    """What the server said, its thinking taken off. Refused again where that is not the prompt's fault."""
    if isinstance(answer, Refused):
        if answer.status != 400:
            raise answer
        return Written("", "too_long")
    try:
        chosen = answer["choices"][0]
        message = chosen.get("message")
        text = str((message["content"] if message is not None else chosen["text"]) or "")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ModelError("the server's answer is not one of the OpenAI API") from None
    thought = str((message or {}).get("reasoning_content") or "")
    if THINK_CLOSE in text:
        thought, text = text.rpartition(THINK_CLOSE)[0], answer_of(text) or ""
    tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
    return Written(text, str(chosen.get("finish_reason") or ""), tokens, thought)
