"""Tasks on tiny models: every way of counting against the same sums made by hand, and answers that are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from evals_models import TEXT, tiny_model, tiny_tokenizer, uniform_model

from luopan.errors import DataError, LuopanError
from luopan.evals.bits import bits_per_byte
from luopan.evals.likelihood import Likelihood, likelihoods
from luopan.evals.tasks.config import ChoiceTask, Data, Examples, GenerateTask, LastWordTask, TextTask
from luopan.evals.tasks.scored import Choices, decide, run_choice, run_last_word, run_text
from luopan.evals.tasks.written import Written, extracted, run_written, writer
from luopan.generate.text import TextGenerator

HERE = Data(path="rows.jsonl")


def choice(**told: Any) -> ChoiceTask:
    given = {
        "kind": "choice",
        "name": "c",
        "data": HERE,
        "prompt": "{{ q }}",
        "choices": "{{ c }}",
        "answer": "{{ a }}",
    }
    return ChoiceTask(**{**given, **told})


def found(*each: tuple[float, int]) -> list[Likelihood]:
    return [Likelihood(logprob, tokens, False, False) for logprob, tokens in each]


def test_every_normalisation_by_hand():
    asked = Choices([], ["ab", "abcdefghij", "abcd", "abcdef"], 0)
    given, bare = found((-4, 1), (-9, 3), (-8, 4), (-7, 2)), found((-5, 1), (-9.5, 3), (-12, 4), (-7, 2))
    # Summed: -4. Per character: -2, -0.9, -2, -1.17. Per token: -4, -3, -2, -3.5. Less the bare: 1, 0.5, 4, 0.
    task = choice(unconditional="Answer:")
    assert decide(task, asked, given, bare) == {"acc": 0, "acc_norm": 1, "acc_token": 2, "acc_uncond": 2}
    assert decide(choice(form="letter"), asked, given) == {"acc": 0}


def test_a_choice_task_sums_what_the_model_says():
    model, tokenizer = tiny_model(128), tiny_tokenizer()
    rows = [
        {"q": "The code of", "c": ["the red box", "4"], "a": 0},
        {"q": "nobody saw", "c": ["a", "the stone"], "a": 1},
    ]
    result = run_choice(choice(unconditional="x"), rows, model, tokenizer)
    for row, shown in zip(rows, result.rows):
        for word, logprob in zip(row["c"], shown["logprobs"]):
            start = len(tokenizer(row["q"], add_special_tokens=False).input_ids)
            ids = tokenizer(f"{row['q']} {word}", add_special_tokens=False).input_ids
            with torch.no_grad():
                each = torch.log_softmax(model(torch.tensor([ids]))[0].double(), -1)
            assert logprob == pytest.approx(
                sum(each[at - 1, ids[at]].item() for at in range(start, len(ids))), rel=1e-4
            )
    assert result.figures.keys() == {"acc", "acc_norm", "acc_token", "acc_uncond"} and result.main == "acc_norm"
    assert result.figures["acc"].n == 2 and result.figures["acc"].chance == 0.5
    chosen = [float(shown["chosen"]["acc_uncond"] == shown["right"]) for shown in result.rows]
    assert list(result.figures["acc_uncond"].scores) == chosen


def test_a_model_that_knows_nothing_takes_short_choices_and_the_first_letter():
    rows = [{"q": "Q", "c": ["the red box", "4"], "a": 1}, {"q": "Q", "c": ["a", "the river walks"], "a": 1}]
    result = run_choice(choice(), rows, uniform_model(128), tiny_tokenizer())
    assert result.figures["acc"].scores == (1.0, 0.0)
    letters = run_choice(choice(form="letter", prompt="{{ lettered }}"), rows, uniform_model(128), tiny_tokenizer())
    assert letters.figures.keys() == {"acc"} and letters.figures["acc"].value == 0.0


def test_examples_stand_before_the_question(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(
        '{"q": "One", "c": ["x", "y"], "a": 1}\n{"q": "Two", "c": ["x", "y"], "a": 0}\n'
    )
    model, tokenizer = tiny_model(128), tiny_tokenizer()
    task = choice(examples=Examples(shots=2, data=HERE, separator="; "))
    (shown,) = run_choice(task, [{"q": "The", "c": ["box", "lamp"], "a": 0}], model, tokenizer, tmp_path).rows
    expected = likelihoods(model, tokenizer, [("One y; Two x; The", " box"), ("One y; Two x; The", " lamp")])
    assert shown["logprobs"] == [one.logprob for one in expected]


def test_the_last_word_is_right_where_the_model_would_say_it():
    model, tokenizer = tiny_model(128), tiny_tokenizer()
    prompts = ["The river walks under", "nobody saw the", "In the yard there"]
    rows = [{"p": prompt, "w": word} for prompt in prompts for word in ("the", "a", "light")]
    for prompt in prompts:  # one that is right by construction: what greedy decoding says, a token of text
        said = TextGenerator(model, tokenizer).generate(prompt, max_new_tokens=1, temperature=0)
        rows.append({"p": prompt, "w": said})
    task = LastWordTask(kind="last_word", name="l", data=HERE, prompt="{{ p }}", continuation="{{ w }}", delimiter="")
    result = run_last_word(task, rows, model, tokenizer)
    right = []
    for row in rows:
        ids = tokenizer(row["p"] + row["w"], add_special_tokens=False).input_ids
        start = len(tokenizer(row["p"], add_special_tokens=False).input_ids)
        with torch.no_grad():
            top = model(torch.tensor([ids]))[0].argmax(-1).tolist()
        right.append(float(top[start - 1 : -1] == ids[start:]))
    assert list(result.figures["acc"].scores) == right and 0 < sum(right) < len(right)
    loss = result.figures["loss"].value
    assert loss is not None and result.notes["perplexity"] == pytest.approx(math.exp(loss))


def test_bits_per_byte_of_a_task_are_those_of_the_text():
    model, tokenizer = tiny_model(32), tiny_tokenizer()
    texts = [TEXT, "Naïve café", "x", TEXT[:50]]
    result = run_text(TextTask(kind="text", name="t", data=HERE), [{"text": one} for one in texts], model, tokenizer)
    assert result.figures["bits_per_byte"].value == pytest.approx(bits_per_byte(model, tokenizer, texts).bits_per_byte)
    assert not result.figures["bits_per_byte"].higher_is_better
    with pytest.raises(DataError, match="no text"):
        run_text(TextTask(kind="text", name="t", data=HERE), [{"text": ""}], model, tokenizer)


def written(**told: Any) -> GenerateTask:
    given = {
        "kind": "generate", "name": "g", "data": HERE, "prompt": "{{ q }}",
        "checks": {"right": {"verifier": "exact", "args": {"answer": "{{ a }}"}}},
    }  # fmt: skip
    return GenerateTask(**{**given, **told})


def says(*texts: str | Written) -> Any:
    def write(requests: Sequence[Any], params: Any, thinking: bool) -> list[Written]:
        assert len(requests) == len(texts)
        return [one if isinstance(one, Written) else Written(one, "stop", 2) for one in texts]

    return write


ROWS = [{"q": "1+1", "a": "2"}, {"q": "2+2", "a": "4"}]


def test_samples_are_averaged_and_pass_at_k_is_unbiased():
    task = written(samples=3, temperature=1.0, pass_at=(1, 2))
    result = run_written(task, ROWS, says("2", "3", "2", "5", "4", "6"))
    assert result.figures["right"].scores == pytest.approx((2 / 3, 1 / 3))
    assert result.figures["right/pass@1"].scores == pytest.approx((2 / 3, 1 / 3))
    assert result.figures["right/pass@2"].scores == pytest.approx((1.0, 1 - 1 / 3))
    assert result.main == "right" and result.figures["right"].n == 2


def test_what_does_not_fit_is_wrong_and_what_cannot_be_graded_is_left_out():
    rows = [*ROWS, {"q": "?", "a": "nobody knows a number"}]
    task = written(checks={"maths": {"verifier": "numeric", "args": {"answer": "{{ a }}"}}})
    result = run_written(task, rows, says("2", Written("", "too_long"), "3"))
    assert result.figures["maths"].scores == (1.0, 0.0, None)
    assert result.notes["prompts too long"] == 1 and result.notes["maths not graded"] == 1
    assert result.notes["ends by itself"] == 1.0 and result.notes["tokens"] == 2


def test_a_pattern_picks_what_is_graded():
    task = written(checks={"strict": {"verifier": "exact", "extract": "#### (\\d+)", "args": {"answer": "{{ a }}"}}})
    assert run_written(task, ROWS, says("1+1=2\n#### 2\n#### 3", "so 4")).figures["strict"].scores == (1.0, 0.0)
    last = task.checks["strict"].model_copy(update={"take": "last"})
    assert extracted(last, "#### 2 and #### 3") == "3" and extracted(last, "2") is None


def test_pooled_instructions_weigh_rows_by_how_many_they_have():
    pytest.importorskip("langdetect")
    args = {"instruction_id_list": "{{ ids }}", "kwargs": "{{ kw }}", "level": "instruction"}
    task = written(checks={"inst": {"verifier": "ifeval", "args": args, "pooled": True}})
    three = ["punctuation:no_comma", "change_case:english_lowercase", "detectable_format:title"]
    rows = [{"q": "x", "ids": three, "kw": [{}, {}, {}]}, {"q": "y", "ids": three[:1], "kw": [{}]}]
    figure = run_written(task, rows, says("this is a plain sentence of words", "a, b")).figures["inst"]
    assert figure.scores == (2.0, 0.0) and figure.weights == (3.0, 1.0) and figure.value == 0.5


def test_a_chat_gets_its_examples_as_turns(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"q": "0+0", "a": "0"}\n')
    asked: list[Any] = []

    def write(requests: Sequence[Any], params: Any, thinking: bool) -> list[Written]:
        asked.extend([requests, params, thinking])
        return [Written("2", "stop")] * len(requests)

    examples = Examples(shots=1, data=HERE)
    task = written(chat=True, system="Be brief.", examples=examples, target="{{ a }}", stop=("\n",), thinking=True)
    run_written(task, ROWS[:1], write, tmp_path)
    ((turns,), params, thinking) = asked
    assert [turn["content"] for turn in turns] == ["Be brief.", "0+0", "0", "1+1"] and thinking
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert (params.stop, params.temperature, params.max_new_tokens) == (("\n",), 0.0, 256)


def test_a_model_here_writes_and_a_prompt_too_long_is_not_asked():
    generator = TextGenerator(tiny_model(32), tiny_tokenizer())
    rows = [{"q": "The code of the", "a": ""}, {"q": "nobody saw the stone " * 20, "a": ""}]
    task = written(samples=2, temperature=1.0, max_new_tokens=4)
    result = run_written(task, rows, writer(generator), seed=3)
    again = run_written(task, rows, writer(generator), seed=3)
    texts = [row["text"] for row in result.rows]
    assert [row["text"] for row in again.rows] == texts and texts[0] != texts[1]
    assert [row["finish_reason"] == "too_long" for row in result.rows] == [False, False, True, True]
    with pytest.raises(LuopanError, match="no verifier"):
        run_written(written(checks={"x": {"verifier": "exakt"}}), ROWS, says("", ""))
