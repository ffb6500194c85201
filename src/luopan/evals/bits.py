"""How well a model predicts text: bits per byte (comparable between tokenizers) and loss by position in the text.

Every token of a text is scored exactly once, but for the first where the tokenizer puts nothing before a document: no
model ever learned what a document starts with, so that token's bytes are not counted either. Texts longer than the
window are read in windows that overlap, each scoring what the one before it did not. Documents never see each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError
from luopan.generate.score import continuation_logprobs
from luopan.model.decoder import Decoder
from luopan.tokens.tokenizer import document_frame, plain_backend

TEXTS_AT_ONCE = 256  # bounds the memory of the tokens and figures that are held


@dataclass(frozen=True)
class Bits:
    """Sums over the scored tokens of some texts. `bytes` are the bytes of UTF-8 that those tokens stand for."""

    nats: float
    tokens: int
    bytes: int
    documents: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens


@dataclass(frozen=True)
class EncodedText:
    """Tokens of a text as the model reads them; those from `start` on are scored and stand for `bytes` bytes."""

    ids: list[int]
    start: int
    bytes: int


def bits_per_byte(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[str],
    *,
    length: int | None = None,
    overlap: int | None = None,
) -> Bits:
    """Score `texts` in windows of `length` tokens (default: the model's context).

    `overlap` tokens of a window (default: a quarter) are context that was scored before.
    DataError if the window does not fit the model, or if no text has a token to score.
    """
    found = list(document_bits(model, tokenizer, texts, length=length, overlap=overlap))
    tokens = sum(one.tokens for one in found)
    if not tokens:
        raise DataError("there is no text to measure on", hint="A text needs at least two tokens.")
    nats = math.fsum(one.nats for one in found)
    return Bits(nats, tokens, sum(one.bytes for one in found), sum(one.documents for one in found))


def document_bits(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[str],
    *,
    length: int | None = None,
    overlap: int | None = None,
) -> Iterator[Bits]:
    """The figures of each text, in order, as `bits_per_byte` sums them; 0 documents where nothing could be scored."""
    length, overlap = window(model, length, overlap)
    for chunk in chunks(texts, TEXTS_AT_ONCE):
        encoded = encode(tokenizer, chunk)
        owner, pieces = [], []
        for at, text in enumerate(encoded):
            for piece in windows(text, length, overlap):
                owner.append(at)
                pieces.append(piece)
        scores = continuation_logprobs(model, [ids for ids, _ in pieces], [start for _, start in pieces])
        rows: list[list[float]] = [[] for _ in encoded]
        for at, row in zip(owner, scores, strict=True):
            rows[at] += row
        for text, row in zip(encoded, rows, strict=True):
            yield Bits(-math.fsum(row), len(row), text.bytes, int(len(text.ids) > text.start))


@dataclass(frozen=True)
class PositionLoss:
    """Mean loss by position in `runs` stretches of text. points: (middle of the bucket, nats per token), in order."""

    points: list[tuple[float, float]]
    runs: int

    def beyond(self, position: int) -> float | None:
        """Mean loss of the buckets that lie beyond `position` altogether; None if there is none."""
        values = [loss for middle, loss in self.points if middle > position]
        return sum(values) / len(values) if values else None


def loss_by_position(
    model: Decoder, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], *, length: int, bucket: int = 64
) -> PositionLoss:
    """Mean loss of the tokens at each position, in buckets of `bucket` positions.

    Only stretches of `length` tokens count, each read on its own from position 0 and a long text giving several: so the
    same text stands behind every bucket, and a difference between buckets is one of position. No points (`runs` 0)
    where no text is long enough. The first position has no loss.
    """
    window(model, length, 0)
    before, _ = document_frame(tokenizer)
    sums = [0.0] * (length - 1)  # [position - 1]
    runs = 0
    for chunk in chunks(texts, TEXTS_AT_ONCE):
        stretches = [
            run
            for text in encode(tokenizer, chunk)
            for run in cut_into_runs(text.ids[len(before) :], length - len(before))
        ]
        for row in continuation_logprobs(model, [[*before, *run] for run in stretches], [1] * len(stretches)):
            runs += 1
            for position, logprob in enumerate(row):
                sums[position] -= logprob
    if not runs:
        return PositionLoss([], 0)
    points = []
    for first in range(0, length, bucket):
        inside = sums[max(0, first - 1) : min(first + bucket, length) - 1]
        if inside:
            points.append((first + min(bucket, length - first) / 2, sum(inside) / len(inside) / runs))
    return PositionLoss(points, runs)


def cut_into_runs(ids: Sequence[int], length: int) -> list[Sequence[int]]:
    """Whole stretches of `length` tokens; what is left over at the end goes."""
    return [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]


def window(model: Decoder, length: int | None, overlap: int | None) -> tuple[int, int]:
    """The window and its overlap in tokens. DataError where they do not fit the model or each other."""
    context = model.config.max_position_embeddings
    length = context if length is None else length
    overlap = length // 4 if overlap is None else overlap
    if not 2 <= length <= context:
        raise DataError(f"a window of {length} tokens does not fit the model's context of {context}")
    if not 0 <= overlap < length:
        raise DataError(f"overlap is {overlap}, it must lie between 0 and the window's {length} tokens")
    return length, max(1, overlap)


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[EncodedText]:
    """Tokens and exact byte counts of texts in which nothing is a control token."""
    before, _ = document_frame(tokenizer)
    try:
        sizes = [len(text.encode("utf-8")) for text in texts]
    except UnicodeEncodeError as error:
        raise DataError("a text holds half of a surrogate pair", hint="Read it as UTF-8 first.") from error
    backend = plain_backend(tokenizer)
    byte_level = isinstance(backend.decoder, ByteLevel)
    found = []
    for text, size, encoding in zip(texts, sizes, backend.encode_batch(list(texts), add_special_tokens=False)):
        if not before and encoding.ids:
            size -= first_token_bytes(text, encoding.tokens[0], encoding.offsets[0][1], byte_level)
        found.append(EncodedText([*before, *encoding.ids], 1, size if encoding.ids else 0))
    return found


def first_token_bytes(text: str, token: str, end: int, byte_level: bool) -> int:
    """Bytes of the token that a text starts with: a byte-level tokenizer writes each byte as one character.

    For others the characters it covers are taken, which is exact unless it is part of a character.
    """
    return len(token) if byte_level else len(text[:end].encode("utf-8"))


def windows(text: EncodedText, length: int, overlap: int) -> Iterator[tuple[list[int], int]]:
    """(tokens, first place that is scored) of windows that together score every token from `text.start` on once."""
    scored = text.start
    end = 0
    while scored < len(text.ids):
        start = max(0, end - overlap)
        end = min(len(text.ids), start + length)
        yield text.ids[start:end], scored - start
        scored = end


def chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of at most `size` texts."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
