"""Best-fit-decreasing packing of a million documents: seconds, and how full the rows are.

    python benchmarks/packing.py [--documents 1000000] [--lengths FILE.npy --capacity 4096]

Lengths are drawn from distributions like those of web pages, books and conversations; `--lengths` packs a file of them,
say `lengths.npy` of a token shard. "fewest" is the number of rows that no packing can go below.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from luopan.tokens.packing import best_fit_decreasing


def main() -> None:
    options = parse()
    rng = np.random.default_rng(0)
    print(f"{'lengths':<34} {'seconds':>8} {'fill':>9} {'rows':>9} {'fewest':>9}")
    if options.lengths:
        lengths = np.minimum(np.load(options.lengths, allow_pickle=False), options.capacity)
        report(options.lengths.name, lengths, options.capacity)
        return
    for mean, sigma, capacity in ((6.0, 1.0, 2048), (6.5, 1.2, 8192), (7.0, 1.5, 32768)):
        lengths = rng.lognormal(mean, sigma, options.documents).astype(np.int64)
        report(f"log-normal({mean}, {sigma}) to {capacity}", np.clip(lengths, 1, capacity), capacity)
    report("conversations, 20 to 400 in 1024", rng.integers(20, 401, options.documents), 1024)
    report("uniform, 1 to 4096", rng.integers(1, 4097, options.documents), 4096)
    report("uniform, 1 to 131072", rng.integers(1, 131073, options.documents), 131072)


def report(name: str, lengths: np.ndarray, capacity: int) -> None:
    start = time.perf_counter()
    rows = best_fit_decreasing(lengths, capacity)
    seconds = time.perf_counter() - start
    total = int(lengths.sum())
    print(
        f"{name:<34} {seconds:>8.2f} {total / (len(rows) * capacity):>9.3%} {len(rows):>9} {-(-total // capacity):>9}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--capacity", type=int, default=4096)
    return parser.parse_args()


if __name__ == "__main__":
    main()
