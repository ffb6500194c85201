"""What is wrong with the tokens of a vocabulary: never used, never reachable, not text.

A token that training never meets keeps the random vector that it began with, and a model that is shown it says
anything ("glitch tokens"; Land & Bartolo 2024, arXiv:2405.05417, whose tests on the vocabulary alone these are). Found
without a model, from the tokenizer and, for use, from a text:

- unreachable: encoding the token's own text gives other tokens, in every context tried;
- undecodable: its bytes stand in no UTF-8 text (all byte-level vocabularies have the 13 bytes that UTF-8 never uses);
- odd white space: white space inside or behind other characters, which a cut at words should have prevented;
- invisible: control, direction or zero-width characters among others.

Limits: "unused" depends on the text and is no fault in itself. A token counts as reachable if one of a few contexts
gives it; one that needs a rarer context would be called unreachable. Added tokens (control tokens) are left out, and so
are pieces of characters, which are counted as `partial`. Byte-level vocabularies only: others have no undecodable ones.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.tokens.encode import encode_plainly
from luopan.tokens.tokenizer import plain_backend

Fault = Literal["unreachable", "undecodable", "odd white space", "invisible"]
SHOWN = 32  # characters
CONTEXTS = ("", "a", " ", "\n", ".", "a\n", "1")


def _byte_characters() -> tuple[str, ...]:
    """How byte-level vocabularies write each byte: printable Latin-1 as itself, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


BYTE_CHARACTERS = _byte_characters()
_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


@dataclass(frozen=True)
class Glitch:
    """A token that looks wrong. `text` is what it stands for, bytes that are no text written as \\x.."""

    id: int
    text: str
    fault: Fault


@dataclass(frozen=True)
class Audit:
    """`partial`: pieces of characters; `added`: tokens left out; `used`, `unused`: of the others, on the texts."""

    vocabulary: int
    added: int
    partial: int
    used: int
    unused: int
    unused_examples: tuple[str, ...]
    glitches: tuple[Glitch, ...]

    @property
    def unused_share(self) -> float:
        """Unused tokens among all that a text could use."""
        return self.unused / max(1, self.used + self.unused)

    @property
    def faults(self) -> dict[str, int]:
        """Number of tokens per fault; a token may have two."""
        return {fault: sum(glitch.fault == fault for glitch in self.glitches) for fault in get_args(Fault)}


def audit(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str] = ()) -> Audit:
    """Looks at every token of a vocabulary; `texts` say which of them are used."""
    backend = plain_backend(tokenizer)
    size = len(tokenizer)
    counts = count_tokens(backend, texts, size)
    added = set(tokenizer.added_tokens_decoder)
    vocabulary = {id: token for token, id in backend.get_vocab(with_added_tokens=False).items() if id not in added}
    spell = speller(backend)
    spelled = {id: spell(token) for id, token in vocabulary.items()}
    whole = {id: text for id, piece in spelled.items() if (text := _text(piece)) is not None}
    partial = [id for id in sorted(spelled) if id not in whole]
    glitches = [Glitch(id, shown(spelled[id]), "undecodable") for id in partial if not _fits_utf8(spelled[id])]
    glitches += [Glitch(id, shown(spelled[id]), "unreachable") for id in unreachable(backend, whole)]
    for id, text in sorted(whole.items()):
        if fault := _fault(text):
            glitches.append(Glitch(id, shown(spelled[id]), fault))
    unused = [id for id in sorted(vocabulary) if not counts[id]]
    return Audit(
        vocabulary=size,
        added=size - len(vocabulary),
        partial=len(partial),
        used=len(vocabulary) - len(unused),
        unused=len(unused),
        # The longest tell most about what a vocabulary was made from.
        unused_examples=tuple(shown(spelled[id]) for id in sorted(unused, key=lambda id: -len(spelled[id]))[:20]),
        glitches=tuple(sorted(glitches, key=lambda glitch: (glitch.id, glitch.fault))),
    )


def count_tokens(backend: Tokenizer, texts: Iterable[str], size: int) -> np.ndarray:
    """How often each token comes in texts, [size] int64."""
    counts = np.zeros(size, dtype=np.int64)
    for text in texts:
        ids = np.asarray(encode_plainly(backend, [text])[0], dtype=np.int64)
        counts += np.bincount(ids, minlength=size)
    return counts


def unreachable(backend: Tokenizer, texts: dict[int, str]) -> list[int]:
    """Those tokens (number -> text) that no context gives back, in order."""
    left = dict(sorted(texts.items()))
    for context in CONTEXTS:
        encoded = encode_plainly(backend, [context + text for text in left.values()])
        left = {id: text for (id, text), ids in zip(left.items(), encoded, strict=True) if id not in ids}
    return list(left)


def speller(backend: Tokenizer) -> Callable[[str], bytes]:
    """What gives the bytes that a token of the vocabulary stands for."""
    byte_level = '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"])

    def spell(token: str) -> bytes:
        if byte_level and all(character in _BYTES for character in token):
            return bytes(_BYTES[character] for character in token)
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            return bytes.fromhex(match[1])
        return token.replace("\u2581", " ").encode("utf-8", "surrogatepass")

    return spell


def shown(piece: bytes) -> str:
    """Bytes for the eye: text where they are text, escapes where not, the end of long ones left out."""
    text = piece.decode("utf-8", "backslashreplace")
    if len(text) > SHOWN:
        return f"{shown(text[:SHOWN].encode())}… ({len(text)} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _text(piece: bytes) -> str | None:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _fits_utf8(piece: bytes) -> bool:
    """Whether bytes can stand inside a UTF-8 text: the end of a character, whole ones, the beginning of another."""
    start = 0
    while start < min(3, len(piece)) and 0x80 <= piece[start] < 0xC0:
        start += 1
    try:
        codecs.getincrementaldecoder("utf-8")().decode(piece[start:])
    except UnicodeDecodeError:
        return False
    return True


def _fault(text: str) -> Fault | None:
    # GPT-4's word rule gives a word the white space before it, a mark the line breaks after it, both on purpose.
    inner = re.sub(r"(?<=[^\w\s])[\r\n]+\Z", "", text[1:] if text[:1].isspace() else text)
    if inner.strip() and re.search(r"\s", inner):
        return "odd white space"
    if len(text) > 1 and any(unicodedata.category(c) in ("Cc", "Cf") and c not in "\t\n\r\v\f" for c in text):
        return "invisible"
    return None
