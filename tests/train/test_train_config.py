"""The recipe's training keys: what has no effect is refused, and none of it needs torch."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from luopan.train.config import TrainConfig


def made(**keys) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 1e-3, "max_steps": 100, **keys})


UPLOAD = ["cp", "-r", "{folder}", "/backup/{name}"]
GROWS = {"gradient_accumulation_steps": 4, "batch_warmup_steps": 10}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"lr_scheduler_type": "cosine", "decay_ratio": 0.1}, "decay_ratio has no effect"),
        ({"lr_scheduler_type": "cosine", "decay_steps": 10}, "decay_steps has no effect"),
        ({"lr_scheduler_type": "linear", "decay_type": "cosine"}, "decay_type has no effect.*belongs to wsd"),
        ({"lr_scheduler_type": "constant", "min_lr_ratio": 0.1}, "min_lr_ratio has no effect"),
        ({"lr_scheduler_type": "multistep", "min_lr_ratio": 0.1}, "belongs to wsd, cosine and linear"),
        ({"lr_milestones": [0.5]}, "lr_milestones has no effect"),
        ({"lr_gamma": 0.5}, "lr_gamma has no effect.*'wsd'.*belongs to multistep"),
        ({"lr_scheduler_type": "multistep", "lr_milestones": [0.9, 0.5]}, "rising shares"),
        ({"lr_scheduler_type": "multistep", "lr_milestones": [0.5, 1.0]}, "rising shares"),
        ({"lr_scheduler_type": "multistep", "lr_milestones": [0.1], "warmup_steps": 11}, "first milestone"),
        ({"lr_scheduler_type": "multistep", "annealing_rounds": 2}, "annealing_rounds has no effect"),
        ({"annealing_rounds": 1}, "greater than or equal to 2"),
        ({"annealing_gamma": 0.5}, "annealing_gamma has no effect without annealing_rounds"),
        ({"annealing_rounds": 4, "warmup_steps": 20, "decay_steps": 6}, r"do not fit in an annealing round \(25\)"),
        ({"annealing_rounds": 2, "warmup_steps": 50}, "no step to decay"),
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, "not both"),
        ({"decay_steps": 5, "decay_ratio": 0.1}, "not both"),
        ({"warmup_steps": 60, "decay_ratio": 0.5}, "do not fit in max_steps"),
        ({"warmup_steps": 60, "decay_steps": 41}, "do not fit in max_steps"),
        ({"lr_scheduler_type": "linear", "warmup_steps": 101}, "do not fit"),
        ({"muon_momentum": 0.9}, "muon_momentum has no effect with optim 'adamw'"),
        ({"muon_ns_steps": 5}, "muon_ns_steps has no effect"),
        ({"adam_learning_rate": 1e-3}, "adam_learning_rate has no effect"),
        ({"optim": "adamw_8bit", "parallel": "full_shard"}, "adamw_8bit.*full_shard"),
        ({"optim": "sgd"}, "optim"),
        ({"batch_warmup_start": 16}, "batch_warmup_start has no effect without batch_warmup_steps"),
        ({"batch_warmup_steps": 10}, "cannot grow from 16 rows"),
        ({**GROWS, "batch_warmup_start": 24}, "not a multiple of per_device_train_batch_size 16"),
        ({**GROWS, "batch_warmup_start": 64}, "cannot grow from 64 rows"),
        ({**GROWS, "batch_warmup_steps": 100}, "does not fit in max_steps"),
        ({"critical_batch_probe": True}, "gradient_accumulation_steps"),
        ({"ema_decay": 1.0}, "less than 1"),
        ({"save_steps": 30, "keep_every_steps": 100}, "not a multiple of save_steps 30"),
        ({"keep_best": ":max"}, "names no metric"),
        ({"upload_command": ["cp", "here", "there"]}, "upload_command says nowhere"),
        ({"upload_command": UPLOAD, "upload_verify_command": ["true"]}, "upload_verify_command says nowhere"),
        ({"upload_verify_command": UPLOAD}, "has no effect without upload_command"),
        ({"upload_command": UPLOAD, "upload_to_hub": "me/run"}, "not both"),
        ({"upload_to_hub": "run"}, "upload_to_hub"),
        ({"spike_sigma": None, "spike_window": 64}, "spike_window has no effect"),
        ({"stuck_after_seconds": None, "stuck_action": "abort"}, "stuck_action has no effect"),
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
        made(**keys)


def test_resolved_counts() -> None:
    default = made()
    assert (default.num_warmup_steps, default.num_decay_steps, default.final_lr_ratio) == (0, 20, 0.0)
    said = made(warmup_ratio=0.05, decay_ratio=0.5, min_lr_ratio=0.1)
    assert (said.num_warmup_steps, said.num_decay_steps, said.final_lr_ratio) == (5, 50, 0.1)
    assert made(decay_steps=7).num_decay_steps == 7
    cosine = made(lr_scheduler_type="cosine", warmup_steps=7)
    assert (cosine.num_warmup_steps, cosine.num_decay_steps) == (7, 93)
    assert made(max_steps=10, warmup_steps=9).num_decay_steps == 1
    constant = made(lr_scheduler_type="constant")
    assert (constant.num_decay_steps, constant.final_lr_ratio) == (0, 1.0)
    steps = made(lr_scheduler_type="multistep")
    assert (steps.milestones, steps.num_decay_steps) == ((80, 90), 0)
    assert (steps.milestone_factor, steps.final_lr_ratio) == (pytest.approx(math.sqrt(0.1)), pytest.approx(0.1))
    rounds = made(annealing_rounds=3, warmup_ratio=0.1, decay_ratio=0.5)
    assert (rounds.steps_per_round, rounds.num_warmup_steps, rounds.num_decay_steps) == (33, 3, 16)
    assert (made(optim="muon").momentum, made(optim="muon").ns_steps) == (0.95, 5)
    assert (made(optim="muon", muon_momentum=0.0).momentum, made(optim="muon", muon_ns_steps=3).ns_steps) == (0.0, 3)


def test_resolved_rows() -> None:
    plain = made(gradient_accumulation_steps=4)
    assert (plain.rows_per_step, plain.first_rows) == (64, 64)
    assert made(**GROWS).first_rows == 16
    assert made(**GROWS, batch_warmup_start=32).first_rows == 32


def test_the_best_metric() -> None:
    assert made().best_metric is None
    assert made(keep_best="eval/loss").best_metric == ("eval/loss", False)
    assert made(keep_best="eval/accuracy:max").best_metric == ("eval/accuracy", True)


EVERY = [
    {"lr_scheduler_type": kind, "warmup_steps": 2} for kind in ("wsd", "cosine", "linear", "multistep", "constant")
] + [
    {"optim": "muon", "muon_momentum": 0.9, "muon_ns_steps": 4, "adam_learning_rate": 1e-4},
    {"lr_scheduler_type": "multistep", "lr_milestones": [0.5], "lr_gamma": 0.5},
    {"decay_steps": 5, "decay_type": "1-sqrt", "annealing_rounds": 2, "annealing_gamma": 0.5},
    {**GROWS, "batch_warmup_start": 32, "critical_batch_probe": True},
    {"upload_command": UPLOAD, "upload_verify_command": UPLOAD, "keep_every_steps": 400, "keep_best": "loss"},
    {"spike_sigma": None, "stuck_after_seconds": None, "ema_decay": 0.99, "upload_to_hub": "me/my-run"},
]


@pytest.mark.parametrize("keys", EVERY)
def test_a_resolved_config_can_be_read_back(keys: dict) -> None:
    config = made(**keys)
    assert TrainConfig(**config.model_dump()) == config
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_fingerprint_is_what_the_weights_depend_on() -> None:
    config = made()
    same = config.model_copy(update={"save_steps": 7, "logging_steps": 3, "report_to": ("wandb",), "prefetch": False})
    assert same.fingerprint() == config.fingerprint()
    assert made(activation_recompute="full", parallel="full_shard").fingerprint() == config.fingerprint()
    for change in ({"learning_rate": 2e-3}, {"max_steps": 101}, {"adam_beta2": 0.9}, {"max_grad_norm": None},
                   {"optim": "muon"}, {"compile": True}, {"spike_sigma": 5.0}, {"ema_decay": 0.9}):  # fmt: skip
        assert config.model_copy(update=change).fingerprint() != config.fingerprint()


def test_every_key_is_incidental_or_in_the_fingerprint() -> None:
    cut = {"per_device_train_batch_size", "gradient_accumulation_steps", "batch_warmup_start"}
    assert set(TrainConfig.INCIDENTAL) < set(TrainConfig.model_fields)
    told = set(made().fingerprint()) - {"rows_per_step"}
    assert told | set(TrainConfig.INCIDENTAL) | cut == set(TrainConfig.model_fields)
    assert not told & (set(TrainConfig.INCIDENTAL) | cut)


def test_how_a_step_is_cut_is_not_in_the_fingerprint() -> None:
    one = made(per_device_train_batch_size=16, gradient_accumulation_steps=4)
    other = made(per_device_train_batch_size=32, gradient_accumulation_steps=2)
    assert one.fingerprint() == other.fingerprint() != made(per_device_train_batch_size=16).fingerprint()


def test_unless_the_batch_grows_in_whole_micro_batches() -> None:
    one = made(**GROWS, per_device_train_batch_size=16)
    assert one.fingerprint() == made(**GROWS, per_device_train_batch_size=16, batch_warmup_start=16).fingerprint()
    other = made(
        per_device_train_batch_size=8, gradient_accumulation_steps=8, batch_warmup_steps=10, batch_warmup_start=16
    )
    assert one.fingerprint() != other.fingerprint()


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, luopan.train.config, luopan.train.schedule, luopan.train.progress\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_best_checkpoint_needs_a_figure_at_every_save() -> None:
    with pytest.raises(ValidationError, match="save_steps 25 is not a multiple of logging_steps 10"):
        TrainConfig(learning_rate=1e-3, max_steps=100, save_steps=25, keep_best="loss")
    assert TrainConfig(learning_rate=1e-3, max_steps=100, save_steps=20, keep_best="loss").best_metric == (
        "loss",
        False,
    )
