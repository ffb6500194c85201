"""The one training loop. Every stage that changes weights runs through `fit`, with its own feed and loss.

What it promises: the loss is a sum over a global count, divided once per step, so accumulation and data parallelism
cannot change it; a run that was killed and started again ends with the same bits as one that was not; what would
silently ruin a run (an empty loss, a parameter without gradient, weights that are not fp32, numbers that are not
finite) is an error. Nothing is read from the device but at logging and saving steps (on the CPU, where it is free,
at every step).

Limits: replicas only, no sharding; the feed runs in the loop's own thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from luopan.artifacts import stable_hash
from luopan.errors import Interrupted, TrainingError
from luopan.model.decoder import Decoder
from luopan.objectives.base import LossTerm, merge_metrics
from luopan.tokens.batch import Batch
from luopan.train import checkpoint as checkpoints
from luopan.train.config import TrainConfig
from luopan.train.device import autocast, peak_memory_bytes, tune_allocator
from luopan.train.health import Health, check_same_weights, gradients_reach_all
from luopan.train.interrupt import StopWish, stop_on_signal
from luopan.train.optimizer import (
    apply_gradients,
    build_optimizer,
    optimizer_tensors,
    set_learning_rate,
    trainable_parameters,
)
from luopan.train.progress import Progress
from luopan.train.randomness import random_state, restore_random_state, seed_everything
from luopan.train.ranks import barrier, gather_objects, rank, sum_over_ranks, world_size
from luopan.train.schedule import learning_rate_at
from luopan.train.tracking import MetricsLog
from luopan.train.window import Window, means


class Feed(Protocol):
    """Where batches come from: a pure function of (seed, step) and, on policy, of the weights. It has no state."""

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of update `step` (0 is the first): this rank's share of the step's rows."""
        ...


LossFn = Callable[[Decoder, Batch], LossTerm]
# Called after each update with the number of updates done and the model; figures it returns are logged at once.
Hook = Callable[[int, Decoder], Mapping[str, float] | None]
OnLog = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class FitResult:
    """What a finished training did. `last` is its last line of metrics; seconds are those of all its sittings."""

    steps: int
    tokens: int
    seconds: float
    skipped_steps: int
    resumed_from: int | None
    last: dict[str, Any]
    notes: tuple[str, ...]
    peak_memory_bytes: int


def fit(
    model: Decoder,
    feed: Feed,
    loss_fn: LossFn,
    config: TrainConfig,
    folder: Path,
    *,
    device: torch.device | str,
    seed: int,
    progress: Progress,
    on_log: OnLog | None = None,
    hooks: Sequence[Hook] = (),
) -> FitResult:
    """Train `model` in place for `config.max_steps` updates, or go on from the newest sound checkpoint in `folder`.

    Writes `folder/metrics.jsonl` and `folder/checkpoints/`. Raises `Interrupted` after saving on Ctrl-C or SIGTERM;
    `TrainingError` for what cannot be trained; `DiskFullError`/`ArtifactError` where it cannot be saved (the previous
    checkpoint is then intact). In several processes, each calls it with its own feed and the same everything else.
    """
    loop = Loop(model, feed, loss_fn, config, Path(folder), torch.device(device), seed, progress, on_log, tuple(hooks))
    with stop_on_signal(loop.note) as wish:
        return loop.run(wish)


