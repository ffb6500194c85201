"""What all messages of one answer have in common: id, time, model, and how many tokens it took."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from luopan.serve.answers import Answer
from luopan.serve.prepare import Prepared
from luopan.serve.protocol import ChatRequest, CompletionRequest
from luopan.serve.stream import DONE, event


def _fingerprint() -> str:
    try:
        return f"luopan-{version('luopan')}"
    except PackageNotFoundError:  # run from its source
        return "luopan"


FINGERPRINT = _fingerprint()

# JSON has no infinity; the API writes this for what practically cannot come.
LEAST_LOGPROB = -9999.0


class Frame:
    """One request's. `whole` and `piece`: the API's names for an answer and for an event of a stream."""

    def __init__(
        self, body: ChatRequest | CompletionRequest, prepared: Prepared, prefix: str, *, whole: str, piece: str
    ) -> None:
        self.prepared, self._whole, self._piece = prepared, whole, piece
        self._include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": body.model}

    def whole(self, choices: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
        """The answer in one."""
        return {**self._message(self._whole, choices), "usage": usage(self.prepared, answers)}

    def piece(self, choice: dict[str, Any]) -> bytes:
        """One event of a stream."""
        message = self._message(self._piece, [choice])
        return event({**message, "usage": None} if self._include_usage else message)

    def end(self, answers: Sequence[Answer]) -> bytes:
        """The last events of a stream."""
        if not self._include_usage:
            return DONE
        return event({**self._message(self._piece, []), "usage": usage(self.prepared, answers)}) + DONE

    def _message(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "system_fingerprint": FINGERPRINT, "choices": list(choices)}


def usage(prepared: Prepared, answers: Sequence[Answer]) -> dict[str, Any]:
    """OpenAI's `usage`: a prompt counts once however many answers it has; the token that ends an answer counts."""
    prompt = sum(len(ids) for ids in prepared.prompts)
    written = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(answer.thinking_tokens for answer in answers),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
