"""What a task file may say. One model per kind, so that a key which would have no effect is refused.

Texts are Jinja templates over a row's columns. A text that is one `{{ … }}` and nothing else gives the value itself: a
list stays a list, a number a number.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Frozen):
    """Where rows come from: a file beside the task's (.jsonl .json, also .gz or .zst, .parquet), or a dataset."""

    path: str | None = None
    dataset: str | None = Field(default=None, description="a name on the hub, or a folder")
    config: str | None = None
    split: str = "test"
    revision: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Data:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("data needs either path or dataset")
        if self.path is not None and self.model_fields_set & {"config", "split", "revision"}:
            raise ValueError("config, split and revision belong to a dataset, not to a path")
        return self

    @property
    def origin(self) -> str:
        return self.path or ":".join(filter(None, [self.dataset, self.config, self.split]))


class Examples(Frozen):
    """Solved questions that stand before the one that is asked: the first `shots` rows of `data`, in their order."""

    shots: int = Field(ge=1)
    data: Data
    separator: str = Field(default="\n\n", description="stands after each, where the task is no chat")


class Task(Frozen):
    """What every kind has. `main`: the figure that is shown first."""

    name: str = Field(min_length=1)
    description: str = ""
    source: str = Field(default="", description="where the data comes from, and its licence")
    data: Data
    main: str = ""
    chance: float | None = Field(default=None, description="what guessing scores; choices say it by themselves")


class ChoiceTask(Task):
    """The likeliest of several continuations. `cloze`: the choices' own words; `letter`: A, B, C after all were shown
    (in `prompt` as `lettered`). Where the choices stand in the middle (WinoGrande), `prompts` are what comes before
    the one `continuation`."""

    kind: Literal["choice"]
    form: Literal["cloze", "letter"] = "cloze"
    prompt: str = ""
    choices: str | tuple[str, ...] = ()
    prompts: str | tuple[str, ...] = ()
    continuation: str = ""
    answer: str = Field(description="place of the right choice (from 0), its letter, or its words")
    delimiter: str = Field(default=" ", description="between prompt and choice")
    unconditional: str | None = Field(
        default=None, description="acc_uncond: what a choice's log-probability after this text is taken off"
    )
    examples: Examples | None = None

    @model_validator(mode="after")
    def _one_form(self) -> ChoiceTask:
        if bool(self.choices) == bool(self.prompts):
            raise ValueError("give choices (after one prompt), or prompts (before one continuation)")
        if self.prompts and (self.form == "letter" or self.unconditional is not None or self.examples or self.prompt):
            raise ValueError("prompts go with a continuation only: not with prompt, letters, unconditional or examples")
        if bool(self.prompts) != bool(self.continuation):
            raise ValueError("prompts and continuation go together")
        if self.choices and not self.prompt:
            raise ValueError("prompt is missing")
        return self


class LastWordTask(Task):
    """Is `continuation` what the model itself would say after `prompt` (LAMBADA)?"""

    kind: Literal["last_word"]
    prompt: str
    continuation: str
    delimiter: str = " "


class Check(Frozen):
    """A verifier with its arguments; `extract` is a regular expression whose first group is what it sees."""

    verifier: str
    args: dict[str, Any] = {}
    extract: str | None = None
    take: Literal["first", "last"] = "first"
    pooled: bool = Field(default=False, description="the mean over the parts of all rows, not over rows")


class GenerateTask(Task):
    """What the model writes, graded by verifiers. Figures bear the names of `checks`."""

    kind: Literal["generate"]
    prompt: str
    chat: bool = Field(default=False, description="asked as a chat's user; else the prompt is continued")
    system: str = ""
    thinking: bool = False
    examples: Examples | None = None
    target: str = Field(default="", description="how an example is answered")
    stop: tuple[str, ...] = ()
    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    samples: int = Field(default=1, ge=1, description="answers per row: the score is their mean (avg@k)")
    pass_at: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), description="pass@k, unbiased")
    checks: dict[str, Check] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> GenerateTask:
        if bool(self.examples) != bool(self.target):
            raise ValueError("examples and target go together")
        if (self.system or self.thinking) and not self.chat:
            raise ValueError("system and thinking have no effect without chat")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 all samples are the same: raise it")
        if self.pass_at and max(self.pass_at) > self.samples:
            raise ValueError(f"pass_at {max(self.pass_at)} needs at least so many samples, there are {self.samples}")
        if self.main and self.main.partition("/")[0] not in self.checks:
            raise ValueError(f"main is {self.main!r}, the checks are {', '.join(self.checks)}")
        return self


class TextTask(Task):
    """Bits per byte of each row's `text`, in windows of `window` tokens (the model's context)."""

    kind: Literal["text"]
    text: str = "{{ text }}"
    window: int | None = Field(default=None, ge=2)


AnyTask = Annotated[ChoiceTask | LastWordTask | GenerateTask | TextTask, Field(discriminator="kind")]


class Suite(Frozen):
    """A list of tasks."""

    name: str
    description: str = ""
    tasks: tuple[str, ...] = Field(min_length=1)
