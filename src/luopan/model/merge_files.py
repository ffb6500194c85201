"""Merging model folders and adapter folders, tensor by tensor, into a folder that is there whole or not at all.

Of the inputs one tensor at a time is in memory, of the result one file of `SHARD_BYTES`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from luopan.artifacts import atomic_write_json, ensure_free_space, mend_os_errors, replace_folder, sha256_file
from luopan.errors import ArtifactError, ModelError
from luopan.model.hf import read_config, read_json
from luopan.model.merge import MergePlan, check_plan, merge_tensors
from luopan.model.merge_adapters import merge_adapters
from luopan.model.merge_checks import check_alike
from luopan.model.peft_files import CONFIG as ADAPTER

WEIGHTS, INDEX, RECORD = "model.safetensors", "model.safetensors.index.json", "merge.json"
SHARD_BYTES = 2_000_000_000
# What goes along from the first model: its configuration and its tokenizer, not where it came from.
TAKEN = frozenset(
    {"config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
     "merges.txt", "tokenizer.json", "tokenizer_config.json", "chat_template.json"}
)  # fmt: skip
TAKEN_ENDINGS = (".jinja", ".model")
Report = Callable[[str], None]
Done = Callable[[int, int], None]
Places = Mapping[str, Path]


def merge_folders(
    models: Sequence[Path],
    out: Path,
    plan: MergePlan,
    base: Path | None = None,
    said: Report = lambda text: None,
    *,
    names: Sequence[str] | None = None,
    done: Done = lambda tensors, of: None,
) -> dict[str, Any]:
    """Write the merged model (or adapter) to `out`; returns what `merge.json` there holds.

    `names` are what the record calls the models and the base, in place of their paths; `done` is told how many tensors
    of how many are there. Raises ModelError for models of other shapes, with the key or tensor that differs;
    ArtifactError where `out` exists.
    """
    if out.exists():
        raise ArtifactError("exists already; not overwritten", where=out, hint="Remove it or give another folder.")
    adapters = [(folder / ADAPTER).is_file() for folder in models]
    if any(adapters) and not all(adapters):
        first = models[adapters.index(True)]
        raise ModelError(
            "is an adapter, and the others are whole models", where=first, hint="Merge it into its base first."
        )
    try:
        check_plan(plan, len(models), base is not None, all(adapters))
    except ValueError as error:
        raise ModelError(str(error)) from error
    work = out.with_name(f".{out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)  # of a merge that was killed
    try:
        with mend_os_errors(out):
            work.mkdir(parents=True)
            if all(adapters):
                merge_adapters(models, work, plan)
            else:
                _merge_models(models, work, plan, base, said, done)
            record = _record(models, plan, base, names)
            atomic_write_json(work / RECORD, record)
            replace_folder(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return record


def _merge_models(
    models: Sequence[Path], work: Path, plan: MergePlan, base: Path | None, said: Report, done: Done
) -> None:
    from safetensors import safe_open

    for warning in check_alike(models, base):
        said(warning)
    everyone = [*models, *([base] if base is not None else [])]
    places = [places_of(folder) for folder in everyone]
    for folder, found in zip(everyone[1:], places[1:], strict=True):
        if odd := sorted(set(found) ^ set(places[0])):
            raise ModelError(f"{odd[0]} is in one model and not in the other", where=folder)
    opened: dict[Path, Any] = {}

    def file(path: Path) -> Any:
        if path not in opened:
            opened[path] = safe_open(path, "pt")
        return opened[path]

    def merged(name: str) -> Tensor:
        parts: list[Tensor] = [file(found[name]).get_tensor(name) for found in places]
        last = parts.pop() if base is not None else None
        return merge_tensors(name, parts, plan, last).contiguous()

    sizes = {name: _bytes(file(path), name) for name, path in places[0].items()}
    ensure_free_space(work, sum(sizes.values()))
    _write(work, sizes, merged, done)
    for path in models[0].iterdir():
        if path.is_file() and (path.name in TAKEN or path.suffix in TAKEN_ENDINGS):
            shutil.copyfile(path, work / path.name)


def _write(work: Path, sizes: Mapping[str, int], make: Callable[[str], Tensor], done: Done) -> None:
    """The tensors in files of at most `SHARD_BYTES` (or one tensor), with an index where there are several."""
    from safetensors.torch import save_file

    shards: list[list[str]] = [[]]
    for name in sizes:
        if shards[-1] and sum(sizes[one] for one in shards[-1]) + sizes[name] > SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    several, count = len(shards) > 1, 0
    table: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        target = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if several else WEIGHTS
        tensors = {}
        for name in names:
            tensors[name] = make(name)
            table[name] = target
            count += 1
            done(count, len(sizes))
        save_file(tensors, work / target, metadata={"format": "pt"})
    if several:
        atomic_write_json(work / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": table})


def _bytes(opened: Any, name: str) -> int:
    """Bytes of a tensor, from the file's header alone; an unknown type counts as four bytes a number."""
    part = opened.get_slice(name)
    count = 1
    for length in part.get_shape():
        count *= length
    kind = str(part.get_dtype())
    return count * {"BF16": 2, "F16": 2, "F64": 8, "I64": 8}.get(kind, 4)


def places_of(folder: Path) -> dict[str, Path]:
    """Which file holds which tensor of a model; a tied head that is stored a second time is left out."""
    from safetensors import SafetensorError, safe_open

    if (folder / INDEX).is_file():
        table = read_json(folder / INDEX).get("weight_map")
        if not isinstance(table, dict) or any(Path(str(name)).name != name for name in table.values()):
            raise ModelError("weight_map is missing, or names a file elsewhere", where=folder / INDEX)
        found = {name: folder / file for name, file in sorted(table.items())}
    else:
        try:
            with safe_open(folder / WEIGHTS, "pt") as opened:
                found = dict.fromkeys(sorted(opened.keys()), folder / WEIGHTS)
        except FileNotFoundError:
            raise ModelError(f"there is no {WEIGHTS}", where=folder) from None
        except (SafetensorError, OSError) as error:
            raise ModelError(f"is damaged or no safetensors file ({error})", where=folder / WEIGHTS) from error
    tied = "model.embed_tokens.weight" in found and read_config(folder).tie_word_embeddings
    return {
        name: path
        for name, path in found.items()
        if not (tied and name == "lm_head.weight") and not name.endswith("rotary_emb.inv_freq")
    }


def _record(models: Sequence[Path], plan: MergePlan, base: Path | None, names: Sequence[str] | None) -> dict[str, Any]:
    """Where a merged model came from."""
    folders = [*models, *([base] if base is not None else [])]
    called = list(names) if names is not None else [str(folder) for folder in folders]
    sources = [
        {"name": name, "sha256": {file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors"))}}
        for name, folder in zip(called, folders, strict=True)
    ]
    return {
        "method": plan.method,
        "weights": list(plan.weights) or None,
        **({"normalize": plan.normalize} if plan.method == "linear" else {}),
        **({"t": plan.t} if plan.method == "slerp" else {}),
        **({"density": plan.density} if plan.method == "ties" else {}),
        **({"scale": plan.scale} if plan.method in ("task_arithmetic", "ties") else {}),
        "models": sources[: len(models)],
        "base": sources[-1] if base is not None else None,
    }
