"""From a request to generations: sampling parameters, prompts as tokens, constraints. Runs in a thread of its own kind,
because a long prompt takes a while to encode and a grammar to compile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luopan.errors import LuopanError, RecipeError
from luopan.generate.config import SamplingParams, sampling_params
from luopan.serve.conversation import conversation, tool_specs
from luopan.serve.errors import from_luopan, refusal
from luopan.serve.models import ServedModel
from luopan.serve.protocol import ChatRequest, CompletionRequest, NamedTool, Sampling
from luopan.serve.ticket import Ask
from luopan.tokens.chat import encode_prompt, encode_text
from luopan.tokens.chat_format import chat_format

# Below, the largest logit is all there is; far below, dividing by it would overflow and spoil the whole batch.
_GREEDY_BELOW = 1e-4
_FILTERS = ("top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True)
class Prepared:
    """Generations to ask for. `prompts`: distinct ones; ask number i belongs to prompt i // per_prompt."""

    asks: list[Ask]
    prompts: list[list[int]]
    per_prompt: int
    stop: tuple[str, ...]
    ends: frozenset[int]
    tools: list[dict[str, Any]] | None = None
    forced: str | None = None  # "": a call of any tool is enforced; else of this one
    arguments: Mapping[str, Any] | None = None  # of the template
    logprobs: bool = False
    top_logprobs: int = 0
    texts: Sequence[str] = ()  # of the prompts, where they are repeated


def chat(served: ServedModel, body: ChatRequest) -> Prepared:
    """A conversation's generations. ApiError 400 for what cannot be done."""
    if not served.chats:
        message = f"{served.name} has no chat template, so it cannot chat; ask /v1/completions instead"
        raise refusal("model", message, "no_chat_template")
    if body.top_logprobs and not body.logprobs:
        raise refusal("top_logprobs", "top_logprobs has no effect without logprobs: true")
    messages = conversation(body.messages)
    tools, forced = _tools(body)
    thinking, arguments = _template_arguments(served, body)
    tokenizer = served.generator.tokenizer
    try:
        prompt = encode_prompt(tokenizer, messages, enable_thinking=thinking, tools=tools, arguments=arguments)
    except LuopanError as error:
        raise from_luopan(error, "messages") from error
    more = {"thinking_budget": body.thinking_budget, **_form(body, tools, forced)}
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if limit is not None and body.max_tokens not in (None, limit):
        raise refusal("max_tokens", "max_tokens and max_completion_tokens say different things")
    name = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
    params = _params(served, body, limit, name, body.top_logprobs or 0, more)
    count = body.n or 1
    asks = _asks(served, [prompt], params, body, count, "messages", thinking=thinking, chat=True)
    ends = served.generator.ends(params)
    return Prepared(
        asks, [prompt], count, params.stop, ends, tools, forced, arguments, bool(body.logprobs), body.top_logprobs or 0
    )


def generations(body: ChatRequest | CompletionRequest) -> int:
    """How many generations a request asks for, or answers where it asks for none; told before anything is made."""
    if isinstance(body, ChatRequest):
        return body.n or 1
    many = isinstance(body.prompt, list) and not isinstance(body.prompt[0], int)
    return (len(body.prompt) if many else 1) * (body.best_of or body.n or 1)


def completion(served: ServedModel, body: CompletionRequest) -> Prepared:
    """The generations of texts or tokens to be continued. ApiError 400 for what cannot be done."""
    count = body.best_of or body.n or 1
    if count < (body.n or 1):
        raise refusal("best_of", f"best_of is {count}, less than n, {body.n}")
    if body.stream and count > (body.n or 1):
        raise refusal("best_of", "best_of cannot be streamed: which is best is known at the end")
    if body.stream and body.return_token_ids:
        raise refusal("return_token_ids", "return_token_ids is not given in a stream")
    if body.prompt_logprobs is not None and body.stream:
        raise refusal("prompt_logprobs", "prompt_logprobs cannot be streamed")
    limit = 16 if body.max_tokens is None else max(1, body.max_tokens)
    params = _params(served, body, limit, "max_tokens", body.logprobs or 0, _form(body, None, None))
    prompts = _encoded(served, body.prompt, "prompt")
    if body.max_tokens == 0 and not body.echo:
        raise refusal("max_tokens", "max_tokens is 0: nothing would be written (with echo: true it scores the prompt)")
    made = 1 if body.max_tokens == 0 else count  # those of a scored prompt are made to be checked, and thrown away
    asks = _asks(served, prompts, params, body, made, "prompt", thinking=False, chat=False)
    ends = served.generator.ends(params)
    told = body.logprobs is not None
    return Prepared(
        [] if body.max_tokens == 0 else asks, prompts, count, params.stop, ends, logprobs=told,
        top_logprobs=body.logprobs or 0, texts=_texts(served, body.prompt, prompts) if body.echo else (),
    )  # fmt: skip


