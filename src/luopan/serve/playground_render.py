"""What the playground shows of a template: the tokens of a conversation with what is trained, and the lint's findings.

Runs inside a process that may be killed at any moment (`playground_worker`), because a pasted template is foreign code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError, LuopanError, ModelError
from luopan.tokens.chat import encode_chat, encode_prompt, validate_messages
from luopan.tokens.chat_format import Conversation, chat_format
from luopan.tokens.example import IGNORE
from luopan.tokens.lint import lint_template, stand_in_tokenizer, use_template
from luopan.tokens.messages import normalise
from luopan.tokens.template import compile_template, joined

MAX_TOKENS = 20_000
CONTEXT = 4  # tokens decoded before each new one: some tokenizers write a space only behind another token
Json = dict[str, Any]


def render(tokenizers: Mapping[str, PreTrainedTokenizerFast], request: Json) -> Json:
    """Tokens and mask. Raises LuopanError with what is wrong with the template or the conversation."""
    tokenizer, notes = _tokenizer(tokenizers, request)
    messages, tools = request["messages"], request.get("tools") or None
    arguments = dict(request.get("chat_template_kwargs") or {})
    thinking = bool(arguments.pop("enable_thinking", False))
    keep = bool(arguments.pop("keep_thinking", not request["prompt"]))
    common: Json = {"enable_thinking": thinking, "keep_thinking": keep, "tools": tools, "arguments": arguments}
    validate_messages(messages)
    labels: Sequence[int] | None = None
    refused = ""
    try:
        if request["prompt"]:
            ids: Sequence[int] = encode_prompt(tokenizer, messages, **common)
        else:
            example = encode_chat(tokenizer, messages, train_on=request["train_on"], **common)
            ids, labels = [int(i) for i in example.input_ids], [int(i) for i in example.labels]
    except LuopanError as error:
        refused = str(error)
        ids = _plainly(tokenizer, request, Conversation(messages, thinking, tools, arguments=arguments), keep, error)
    if len(ids) > MAX_TOKENS:
        raise DataError(f"{len(ids):,} tokens; the playground shows at most {MAX_TOKENS:,}")
    tokens = token_texts(tokenizer, ids)
    if labels is not None:
        tokens = [{**token, "trained": label != IGNORE} for token, label in zip(tokens, labels, strict=True)]
    return {"tokens": tokens, "masked": labels is not None, "refused": refused, "notes": notes}


def lint(tokenizers: Mapping[str, PreTrainedTokenizerFast], request: Json) -> Json:
    """The lint's report. Raises ModelError where there is no template."""
    tokenizer, notes = _tokenizer(tokenizers, request, vocabulary_too=False)
    return {**lint_template(tokenizer, source=request.get("source")).as_json(), "notes": notes}


def token_texts(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[Json]:
    """{id, text, special} for each token. A character of several tokens stands with its last one."""
    added = tokenizer.added_tokens_decoder
    found: list[Json] = []
    settled: list[int] = []
    held: list[int] = []
    for token in ids:
        if token in added:
            found.append({"id": token, "text": added[token].content, "special": True})
            settled, held = [], []
            continue
        held.append(token)
        before = tokenizer.decode(settled) if settled else ""
        text = str(tokenizer.decode([*settled, *held]))[len(before) :]
        if text.endswith("\ufffd") and len(held) < 5:
            found.append({"id": token, "text": "", "special": False})
            continue
        found.append({"id": token, "text": text, "special": False})
        settled, held = [*settled, *held][-CONTEXT:], []
    return found


def _tokenizer(
    tokenizers: Mapping[str, PreTrainedTokenizerFast], request: Json, *, vocabulary_too: bool = True
) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """The tokenizer with the template in question, and what is to be said of the pair."""
    source, name = request.get("source"), request.get("tokenizer")
    if name is None:
        if not source:
            raise ModelError("a template is needed", hint="choose one, or paste one")
        compile_template(source)
        return stand_in_tokenizer(source), ["stand_in"]
    tokenizer = tokenizers[name]
    notes: list[str] = []
    if source and vocabulary_too:
        with suppress(DataError):
            try:
                use_template(tokenizer, source)
            except ModelError as error:
                if "vocabulary lacks" not in error.message:
                    raise
                notes.append(error.message)
        tokenizer.chat_template = source
    if not (source or tokenizer.chat_template):
        raise ModelError("this model's tokenizer has no chat template", hint="choose a shipped one, or paste one")
    return tokenizer, notes


def _plainly(
    tokenizer: PreTrainedTokenizerFast, request: Json, row: Conversation, keep: bool, error: LuopanError
) -> list[int]:
    """The tokens where nothing can be trained: what the template writes all the same. Raises `error` if nothing."""
    messages = normalise(row.messages)
    with suppress(LuopanError):
        chat = chat_format(tokenizer)
        pieces = chat.render(row, messages, keep, prompt=request["prompt"])
        return [i for ids in chat.encode([pieces])[0] for i in ids]
    source = request.get("source") or tokenizer.chat_template
    if isinstance(source, str):
        given: Json = {**tokenizer.special_tokens_map, **row.arguments, "enable_thinking": row.enable_thinking}
        with suppress(LuopanError):
            pieces = compile_template(source).render(
                messages, tools=row.tools, add_generation_prompt=request["prompt"], **given
            )
            return list(tokenizer(joined(pieces), add_special_tokens=False).input_ids)
    raise error


def template_facts() -> list[Json]:
    """The shipped templates, as `luopan template list --json` has them."""
    from luopan.tokens.templates import TEMPLATES

    return [asdict(info) for info in TEMPLATES.values()]
