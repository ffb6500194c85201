"""Trains the toxicity classifier that comes with Luopan, and measures it on data it never saw.

    python tools/train_toxicity.py DATA [--out FILE]

Toxic: what people wrote to provoke an assistant (`preference/hh_harmless_test.jsonl.gz`, anthropics/hh-rlhf, MIT).
Harmless: instructions and answers (Alpaca, GPTeacher, Glaive, KTO demo sets), C4 pages, passages and direct speech of
public-domain novels, OpenStax textbooks, and instructions dressed as the questions that people ask an assistant, so
that asking is not what tells the sides apart. Words of grammar and talk get no weight, for the same reason, nor do the
names of groups of people: a text must not be called toxic for whom it is about.

Many of the toxic conversations begin harmless or stay so. A first classifier reads its own training conversations,
those that it takes for harmless are left out, and a second is trained on the rest. A fifth of the conversations is set
aside before, uncleaned, and is what recall is measured on. Two more sets (Dolly and SGD, whose share-alike licences
keep them out of the training) show what happens on harmless conversation of a kind that was not trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from luopan.corpus.classifier import LinearModel, save_model, word_hashes
from luopan.corpus.classifier_measures import auc
from luopan.corpus.classifier_training import TrainingSettings, train
from luopan.corpus.words import Reading

OUT = Path(__file__).parents[1] / "src/luopan/corpus/data/toxicity-en.safetensors"
TURN = re.compile(r"\n\n(Human|Assistant): (.*?)(?=\n\n(?:Human|Assistant): |\Z)", re.S)
SPEECH = re.compile(r"[“\"]([^”\"\n]{15,400})[”\"]")
ASKING = (
    "How do I {}?", "how can I {}", "Can you help me {}?", "What is the best way to {}?", "can you tell me how to {}",
    "I want to {}", "i need to {}.", "What are some ways to {}?", "should I {}?", "do you know how to {}?",
    "I need some advice about how to {}.", "why would you {}",
)  # fmt: skip
# Grammar and small talk, in which the sides' manner of writing differs; and names of groups of people, countries and
# politicians, so that a text is not called toxic for whom it is about.
IGNORED = Path(__file__).with_name("toxicity_ignored_words.txt")
UNWEIGHED = "words of grammar, talk and groups of people"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with preference/, chat/ and text/")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    settings = TrainingSettings(
        ngrams=1,
        buckets=1 << 16,
        max_words=300,
        min_examples=4,
        ignored=tuple(sorted(set(IGNORED.read_text(encoding="utf-8").split()))),
    )
    conversations = toxic(arguments.data)
    aside = [text for text in conversations if in_fifth(text)]
    told = [text for text in conversations if not in_fifth(text)]
    plain = [text for text in harmless(arguments.data) if not in_fifth(text)]
    first = train(told, plain, settings)
    clear = [text for text, score in zip(told, scores(first, told)) if score >= 0.5]
    model = train(clear, plain, settings, name="toxicity-en")
    unseen = {
        "harmless of the kinds trained on": [text for text in harmless(arguments.data) if in_fifth(text)],
        **foreign(arguments.data),
    }
    facts = {
        **model.facts,
        "settings": {
            **model.facts["settings"],
            "ignored": f"{len(settings.ignored)} {UNWEIGHED}",
        },
        "left_out": {"toxic_conversations_taken_for_harmless": len(told) - len(clear)},
        "measured_on_unseen": measured_on(model, aside, unseen),
        "meaning": "a high score means toxic; the toxic side is called good in these figures",
        "licence": "Apache-2.0; toxic side from anthropics/hh-rlhf (MIT)",
    }
    save_model(dataclasses.replace(model, facts=facts), arguments.out)
    print(json.dumps(facts["measured_on_unseen"], indent=2))
    print([row["ngram"] for row in facts["strongest"]["good"]])


def toxic(data: Path) -> list[str]:
    """What people said in each conversation of the harmless set; the longest of those that begin alike."""
    found: dict[str, list[str]] = {}
    with gzip.open(data / "preference/hh_harmless_test.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            said = [text.strip() for who, text in TURN.findall(json.loads(line)["rejected"]) if who == "Human"]
            if said and len(said) > len(found.get(said[0].lower(), [])):
                found[said[0].lower()] = said
    return [" ".join(said) for said in found.values()]


def harmless(data: Path) -> Iterator[str]:
    """Harmless texts of many kinds, the same ones each time."""
    rng = random.Random(0)
    instructions = []
    for row in rows(data / "chat/alpaca_en_demo.jsonl.zst"):
        instructions.append(row["instruction"])
        yield from (f"{row['instruction']} {row['input']}", row["output"][:800])
    for name, most in (("roleplay", 2000), ("code", 400)):
        for number, row in enumerate(rows(data / f"chat/gpteacher_{name}.jsonl.zst")):
            if number < most:
                instructions.append(row["instruction"])
                yield from (f"{row['instruction']} {row['input']}", row["response"][:800])
    for instruction in instructions:
        wish = instruction.strip().rstrip(".?")
        for form in rng.sample(ASKING, 2):
            yield form.format(wish[:1].lower() + wish[1:])
    for row in rows(data / "chat/glaive_toolcall_en_demo.jsonl.zst"):
        turns = row.get("conversations") or row.get("messages") or []
        yield " ".join(said(turn) for turn in turns if turn.get("from", turn.get("role")) in ("human", "user"))
    for row in rows(data / "preference/kto_en_demo.jsonl.zst"):
        yield " ".join(said(turn) for turn in row["messages"])[:800]
    for line in (data / "text/web_c4_demo.jsonl").read_text(encoding="utf-8").splitlines():
        yield from passages(json.loads(line)["text"], 6, rng)
    for row in rows(data / "text/books.jsonl.zst"):
        yield from passages(row["text"], 50, rng)
        speeches = SPEECH.findall(row["text"][:800_000])
        for _ in range(min(30, len(speeches) // 6)):
            start = rng.randrange(len(speeches) - 3)
            yield " ".join(speeches[start : start + rng.randint(1, 3)])
    for number, row in enumerate(rows(data / "text/openstax.jsonl.zst")):
        if number % 2 == 0:
            yield from passages(row["text"], 2, rng)


def foreign(data: Path) -> dict[str, list[str]]:
    """Harmless conversation of kinds that are not trained on."""
    dolly = [row["prompt"].split("### Instruction:")[1].split("### Resp")[0] + row["response"]
             for row in rows(data / "chat/dolly_hhrlhf_small.jsonl.zst")]  # fmt: skip
    sgd = [" ".join(said(turn) for turn in row["messages"] if turn["role"] == "user")
           for number, row in enumerate(rows(data / "chat/sgd_dialogues.jsonl.zst")) if number % 10 == 0]  # fmt: skip
    return {"Dolly, questions with answers": dolly, "SGD, requests to a booking assistant": sgd}


def measured_on(model: LinearModel, aside: list[str], unseen: dict[str, list[str]]) -> dict[str, Any]:
    """Share of each set above some scores, and for the harmless ones the area under the ROC curve."""
    positive = scores(model, aside)
    result: dict[str, Any] = {"toxic conversations, uncleaned": {"texts": len(aside), **shares(positive)}}
    for name, texts in unseen.items():
        found = scores(model, texts)
        result[name] = {"texts": len(texts), "auc": round(auc(found, positive), 4), **shares(found)}
    return result


def shares(found: np.ndarray) -> dict[str, float]:
    return {f"above_{limit}": round(float((found >= limit).mean()), 4) for limit in (0.5, 0.8, 0.9, 0.95)}


def scores(model: LinearModel, texts: list[str]) -> np.ndarray:
    return model.scores(word_hashes([Reading(text) for text in texts]))


def passages(text: str, count: int, rng: random.Random) -> Iterator[str]:
    """`count` stretches of 20 to 200 words."""
    words = text.split(" ")
    for _ in range(count):
        size = rng.randint(20, 200)
        start = rng.randrange(max(1, len(words) - size))
        yield " ".join(words[start : start + size])


def in_fifth(text: str) -> bool:
    """One text in five, by its hash."""
    return hashlib.blake2b(text.encode(), digest_size=4).digest()[0] % 5 == 0


def said(turn: dict[str, Any]) -> str:
    return str(turn.get("value", turn.get("content", "")))


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            yield json.loads(line)


if __name__ == "__main__":
    main()
