"""What each process of test_distributed_ppo.py runs: `python ppo_script.py FOLDER`; the weights are left there."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "rl"))

from ppo_toys import train, weights

from luopan.train.ranks import processes, rank


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with processes():
        torch.save(weights(train(folder, steps=8)), folder / f"rank-{rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
