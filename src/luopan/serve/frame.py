"""How many tokens a request took."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from luopan.serve.answers import Answer
from luopan.serve.prepare import Prepared


def _fingerprint() -> str:
    try:
        return f"luopan-{version('luopan')}"
    except PackageNotFoundError:  # run from its source
        return "luopan"


FINGERPRINT = _fingerprint()


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
