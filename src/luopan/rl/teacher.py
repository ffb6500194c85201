"""Teachers for distillation: what they find likely at each trained token of a document.

A teacher speaks of tokens by their numbers, so its numbers must mean what the student's mean: `check_same_tokens` for a
model that is at hand; a teacher behind an endpoint is asked what it calls some of the student's tokens before anything
else (`EndpointTeacher.check`).

`LocalTeacher` and `EndpointTeacher` give documents their columns: `top` the k likeliest tokens of each place,
`sampled` the log-probability of the token itself (`luopan.train.distill_loss` reads both). The endpoint is
`/v1/completions` with `prompt_logprobs`, as vLLM and our own server have it, at temperature 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.model.decoder import Decoder
from luopan.rl.line import Line, Refused
from luopan.tokens.batch import Doc, collate
from luopan.tokens.example import IGNORE
from luopan.tokens.packing import best_fit_decreasing
from luopan.train.device import autocast
from luopan.train.distill_loss import top_columns
from luopan.train.losses import trained_states

Top = tuple[Tensor, Tensor]
"""The likeliest tokens of a document's trained places: ids [N, K] int64, -1 where fewer are known, logprobs [N, K]."""
PROBED = 48  # tokens that an endpoint is asked to name


class Teacher(Protocol):
    """Of each document, in order: `top` its trained places, `sampled` the log-probabilities [N] of its tokens there."""

    def top(self, docs: Sequence[Doc]) -> list[Top]: ...

    def sampled(self, docs: Sequence[Doc]) -> list[Tensor]: ...


def check_same_tokens(student: Any, teacher: Any, names: tuple[str, str]) -> None:
    """RecipeError, naming both sizes and the first token that differs, where two tokenizers are not one."""
    ours, theirs = (sorted(one.get_vocab().items(), key=lambda item: item[1]) for one in (student, teacher))
    if ours == theirs:
        return
    mine, other = ({number: token for token, number in some} for some in (ours, theirs))
    number = next(n for n in sorted({*mine, *other}) if mine.get(n) != other.get(n))
    raise RecipeError(
        f"the teacher {names[1]} has another vocabulary than {names[0]}: {len(theirs):,} tokens and {len(ours):,}; "
        f"the first that differs is token {number}, {other.get(number)!r} there and {mine.get(number)!r} here",
        hint="A teacher must have the student's tokenizer: take one of the same family, or teach by text, with an sft "
        "stage on what the teacher has written.",
    )


@dataclass(frozen=True)
class LocalTeacher:
    """A model in memory; documents are packed as for training. `width`: of the vocabulary that both heads have."""

    model: Decoder
    k: int
    width: int
    temperature: float
    max_length: int
    pad_id: int
    precision: str

    @torch.no_grad()
    def top(self, docs: Sequence[Doc]) -> list[Top]:
        """See `Teacher`; log-probabilities of softmax(logits / temperature)."""

        def likeliest(logprobs: Tensor, targets: Tensor) -> Top:
            values, ids = logprobs.topk(min(self.k, logprobs.shape[-1]))
            return ids, values

        return self._read(docs, likeliest)

    @torch.no_grad()
    def sampled(self, docs: Sequence[Doc]) -> list[Tensor]:
        """See `Teacher`."""

        def chosen(logprobs: Tensor, targets: Tensor) -> Top:
            return targets[:, None], logprobs.gather(1, targets[:, None])

        return [values[:, 0] for _, values in self._read(docs, chosen)]

    def _read(self, docs: Sequence[Doc], look: Callable[[Tensor, Tensor], Top]) -> list[Top]:
        found: list[Top | None] = [None] * len(docs)
        device = next(self.model.parameters()).device
        bare = [replace(doc, per_token={}, fields={}) for doc in docs]
        for numbers in best_fit_decreasing([len(doc) for doc in docs], self.max_length):
            batch = collate([[bare[number] for number in numbers]], self.max_length, self.pad_id).to(device)
            with autocast(device, self.precision):
                states = trained_states(self.model, batch)
                pieces = []
                for hidden, targets in zip(states.hidden.split(256), states.targets.split(256), strict=True):
                    logits = self.model.logits(hidden)[:, : self.width].float() / self.temperature
                    pieces.append(look(logits.log_softmax(-1), targets))
            ids, values = (torch.cat([piece[side] for piece in pieces]).cpu() for side in (0, 1))
            start = 0
            for number in numbers:
                size = docs[number].num_trained
                found[number] = (ids[start : start + size], values[start : start + size].float())
                start += size
        return [one for one in found if one is not None]


