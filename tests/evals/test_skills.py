"""Running cases: figures worked by hand on fake completions, and one pass through the real engine and template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import pytest

from luopan.corpus.skills import Case, generate_cases
from luopan.errors import LuopanError
from luopan.evals.skills import run_cases, standard_error


@dataclass(frozen=True)
class Said:
    tokens: list[int]
    finish_reason: str = "stop"


class Letters:
    """A tokenizer of one token per character; token 0 is special and ends a turn."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return "".join(chr(token) for token in token_ids if token or not skip_special_tokens)


def prompts(cases: Sequence[Case]) -> list[list[int]]:
    return [Letters().encode(case.question) for case in cases]


def saying(*texts: str, finish: str = "stop"):
    return lambda given: [Said([*Letters().encode(text), 0], finish) for text, _ in zip(texts, given, strict=True)]


def sums(n: int, thinking: float = 0.0) -> list[Case]:
    return generate_cases("addition", n, 0, thinking=thinking, digits=(1,))


def spoken(case: Case) -> str:
    thought = case.reference.get("reasoning_content")
    return f"<think>\n{thought}\n</think>\n{case.answer}" if thought else case.answer


def test_figures_by_hand() -> None:
    cases = sums(4)
    report = run_cases(saying(cases[0].answer, cases[1].answer, cases[2].answer, "x"), Letters(), cases, encode=prompts)
    score = report.skills["addition"]
    assert (score.n, score.scored, score.unscored) == (4, 4, 0)
    assert score.accuracy == pytest.approx(0.75)
    assert score.stderr == pytest.approx(sqrt(0.75 * 0.25 / 3))
    assert score.stop_rate == 1.0 and score.think_off == 1.0 and score.think_on is None
    lengths = [len(case.answer) + 1 for case in cases[:3]] + [2]
    assert score.mean_tokens == pytest.approx(sum(lengths) / 4)
    assert report.total == score
    assert len(report.good) == 3 and len(report.bad) == 1
    assert report.bad[0].answer == "x" and report.bad[0].expected == cases[3].answer


def test_standard_error_by_hand() -> None:
    assert standard_error([1.0, 0.0, 1.0, 0.0]) == pytest.approx(sqrt(0.25 / 3))
    assert standard_error([1.0, 1.0]) == 0.0
    assert standard_error([1.0]) is None


def test_thinking_rates_are_kept_per_mode() -> None:
    thinking, direct = sums(2, thinking=1.0), sums(4)
    silent = [case.answer for case in direct[:3]]
    texts = [spoken(thinking[0]), thinking[1].answer, *silent, spoken(thinking[0])]
    report = run_cases(saying(*texts), Letters(), [*thinking, *direct], encode=prompts)
    score = report.skills["addition"]
    assert score.think_on == 0.5 and score.think_off == 0.75
    assert set(report.details) == {"addition/1 digit/think", "addition/1 digit/direct"}
    assert report.details["addition/1 digit/think"].n == 2


def test_answers_that_ran_out_of_room_are_counted() -> None:
    cases = sums(3)
    report = run_cases(saying("1", "2", "3", finish="length"), Letters(), cases, encode=prompts)
    assert report.total.stop_rate == 0.0
    assert {transcript.finish_reason for transcript in (*report.good, *report.bad)} == {"length"}


def test_rows_that_cannot_be_scored_are_left_out_and_counted() -> None:
    cases = sums(2)
    broken = Case("addition", cases[0].messages, cases[0].reference, "number", {"answer": "many"})
    report = run_cases(saying(cases[0].answer, "5"), Letters(), [cases[0], broken], encode=prompts)
    assert report.total.unscored == 1 and report.total.accuracy == 1.0
    assert "1 not scored" in report.to_markdown()
    lost = run_cases(saying("5"), Letters(), [broken], encode=prompts)
    assert lost.total.accuracy is None and "addition" not in lost.metrics()


def test_parts_are_averaged() -> None:
    cases = [case for case in generate_cases("persona", 200, 0, negative=0, named=0) if case.variant == "robot"][:2]
    texts = [cases[0].answer, "Beep boop. Bananas."]
    report = run_cases(saying(*texts), Letters(), cases, encode=prompts)
    assert report.skills["persona"].parts == {"style": 1.0, "content": 0.5}
    assert report.metrics()["persona/style"] == 1.0 and report.metrics()["persona"] == 0.5


def test_transcripts_are_few_and_of_every_skill() -> None:
    cases = [*sums(20), *generate_cases("copying", 20, 0)]
    report = run_cases(saying(*("?" for _ in cases)), Letters(), cases, encode=prompts, keep=2)
    assert [transcript.skill for transcript in report.bad] == ["addition"] * 2 + ["copying"] * 2
    assert report.good == ()
    right = run_cases(saying(*(case.answer for case in cases)), Letters(), cases, encode=prompts, keep=2)
    assert [transcript.skill for transcript in right.good] == ["addition"] * 2 + ["copying"] * 2
    assert right.bad == ()


def test_a_report_is_plain_data() -> None:
    cases = sums(2)
    report = run_cases(saying(*(case.answer for case in cases)), Letters(), cases, encode=prompts)
    again = json.loads(json.dumps(report.to_dict()))
    assert again["skills"]["addition"]["accuracy"] == 1.0
    assert report.metrics() == {
        "addition": 1.0, "addition/stderr": 0.0, "addition/n": 2.0, "stop_rate": 1.0, "think_off": 1.0,
    }  # fmt: skip
    assert "| addition | 2 | 1.000 ± 0.000 | 1 |" in report.to_markdown()


def test_mistakes_are_said_plainly() -> None:
    class Engine:
        def generate(self, prompts: object, params: object, *, seed: int) -> list[Said]:
            return []

    with pytest.raises(LuopanError, match="no cases"):
        run_cases(saying(), Letters(), [], encode=prompts)
    with pytest.raises(LuopanError, match="needs sampling parameters"):
        run_cases(Engine(), Letters(), sums(1), encode=prompts)
    with pytest.raises(LuopanError, match="1 prompts gave 0 completions"):
        run_cases(Engine(), Letters(), sums(1), encode=prompts, params=object())


def test_through_the_real_template_and_engine() -> None:
    from luopan.generate.config import SamplingParams
    from luopan.generate.engine import Engine
    from luopan.model.config import ModelConfig
    from luopan.model.decoder import Decoder
    from luopan.tokens.chat import encode_chat, stop_ids
    from luopan.tokens.config import TokenizerConfig
    from luopan.tokens.tokenizer import train_tokenizer

    cases = [*sums(3, thinking=1.0), *generate_cases("persona", 3, 0), *generate_cases("talk", 3, 0, follow=1.0)]
    tokenizer = train_tokenizer(
        [case.question for case in generate_cases("talk", 200, 0)], TokenizerConfig(vocab_size=384)
    )
    for case in cases:  # every case can be trained on
        encode_chat(tokenizer, case.conversation(), enable_thinking=case.enable_thinking)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Decoder(ModelConfig(vocab_size=384, max_position_embeddings=1024, **shape))
    model.reset_parameters(0)
    engine = Engine(model, eos_ids=stop_ids(tokenizer))
    report = run_cases(engine, tokenizer, cases, params=SamplingParams(max_new_tokens=5), seed=1)
    again = run_cases(engine, tokenizer, cases, params=SamplingParams(max_new_tokens=5), seed=1)
    assert report == again and report.total.n == 9
    assert report.total.mean_tokens is not None and 1 <= report.total.mean_tokens <= 5
