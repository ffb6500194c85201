"""`luopan generate MODEL`: continue a prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from luopan.cli.app import JsonFlag, examples, verb_app
from luopan.cli.sampling import (
    MaxNewTokens,
    MinP,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    sampling_from,
)
from luopan.errors import DataError

if TYPE_CHECKING:
    from luopan.generate.config import SamplingParams
    from luopan.generate.text import Reply, TextGenerator

app = verb_app()

Request: TypeAlias = "str | Sequence[Mapping[str, Any]]"


@app.command(
    epilog=examples(
        'luopan generate runs/quickstart/pretrain --prompt "In the beginning" --max-new-tokens 40',
        'luopan generate runs/quickstart/sft --chat --think --prompt "What is 12 + 34?" --json',
    )
)
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A stage, a Hugging Face folder, or a hub id.")],
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="What to continue; may be repeated; default: stdin.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message.")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt, with --chat.")] = None,
    think: Annotated[bool, typer.Option("--think", help="Let the model think first, with --chat.")] = False,
    tools: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON list of tools that may be called, with --chat.")
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    stop: Stop = None,
    stop_token_ids: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Stop at this token; may be repeated.")
    ] = None,
    seed: Seed = None,
    as_json: JsonFlag = False,
) -> None:
    """Continues texts, or answers messages with --chat.

    Options that are not given follow the model's generation_config.json, or take the likeliest token each time.
    """
    if (system or think or tools) and not chat:
        raise typer.BadParameter("--system, --think and --tools have no effect without --chat")
    offered = None if tools is None else read_tools(tools)
    prompts = prompt or [sys.stdin.read()]
    params = sampling_from(
        model,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=tuple(stop) if stop else None,
        stop_token_ids=tuple(stop_token_ids) if stop_token_ids else None,
        seed=seed,
    )

    from luopan.generate.text import TextGenerator
    from luopan.pipeline.models import resolve_model

    generator = TextGenerator(*resolve_model(model))
    before = [{"role": "system", "content": system}] if system else []
    requests: list[Request] = [[*before, {"role": "user", "content": text}] if chat else text for text in prompts]
    if len(requests) == 1 and not as_json and sys.stdout.isatty():
        print_stream(generator, requests[0], think, params, offered)
    else:
        print_replies(prompts, generator.batch(requests, params, enable_thinking=think, tools=offered), as_json)


def read_tools(file: Path) -> list[dict[str, Any]]:
    """The tools in a file: a JSON list of objects."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"no tools can be read: {error}", where=file) from error
    if not isinstance(found, list) or not found or not all(isinstance(tool, dict) for tool in found):
        hint = '[{"type": "function", "function": {"name": ..., "parameters": {...}}}]'
        raise DataError("tools must be a JSON list of objects", where=file, hint=hint)
    return found


def print_stream(
    generator: TextGenerator,
    request: Request,
    think: bool,
    params: SamplingParams,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """One answer as it comes, thinking dimmed, then its tool calls."""
    said: Generator[str, None, Reply]
    if isinstance(request, str):
        said = generator.stream(request, params)
    else:
        said = generator.stream_chat(request, think, params, tools=tools)
    while True:
        try:
            piece = next(said)
        except StopIteration as end:
            print()
            print_calls(end.value)
            return
        print(f"\x1b[2m{piece}\x1b[0m" if getattr(piece, "thinking", False) else piece, end="", flush=True)


def print_calls(reply: Reply) -> None:
    """Tool calls, a line each."""
    for call in reply.tool_calls:
        print(f"{call.name} {call.arguments}")


def print_replies(prompts: Sequence[str], replies: Sequence[Reply], as_json: bool) -> None:
    """Whole answers: their text, or one line of JSON each."""
    for text, reply in zip(prompts, replies, strict=True):
        if as_json:
            row = {"prompt": text, "text": reply.text, "thinking": reply.thinking, "finish_reason": reply.finish_reason}
            counts = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": len(reply.tokens)}
            calls = {"tool_calls": [call.as_message() for call in reply.tool_calls]} if reply.tool_calls else {}
            print(json.dumps({**row, **calls, **counts}, ensure_ascii=False))
        else:
            print(f"<think>\n{reply.thinking}\n</think>\n{reply.text}" if reply.thinking else reply.text)
            print_calls(reply)
