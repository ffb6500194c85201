"""`luopan generate MODEL`: continue a prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from luopan.cli.app import JsonFlag, examples, verb_app
from luopan.cli.grouped import GroupedCommand, with_options
from luopan.cli.sampling import SAMPLING, WEIGHTS, sampling_from

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
    if (system or think) and not chat:
        raise typer.BadParameter("--system and --think have no effect without --chat")
    if top_logprobs and not as_json:
        raise typer.BadParameter("--top-logprobs has no effect without --json")
    if beams and best_of:
        raise typer.BadParameter("--beams and --best-of are two ways to choose: give one")
    prompts = prompt or [sys.stdin.read()]
    held = {name: options.pop(name) for name in WEIGHTS if name in options}
    params = _params(model, options, beams, best_of, top_logprobs)

    from luopan.generate.text import TextGenerator
    from luopan.generate.weights import prepare
    from luopan.pipeline.models import resolve_model

    weights, tokenizer = resolve_model(model)
    generator = TextGenerator(prepare(weights, **held) if held else weights, tokenizer)
    before = [{"role": "system", "content": system}] if system else []
    requests: list[Request] = [[*before, {"role": "user", "content": text}] if chat else text for text in prompts]
    if beams or best_of:
        print_replies(prompts, [_chosen(generator, one, params, think, beams, best_of) for one in requests], as_json)
    elif len(requests) == 1 and not as_json and sys.stdout.isatty():
        print_stream(generator, requests[0], think, params)
    else:
        print_replies(prompts, generator.batch(requests, params, enable_thinking=think), as_json)


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
    best_of: int | None,
) -> Reply:  # fmt: skip
    if beams:
        return generator.beam_search(request, params, num_beams=beams, enable_thinking=think)[0]
    return generator.best_of(request, best_of or 1, params, enable_thinking=think)[0]


def print_stream(generator: TextGenerator, request: Request, think: bool, params: SamplingParams) -> None:
    """One answer as it comes, thinking dimmed."""
    said: Iterable[str]
    if isinstance(request, str):
        said = generator.stream(request, params)
    else:
        said = generator.stream_chat(request, think, params)
    for piece in said:
        print(f"\x1b[2m{piece}\x1b[0m" if getattr(piece, "thinking", False) else piece, end="", flush=True)
    print()


def print_replies(prompts: Sequence[str], replies: Sequence[Reply], as_json: bool) -> None:
    """Whole answers: their text, or one line of JSON each."""
    for text, reply in zip(prompts, replies, strict=True):
        if as_json:
            row = {"prompt": text, "text": reply.text, "thinking": reply.thinking, "finish_reason": reply.finish_reason}
            counts = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": len(reply.tokens)}
            more: dict[str, Any] = {} if reply.score is None else {"score": reply.score}
            if reply.top_logprobs is not None:
                more |= {"tokens": reply.tokens, "logprobs": reply.logprobs, "top_logprobs": reply.top_logprobs}
            print(json.dumps({**row, **counts, **more}, ensure_ascii=False))
        else:
            print(f"<think>\n{reply.thinking}\n</think>\n{reply.text}" if reply.thinking else reply.text)
