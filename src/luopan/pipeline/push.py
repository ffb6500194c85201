"""A folder that `luopan export` made, to the Hugging Face Hub, in one commit.

The token comes from where `huggingface_hub` keeps it (HF_TOKEN, or `hf auth login`) and is never shown. Everything is
checked before the first request. Tested against a local imitation of the Hub's HTTP interface, never the Hub itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.errors import ArtifactError, LuopanError
from luopan.pipeline.push_checks import Upload, check_upload


@dataclass(frozen=True)
class PushOptions:
    """`revision`: the branch to commit to, made where it is missing; `create_pr`: propose it instead."""

    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    message: str = "Upload model"


def push(folder: Path, name: str, options: PushOptions, upload: Upload | None = None) -> str:
    """Upload the folder to `owner/name`, made where it is missing; returns the address of the commit or proposal.

    Raises ArtifactError with one line for whatever the Hub answers.
    """
    upload = upload or check_upload(folder)
    check_name(name)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi(library_name="luopan")
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=folder / path) for path, _ in upload.files]
    try:
        if not api.repo_exists(name):
            api.create_repo(name, private=options.private, exist_ok=True)
        if options.revision is not None and not options.create_pr:
            api.create_branch(name, branch=options.revision, exist_ok=True)
        made = api.create_commit(
            name,
            operations,
            commit_message=options.message,
            create_pr=options.create_pr,
            revision=options.revision,
        )
    except LuopanError:
        raise
    except Exception as error:  # of the hub's library, of its HTTP client, of the system
        raise told(error, name) from None
    return str(made.pr_url or made.commit_url)


def check_name(name: str) -> None:
    """ArtifactError for what is no `owner/name`."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
        fine = name.count("/") == 1
    except HFValidationError:
        fine = False
    if not fine:
        raise ArtifactError(f"{name!r} is no name on the Hub", hint="It has the form owner/name.")


def told(error: Exception, name: str) -> ArtifactError:
    """What went wrong with the Hub, in one line; other errors as they are."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalTokenNotFoundError):
        return _answer("the Hub wants to know who you are", name, "hf auth login, or set HF_TOKEN.")
    if isinstance(error, OfflineModeIsEnabled):
        return _answer("HF_HUB_OFFLINE is set, so that nothing is uploaded", name, "Unset it.")
    if isinstance(error, HfHubHTTPError):
        message, hint = _http(error)
        return _answer(message, name, hint)
    # By name: the library's HTTP client is httpx in some of its versions, httpx2 in others.
    names = {kind.__name__ for kind in type(error).__mro__}
    if "TimeoutException" in names:
        return _answer("the Hub did not answer in time", name, "Try again; what was uploaded is not sent twice.")
    if "TransportError" in names or isinstance(error, OSError):
        first = (str(error) or type(error).__name__).splitlines()[0]
        return _answer(f"the Hub cannot be reached ({first})", name, "Look at the network, or at HF_ENDPOINT.")
    raise error


def _http(error: Any) -> tuple[str, str | None]:
    """(message, hint) of an HTTP status."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = {
        401: ("the Hub does not accept the token (401)", "hf auth login, or set HF_TOKEN to one that can write."),
        403: ("the token may not write there (403)", "Take one with the right to write, or a name of your own."),
        404: ("there is no such repository or branch, or the token may not see it (404)", "Check the name."),
        409: ("somebody else wrote there at the same time (409)", "Try again."),
        413: ("a file is too large for the Hub (413)", None),
        429: ("the Hub asks to slow down (429)", "Try again later."),
    }
    if status in known:
        message, hint = known[status]
    else:
        said = (getattr(error, "server_message", None) or str(error)).strip().splitlines()
        message, hint = f"the Hub answers {status or 'something else'}: {said[0] if said else 'nothing'}", None
    return message, hint


def _answer(message: str, name: str, hint: str | None = None) -> ArtifactError:
    return ArtifactError(message, where=name, hint=hint)
