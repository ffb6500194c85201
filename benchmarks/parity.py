"""How far our preference and policy losses and their gradients are from TRL's on the same log-probabilities, at most.

    python benchmarks/parity.py [--draws 100]

What is compared stands in `tests/objectives/trl_losses.py` and `trl_policy.py`, whose tests hold it below 1e-5.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "objectives"))

import torch
import trl_losses
import trl_policy


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    warnings.filterwarnings("ignore")
    compared: dict[str, Callable[[int], Any]] = {
        f"{name} (label smoothing {smoothing:g})" if smoothing else name: partial(trl_losses.paired, name, smoothing)
        for name, smoothing in trl_losses.PAIRED
    }
    compared |= {"orpo": trl_losses.orpo, "simpo": trl_losses.simpo, "kto": trl_losses.unpaired}
    compared |= {case.name: partial(trl_policy.compared, case) for case in (*trl_policy.CASES, trl_policy.RLOO)}
    print(f"TRL {version('trl')}, torch {version('torch')}, fp32, {draws} draws each\n")
    print("| loss | values apart, at most | gradients apart, at most | largest value |\n|---|---|---|---|")
    for name, compare in compared.items():
        found = [compare(seed) for seed in range(draws)]
        values, gradients = torch.tensor([both.apart for both in found]).amax(0).tolist()  # NaN where there is one
        print(f"| {name} | {values:.1e} | {gradients:.1e} | {max(float(both.theirs.abs()) for both in found):.2f} |")


if __name__ == "__main__":
    main()
