"""What a user may say about training: optimizer, schedule, batch, checkpoints, logging. Imports no torch.

Names are those of Hugging Face's `TrainingArguments` where it has them. Stage specs inherit these fields. A key that
would have no effect beside the others is refused, so `None` stands for "not said" and the properties resolve it.

Limits: what depends on the device (8-bit state needs CUDA) is refused by `optimizer.check_device`, not here.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

DEFAULT_DECAY_RATIO = 0.2
DEFAULT_MILESTONES = (0.8, 0.9)  # DeepSeek LLM, arXiv:2401.02954, section 2.3
DEFAULT_LR_GAMMA = math.sqrt(0.1)  # likewise: 31.6% of the peak, then 10%
DEFAULT_MUON_MOMENTUM = 0.95
DEFAULT_MUON_NS_STEPS = 5
DEFAULT_SPIKE_WINDOW = 128
FALLING = ("wsd", "cosine", "linear")  # schedules with a decay at the end, which annealing can repeat

# Keys that belong to some values of another key: (key, the other key, those values).
_BELONGS = (
    ("decay_ratio", "lr_scheduler_type", ("wsd",)),
    ("decay_steps", "lr_scheduler_type", ("wsd",)),
    ("decay_type", "lr_scheduler_type", ("wsd",)),
    ("lr_milestones", "lr_scheduler_type", ("multistep",)),
    ("lr_gamma", "lr_scheduler_type", ("multistep",)),
    ("min_lr_ratio", "lr_scheduler_type", FALLING),
    ("annealing_rounds", "lr_scheduler_type", FALLING),
    ("muon_momentum", "optim", ("muon",)),
    ("muon_ns_steps", "optim", ("muon",)),
    ("adam_learning_rate", "optim", ("muon",)),
)
# Keys that need another key to be given.
_NEEDS = (
    ("annealing_gamma", "annealing_rounds"),
    ("batch_warmup_start", "batch_warmup_steps"),
    ("upload_verify_command", "upload_command"),
)
# Pairs of keys that say the same thing in two ways.
_EXCLUDE = (
    ("warmup_steps", "warmup_ratio"),
    ("decay_steps", "decay_ratio"),
    ("upload_command", "upload_to_hub"),
)


class OptimizerConfig(BaseModel):
    """The optimizer and its learning-rate schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optim: Literal["adamw", "muon", "adamw_8bit"] = Field(
        default="adamw", description="muon: for matrices inside the blocks, AdamW for the rest; adamw_8bit: CUDA only"
    )
    learning_rate: float = Field(gt=0, description="peak learning rate")
    adam_learning_rate: float | None = Field(
        default=None, gt=0, description="muon only: peak for what AdamW trains beside it; default: learning_rate"
    )
    lr_scheduler_type: Literal["wsd", "cosine", "linear", "multistep", "constant"] = Field(
        default="wsd", description="wsd: warm up, stay, decay over the last decay_ratio of the steps"
    )
    warmup_steps: NonNegativeInt | None = Field(default=None, description="steps of linear warm-up; or warmup_ratio")
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1, description="warm-up as a share of max_steps")
    decay_ratio: float | None = Field(default=None, gt=0, le=1, description="wsd only: share of the steps that decay")
    decay_steps: PositiveInt | None = Field(default=None, description="wsd only: the last so many steps decay")
    decay_type: Literal["linear", "1-sqrt", "cosine"] | None = Field(
        default=None, description="wsd only: the shape of the decay; default linear"
    )
    min_lr_ratio: float | None = Field(default=None, ge=0, lt=1, description="the last learning rate over the peak")
    lr_milestones: tuple[float, ...] | None = Field(
        default=None, min_length=1, description="multistep only: shares of max_steps where the rate drops; 0.8, 0.9"
    )
    lr_gamma: float | None = Field(
        default=None, gt=0, lt=1, description="multistep only: what it is multiplied by there; default 0.316"
    )
    annealing_rounds: int | None = Field(
        default=None, ge=2, description="repeat warm-up and decay so many times over max_steps; not with multistep"
    )
    annealing_gamma: float | None = Field(
        default=None, gt=0, le=1, description="the peak of each annealing round over that of the one before; default 1"
    )
    weight_decay: NonNegativeFloat = Field(default=0.1, description="on matrices; never on norms, biases, embeddings")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    muon_momentum: float | None = Field(default=None, ge=0, lt=1, description="muon only; default 0.95")
    muon_ns_steps: int | None = Field(
        default=None, ge=1, lt=100, description="muon only: Newton-Schulz iterations; default 5"
    )
    max_grad_norm: float | None = Field(default=1.0, gt=0, description="clip the gradient's norm to this; null: never")

    @property
    def momentum(self) -> float:
        """Muon's momentum."""
        return DEFAULT_MUON_MOMENTUM if self.muon_momentum is None else self.muon_momentum

    @property
    def ns_steps(self) -> int:
        """Muon's Newton-Schulz iterations."""
        return self.muon_ns_steps or DEFAULT_MUON_NS_STEPS


