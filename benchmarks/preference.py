"""Our preference optimisation beside TRL's DPOTrainer: same weights, same pairs, same loss.

    python benchmarks/preference.py [--shape 5.5M | 135M] [--steps 8] [--prompt 128] [--answer 128]
        [--no-checkpointing-too] [--json FILE]

Prompts and answers have log-normal lengths with the given means (sigma 0.7, at most 512 tokens). Processes take turns
step by step, eight pairs a step:

- luopan: rows in which both answers share their prompt, the reference's log-probabilities computed once beforehand;
  and, to see what sharing does, the same with every answer's prompt of its own;
- TRL's DPOTrainer as it comes (padded, the reference model beside the policy, gradient checkpointing), with
  `precompute_ref_log_probs`, and, if asked for, with that and without gradient checkpointing.

Everything runs with its library's defaults but for what the comparison needs: fp32, AdamW without decay, a constant
learning rate, sigmoid loss, beta 0.1. "With its reference" adds what the reference costs a step that sees its pairs
once; more epochs cost those who keep it nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import numpy as np
import turns
from turns import Result, Turnstile, Worker

from luopan.model.config import ModelConfig
from luopan.tokens.example import IGNORE, Example, share_prefix
from luopan.tokens.packing import best_fit_decreasing

SIGMA, LONGEST, END = 0.7, 512, 1
LEARNING_RATE, BETA = 1e-4, 0.1

Pair = tuple[np.ndarray, np.ndarray, np.ndarray]  # tokens of the prompt, of the chosen and of the rejected answer


@dataclass(frozen=True)
class Setting:
    """What all run."""

    shape: str
    steps: int
    threads: int
    pairs: int  # a step
    prompt: int  # mean tokens
    answer: int
    micro_tokens: int  # of one of our micro-batches, unless one pair is longer
    seed: int
    share: bool = True
    precompute: bool = False
    checkpointing: bool = True

    def model(self) -> ModelConfig:
        return turns.model_config(self.shape, 2 * LONGEST)

    def make_pairs(self) -> list[Pair]:
        """Those of all steps, in order: words of a skewed distribution."""
        generator = np.random.default_rng(self.seed)
        vocab = self.model().vocab_size

        def text(mean: int) -> np.ndarray:
            length = np.exp(np.log(mean) - SIGMA**2 / 2 + SIGMA * generator.standard_normal())
            return 2 + ((vocab - 2) * generator.random(int(np.clip(length, 4, LONGEST - 1))) ** 3).astype(np.int64)

        def answer() -> np.ndarray:
            return np.append(text(self.answer), END)

        return [(text(self.prompt), answer(), answer()) for _ in range(self.steps * self.pairs)]

    def of_step(self, step: int, pairs: list[Pair]) -> list[Pair]:
        return pairs[step * self.pairs : (step + 1) * self.pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=turns.SHAPES, default="5.5M")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    defaults = {"steps": 8, "pairs": 8, "prompt": 128, "answer": 128, "micro_tokens": 1024, "seed": 0}
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--no-checkpointing-too", action="store_true", help="TRL without it as well")
    options = vars(parser.parse_args())
    file, more = options.pop("json"), options.pop("no_checkpointing_too")
    setting = Setting(**options)
    kept = replace(setting, precompute=True)
    workers = {
        "luopan": Worker(run_luopan, setting, ours=True),
        "luopan, prompts twice": Worker(run_luopan, replace(setting, share=False), ours=True),
        "TRL": Worker(run_trl, setting, ours=False),
        "TRL, precomputed": Worker(run_trl, kept, ours=False),
    }
    if more:
        workers["TRL, no checkpointing"] = Worker(run_trl, replace(kept, checkpointing=False), ours=False)
    results = turns.take_turns(workers, setting.steps)
    figures = summarise(results)
    print_table(setting, results, figures)
    if file:
        file.write_text(turns.as_json(setting, results, figures))
    assert figures["loss gap, TRL"] < 1e-4, "the losses differ: nothing was compared"


def summarise(results: dict[str, Result]) -> dict[str, float]:
    """The ratios that count."""
    ours = results["luopan"]
    figures: dict[str, float] = {}
    for name, theirs in results.items():
        if theirs is ours:
            continue
        assert ours.tokens == theirs.tokens, "they did not see the same pairs"
        figures[f"speed / {name}"] = turns.speedup(ours, theirs)
        figures[f"speed / {name}, with its reference"] = turns.speedup(with_reference(ours), with_reference(theirs))
        figures[f"memory / {name}"] = ours.peak / theirs.peak
        figures[f"loss gap, {name}"] = turns.largest_gap(ours, theirs)
    return figures


def with_reference(result: Result) -> Result:
    """What the reference's log-probabilities cost beforehand, added to each step."""
    return replace(result, seconds=[seconds + result.before for seconds in result.seconds])


def print_table(setting: Setting, results: dict[str, Result], figures: dict[str, float]) -> None:
    """Rates of all steps but the first; ratios of steps are medians."""
    print(turns.heading(setting))
    print(f"{setting.model().num_parameters():,} parameters")
    for name, one in results.items():
        each = sum(one.seconds[1:]) / len(one.seconds[1:]) / setting.pairs
        speed = f"{each:6.3f} s a pair, and {one.before / setting.pairs:6.3f} s for its reference beforehand"
        positions = sum(one.padded) / len(one.padded)
        print(
            f"{name:22} {speed}  {positions:6,.0f} positions a step  {one.peak / 1e6:6,.0f} MB"
            f"  loss {one.losses[0]:.4f} -> {one.losses[-1]:.4f}"
        )
    for name, value in figures.items():
        print(f"{name:52} {value:.2e}" if "gap" in name else f"{name:52} {value:.2f}")


