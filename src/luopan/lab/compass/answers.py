"""What the compass asks, and the answers: from flags, from a YAML file, or one by one at the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from luopan.errors import RecipeError
from luopan.lab.planning.quantities import read_count

Reason = Literal["product", "research", "gap", "learning", "compute"]
Tried = Literal["untried", "works", "fails"]
Obstacle = Literal["none", "domain", "language", "size", "licence", "control"]
Place = Literal["phone", "laptop", "gpu-24gb", "gpu-80gb", "server"]


class Answers(BaseModel):
    """Everything has a default but the goal and the reason; `tokens` are those of the text that is at hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    goal: str = Field(min_length=1, description="What should the model do, for whom?")
    reason: Reason = Field(
        description="Why train? product (it must do something), research (a question), gap (nobody has published one), "
        "learning (to understand it), compute (machines are there)"
    )
    prompting: Tried = Field(default="untried", description="Has an existing model with a good prompt been tried?")
    finetuning: Tried = Field(default="untried", description="Has fine-tuning an existing small model been tried?")
    obstacle: Obstacle = Field(
        default="none",
        description="What stands against existing models? none, domain (they do not know the field), language, size "
        "(none fits the device), licence, control (over every byte of the data)",
    )
    serve_on: Place = Field(default="laptop", description="Where will it answer?")
    tokens: PositiveFloat | None = Field(default=None, description="How many tokens of text are at hand (such as 2B)?")
    conversations: bool = Field(default=True, description="Should it hold conversations?")
    context: PositiveInt = Field(default=4096, description="The longest text it must read, in tokens")
    languages: PositiveInt = Field(default=1, description="How many languages?")
    reasoning: bool = Field(default=False, description="Must it reason (mathematics, code)?")
    device: str = Field(default="h100", description="What trains it? (a name of luopan plan, or this)")
    devices: PositiveInt = Field(default=1, description="How many of them?")
    days: PositiveFloat = Field(default=7.0, description="For how many days?")
    text_path: str = Field(default="texts", description="Where the text lies (files or a folder)")
    chat_path: str = Field(default="conversations.jsonl", description="Where the conversations lie (rows of messages)")

    @property
    def seconds(self) -> float:
        return self.days * 86_400


def read_answers(values: Mapping[str, Any]) -> Answers:
    """Answers of flags or of a file. RecipeError names each key that is missing or wrong."""
    given = {key: value for key, value in values.items() if value is not None}
    if isinstance(given.get("tokens"), str):
        given["tokens"] = read_count(given["tokens"], "tokens")
    try:
        return Answers.model_validate(given)
    except ValidationError as error:
        said = []
        for one in error.errors():
            key = str(one["loc"][0])
            wanted = get_args(Answers.model_fields[key].annotation) if key in Answers.model_fields else ()
            choices = [str(choice) for choice in wanted if isinstance(choice, str)]
            what = "is missing" if one["type"] == "missing" else f"is {one['input']!r}: {one['msg']}"
            said.append(f"{key} {what}" + (f" ({', '.join(choices)})" if choices and one["type"] == "missing" else ""))
        raise RecipeError("; ".join(said), hint="luopan compass --help lists the questions.") from None


def interview(known: Mapping[str, Any], ask: Callable[[str, str, str], str], say: Callable[[str], None]) -> Answers:
    """Asks what is not known yet: `ask(key, question, default)` gives the line that was typed ("" for the default).

    A line that cannot be is said to be wrong and asked again. Questions that the answers before make idle are left out.
    """
    given = {key: value for key, value in known.items() if value is not None}
    for key, entry in Answers.model_fields.items():
        if key in given or _idle(key, given):
            continue
        default = "" if entry.is_required() or entry.default is None else _shown(entry.default)
        while True:
            typed = ask(key, entry.description or key, default).strip()
            if not typed and not entry.is_required():
                break
            trial = {"goal": "-", "reason": "product", **given, key: _typed(typed)}
            try:
                read_answers(trial)
            except RecipeError as error:
                say(error.message)
                continue
            given[key] = _typed(typed)
            break
    return read_answers(given)


def _idle(key: str, given: Mapping[str, Any]) -> bool:
    """Whether nothing depends on the answer any more."""
    if given.get("reason") == "compute":
        return True
    if given.get("reason") == "learning":
        return key not in ("goal", "reason", "device", "devices", "days", "text_path")
    if given.get("prompting") == "works":
        return True
    return key == "chat_path" and given.get("conversations") is False


def _typed(text: str) -> Any:
    return {"yes": True, "y": True, "no": False, "n": False}.get(text.lower(), text)


def _shown(value: object) -> str:
    return (
        {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
