"""The whole recipe in miniature: every stage runs for real, on a little of the data, with a few updates.

What only shows when stages meet (a template that the tokenizer lacks, a mask that is empty, rows that are all too long,
an evaluation that fails, a model that the next stage cannot read) shows here in a minute. Shapes above `probes.WHOLE`
parameters are narrowed; tokenizers learn fewer merges where the little text does not give more. It says nothing of
quality.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from luopan.artifacts import plain
from luopan.errors import Interrupted, LuopanError
from luopan.lab.checking.findings import Finding
from luopan.lab.checking.probes import narrowed
from luopan.model.config import ModelConfig
from luopan.pipeline.graph import in_order, needs_of
from luopan.pipeline.run import run
from luopan.recipe.load import LoadedRecipe, load_recipe

STEPS = 2
BYTES = 400_000
VOCABULARY = 1024
ROWS = 48
# Counts that are not larger than these in the miniature.
LEAST = MappingProxyType(
    {"eval_bytes": 4000, "retrieval_cases": 2, "pairs": 16, "test_pairs": 8, "flaw_cases": 4, "prompts": 16,
     "prompts_per_step": 2, "max_completion_length": 16, "test_cases": 2, "test_conversations": 4, "num_generations": 4}
)  # fmt: skip


def rehearse(
    loaded: LoadedRecipe,
    *,
    seconds: float = 90.0,
    said: Callable[[str], None] = lambda text: None,
    stage_class: Callable[[str], Any] | None = None,
) -> Iterator[Finding]:
    """A finding for every stage, in order, until the time is over or a stage fails on which others depend."""
    try:
        small = load_recipe(miniature(loaded))
    except LuopanError as error:
        yield Finding("rehearsal", "skipped", f"no miniature of it can be made: {error.message}")
        return
    stages, began = small.recipe.stages, time.monotonic()
    failed: set[str] = set()
    needs = needs_of(stages)
    with tempfile.TemporaryDirectory(prefix="luopan-check-") as place:
        for name in in_order(needs):
            spec: Any = stages[name]
            if failed & set(needs[name]):
                failed.add(name)
                yield Finding("rehearsal", "skipped", "what it reads from failed", stage=name)
                continue
            if spec.kind == "import" and not Path(spec.path).exists() and not spec.path.startswith("package:"):
                failed.add(name)
                yield Finding("rehearsal", "skipped", f"{spec.path} is on the hub: not fetched by a check", stage=name)
                continue
            if spec.kind == "synthesize":
                failed.add(name)
                yield Finding("rehearsal", "skipped", "its teacher would be asked, and paid, for nothing", stage=name)
                continue
            if time.monotonic() - began > seconds:
                failed.add(name)
                yield Finding("rehearsal", "skipped", f"no time left ({seconds:.0f} s)", "luopan check --seconds", name)
                continue
            said(f"rehearsing {name}")
            start = time.monotonic()
            try:
                run(small, until=name, runs=place, stage_class=stage_class)
            except Interrupted:
                raise
            except LuopanError as error:
                failed.add(name)
                yield Finding("rehearsal", "bad", _said(error), error.hint or "", name)
            else:
                yield Finding("rehearsal", "ok", f"{spec.kind}: {time.monotonic() - start:.1f} s", stage=name)


def _said(error: LuopanError) -> str:
    return f"{error.message} ({error.where})" if error.where else error.message


def miniature(loaded: LoadedRecipe) -> dict[str, Any]:
    """The recipe with little data, few steps, small shapes; everything else as it is."""
    written = copy.deepcopy(plain(loaded.written))
    vocabulary: dict[str, int] = {}
    for name, spec in loaded.recipe.stages.items():
        own = written["stages"][name]
        own |= _lessened(spec, own)
        if spec.kind == "tokenizer":
            vocabulary[name] = own["vocab_size"]
        if isinstance(getattr(spec, "model", None), ModelConfig):
            own["model"] = _model(spec.model, vocabulary.get(getattr(spec, "tokenizer", ""), 0))
    return written


def _model(config: ModelConfig, vocabulary: int) -> dict[str, Any]:
    values: dict[str, Any] = narrowed(config).model_dump(exclude_unset=True, mode="json")
    return {**values, **({"vocab_size": vocabulary} if vocabulary else {})}


def _lessened(spec: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a stage that are smaller in the miniature."""
    changed: dict[str, Any] = {}
    fields = type(spec).model_fields
    if spec.kind == "curate":
        changed |= {"max_source_bytes": min(spec.max_source_bytes or BYTES, BYTES), "workers": 1}
        if spec.skills:
            changed["skills"] = [{**one, "documents": min(one["documents"], ROWS)} for one in own["skills"]]
    if spec.kind == "tokenizer":
        changed["vocab_size"] = min(spec.vocab_size, VOCABULARY)
    if "max_steps" in fields:
        for key in ("num_train_epochs", "warmup_steps", "decay_steps", "annealing_rounds", "batch_warmup_steps"):
            if own.get(key) is not None:
                changed[key] = None
        changed |= {"max_steps": STEPS, "save_steps": 1, "per_device_train_batch_size": None, "logging_steps": 1}
        if spec.kind in ("pretrain", "midtrain", "sft", "preference", "reward"):
            changed |= {"per_device_train_batch_size": min(spec.per_device_train_batch_size, 2)}
        if own.get("gradient_accumulation_steps"):
            changed["gradient_accumulation_steps"] = min(spec.gradient_accumulation_steps, 2)
    for key, least in LEAST.items():
        if key in fields and getattr(spec, key) is not None and (key in own or key in ("eval_bytes", "test_cases")):
            changed[key] = min(getattr(spec, key), least)
    if own.get("suite"):
        changed["suite"] = {**own["suite"], "tests": [{**one, "cases": 2} for one in own["suite"].get("tests", [])]}
    if own.get("data") and isinstance(own["data"], list):
        changed["data"] = [_fewer(one) for one in own["data"]]
    if spec.kind == "eval" and own.get("dialogues"):
        changed["dialogues"] = own["dialogues"][:1]
    return {key: value for key, value in changed.items() if value is not None or key in own}


def _fewer(source: Mapping[str, Any]) -> dict[str, Any]:
    own = {**source, "examples": min(int(source.get("examples") or ROWS), ROWS)}
    own.pop("fraction", None)
    return own