# ------------------------------------------------------------------------------------------------------ what they run


def rows_of(pairs: list[Pair], setting: Setting) -> list[list[Example]]:
    """Rows of whole pairs: each a micro-batch."""
    documents = []
    for number, (prompt, *answers) in enumerate(pairs):
        pair = []
        for side, answer in enumerate(answers):
            ids = np.concatenate([prompt, answer])
            labels = np.where(np.arange(len(ids)) < len(prompt), IGNORE, ids)
            pair.append(Example(ids, labels, fields={"pair": number, "is_chosen": side == 0, "reference_logprob": 0.0}))
        documents.append(share_prefix(pair) if setting.share else pair)
    lengths = [sum(map(len, pair)) for pair in documents]
    bins = best_fit_decreasing(lengths, max(setting.micro_tokens, *lengths))
    return [[document for number in one for document in documents[number]] for one in bins]


def run_luopan(setting: Setting, gate: Turnstile) -> Result:
    """`luopan.train.loop.fit` over packed rows, after one pass of the reference."""
    import torch

    from luopan.tokens.batch import Batch, collate
    from luopan.train.config import TrainConfig
    from luopan.train.device import peak_memory_bytes, tune_allocator
    from luopan.train.loop import fit
    from luopan.train.losses import preference_loss, sequence_logprobs
    from luopan.train.progress import SilentProgress

    tune_allocator()
    idle = turns.resident_bytes()
    pairs, model = setting.make_pairs(), turns.our_model(setting.model())

    def collated(row: list[Example]) -> Batch:
        return collate([row], sum(map(len, row)), 0)

    began = time.perf_counter()
    steps = []
    with torch.no_grad():
        for step in range(setting.steps):
            rows = rows_of(setting.of_step(step, pairs), setting)
            known = [sequence_logprobs(model, collated(row)).tolist() for row in rows]
            steps.append(
                [
                    [replace(one, fields={**one.fields, "reference_logprob": logprob}) for one, logprob in zip(*both)]
                    for both in zip(rows, known, strict=True)
                ]
            )
    before = (time.perf_counter() - began) / setting.steps
    padded = [sum(map(len, (one for row in rows for one in row))) for rows in steps]

    class Feed:
        prefetchable = True

        def micro_batches(self, step: int) -> list[Batch]:
            if step == 0:
                gate.start()
            return [collated(row) for row in steps[step]]

    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            Feed(),
            partial(preference_loss, beta=BETA),
            TrainConfig(**turns.same_training(setting.steps, LEARNING_RATE)),
            Path(folder),
            device="cpu",
            seed=0,
            progress=SilentProgress(),
            on_log=lambda line: (losses.append(line["loss"]), gate.pass_through()),  # type: ignore[func-returns-value]
        )
        peak = peak_memory_bytes() - idle
    return Result(gate.seconds, losses, tokens_of(setting, pairs), peak, padded, before)


def tokens_of(setting: Setting, pairs: list[Pair]) -> list[int]:
    """Of each step, both answers with a prompt each."""
    steps = [setting.of_step(step, pairs) for step in range(setting.steps)]
    return [sum(2 * len(prompt) + len(one) + len(other) for prompt, one, other in step) for step in steps]


def run_trl(setting: Setting, gate: Turnstile) -> Result:
    """`trl.DPOTrainer`, which takes text."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from luopan.train.device import peak_memory_bytes

    class Timed(DPOTrainer):  # type: ignore[misc]
        took = 0.0

        def _precompute_ref_logps(self, *arguments):  # type: ignore[no-untyped-def]
            began = time.perf_counter()
            dataset = super()._precompute_ref_logps(*arguments)
            self.took += time.perf_counter() - began
            return dataset

        def compute_loss(self, model, inputs, **rest):  # type: ignore[no-untyped-def]
            padded.append(inputs["input_ids"].numel())
            return super().compute_loss(model, inputs, **rest)

    def words(ids: np.ndarray) -> str:
        return "".join("<eos>" if token == END else f"{token} " for token in ids)

    turns.quiet()
    idle = turns.resident_bytes()
    pairs = setting.make_pairs()
    names = ("prompt", "chosen", "rejected")
    losses: list[float] = []
    padded: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=turns.their_model(setting.model()),
            ref_model=None if setting.precompute else turns.their_model(setting.model()),
            args=DPOConfig(
                **turns.their_training(folder, setting.steps, LEARNING_RATE),
                per_device_train_batch_size=setting.pairs,
                beta=BETA,
                precompute_ref_log_probs=setting.precompute,
                gradient_checkpointing=setting.checkpointing,
            ),
            train_dataset=Dataset.from_list([{n: words(ids) for n, ids in zip(names, pair)} for pair in pairs]),
            processing_class=turns.word_tokenizer(setting.model().vocab_size),
            callbacks=[turns.turns_callback(gate, losses)],
        )
        turns.quiet(trainer)
        sizes = [tuple(len(one[f"{name}_ids"]) for name in names) for one in trainer.train_dataset]
        assert sizes == [tuple(map(len, pair)) for pair in pairs], "text does not come back as the same tokens"
        trainer.train()
    peak = peak_memory_bytes() - idle
    return Result(gate.seconds, losses, tokens_of(setting, pairs), peak, padded, trainer.took / setting.steps)


if __name__ == "__main__":
    main()
