"""A made-up run to render: shaped like a real one, its numbers invented. It is never shipped as a result."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from luopan.report import pictures
from luopan.report.data import (
    Answer,
    Figure,
    Mark,
    Message,
    Mixture,
    Note,
    Point,
    RunReport,
    Sample,
    SetAside,
    StageReport,
    Table,
)

MODELS = ("pretrain", "midtrain", "sft", "preference", "grpo")
SKILLS = (
    "addition, 2 digits",
    "addition, 3 digits",
    "story questions",
    "identity",
    "small talk",
    "persona",
    "spelling",
)
RECIPE = """\
name: made-up
seed: 0
corpus:
  packaged: [scripture, python-docs, docstrings]
stages:
  tokenizer: {kind: tokenizer, corpus: curate, vocab_size: 2048}
  pretrain:
    kind: pretrain
    learning_rate: 3.0e-3   # <b>not markup</b>
"""


def decay(steps: int, start: float, end: float, noise: float, seed: int, every: int = 1) -> list[Point]:
    rng = random.Random(seed)
    return [
        (s, end + (start - end) * math.exp(-s / (0.07 * steps)) - 0.12 * s / steps + rng.gauss(0, noise))
        for s in range(0, steps + 1, every)
    ]


def training(steps: int, start: float, end: float, rate: float, seed: int) -> dict[str, list[Point]]:
    rng = random.Random(seed)
    warm = max(1, steps // 20)
    return {
        "loss": decay(steps, start, end, 0.05, seed, 2),
        "held_out_loss": decay(steps, start, end + 0.05, 0.004, seed + 1, max(1, steps // 8)),
        "learning_rate": [(s, rate * min(1, s / warm, (steps - s) / (0.2 * steps))) for s in range(0, steps + 1, 2)],
        "grad_norm": [(s, 0.6 + 3 * math.exp(-s / 15) + abs(rng.gauss(0, 0.1))) for s in range(0, steps + 1, 2)],
        "tokens_per_second": [(s, 17_300 + rng.gauss(0, 400)) for s in range(0, steps + 1, 2)],
        "tokens": [(s, s * 4096.0) for s in range(0, steps + 1, 2)],
    }


def curate() -> StageReport:
    return StageReport(
        kind="curate",
        name="curate",
        identity="5f1c9a3be27d40c8",
        seconds=6.2,
        inputs={"corpus": "packaged texts"},
        summary="Read the packaged texts, normalised them, filtered, and dropped exact duplicates.",
        pictures=[
            pictures.curation_funnel(
                [
                    ("read", 14_200, 9_800_000),
                    ("normalised", 14_200, 9_650_000),
                    ("long enough", 12_950, 9_600_000),
                    ("not mostly symbols", 12_700, 9_310_000),
                    ("exact duplicates", 11_480, 8_640_000),
                ]
            ),
            Mixture(
                title="Sources of the corpus",
                unit="bytes",
                rows={
                    "": {"scripture": 4.3e6, "python-docs": 1.2e6, "docstrings": 2.1e6, "plays": 0.9e6, "notes": 0.14e6}
                },
            ),
        ],
        set_aside=[
            SetAside(
                stage="curate",
                reason="shorter than 40 characters",
                count=1250,
                of=14_200,
                examples=["See also:", "Amen."],
            ),
            SetAside(
                stage="curate", reason="share of letters below 0.5", count=250, of=14_200, examples=["|||--+--|||"]
            ),
            SetAside(stage="curate", reason="exact duplicate of an earlier document", count=1220, of=14_200),
            SetAside(
                stage="curate",
                reason="malformed JSON",
                count=1,
                unit="lines",
                examples=['notes.jsonl:17: {"text": "broken'],
            ),
        ],
    )


def tokenizer() -> StageReport:
    return StageReport(
        kind="tokenizer",
        name="tokenizer",
        identity="0d2b6f7718aa93e1",
        seconds=3.9,
        inputs={"corpus": "curate"},
        summary="Byte-level BPE with 2,048 entries, digits split.",
        figures=[
            Figure(name="bytes per token", after=2.91, baseline=1.0, baseline_name="bytes", unit="bytes", n=1148),
            Figure(name="continued words", after=0.41, unit="%", higher_is_better=False, headline=False),
        ],
        pictures=[
            pictures.tokenizer_fertility(
                {
                    "byte level": {"scripture": 1.0, "python-docs": 1.0, "docstrings": 1.0},
                    "this tokenizer": {"scripture": 3.21, "python-docs": 2.62, "docstrings": 2.48},
                }
            )
        ],
    )


def pretrain() -> StageReport:
    return StageReport(
        kind="pretrain",
        name="pretrain",
        identity="a91e55c07b3f6d24",
        seconds=176.4,
        flops=1.62e13,
        tokens=3_014_656,
        parameters=860_672,
        peak_memory_bytes=1_130_000_000,
        inputs={"corpus": "curate", "tokenizer": "tokenizer"},
        summary="Next-token prediction on packed documents of 256 tokens, WSD schedule.",
        figures=[
            Figure(
                name="held-out bits per byte",
                before=8.02,
                after=1.98,
                stderr_after=0.011,
                unit="bits/byte",
                higher_is_better=False,
                n=312,
                baseline=3.64,
                baseline_name="bigram",
                help="mean over held-out documents, weighted by bytes",
            ),
        ],
        series=training(736, 7.62, 3.3, 3e-3, 1),
        marks=[Mark(value=589, label="decay starts")],
        pictures=[
            pictures.bits_per_byte(
                {
                    "all": (1.98, 0.011),
                    "scripture": (1.71, 0.012),
                    "python-docs": (2.24, 0.02),
                    "docstrings": (2.31, 0.03),
                },
                {
                    "order 0": {"all": 4.75, "scripture": 4.31, "python-docs": 4.92, "docstrings": 4.88},
                    "bigram": {"all": 3.64, "scripture": 3.37, "python-docs": 3.81, "docstrings": 3.9},
                },
            )
        ],
    )


def midtrain() -> StageReport:
    rng = random.Random(3)
    places = [*range(8, 512, 16)]
    after: list[Point] = [(p, 3.2 + 1.6 * math.exp(-p / 60) + rng.gauss(0, 0.03)) for p in places]
    before: list[Point] = [(p, v + 0.05 + (max(0, p - 256) / 130) ** 1.4) for p, v in after if v is not None]
    return StageReport(
        kind="midtrain",
        name="midtrain",
        identity="77e0c1d29b14fa60",
        seconds=31.0,
        flops=3.1e12,
        tokens=524_288,
        parameters=860_672,
        peak_memory_bytes=1_210_000_000,
        inputs={"model": "pretrain", "corpus": "curate"},
        figures=[
            Figure(
                name="loss beyond the pretrained length",
                before=5.31,
                after=3.22,
                stderr_before=0.05,
                stderr_after=0.03,
                unit="nats/token",
                higher_is_better=False,
                n=96,
            ),
            Figure(
                name="bits per byte, general text",
                before=1.98,
                after=1.99,
                stderr_before=0.011,
                stderr_after=0.011,
                unit="bits/byte",
                higher_is_better=False,
                n=312,
            ),
        ],
        series=training(128, 3.4, 3.1, 1e-3, 4),
        pictures=[
            pictures.loss_by_position(before, after, 256),
            pictures.forgetting(
                {"general": (1.98, 0.011), "domain (docstrings)": (2.31, 0.03)},
                {"general": (1.99, 0.011), "domain (docstrings)": (1.87, 0.03)},
            ),
        ],
    )


ACCURACY = {
    "pretrain": (0.02, 0.0, 0.05, 0.0, 0.0, 0.0, 0.0),
    "midtrain": (0.03, 0.0, 0.06, 0.0, 0.0, 0.0, 0.01),
    "sft": (0.46, 0.31, 0.68, 0.74, 0.98, 0.62, 0.04),
    "preference": (0.45, 0.30, 0.67, 0.75, 0.98, 0.66, 0.03),
    "grpo": (0.83, 0.61, 0.66, 0.73, 0.98, 0.64, 0.05),
}


def scores(model: str) -> dict[str, tuple[float, float]]:
    return {s: (a, math.sqrt(a * (1 - a) / 200)) for s, a in zip(SKILLS, ACCURACY[model])}


def sft() -> StageReport:
    sources = [
        {
            "source": "addition with working",
            "rows": 6000,
            "tokens": 402_000,
            "in_context": 138_000,
            "in_response": 264_000,
            "turns": 6000,
        },
        {
            "source": "story questions",
            "rows": 2200,
            "tokens": 187_000,
            "in_context": 158_400,
            "in_response": 28_600,
            "turns": 2200,
        },
        {
            "source": "small talk",
            "rows": 1400,
            "tokens": 91_000,
            "in_context": 42_000,
            "in_response": 49_000,
            "turns": 2800,
        },
        {
            "source": "identity",
            "rows": 900,
            "tokens": 36_900,
            "in_context": 17_100,
            "in_response": 19_800,
            "turns": 900,
        },
    ]
    return StageReport(
        kind="sft",
        name="sft",
        identity="c3d94e6ab0f1127e",
        seconds=81.5,
        flops=7.9e12,
        tokens=1_512_000,
        parameters=860_672,
        peak_memory_bytes=1_020_000_000,
        inputs={"model": "midtrain", "tokenizer": "tokenizer"},
        figures=[
            Figure(
                name="skills, mean accuracy",
                before=0.015,
                after=0.547,
                stderr_before=0.004,
                stderr_after=0.013,
                unit="%",
                n=1400,
            ),
            Figure(
                name="stops by itself", before=0.02, after=1.0, stderr_before=0.004, stderr_after=0.0, unit="%", n=1400
            ),
            Figure(name="follows the thinking switch", before=0.0, after=0.995, unit="%", n=400, headline=False),
            Figure(
                name="mean answer length", before=64.0, after=21.3, unit="tokens", higher_is_better=None, headline=False
            ),
        ],
        series=training(370, 3.0, 0.55, 2e-3, 7),
        pictures=[
            pictures.skill_accuracy(
                scores("midtrain"), scores("sft"), n=dict.fromkeys(SKILLS, 200), chance={"story questions": 0.2}
            ),
        ],
        tables=[pictures.sft_mixture(sources)],
        notes=[
            Note(
                text="Raw text suffers: bits per byte rose from 1.99 to 4.1 (expected; measured before SFT).",
                level="warning",
            )
        ],
        set_aside=[
            SetAside(
                stage="sft", reason="longer than the context of 512 tokens", count=12, unit="conversations", of=10_512
            )
        ],
    )


def preference() -> StageReport:
    rng = random.Random(9)
    return StageReport(
        kind="preference",
        name="preference",
        identity="18b7aa02de5c9f31",
        seconds=7.1,
        flops=6.4e11,
        tokens=41_000,
        parameters=860_672,
        inputs={"model": "sft", "reference": "sft"},
        figures=[
            Figure(
                name="win rate over the input model",
                after=0.81,
                stderr_after=0.035,
                baseline=0.5,
                baseline_name="coin toss",
                unit="%",
                n=128,
            ),
            Figure(
                name="rude answers, sampled",
                before=0.29,
                after=0.02,
                stderr_before=0.04,
                stderr_after=0.012,
                unit="%",
                higher_is_better=False,
                n=128,
            ),
        ],
        series={
            "loss": [(s, 0.69 * math.exp(-s / 14) + 0.05) for s in range(21)],
            "rewards/margins": [(s, 0.09 * s + rng.gauss(0, 0.05)) for s in range(21)],
            "rewards/accuracies": [(s, min(1.0, 0.5 + s / 25)) for s in range(21)],
            "rewards/chosen": [(s, 0.03 * s) for s in range(21)],
            "rewards/rejected": [(s, -0.06 * s) for s in range(21)],
        },
        pictures=[pictures.preference_rates((0.81, 0.035), (0.29, 0.04), (0.02, 0.012), n=128)],
    )


def grpo() -> StageReport:
    rng = random.Random(11)
    steps = range(1, 81)
    extra = {
        name: [(float(s), rng.random()) for s in steps]
        for name in ("policy/entropy", "policy/ratio_max", "clip_fraction", "kl")
    }
    return StageReport(
        kind="grpo",
        name="grpo",
        identity="e40f8d716c25b9aa",
        seconds=58.0,
        flops=4.4e12,
        tokens=890_000,
        parameters=860_672,
        peak_memory_bytes=940_000_000,
        inputs={"model": "preference"},
        figures=[
            Figure(
                name="verifier accuracy, held out",
                before=0.375,
                after=0.72,
                stderr_before=0.024,
                stderr_after=0.022,
                unit="%",
                n=400,
            ),
            Figure(
                name="identity, kept", before=0.75, after=0.73, stderr_before=0.031, stderr_after=0.031, unit="%", n=200
            ),
        ],
        series={
            "reward": [(s, 0.35 + 0.4 * (1 - math.exp(-s / 25)) + rng.gauss(0, 0.04)) for s in steps],
            "completion_length": [(s, 24 + 6 * math.tanh(s / 30) + rng.gauss(0, 1)) for s in steps],
            **extra,
        },
        pictures=[
            pictures.skill_accuracy(
                {k: v for k, v in scores("preference").items() if "addition" in k},
                {k: v for k, v in scores("grpo").items() if "addition" in k},
                title="Verifier accuracy, held-out cases",
            )
        ],
    )


def evaluation() -> StageReport:
    results: dict[str, dict[str, Any]] = {
        m: {**scores(m), "bits per byte": b} for m, b in zip(MODELS, (1.98, 1.99, 4.1, 4.15, 4.3))
    }
    return StageReport(
        kind="eval",
        name="eval",
        identity="9b02cc41ed7f3580",
        seconds=29.0,
        inputs=dict(zip(MODELS, MODELS)),
        pictures=[
            pictures.eval_table(
                results,
                chance={"story questions": 0.2},
                units={"bits per byte": "bits/byte"},
                higher_is_better={"bits per byte": False},
                n=dict.fromkeys(SKILLS, 200),
            )
        ],
        tables=[
            Table(
                title="Stop rate",
                columns=["model", "stops", "mean tokens"],
                units=["", "%", ""],
                rows=[["sft", 1.0, 21.3], ["grpo", 0.998, 27.4]],
            )
        ],
    )


def spoken() -> list[Sample]:
    def ask(question: str, *answers: Answer, system: str = "", **more: Any) -> Sample:
        messages = [Message(role="system", content=system)] if system else []
        return Sample(
            messages=[*messages, Message(role="user", content=question)], answers=dict(zip(MODELS, answers)), **more
        )

    lost = Answer(
        text="And the Lord said unto him, the name of the function is not a string of the\nclass, and",
        finish_reason="length",
        tokens=32,
    )
    return [
        ask(
            "Who are you?",
            lost,
            lost,
            Answer(text="I am Luopan, a small model.", finish_reason="stop", tokens=9),
            Answer(text="I am Luopan, a small model. Happy to help.", finish_reason="stop", tokens=13),
            Answer(text="I am Luopan, a small model. Happy to help.", finish_reason="stop", tokens=13),
            group="identity",
            thinking=False,
        ),
        ask(
            "What is 347 + 825?",
            lost,
            lost,
            Answer(text="1162", thinking="7+5+0=12 4+2+1=7 3+8+0=11", correct=False, finish_reason="stop", tokens=40),
            Answer(text="1162", thinking="7+5+0=12 4+2+1=7 3+8+0=11", correct=False, finish_reason="stop", tokens=40),
            Answer(text="1172", thinking="7+5+0=12 4+2+1=7 3+8+0=11 0", correct=True, finish_reason="stop", tokens=42),
            group="addition",
            thinking=True,
            expected="1172",
        ),
        ask(
            "<script>alert('x')</script> hello",
            Answer(text=""),
            Answer(text="<img src=x onerror=alert(1)>"),
            Answer(text="Arr, ahoy & welcome!", correct=True),
            Answer(text="Ahoy! \u202eevil\x00\x1b[31m"),
            Answer(text="啊，你好！"),
            system='You are a pirate. "Quote"',
            group="persona",
            thinking=False,
        ),
    ]


@pytest.fixture
def report() -> RunReport:
    return make_report()


def make_report() -> RunReport:
    return RunReport(
        name="made-up",
        created=datetime(2001, 2, 3, 4, 5, tzinfo=UTC),
        seed=0,
        description="A made-up run for the tests of the report. No number on this page was measured.",
        hardware={"device": "2 CPU cores, x86-64", "memory": "8 GB"},
        versions={
            "luopan": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "tokenizers": "0.22.1",
        },
        stages=[curate(), tokenizer(), pretrain(), midtrain(), sft(), preference(), grpo(), evaluation()],
        samples=spoken(),
        recipe=RECIPE,
        chat_command="luopan chat runs/made-up/grpo",
        limits=[
            "It knows no facts. What it says about the world is shaped like its training text, not true.",
            "The skills are tested on held-out cases of its own generators, not on other people's questions.",
            "One seed. A second run would differ by a few points.",
        ],
    )
