"""What a user may say about training: optimizer, schedule, batch, checkpoints, logging. Imports no torch.

Names are those of Hugging Face's `TrainingArguments` where it has them. Stage specs inherit these fields. A key that
would have no effect beside the others is refused, so `None` stands for "not said" and the properties resolve it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

DEFAULT_DECAY_RATIO = 0.2


class OptimizerConfig(BaseModel):
    """AdamW and its learning-rate schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(gt=0, description="peak learning rate")
    lr_scheduler_type: Literal["wsd", "cosine", "linear", "constant"] = Field(
        default="wsd", description="wsd: warm up, stay, decay linearly over the last decay_ratio of the steps"
    )
    warmup_steps: NonNegativeInt | None = Field(default=None, description="steps of linear warm-up; or warmup_ratio")
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1, description="warm-up as a share of max_steps")
    decay_ratio: float | None = Field(default=None, gt=0, le=1, description="wsd only: share of the steps that decay")
    min_lr_ratio: float | None = Field(default=None, ge=0, lt=1, description="the last learning rate over the peak")
    weight_decay: NonNegativeFloat = Field(default=0.1, description="on matrices; never on norms, biases, embeddings")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0, description="clip the gradient's norm to this; null: never")


class TrainConfig(OptimizerConfig):
    """Everything the loop needs beside model, data and loss."""

    # What these say does not change the weights: checkpoints may be resumed under other values.
    INCIDENTAL: ClassVar[tuple[str, ...]] = (
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "report_to",
        "check_gradients",
    )

    max_steps: PositiveInt = Field(description="optimizer steps")
    per_device_train_batch_size: PositiveInt = Field(default=16, description="rows per micro-batch")
    gradient_accumulation_steps: PositiveInt = Field(default=1, description="micro-batches per optimizer step")
    save_steps: PositiveInt = Field(default=200, description="a checkpoint every so many steps, and one at the end")
    save_total_limit: PositiveInt = Field(default=2, description="checkpoints kept; 2 leaves one to fall back on")
    logging_steps: PositiveInt = Field(default=10, description="a line in metrics.jsonl every so many steps")
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(
        default=(), description="where figures go beside metrics.jsonl"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of the computation; auto: bf16 on CUDA, fp32 elsewhere. Weights are always fp32"
    )
    check_gradients: bool = Field(
        default=True, description="stop if a trainable parameter gets no gradient in the first step"
    )

    @model_validator(mode="after")
    def _keys_have_effect(self) -> Self:
        kind = self.lr_scheduler_type
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("give warmup_steps or warmup_ratio, not both")
        if self.decay_ratio is not None and kind != "wsd":
            raise ValueError(f"decay_ratio has no effect with lr_scheduler_type {kind!r}: it belongs to wsd")
        if self.min_lr_ratio is not None and kind == "constant":
            raise ValueError("min_lr_ratio has no effect with lr_scheduler_type 'constant'")
        if len(set(self.report_to)) != len(self.report_to):
            raise ValueError("report_to names a place twice")
        if self.num_warmup_steps + self.num_decay_steps > self.max_steps:
            raise ValueError(
                f"warm-up ({self.num_warmup_steps} steps) and decay ({self.num_decay_steps}) do not fit in "
                f"max_steps ({self.max_steps})"
            )
        return self

    @property
    def num_warmup_steps(self) -> int:
        """Steps over which the learning rate climbs to its peak."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((self.warmup_ratio or 0.0) * self.max_steps)

    @property
    def num_decay_steps(self) -> int:
        """Steps over which it falls: a share of them for wsd, all after the warm-up for cosine and linear."""
        if self.lr_scheduler_type == "constant":
            return 0
        rest = max(self.max_steps - self.num_warmup_steps, 0)
        if self.lr_scheduler_type == "wsd":
            if self.decay_ratio is None:  # a default never makes a warm-up too long
                return min(rest, round(DEFAULT_DECAY_RATIO * self.max_steps))
            return round(self.decay_ratio * self.max_steps)
        return rest

    @property
    def final_lr_ratio(self) -> float:
        """The last learning rate over the peak: 0 unless said (1 for a constant schedule)."""
        return 1.0 if self.lr_scheduler_type == "constant" else (self.min_lr_ratio or 0.0)

    def fingerprint(self) -> dict[str, Any]:
        """What the weights depend on: the training keys less those that only log or save."""
        wanted = set(TrainConfig.model_fields) - set(self.INCIDENTAL)
        return self.model_dump(mode="json", include=wanted)
