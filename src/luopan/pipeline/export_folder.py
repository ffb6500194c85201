"""What every export has in common: the source is whole, the target is new, and what is written appears at once."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luopan.artifacts import atomic_write_text, ensure_free_space, mend_os_errors, replace_folder, verify
from luopan.errors import ArtifactError, ModelError
from luopan.pipeline.lineage import EXPORTED, lineage

if TYPE_CHECKING:
    from luopan.model.config import ModelConfig


@contextmanager
def new_folder(target: Path, bytes_needed: int) -> Iterator[Path]:
    """A folder to write into that becomes `target` when the block ends well; nothing is left when it does not.

    Each export writes into a folder of its own, so that two to one target do not mix: the first to end has it.
    Raises ArtifactError where `target` exists, DiskFullError where there is no room for `bytes_needed`.
    """
    refuse_existing(target)
    ensure_free_space(target, bytes_needed)
    with mend_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(target)
        partial, lock = _own_partial(target)
        try:
            yield partial
            refuse_existing(target)  # somebody else's, meanwhile
            replace_folder(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def _own_partial(target: Path) -> tuple[Path, int]:
    """A new hidden folder beside `target` that no other export uses, and its lock, dropped when the process dies."""
    while True:
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
        if _locked(lock) is not False and partial.exists():
            return partial, lock
        os.close(lock)  # between the two lines another export took it for left over


def _remove_left_over(target: Path) -> None:
    """Remove what exports to `target` that were killed have left; what a living one writes is locked, and stays."""
    ours = re.compile(re.escape(f".{target.name}.") + r"([0-9a-f]{8}\.)?partial")
    for path in target.parent.iterdir():
        if not ours.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # ended meanwhile
            continue
        try:
            if _locked(lock):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _locked(descriptor: int) -> bool | None:
    """Take the lock of an open folder: whether it was free; None where the file system has no locks."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in {errno.EWOULDBLOCK, errno.EACCES} else None
    return True


def refuse_existing(target: Path) -> None:
    """ArtifactError where there is something at `target`."""
    if target.exists() or target.is_symlink():
        raise ArtifactError("exists already; not overwritten", where=target, hint="Remove it or give another folder.")


def check_source(folder: Path) -> ModelConfig:
    """The configuration of a model folder that is whole: checksums, weights of the right names and shapes, a tokenizer
    that fits them. Raises ArtifactError or ModelError that says what is missing. Reads no weights but a stage's bytes.
    """
    from luopan.model.hf import read_config
    from luopan.tokens.tokenizer import load_tokenizer

    if (folder.parent / "manifest.json").is_file():
        verify(folder.parent)
    config = read_config(folder)
    check_weights(folder, config)
    size = len(load_tokenizer(folder))
    if size > config.vocab_size:
        raise ModelError(
            f"the tokenizer has {size} tokens and the model an embedding of {config.vocab_size}",
            where=folder,
            hint="They are of different models: copy the tokenizer that the model was trained with.",
        )
    return config


def check_weights(folder: Path, config: ModelConfig) -> None:
    """ModelError where weights are missing, cut short, or of other names or shapes than the configuration says."""
    from luopan.model.hf import import_state_dict

    shapes = tensor_shapes(folder)
    if "score.weight" in shapes:  # a reward model, which has a score in the place of the head
        return
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    import torch

    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    import_state_dict(config, empty, where=folder)


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in a folder, from the headers of its files."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for name in weight_files(folder):
        try:
            with safe_open(folder / name, "pt") as file:
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ModelError("a file of the model is missing", where=folder / name) from None
        except (SafetensorError, OSError) as error:
            raise ModelError(f"is damaged or no safetensors file ({error})", where=folder / name) from None
    return shapes


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights; ModelError where there are none, or only pickles."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        from luopan.model.hf import read_json

        found = read_json(index).get("weight_map")
        names = sorted({str(name) for name in found.values()}) if isinstance(found, dict) else []
        if names and all(Path(name).name == name for name in names):
            return names
        raise ModelError("weight_map names no files of this folder", where=index)
    pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth")]
    hint = f"{pickled[0]} is a pickle, which can run code: convert it to safetensors." if pickled else None
    raise ModelError("there is no model.safetensors: the model is not whole", where=folder, hint=hint)


def write_lineage(source: Path, target: Path) -> None:
    """Where the model came from, beside it; nothing for a model from elsewhere."""
    try:
        steps: list[dict[str, Any]] = [step.as_dict() for step in lineage(source)]
    except ArtifactError:
        return
    atomic_write_text(target / EXPORTED, json.dumps(steps, ensure_ascii=False, indent=2) + "\n")
