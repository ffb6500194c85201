"""Our training loop beside transformers.Trainer: same model, weights, rows, optimizer; and beside its bare matmuls.

    python benchmarks/trainer.py [--vocab 4096] [--steps 12] [--compile]

Three processes take turns step by step on the same machine: `fit`, `transformers.Trainer` on `LlamaForCausalLM`, and
the matrix products of one such step alone (forward, input gradient, weight gradient of every linear layer, and the six
products of attention as full squares). Prints the medians, their ratios, the peak memory of the two that train, and
how far their losses differ. Everything runs with its library's defaults but for what the comparison needs: fp32, fused
AdamW, no weight decay, clipping at 1, one document per row.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import numpy as np
import torch

from luopan.model.config import ModelConfig

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Setting:
    """What all three run."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    inner: int
    rows: int
    length: int
    steps: int
    compile: bool

    def model(self) -> ModelConfig:
        """A Llama shape."""
        return ModelConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=self.length,
        )

    def row_ids(self, step: int) -> np.ndarray:
        """Token ids [rows, length] of a step: words of a skewed distribution, each likely to follow some other."""
        generator = np.random.default_rng(step)
        ids = (self.vocab * generator.random((self.rows, self.length)) ** 3).astype(np.int64)
        follows = generator.random((self.rows, self.length)) < 0.5
        for column in range(1, self.length):
            ids[:, column] = np.where(follows[:, column], (ids[:, column - 1] * 7 + 3) % self.vocab, ids[:, column])
        return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"vocab": 4096, "hidden": 256, "layers": 6, "heads": 4, "inner": 640, "rows": 16, "length": 256}
    for name, default in {**sizes, "steps": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true", help="torch.compile in both")
    setting = Setting(**vars(parser.parse_args()))
    runners = {"luopan": run_luopan, "Trainer": run_trainer, "matmuls": run_matmuls}
    workers = {name: Worker(runner, setting) for name, runner in runners.items()}
    for _ in range(setting.steps):
        for worker in workers.values():
            worker.turn()
    results = {name: worker.finish() for name, worker in workers.items()}
    print_table(setting, results)


def print_table(setting: Setting, results: dict[str, Result]) -> None:
    """Medians of all turns but the first two of each."""
    tokens = setting.rows * setting.length
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {setting}")
    print(f"{setting.model().num_parameters():,} parameters")
    medians = {name: statistics.median(result.seconds[2:]) for name, result in results.items()}
    for name, result in results.items():
        memory = f"  {result.peak / 1e6:7.0f} MB over an idle process" if result.peak else ""
        print(f"{name:8} {medians[name]:7.3f} s a step  {tokens / medians[name]:9,.0f} tokens/s{memory}")
    ours, theirs = results["luopan"], results["Trainer"]
    print(f"speed    {medians['Trainer'] / medians['luopan']:.2f} x Trainer")
    print(f"step     {medians['luopan'] / medians['matmuls']:.2f} x its matmuls")
    print(f"memory   {ours.peak / theirs.peak:.2f} x Trainer")
    gaps = [abs(one - other) for one, other in zip(ours.losses, theirs.losses, strict=True)]
    print(f"loss     {ours.losses[0]:.4f} -> {ours.losses[-1]:.4f}, at most {max(gaps):.1e} from Trainer's")


# ------------------------------------------------------------------------------------------------- processes in turns


@dataclass
class Result:
    """Seconds of each turn, the losses, and the growth of the process in bytes."""

    seconds: list[float]
    losses: list[float]
    peak: int = 0


class Worker:
    """A process that works only while it has its turn."""

    def __init__(self, run: Callable[[Setting, Turnstile], Result], setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(run, setting, other))
        if run is run_luopan:  # as the command line does
            os.environ["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"
        self.process.start()
        os.environ.pop("GLIBC_TUNABLES", None)
        self.pipe.recv()  # ready for its first step

    def turn(self) -> None:
        """One step."""
        self.pipe.send("go")
        self.pipe.recv()

    def finish(self) -> Result:
        """What it measured."""
        result = self.pipe.recv()
        self.process.join()
        return result


class Turnstile:
    """In the worker: `pass_through` at the end of each step measures it and waits for the next turn."""

    def __init__(self, pipe: Connection, steps: int) -> None:
        self.pipe, self.left = pipe, steps
        self.seconds: list[float] = []

    def start(self) -> None:
        """Everything is ready."""
        self.pipe.send("ready")
        self.wait()

    def wait(self) -> None:
        """For the next turn."""
        self.pipe.recv()
        self.began = time.perf_counter()

    def pass_through(self) -> None:
        """A step is over."""
        self.seconds.append(time.perf_counter() - self.began)
        self.left -= 1
        self.pipe.send("done")
        if self.left:
            self.wait()


def work(run: Callable[[Setting, Turnstile], Result], setting: Setting, pipe: Connection) -> None:
    result = run(setting, Turnstile(pipe, setting.steps))
    pipe.send(result)


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------------------------------------------ what they run


def run_luopan(setting: Setting, gate: Turnstile) -> Result:
    """`luopan.train.loop.fit`."""
    from luopan.model.decoder import Decoder
    from luopan.tokens.batch import Batch, collate
    from luopan.tokens.example import Example
    from luopan.train.config import TrainConfig
    from luopan.train.device import peak_memory_bytes
    from luopan.train.loop import fit
    from luopan.train.losses import causal_lm_loss
    from luopan.train.progress import SilentProgress

    class Feed:
        prefetchable = True

        def micro_batches(self, step: int) -> list[Batch]:
            if step == 0:
                gate.start()
            return [collate([[Example(row, row)] for row in setting.row_ids(step)], setting.length, 0)]

    idle = resident_bytes()
    model = Decoder(setting.model())
    model.reset_parameters(0)
    config = TrainConfig(
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_steps=setting.steps,
        per_device_train_batch_size=setting.rows,
        adam_beta2=0.999,
        weight_decay=0.0,
        logging_steps=1,
        save_steps=10**6,
        compile=setting.compile,
        spike_sigma=None,
    )
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            Feed(),
            causal_lm_loss,
            config,
            Path(folder),
            device="cpu",
            seed=0,
            progress=SilentProgress(),
            on_log=lambda line: (losses.append(line["loss"]), gate.pass_through()),  # type: ignore[func-returns-value]
        )
        return Result(gate.seconds, losses, peak_memory_bytes() - idle)


def run_trainer(setting: Setting, gate: Turnstile) -> Result:
    """`transformers.Trainer`, which ends the process's step where it logs."""
    from torch.utils.data import IterableDataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from luopan.model.decoder import Decoder
    from luopan.model.hf import export_state_dict
    from luopan.train.device import peak_memory_bytes

    class Rows(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for step in range(setting.steps):
                for row in setting.row_ids(step):
                    ids = torch.from_numpy(row)
                    yield {"input_ids": ids, "labels": ids}

    class Turns(TrainerCallback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_step_begin(self, args, state, control, **rest) -> None:  # type: ignore[no-untyped-def]
            if state.global_step == 0:
                gate.start()

        def on_log(self, args, state, control, logs=None, **rest) -> None:  # type: ignore[no-untyped-def]
            if "loss" in logs:
                self.losses.append(float(logs["loss"]))
                gate.pass_through()

    idle = resident_bytes()
    ours = setting.model()
    config = LlamaConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_hidden_layers,
        num_attention_heads=ours.num_attention_heads,
        max_position_embeddings=ours.max_position_embeddings,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    source = Decoder(ours)
    source.reset_parameters(0)
    model.load_state_dict(export_state_dict(source), strict=False)
    del source
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=setting.steps,
            per_device_train_batch_size=setting.rows,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            optim="adamw_torch_fused",
            logging_steps=1,
            logging_first_step=True,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            torch_compile=setting.compile,
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[turns]).train()
    return Result(gate.seconds, turns.losses, peak_memory_bytes() - idle)


def run_matmuls(setting: Setting, gate: Turnstile) -> Result:
    """The products of one step by the fastest library at hand for each, one after the other, into fresh memory."""
    from luopan.model.ops import input_gradient, product
    from luopan.train.device import tune_allocator

    tune_allocator()
    tokens, hidden, inner = setting.rows * setting.length, setting.hidden, setting.inner
    layer = [(hidden, hidden)] * 4 + [(hidden, inner)] * 2 + [(inner, hidden)]
    linear = [pair for pair in layer for _ in range(setting.layers)]
    # The head in rows of the size that training uses: a product of all tokens at once is slower, not faster.
    from luopan.model.pieces import piece_rows

    rows = min(tokens, piece_rows(setting.vocab, "cpu"))
    shapes = [(tokens, i, o) for i, o in linear] + [(rows, hidden, setting.vocab)] * (tokens // rows)
    operands = {
        (n, i, o): (torch.randn(n, i), torch.randn(o, i), torch.randn(n, o)) for n, i, o in dict.fromkeys(shapes)
    }
    size = hidden // setting.heads
    squares = torch.randn(setting.rows * setting.heads, setting.length, setting.length)
    thin = torch.randn(setting.rows * setting.heads, setting.length, size)
    gate.start()
    for _ in range(setting.steps):
        for shape in shapes:
            x, weight, grad = operands[shape]
            product(x, weight)
            input_gradient(grad, weight)
            grad.t() @ x
        for _ in range(setting.layers):
            for _ in range(2):  # scores, and the gradient of the probabilities
                torch.bmm(thin, thin.transpose(1, 2))
            for _ in range(4):  # output; gradients of query, key and value
                torch.bmm(squares, thin)
        gate.pass_through()
    return Result(gate.seconds, [])


if __name__ == "__main__":
    main()
