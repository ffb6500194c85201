"""`luopan serve MODEL…`: models behind the OpenAI API, and the page."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import examples, verb_app

app = verb_app()


class Precision(StrEnum):
    """Numbers of 32 or of 16 bits."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Bits(StrEnum):
    """Of quantised weights."""

    INT8 = "int8"
    INT4 = "int4"


@app.command(
    epilog=examples(
        "luopan serve runs/quickstart/grpo",
        "luopan serve runs/quickstart/sft runs/quickstart/grpo --name before --name after --port 9000",
        "LUOPAN_API_KEY=secret luopan serve owner/name --host 0.0.0.0",
    )
)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Stages, Hugging Face folders, hub ids, or folders of adapters."),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What clients call the models, in their order; default: the folders' names."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 is every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", envvar="LUOPAN_API_KEY", help="Ask clients for this key.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Let web pages from here ask, such as https://example.org; * is all."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name of this server, behind a proxy.")
    ] = None,
    max_batch: Annotated[int, typer.Option(metavar="N", min=1, help="Requests that run at once, for each model.")] = 32,
    max_queue: Annotated[int, typer.Option(metavar="N", min=0, help="Requests that may wait, for each model.")] = 256,
    max_cache_gb: Annotated[
        float | None,
        typer.Option(
            metavar="GB", help="Memory for keys and values, all models together; default: half of what is free."
        ),
    ] = None,
    max_body_mb: Annotated[float, typer.Option(metavar="MB", min=0.01, help="The largest request.")] = 8.0,
    request_timeout: Annotated[float, typer.Option(metavar="S", min=0.1, help="Seconds for a whole answer.")] = 600.0,
    drain_seconds: Annotated[
        float, typer.Option(metavar="S", min=0, help="How long running requests may go on at the end.")
    ] = 30.0,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu, cuda, cuda:1; default: a GPU where there is one.")
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="How weights are held and computed with.")] = Precision.FLOAT32,
    quantize: Annotated[Bits | None, typer.Option(help="Fewer bits for weights: less memory, and less exact.")] = None,
    speculate: Annotated[
        str | None,
        typer.Option(metavar="ngram|MODEL", help="Guess tokens ahead while few ask; answers stay the same."),
    ] = None,
    reload_from: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Let programs of this machine change weights to those of folders below DIR."),
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="The runs that the page shows.")] = Path("runs"),
    page: Annotated[bool, typer.Option("--page/--no-page", help="Whether to serve the page.")] = True,
) -> None:
    """Serves models behind the OpenAI API (chat, completions, embeddings), with a page to talk to them.

    Only this machine can reach it, unless --host says otherwise. SIGTERM and Ctrl-C let running requests finish.
    """
    from luopan.serve.needs import require_packages

    require_packages()
    from luopan.pipeline.models import default_sampling, model_folder, speculation
    from luopan.serve.config import MIB, settings_from
    from luopan.serve.server import serve_models

    settings = settings_from(
        host=host,
        port=port,
        api_key=api_key or None,
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        max_body_bytes=int(max_body_mb * MIB),
        max_queue=max_queue,
        max_batch=max_batch,
        max_cache_gb=max_cache_gb,
        request_timeout=request_timeout,
        drain_seconds=drain_seconds,
        reload_from=reload_from,
        runs=runs,
        page=page,
    )
    code = serve_models(
        models,
        settings,
        find=model_folder,
        default_sampling=default_sampling,
        names=name or (),
        device=device,
        dtype=dtype.value,
        quantize=None if quantize is None else quantize.value,
        speculation=speculation(speculate, device),
        said=lambda text: print(text, file=sys.stderr, flush=True),
    )
    raise SystemExit(code)
