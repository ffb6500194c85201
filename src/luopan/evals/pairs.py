"""How a context and its continuation become tokens: encoded together, split where the context alone would end."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerFast

from luopan.tokens.tokenizer import document_frame, plain_backend


def pair_encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[str, str], tuple[list[int], int]]:
    """(context, continuation) -> tokens of both together, and where the continuation's start; text is only text."""
    backend = plain_backend(tokenizer)
    before, after = document_frame(tokenizer)

    def encode(text: str) -> list[int]:
        return backend.encode(text, add_special_tokens=False).ids

    def encode_pair(context: str, continuation: str) -> tuple[list[int], int]:
        # Space at the end of the context goes with the continuation, as byte-pair encoding would have it.
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        if not bare:
            frame = before or after  # something to predict from
            return [*frame, *encode(continuation)], len(frame)
        both = [*before, *encode(bare + continuation)]
        return both, min(len(before) + len(encode(bare)), len(both) - 1)

    return encode_pair
