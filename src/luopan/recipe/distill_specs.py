"""What a recipe says of distillation: who teaches, on whose text, and how teacher and student are compared.

No torch is imported here.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.recipe.epochs import MODEL_KINDS
from luopan.recipe.parts import ChatSource, Spec, check_weights
from luopan.recipe.rl_specs import OnPolicySpec

REWARDED = (
    "rewards", "reward_model", "format_reward", "truncation", "truncation_reward", "missing_eos_penalty",
    "soft_overlong",
)  # fmt: skip
ENDPOINT_K = 20  # what vLLM gives unless it is told more


class TeacherEndpoint(Spec):
    """A server with `/v1/completions` that gives `prompt_logprobs`: vLLM, `luopan serve`."""

    base_url: str = Field(description="such as http://127.0.0.1:8000/v1")
    model: str = Field(description="what the server calls the teacher")
    api_key_env: str | None = Field(default=None, description="the environment variable that holds the key")
    timeout: float = Field(default=300.0, gt=0, description="seconds for one answer")
    patience: float = Field(default=600.0, ge=0, description="seconds without any answer; then the run saves and stops")
    concurrency: PositiveInt = Field(default=16, description="requests under way at once")


class DistillSpec(OnPolicySpec):
    """Distillation: the student learns a teacher's next-token distributions, on its own answers (on-policy) or on
    conversations that are given."""

    kind: Literal["distill"]
    teacher: str | None = Field(default=None, description="the stage of the teacher; or teacher_endpoint")
    teacher_endpoint: TeacherEndpoint | None = None
    lmbda: float = Field(
        default=1.0, ge=0, le=1, description="share of a generation that the student answers; the rest is of data"
    )
    data: tuple[ChatSource, ...] = Field(default=(), description="conversations, as in sft, for lmbda below 1")
    loss_type: Literal["jsd", "sampled_reverse_kl"] = Field(
        default="jsd", description="compare distributions, or only what the teacher thinks of the sampled tokens"
    )
    beta: float = Field(default=0.5, ge=0, le=1, description="of the JSD: 0 is forward KL, 1 reverse KL")
    top_k: PositiveInt | None = Field(
        default=None,
        le=1024,
        description="compare the teacher's so many likeliest tokens; default: all of them, 20 at an endpoint",
    )
    rest: Literal["bucket", "renormalise"] = Field(
        default="bucket", description="what stands for the tokens beside them: one event more, or nothing"
    )
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL_KINDS, "teacher": MODEL_KINDS}

    @property
    def k(self) -> int | None:
        """How many of the teacher's tokens are compared; None: all, or only the sampled one."""
        if self.loss_type != "jsd":
            return None
        return self.top_k or (ENDPOINT_K if self.teacher_endpoint is not None else None)

    @property
    def answered(self) -> int:
        """Prompts of a generation that the student answers."""
        return round(self.lmbda * self.prompts_per_step)

    @model_validator(mode="after")
    def _rewards_work(self) -> Self:
        """Nothing is rewarded here: what would say how has no effect."""
        if idle := [key for key in REWARDED if key in self.model_fields_set]:
            raise ValueError(f"{idle[0]} has no effect in a distill stage: it learns from the teacher alone")
        if self.eval_rollouts_steps is not None and not self.test_cases:
            raise ValueError("eval_rollouts_steps has no effect with test_cases 0")
        return self

    @model_validator(mode="after")
    def _teacher_works(self) -> Self:
        if (self.teacher is None) == (self.teacher_endpoint is None):
            raise ValueError("give exactly one of teacher and teacher_endpoint")
        if self.teacher_endpoint is not None and self.temperature != 1.0:
            raise ValueError("a teacher behind an endpoint speaks at temperature 1: so must the student")
        if self.loss_type == "sampled_reverse_kl":
            for key in ("beta", "top_k", "rest"):
                if key in self.model_fields_set:
                    raise ValueError(f"{key} has no effect with loss_type sampled_reverse_kl")
            if self.lmbda < 1:
                raise ValueError("sampled_reverse_kl learns from the student's own samples alone: lmbda must be 1")
        elif "rest" in self.model_fields_set and self.k is None:
            raise ValueError("rest has no effect where the whole vocabulary is compared: set top_k")
        if self.loss_type == "jsd" and self.num_iterations > 1 and self.lmbda == 0:
            raise ValueError("num_iterations has no effect with lmbda 0: set max_steps")
        return self

    @model_validator(mode="after")
    def _data_works(self) -> Self:
        check_weights(self.data)
        if bool(self.data) != (self.answered < self.prompts_per_step):
            raise ValueError(
                "data has no effect with lmbda 1"
                if self.data
                else f"lmbda {self.lmbda:g} of {self.prompts_per_step} prompts_per_step leaves room for rows: give data"
            )
        if 0 < self.lmbda < 1 and self.answered == 0:
            raise ValueError(f"lmbda {self.lmbda:g} of {self.prompts_per_step} prompts_per_step is not one prompt")
        return self
