"""What a constraint does to a request in the engine, and that it does nothing to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.generate.config import SamplingParams, sampling_params
from luopan.generate.constraint import Constraint
from luopan.generate.engine import Completion, Engine
from luopan.generate.sampling import Knobs, warp
from luopan.model.decoder import Decoder

EOS = 7
PROMPT = [5, 6, 9]


class Only:
    """At place p only the tokens of steps[p] may come; then the text is complete, or stuck."""

    def __init__(self, steps: Sequence[Sequence[int]], *, complete: bool = True, may_end: bool = False) -> None:
        self.steps, self.complete, self.may_end = steps, complete, may_end
        self.said: list[int] = []

    @property
    def accepting(self) -> bool:
        return self.complete if self.done else self.may_end

    @property
    def done(self) -> bool:
        return len(self.said) == len(self.steps)

    def allow(self, row: Tensor) -> None:
        keep = torch.zeros_like(row)
        if not self.done:
            keep[list(self.steps[len(self.said)])] = True
        row &= keep

    def take(self, token: int) -> None:
        assert token in self.steps[len(self.said)]
        self.said.append(token)


def run(
    model: Decoder, constraints: Sequence[Constraint | None], params: SamplingParams | None = None, **settings: int
) -> list[Completion]:
    engine = Engine(model, eos_ids=[EOS], **settings)
    params = params or SamplingParams(max_new_tokens=12)
    return engine.generate([PROMPT] * len(constraints), params, seed=1, constraints=constraints)


def test_only_allowed_tokens_come_and_the_end_comes_by_itself(model: Decoder) -> None:
    steps = [[3], [4, 5, 6], [9, 10], [11]]
    for greedy in (False, True):
        params = SamplingParams(temperature=float(not greedy), max_new_tokens=12)
        (done,) = run(model, [Only(steps)], params)
        assert len(done.tokens) == 4 and all(token in step for token, step in zip(done.tokens, steps))
        assert done.finish_reason == "stop"  # without a stop token: nothing could follow
        assert done.logprobs[0] == done.logprobs[3] == 0.0 and done.logprobs[1] < 0


def test_logprobs_are_those_of_the_masked_distribution(model: Decoder) -> None:
    params = SamplingParams(max_new_tokens=12, temperature=0.7, top_k=2, repetition_penalty=1.3)
    steps = [[30, 31, 40, 41], [5, 6, 50, 51, 52]]
    (done,) = run(model, [Only(steps)], params)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + done.tokens]))[0]
    seen = torch.zeros(1, 384, dtype=torch.bool)
    seen[0, PROMPT] = True
    for place, step in enumerate(steps):
        allowed = torch.zeros(1, 384, dtype=torch.bool)
        allowed[0, step] = True
        at = len(PROMPT) - 1 + place
        kept = warp(logits[at : at + 1].masked_fill(~allowed, -torch.inf), Knobs.of([params], torch.device("cpu")),
                    seen=seen)  # fmt: skip
        assert int(kept.isfinite().sum()) == 2  # top_k counts among the allowed ones
        assert done.logprobs[place] == pytest.approx(float(kept.log_softmax(-1)[0, done.tokens[place]]), abs=1e-5)
        seen[0, done.tokens[place]] = True


def test_an_end_comes_only_where_it_is_accepted(model: Decoder) -> None:
    """Ends are as likely as can be here: without a constraint every request stops at once."""
    params = SamplingParams(max_new_tokens=12, logit_bias=((EOS, 100), (8, 100)), stop_token_ids=(8,))
    free, bound, accepting = run(model, [None, Only([[3, 4]] * 3), Only([[3, 4]] * 3, may_end=True)], params)
    assert len(free.tokens) == 1 and free.tokens[0] in (EOS, 8)
    assert len(bound.tokens) == 3 and set(bound.tokens) <= {3, 4} and bound.finish_reason == "stop"
    assert len(accepting.tokens) == 1 and accepting.tokens[0] in (EOS, 8) and accepting.finish_reason == "stop"


def test_a_text_that_cannot_go_on_is_not_complete(model: Decoder) -> None:
    """finish_reason "stop" would say that it is: at the first token, at a later one, and with nothing left to come."""
    stuck = [Only([[3], [4]], complete=False), Only([[3], []]), Only([[]])]
    for done, constraint in zip(run(model, stuck), stuck):
        assert done.finish_reason == "length" and done.tokens[: len(constraint.said)] == constraint.said
        assert len(done.tokens) <= 2


def test_the_limit_ends_a_text_in_the_middle(model: Decoder) -> None:
    (done,) = run(model, [Only([[3, 4]] * 9)], SamplingParams(max_new_tokens=5))
    assert len(done.tokens) == 5 and done.finish_reason == "length"


def test_what_is_barred_gives_way_where_nothing_else_is_allowed(model: Decoder) -> None:
    params = SamplingParams(
        max_new_tokens=12, bad_words_ids=((3,), (4, 5)), logit_bias=((6, -100),), min_new_tokens=9
    )  # fmt: skip
    barred, other = run(model, [Only([[3], [4], [5]]), Only([[3, 20], [4], [5, 21]])], params)
    assert barred.tokens == [3, 4, 5] and barred.finish_reason == "stop"
    assert other.tokens == [20, 4, 21], "barred tokens stay barred where there is another"


def test_free_requests_do_not_feel_their_neighbours(model: Decoder) -> None:
    """Bound and free ones mixed, coming and going, are each what they are alone."""
    each: list[Callable[[], Constraint | None]] = [
        lambda: None, lambda: Only([[3], [4, 5], [6, 7, 8]]), lambda: None, lambda: Only([range(20, 90)] * 20),
        lambda: Only([[1]], complete=False), lambda: None,
    ]  # fmt: skip
    prompts = [[5 + i, 9, 3 + i] for i in range(len(each))]
    params = [SamplingParams(max_new_tokens=10 + i, top_logprobs=i % 3) for i in range(len(each))]
    for max_batch in (1, 2, 6):
        engine = Engine(model, eos_ids=[EOS], max_batch=max_batch)
        together = engine.generate(prompts, params, seed=4, constraints=[make() for make in each])
        for i, make in enumerate(each):
            (alone,) = engine.generate(prompts[i : i + 1], params[i], seed=4, request_ids=[i], constraints=[make()])
            assert alone.tokens == together[i].tokens and alone.finish_reason == together[i].finish_reason
            assert alone.logprobs == pytest.approx(together[i].logprobs, abs=1e-5)
    assert {len(done.tokens) for done in together} >= {1, 3, 10}


def test_a_stream_gives_what_generate_gives(model: Decoder) -> None:
    steps = [[3], range(10, 99), range(10, 99)]
    (done,) = run(model, [Only(steps)])
    params = SamplingParams(max_new_tokens=12)
    items = list(Engine(model, eos_ids=[EOS]).stream([PROMPT], params, seed=1, constraints=[Only(steps)]))
    assert [item.token for item in items] == done.tokens
    assert [item.finish_reason for item in items] == [None, None, "stop"]


def test_a_cancelled_request_keeps_what_it_said(model: Decoder) -> None:
    session = Engine(model, eos_ids=[EOS]).session()
    number = session.add(PROMPT, SamplingParams(max_new_tokens=30), constraint=Only([[3], [4], [5], [6]]))
    other = session.add(PROMPT, SamplingParams(max_new_tokens=3), constraint=Only([[30], [40], [50], [60]]))
    session.step()
    session.step()
    session.cancel(number)
    while session.unfinished:
        session.step()
    assert session.finished[number].tokens == [3, 4] and session.finished[other].tokens == [30, 40, 50]


def test_the_engine_by_itself_refuses_what_needs_a_tokenizer(model: Decoder) -> None:
    engine = Engine(model, eos_ids=[EOS])
    for values in ({"json_schema": "{}"}, {"regex": "a"}, {"grammar": 'start: "a"'}, {"thinking_budget": 3}):
        with pytest.raises(RecipeError, match="need a tokenizer"):
            engine.generate([PROMPT], sampling_params(**values))
        assert not sampling_params(**values).plain
        engine.session().add(PROMPT, sampling_params(**values), constraint=Only([[1]]))  # somebody has seen to it
    with pytest.raises(RecipeError, match="json_schema and regex each say what the answer must be"):
        sampling_params(json_schema="{}", regex="a")
    assert sampling_params(json_schema={"type": "string"}).json_schema == '{"type": "string"}'
    with pytest.raises(RecipeError, match="top_logprobs"):
        sampling_params(top_logprobs=21)
