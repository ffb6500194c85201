"""`luopan push DIR owner/name`: an exported model to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luopan.cli.app import examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "luopan push my-model owner/my-model --dry-run",
        "luopan push my-model owner/my-model --private",
    )
)
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that luopan export made.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made where it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose the change instead of making it.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="The branch; made where missing.")] = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="The commit's subject.")] = "Upload model",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and show what would be uploaded.")] = False,
) -> None:
    """Uploads an exported model in one commit, after checking that it is whole and holds nothing private.

    The token is the one of HF_TOKEN or `hf auth login`.
    """
    from luopan.pipeline.push import PushOptions, check_name
    from luopan.pipeline.push import push as upload_folder
    from luopan.pipeline.push_checks import check_upload

    check_name(name)
    upload = check_upload(folder)
    for path, size in upload.files:
        print(f"{size:>14,}  {path}")
    print(f"{upload.bytes:>14,}  bytes in {len(upload.files)} files ({upload.kind}) for {name}")
    for note in upload.notes:
        print(f"note: {note}")
    if dry_run:
        print("nothing was uploaded (--dry-run)")
        return
    options = PushOptions(private=private, create_pr=create_pr, revision=revision, message=message)
    print(upload_folder(folder, name, options, upload))
