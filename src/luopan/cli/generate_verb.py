"""`luopan generate MODEL`: continue a prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from luopan.cli.app import JsonFlag, examples, verb_app
from luopan.cli.grouped import GroupedCommand, with_options
from luopan.cli.sampling import SAMPLING, WEIGHTS, sampling_from
from luopan.errors import DataError

if TYPE_CHECKING:
    from luopan.generate.config import SamplingParams
    from luopan.generate.text import Reply, TextGenerator

app = verb_app()

Request: TypeAlias = "str | Sequence[Mapping[str, Any]]"


@app.command(
    cls=GroupedCommand,
    epilog=examples(
        'luopan generate runs/quickstart/pretrain --prompt "In the beginning" --max-new-tokens 40',
        'luopan generate runs/quickstart/sft --chat --think --prompt "What is 12 + 34?" --json',
        "luopan generate runs/quickstart/sft --chat --regex '(yes|no)' --prompt 'Is 7 prime?'",
    ),
)
@with_options({**SAMPLING, **WEIGHTS}, into="options")
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
    best_of: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Draw N answers and print the likeliest.")
    ] = None,
    beams: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Search the likeliest answer with N beams.")
    ] = None,
    top_logprobs: Annotated[
        int | None, typer.Option(metavar="N", help="The N likeliest tokens at each place, with --json.")
    ] = None,
    as_json: JsonFlag = False,
    *,
    options: dict[str, Any],
) -> None:
    """Continues texts, or answers messages with --chat.

    Options that are not given follow the model's generation_config.json, or take the likeliest token each time.
    """
    if (system or think or tools) and not chat:
        raise typer.BadParameter("--system, --think and --tools have no effect without --chat")
    if top_logprobs and not as_json:
        raise typer.BadParameter("--top-logprobs has no effect without --json")
    if beams and best_of:
        raise typer.BadParameter("--beams and --best-of are two ways to choose: give one")
    offered = None if tools is None else read_tools(tools)
    prompts = prompt or [sys.stdin.read()]
    held = {name: options.pop(name) for name in WEIGHTS if name in options}
    params = _params(model, options, beams, best_of, top_logprobs)

    from luopan.pipeline.models import text_generator

    generator = text_generator(model, **held)
    before = [{"role": "system", "content": system}] if system else []
    requests: list[Request] = [[*before, {"role": "user", "content": text}] if chat else text for text in prompts]
    if beams or best_of:
        replies = [_chosen(generator, one, params, think, beams, best_of, offered) for one in requests]
        print_replies(prompts, replies, as_json)
    elif len(requests) == 1 and not as_json and sys.stdout.isatty():
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


def _params(
    model: str, options: dict[str, Any], beams: int | None, best_of: int | None, top_logprobs: int | None
) -> SamplingParams:
    """What was asked for; a search takes nothing of the model's defaults, which are for drawing."""
    from luopan.generate.config import sampling_params

    options = {"max_new_tokens": 256, **options}
    if beams:
        return sampling_params(**options, **({"top_logprobs": top_logprobs} if top_logprobs else {}))
    if best_of and best_of > 1 and "temperature" not in options:
        options["temperature"] = 1.0  # the likeliest one alone would come every time
    return sampling_from(model, **options, top_logprobs=top_logprobs)


def _chosen(
    generator: TextGenerator, request: Request, params: SamplingParams, think: bool, beams: int | None,
    best_of: int | None, tools: Sequence[Mapping[str, Any]] | None,
) -> Reply:  # fmt: skip
    if beams:
        return generator.beam_search(request, params, num_beams=beams, enable_thinking=think, tools=tools)[0]
    return generator.best_of(request, best_of or 1, params, enable_thinking=think, tools=tools)[0]


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
            more: dict[str, Any] = {} if reply.score is None else {"score": reply.score}
            if reply.top_logprobs is not None:
                more |= {"tokens": reply.tokens, "logprobs": reply.logprobs, "top_logprobs": reply.top_logprobs}
            print(json.dumps({**row, **calls, **counts, **more}, ensure_ascii=False))
        else:
            print(f"<think>\n{reply.thinking}\n</think>\n{reply.text}" if reply.thinking else reply.text)
            print_calls(reply)
