"""What is answered, as schemas for `/openapi.json`. Answers are written as plain data; tests hold them to these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answered(BaseModel):
    """Nothing but what is listed."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(Answered):
    """What went wrong; `param`: the field of the request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answered):
    """Every error."""

    error: ErrorBody


_STATUSES = (400, 401, 403, 404, 408, 413, 429, 499, 500, 503, 504)
ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in _STATUSES}
ERRORS[422] = {"model": ErrorAnswer, "description": "Not used: what cannot be validated is a 400."}


class Details(Answered):
    """Of a usage."""

    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class Usage(Answered):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Details
    completion_tokens_details: Details


class LikelyToken(Answered):
    """A token with its log-probability (nats) and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(LikelyToken):
    """The token that came, and the likeliest in its place."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(Answered):
    """Of the answer's tokens, thinking and end left out."""

    content: list[ChosenToken]
    refusal: None


class AnsweredFunction(Answered):
    """`arguments`: a JSON object as text."""

    name: str
    arguments: str


class AnsweredCall(Answered):
    """A tool that the model wants called."""

    id: str
    type: Literal["function"]
    function: AnsweredFunction


class ChatMessage(Answered):
    """What the assistant said. `reasoning_content`: its thinking."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[AnsweredCall] | None = None


FinishReason = Literal["stop", "length", "tool_calls"]


class ChatChoice(Answered):
    """One of n answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Answered):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(Answered):
    """Of a completion's tokens; `text_offset`: where each begins in the text, in characters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class PromptLogprob(Answered):
    """Of a token at a place of the prompt; `rank` null: not among the likeliest that were asked for."""

    logprob: float
    rank: int | None
    decoded_token: str


class TextChoice(Answered):
    """One of n continuations. `prompt_logprobs`, where asked for: by token number, null at the first place."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class Completion(Answered):
    """What a text goes on with."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class Vector(Answered):
    """An embedding: numbers, or their little-endian 32-bit floats in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answered):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Answered):
    """One vector for each text."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: EmbeddingUsage


class OwnFacts(Answered):
    """What is told about a model beyond OpenAI's form. `weights`: what those are called that were put in since."""

    description: str
    context: int
    parameters: int
    chat: bool
    thinking: bool
    tools: bool
    default_sampling: dict[str, Any]
    weights: str | None = None


class ModelEntry(Answered):
    """A model; `parent`: of an adapter, its base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None = None
    luopan: OwnFacts


class ModelList(Answered):
    """All of them."""

    object: Literal["list"]
    data: list[ModelEntry] = Field(min_length=0)


class Health(Answered):
    """`ok`; `draining` while the server ends; `failed` where a worker has died or cannot run, and `reason` why."""

    status: Literal["ok", "draining", "failed"]
    models: list[str]
    running: int
    reason: str | None = None
