"""Random generators saved and restored as JSON; devices described; the allocator tuned where there is one."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import torch

from luopan.train.device import describe_device, peak_memory_bytes, pick_device
from luopan.train.randomness import random_state, restore_random_state, seed_everything


def draws() -> tuple:
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


def test_state_survives_json() -> None:
    seed_everything(5)
    draws()  # leaves half a pair of normal numbers in each generator
    state = json.loads(json.dumps(random_state()))
    expected = draws()
    draws()
    restore_random_state(state)
    assert draws() == expected


def test_seeds_and_ranks_differ() -> None:
    seen = set()
    for seed in (0, 1, -1, 2**40):
        for rank in (0, 1):
            seed_everything(seed, rank)
            seen.add(draws()[0])
    assert len(seen) == 8
    seed_everything(0, 1)
    assert draws()[0] in seen


def test_device_words() -> None:
    assert pick_device().type in ("cpu", "cuda")
    assert "CPU" in describe_device(torch.device("cpu"))
    assert peak_memory_bytes(torch.device("cpu")) > 50 * 2**20


def test_tuned_allocator_keeps_freed_memory() -> None:
    """After tuning, a second round of large blocks costs no page faults; without it every page faults anew."""
    code = """
import resource, sys, torch
from luopan.train.device import tune_allocator
torch.set_num_threads(1)
tuned = tune_allocator()
def round_of_blocks():
    return [torch.ones(4 * 2**20) for _ in range(4)] and None
for _ in range(3):
    round_of_blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
round_of_blocks()
print(int(tuned), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tuned, faults = map(int, done.stdout.split())
    if tuned:
        assert faults < 200
