"""Text to token numbers in bulk: each word is encoded once and looked up from then on.

Byte-level BPE cuts a text into words before it merges anything, so the tokens of a text are those of its words laid end
to end. Words repeat: a look-up in a table takes a tenth of the time that cutting and merging take (docs/tokens.md).
The cut is made only where the tokenizer is known to cut as well, between a character that is no white space and one
that is; for tokenizers whose rules are not known here every text is encoded whole, with the same result either way.

Limits: the table is emptied when it holds `CACHE_WORDS` words (about 200 bytes each). Text without spaces (Chinese) is
hardly faster, because what stands between its spaces is a sentence and rarely comes twice.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from luopan.errors import DataError
from luopan.tokens.config import CHAT_HEADER, GPT4_WORDS, INNER_CUTS, ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CACHE_WORDS = 300_000
LONGEST_WORD = 48  # characters; longer ones hardly come again and are not kept
BATCH_CHARACTERS = 1 << 20
BATCH_TEXTS = 512

# Unicode's White_Space, which is what `\s` means to tokenizers; Python's has four control characters more.
_WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_WHITE_BUT_SPACE = _WHITE.replace(" ", "")
_AT_WHITE_SPACE = f"[{_WHITE}]*[^{_WHITE}]+|[{_WHITE}]+"
# Where a punctuation mark takes the line breaks after it along, only a space is sure to begin a word.
_AT_SPACES = (
    f"[{_WHITE}]*[^{_WHITE}]+(?:[{_WHITE_BUT_SPACE}][{_WHITE}]*[^{_WHITE}]+)*(?:[{_WHITE_BUT_SPACE}][{_WHITE}]*)?"
    f"|[{_WHITE}]+"
)
_SPACE_SAFE = frozenset({GPT4_WORDS % "{1,3}", GPT4_WORDS % ""})
_HEADED = ("\n", *(f"{role}\n" for role in ROLES))


class TextEncoder:
    """Encodes documents for one tokenizer; picklable, so that other processes can have one.

    `state`: the tokenizer as JSON, without control tokens (`plain_backend`). `before`, `after`: tokens that stand
    around every document (`document_frame`).
    """

    def __init__(self, state: str, before: Sequence[int], after: Sequence[int], vocab_size: int) -> None:
        self._arguments = (state, tuple(before), tuple(after), vocab_size)
        self.dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self._code = "H" if vocab_size <= 1 << 16 else "I"
        self._before, self._after = self._bytes(before), self._bytes(after)
        self._backend = Tokenizer.from_str(state)
        pattern, inner, self._headed = _cut(json.loads(state))
        self._inner = self._backend if inner is None else Tokenizer.from_str(json.dumps(inner))
        self._words = None if pattern is None else re.compile(pattern)
        self._known: dict[str, bytes] = {}

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> TextEncoder:
        """The encoder of a tokenizer; made once for each."""
        return _encoder_of(tokenizer, len(tokenizer), tokenizer.eos_token_id)

    def __reduce__(self) -> tuple[type[TextEncoder], tuple[Any, ...]]:
        return TextEncoder, self._arguments

    @property
    def by_words(self) -> bool:
        """Whether this tokenizer's cuts are known, so that words are looked up."""
        return self._words is not None

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text as [n] uint16 or uint32, framed. Raises DataError for lone surrogates."""
        found = self._by_words(texts, self._words) if self._words is not None else self._whole(texts)
        return [np.frombuffer(each, dtype=self.dtype) for each in found]

    def _by_words(self, texts: Sequence[str], words: re.Pattern[str]) -> list[bytes]:
        heads = self._heads(texts, words) if self._headed else {}
        cut = [words.findall(text) for text in texts]
        for number in heads:
            cut[number] = cut[number][2:]
        if len(self._known) > CACHE_WORDS:
            self._known.clear()
        known = self._known
        fresh = list(set(chain.from_iterable(cut)).difference(known))
        known.update(zip(fresh, map(self._bytes, encode_plainly(self._inner, fresh)), strict=True))
        documents = [
            b"".join((self._before, heads.get(number, b""), *map(known.__getitem__, found), self._after))
            for number, found in enumerate(cut)
        ]
        for word in fresh:
            if len(word) > LONGEST_WORD:
                del known[word]
        return documents

    def _heads(self, texts: Sequence[str], words: re.Pattern[str]) -> dict[int, bytes]:
        """The first two words, encoded together, of texts that begin like a chat header.

        The header ends in the middle of them, at its line break, which is the first character of the second word.
        """
        found: dict[int, str] = {}
        for number, text in enumerate(texts):
            if text.startswith(_HEADED):
                first = words.match(text)
                assert first is not None
                second = words.match(text, first.end())
                found[number] = text[: second.end() if second else first.end()]
        encoded = encode_plainly(self._backend, list(found.values()))
        return {number: self._bytes(ids) for number, ids in zip(found, encoded, strict=True)}

    def _whole(self, texts: Sequence[str]) -> list[bytes]:
        return [b"".join((self._before, self._bytes(ids), self._after)) for ids in encode_plainly(self._backend, texts)]

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return array(self._code, ids).tobytes()


def encode_plainly(backend: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, nothing around them. Raises DataError for lone surrogates."""
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    except (UnicodeEncodeError, TypeError) as error:
        raise DataError(f"text that is not valid Unicode cannot be encoded: {error}") from error


