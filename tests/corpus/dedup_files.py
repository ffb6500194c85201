"""Arrays spread over split files, for the tests of what looks at all splits at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np


def spread(folder: Path, name: str, values: np.ndarray, cuts: Sequence[int]) -> list[Path]:
    """`values` in one file per split, cut before the rows `cuts`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, part in enumerate(np.split(values, list(cuts))):
        files.append(folder / f"{name}-in-{number}.npy")
        np.save(files[-1], part)
    return files


def together(files: Sequence[Path]) -> np.ndarray:
    """What the split files hold, end to end."""
    return np.concatenate([np.load(file) for file in files])


class Backwards:
    """An executor that does the last item first, in other processes if asked to: order must not matter."""

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes

    def map(
        self, work: Callable[[Any], Any], items: Sequence[Any], done: Callable[[Any], None] | None = None
    ) -> list[Any]:
        if not self.processes:
            return [work(item) for item in list(items)[::-1]][::-1]
        with ProcessPoolExecutor(self.processes) as pool:
            return list(pool.map(work, list(items)[::-1]))[::-1]