class TrainConfig(OptimizerConfig):
    """Everything the loop needs beside model, data and loss."""

    # What these say does not change the weights: checkpoints may be resumed under other values. Recompute and
    # sharding change at most the order of sums; `compile` changes the arithmetic itself, so it is not among them.
    INCIDENTAL: ClassVar[tuple[str, ...]] = (
        "save_steps",
        "save_total_limit",
        "keep_every_steps",
        "keep_best",
        "async_save",
        "upload_command",
        "upload_verify_command",
        "upload_to_hub",
        "logging_steps",
        "report_to",
        "check_gradients",
        "critical_batch_probe",
        "max_rewinds",
        "activation_recompute",
        "parallel",
        "prefetch",
        "stuck_after_seconds",
        "stuck_action",
        "health_alarms",
    )

    max_steps: PositiveInt = Field(description="optimizer steps")
    per_device_train_batch_size: PositiveInt = Field(default=16, description="rows per micro-batch")
    gradient_accumulation_steps: PositiveInt = Field(
        default=1, description="micro-batches per optimizer step, over all processes together"
    )
    batch_warmup_steps: PositiveInt | None = Field(
        default=None, description="steps over which the rows of a step grow to their full number"
    )
    batch_warmup_start: PositiveInt | None = Field(
        default=None, description="rows of the first step, in whole micro-batches; default: one micro-batch"
    )
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="keep an exponential moving average of the weights with this decay"
    )
    critical_batch_probe: bool = Field(
        default=False, description="log the gradient noise scale: the batch size above which more rows pay less"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of the computation; auto: bf16 on CUDA, fp32 elsewhere. Weights are always fp32"
    )
    activation_recompute: Literal["none", "selective", "full"] = Field(
        default="none", description="save memory by computing activations again in the backward pass"
    )
    compile: bool = Field(default=False, description="torch.compile each block")
    parallel: Literal["replicas", "full_shard", "hybrid_shard"] = Field(
        default="replicas", description="what several processes hold: the whole model, or a shard of it (FSDP2)"
    )
    prefetch: bool = Field(default=True, description="make the next step's batches in another thread")

    save_steps: PositiveInt = Field(default=200, description="a checkpoint every so many steps, and one at the end")
    save_total_limit: PositiveInt = Field(default=2, description="checkpoints kept; 2 leaves one to fall back on")
    keep_every_steps: PositiveInt | None = Field(
        default=None, description="checkpoints of these steps are never removed: a multiple of save_steps"
    )
    keep_best: str | None = Field(
        default=None, min_length=1, description="a metric whose best checkpoint is kept; lower is better, or NAME:max"
    )
    async_save: bool = Field(default=True, description="write checkpoints in the background")
    upload_command: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="words of a command that copies a checkpoint away: {folder}, {name}"
    )
    upload_verify_command: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="words of a command that ends with 0 if the copy is whole"
    )
    upload_to_hub: str | None = Field(
        default=None, pattern=r"^[\w.-]+/[\w.-]+$", description="OWNER/NAME on the Hugging Face Hub for checkpoints"
    )

    spike_sigma: float | None = Field(
        default=6.0, gt=0, description="skip updates this far above the mean of loss or norm; null: only NaN and Inf"
    )
    spike_window: int = Field(default=DEFAULT_SPIKE_WINDOW, ge=4, description="good steps that the mean is taken over")
    max_skipped_in_a_row: PositiveInt = Field(
        default=5, description="after so many, go back to a checkpoint and leave those batches out"
    )
    max_rewinds: NonNegativeInt = Field(default=2, description="how often to go back before training is given up")
    check_gradients: bool = Field(
        default=True, description="stop if a trainable parameter gets no gradient in the first step"
    )
    health_alarms: bool = Field(default=True, description="warn of falling throughput, slow data, memory, a hot GPU")
    stuck_after_seconds: float | None = Field(
        default=900.0, gt=0, description="a step that takes longer leaves the stacks of all threads; null: never"
    )
    stuck_action: Literal["warn", "abort"] = Field(
        default="warn", description="abort: end the process, so that a supervisor starts it again"
    )
    logging_steps: PositiveInt = Field(default=10, description="a line in metrics.jsonl every so many steps")
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(
        default=(), description="where figures go beside metrics.jsonl"
    )

    @model_validator(mode="after")
    def _keys_have_effect(self) -> Self:
        check_companions(self)
        check_schedule(self)
        check_batch(self)
        check_survival(self)
        return self

    # ---- the schedule, resolved ----

    @property
    def steps_per_round(self) -> int:
        """Steps of the shortest annealing round; `max_steps` where nothing is repeated."""
        return self.max_steps // (self.annealing_rounds or 1)

    @property
    def num_warmup_steps(self) -> int:
        """Steps over which the learning rate climbs to its peak (in each annealing round)."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((self.warmup_ratio or 0.0) * self.steps_per_round)

    @property
    def num_decay_steps(self) -> int:
        """Steps over which it falls: the last ones for wsd, all after the warm-up for cosine and linear."""
        if self.lr_scheduler_type not in FALLING:
            return 0
        rest = max(self.steps_per_round - self.num_warmup_steps, 0)
        if self.lr_scheduler_type != "wsd":
            return rest
        if self.decay_steps is not None:
            return self.decay_steps
        if self.decay_ratio is None:  # a default never makes a warm-up too long
            return min(rest, round(DEFAULT_DECAY_RATIO * self.steps_per_round))
        return round(self.decay_ratio * self.steps_per_round)

    @property
    def milestones(self) -> tuple[int, ...]:
        """multistep: the updates from which the rate is lower."""
        return tuple(round(share * self.max_steps) for share in self.lr_milestones or DEFAULT_MILESTONES)

    @property
    def milestone_factor(self) -> float:
        """multistep: what the rate is multiplied by at each milestone."""
        return DEFAULT_LR_GAMMA if self.lr_gamma is None else self.lr_gamma

    @property
    def final_lr_ratio(self) -> float:
        """The last learning rate over the peak (of its round): 0 unless said, 1 for a constant schedule."""
        if self.lr_scheduler_type == "multistep":
            return float(self.milestone_factor ** len(self.milestones))
        return 1.0 if self.lr_scheduler_type == "constant" else (self.min_lr_ratio or 0.0)

    # ---- the batch ----

    @property
    def rows_per_step(self) -> int:
        """Rows of one (full) optimizer step over all processes together, each of which takes its share."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def first_rows(self) -> int:
        """Rows of the first step."""
        if self.batch_warmup_steps is None:
            return self.rows_per_step
        return self.batch_warmup_start or self.per_device_train_batch_size

    @property
    def best_metric(self) -> tuple[str, bool] | None:
        """`keep_best` taken apart: the metric's name, and whether more is better."""
        if self.keep_best is None:
            return None
        name = self.keep_best.removesuffix(":max")
        return name, name != self.keep_best

    @property
    def interchangeable(self) -> tuple[str, ...]:
        """Keys of which the product alone matters: a stage that ran out of memory goes on with smaller micro-batches.

        A growing batch grows in whole micro-batches, so there both matter.
        """
        if self.batch_warmup_steps is not None:
            return ()
        return ("per_device_train_batch_size", "gradient_accumulation_steps")

    def fingerprint(self) -> dict[str, Any]:
        """What the weights depend on: the training keys less those that only log, save or say how it is computed.

        How the rows of a step are cut into micro-batches changes no loss, so only their number is in it; a growing
        batch grows in whole micro-batches, so there their size is in it too.
        """
        cut = {"per_device_train_batch_size", "gradient_accumulation_steps", "batch_warmup_start"}
        wanted = set(TrainConfig.model_fields) - set(self.INCIDENTAL) - cut
        found = {**self.model_dump(mode="json", include=wanted), "rows_per_step": self.rows_per_step}
        if self.batch_warmup_steps is not None:
            found |= {"batch_warmup_start": self.first_rows, "batch_warmup_by": self.per_device_train_batch_size}
        return found


