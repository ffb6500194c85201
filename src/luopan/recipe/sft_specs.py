"""What a recipe says of a model that comes from outside, and of supervised fine-tuning.

No torch is imported here.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.model.adapter_config import AdapterConfig
from luopan.recipe.epochs import MODEL_KINDS, EpochConfig
from luopan.recipe.parts import ChatSource, ChatSuite, Spec, check_weights
from luopan.recipe.replay_specs import ForgettingSpec, ReplaySpec


class ImportSpec(Spec):
    """A model from elsewhere, checked and made a stage: a Hugging Face folder, a hub id, a GGUF file."""

    kind: Literal["import"]
    path: str = Field(
        description="a Hugging Face folder, a hub id, a .gguf file, or package:NAME/FILE for one in a Python package"
    )
    chat_template: str | None = Field(
        default=None, description="a template of luopan's by name, or a .jinja file; default: the model's own"
    )
    add_tokens: tuple[str, ...] = Field(
        default=(), description="new tokens; their embeddings begin as the mean of the pieces they were cut into"
    )
    pad_token: str | None = Field(default=None, description="default: the tokenizer's, or an unused token")
    suite: ChatSuite = ChatSuite()
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {}


class SftSpec(EpochConfig):
    """Supervised fine-tuning on conversations; only what the assistant says is trained."""

    kind: Literal["sft"]
    model: str
    data: tuple[ChatSource, ...] = Field(min_length=1)
    multi_turn: float = Field(default=0.0, ge=0, le=1, description="share of skill cases with earlier turns in front")
    max_length: PositiveInt
    train_on: Literal["assistant", "last_turn", "all"] = Field(
        default="assistant", description="what is trained: all assistant turns, the last one only, every token"
    )
    truncation: Literal["drop", "keep_head", "split_turns", "split_tokens"] = Field(
        default="drop",
        description="conversations longer than max_length: set aside; cut behind the last whole turn that fits; cut at "
        "turns into several; cut anywhere into several",
    )
    packing: bool = Field(default=True, description="several conversations a row, best fit decreasing")
    group_by_length: bool = Field(
        default=False, description="without packing: batches of conversations of about one length"
    )
    adapter: AdapterConfig | None = Field(default=None, description="train a low-rank adapter, not the weights")
    replay: ReplaySpec | None = Field(default=None, description="the model's own earlier answers, against forgetting")
    forgetting: ForgettingSpec | None = Field(default=None, description="what must not change, before and after")
    suite: ChatSuite = ChatSuite()
    test_conversations: int = Field(
        default=0,
        ge=0,
        description="about so many conversations of the user's sources (at most a fifth) are not trained on: the loss "
        "on them before, during and after",
    )
    corpus: str | None = Field(default=None, description="curate stage: measures what fine-tuning forgets")
    eval_bytes: PositiveInt = 60_000
    REFERENCES: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL_KINDS, "corpus": ("curate",)}

    @model_validator(mode="after")
    def _data_fits(self) -> Self:
        check_weights(self.data)
        self.check_adapter(self.adapter)
        if self.train_on == "last_turn" and self.truncation in ("keep_head", "split_turns"):
            raise ValueError(
                f"truncation {self.truncation} leaves another turn the last one, and train_on: last_turn would train "
                "that; use drop or split_tokens"
            )
        if self.replay is not None and any(source.weight is not None for source in self.data):
            raise ValueError("replay comes beside the mixture: its weights would not hold; leave one of them out")
        if self.test_conversations and all(source.skill is not None for source in self.data):
            raise ValueError("test_conversations has no effect on skills: their held-out cases are the suite's tests")
        if self.packing and self.group_by_length:
            raise ValueError("group_by_length has no effect with packing: rows are full")
        return self
