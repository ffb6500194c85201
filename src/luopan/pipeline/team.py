"""A run in several processes: rank 0 runs the recipe as if it were alone, the others come along where a stage trains.

Rank 0 holds the run's lock, decides what is done, writes, measures and reports. For a stage whose spec has training
keys it hands the other ranks the task; they run the same stage with the same inputs up to the end of its training and
leave it there (`luopan.train.ranks.leave_to_leader`). Between tasks they wait on the host, which costs nothing.

A rank that fails ends its process; the others then find the connection closed and end too. Nobody waits for the dead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.pipeline.identity import Inputs
from luopan.train.config import TrainConfig


@dataclass(frozen=True)
class Task:
    """A stage that trains, as rank 0 asks the others to help with it."""

    name: str
    spec: Any
    seed: int
    path: Path
    inputs: Inputs


@dataclass(frozen=True)
class Team:
    """The processes of this run, seen from one of them."""

    size: int
    rank: int

    @property
    def leads(self) -> bool:
        """Whether this process is the one that runs the recipe."""
        return self.rank == 0

    def help_with(self, task: Task) -> None:
        """Rank 0: tell the others to join in this stage, if it trains."""
        if self.size > 1 and isinstance(task.spec, TrainConfig):
            self._tell(task)  # and rank 0 works alone again once they have left the stage to it

    def dismiss(self, result: Any) -> None:
        """Rank 0: the run is done, and this came of it."""
        if self.size > 1:
            self._tell(result)

    def follow(self, stage_class: Callable[[str], Any], stop_at: float | None) -> Any:
        """Other ranks: join in whatever rank 0 asks for, until it says what came of the run."""
        while isinstance(message := self._tell(None), Task):
            self._join_in(message, stage_class(message.spec.kind), stop_at)
        return message

    def _join_in(self, task: Task, stage: Any, stop_at: float | None) -> None:
        from luopan.stages.base import Workspace
        from luopan.train.progress import SilentProgress
        from luopan.train.ranks import LeftToLeader

        try:
            stage.run(task.spec, task.inputs, Workspace(task.path, task.name, task.seed, SilentProgress(), stop_at))
        except LeftToLeader:
            return
        raise AssertionError(
            f"stage {task.name} never left its rest to rank 0 (ranks.leave_to_leader after its training)"
        )

    def _tell(self, message: Any) -> Any:
        from luopan.train.ranks import from_leader, work_alone

        work_alone(False)
        return from_leader(message)


@contextmanager
def team() -> Iterator[Team]:
    """The processes that a launcher such as torchrun started, connected for the time of the block; alone without one.

    Imports no torch where there is one process only: stages that do not train need none.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team(1, 0)
        return
    from luopan.train import ranks

    with ranks.processes():
        mates = Team(ranks.world_size(), ranks.rank())
        ranks.work_alone(mates.leads)  # until there is something to help with
        yield mates