def check_companions(config: TrainConfig) -> None:
    """ValueError for a key that another key leaves without effect."""
    for one, other in _EXCLUDE:
        if getattr(config, one) is not None and getattr(config, other) is not None:
            raise ValueError(f"give {one} or {other}, not both")
    for key, owner, values in _BELONGS:
        if getattr(config, key) is not None and getattr(config, owner) not in values:
            belongs = " and ".join((", ".join(values[:-1]), values[-1])) if len(values) > 1 else values[0]
            raise ValueError(f"{key} has no effect with {owner} {getattr(config, owner)!r}: it belongs to {belongs}")
    for key, needed in _NEEDS:
        if getattr(config, key) is not None and getattr(config, needed) is None:
            raise ValueError(f"{key} has no effect without {needed}")


def check_schedule(config: TrainConfig) -> None:
    """ValueError where the parts of the schedule do not fit into the steps."""
    warmup, decay, steps = config.num_warmup_steps, config.num_decay_steps, config.steps_per_round
    name = "max_steps" if config.annealing_rounds is None else "an annealing round"
    if warmup + decay > steps:
        raise ValueError(f"warm-up ({warmup} steps) and decay ({decay}) do not fit in {name} ({steps})")
    if config.annealing_rounds is not None and decay == 0:
        raise ValueError(f"annealing_rounds {config.annealing_rounds} leaves no step to decay in a round of {steps}")
    if config.lr_milestones is not None:
        shares = config.lr_milestones
        if list(shares) != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise ValueError(f"lr_milestones must be rising shares of max_steps between 0 and 1, not {list(shares)}")
    if config.lr_scheduler_type == "multistep" and warmup > config.milestones[0]:
        raise ValueError(f"the warm-up ({warmup} steps) ends after the first milestone ({config.milestones[0]})")