def _texts(served: ServedModel, given: Any, prompts: Sequence[list[int]]) -> list[str]:
    """Prompts as they were given, or what their tokens say."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], str):
        return list(given)
    return [str(served.generator.tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for ids in prompts]


def texts(served: ServedModel, given: Any, field: str) -> list[list[int]]:
    """Texts or tokens as tokens, each within the context."""
    prompts = _encoded(served, given, field)
    for prompt in prompts:
        _check_length(served, prompt, field, whole=True)
    return prompts


def _encoded(served: ServedModel, given: Any, field: str) -> list[list[int]]:
    if isinstance(given, str) or isinstance(given[0], int):
        given = [given]
    tokenizer = served.generator.tokenizer
    found = [list(encode_text(tokenizer, one).input_ids[:-1]) if isinstance(one, str) else list(one) for one in given]
    if any(not ids for ids in found):
        raise refusal(field, f"{field}: an empty text leaves nothing to go on from")
    return found


def _tools(body: ChatRequest) -> tuple[list[dict[str, Any]] | None, str | None]:
    """Tools for the template, and the name of the one that must be called ("" any, None none)."""
    choice = body.tool_choice
    if choice is not None and choice != "none" and not body.tools:
        raise refusal("tool_choice", "tool_choice has no effect without tools")
    if not body.tools or choice == "none":
        return None, None
    tools = tool_specs(body.tools)
    if isinstance(choice, NamedTool):
        names = [tool["function"]["name"] for tool in tools]
        if choice.function.name not in names:
            raise refusal("tool_choice.function.name", f"there is no tool {choice.function.name!r}: {', '.join(names)}")
        return tools, choice.function.name
    return tools, "" if choice == "required" else None


def _template_arguments(served: ServedModel, body: ChatRequest) -> tuple[bool, dict[str, Any]]:
    """Whether to think, and what else the template is told."""
    arguments = dict(body.chat_template_kwargs or {})
    said = arguments.pop("enable_thinking", None)
    if said is not None and not isinstance(said, bool):
        raise refusal("chat_template_kwargs.enable_thinking", "enable_thinking must be true or false")
    thinking = bool(said)
    if body.reasoning_effort is not None:
        if "reasoning_effort" in chat_format(served.generator.tokenizer).template.variables:
            arguments.setdefault("reasoning_effort", body.reasoning_effort)
        else:
            wanted = body.reasoning_effort not in ("none", "minimal")
            if said is not None and wanted != said:
                raise refusal("reasoning_effort", "reasoning_effort and enable_thinking say different things")
            if wanted and not served.thinks:
                raise refusal("reasoning_effort", f"{served.name} does not think; leave reasoning_effort out")
            thinking = wanted
    return thinking, arguments


def _form(body: Sampling, tools: Sequence[Mapping[str, Any]] | None, forced: str | None) -> dict[str, Any]:
    """What the answer must match, as sampling parameters."""
    asked: dict[str, dict[str, Any]] = {}
    wanted = getattr(body, "response_format", None)
    if wanted is not None and wanted.type == "json_object":
        asked["response_format"] = {"json_schema": '{"type": "object"}'}
    elif wanted is not None and wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            raise refusal("response_format.json_schema", "response_format: json_schema needs json_schema.schema")
        asked["response_format"] = {"json_schema": _json(wanted.json_schema.schema_, "response_format.json_schema")}
    if (own := body.structured_outputs) is not None:
        given = {name: value for name, value in own.model_dump().items() if value is not None}
        if len(given) != 1:
            raise refusal("structured_outputs", "structured_outputs takes one of json, regex and grammar")
        if own.json_ is not None:
            schema = own.json_ if isinstance(own.json_, str) else _json(own.json_, "structured_outputs.json")
            asked["structured_outputs"] = {"json_schema": schema}
        else:
            asked["structured_outputs"] = given
    if forced is not None and tools is not None:
        asked["tool_choice"] = {"json_schema": _json(call_schema(tools, forced), "tools")}
    if len(asked) > 1:
        raise refusal(next(iter(asked)), f"{' and '.join(asked)} each say what the answer must be: give one")
    form: dict[str, Any] = next(iter(asked.values()), {})
    if form:
        for field in ("min_tokens", "bad_words"):
            if getattr(body, field):
                raise refusal(field, f"{field} cannot be joined with an answer that is bound by a form")
    return form


def call_schema(tools: Sequence[Mapping[str, Any]], forced: str) -> dict[str, Any]:
    """The JSON schema of a call, `{"name": …, "arguments": …}`, of the tool `forced`, or of any if that is empty."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool["function"]["name"]}, "arguments": tool["function"]["parameters"]},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
        if forced in ("", tool["function"]["name"])
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _json(value: Any, field: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise refusal(field, f"{field} is no JSON") from None


def _params(
    served: ServedModel, body: Sampling, limit: int | None, limit_name: str, top_logprobs: int, more: Mapping[str, Any]
) -> SamplingParams:
    """The request's sampling parameters over the model's own over the API's (temperature 1)."""
    context = served.generator.engine.context
    if limit is not None and limit < 1:
        raise refusal(limit_name, f"{limit_name} is {limit}, it must be at least 1")
    if limit is not None and limit > context:
        message = f"{limit_name} is {limit}, and prompt and answer of this model have at most {context} tokens together"
        raise refusal(limit_name, message, "max_tokens_too_large")
    names = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "frequency_penalty")
    given = {name: getattr(body, name) for name in (*names, "presence_penalty", "bad_words", "stop_token_ids")}
    values = {"temperature": 1.0, **served.default_sampling, **{k: v for k, v in given.items() if v is not None}}
    if values["temperature"] < _GREEDY_BELOW:
        values = {"temperature": 0.0, **{k: v for k, v in values.items() if k not in (*_FILTERS, "temperature")}}
    if values.get("top_k") in (0, -1):
        del values["top_k"]
    for name in ("bad_words", "stop_token_ids"):
        if name in values:
            values[name] = tuple(values[name])
    if body.logit_bias:
        values["logit_bias"] = tuple((_token(key), value) for key, value in body.logit_bias.items())
    if body.stop is not None:
        values["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    values["max_new_tokens"] = context if limit is None else limit
    if body.min_tokens:
        if body.min_tokens > values["max_new_tokens"]:
            raise refusal(
                "min_tokens", f"min_tokens is {body.min_tokens}, more than the {values['max_new_tokens']} at most"
            )
        values["min_new_tokens"] = body.min_tokens
    if top_logprobs:
        values["top_logprobs"] = top_logprobs
    values |= {name: value for name, value in more.items() if value is not None}
    try:
        return sampling_params(**values)
    except RecipeError as error:
        raise refusal(_first_name(error.message, body), error.message) from error


def _first_name(message: str, body: Sampling) -> str | None:
    """The field that a message begins with; forms have several."""
    word = message.split(":")[0].split(".")[0].split(" ")[0]
    if word in ("json_schema", "regex", "grammar"):
        forms = ("structured_outputs", "response_format", "tools")
        return next((name for name in forms if getattr(body, name, None) is not None), None)
    return word if word in type(body).model_fields else None


def _token(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise refusal("logit_bias", f"logit_bias: {key!r} is no token id")
    return int(key)


def _asks(
    served: ServedModel, prompts: Sequence[list[int]], params: SamplingParams, body: Sampling, count: int, field: str,
    *, thinking: bool, chat: bool,
) -> list[Ask]:  # fmt: skip
    """`count` generations for each prompt, each with random numbers and a constraint of its own."""
    for prompt in prompts:
        _check_length(served, prompt, field)
    try:
        bare, constrain = served.generator.bare(params), served.generator.constraint
        tops = params.top_logprobs > 0
        asks = [
            Ask(prompt, bare, body.seed, key, tops, constrain(prompt, params, think=thinking, chat=chat))
            for prompt in prompts
            for key in range(count)
        ]
        served.generator.engine.check_params(bare, asks[0].constraint)
        return asks
    except RecipeError as error:
        raise from_luopan(error, _first_name(error.message, body)) from error


def _check_length(served: ServedModel, prompt: Sequence[int], field: str, *, whole: bool = False) -> None:
    """`whole`: the context may be filled to the last token, because nothing is written after it."""
    engine = served.generator.engine
    if len(prompt) >= engine.context + whole:
        message = f"the prompt has {len(prompt)} tokens and the model's context is {engine.context}"
        more = "" if whole else ": no room for an answer. Shorten it (in a chat: drop the oldest turns)"
        raise refusal(field, message + more, "context_length_exceeded")
    if max(prompt) >= engine.model.config.vocab_size:
        raise refusal(field, f"{field} holds token ids that this model does not have")