def encode_documents(
    tokenizer: PreTrainedTokenizerFast | TextEncoder, texts: Iterable[str], *, workers: int = 1
) -> Iterator[np.ndarray]:
    """Documents as tokens, in order, a batch of about a million characters at a time.

    With `workers` > 1 batches are encoded in that many processes of their own; memory stays bounded by a few batches
    each, and the result is the same. Raises DataError for text that cannot be encoded.
    """
    encoder = tokenizer if isinstance(tokenizer, TextEncoder) else TextEncoder.of(tokenizer)
    if workers <= 1:
        for batch in _batches(texts):
            yield from encoder.encode(batch)
        return
    # Started afresh, not forked: the threads of `tokenizers` do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(encoder,)) as pool:
        waiting: deque[Future[tuple[bytes, list[int]]]] = deque()
        for batch in _batches(texts):
            waiting.append(pool.submit(_encode_there, batch))
            if len(waiting) > 2 * workers:
                yield from _documents(waiting.popleft().result(), encoder.dtype)
        while waiting:
            yield from _documents(waiting.popleft().result(), encoder.dtype)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_TEXTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _start(encoder: TextEncoder) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core already
    _here.append(encoder)


_here: list[TextEncoder] = []  # of a worker process: its encoder, with the words that it has met


def _encode_there(batch: list[str]) -> tuple[bytes, list[int]]:
    encoded = _here[0].encode(batch)
    return b"".join(each.tobytes() for each in encoded), [each.size for each in encoded]


def _documents(encoded: tuple[bytes, list[int]], dtype: np.dtype) -> Iterator[np.ndarray]:
    data, lengths = encoded
    tokens = np.frombuffer(data, dtype=dtype)
    end = 0
    for length in lengths:
        yield tokens[end : end + length]
        end += length


@lru_cache(maxsize=8)
def _encoder_of(tokenizer: PreTrainedTokenizerFast, _size: int, _end: int) -> TextEncoder:
    from luopan.tokens.tokenizer import document_frame, plain_backend

    before, after = document_frame(tokenizer)
    return TextEncoder(plain_backend(tokenizer).to_str(), before, after, len(tokenizer))


def _cut(state: dict[str, Any]) -> tuple[str | None, dict[str, Any] | None, bool]:
    """(pattern of the words, the tokenizer for words that begin no text if it is another, whether headers are cut).

    None where the tokenizer's rules are not known to cut at white space.
    """
    model, normalizer = state["model"], state["normalizer"]
    plain = model["type"] == "BPE" and not model.get("dropout") and not model.get("continuing_subword_prefix")
    if not plain or state["added_tokens"] or not (normalizer is None or normalizer["type"] == "NFC"):
        return None, None, False
    outer = state["pre_tokenizer"] or {"type": "none"}
    steps = outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]
    headed = bool(steps) and _regex(steps[0]) == CHAT_HEADER
    inner = steps[1:] if headed else steps
    pattern = _pattern_of(inner)
    if pattern is None or not headed:
        return pattern, None, False
    return pattern, {**state, "pre_tokenizer": {"type": "Sequence", "pretokenizers": inner}}, True


def _regex(step: dict[str, Any]) -> str | None:
    if step["type"] != "Split" or step.get("invert") or step.get("behavior") != "Isolated":
        return None
    return step["pattern"].get("Regex")


def _pattern_of(steps: Sequence[dict[str, Any]]) -> str | None:
    """Which of the two cuts is safe for these pre-tokenizers; None: neither."""
    pattern, words = _AT_WHITE_SPACE, False
    for number, step in enumerate(steps):
        if step["type"] == "ByteLevel":
            words = words or bool(step["use_regex"])
            if step["add_prefix_space"] or number + 1 < len(steps):
                return None
        elif _regex(step) in _SPACE_SAFE:
            pattern, words = _AT_SPACES, True
        elif step["type"] != "Digits" and _regex(step) not in INNER_CUTS:
            return None
    return pattern if words else None
