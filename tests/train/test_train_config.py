"""The recipe's training keys: what has no effect is refused, and none of it needs torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from luopan.train.config import TrainConfig


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"lr_scheduler_type": "cosine", "decay_ratio": 0.1}, "decay_ratio has no effect"),
        ({"lr_scheduler_type": "constant", "min_lr_ratio": 0.1}, "min_lr_ratio has no effect"),
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, "not both"),
        ({"warmup_steps": 60, "decay_ratio": 0.5}, "do not fit"),
        ({"lr_scheduler_type": "linear", "warmup_steps": 101}, "do not fit"),
        ({"report_to": ["tensorboard", "tensorboard"]}, "twice"),
        ({"report_to": ["mlflow"]}, "report_to"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"max_grad_norm": 0}, "greater than 0"),
        ({"learning_rat": 1}, "Extra inputs"),
        ({"save_total_limit": 0}, "greater than 0"),
    ],
)
def test_refused(keys: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainConfig(**{"learning_rate": 1e-3, "max_steps": 100, **keys})


def test_resolved_counts() -> None:
    default = TrainConfig(learning_rate=1e-3, max_steps=100)
    assert (default.num_warmup_steps, default.num_decay_steps, default.final_lr_ratio) == (0, 20, 0.0)
    said = TrainConfig(learning_rate=1e-3, max_steps=100, warmup_ratio=0.05, decay_ratio=0.5, min_lr_ratio=0.1)
    assert (said.num_warmup_steps, said.num_decay_steps, said.final_lr_ratio) == (5, 50, 0.1)
    cosine = TrainConfig(learning_rate=1e-3, max_steps=100, lr_scheduler_type="cosine", warmup_steps=7)
    assert (cosine.num_warmup_steps, cosine.num_decay_steps) == (7, 93)
    assert TrainConfig(learning_rate=1e-3, max_steps=10, warmup_steps=9).num_decay_steps == 1
    constant = TrainConfig(learning_rate=1e-3, max_steps=100, lr_scheduler_type="constant")
    assert (constant.num_decay_steps, constant.final_lr_ratio) == (0, 1.0)


def test_a_resolved_config_can_be_read_back() -> None:
    for kind in ("wsd", "cosine", "linear", "constant"):
        config = TrainConfig(learning_rate=1e-3, max_steps=100, lr_scheduler_type=kind)
        assert TrainConfig(**config.model_dump()) == config


def test_fingerprint_is_what_the_weights_depend_on() -> None:
    config = TrainConfig(learning_rate=1e-3, max_steps=100)
    same = config.model_copy(update={"save_steps": 7, "logging_steps": 3, "report_to": ("wandb",)})
    assert same.fingerprint() == config.fingerprint()
    for change in ({"learning_rate": 2e-3}, {"max_steps": 101}, {"adam_beta2": 0.9}, {"max_grad_norm": None}):
        assert config.model_copy(update=change).fingerprint() != config.fingerprint()


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, luopan.train.config, luopan.train.progress\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