@dataclass(frozen=True)
class EndpointTeacher:
    """A model behind `/v1/completions`; one request per document, side by side. `width`: of the student's head; what
    the teacher's has beyond it is left out."""

    line: Line
    model: str
    k: int
    width: int

    def top(self, docs: Sequence[Doc]) -> list[Top]:
        """See `Teacher`. RecipeError for an answer that does not say what was asked."""
        return [self._likeliest(doc, told) for doc, told in zip(docs, self._ask(docs, self.k), strict=True)]

    def sampled(self, docs: Sequence[Doc]) -> list[Tensor]:
        """See `Teacher`."""
        found = []
        for doc, told in zip(docs, self._ask(docs, 0), strict=True):
            found.append(
                torch.tensor([self._entry(told, doc, place)[int(doc.input_ids[place])] for place in _places(doc)])
            )
        return found

    def check(self, tokenizer: Any) -> None:
        """Ask what the endpoint calls some of the student's tokens. RecipeError where it is something else."""
        size = len(tokenizer)
        spread = sorted({1 + place * (size - 2) // PROBED for place in range(PROBED)} | {size - 1})
        probe = Doc(spread, spread)
        try:
            (told,) = self._ask([probe], 0)
        except Refused as refusal:
            raise RecipeError(
                f"the teacher at {self.line.base_url} does not take the student's tokens, of which there are {size:,}: "
                f"{refusal.message}",
                hint="It must be a model with the student's tokenizer, and give prompt_logprobs (vLLM, or our server).",
            ) from None
        for place in range(1, len(spread)):
            ours = str(tokenizer.decode([spread[place]]))
            entry = told[place] or {}
            theirs = dict(entry.get(str(spread[place])) or {}).get("decoded_token")
            # Pieces of characters, spaces and control tokens are told in different ways by different servers.
            plain = ours.strip().isascii() and ours.strip().isalnum()
            if plain and theirs and theirs.strip().lstrip("▁Ġ") != ours.strip():
                raise RecipeError(
                    f"the teacher {self.model} at {self.line.base_url} has another vocabulary than the student, which "
                    f"has {size:,} tokens: token {spread[place]} is {theirs!r} there and {ours!r} here",
                    hint="A teacher must have the student's tokenizer: its likeliest tokens are told by number.",
                )

    def _ask(self, docs: Sequence[Doc], k: int) -> list[list[Mapping[str, Any] | None]]:
        """`prompt_logprobs` of each document."""
        bodies = [
            {
                "model": self.model,
                "prompt": [int(token) for token in doc.input_ids],
                "max_tokens": 1,
                "temperature": 1.0,
                "prompt_logprobs": k,
            }
            for doc in docs
        ]
        found = []
        for doc, answer in zip(docs, self.line.ask_all("completions", bodies), strict=True):
            choices = answer.get("choices")
            told = choices[0].get("prompt_logprobs") if isinstance(choices, list) and choices else None
            if not isinstance(told, list) or len(told) != len(doc):
                raise self._silent("no prompt_logprobs" if told is None else "prompt_logprobs of another length")
            found.append(told)
        return found

    def _likeliest(self, doc: Doc, told: Sequence[Mapping[str, Any] | None]) -> Top:
        places = _places(doc)
        ids, values = torch.full((len(places), self.k), -1), torch.zeros(len(places), self.k)
        for row, place in enumerate(places):
            entry = self._entry(told, doc, place)
            known = [item for item in entry.items() if item[0] < self.width]
            best = sorted(known, key=lambda item: (-item[1], item[0]))[: self.k]
            ids[row, : len(best)] = torch.tensor([token for token, _ in best])
            values[row, : len(best)] = torch.tensor([value for _, value in best])
        return ids, values

    def _entry(self, told: Sequence[Mapping[str, Any] | None], doc: Doc, place: int) -> dict[int, float]:
        entry = told[place]
        try:
            found = {int(token): float(dict(one)["logprob"]) for token, one in (entry or {}).items()}
        except (ValueError, TypeError, KeyError):
            raise self._silent("prompt_logprobs that are no log-probabilities by token number") from None
        if int(doc.input_ids[place]) not in found:
            raise self._silent(f"nothing about token {int(doc.input_ids[place])} of the prompt")
        return found

    def _silent(self, what: str) -> RecipeError:
        return RecipeError(
            f"the teacher {self.model} at {self.line.base_url} answers with {what}",
            hint="It must give prompt_logprobs on /v1/completions, as vLLM and `luopan serve` do.",
        )


def with_top(docs: Sequence[Doc], found: Sequence[Top]) -> list[Doc]:
    """The documents with the teacher's likeliest tokens, each at the place of the token that it is about."""
    told = []
    for doc, (ids, values) in zip(docs, found, strict=True):
        places = _places(doc)
        whole = torch.zeros(len(doc), ids.shape[1], dtype=torch.int64), torch.zeros(len(doc), ids.shape[1])
        whole[0][places], whole[1][places] = ids, values
        told.append(replace(doc, per_token={**doc.per_token, **top_columns(*whole)}))
    return told


def with_sampled(docs: Sequence[Doc], found: Sequence[Tensor]) -> list[Doc]:
    """The documents with the teacher's log-probability of each trained token."""
    told = []
    for doc, values in zip(docs, found, strict=True):
        column = torch.zeros(len(doc))
        column[_places(doc)] = values
        told.append(replace(doc, per_token={**doc.per_token, "teacher_logprobs": column.tolist()}))
    return told


def _places(doc: Doc) -> list[int]:
    """Of the trained tokens; the first token of a document is predicted from nothing."""
    return [place for place in range(1, len(doc)) if int(doc.labels[place]) != IGNORE]
