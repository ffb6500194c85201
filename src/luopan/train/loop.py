"""The one training loop. Every stage that changes weights runs through `fit`, with its own feed and loss.

What it promises: the loss is a sum over a global count, divided once per step, so accumulation and data parallelism
cannot change it; a run that was killed and started again ends with the same bits as one that was not; what would
silently ruin a run (an empty loss, a parameter without gradient, weights that are not fp32, numbers that are not
finite or far off) stops it or is left out, and is said. Nothing is read from the device but at logging and saving steps
(on the CPU, where it is free, at every step).

How a step is made is `step.py`'s business, where weights live `parallel.py`'s, what is written `saver.py`'s; here they
are put in order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from luopan.artifacts import stable_hash
from luopan.errors import FeedUnavailable, LuopanError, TrainingError
from luopan.model.decoder import Decoder
from luopan.tokens.batch import Batch
from luopan.train.account import Account
from luopan.train.alarms import Monitor
from luopan.train.checkpoint import steps_saved
from luopan.train.collector import Collector, collection_between_steps
from luopan.train.config import TrainConfig
from luopan.train.device import peak_memory_bytes, tune_allocator
from luopan.train.health import check_same_weights
from luopan.train.interrupt import StopNow, StopWish, stop_on_signal
from luopan.train.memory import MemoryEstimate, foresee, memory_errors
from luopan.train.optimizer import check_device
from luopan.train.parallel import place
from luopan.train.position import heed, resume
from luopan.train.prefetch import Feed, Source
from luopan.train.progress import Progress
from luopan.train.randomness import random_state, seed_everything
from luopan.train.ranks import from_leader, gather_objects, rank, world_size
from luopan.train.result import FitResult, Hook, OnLog
from luopan.train.saver import Saver
from luopan.train.schedule import first_row, learning_rate_at
from luopan.train.skips import Skips
from luopan.train.step import LossFn, Stepper
from luopan.train.tracking import MetricsLog
from luopan.train.watchdog import Watchdog

__all__ = ["Feed", "FitResult", "Hook", "Loop", "LossFn", "OnLog", "fit"]

UPLOAD_PATIENCE_SECONDS = 600.0


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
    stop_at: float | None = None,
    branch: Path | None = None,
) -> FitResult:
    """Train `model` in place for `config.max_steps` updates, or go on from the newest sound checkpoint in `folder`.

    Writes `folder/metrics.jsonl` and `folder/checkpoints/`. `stop_at` (`time.monotonic` seconds) is a deadline.
    `branch` is a checkpoint of another run with the same shapes (or a folder of them) to begin from: weights, optimizer
    and position, under this run's schedule. Raises `Interrupted` after saving on Ctrl-C, SIGTERM or the deadline;
    `FeedUnavailable`, after saving too, where the feed waits for what is away; `TrainingError` for what cannot be
    trained; `DiskFullError`/`ArtifactError` where the end cannot be saved (earlier checkpoints are then intact). In
    several processes, each calls it with its own feed and the same everything else.
    """
    loop = Loop(
        model, feed, loss_fn, config, Path(folder), torch.device(device), seed, progress, on_log, tuple(hooks), branch
    )
    with stop_on_signal(loop.note, stop_at) as wish, collection_between_steps() as collector:
        return loop.run(wish, collector)


@dataclass
class Loop:
    """The state of one `fit`. Use `fit`; this is its inside."""

    home: Decoder
    feed: Feed
    loss_fn: LossFn
    config: TrainConfig
    folder: Path
    device: torch.device
    seed: int
    progress: Progress
    on_log: OnLog | None
    hooks: tuple[Hook, ...]
    branch: Path | None = None

    account: Account = field(default_factory=Account)
    resumed_from: int | None = None
    save_is_due: bool = False
    standing: dict[str, Any] | None = None  # what a checkpoint of this step would hold, where the feed may fail
    expected_memory: MemoryEstimate | None = None
    notes: list[str] = field(default_factory=list)

    def run(self, wish: StopWish, collector: Collector) -> FitResult:
        """Prepare, train to the end, save."""
        if self.device.type == "cpu":
            tune_allocator()
        self.wish = wish
        self.log = MetricsLog(self.folder, self.config.report_to, self.config.fingerprint(), self.note)
        self.progress.start(self.folder.name.removesuffix(".partial"), self.config.max_steps)
        try:
            with self.prepared():
                if self.resumed_from == self.step:
                    self.finish_step()  # a checkpoint is made before its step's hooks and line
                while self.step < self.config.max_steps:
                    try:
                        self.train_step()
                    except (FeedUnavailable, StopNow) as away:
                        self.leave_without_a_feed(away)
                    self.after_step()
                    collector.collect()
                self.finish()
        finally:
            self.log.close()
            self.progress.finish()
        return FitResult(
            steps=self.step,
            tokens=sum(gather_objects(self.account.tokens)),
            seconds=self.account.seconds,
            skipped_steps=self.stepper.guard.skipped,
            resumed_from=self.resumed_from,
            last=self.account.last,
            notes=tuple(self.notes),
            peak_memory_bytes=peak_memory_bytes(self.device),
            rewinds=self.skips.count,
            expected_memory_bytes=self.expected_memory.total if self.expected_memory else None,
        )

    # ---- setting up ----

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Everything in place, and the newest checkpoint loaded; let go of in the end, whatever happens."""
        check_device(self.config, self.device)
        with ExitStack() as stack:
            with self.memory_errors("before the first step, for weights and optimizer"):
                self.placement = place(self.home, self.config, self.device)
                self.stepper = Stepper(self.placement, self.loss_fn, self.config, self.device)
            self.source = Source(self.feed, self.device, ahead=self.config.prefetch)
            stack.callback(self.source.close)
            self.saver = Saver(
                self.checkpoint_folder, self.config, self.identity, self.note, sharded=self.placement.sharded
            )
            stack.callback(self.saver.wait)
            self.skips = Skips(self.folder)
            self.monitor = Monitor(self.config, self.device, feed_computes=getattr(self.feed, "reads_weights", False))
            self.watchdog = stack.enter_context(Watchdog(self.folder, self.config, self.note))
            seed_everything(self.seed, rank())
            resume(self)
            if not self.placement.sharded:  # shards were checked whole
                check_same_weights(self.stepper.optimizer.parameters)
            if rank() == 0:
                self.log.begin(self.step - 1)  # the line of the checkpoint's own step comes again
            self.skips.begin(self.step)
            self.progress.update(self.step)
            self.account.since = time.perf_counter()
            yield

    @property
    def step(self) -> int:
        """Updates done."""
        return self.account.step

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def shards(self) -> int:
        """Over how many ranks weights and state are shared out."""
        return 1 if self.config.parallel == "replicas" else world_size()

    @property
    def learning(self) -> float:
        """Which share of the model's numbers is trained."""
        trained = sum(p.numel() for p in self.stepper.optimizer.parameters.values())
        return trained / max(1, sum(p.numel() for p in self.placement.model.parameters()))

    def memory_errors(self, when: str, batches: Sequence[Batch] = ()) -> AbstractContextManager[None]:
        """See `memory.memory_errors`."""
        return memory_errors(self.home.config, self.config, self.device, when, batches, self.shards)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return bool(steps_saved(self.checkpoint_folder))

    @property
    def identity(self) -> str:
        """What a checkpoint must have been made with to be gone on from: training keys, seed, names and shapes."""
        shapes = {name: list(parameter.shape) for name, parameter in self.stepper.optimizer.parameters.items()}
        return stable_hash({"config": self.config.fingerprint(), "seed": self.seed, "shapes": shapes})

    # ---- one step ----

    def train_step(self) -> None:
        """One update."""
        began = time.perf_counter()
        following = self.skips.data_step(self.step + 1) if self.step + 1 < self.config.max_steps else None
        try:
            with self.memory_errors(f"in step {self.step}, in the feed"):
                batches = self.source.get(self.skips.data_step(self.step), following)
        except LuopanError as error:
            self.save_before(error)
            raise
        if not any(gather_objects(bool(batches))):
            raise TrainingError(f"step {self.step}: the feed gave no batch")
        tokens = sum(batch.num_tokens for batch in batches)  # before they move: on a GPU, counting would wait for it
        if self.expected_memory is None and batches:
            self.expected_memory = foresee(
                self.home.config, self.config, batches, self.device, self.shards, self.note, self.learning
            )
        with self.memory_errors(f"in step {self.step}", batches):
            update = self.stepper.update(self.step, batches, idle=getattr(self.feed, "idle", False))
        self.account.add(update, tokens, time.perf_counter() - began)
        self.watchdog.beat()

    # ---- between steps ----

    def after_step(self) -> None:
        """Look at the verdict, save, stop if that is wished, else finish the step; `self.step` updates are done.

        Saving comes first: what hooks do (evaluation) may fail, and hours of training must not fail with it.
        """
        step, config = self.step, self.config
        final = step == config.max_steps
        saves = self.save_is_due = final or self.save_is_due or step % config.save_steps == 0
        stop = None
        if self.device.type == "cpu" or saves or self.logs():
            verdict = self.stepper.guard.check(step)
            if heed(self, verdict):
                return  # gone back to a checkpoint
            # In a row of bad steps saving waits: it would push out the checkpoint that a rewind goes back to.
            saves = final or (saves and not verdict.in_a_row)
            stop = self.asked_to_stop()
            self.saver.poll()
        if saves or stop:
            self.save(final=final or stop is not None)
        if stop:
            self.leave(stop)
        if getattr(self.feed, "reads_weights", False):
            self.standing = self.state()  # as a checkpoint of this step has it: made before hooks and line
        self.finish_step()

    def finish(self) -> None:
        """Everything is trained and saved: wait for uploads, hand the model back, heed who asked to stop meanwhile."""
        with self.watchdog.paused():
            self.saver.close(UPLOAD_PATIENCE_SECONDS, lambda: self.wish.wished)
        self.stepper.finish()
        stop = self.asked_to_stop()
        if stop:
            raise self.wish.interrupted(self.step, self.config.max_steps, stop)

    def asked_to_stop(self) -> str | None:
        """What asks this or another rank to stop."""
        return next((name for name in gather_objects(self.wish.name) if name), None)

    def leave(self, reason: str | None) -> NoReturn:
        """Raise `Interrupted`; this step is saved."""
        with self.watchdog.paused():
            self.saver.close()
        raise self.wish.interrupted(self.step, self.config.max_steps, reason)

    def leave_without_a_feed(self, away: FeedUnavailable | StopNow) -> NoReturn:
        """The feed cannot give the next step, or was stopped while it waited: save what was done, and end."""
        if self.standing is not None:
            self.save(final=True, state=self.standing)
        if isinstance(away, StopNow):
            self.leave(None)
        with self.watchdog.paused():
            self.saver.close()
        saved = f"Everything up to step {self.step} of {self.config.max_steps} is saved." if self.step else None
        away.hint = " ".join(filter(None, (away.hint, saved, "Run the same command again to go on.")))
        raise away

    def save_before(self, error: LuopanError) -> None:
        """The feed has ended for good (its server refuses, nothing it made can be learnt from): save what was done. Of
        several ranks others may not have failed, and would not come to the saving."""
        if self.standing is None or isinstance(error, FeedUnavailable) or world_size() > 1:
            return
        self.save(final=True, state=self.standing)
        saved = f"Everything up to step {self.step} of {self.config.max_steps} is saved."
        error.hint = " ".join(filter(None, (error.hint, saved)))

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
        """Figures of all hooks for this step; of several processes rank 0 runs them, on the whole model.

        A signal stops them at once: the step is saved, and they come again. Where other ranks wait for this one a hook
        is not cut short: the wish is heeded after the next step.
        """
        figures: dict[str, float] = {}
        if not self.hooks:
            return figures
        at_once = self.wish.prompt() if world_size() == 1 else nullcontext()
        try:
            with self.watchdog.paused(), self.placement.whole() as model, at_once:
                for hook in self.hooks if rank() == 0 else ():
                    figures.update(hook(self.step, model) or {})
        except StopNow:
            self.save(final=True)
            self.leave(None)
        return from_leader(figures)

    def write_line(self, figures: Mapping[str, float]) -> None:
        """One line of metrics over the steps since the last one."""
        window_seconds = self.account.window_seconds
        line = self.account.line(
            {
                "learning_rate": learning_rate_at(self.config, self.step - 1),
                "feed_seconds": self.source.seconds,
                "skipped_steps": self.stepper.guard.skipped,
                **self.stepper.figures(),
                **figures,
            }
        )
        self.source.seconds = 0.0
        seen = self.monitor.look({**line, "window_seconds": window_seconds})
        line |= seen.figures
        for alarm in seen.alarms:
            self.note(alarm.text)
        self.progress.update(self.step, **{name: value for name, value in line.items() if name != "step"})
        self.saver.scored(self.step, line)
        if rank() == 0:
            self.log.write(line)
            if self.on_log is not None:
                self.on_log(line)

    def save(self, *, final: bool, state: dict[str, Any] | None = None) -> None:
        """A checkpoint of this moment; `final`: on the disk when this returns."""
        state = self.state() if state is None else state
        if rank() == 0:
            self.log.sync()
        with self.watchdog.paused():
            self.saver.save(self.step, self.stepper.tensors(), state, final=final)
        self.save_is_due = False

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors."""
        return {
            "account": self.account.state(),
            "data_step": self.skips.data_step(self.step),
            "rows": first_row(self.config, self.skips.data_step(self.step)),
            "feed_seconds": self.source.seconds,
            "stepper": self.stepper.state(),
            "monitor": self.monitor.state(),
            "random": gather_objects(random_state()),
        }

    def note(self, text: str) -> None:
        """Tell the user, once, whatever the number of processes."""
        self.notes.append(text)
        if rank() == 0:
            self.progress.note(text)
