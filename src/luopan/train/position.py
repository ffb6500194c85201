"""Where a training stands at the start, and where it goes back to: anew, a checkpoint, a branch, or before bad steps.

Functions on the loop's parts, so that `loop.py` holds the order of a step and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luopan.errors import TrainingError
from luopan.train import checkpoint as checkpoints
from luopan.train.branch import branch_point, load_branch
from luopan.train.checkpoint import Checkpoint
from luopan.train.randomness import restore_random_state
from luopan.train.ranks import barrier, gather_objects, rank, world_size
from luopan.train.spikes import Verdict, diagnosis, warning

if TYPE_CHECKING:
    from luopan.train.loop import Loop


def resume(loop: Loop) -> None:
    """Go on from the newest sound checkpoint, or begin."""
    if rank() == 0:
        checkpoints.remove_leftovers(loop.checkpoint_folder)
    found = newest_checkpoint(loop)
    if found is not None:
        go_on_from(loop, found)
        # A kill between a rewind and the next checkpoint: what was left out before has happened all the same.
        loop.stepper.guard.skipped = max(loop.stepper.guard.skipped, loop.skips.skipped_before(loop.step))
        loop.resumed_from = loop.step
        if loop.step < loop.config.max_steps:
            loop.note(f"Going on from step {loop.step} of {loop.config.max_steps}.")
        return
    if loop.notes:
        loop.note("No sound checkpoint is left: training starts from the beginning.")
    if loop.branch is not None:
        begin_from(loop, loop.branch)
    if rank() == 0:
        loop.progress.note(loop.stepper.optimizer.table())


def newest_checkpoint(loop: Loop, before: int | None = None) -> Checkpoint | None:
    """The newest sound one (of fewer updates than `before`); rank 0 looks, to set a damaged one aside once."""
    found = None
    if rank() == 0:
        folder, identity = loop.checkpoint_folder, loop.identity
        found = checkpoints.newest_sound(folder, identity=identity, note=loop.note, before=before)
    return gather_objects(found)[0]


def begin_from(loop: Loop, branch: Path) -> None:
    """Weights, optimizer and position of another run; its figures and random numbers are not this run's."""
    found = gather_objects(branch_point(branch) if rank() == 0 else None)[0]
    if found.step >= loop.config.max_steps:
        raise TrainingError(
            f"the run begins with step {found.step} of {found.path} and max_steps is {loop.config.max_steps}",
            hint="max_steps counts from the first step of the run that is branched: raise it.",
        )
    load_branch(found, loop.stepper.tensors(), loop.config, sharded=loop.placement.sharded)
    loop.skips.begin_at(found.step, found.state["data_step"] - found.step)
    loop.account.step = found.step
    loop.account.tokens = found.state["account"]["tokens"] if rank() == 0 else 0
    loop.note(f"Branched from {found.path} after step {found.step}.")


def go_on_from(loop: Loop, found: Checkpoint) -> None:
    """Everything as it was when the checkpoint was made."""
    checkpoints.load(found, loop.stepper.tensors(), sharded=loop.placement.sharded)
    state = found.state
    loop.account.restore(found.step, state["account"])
    loop.source.seconds = state["feed_seconds"]
    loop.stepper.restore(state["stepper"])
    loop.monitor.restore(state["monitor"])
    if len(state["random"]) == world_size():
        restore_random_state(state["random"][rank()])
    else:
        loop.note(f"The checkpoint was made by {len(state['random'])} processes: random draws will differ.")


def heed(loop: Loop, verdict: Verdict) -> bool:
    """Record updates that were left out; after too many in a row go back (True), or give up (TrainingError)."""
    documents: list[str] = []
    for one in verdict.new:
        documents = loop.source.describe(loop.skips.data_step(one.step))
        loop.skips.log(one, documents)
    if verdict.new:
        loop.note(warning(verdict.new, loop.stepper.guard.skipped))
    if verdict.empty:
        raise diagnosis(verdict, loop.step, loop.config, loop.skips.count, loop.has_checkpoint)
    if verdict.in_a_row < loop.config.max_skipped_in_a_row:
        return False
    if loop.skips.count < loop.config.max_rewinds and go_back(loop, verdict, documents):
        return True
    raise diagnosis(verdict, loop.step, loop.config, loop.skips.count, loop.has_checkpoint)


def go_back(loop: Loop, verdict: Verdict, documents: Sequence[str]) -> bool:
    """To the newest checkpoint from before the bad steps, leaving out what was read since; False without one."""
    loop.saver.wait()
    found = newest_checkpoint(loop, loop.step - verdict.in_a_row + 1)
    if found is None:
        return False
    failed, skipped = loop.step, loop.stepper.guard.skipped
    reason = verdict.new[-1].reason if verdict.new else "as told before"
    loop.saver.back_to(found.step)
    go_on_from(loop, found)
    loop.skips.rewind(found.step, failed, reason, documents, skipped)
    loop.stepper.guard.rewound(skipped)
    if rank() == 0:
        loop.log.cut_back(found.step - 1)
    loop.note(
        f"WARNING: step {failed}: {verdict.in_a_row} bad updates in a row ({reason}). Went back to step "
        f"{found.step}; the batches read since then are left out (rewind {loop.skips.count} of "
        f"{loop.config.max_rewinds})."
    )
    barrier()
    loop.finish_step()  # as after a resume
    return True
