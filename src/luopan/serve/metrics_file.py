"""A stage's `metrics.jsonl` as curves, while it is being written.

A reader goes on where it stopped, so a poll costs what was added since. Half a line at the end waits for its rest;
a line that is no JSON object is counted and passed over. A resumed stage may log a step twice: the later line replaces
the earlier one and what followed it, as in `luopan.report.data.series_from_metrics`. Long files are thinned to the
lowest and highest value of each stretch, so that spikes stay.

Limits: of a file that is rewritten in place with the same length nothing is noticed; the library never does that.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from luopan.serve.run_files import open_file

Points = list[tuple[float, float | None]]

MAX_LINE_BYTES = 1 << 20
MAX_SERIES = 300
READ_AT_ONCE_BYTES = 48 << 20  # of one poll; about 5 s of parsing. The rest comes with the next polls
HELD_POINTS = 20_000  # per series; then it is thinned to half of them
KEPT_READERS = 64


@dataclass
class MetricsReader:
    """One file, read so far to `offset`. `rest`: bytes that are in the file and not read yet."""

    series: dict[str, Points] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    offset: int = 0
    rows: int = 0
    skipped: int = 0
    rest: int = 0
    inode: tuple[int, int] = (0, 0)
    lock: Lock = field(default_factory=Lock)

    def update(self, root: Path, parts: list[str]) -> None:
        """Read what was added. Raises NotThere."""
        with self.lock, open_file(root, parts) as file:
            facts = os.fstat(file.fileno())
            if (facts.st_dev, facts.st_ino) != self.inode or facts.st_size < self.offset:
                self._begin((facts.st_dev, facts.st_ino))
            file.seek(self.offset)
            until = self.offset + READ_AT_ONCE_BYTES
            while self.offset < until:
                line = file.readline(MAX_LINE_BYTES)
                if not line.endswith(b"\n"):
                    if len(line) < MAX_LINE_BYTES:
                        break  # half a line: wait for its rest
                    self._take(b"")  # longer than any line of ours: passed over, piece by piece
                else:
                    self._take(line)
                self.offset += len(line)
            self.rest = max(0, facts.st_size - self.offset)

    def thinned(self, limit: int) -> dict[str, Points]:
        """{series: at most about `limit` points}."""
        with self.lock:
            return {name: thin(points, limit) for name, points in self.series.items()}

    def _begin(self, inode: tuple[int, int]) -> None:
        self.series, self.last, self.inode = {}, {}, inode
        self.offset = self.rows = self.skipped = 0

    def _take(self, line: bytes) -> None:
        if not line.strip() and line:
            return
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(row, dict) or isinstance(step, bool) or not isinstance(step, int | float):
            self.skipped += 1
            return
        if not math.isfinite(step):
            self.skipped += 1
            return
        if self.rows and step <= float(self.last["step"]):
            self._go_back(float(step))
        self.rows += 1
        self.last = {name: _finite(value) for name, value in row.items() if _is_number(value)}
        for name, value in self.last.items():
            if name != "step" and (name in self.series or len(self.series) < MAX_SERIES):
                self._add(self.series.setdefault(name, []), (float(step), value))

    def _go_back(self, step: float) -> None:
        for points in self.series.values():
            del points[bisect_left(points, step, key=lambda point: point[0]) :]

    @staticmethod
    def _add(points: Points, point: tuple[float, float | None]) -> None:
        points.append(point)
        if len(points) > HELD_POINTS:
            points[:] = thin(points, HELD_POINTS // 2)


class MetricsFiles:
    """The readers of the files that were asked for lately."""

    def __init__(self) -> None:
        self._readers: OrderedDict[tuple[str, ...], MetricsReader] = OrderedDict()
        self._lock = Lock()

    def of(self, parts: list[str]) -> MetricsReader:
        """The reader of one file, made if there is none."""
        key = tuple(parts)
        with self._lock:
            reader = self._readers.setdefault(key, MetricsReader())
            self._readers.move_to_end(key)
            while len(self._readers) > KEPT_READERS:
                self._readers.popitem(last=False)
        return reader


def thin(points: Points, limit: int) -> Points:
    """At most about `limit` points with every spike: the lowest and highest of each stretch, gaps, both ends."""
    if len(points) <= limit or limit < 4:
        return list(points)
    stretches = limit // 2 - 1
    kept: Points = [points[0]]
    for number in range(stretches):
        part = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        known = [point for point in part if point[1] is not None]
        if known:
            chosen = {min(known, key=_height), max(known, key=_height)}
            kept.extend(sorted(chosen, key=lambda point: point[0]))
        elif part:
            kept.append(part[0])
    kept.append(points[-1])
    return list(dict.fromkeys(kept))


def _height(point: tuple[float, float | None]) -> float:
    return point[1] if point[1] is not None else 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: float) -> float | None:
    """JSON has no NaN: a gap."""
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None
