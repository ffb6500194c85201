"""What the compass writes: a one-page specification and a recipe to begin with, both to be changed by hand."""

from __future__ import annotations

from dataclasses import dataclass

from luopan.lab.compass.answers import Answers
from luopan.lab.compass.rules import Direction, row_length
from luopan.lab.planning.devices import find_device
from luopan.lab.planning.quantities import count_text
from luopan.model.config import ModelConfig
from luopan.train.config import TrainConfig
from luopan.train.memory import estimate_memory

VERDICTS = {
    "stop": "Do not train yet.",
    "prompt": "Do not train: use an existing model.",
    "finetune": "Fine-tune an existing small model.",
    "learn": "Train a small model from scratch, to learn.",
    "pretrain": "Pretrain a model of your own.",
}


def specification(name: str, answers: Answers, direction: Direction) -> str:
    """The page, in Markdown: goal, verdict, every recommendation with its reason and source, open questions."""
    lines = [f"# {name}", "", f"**Goal.** {answers.goal}", "", f"**Verdict.** {VERDICTS[direction.path]}", ""]
    for step, title in (("why", "Why"), ("what", "What"), ("how", "How")):
        found = [one for one in direction.findings if one.step == step]
        if found:
            lines += [f"## {title}", ""]
            lines += [f"- **{one.advice}** {one.because} *({one.source})*" for one in found]
            lines.append("")
    lines += ["## Answers this follows from", "", "| question | answer |", "|---|---|"]
    lines += [
        f"| {key} | {'not said' if value is None else value} |"
        for key, value in answers.model_dump(exclude={"goal"}).items()
    ]
    if direction.trains:
        lines += ["", "## Before the first step", "",
                  "- [ ] the evaluation is written and a baseline measured on it",
                  "- [ ] licences of model and data allow the use",
                  f"- [ ] `luopan plan {name}.yaml` says that it fits memory, time and money",
                  f"- [ ] `luopan run {name}.yaml` has gone through on a hundredth of the steps"]  # fmt: skip
    return "\n".join(lines) + "\n"


def recipe(name: str, answers: Answers, direction: Direction) -> str:
    """The recipe in YAML, its numbers with their provenance."""
    if direction.path == "finetune":
        return _finetuning(name, answers, direction)
    assert direction.model is not None
    return _pretraining(name, answers, direction, direction.model)


