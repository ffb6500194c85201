"""The engine against transformers, against itself alone, and against the trainer's log-probabilities."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luopan.errors import DataError, ModelError, RecipeError
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.generate.native.runner import NativeRunner
from luopan.generate.runner import TorchRunner
from luopan.generate.sampling import Knobs, warp
from luopan.model.decoder import Decoder
from luopan.objectives.logprobs import token_logprobs

EOS = 7

# Every test of this file, by either way of decoding.
pytestmark = pytest.mark.usefixtures("way")


def ragged_prompts(count: int, longest: int = 40) -> list[list[int]]:
    draw = random.Random(3)
    return [[draw.randrange(384) for _ in range(draw.randint(1, longest))] for _ in range(count)]


def test_greedy_equals_transformers(model: Decoder, tmp_path: Path) -> None:
    """Token for token, stop token included, on the exported weights."""
    transformers = pytest.importorskip("transformers")
    from luopan.model import hf

    hf.save(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    prompts = ragged_prompts(12)
    ours = Engine(model, eos_ids=[EOS], max_batch=5).generate(
        prompts, SamplingParams(temperature=0, max_new_tokens=30, stop_token_ids=(11,))
    )
    for prompt, completion in zip(prompts, ours):
        ids = torch.tensor([prompt])
        expected = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=30,
            eos_token_id=[EOS, 11],
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert completion.tokens == expected
        assert (completion.finish_reason == "stop") == (expected[-1] in (EOS, 11))
    reasons = {completion.finish_reason for completion in ours}
    assert len({tuple(c.tokens) for c in ours}) > 6, "the comparison would show nothing if all answers were the same"
    assert "length" in reasons


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_new_tokens=25),
        SamplingParams(max_new_tokens=25, temperature=0.8, top_k=30, top_p=0.95, min_p=0.01, repetition_penalty=1.2),
    ],
    ids=["plain", "filtered"],
)
def test_a_request_says_the_same_in_any_company(model: Decoder, params: SamplingParams) -> None:
    """Alone, in a small batch with others waiting, in one large batch, and in another order."""
    prompts = ragged_prompts(30)
    prompts += [prompts[4]] * 6  # equal prompts share their reading, not their random numbers
    stops = list(range(0, 384, 24))  # about one token in 24 ends a request, so they end at all times

    def run(order: list[int], **settings: int) -> dict[int, Any]:
        engine = Engine(model, eos_ids=stops, **settings)
        done = engine.generate([prompts[i] for i in order], params, seed=5, request_ids=order)
        return dict(zip(order, done))

    order = list(range(len(prompts)))
    together = run(order, max_batch=64)
    shuffled = random.Random(0).sample(order, len(order))
    for other in (run(shuffled, max_batch=7), run(order, max_batch=16, max_prefill_tokens=1)):
        for i in order:
            assert other[i].tokens == together[i].tokens
            assert other[i].finish_reason == together[i].finish_reason
            assert other[i].logprobs == pytest.approx(together[i].logprobs, abs=1e-4)
    for i in order[::5]:
        assert run([i])[i].tokens == together[i].tokens
    lengths = {len(completion.tokens) for completion in together.values()}
    assert len(lengths) > 5 and {c.finish_reason for c in together.values()} == {"stop", "length"}
    same_prompt = [tuple(together[i].tokens) for i in (4, *order[-6:])]
    assert len(set(same_prompt)) > 4


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_logprobs_are_those_the_trainer_computes(model: Decoder, temperature: float) -> None:
    prompts = ragged_prompts(20)
    params = SamplingParams(max_new_tokens=40, temperature=temperature)
    for prompt, done in zip(prompts, Engine(model, eos_ids=[EOS], max_batch=6).generate(prompts, params, seed=0)):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + done.tokens]))[0, len(prompt) - 1 : -1]
        expected = token_logprobs(logits, torch.tensor(done.tokens), temperature)
        torch.testing.assert_close(torch.tensor(done.logprobs), expected, atol=1e-4, rtol=0)


def test_logprobs_of_filtered_sampling_are_those_of_the_filtered_distribution(model: Decoder) -> None:
    params = SamplingParams(max_new_tokens=20, temperature=0.9, top_k=5, repetition_penalty=1.5)
    prompt = ragged_prompts(1)[0]
    (done,) = Engine(model, eos_ids=[]).generate([prompt], params, seed=0)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + done.tokens]))[0]
    seen = torch.zeros(1, 384, dtype=torch.bool)
    seen[0, prompt] = True
    for place, (token, logprob) in enumerate(zip(done.tokens, done.logprobs), len(prompt) - 1):
        kept = warp(logits[place : place + 1], Knobs.of([params], torch.device("cpu")), seen=seen)
        assert int(kept.isfinite().sum()) == 5
        assert logprob == pytest.approx(kept.log_softmax(-1)[0, token].item(), abs=1e-4)
        seen[0, token] = True


def test_greedy_logprobs_are_the_models_own(model: Decoder) -> None:
    prompt = ragged_prompts(1)[0]
    (done,) = Engine(model, eos_ids=[]).generate([prompt], SamplingParams(temperature=0, max_new_tokens=10))
    with torch.no_grad():
        logits = model(torch.tensor([prompt + done.tokens]))[0, len(prompt) - 1 : -1]
    torch.testing.assert_close(torch.tensor(done.logprobs), logits.log_softmax(-1).amax(-1), atol=1e-5, rtol=0)


def test_the_end_of_the_context_ends_a_request(model: Decoder) -> None:
    prompts = [[1] * 90, [2] * 95, [3] * 10]
    done = Engine(model, eos_ids=[]).generate(prompts, SamplingParams(max_new_tokens=50), seed=0)
    assert [len(completion.tokens) for completion in done] == [6, 1, 50]
    assert {completion.finish_reason for completion in done} == {"length"}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([1] * 96, "96 tokens and the model's context is 96"), ([384], "outside"), ([-1], "outside")],
)
def test_prompts_that_cannot_be_answered_are_refused(model: Decoder, prompt: list[int], message: str) -> None:
    engine = Engine(model, eos_ids=[])
    with pytest.raises(DataError, match=message):
        engine.generate([prompt], SamplingParams())
    with pytest.raises(DataError, match="prompt 2 of 2"):
        engine.generate([[1], prompt], SamplingParams())


def test_seeds(model: Decoder) -> None:
    engine, prompts = Engine(model, eos_ids=[]), ragged_prompts(2)
    bare, seeded = SamplingParams(max_new_tokens=20), SamplingParams(max_new_tokens=20, seed=9)

    def said(params: SamplingParams, seed: int | None = None) -> list[list[int]]:
        return [completion.tokens for completion in engine.generate(prompts, params, seed=seed)]

    assert said(bare, 9) == said(seeded) == said(seeded, 9) != said(bare, 8)
    assert said(bare) != said(bare)
    with pytest.raises(RecipeError, match="two seeds"):
        said(seeded, 8)


def test_a_listener_hears_every_token_and_may_end_a_request(model: Decoder) -> None:
    prompts = ragged_prompts(9)
    engine = Engine(model, eos_ids=[EOS], max_batch=4)
    params = SamplingParams(max_new_tokens=15, seed=1)
    heard: dict[int, list[int]] = {i: [] for i in range(9)}
    free = engine.generate(prompts, params)

    def listen(request: int, token: int, logprob: float) -> bool:
        heard[request].append(token)
        assert logprob <= 0
        return request == 2 and len(heard[2]) == 4

    done = engine.generate(prompts, params, on_token=listen)
    assert [completion.tokens for completion in done] == list(heard.values())
    assert done[2].tokens == free[2].tokens[:4] and done[2].finish_reason == "stop"
    assert [c.tokens for i, c in enumerate(done) if i != 2] == [c.tokens for i, c in enumerate(free) if i != 2]


def test_a_stream_is_the_same_tokens(model: Decoder) -> None:
    prompts = ragged_prompts(6)
    engine = Engine(model, eos_ids=[EOS], max_batch=4)
    params = SamplingParams(max_new_tokens=15, seed=1)
    said: dict[int, list[int]] = {i: [] for i in range(6)}
    reasons = {}
    for item in engine.stream(prompts, params):
        assert not torch.is_inference_mode_enabled(), "the engine's mode must not leak into its consumer"
        assert item.request not in reasons
        said[item.request].append(item.token)
        if item.finish_reason:
            reasons[item.request] = item.finish_reason
    done = engine.generate(prompts, params)
    assert [completion.tokens for completion in done] == list(said.values())
    assert [completion.finish_reason for completion in done] == [reasons[i] for i in range(6)]


def test_equal_prompts_are_read_once_and_finished_rows_leave(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    for kind in (NativeRunner, TorchRunner):

        def counted(runner: Any, tokens: torch.Tensor, decode: Any = kind.decode) -> torch.Tensor:
            fed.append(len(tokens))
            return decode(runner, tokens)

        monkeypatch.setattr(kind, "decode", counted)
    prompts = [[5, 6, 7]] * 8 + [[1, 2]] * 8
    engine = Engine(model, eos_ids=list(range(0, 384, 12)), max_batch=16)
    session = engine.session()
    for key, prompt in enumerate(prompts):
        session.add(prompt, SamplingParams(max_new_tokens=30), seed=0, key=key)
    while session.unfinished:
        session.step()
    assert session.runner.tokens_read == 5
    said = sum(len(completion.tokens) - 1 for completion in session.finished.values())
    assert sum(fed) == said, "a row that has ended was still computed"


def test_running_requests_take_in_waiting_ones(scripted: Callable[..., Any]) -> None:
    engine = Engine(scripted([1, 2, 3, EOS]), eos_ids=[EOS], max_batch=2)
    done = engine.generate([[1]] * 3 + [[1, 2]] * 4, SamplingParams(temperature=0, max_new_tokens=9))
    assert [completion.tokens for completion in done] == [[2, 3, EOS]] * 3 + [[3, EOS]] * 4


def test_weights_may_change_between_calls(model: Decoder) -> None:
    changing = copy.deepcopy(model)
    engine, params = Engine(changing, eos_ids=[]), SamplingParams(temperature=0, max_new_tokens=12)
    before = engine.generate([[1, 2, 3]], params)[0].tokens
    changing.reset_parameters(1)
    assert engine.generate([[1, 2, 3]], params)[0].tokens != before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_model_is_an_error(model: Decoder, temperature: float) -> None:
    broken = copy.deepcopy(model)
    torch.nn.init.constant_(broken.norm.weight, math.nan)
    with pytest.raises(ModelError, match="not a number"):
        Engine(broken, eos_ids=[]).generate([[1, 2]], SamplingParams(temperature=temperature))


def test_memory_left_behind_by_others_is_never_read(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beyond a request's own length must not matter, not even if it was NaN before."""
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda x, *a, **k: x.new_full(*a, fill_value=math.nan, **k))
    prompts = ragged_prompts(8)
    for completion in Engine(model, eos_ids=[]).generate(prompts, SamplingParams(max_new_tokens=70), seed=0):
        assert all(map(math.isfinite, completion.logprobs))


