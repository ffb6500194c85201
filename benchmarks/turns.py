"""For benchmarks side by side: processes that take turns step by step, and the same weights in ours and in theirs.

A machine that others use is fast in one minute and slow in the next: what is compared must be measured in the same
minute. Each library has a process of its own, so that its peak memory is its own, and works only while it has its turn.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from luopan.model.config import ModelConfig

SHAPES: dict[str, dict[str, Any]] = {
    # That of benchmarks/trainer.py, and SmolLM2-135M's.
    "5.5M": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6}
    | {"num_attention_heads": 4},
    "135M": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    | {"num_attention_heads": 9, "num_key_value_heads": 3},
}


def model_config(shape: str, length: int) -> ModelConfig:
    """A Llama shape by name."""
    return ModelConfig(max_position_embeddings=length, **SHAPES[shape])


@dataclass
class Result:
    """What one process measured."""

    seconds: list[float]  # of each step
    losses: list[float]  # of each step
    tokens: list[int]  # real ones, of each step
    peak: int  # bytes, over those of the process before it began
    padded: list[int] = field(default_factory=list)  # positions computed, of each step
    before: float = 0.0  # seconds per step of what comes before training (reference log-probabilities)

    @property
    def rate(self) -> float:
        """Real tokens per second over all steps but the first, which pays for what is made once."""
        return sum(self.tokens[1:]) / sum(self.seconds[1:])


class Worker:
    """A process that works only while it has its turn."""

    def __init__(self, run: Callable[[Any, Turnstile], Result], setting: Any, *, ours: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(run, setting, other))
        if ours:  # as the command line does
            os.environ["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"
        self.process.start()
        os.environ.pop("GLIBC_TUNABLES", None)
        other.close()
        self.pipe.recv()  # ready for its first step

    def turn(self) -> None:
        """One step."""
        self.pipe.send("go")
        self.pipe.recv()

    def finish(self) -> Result:
        """What it measured."""
        result: Result = self.pipe.recv()
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
        self._wait()

    def _wait(self) -> None:
        self.pipe.recv()
        self.began = time.perf_counter()

    def pass_through(self) -> None:
        """A step is over."""
        self.seconds.append(time.perf_counter() - self.began)
        self.left -= 1
        self.pipe.send("done")
        if self.left:
            self._wait()


def _work(run: Callable[[Any, Turnstile], Result], setting: Any, pipe: Connection) -> None:
    torch.set_num_threads(setting.threads)
    pipe.send(run(setting, Turnstile(pipe, setting.steps)))


def take_turns(workers: dict[str, Worker], steps: int) -> dict[str, Result]:
    """All steps of all, the order turned round at every other step: who comes first finds a cold cache."""
    for step in range(steps):
        for worker in list(workers.values())[:: 1 if step % 2 else -1]:
            worker.turn()
    return {name: worker.finish() for name, worker in workers.items()}


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def speedup(ours: Result, theirs: Result, work: Sequence[float] | None = None) -> float:
    """How many times faster ours is: the median over steps of the ratio of their rates (of the same minute).

    `work` is what both did in each step, where it is the same; else their tokens count.
    """
    ratios = []
    for step in range(1, len(ours.seconds)):
        mine, other = (1.0, 1.0) if work is not None else (ours.tokens[step], theirs.tokens[step])
        ratios.append(mine / ours.seconds[step] / (other / theirs.seconds[step]))
    return statistics.median(ratios)


def largest_gap(ours: Result, theirs: Result) -> float:
    """Between the losses of the same step."""
    return max(abs(one - other) for one, other in zip(ours.losses, theirs.losses, strict=True))


def heading(setting: Any) -> str:
    """The machine and the setting."""
    return f"{platform.machine()}, {setting.threads} threads, torch {torch.__version__}; {setting}"


def as_json(setting: Any, results: dict[str, Result], figures: dict[str, float]) -> str:
    """Everything that was measured."""
    return json.dumps(
        {
            "setting": asdict(setting),
            "figures": figures,
            "results": {name: asdict(result) | {"rate": result.rate} for name, result in results.items()},
        }
    )


# ------------------------------------------------------------------------------------------------------ what they run


def our_model(config: ModelConfig) -> Any:
    """A `Decoder` with random weights."""
    from luopan.model.decoder import Decoder

    model = Decoder(config)
    model.reset_parameters(0)
    return model


def their_model(config: ModelConfig) -> Any:
    """`LlamaForCausalLM` with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from luopan.model.hf import export_state_dict

    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    model = LlamaForCausalLM(
        LlamaConfig(
            **{name: getattr(config, name) for name in names},
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.max_position_embeddings,
            rope_theta=config.rope_theta,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
        )
    )
    model.load_state_dict(export_state_dict(our_model(config)), strict=False)
    return model


def word_tokenizer(vocab: int) -> Any:
    """Every word "12" is the token 12; 0 pads and 1 ends a text. For libraries that insist on text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1} | {str(number): number for number in range(2, vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def same_training(steps: int, learning_rate: float) -> dict[str, Any]:
    """Keys of `TrainConfig` under which an update is that of `their_training`."""
    return {
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "max_steps": steps,
        "adam_beta2": 0.999,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_steps": 10**6,
        "spike_sigma": None,
    }


def their_training(folder: str, steps: int, learning_rate: float) -> dict[str, Any]:
    """Keys of TRL's configurations: its defaults, but fp32 (its bf16 is far slower on a CPU) and a constant rate."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1,
        "logging_first_step": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
    }


def turns_callback(gate: Turnstile, losses: list[float]) -> Any:
    """A `TrainerCallback` that ends the process's step where the trainer logs it."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_step_begin(self, args, state, control, **rest) -> None:  # type: ignore[no-untyped-def]
            if state.global_step == 0:
                gate.start()

        def on_log(self, args, state, control, logs=None, **rest) -> None:  # type: ignore[no-untyped-def]
            if "loss" in logs:
                losses.append(float(logs["loss"]))
                gate.pass_through()

    return Turns()


def quiet(trainer: Any = None) -> None:
    """No lines and bars between the figures."""
    import datasets
    import transformers

    os.environ["TQDM_DISABLE"] = "1"
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    if trainer is not None:
        trainer.remove_callback(transformers.PrinterCallback)
