"""A model on the Hugging Face Hub: looked up in the local cache, fetched when it is not there. Safetensors only."""

from __future__ import annotations

import re
from pathlib import Path

from luopan.errors import ModelError

HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/model or owner/model@revision, and is not a path of this machine."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name) is not None and not Path(name).parent.is_dir()


def from_hub(name: str) -> Path:
    """The folder of the hub's model `name` in the local cache; `@revision` names a branch, a tag or a commit.

    ModelError where it is neither there nor to be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    owner_and_model, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(owner_and_model, revision=revision or None, allow_patterns=list(HUB_FILES)))
    except LocalEntryNotFoundError:
        message = "is no folder here and not in the hub's local cache, and the hub cannot be reached"
    except (HfHubHTTPError, ValueError, OSError) as error:
        message = f"is no folder here, and the hub says: {str(error).strip().splitlines()[0]}"
    raise ModelError(message, where=name, hint="Check the spelling, or give a folder.") from None