MIXED = [
    SamplingParams(max_new_tokens=25, temperature=0),
    SamplingParams(max_new_tokens=12, temperature=0.8, top_k=30, frequency_penalty=0.5),
    SamplingParams(max_new_tokens=30, top_p=0.9, repetition_penalty=1.3, seed=77),
    SamplingParams(max_new_tokens=20, typical_p=0.9, min_new_tokens=8, logit_bias={5: 3.0}),
    SamplingParams(max_new_tokens=25, bad_words_ids=((5, 6), (9,)), stop_token_ids=(100, 101), presence_penalty=1),
]


def test_requests_with_parameters_of_their_own_say_what_they_say_alone(model: Decoder) -> None:
    prompts, stops = ragged_prompts(30), list(range(0, 384, 24))
    each = [MIXED[i % len(MIXED)] for i in range(30)]
    for size in (64, 7):
        done = Engine(model, eos_ids=stops, max_batch=size).generate(prompts, each)
        again = Engine(model, eos_ids=stops, max_batch=size).generate(prompts, each)
        for i in range(30):
            if each[i].greedy or each[i].seed is not None:
                assert done[i].tokens == again[i].tokens
    seeded = [one if one.seed is not None else one.model_copy(update={"seed": 5}) for one in each]
    together = Engine(model, eos_ids=stops, max_batch=7).generate(prompts, seeded)
    for i, params in enumerate(seeded):
        alone = Engine(model, eos_ids=stops).generate([prompts[i]], params, request_ids=[i])[0]
        assert together[i].tokens == alone.tokens and together[i].finish_reason == alone.finish_reason
        assert together[i].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert params.min_new_tokens <= len(alone.tokens) <= params.max_new_tokens