def _head(name: str, answers: Answers, goal: str) -> list[str]:
    return [f"# Written by `luopan compass`; the reasons are in {name}.md. A place to begin, to be changed.",
            f"name: {name}", f"description: {_quoted(goal)}", "seed: 1", ""]  # fmt: skip


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _finetuning(name: str, answers: Answers, direction: Direction) -> str:
    lines = _head(name, answers, answers.goal)
    lines += ["stages:", "  base:", "    kind: import", f"    path: {direction.base}", "    chat_template: luopan", ""]
    adapter = any("adapter" in one.advice for one in direction.findings)
    lines += ["  sft:", "    kind: sft", "    model: base", "    data:",
              f"      - {{path: {_quoted(answers.chat_path)}}}",
              f"    max_length: {min(answers.context, 8192)}",
              *(["    adapter: {r: 16, lora_alpha: 32}"] if adapter else []),
              f"    learning_rate: {'2.0e-4' if adapter else '1.0e-5'}  # scan: luopan sweep {name}.yaml "
              "sft.learning_rate=…",
              "    lr_scheduler_type: cosine", "    warmup_ratio: 0.03", "    num_train_epochs: 1.0",
              "    per_device_train_batch_size: 4", "    gradient_accumulation_steps: 8", "    test_conversations: 100",
              "", "  report:", "    kind: report", "    stages: [base, sft]"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _pretraining(name: str, answers: Answers, direction: Direction, model: ModelConfig) -> str:
    length = row_length(answers, model)
    rows = max(1, round(direction.batch_tokens / length))
    fit = _fit(answers, model, rows, length)
    micro = fit.micro
    parts = max(1, round(rows / micro))
    steps = max(100, round(direction.tokens / (micro * parts * length)))
    lines = _head(name, answers, answers.goal)
    lines += ["corpus:", f"  path: {_quoted(answers.text_path)}", "", "stages:", "  curate:", "    kind: curate",
              "    held_out: {fraction: 0.005, max_bytes: 2000000}", "",
              "  tokenizer:", "    kind: tokenizer", "    corpus: curate", f"    vocab_size: {model.vocab_size}", "",
              "  pretrain:", "    kind: pretrain", "    corpus: curate", "    tokenizer: tokenizer",
              f"    model:  # {count_text(model.num_parameters())} parameters"]  # fmt: skip
    values = model.model_dump(exclude_unset=True) | {"max_position_embeddings": length}
    lines += [
        f"      {key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()
    ]
    extra = ["    activation_recompute: full"] if fit.recompute else []
    extra += (
        ["    parallel: full_shard  # torchrun; weights and their state do not fit one device"] if fit.sharded else []
    )
    lines += [f"    sequence_length: {length}", "    mixture: {corpus: 1.0}",
              f"    learning_rate: {direction.learning_rate:.1e}  # between two published fits: sweep it",
              f"    warmup_steps: {max(1, min(2000, steps // 50))}",
              f"    max_steps: {steps}  # {count_text(steps * micro * parts * length)} tokens",
              f"    per_device_train_batch_size: {micro}", f"    gradient_accumulation_steps: {parts}",
              *extra]  # fmt: skip
    last = "pretrain"
    if direction.path == "pretrain" and length < answers.context <= 32 * length:
        last = "longer"
        lines += ["", "  longer:", "    kind: midtrain", "    model: pretrain", "    corpus: curate",
                  f"    sequence_length: {answers.context}", "    extension: abf",
                  f"    rope_theta: {10_000 * 8 * round(answers.context / length)}  # grows faster than the length",
                  "    mixture: {corpus: 1.0}", f"    learning_rate: {direction.learning_rate / 10:.1e}",
                  f"    max_steps: {max(20, steps // 100)}  # about a per cent of the tokens",
                  "    per_device_train_batch_size: 1", *extra,
                  f"    gradient_accumulation_steps: {max(1, micro * parts * length // answers.context)}"]  # fmt: skip
    stages = ["curate", "tokenizer", "pretrain", *(["longer"] if last == "longer" else [])]
    if answers.conversations and direction.path == "pretrain":
        lines += ["", "  sft:", "    kind: sft", f"    model: {last}", "    data:",
                  f"      - {{path: {_quoted(answers.chat_path)}}}", f"    max_length: {length}",
                  f"    learning_rate: {direction.learning_rate / 10:.1e}", "    lr_scheduler_type: cosine",
                  "    warmup_ratio: 0.03", "    num_train_epochs: 1.0", "    per_device_train_batch_size: 4",
                  "    gradient_accumulation_steps: 8"]  # fmt: skip
        stages.append("sft")
    lines += ["", "  report:", "    kind: report", f"    stages: [{', '.join(stages)}]"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Fit:
    """A micro-batch that fits, and what had to be given for it."""

    micro: int
    recompute: bool
    sharded: bool


def _fit(answers: Answers, model: ModelConfig, rows: int, length: int) -> Fit:
    """The largest micro-batch (16 rows at most) that fits four fifths of the device, 8 GB for the machine at hand.

    Sharding is tried before recompute, which costs a third more time; what fits nowhere `luopan plan` will say.
    """
    room = 8e9 if answers.device == "this" else find_device(answers.device).memory_bytes
    kind = "cpu" if answers.device == "this" else "cuda"
    several = answers.devices > 1 and kind == "cuda"
    for recompute, sharded in ((False, False), (False, True), (True, False), (True, True)):
        if sharded and not several:
            continue
        more = {"activation_recompute": "full"} if recompute else {}
        config = TrainConfig.model_validate(
            {"learning_rate": 1e-3, "max_steps": 1000, "gradient_accumulation_steps": 2, **more}
        )
        for micro in (16, 8, 4, 2, 1):
            needed = estimate_memory(
                model, config, rows=micro, length=length, device_type=kind, shards=answers.devices if sharded else 1
            )
            if micro <= rows and needed.total <= 0.8 * room:
                return Fit(micro, recompute, sharded)
    return Fit(1, True, several)