def check_batch(config: TrainConfig) -> None:
    """ValueError for a batch that cannot grow, state that cannot shard, and a probe with nothing to compare."""
    if config.batch_warmup_steps is not None:
        start, micro, full = config.first_rows, config.per_device_train_batch_size, config.rows_per_step
        if start % micro:
            raise ValueError(f"batch_warmup_start {start} is not a multiple of per_device_train_batch_size {micro}")
        if start >= full:
            raise ValueError(
                f"the batch cannot grow from {start} rows: a step has {full} (raise gradient_accumulation_steps)"
            )
        if config.batch_warmup_steps >= config.max_steps:
            raise ValueError(
                f"batch_warmup_steps {config.batch_warmup_steps} does not fit in max_steps ({config.max_steps})"
            )
    if config.optim == "adamw_8bit" and config.parallel != "replicas":
        raise ValueError(f"optim adamw_8bit keeps whole state on every process: not with parallel {config.parallel!r}")
    if config.critical_batch_probe and config.gradient_accumulation_steps == 1:
        raise ValueError(
            "critical_batch_probe compares a micro-batch with the whole step: it needs gradient_accumulation_steps "
            "of 2 or more"
        )


def check_survival(config: TrainConfig) -> None:
    """ValueError for keys of checkpoints, uploads and alarms that would do nothing."""
    if len(set(config.report_to)) != len(config.report_to):
        raise ValueError("report_to names a place twice")
    if config.keep_best is not None and config.save_steps % config.logging_steps:
        raise ValueError(
            f"keep_best needs a line of metrics at every save: save_steps {config.save_steps} is not a multiple of "
            f"logging_steps {config.logging_steps}"
        )
    if config.keep_every_steps is not None and config.keep_every_steps % config.save_steps:
        raise ValueError(
            f"keep_every_steps {config.keep_every_steps} is not a multiple of save_steps {config.save_steps}: "
            "most of those steps have no checkpoint"
        )
    if config.best_metric is not None and not config.best_metric[0]:
        raise ValueError("keep_best names no metric")
    for key in ("upload_command", "upload_verify_command"):
        words = getattr(config, key)
        if words is not None and not any("{folder}" in word or "{name}" in word for word in words):
            raise ValueError(f"{key} says nowhere which checkpoint it is about: use {{folder}} or {{name}}")
    # These have values even when nobody said them, so only another value shows that they were meant to do something.
    if config.spike_sigma is None and config.spike_window != DEFAULT_SPIKE_WINDOW:
        raise ValueError("spike_window has no effect without spike_sigma")
    if config.stuck_after_seconds is None and config.stuck_action != "warn":
        raise ValueError("stuck_action has no effect without stuck_after_seconds")