def test_requests_come_and_go_while_others_run(model: Decoder) -> None:
    """Added in the middle, cancelled while waiting and while running: nobody else says anything else."""
    prompts = ragged_prompts(12)
    engine = Engine(model, eos_ids=[EOS])
    params = SamplingParams(max_new_tokens=20)
    alone = [engine.generate([prompt], params, seed=4, request_ids=[i])[0] for i, prompt in enumerate(prompts)]
    session = engine.session(slots=3)
    numbers = [session.add(prompt, params, seed=4, key=i) for i, prompt in enumerate(prompts[:6])]
    heard: dict[int, list[int]] = {}

    def listen(number: int, token: int, logprob: float) -> None:
        heard.setdefault(number, []).append(token)

    for _ in range(5):
        session.step(listen)
    running = max(heard, key=lambda number: len(heard[number]))
    waiting = next(number for number in numbers if number not in heard)
    session.cancel(running)
    session.cancel(waiting)
    numbers += [session.add(prompt, params, seed=4, key=i) for i, prompt in enumerate(prompts[6:], 6)]
    while session.unfinished:
        session.step(listen)
    session.cancel(running)  # has ended: nothing happens
    for i, number in enumerate(numbers):
        done = session.finished.pop(number)
        if number == running:
            assert done.finish_reason == "cancelled" and done.tokens == alone[i].tokens[: len(done.tokens)]
            assert 0 < len(done.tokens) < 20
        elif number == waiting:
            assert done.finish_reason == "cancelled" and not done.tokens
        else:
            assert done.tokens == alone[i].tokens == heard[number]
    assert not session.finished
    session.step()  # nothing to do
    with pytest.raises(DataError, match="empty"):
        session.add([], params)


