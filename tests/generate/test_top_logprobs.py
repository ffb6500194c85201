"""The likeliest tokens at each place, against the distribution that is computed from the model's logits."""

from __future__ import annotations

import pytest
import torch

from luopan.errors import RecipeError
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.generate.sampling import Knobs, warp
from luopan.generate.text import TextGenerator
from luopan.model.decoder import Decoder

PROMPT = [5, 6, 9]


@pytest.mark.parametrize(
    "values",
    [{}, {"temperature": 0}, {"temperature": 0.7}, {"top_k": 3}, {"temperature": 1.3, "top_p": 0.6}],
    ids=str,
)
def test_they_are_of_the_distribution_that_is_drawn_from(model: Decoder, values: dict) -> None:
    params = SamplingParams(max_new_tokens=15, top_logprobs=5, **values)
    (done,) = Engine(model, eos_ids=[]).generate([PROMPT], params, seed=0)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + done.tokens]))[0, len(PROMPT) - 1 : -1]
    expected = warp(logits, Knobs.of([params], torch.device("cpu"))).log_softmax(-1)
    assert done.top_logprobs is not None and len(done.top_logprobs) == 15
    for row, token, logprob, best in zip(expected, done.tokens, done.logprobs, done.top_logprobs, strict=True):
        top = row.topk(5)
        finite = int(top.values.isfinite().sum())
        assert len(best) == finite  # what cannot come is left out
        assert [i for i, _ in best] == top.indices[:finite].tolist()
        assert [value for _, value in best] == pytest.approx(top.values[:finite].tolist(), abs=1e-4)
        if token in dict(best):
            assert dict(best)[token] == pytest.approx(logprob, abs=1e-5)
    if params.greedy:
        assert [best[0][0] for best in done.top_logprobs] == done.tokens


def test_each_request_gets_as_many_as_it_asked_for(model: Decoder) -> None:
    params = [SamplingParams(max_new_tokens=4 + i, top_logprobs=count) for i, count in enumerate((0, 2, 20, 1, 0))]
    engine = Engine(model, eos_ids=[], max_batch=2)
    done = engine.generate([PROMPT] * 5, params, seed=0)
    for i, (one, completion) in enumerate(zip(params, done)):
        if not one.top_logprobs:
            assert completion.top_logprobs is None
            continue
        assert [len(best) for best in completion.top_logprobs or []] == [one.top_logprobs] * len(completion.tokens)
        (alone,) = engine.generate([PROMPT], one, seed=0, request_ids=[i])
        assert alone.tokens == completion.tokens
        for ours, theirs in zip(alone.top_logprobs or [], completion.top_logprobs or [], strict=True):
            assert dict(ours) == pytest.approx(dict(theirs), abs=1e-5)


def test_a_listener_sees_the_newest_and_a_cancelled_request_keeps_them(model: Decoder) -> None:
    session = Engine(model, eos_ids=[]).session()
    number = session.add(PROMPT, SamplingParams(max_new_tokens=9, temperature=0, top_logprobs=2))
    assert session.top_logprobs(number) == []
    heard = []

    def listen(request: int, token: int, logprob: float) -> None:
        best = session.top_logprobs(request)[-1]
        assert best[0] == (token, pytest.approx(logprob, abs=1e-5))  # greedy: the likeliest is the one that came
        heard.append(best)

    for _ in range(4):
        session.step(listen)
    session.cancel(number)
    assert session.top_logprobs(number) == session.finished[number].top_logprobs == heard and len(heard) == 4
    assert not session.rows.tops, "nothing is kept of requests that are gone"


def test_text_comes_with_them_too(model: Decoder, tokenizer) -> None:  # type: ignore[no-untyped-def]
    speaker = TextGenerator(model, tokenizer)
    (reply,) = speaker.batch(["the cat"], max_new_tokens=6, top_logprobs=3, seed=2)
    assert reply.top_logprobs is not None and len(reply.top_logprobs) == len(reply.tokens)
    stream = speaker.stream("the cat", max_new_tokens=6, top_logprobs=3, seed=2)
    try:
        while True:
            next(stream)
    except StopIteration as end:
        assert end.value.top_logprobs == reply.top_logprobs
    assert speaker.batch(["the cat"], max_new_tokens=2)[0].top_logprobs is None
    with pytest.raises(RecipeError, match="top_logprobs has no effect on a beam search"):
        speaker.beam_search("the cat", max_new_tokens=6, top_logprobs=3)
