"""Can the model use what stands far back? A code is stated at the start of a long text and asked for at its end.

Texts are made on the spot (`corpus.skills.recall` has the sentences): a few things with a code of random digits each,
plain sentences that have nothing to do with them, and a question. The answer is decoded greedily. Nothing but looking
back can know a code: naming the code of a random one of the things scores 1/facts, guessing 1/1000.

Limits: one kind of sentence, which mid-training text may have as well (with other codes); English only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import TypedDict

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.corpus.skills.recall import QUESTIONS, STATEMENTS, draw_facts, filler
from luopan.errors import DataError
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model.decoder import Decoder
from luopan.tokens.tokenizer import document_frame, plain_backend

SPARE_TOKENS = 2  # an answer may begin with a space or end with a full stop
LONGEST_CHARACTERS_PER_TOKEN = 8  # more filler than this never fits


@dataclass(frozen=True)
class Needle:
    """`prompt` are tokens; `answer` the code asked for, `others` those of the other things; `distance` in tokens."""

    prompt: list[int]
    answer: str
    others: tuple[str, ...]
    distance: int


class Retrieval(TypedDict):
    """Rates in 0..1. `other_code`: a code was given, but another thing's. `distance`: mean tokens between statement and
    question."""

    accuracy: float
    stderr: float
    n: int
    other_code: float
    distance: float
    chance: float


def retrieval_accuracy(
    model: Decoder, tokenizer: PreTrainedTokenizerFast, *, cases: int, length: int, facts: int = 4, seed: int = 0
) -> Retrieval:
    """Ask `cases` questions at the end of texts that fill `length` tokens together with the answer.

    The same cases for the same tokenizer and arguments. DataError if the text does not fit `length`.
    """
    needles = make_needles(tokenizer, cases, length=length, facts=facts, seed=seed)
    room = answer_room(plain_backend(tokenizer))
    eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    engine = Engine(model, eos_ids=eos)
    params = SamplingParams(max_new_tokens=room, temperature=0.0)
    completions = engine.generate([needle.prompt for needle in needles], params)
    answers = [str(tokenizer.decode(completion.tokens)) for completion in completions]
    right = [said(answer, needle.answer) for answer, needle in zip(answers, needles)]
    other = [any(said(answer, code) for code in needle.others) for answer, needle in zip(answers, needles)]
    rate = sum(right) / cases
    return {
        "accuracy": rate,
        "stderr": math.sqrt(rate * (1 - rate) / (cases - 1)) if cases > 1 else math.nan,
        "n": cases,
        "other_code": sum(other) / cases,
        "distance": sum(needle.distance for needle in needles) / cases,
        "chance": 1 / facts,
    }


def said(answer: str, code: str) -> bool:
    """The answer starts with the code and goes on with no further digit."""
    digits = r"\s+".join(map(re.escape, code.split()))
    return re.match(rf"\s*{digits}(?!\s*\d)", answer) is not None


def make_needles(
    tokenizer: PreTrainedTokenizerFast, cases: int, *, length: int, facts: int = 4, seed: int = 0
) -> list[Needle]:
    """`cases` prompts that leave room for the answer within `length` tokens, filled up to that but for a sentence."""
    if cases < 1 or facts < 1:
        raise DataError(f"cases is {cases} and facts is {facts}; both are at least 1")
    backend = plain_backend(tokenizer)
    before, _ = document_frame(tokenizer)
    random = Random(f"retrieval/{seed}")
    room = length - len(before) - answer_room(backend)
    return [one_needle(backend, before, random, room, facts) for _ in range(cases)]


def one_needle(backend: Tokenizer, before: Sequence[int], random: Random, room: int, facts: int) -> Needle:
    codes = draw_facts(random, facts)
    statements = [random.choice(STATEMENTS).format(thing=thing, code=code) for thing, code in codes.items()]
    asked = random.randrange(facts)
    thing, answer = list(codes.items())[asked]
    question = " " + random.choice(QUESTIONS).format(thing=thing)
    opening = " ".join(statements)
    left = room - len(encode(backend, opening)) - len(encode(backend, question))
    if left < 0:
        raise DataError(
            f"{facts} facts and a question need {room - left} tokens, there is room for {room}",
            hint="Use a greater length or fewer facts.",
        )
    sentences = filler_sentences(backend, random, left)
    while len(ids := encode(backend, " ".join([opening, *sentences]) + question)) > room:
        sentences.pop()  # a merge across two sentences, which this project's own tokenizers do not make
    stated = len(encode(backend, " ".join(statements[: asked + 1])))
    return Needle([*before, *ids], answer, tuple(code for code in codes.values() if code != answer), len(ids) - stated)


def filler_sentences(backend: Tokenizer, random: Random, tokens: int) -> list[str]:
    """As many plain sentences as `tokens` tokens hold, each with a space before it."""
    text = filler(random, tokens * LONGEST_CHARACTERS_PER_TOKEN)
    sentences = [f"{sentence.rstrip('.')}." for sentence in text.split(". ") if sentence]
    used = accumulate(len(encode(backend, " " + sentence)) for sentence in sentences)
    return [sentence for sentence, total in zip(sentences, used) if total <= tokens]


def answer_room(backend: Tokenizer) -> int:
    """Tokens that an answer may take."""
    return len(encode(backend, " 0 0 0")) + SPARE_TOKENS


def encode(backend: Tokenizer, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids
