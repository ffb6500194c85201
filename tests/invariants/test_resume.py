"""A run that is killed at any moment and started again ends with the same bits as one that was never killed.

`main` is what the test starts: one process that imports torch once and then forks a child per sitting, so that many
kills fit into a few seconds. Each sitting is a fresh `fit` on the folder that the kill left behind.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.batch import Batch, Doc, collate
from luopan.train.checkpoint import steps_saved
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss, policy_loss, preference_loss, sequence_logprobs
from luopan.train.progress import SilentProgress
from luopan.train.tracking import read_metrics

VOCAB, LENGTH, STEPS, SAVE_STEPS = 32, 24, 20, 4
NO_WAIT = os.WEXITED | os.WNOHANG | os.WNOWAIT
KINDS = ("causal_lm", "everything", "preference", "policy")
# Whatever else has a state: experts with a balance of their own, momentum, averages, a growing batch, a noise scale.
EVERYTHING = {
    "optim": "muon",
    "ema_decay": 0.9,
    "batch_warmup_steps": 6,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "critical_batch_probe": True,
    "lr_scheduler_type": "cosine",
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 8,
    "mlp_only_layers": (0,),
    "router_aux_loss_coef": 0.01,
    "router_bias_update_rate": 0.01,
}


def tiny_model(**more: Any) -> Decoder:
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        **more,
    )
    model = Decoder(config)
    model.reset_parameters(3)
    return model


class CausalFeed:
    def micro_batches(self, step: int) -> list[Batch]:
        rng = np.random.default_rng([1, step])
        ids = rng.integers(0, VOCAB, (2, 2, LENGTH))
        return [collate([[Doc(row, row)] for row in micro], LENGTH, 0) for micro in ids]


class PairFeed:
    """Its reference is the model the run starts from, whatever has been trained since."""

    def __init__(self) -> None:
        self.reference = tiny_model()

    def micro_batches(self, step: int) -> list[Batch]:
        rng = np.random.default_rng([2, step])
        rows = []
        for pair in range(3):
            prompt = rng.integers(0, VOCAB, 4).tolist()
            rows.append([self.answer(prompt, rng.integers(0, VOCAB, 6).tolist(), pair, good) for good in (True, False)])
        batch = collate(rows, LENGTH, 0)
        with torch.no_grad():
            logprobs = sequence_logprobs(self.reference, batch)
        docs = [
            Doc(doc.input_ids, doc.labels, fields={**doc.fields, "reference_logprob": float(value)})
            for doc, value in zip((doc for row in rows for doc in row), logprobs, strict=True)
        ]
        return [collate([docs[i : i + 2] for i in range(0, len(docs), 2)], LENGTH, 0)]

    @staticmethod
    def answer(prompt: list[int], answer: list[int], pair: int, good: bool) -> Doc:
        labels = [-100] * len(prompt) + answer
        return Doc(prompt + answer, labels, fields={"pair": pair, "is_chosen": good, "reference_logprob": 0.0})


class SamplingFeed:
    """On policy: what it gives depends on the weights and on the state of torch's random generator."""

    def __init__(self, model: Decoder) -> None:
        self.model = model

    @torch.no_grad()
    def micro_batches(self, step: int) -> list[Batch]:
        self.model.eval()
        tokens = torch.full((8, 1), step % VOCAB)
        logprobs = [torch.zeros(8)]
        for _ in range(4):
            distribution = torch.log_softmax(self.model(tokens)[:, -1], -1)
            drawn = torch.multinomial(distribution.exp(), 1)
            logprobs.append(distribution.gather(1, drawn)[:, 0])
            tokens = torch.cat([tokens, drawn], 1)
        rewards = (tokens[:, 1:] < VOCAB // 2).float().mean(1)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        old = torch.stack(logprobs, 1)
        docs = [
            Doc(
                ids.tolist(),
                [-100, *ids[1:].tolist()],
                per_token={"old_logprobs": one.tolist()},
                fields={"advantage": float(advantage)},
            )
            for ids, one, advantage in zip(tokens, old, advantages, strict=True)
        ]
        return [collate([docs[i : i + 2] for i in range(0, 8, 2)], LENGTH, 0)]


def sitting(kind: str, folder: Path, progress: SilentProgress | None = None) -> Decoder:
    """One `fit` from wherever `folder` stands to the end."""
    torch.set_num_threads(1)
    model = tiny_model(**(EXPERTS if kind == "everything" else {}))
    feeds = {"preference": PairFeed, "policy": lambda: SamplingFeed(model)}
    feed = feeds.get(kind, CausalFeed)()
    loss = {
        "causal_lm": causal_lm_loss,
        "everything": functools.partial(causal_lm_loss, z_loss_coef=1e-3),
        "preference": functools.partial(preference_loss, beta=0.1, nll_coef=0.1),
        "policy": functools.partial(policy_loss, epsilon=0.2, loss_type="dapo"),
    }[kind]
    more: dict[str, Any] = EVERYTHING if kind == "everything" else {}
    config = TrainConfig(
        learning_rate=1e-2, max_steps=STEPS, save_steps=SAVE_STEPS, logging_steps=3, warmup_steps=2, **more
    )
    fit(model, feed, loss, config, folder, device="cpu", seed=11, progress=progress or SilentProgress())
    return model


def weights(model: Decoder) -> bytes:
    return b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())


def forked_sitting(kind: str, folder: Path, linger: float | None) -> bool:
    """A sitting in a child; True if it came to its end. With `linger` it is killed so many seconds after it has saved
    a checkpoint that was not there before: somewhere in a step, or in the middle of saving the next one."""
    known = steps_saved(folder / "checkpoints")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            model = sitting(kind, folder)
            (folder / "final.bin").write_bytes(weights(model))
            status = 0
        finally:
            os._exit(status)
    if linger is not None:
        while steps_saved(folder / "checkpoints") == known and os.waitid(os.P_PID, child, NO_WAIT) is None:
            time.sleep(0.001)
        time.sleep(linger)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the sitting failed"
    return not os.WIFSIGNALED(status)


def main(root: Path, seed: int, kills: int) -> None:
    """For each kind of loss: one run left alone, and others killed again and again until `kills` kills were survived.

    Prints after which steps they went on, run by run.
    """
    import torch.distributed.checkpoint  # noqa: F401 (imported once, before the forks)

    rng = random.Random(seed)
    resumed: dict[str, list[list[int]]] = {}
    for kind in KINDS:
        began = time.perf_counter()
        assert forked_sitting(kind, root / f"{kind}-alone", None)
        between_saves = (time.perf_counter() - began) * SAVE_STEPS / STEPS
        resumed[kind] = []
        while sum(map(len, resumed[kind])) < kills:
            folder = root / f"{kind}-killed-{len(resumed[kind])}"
            went_on: list[int] = []
            linger = 0.0  # the first kill comes at once, so that it surely comes before the end
            while not forked_sitting(kind, folder, linger):
                went_on += steps_saved(folder / "checkpoints")[-1:]
                linger = rng.uniform(0, 1.5 * between_saves)
            resumed[kind].append(went_on)
    print(json.dumps(resumed))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_never_killed(tmp_path: Path, kills: int) -> None:
    seed = random.SystemRandom().randrange(2**31)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path), str(seed), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100 * kills, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    resumed = json.loads(done.stdout)
    for kind in KINDS:
        assert sum(map(len, resumed[kind])) >= kills
        assert any(0 < step < STEPS for run in resumed[kind] for step in run), f"seed {seed}: {resumed}"
        alone = tmp_path / f"{kind}-alone"
        for number in range(len(resumed[kind])):
            killed = tmp_path / f"{kind}-killed-{number}"
            assert (alone / "final.bin").read_bytes() == (killed / "final.bin").read_bytes(), f"{kind}, seed {seed}"
            timeless = [without_times(line) for line in read_metrics(killed)]
            assert timeless == [without_times(line) for line in read_metrics(alone)], f"{kind}, seed {seed}"
            assert [line["step"] for line in timeless] == [3, 6, 9, 12, 15, 18, 20]


def without_times(line: dict) -> dict:
    timed = ("seconds", "feed_seconds", "tokens_per_second", "memory_bytes", "alarms")
    return {k: v for k, v in line.items() if k not in timed}


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it and tidy up."""


def stopped_at(step: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sitting that ends without a word when it asks for the batches of `step`."""
    give = CausalFeed.micro_batches

    def until(self: CausalFeed, asked: int) -> list[Batch]:
        if asked == step:
            raise Killed
        return give(self, asked)

    with monkeypatch.context() as patch:
        patch.setattr(CausalFeed, "micro_batches", until)
        with pytest.raises(Killed):
            sitting("causal_lm", folder)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return weights(sitting("causal_lm", tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in step 14 and has two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(14, folder, patch)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-000008", "step-000012"]
    return folder


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (flip, "__0_0.distcp"),
        (truncate, "__0_0.distcp"),
        (Path.unlink, "__0_0.distcp"),
        (flip, ".metadata"),
        (truncate, "state.json"),
        (Path.unlink, "manifest.json"),
    ],
)
def test_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, alone: bytes, stopped: Path, damage: Callable[[Path], object], name: str
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    damage(folder / "checkpoints" / "step-000012" / name)
    progress = SilentProgress()
    assert weights(sitting("causal_lm", folder, progress)) == alone
    assert any("WARNING" in note and "step-000012" in note for note in progress.notes), progress.notes
    assert any("Going on from step 8 " in note for note in progress.notes), progress.notes
    assert [line["step"] for line in read_metrics(folder)] == [3, 6, 9, 12, 15, 18, 20]


def test_when_every_checkpoint_is_damaged_it_starts_anew_and_says_so(
    tmp_path: Path, alone: bytes, stopped: Path
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    for name in ("step-000008", "step-000012"):
        flip(folder / "checkpoints" / name / "__0_0.distcp")
    progress = SilentProgress()
    assert weights(sitting("causal_lm", folder, progress)) == alone
    assert any("starts from the beginning" in note for note in progress.notes), progress.notes


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
