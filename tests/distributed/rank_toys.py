"""Starts a script of this folder in several processes, and the models and batches that the scripts share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.batch import Batch, Doc, collate
from luopan.train.config import TrainConfig

VOCAB, LENGTH = 32, 16
HERE = Path(__file__).parent


def environment(**more: str) -> dict[str, str]:
    """This process's variables without those of a launcher, one thread each."""
    kept = {name: value for name, value in os.environ.items() if "RANK" not in name and "WORLD_SIZE" not in name}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(arguments: Sequence[str], ranks: int, machines: int = 1) -> list[subprocess.Popen[str]]:
    """`python ARGUMENTS` in `ranks` processes, with the variables that torchrun would set."""
    common = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks // machines), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(**common, RANK=str(rank), LOCAL_RANK=str(rank % (ranks // machines))),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def finish(children: Sequence[subprocess.Popen[str]], seconds: float = 240) -> list[str]:
    """Wait for all; what they said on stderr. AssertionError where one failed."""
    errors = [child.communicate(timeout=seconds)[1] for child in children]
    assert [child.returncode for child in children] == [0] * len(children), "\n\n".join(errors)
    return errors


def in_ranks(arguments: Sequence[str], ranks: int, machines: int = 1) -> None:
    """`python ARGUMENTS` in several processes, to the end."""
    finish(start(arguments, ranks, machines))


def toy_model(seed: int = 0, **changes: Any) -> Decoder:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    model = Decoder(ModelConfig(**{**settings, **changes}))
    model.reset_parameters(seed)
    return model


def settings(**changes: Any) -> TrainConfig:
    plain = {"learning_rate": 1e-2, "max_steps": 6, "logging_steps": 1, "lr_scheduler_type": "constant"}
    return TrainConfig(**{**plain, **changes})


def text_rows(numbers: Sequence[int]) -> Batch:
    """Rows of two documents each, a function of their numbers; every token is trained but the first of a document."""
    ids = [np.random.default_rng(n).integers(0, VOCAB, (2, LENGTH // 2)) for n in numbers]
    return collate([[Doc(doc.tolist(), doc.tolist()) for doc in row] for row in ids], LENGTH, 0)


def pair_rows(numbers: Sequence[int]) -> Batch:
    """A preference pair in each row, with a made-up reference."""
    rows = []
    for place, n in enumerate(numbers):
        draw = np.random.default_rng(n)
        row = []
        for chosen in (True, False):
            ids = draw.integers(0, VOCAB, LENGTH // 2).tolist()
            fields = {"pair": place, "is_chosen": chosen, "reference_logprob": float(draw.normal(-12, 1))}
            row.append(Doc(ids, [-100, -100, *ids[2:]], fields=fields))
        rows.append(row)
    return collate(rows, LENGTH, 0)


def answer_rows(numbers: Sequence[int]) -> Batch:
    """Two sampled answers in each row, with made-up advantages and log-probabilities."""
    rows = []
    for n in numbers:
        draw = np.random.default_rng(n)
        row = []
        for _ in range(2):
            ids = draw.integers(0, VOCAB, LENGTH // 2).tolist()
            old = [0.0, 0.0, *draw.normal(-3.4, 0.3, LENGTH // 2 - 2).tolist()]
            row.append(
                Doc(
                    ids,
                    [-100, -100, *ids[2:]],
                    per_token={"old_logprobs": old},
                    fields={"advantage": float(draw.normal())},
                )
            )
        rows.append(row)
    return collate(rows, LENGTH, 0)
