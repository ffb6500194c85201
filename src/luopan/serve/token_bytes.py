"""The bytes that single tokens stand for, as `logprobs` report them.

Half a character is a token's right in byte-level vocabularies, so its text alone would be U+FFFD; the bytes are exact.
Read from the tokenizer's decoder: byte-level (GPT-2's alphabet of 256 visible characters), or SentencePiece's form
(`▁` for a space, `<0xE4>` for a byte); any other decoder's tokens are decoded one by one.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerFast

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class TokenBytes:
    """Bytes of the tokens of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder") or {}
        kinds = {str(part.get("type")) for part in _parts(decoder)}
        self._kind = "bytes" if "ByteLevel" in kinds else "pieces" if "ByteFallback" in kinds else "texts"

    def __getitem__(self, token: int) -> bytes:
        """The token's bytes; of an added token those of its name; nothing for a number that is no token."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):
            return b""
        if self._kind == "bytes":
            alphabet = _alphabet()
            if all(character in alphabet for character in piece):
                return bytes(alphabet[character] for character in piece)
        elif self._kind == "pieces":
            found = _BYTE.match(piece)
            return bytes([int(found[1], 16)]) if found else piece.replace("▁", " ").encode()
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False)).encode()

    def text(self, token: int) -> str:
        """The same as text, with U+FFFD for what is no whole character."""
        return self[token].decode("utf-8", "replace")

    def name(self, token: int) -> str:
        """A text by which tokens can be told apart: `bytes:\\xe4\\xbd` where it is no whole character."""
        data = self[token]
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def characters(self, token: int) -> int:
        """How many characters begin in it."""
        return sum(byte & 0xC0 != 0x80 for byte in self[token])


def _parts(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    parts = decoder.get("decoders")
    return [decoder] if not isinstance(parts, list) else [part for one in parts for part in _parts(one)]


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """GPT-2's visible characters for the 256 bytes: printable Latin-1 stands for itself, the others follow from 256."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
