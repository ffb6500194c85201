"""Validation whose cost and whose errors do not grow with what is wrong in a request.

pydantic writes down one error for each bad item, for each branch of a union and for each unknown field: 1.3 million bad
token ids took 20 s and 5.3 GB, in the event loop. Here a list fails at its first bad item, an object at its first
unknown field, and token ids are checked as a whole.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator, model_validator

MAX_TOKEN_ID = 2**31
MAX_PROMPTS = 2048  # texts, or lists of tokens, in one request
TokenId = Annotated[int, Field(ge=0, lt=MAX_TOKEN_ID)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
_Described = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
)


class Bounded(BaseModel):
    """An object of whose unknown fields only the first is looked at."""

    @model_validator(mode="before")
    @classmethod
    def _first_unknown(cls, data: Any) -> Any:
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields):
            return data
        names = set(cls.model_fields) | {field.alias for field in cls.model_fields.values() if field.alias}
        unknown = next((name for name in data if name not in names), None)
        return {name: value for name, value in data.items() if name in names or name == unknown}


def check_token_ids(ids: list[Any], place: str = "") -> None:
    """ValueError for the first item that is no token id. One pass in C for lists that are sound."""
    if not ids:
        raise ValueError(f"{place}an empty list leaves nothing to go on from")
    if set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < MAX_TOKEN_ID:
        return
    at = next(i for i, one in enumerate(ids) if type(one) is not int or not 0 <= one < MAX_TOKEN_ID)
    raise ValueError(f"{place}item {at} is no token id: an integer from 0 to {MAX_TOKEN_ID - 1}")


def _check_prompts(given: Any) -> Any:
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise ValueError("it must be a text, a list of texts, a list of token ids, or a list of such lists")
    kinds = set(map(type, given))
    if kinds <= {str} or kinds <= {list}:  # an empty list as well
        if not given:
            raise ValueError("an empty list leaves nothing to go on from")
        if len(given) > MAX_PROMPTS:
            raise ValueError(f"{len(given)} in one request, {MAX_PROMPTS} are the most")
        for number, ids in enumerate(given):
            if isinstance(ids, list):
                check_token_ids(ids, f"{number}: ")
        return given
    if kinds & {str, list}:
        raise ValueError("texts, token ids and lists of token ids cannot be mixed")
    check_token_ids(given)
    return given


Prompts = Annotated[
    str | list[str] | list[int] | list[list[int]],
    PlainValidator(_check_prompts, json_schema_input_type=_Described),
]


def no_more_than(most: int) -> BeforeValidator:
    """An annotation: a dict or list of more items is refused before any of them is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict | list) and len(value) > most:
            raise ValueError(f"{len(value)} items, {most} are the most")
        return value

    return BeforeValidator(check)