def test_who_comes_first_is_served_first(model: Decoder) -> None:
    session = Engine(model, eos_ids=[]).session(slots=1)
    short = session.add([1], SamplingParams(max_new_tokens=2))
    session.step()
    first = session.add([1, 2], SamplingParams(max_new_tokens=2))
    session.step()
    long = session.add([1] * 30, SamplingParams(max_new_tokens=2))
    order: list[int] = []
    while session.unfinished:
        session.step()
        order += [number for number in session.finished if number not in order]
    assert order == [short, first, long]


def test_no_prompts_no_completions(model: Decoder) -> None:
    assert Engine(model, eos_ids=[]).generate([], SamplingParams()) == []


def test_settings_that_cannot_work_are_refused(model: Decoder) -> None:
    with pytest.raises(RecipeError, match="max_batch"):
        Engine(model, eos_ids=[], max_batch=0)
    with pytest.raises(RecipeError, match="max_prefill_tokens is 0"):
        Engine(model, eos_ids=[], max_prefill_tokens=0)
    with pytest.raises(RecipeError, match="tokenizer"):
        Engine(model, eos_ids=[]).generate([[1]], SamplingParams(stop=("x",)))
    with pytest.raises(RecipeError, match="stop token 384"):
        Engine(model, eos_ids=[384]).generate([[1]], SamplingParams())
    with pytest.raises(RecipeError, match="logit_bias of token 400"):
        Engine(model, eos_ids=[]).generate([[1]], SamplingParams(logit_bias={400: 1}))
    with pytest.raises(RecipeError, match="bad words need a tokenizer"):
        Engine(model, eos_ids=[]).generate([[1]], SamplingParams(bad_words=("x",)))


SYSTEM = random.Random(8).choices(range(384), k=40)


def test_a_common_beginning_is_read_once(model: Decoder, way: str) -> None:
    """By those that came together, by one that comes while they run, and (compiled) by one that comes afterwards."""
    engine = Engine(model, eos_ids=[], max_batch=8)
    params = SamplingParams(max_new_tokens=12, temperature=0)
    prompts = [[*SYSTEM, *tail] for tail in ([1, 2, 3], [4, 5], [6], [7, 8, 9, 10])]
    alone = [engine.generate([prompt], params)[0] for prompt in prompts]
    session = engine.session()
    together = [session.add(prompt, params) for prompt in prompts[:3]]
    session.step()
    assert session.runner.tokens_read == len(SYSTEM) + 6
    session.step()
    later = session.add(prompts[3], params)
    while session.unfinished:
        session.step()
    for number, expected in zip([*together, later], alone):
        done = session.finished.pop(number)
        assert done.tokens == expected.tokens
        assert done.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    if way == "compiled":
        assert session.runner.tokens_read == len(SYSTEM) + 6 + 4
        again = session.add([*prompts[0], *alone[0].tokens, 77], params)  # the next turn of a conversation
        session.step()
        assert session.runner.tokens_read == len(SYSTEM) + 6 + 4 + 2  # the answer's last token was never fed
        session.cancel(again)


def test_a_long_prompt_is_read_in_pieces_while_others_go_on(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luopan.generate.session._PIECE", 8)
    engine = Engine(model, eos_ids=[])
    params = SamplingParams(max_new_tokens=20, temperature=0)
    prompts = [ragged_prompts(1)[0], SYSTEM]
    alone = [engine.generate([prompt], params)[0] for prompt in prompts]
    session = engine.session(slots=2)
    heard: list[int] = []

    def listen(number: int, token: int, logprob: float) -> None:
        heard.append(number)

    first = session.add(prompts[0], params)
    session.step(listen)
    second = session.add(prompts[1], params)
    while second not in heard:
        session.step(listen)
    assert heard.count(first) == 1 + 40 // 8  # one for its own prompt, one beside each piece
    while session.unfinished:
        session.step(listen)
    assert [session.finished[number].tokens for number in (first, second)] == [done.tokens for done in alone]
    assert Engine(model, eos_ids=[], max_prefill_tokens=7).generate(prompts, params)[1].tokens == alone[1].tokens


def test_those_that_run_go_on_however_many_come(model: Decoder) -> None:
    session = Engine(model, eos_ids=[]).session(slots=4)
    long = session.add([1, 2, 3], SamplingParams(max_new_tokens=20))
    steps = 0
    while long not in session.finished:
        session.add([5, 6], SamplingParams(max_new_tokens=1))
        session.step()
        steps += 1
    assert steps == 20


def test_equal_prompts_keep_their_slots_while_others_grow(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several samples of one prompt are read as one; the room that a running request needs meanwhile is not theirs."""
    monkeypatch.setattr("luopan.generate.session._PIECE", 4)
    per_token = Engine(model, eos_ids=[]).bytes_per_token
    for positions in range(300, 420, 12):
        session = Engine(model, eos_ids=[], max_batch=8, max_cache_bytes=positions * per_token).session()
        running = session.add(SYSTEM[:30], SamplingParams(max_new_tokens=60, temperature=0))
        for _ in range(30):
            session.step()
        group = [
            session.add([*SYSTEM[::-1], 7], SamplingParams(max_new_tokens=40), seed=1, key=key) for key in range(4)
        ]
        while session.unfinished:
            session.step()
        assert len(session.finished[running].tokens) == 60
        assert all(len(session.finished[number].tokens) == 40 for number in group)


def test_one_may_be_cancelled_while_it_is_read(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luopan.generate.session._PIECE", 8)
    engine = Engine(model, eos_ids=[])
    params = SamplingParams(max_new_tokens=30, temperature=0)
    expected = engine.generate([[1, 2, 3]], params)[0].tokens
    session = engine.session(slots=4)
    heard: list[int] = []

    def listen(number: int, token: int, logprob: float) -> None:
        heard.append(number)

    running = session.add([1, 2, 3], params)
    session.step(listen)
    gone = session.add(SYSTEM, params)
    session.step(listen)
    session.cancel(gone)
    assert session.finished[gone].finish_reason == "cancelled" and not session.finished[gone].tokens
    while session.unfinished:
        session.step(listen)
    assert gone not in heard and session.finished[running].tokens == expected
    session.add([5], params)
    session.step(listen)
    read = session.runner.tokens_read
    again = session.add(SYSTEM[::-1], params.model_copy(update={"top_logprobs": 2}))
    session.step(listen)
    session.cancel(again)
    while session.unfinished:
        session.step(listen)
    assert again not in heard and not session.rows.tops
    assert session.runner.tokens_read < read + len(SYSTEM), "nobody waited for the rest"
    assert session.finished[gone].finish_reason == "cancelled"


def test_memory_is_bounded_and_what_cannot_fit_is_refused(model: Decoder, way: str) -> None:
    prompts = ragged_prompts(20)
    params = SamplingParams(max_new_tokens=15, temperature=0)
    expected = Engine(model, eos_ids=[]).generate(prompts, params)
    per_token = Engine(model, eos_ids=[]).bytes_per_token
    assert per_token == 2 * 2 * 2 * 8 * 4
    engine = Engine(model, eos_ids=[], max_cache_bytes=200 * per_token)
    session = engine.session()
    numbers = [session.add(prompt, params) for prompt in prompts]
    most = 0
    while session.unfinished:
        session.step()
        block = session.runner._block if way == "compiled" else session.runner.cache._block
        most = max(most, block.shape[2] * block.shape[4])
    assert 100 < most <= 200
    for number, done in zip(numbers, expected):
        assert session.finished[number].tokens == done.tokens
    # Room that was only hoped for, for one long answer, is no reason to take more.
    each = [SamplingParams(max_new_tokens=3)] * 19 + [SamplingParams(max_new_tokens=50, temperature=0)]
    session, _ = engine._begin(prompts, each, 0, None, None)
    while session.unfinished:
        session.step()
        block = session.runner._block if way == "compiled" else session.runner.cache._block
        assert block.shape[2] * block.shape[4] <= 200
    with pytest.raises(DataError, match=r"prompt of 40 tokens and an answer of up to 56 need .*bytes.*may be used"):
        Engine(model, eos_ids=[], max_cache_bytes=90 * per_token).generate([SYSTEM], SamplingParams(max_new_tokens=60))