@dataclass
class Loop:
    """The state of one `fit`. Use `fit`; this is its inside."""

    model: Decoder
    feed: Feed
    loss_fn: LossFn
    config: TrainConfig
    folder: Path
    device: torch.device
    seed: int
    progress: Progress
    on_log: OnLog | None
    hooks: tuple[Hook, ...]

    step: int = 0  # updates done
    seconds: float = 0.0  # of all sittings, up to `since`
    tokens: int = 0  # that this rank has read (rank 0: and all ranks in earlier sittings)
    window_tokens: int = 0  # since the last line, this rank
    window_seconds: float = 0.0  # since the last line, saving left out
    feed_seconds: float = 0.0  # of those, waiting for the feed
    resumed_from: int | None = None
    gradients_checked: bool = False
    last: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    window: Window = field(default_factory=Window)

    def run(self, wish: StopWish) -> FitResult:
        """Prepare, train to the end, save."""
        if self.device.type == "cpu":
            tune_allocator()
        self.log = MetricsLog(self.folder, self.config.report_to if rank() == 0 else (), self.config.fingerprint())
        self.progress.start(self.folder.name.removesuffix(".partial"), self.config.max_steps)
        try:
            self.prepare()
            if self.resumed_from is not None:
                self.finish_step()  # a checkpoint is made before its step's hooks and line
            while self.step < self.config.max_steps:
                self.train_step()
                self.after_step(wish)
        finally:
            self.log.close()
            self.progress.finish()
        return FitResult(
            steps=self.step,
            tokens=sum(gather_objects(self.tokens)),
            seconds=self.seconds,
            skipped_steps=self.health.skipped,
            resumed_from=self.resumed_from,
            last=self.last,
            notes=tuple(self.notes),
            peak_memory_bytes=peak_memory_bytes(self.device),
        )

    # ---- setting up ----

    def prepare(self) -> None:
        """Put the model in place, make the optimizer, load the newest checkpoint if there is one."""
        self.model.to(self.device)
        self.parameters = trainable_parameters(self.model)
        self.optimizer = build_optimizer(self.model, self.config)
        self.health = Health(self.device)
        seed_everything(self.seed, rank())
        self.resume()
        check_same_weights(self.parameters)
        if rank() == 0:
            self.log.begin(self.step - 1)  # the line of the checkpoint's own step comes again
        self.progress.update(self.step)
        self.since = time.perf_counter()

    def resume(self) -> None:
        """Go on from the newest sound checkpoint. Rank 0 looks for it, so that a damaged one is set aside once."""
        found = None
        if rank() == 0:
            checkpoints.remove_leftovers(self.checkpoint_folder)
            found = checkpoints.newest_sound(self.checkpoint_folder, identity=self.identity, note=self.note)
        found = gather_objects(found)[0]
        if found is None:
            if self.notes:
                self.note("No sound checkpoint is left: training starts from the beginning.")
            return
        checkpoints.load(found, self.tensors())
        state = found.state
        self.step = self.resumed_from = found.step
        self.seconds, self.last = state["seconds"], state["last"]
        self.tokens = state["tokens"] if rank() == 0 else 0
        self.window_tokens = state["window_tokens"] if rank() == 0 else 0
        self.window_seconds, self.feed_seconds = state["window_seconds"], state["feed_seconds"]
        self.gradients_checked = state["gradients_checked"]
        self.norm = torch.tensor(state["grad_norm"])
        self.health.restore(state["health"])
        self.window.restore(state["window"])
        if len(state["random"]) == world_size():
            restore_random_state(state["random"][rank()])
        else:
            self.note(f"The checkpoint was made by {len(state['random'])} processes: random draws will differ.")
        if self.step < self.config.max_steps:
            self.note(f"Going on from step {self.step} of {self.config.max_steps}.")

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def identity(self) -> str:
        """What a checkpoint must have been made with to be gone on from: training keys, seed, names and shapes."""
        shapes = {name: list(parameter.shape) for name, parameter in self.parameters.items()}
        return stable_hash({"config": self.config.fingerprint(), "seed": self.seed, "shapes": shapes})

    def tensors(self) -> dict[str, Any]:
        """Everything a checkpoint holds that is a tensor; the live ones, so loading into them restores the run."""
        return {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self.model, self.optimizer)}

    # ---- one step ----

    def train_step(self) -> None:
        """One update: sum the micro-batches' gradients, sum over ranks, divide once, clip, update."""
        began = time.perf_counter()
        batches = self.feed.micro_batches(self.step)
        self.feed_seconds += time.perf_counter() - began
        if not batches:
            raise TrainingError(f"step {self.step}: the feed gave no batch")
        self.model.train()  # a feed that generates may leave it in evaluation mode
        terms = [self.backward(batch) for batch in batches]
        metrics = merge_metrics([term.metrics for term in terms])
        sums = torch.stack([torch.stack((term.total.detach(), term.weight.to(term.total))) for term in terms]).sum(0)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        sum_over_ranks([*gradients, sums])
        if self.config.check_gradients and not self.gradients_checked:
            self.gradients_checked = gradients_reach_all(self.parameters, self.step)
        set_learning_rate(self.optimizer, learning_rate_at(self.config, self.step))
        total, weight = sums[0], sums[1]
        self.norm, bad = apply_gradients(self.optimizer, gradients, total, weight, self.config.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.health.add(bad, weight)
        self.window.add(bad, {"loss": (total, weight), **metrics})
        self.step += 1
        self.window_seconds += time.perf_counter() - began

    def backward(self, batch: Batch) -> LossTerm:
        """Forward and backward of one micro-batch; returns its term without the graph."""
        tokens = batch.num_tokens  # counted before it moves: on a GPU, counting would wait for the device
        self.tokens += tokens
        self.window_tokens += tokens
        with autocast(self.device, self.config.precision):
            term = self.loss_fn(self.model, batch.to(self.device))
        term.total.backward()
        return LossTerm(term.total.detach(), term.weight.detach(), term.metrics)

    # ---- between steps ----

    def after_step(self, wish: StopWish) -> None:
        """Check health, save, stop if that is wished, else finish the step; `self.step` updates are done.

        Saving comes first: what hooks do (evaluation) may fail, and hours of training must not fail with it.
        """
        step, config = self.step, self.config
        saves = step == config.max_steps or step % config.save_steps == 0
        stop = None
        if self.device.type == "cpu" or saves or self.logs():
            warning = self.health.check(step)
            if warning:
                self.note(warning)
            stop = next((name for name in gather_objects(wish.name) if name), None)
        if saves or stop:
            self.save()
        if stop:
            raise Interrupted(
                f"stopped by {stop} after step {step} of {config.max_steps}; everything up to there is saved",
                hint="Run the same command again to go on.",
            )
        self.finish_step()

    def logs(self) -> bool:
        """Whether this step has a line in the metrics (if no hook gives it one)."""
        return self.step == self.config.max_steps or self.step % self.config.logging_steps == 0

    def finish_step(self) -> None:
        """Hooks, then the line of metrics. After a resume this is done again for the checkpoint's step."""
        figures = self.run_hooks()
        if self.logs() or figures:
            self.write_line(figures)
        else:
            self.progress.update(self.step)

    def run_hooks(self) -> dict[str, float]:
        """Figures of all hooks for this step."""
        figures: dict[str, float] = {}
        for hook in self.hooks:
            figures.update(hook(self.step, self.model) or {})
        return figures

    def write_line(self, figures: Mapping[str, float]) -> None:
        """One line of metrics over the steps since the last one."""
        sums = self.window.over_ranks()
        window_tokens, tokens = (sum(part) for part in zip(*gather_objects((self.window_tokens, self.tokens))))
        averages = means(sums)
        line: dict[str, Any] = {
            "step": self.step,
            "loss": averages.pop("loss", float("nan")),
            "learning_rate": learning_rate_at(self.config, self.step - 1),
            "grad_norm": float(self.norm),
            "tokens": tokens,
            "tokens_per_second": window_tokens / self.window_seconds if self.window_seconds else 0.0,
            "seconds": self.elapsed(),
            "feed_seconds": self.feed_seconds,
            "skipped_steps": self.health.skipped,
            **averages,
            **figures,
        }
        self.window.clear()
        self.window_tokens, self.window_seconds, self.feed_seconds = 0, 0.0, 0.0
        self.last = line
        self.progress.update(self.step, **{name: value for name, value in line.items() if name != "step"})
        if rank() == 0:
            self.log.write(line)
            if self.on_log is not None:
                self.on_log(line)

    def elapsed(self) -> float:
        """Seconds of this and all earlier sittings."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        return self.seconds

    def save(self) -> None:
        """A checkpoint of this moment, written by rank 0 while the others wait."""
        shared = gather_objects((random_state(), self.tokens, self.window_tokens))
        state = {
            "seconds": self.elapsed(),
            "tokens": sum(part[1] for part in shared),
            "window_tokens": sum(part[2] for part in shared),
            "window_seconds": self.window_seconds,
            "feed_seconds": self.feed_seconds,
            "window": self.window.over_ranks(),
            "health": self.health.state(),
            "gradients_checked": self.gradients_checked,
            "grad_norm": float(self.norm),
            "last": self.last,
            "random": [part[0] for part in shared],
        }
        if rank() == 0:
            self.log.sync()
            checkpoints.save(
                self.checkpoint_folder,
                self.step,
                self.tensors(),
                state,
                identity=self.identity,
                keep=self.config.save_total_limit,
            )
        barrier()

    def note(self, text: str) -> None:
        """Tell the user, once, whatever the number of processes."""
        self.notes.append(text)
        if rank() == 0:
            self.progress.note(text)
