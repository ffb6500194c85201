"""What may come next, token by token: the interface, and an answer's constraint put together from its parts.

A request may carry a `Constraint`. Before each of its tokens the engine asks which tokens are allowed, masks the others
(before temperature and filters, so that log-probabilities are those of what is drawn from: 0 for a token without an
alternative), and tells it the token that came. Ends of the text are the engine's business: it allows them where the
constraint accepts an end, and ends a request by itself where nothing could follow.

`constraints_for` makes one from sampling parameters: a budget for thinking, and a grammar that binds the answer behind
it. With a grammar nothing is left to chance about where the answer begins: thinking that was asked for is opened, and
what the template writes between thinking and answer is put there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Literal, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from luopan.errors import RecipeError
from luopan.generate.budget import ThinkingFormat, thinking_format
from luopan.generate.config import SamplingParams
from luopan.generate.grammar import Form, GrammarConstraint, grammars_of


class Constraint(Protocol):
    """Of one request; used up by it."""

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""

    @property
    def done(self) -> bool:
        """Whether nothing may follow but an end; where it does not accept one either, it is stuck."""

    def allow(self, row: Tensor) -> None:
        """Set to False in `row` (bool [V], on the CPU, all True) what may not come next, ends left aside."""

    def take(self, token: int) -> None:
        """The token that came; never one that ends the text."""


class ReplyConstraint:
    """Thinking up to a budget, its closing, and an answer that may be bound by a grammar.

    opened: the prompt has begun the thinking. think: it was asked for, so that with a grammar it is opened here.
    """

    def __init__(
        self,
        form: ThinkingFormat,
        *,
        budget: int | None,
        answer: GrammarConstraint | None,
        opened: bool = False,
        think: bool = False,
    ) -> None:
        self._form, self._budget, self._answer = form, budget, answer
        self._phase: Literal["start", "thinking", "answer"] = "start"
        self._forced: deque[int] = deque()
        self._text = ""  # what decides on the next phase: the beginning, then the thinking's end
        self.thinking_tokens = 0
        if opened:
            self._think_on("")
        elif answer is not None and think and form.opening:  # "": only the prompt opens thinking, and it has not
            self._forced.extend(form.tokens.encode(form.opening))
        elif answer is not None:
            self._phase = "answer"
            self._forced.extend(form.tokens.encode(form.answer_opening))

    @property
    def accepting(self) -> bool:
        """Whether the text may end here: not while something is being put in, nor, with a grammar, while it thinks."""
        if self._forced:
            return False
        return self._answer is None or (self._phase == "answer" and self._answer.accepting)

    @property
    def done(self) -> bool:
        """Whether the grammar is at its end."""
        return self._phase == "answer" and not self._forced and self._answer is not None and self._answer.done

    def allow(self, row: Tensor) -> None:
        """Leave in `row` what may come."""
        if self._forced:
            row.fill_(False)
            row[self._forced[0]] = True
        elif self._answer is None:
            return
        elif self._phase == "answer":
            self._answer.allow(row)
        elif spilling := self._form.spilling(self._text):
            row[spilling] = False

    def take(self, token: int) -> None:
        """Go on by a token."""
        if self._forced:
            self._forced.popleft()
            if self._phase == "start" and not self._forced:
                self._think_on("")
        elif self._phase == "thinking":
            self.thinking_tokens += 1
            self._think_on(self._text + self._form.tokens.text(token))
        elif self._phase == "start":
            self._text += self._form.tokens.text(token)
            begun = self._text.lstrip()
            if begun.startswith(self._form.start):
                self._think_on(begun[len(self._form.start) :])
            elif not self._form.start.startswith(begun):
                self._phase = "answer"
        elif self._answer is not None:
            self._answer.take(token)

    def _think_on(self, text: str) -> None:
        """The thinking ends with `text`: close it, or see that it has been closed."""
        form = self._form
        self._phase = "thinking"
        _, closed, rest = text.partition(form.end)
        if closed:
            self._phase = "answer"
            if self._answer is not None:
                self._forced.extend(form.tokens.encode(form.margin[len(rest) :]))
        elif self._budget is not None and self.thinking_tokens >= self._budget:
            self._phase = "answer"
            self._forced.extend(form.closing_after(text))
        else:
            self._text = text[-max(len(form.end), len(form.before)) :]


def constraints_for(
    tokenizer: PreTrainedTokenizerFast,
    params: SamplingParams,
    *,
    opened: bool,
    think: bool = False,
    chat: bool = True,
) -> Constraint | None:
    """A new constraint for one request with these parameters; None where they ask for none.

    opened: the prompt ends inside thinking that it has begun (`budget.thinking_format(tokenizer).begun_by(prompt)`).
    think: thinking was asked for. chat: the request is an answer in a conversation, so that a template's own opening of
    answers is put in front of one that is bound by a grammar (the final channel of gpt-oss). RecipeError for a grammar
    that is wrong, or a budget where the template knows no thinking; ModelError without llguidance.
    """
    if not params.constrained:
        return None
    forms: tuple[Form, ...] = ("json_schema", "regex", "grammar")
    given = [(form, text) for form in forms if (text := getattr(params, form)) is not None]  # one at most
    answer = grammars_of(tokenizer).constraint(*given[0]) if given else None
    form = thinking_format(tokenizer)
    if params.thinking_budget is not None and not (form.thinks or opened):
        raise RecipeError(
            "thinking_budget has no effect: this model's chat template knows no thinking",
            hint="leave it out, or use a model whose template does (luopan template list)",
        )
    form = form if chat else replace(form, answer_opening="")
    return ReplyConstraint(form, budget=params.thinking_budget, answer=answer, opened=opened, think=think)
