"""What a recipe says of prompts whose answers can be graded: procedural skills, or rows of the user's.

No torch is imported here.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.recipe.parts import RowSource, Scalar, Spec, refuse_reserved

ROW_KEYS = (
    "path", "config", "split", "revision", "examples", "prompt", "system", "verifier", "args", "after", "reference",
    "test_share", "test_data", "test_split", "name",
)  # fmt: skip


class Task(Spec):
    """Prompts and how their answers are graded. Exactly one of `skill`, `data` and `dataset`.

    A skill has its own verifier. Of rows, `prompt`, `args` and `reference` are written with the names of columns in
    braces.
    """

    skill: str | None = Field(default=None, description="a procedural skill, graded by its own verifier")
    data: str | None = Field(default=None, description=".jsonl[.gz|.zst], .json, .parquet, .csv, or a folder of these")
    dataset: str | None = Field(default=None, description="a Hugging Face dataset: a name on the hub, or a folder")
    weight: float = Field(default=1.0, gt=0, description="share of the prompts")
    thinking: bool = Field(default=True, description="whether the chat template is asked for thinking")
    options: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict, description="options of the skill")
    name: str = Field(default="", description="in logs and report; default: the skill, or the file's name")
    config: str | None = Field(default=None, description="of the dataset, where it has several")
    split: str | None = Field(default=None, description="of the dataset; default: train")
    revision: str | None = Field(default=None, description="of the dataset: commit, tag or branch")
    examples: PositiveInt | None = Field(default=None, description="at most so many rows, the first ones")
    prompt: str | None = Field(
        default=None,
        description="a column with the question or a list of messages, or text with {column}s; default: prompt",
    )
    system: str | None = Field(default=None, description="system prompt put before every question")
    verifier: str | None = Field(default=None, description="name of a verifier; without one, rewards must do without")
    args: dict[str, Any] = Field(default_factory=dict, description="its arguments; {column} stands for a row's value")
    after: dict[str, str] = Field(
        default_factory=dict, description="of a column only what follows its last mark: {answer: '####'}"
    )
    reference: str | None = Field(default=None, description="a right answer, with {column}s; default: args.answer")
    test_share: float | None = Field(default=None, gt=0, le=0.2, description="held-out share of the questions")
    test_data: str | None = Field(default=None, description="a file or folder with the held-out rows")
    test_split: str | None = Field(default=None, description="the split of the dataset with the held-out rows")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = [key for key in ("skill", "data", "dataset") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of skill, data and dataset")
        if self.skill is not None:
            self._check_skill()
        else:
            self._check_rows()
        return self

    def _check_skill(self) -> None:
        idle = [key for key in ROW_KEYS if key != "name" and getattr(self, key, None)]
        if idle:
            raise ValueError(f"{idle[0]} has no effect on a skill: its cases say what they are")
        refuse_reserved(self.options, ("split", "seed", "n", "thinking"))

    def _check_rows(self) -> None:
        if self.options:
            raise ValueError("options has no effect on rows: it belongs to a skill")
        if self.dataset is None:
            idle = [key for key in ("config", "split", "revision", "test_split") if getattr(self, key) is not None]
            if idle:
                raise ValueError(f"{idle[0]} has no effect without dataset")
        if self.verifier is None and self.args:
            raise ValueError("args has no effect without verifier")
        if sum(key is not None for key in (self.test_share, self.test_data, self.test_split)) > 1:
            raise ValueError("give at most one of test_share, test_data and test_split")

    @property
    def label(self) -> str:
        """What logs and report call it."""
        place = self.skill or self.data or self.dataset or ""
        return self.name or (place if self.skill else place.rstrip("/").rsplit("/", 1)[-1].split(".")[0])

    @property
    def graded(self) -> bool:
        """Whether its answers can be graded by rule."""
        return self.skill is not None or self.verifier is not None

    @property
    def source(self) -> RowSource:
        """Where its rows are."""
        return RowSource(
            path=self.data, dataset=self.dataset, config=self.config, split=self.split, revision=self.revision,
            examples=self.examples,
        )  # fmt: skip

    @property
    def test_source(self) -> RowSource | None:
        """Where the held-out rows are, if they have a place of their own."""
        if self.test_data is not None:
            return RowSource(path=self.test_data)
        if self.test_split is not None:
            return RowSource(dataset=self.dataset, config=self.config, split=self.test_split, revision=self.revision)
        return None
