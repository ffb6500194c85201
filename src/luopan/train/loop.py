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
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from luopan.artifacts import stable_hash
from luopan.errors import TrainingError
from luopan.model.decoder import Decoder
from luopan.train import checkpoint as checkpoints
from luopan.train.account import Account
from luopan.train.alarms import Monitor
from luopan.train.branch import branch_point
from luopan.train.checkpoint import Checkpoint
from luopan.train.collector import Collector, collection_between_steps
from luopan.train.config import TrainConfig
from luopan.train.device import peak_memory_bytes, tune_allocator
from luopan.train.health import check_same_weights
from luopan.train.interrupt import StopNow, StopWish, stop_on_signal
from luopan.train.memory import MemoryEstimate, foresee, memory_errors
from luopan.train.optimizer import check_device
from luopan.train.parallel import place
from luopan.train.prefetch import Feed, Source
from luopan.train.progress import Progress
from luopan.train.randomness import random_state, restore_random_state, seed_everything
from luopan.train.ranks import barrier, from_leader, gather_objects, rank, world_size
from luopan.train.result import FitResult, Hook, OnLog
from luopan.train.saver import Saver
from luopan.train.schedule import learning_rate_at
from luopan.train.skips import Skips
from luopan.train.spikes import Verdict, diagnosis, warning
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
    `TrainingError` for what cannot be trained; `DiskFullError`/`ArtifactError` where the end cannot be saved (earlier
    checkpoints are then intact). In several processes, each calls it with its own feed and the same everything else.
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
                    self.train_step()
                    self.after_step()
                    collector.collect()
                self.saver.close(UPLOAD_PATIENCE_SECONDS)
                self.stepper.finish()
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
            self.resume()
            if not self.placement.sharded:  # shards were checked whole
                check_same_weights(self.stepper.optimizer.parameters)
            if rank() == 0:
                self.log.begin(self.step - 1)  # the line of the checkpoint's own step comes again
            self.skips.begin(self.step)
            self.progress.update(self.step)
            self.account.since = time.perf_counter()
            yield

    def resume(self) -> None:
        """Go on from the newest sound checkpoint, or begin."""
        if rank() == 0:
            checkpoints.remove_leftovers(self.checkpoint_folder)
        found = self.newest_checkpoint()
        if found is not None:
            self.go_on_from(found)
            self.resumed_from = self.step
            if self.step < self.config.max_steps:
                self.note(f"Going on from step {self.step} of {self.config.max_steps}.")
            return
        if self.notes:
            self.note("No sound checkpoint is left: training starts from the beginning.")
        if self.branch is not None:
            self.begin_from(self.branch)
        if rank() == 0:
            self.progress.note(self.stepper.optimizer.table())

    def newest_checkpoint(self, before: int | None = None) -> Checkpoint | None:
        """The newest sound one (of fewer updates than `before`); rank 0 looks, to set a damaged one aside once."""
        found = None
        if rank() == 0:
            folder, identity = self.checkpoint_folder, self.identity
            found = checkpoints.newest_sound(folder, identity=identity, note=self.note, before=before)
        return gather_objects(found)[0]

    def begin_from(self, branch: Path) -> None:
        """Weights, optimizer and position of another run; its figures and random numbers are not this run's."""
        found = gather_objects(branch_point(branch) if rank() == 0 else None)[0]
        if found.step >= self.config.max_steps:
            raise TrainingError(
                f"the run begins with step {found.step} of {found.path} and max_steps is {self.config.max_steps}",
                hint="max_steps counts from the first step of the run that is branched: raise it.",
            )
        checkpoints.load(found, self.stepper.tensors(), sharded=self.placement.sharded)
        self.account.step = found.step
        self.account.tokens = found.state["account"]["tokens"] if rank() == 0 else 0
        self.note(f"Branched from {found.path} after step {found.step}.")

    def go_on_from(self, found: Checkpoint) -> None:
        """Everything as it was when the checkpoint was made."""
        checkpoints.load(found, self.stepper.tensors(), sharded=self.placement.sharded)
        state = found.state
        self.account.restore(found.step, state["account"])
        self.source.seconds = state["feed_seconds"]
        self.stepper.restore(state["stepper"])
        self.monitor.restore(state["monitor"])
        if len(state["random"]) == world_size():
            restore_random_state(state["random"][rank()])
        else:
            self.note(f"The checkpoint was made by {len(state['random'])} processes: random draws will differ.")

    @property
    def step(self) -> int:
        """Updates done."""
        return self.account.step

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder / "checkpoints"

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
        batches = self.source.get(self.skips.data_step(self.step), following)
        if not any(gather_objects(bool(batches))):
            raise TrainingError(f"step {self.step}: the feed gave no batch")
        tokens = sum(batch.num_tokens for batch in batches)  # before they move: on a GPU, counting would wait for it
        if self.expected_memory is None and batches:
            shards = world_size() if self.placement.sharded else 1
            self.expected_memory = foresee(self.home.config, self.config, batches, self.device, shards, self.note)
        with memory_errors(self.home.config, self.config, batches, self.device, self.step):
            update = self.stepper.update(self.step, batches)
        self.account.add(update, tokens, time.perf_counter() - began)
        self.watchdog.beat()

    # ---- between steps ----

    def after_step(self) -> None:
        """Look at the verdict, save, stop if that is wished, else finish the step; `self.step` updates are done.

        Saving comes first: what hooks do (evaluation) may fail, and hours of training must not fail with it.
        """
        step, config = self.step, self.config
        final = step == config.max_steps
        saves = final or step % config.save_steps == 0
        stop = None
        if self.device.type == "cpu" or saves or self.logs():
            if self.heed(self.stepper.guard.check(step)):
                return  # gone back to a checkpoint
            stop = next((name for name in gather_objects(self.wish.name) if name), None)
            self.saver.poll()
        if saves or stop:
            self.save(final=final or stop is not None)
        if stop:
            self.leave(stop)
        self.finish_step()

    def leave(self, reason: str | None) -> None:
        """Raise `Interrupted`; this step is saved."""
        self.saver.close()
        raise self.wish.interrupted(self.step, self.config.max_steps, reason)

    def heed(self, verdict: Verdict) -> bool:
        """Record updates that were left out; after too many in a row go back (True), or give up (TrainingError)."""
        documents: list[str] = []
        for one in verdict.new:
            documents = self.source.describe(self.skips.data_step(one.step))
            self.skips.log(one, documents)
        if verdict.new:
            self.note(warning(verdict.new, self.stepper.guard.skipped))
        if verdict.empty:
            raise diagnosis(verdict, self.step, self.config, self.skips.count)
        if verdict.in_a_row < self.config.max_skipped_in_a_row:
            return False
        if self.skips.count < self.config.max_rewinds and self.go_back(verdict, documents):
            return True
        raise diagnosis(verdict, self.step, self.config, self.skips.count)

    def go_back(self, verdict: Verdict, documents: Sequence[str]) -> bool:
        """To the newest checkpoint from before the bad steps, leaving out what was read since; False without one."""
        self.saver.wait()
        found = self.newest_checkpoint(self.step - verdict.in_a_row + 1)
        if found is None:
            return False
        failed, skipped = self.step, self.stepper.guard.skipped
        reason = verdict.new[-1].reason if verdict.new else "as told before"
        self.saver.back_to(found.step)
        self.go_on_from(found)
        self.skips.rewind(found.step, failed, reason, documents)
        self.stepper.guard.rewound(skipped)
        if rank() == 0:
            self.log.cut_back(found.step - 1)
        self.note(
            f"WARNING: step {failed}: {verdict.in_a_row} bad updates in a row ({reason}). Went back to step "
            f"{found.step}; the batches read since then are left out (rewind {self.skips.count} of "
            f"{self.config.max_rewinds})."
        )
        barrier()
        self.finish_step()  # as after a resume
        return True

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

    def save(self, *, final: bool) -> None:
        """A checkpoint of this moment; `final`: on the disk when this returns."""
        state = {
            "account": self.account.state(),
            "feed_seconds": self.source.seconds,
            "stepper": self.stepper.state(),
            "monitor": self.monitor.state(),
            "random": gather_objects(random_state()),
        }
        if rank() == 0:
            self.log.sync()
        with self.watchdog.paused():
            self.saver.save(self.step, self.stepper.tensors(), state, final=final)

    def note(self, text: str) -> None:
        """Tell the user, once, whatever the number of processes."""
        self.notes.append(text)
        if rank() == 0:
            self.progress.note(text)
