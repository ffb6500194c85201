"""How many tokens the output head takes at a time. Without torch, so that plans can use it; see `head.py`."""

from __future__ import annotations

PIECE_ELEMENTS_CPU = 2**23  # logits of a piece: 32 MiB of fp32, unless that is fewer than 256 rows
PIECE_ELEMENTS = 2**27  # elsewhere larger, since every piece costs launches
PIECE_ROWS_CPU = (256, 1024)


def piece_rows(vocab_size: int, device_type: str) -> int:
    """Tokens of one piece."""
    if device_type == "cpu":
        low, high = PIECE_ROWS_CPU
        return min(high, max(low, PIECE_ELEMENTS_CPU // vocab_size))
    return max(1, PIECE_ELEMENTS // vocab_size)
