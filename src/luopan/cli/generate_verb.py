"""`luopan generate MODEL`: continue a prompt."""

from __future__ import annotations

import json
import sys
from typing import Annotated

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

app = verb_app()


@app.command(
    epilog=examples(
        'luopan generate runs/quickstart/pretrain --prompt "In the beginning" --max-new-tokens 40',
        'luopan generate runs/quickstart/sft --chat --think --prompt "What is 12 + 34?" --json',
    )
)
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A stage, a Hugging Face folder, or a hub id.")],
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="What to continue; may be repeated. Default: standard input.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message, not a text to continue.")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt, with --chat.")] = None,
    think: Annotated[bool, typer.Option("--think", help="Let the model think first, with --chat.")] = False,
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
    if (system or think) and not chat:
        raise typer.BadParameter("--system and --think have no effect without --chat")
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
    requests = [[*before, {"role": "user", "content": text}] if chat else text for text in prompts]
    if len(requests) == 1 and not as_json and sys.stdout.isatty():
        stream = generator.stream_chat(requests[0], think, params) if chat else generator.stream(requests[0], params)
        for piece in stream:
            print(f"\x1b[2m{piece}\x1b[0m" if getattr(piece, "thinking", False) else piece, end="", flush=True)
        print()
        return
    for text, reply in zip(prompts, generator.batch(requests, params, enable_thinking=think), strict=True):
        if as_json:
            row = {"prompt": text, "text": reply.text, "thinking": reply.thinking, "finish_reason": reply.finish_reason}
            counts = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": len(reply.tokens)}
            print(json.dumps({**row, **counts}, ensure_ascii=False))
        else:
            print(f"<think>\n{reply.thinking}\n</think>\n{reply.text}" if reply.thinking else reply.text)
