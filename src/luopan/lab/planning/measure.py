"""How fast this machine trains a shape, found out from its pieces in seconds instead of from the whole.

A step's time is linear in depth: what lies before and behind the blocks, and as many times a block. Both are measured
by the training loop itself on one and on two layers of the real width, batch and length, with random tokens; more
layers than that are computed. The memory is counted (`luopan.train.memory`), and the peak of a real step is told beside
it when the whole model is run (`whole`). Each measurement is a process of its own, so that peaks are not mixed.

Limits: feeds, evaluations and checkpoints are not in it; two layers may stay in a cache that forty do not (the whole
took 0 to 15% longer than was computed on two cores, docs/log.md).
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from luopan.errors import LuopanError
from luopan.model.config import ModelConfig

STEPS = 5  # of which the first warms up


@dataclass(frozen=True)
class Speed:
    """Seconds of a step of `tokens` tokens, the FLOPs per second that this is, and peak in bytes, without what the
    libraries take."""

    step_seconds: float
    tokens: int
    flops: float
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step_seconds


def measure_speed(model: ModelConfig, training: dict[str, Any], *, length: int, whole: bool = False) -> Speed:
    """Of a step with `training`'s batch (keys of TrainConfig) on rows of `length`; LuopanError if it does not run."""
    layers = model.num_hidden_layers
    if whole or layers <= 2 or any(model.moe_layers) or model.layer_types is not None:
        one = _run(model, training, length)
        return Speed(
            one["step"], one["tokens"], model.flops_per_token(length) * one["tokens"] / one["step"], one["peak"]
        )
    short, long = (_run(_of_depth(model, depth), training, length) for depth in (1, 2))
    block = max(0.0, long["step"] - short["step"])
    step = short["step"] + (layers - 1) * block
    peak = int(short["peak"] + (layers - 1) * max(0, long["peak"] - short["peak"]))
    return Speed(step, short["tokens"], model.flops_per_token(length) * short["tokens"] / step, peak)


def _of_depth(model: ModelConfig, layers: int) -> ModelConfig:
    values = {**model.model_dump(exclude_unset=True), "num_hidden_layers": layers}
    if values.get("no_rope_layers") is not None:
        values["no_rope_layers"] = values["no_rope_layers"][:layers]
    return ModelConfig.model_validate(values)


def _run(model: ModelConfig, training: dict[str, Any], length: int) -> dict[str, Any]:
    asked = {"model": model.model_dump(exclude_unset=True, mode="json"), "training": training, "length": length}
    command = [sys.executable, "-m", "luopan.lab.planning.measure"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise LuopanError(f"the measurement did not run: {last}", hint="Plan without --measure, or a smaller batch.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The process: reads what to run from standard input and prints what it took."""
    import statistics
    import tempfile
    import time
    from pathlib import Path

    import numpy as np
    import psutil

    from luopan.model.decoder import Decoder
    from luopan.tokens.batch import Doc, collate
    from luopan.train.config import TrainConfig
    from luopan.train.device import peak_memory_bytes, pick_device, tune_allocator
    from luopan.train.loop import fit
    from luopan.train.losses import causal_lm_loss
    from luopan.train.progress import SilentProgress

    asked = json.load(sys.stdin)
    model_config, length = ModelConfig.model_validate(asked["model"]), asked["length"]
    own = {"max_steps": STEPS, "save_steps": STEPS, "async_save": False, "logging_steps": 1, "check_gradients": False}
    config = TrainConfig.model_validate({"learning_rate": 1e-4, "warmup_steps": 0, **asked["training"], **own})
    device = pick_device()
    if device.type == "cpu":
        tune_allocator()
    idle = psutil.Process().memory_info().rss if device.type == "cpu" else 0
    model = Decoder(model_config).to(device)
    model.reset_parameters(0)
    rows, parts = config.per_device_train_batch_size, config.gradient_accumulation_steps
    drawn = np.random.default_rng(0).integers(0, model_config.vocab_size, (parts, rows, length))

    class Feed:
        def micro_batches(self, step: int) -> list[Any]:
            return [collate([[Doc(row, row)] for row in part], length, 0) for part in drawn]

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(model, Feed(), causal_lm_loss, config, Path(folder), device=device, seed=0, progress=SilentProgress(),
            on_log=lambda line: times.append(time.perf_counter()))  # fmt: skip
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    print(json.dumps({"step": statistics.median(steps), "tokens": rows * parts * length,
                      "peak": peak_memory_bytes() - idle}))  # fmt: skip


if __name__ == "__main__":
    main()
