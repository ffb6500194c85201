"""Our fine-tuning beside TRL's SFTTrainer: same weights, same examples with long-tailed lengths, same loss.

    python benchmarks/sft.py [--shape 5.5M | 135M] [--steps 8] [--train-on all] [--no-checkpointing-too] [--json FILE]

Lengths are drawn from the mixture of the SmolLM3 playbook's SFT baseline (its means, its shares of rows; log-normal
with a sigma of 0.8 within each source, which is assumed), scaled down to what a CPU can do. The first third of an
example is its prompt. Processes take turns step by step:

- luopan and TRL with the same eight examples a step: ours in packed rows, TRL's SFTTrainer as it comes (padded to the
  longest; gradient checkpointing, its default), and, if asked for, without gradient checkpointing (14 GB at 135M).
- luopan and TRL with packed rows of the same length and number.

Everything runs with its library's defaults but for what the comparison needs: fp32, AdamW without decay, a constant
learning rate. Real tokens are those of the examples; padded tokens what the padded batch computes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import numpy as np
import turns
from turns import Result, Turnstile, Worker

from luopan.model.config import ModelConfig
from luopan.tokens.example import IGNORE, Example
from luopan.tokens.packing import pack

PLAYBOOK = ((2260, 265), (33997, 632), (29970, 444), (2057, 1507), (27436, 1072), (835, 9820))  # rows, mean tokens
SIGMA = 0.8
LEARNING_RATE = 1e-4
# By shape: lengths are divided by `shorter`; tokens of a packed row; packed rows a step.
SIZES = {"5.5M": {"shorter": 8, "length": 2048, "rows": 2}, "135M": {"shorter": 8, "length": 2048, "rows": 1}}


@dataclass(frozen=True)
class Setting:
    """What all run."""

    shape: str
    steps: int
    threads: int
    examples: int  # of an unpacked step
    train_on: str
    micro_tokens: int  # of one of our micro-batches, unless one example is longer
    seed: int
    packed: bool = False
    checkpointing: bool = True

    @property
    def length(self) -> int:
        """Of packed rows, and the most that an example has."""
        return SIZES[self.shape]["length"]

    def model(self) -> ModelConfig:
        return turns.model_config(self.shape, self.length)

    def make_examples(self) -> list[Example]:
        """Those of all steps, in order."""
        generator = np.random.default_rng(self.seed)
        rows, means = np.array(PLAYBOOK, dtype=float).T
        count = self.steps * self.examples
        if self.packed:
            mean = float((rows * means).sum() / rows.sum()) / SIZES[self.shape]["shorter"]
            count = int(1.3 * (self.steps + 1) * SIZES[self.shape]["rows"] * self.length / mean)
        mean = means[generator.choice(len(rows), count, p=rows / rows.sum())] / SIZES[self.shape]["shorter"]
        lengths = np.exp(np.log(mean) - SIGMA**2 / 2 + SIGMA * generator.standard_normal(count))
        return [self._example(generator, int(length)) for length in lengths.clip(8, self.length)]

    def _example(self, generator: np.random.Generator, length: int) -> Example:
        """Words of a skewed distribution."""
        vocab = self.model().vocab_size
        ids = 2 + ((vocab - 2) * generator.random(length) ** 3).astype(np.int64)
        prompt = 0 if self.train_on == "all" else length // 3
        return Example(ids, np.where(np.arange(length) < prompt, IGNORE, ids))

    def of_step(self, step: int, examples: list[Example]) -> list[Example]:
        return examples[step * self.examples : (step + 1) * self.examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SIZES, default="5.5M")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--examples", type=int, default=8, help="per step without packing (TRL's default)")
    parser.add_argument("--train-on", choices=["assistant", "all"], default="assistant")
    parser.add_argument("--micro-tokens", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["padded", "packed"], help="one of the two comparisons")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--no-checkpointing-too", action="store_true", help="TRL without it as well")
    options = vars(parser.parse_args())
    only, file, more = options.pop("only"), options.pop("json"), options.pop("no_checkpointing_too")
    setting = Setting(**options)
    packed = replace(setting, packed=True)
    workers = {}
    if only != "packed":
        workers["luopan"] = Worker(run_luopan, setting, ours=True)
        workers["TRL"] = Worker(run_trl, setting, ours=False)
        if more:
            workers["TRL, no checkpointing"] = Worker(run_trl, replace(setting, checkpointing=False), ours=False)
    if only != "padded":
        workers["luopan, packed rows"] = Worker(run_luopan, packed, ours=True)
        workers["TRL, packing"] = Worker(run_trl, packed, ours=False)
    results = turns.take_turns(workers, setting.steps)
    figures = summarise(results)
    print_table(setting, results, figures)
    if file:
        file.write_text(turns.as_json(setting, results, figures))
    if "loss gap of the first step" in figures:
        assert figures["loss gap of the first step"] < 1e-5, "the losses differ: nothing was compared"


def summarise(results: dict[str, Result]) -> dict[str, float]:
    """The ratios that count."""
    figures: dict[str, float] = {}
    if "TRL" in results:
        ours, theirs = results["luopan"], results["TRL"]
        assert ours.tokens == theirs.tokens, "they did not see the same examples"
        figures["padded / real"] = sum(theirs.padded) / sum(theirs.tokens)
        figures["speed / TRL"] = turns.speedup(ours, theirs)
        figures["speed / TRL / (padded / real)"] = ours.rate / theirs.rate / figures["padded / real"]
        figures["speed / TRL, all steps"] = ours.rate / theirs.rate
        if more := results.get("TRL, no checkpointing"):
            figures["speed / TRL without checkpointing, all steps"] = ours.rate / more.rate
        figures["memory / TRL"] = ours.peak / theirs.peak
        figures["loss gap of the first step"] = abs(ours.losses[0] - theirs.losses[0])
        figures["loss gap of any step"] = turns.largest_gap(ours, theirs)
    if "TRL, packing" in results:
        ours, theirs = results["luopan, packed rows"], results["TRL, packing"]
        figures["speed / TRL packing"] = turns.speedup(ours, theirs)
        figures["memory / TRL packing"] = ours.peak / theirs.peak
        figures["speed / TRL packing, all steps"] = ours.rate / theirs.rate
        figures["loss gap of any packed step"] = turns.largest_gap(ours, theirs)
    return figures


def print_table(setting: Setting, results: dict[str, Result], figures: dict[str, float]) -> None:
    """Rates of all steps but the first; ratios of steps are medians."""
    print(turns.heading(setting))
    print(f"{setting.model().num_parameters():,} parameters")
    for name, one in results.items():
        filled, each = sum(one.tokens) / sum(one.padded), sum(one.tokens) / len(one.tokens)
        rate = f"{one.rate:8,.0f} real tokens/s  {each:7,.0f} a step  {filled:4.0%} of positions real"
        print(f"{name:22} {rate}  {one.peak / 1e6:6,.0f} MB  loss {one.losses[0]:.4f} -> {one.losses[-1]:.4f}")
    for name, value in figures.items():
        print(f"{name:46} {value:.2e}" if "gap" in name else f"{name:46} {value:.2f}")


# ------------------------------------------------------------------------------------------------------ what they run


def run_luopan(setting: Setting, gate: Turnstile) -> Result:
    """`luopan.train.loop.fit` over packed rows."""
    from luopan.tokens.batch import Batch, collate
    from luopan.train.config import TrainConfig
    from luopan.train.device import peak_memory_bytes, tune_allocator
    from luopan.train.loop import fit
    from luopan.train.losses import causal_lm_loss
    from luopan.train.progress import SilentProgress

    tune_allocator()
    examples = setting.make_examples()
    rows = pack(examples, setting.length) if setting.packed else []
    tokens, padded = [], []

    class Feed:
        prefetchable = True

        def micro_batches(self, step: int) -> list[Batch]:
            if step == 0:
                gate.start()
            count = SIZES[setting.shape]["rows"]
            if setting.packed:
                batches = [collate([row], setting.length, 0) for row in rows[step * count : (step + 1) * count]]
            else:
                own = setting.of_step(step, examples)
                capacity = max(setting.micro_tokens, *map(len, own))
                batches = [collate([row], sum(map(len, row)), 0) for row in pack(own, capacity)]
            tokens.append(sum(batch.num_tokens for batch in batches))
            padded.append(sum(batch.input_ids.numel() for batch in batches))
            return batches

    idle = turns.resident_bytes()
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(
            turns.our_model(setting.model()),
            Feed(),
            causal_lm_loss,
            TrainConfig(**turns.same_training(setting.steps, LEARNING_RATE)),
            Path(folder),
            device="cpu",
            seed=0,
            progress=SilentProgress(),
            on_log=lambda line: (losses.append(line["loss"]), gate.pass_through()),  # type: ignore[func-returns-value]
        )
        peak = peak_memory_bytes() - idle
    return Result(gate.seconds, losses, tokens[: setting.steps], peak, padded[: setting.steps])


def run_trl(setting: Setting, gate: Turnstile) -> Result:
    """`trl.SFTTrainer`."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from luopan.train.device import peak_memory_bytes

    turns.quiet()
    examples = setting.make_examples()
    data = Dataset.from_dict({name: [getattr(one, name) for one in examples] for name in ("input_ids", "labels")})
    rows = {"per_device_train_batch_size": SIZES[setting.shape]["rows"] if setting.packed else setting.examples}
    idle = turns.resident_bytes()
    losses: list[float] = []
    tokens, padded = [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=turns.their_model(setting.model()),
            args=SFTConfig(
                **turns.their_training(folder, setting.steps, LEARNING_RATE),
                **rows,
                packing=setting.packed,
                max_length=setting.length,
                gradient_checkpointing=setting.checkpointing,
            ),
            train_dataset=data,
            processing_class=turns.word_tokenizer(setting.model().vocab_size),
            callbacks=[turns.turns_callback(gate, losses)],
        )
        turns.quiet(trainer)
        trainer.compute_loss = partial(_counted, trainer.compute_loss, tokens, padded)
        trainer.train()
    return Result(gate.seconds, losses, tokens, peak_memory_bytes() - idle, padded)


def _counted(compute_loss: Any, tokens: list[int], padded: list[int], model: Any, inputs: Any, **rest: Any) -> Any:
    """One micro-batch is one step there."""
    mask = inputs.get("attention_mask")
    padded.append(inputs["input_ids"].numel())
    tokens.append(padded[-1] if mask is None else int(mask.sum()))
    return compute_loss(model, inputs, **rest)


if __name__ == "__main__":
    main()
