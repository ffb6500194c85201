"""What clients may ask, as the OpenAI API names it, with the fields of ours beside it.

Every field that would change the answer is honoured or refused by name; fields that would not (`user`, `metadata`, …)
are taken and ignored; what is not listed here is an error. Types are strict: the number 7 is no "7". Every list fails
at its first bad item (`bounded`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from luopan.serve.bounded import MAX_TOKEN_ID, Bounded, Prompts, TokenId, no_more_than

MAX_MESSAGES = 10_000
Role = Literal["system", "developer", "user", "assistant", "tool"]
Weight = Annotated[float, Field(ge=-100, le=100)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Stop = StopText | Annotated[list[StopText], Field(max_length=16, fail_fast=True)]


class Strict(Bounded):
    """No unknown fields, no conversions, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)


class Part(BaseModel):
    """A part of a message's content; only text is read (`conversation`)."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    text: str | None = None


class CalledFunction(Strict):
    """`arguments`: a JSON object as text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that the assistant made in an earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(Strict):
    """A turn. `reasoning_content`: the thinking of an earlier turn of the assistant."""

    role: Role
    content: str | Annotated[list[Part], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=1000, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class FunctionSpec(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.\-]+$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Strict):
    """The name of a function."""

    name: str


class NamedTool(Strict):
    """A choice of one function."""

    type: Literal["function"]
    function: NamedFunction


class SchemaSpec(Strict):
    """A JSON schema that the answer must match. It is always enforced, `strict` or not."""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaSpec | None = None


class StructuredOutputs(Strict):
    """What the answer must match; one of the three. `grammar`: Lark as llguidance reads it."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: Annotated[str, Field(max_length=20_000)] | None = None
    grammar: Annotated[str, Field(max_length=200_000)] | None = None


class StreamOptions(Strict):
    """`include_obfuscation` is taken and ignored."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(Strict):
    """What completions and chats have in common. Not OpenAI's: top_k, min_p, typical_p, repetition_penalty, min_tokens,
    bad_words, stop_token_ids, thinking_budget, structured_outputs."""

    model: str
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, Weight], Field(max_length=2000), no_more_than(2000)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=MAX_TOKEN_ID)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    bad_words: Annotated[list[StopText], Field(max_length=100, fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=100, fail_fast=True)] | None = None
    structured_outputs: StructuredOutputs | None = None
    # Taken and ignored: they change no answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    # Taken where it asks for what is done anyway.
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, fail_fast=True)] | None = None
    verbosity: Literal["medium"] | None = None
    store: Literal[False] | None = None
    prediction: dict[str, Any] | None = None


class CompletionRequest(Sampling):
    """`POST /v1/completions`. `logprobs`: how many likeliest tokens to give beside each. Not OpenAI's but vLLM's:
    return_token_ids (log-probabilities are then those of all tokens, the one that ended it included), and
    prompt_logprobs (how many likeliest tokens at each place of the prompt, by their numbers)."""

    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=128)] | None = None
    echo: bool | None = None
    return_token_ids: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    suffix: None = None


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
