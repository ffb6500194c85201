"""The article out of a web page: menus, advertisements and scripts go, paragraphs stay (trafilatura).

Looks only at documents whose meta says `format: html`, and says `format: text` afterwards. What comes out depends on
the page and the version of trafilatura. Speed: some 30 to 60 pages per second and core, the slowest step by far
(Barbaresi 2021, aclanthology.org/2021.acl-demo.15).
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.document import Rejected
from luopan.corpus.web_config import ExtractConfig
from luopan.errors import DataError

STEP = "extract"


class TimeUp(BaseException):
    """A page took too long. No Exception, so that nobody below catches it on the way."""


def extract(batch: DocumentBatch, config: ExtractConfig) -> Outcome:
    """The batch with pages as text. Rules: `max_html_bytes`, `max_elements`, `max_seconds`, `failed`, `no_text`."""
    pages = [meta.get("format") == "html" for meta in batch.metas]
    if not any(pages):
        return Outcome(batch)
    texts: list[str] = []
    keep: list[bool] = []
    rejected: list[Rejected] = []
    for row, (text, page) in enumerate(zip(batch.texts, pages)):
        if page:
            found = article(batch, row, text, config)
            if isinstance(found, Rejected):
                rejected.append(found)
            text = text if isinstance(found, Rejected) else found
            keep.append(isinstance(found, str))
        else:
            keep.append(True)
        texts.append(text)
    left = batch.with_texts(texts).with_meta([{"format": "text"} if page else {} for page in pages]).keep(keep)
    return Outcome(left, rejected, {"pages": sum(pages)})


def article(batch: DocumentBatch, row: int, html: str, config: ExtractConfig) -> str | Rejected:
    """The text of the page in a row, or why it has none."""
    size = len(html.encode("utf-8"))
    if config.max_html_bytes is not None and size > config.max_html_bytes:
        return rejection(batch, row, STEP, "max_html_bytes", value=float(size), threshold=float(config.max_html_bytes))
    tags = html.count("<")
    if config.max_elements is not None and tags > config.max_elements:
        return rejection(batch, row, STEP, "max_elements", value=float(tags), threshold=float(config.max_elements))
    extracted = extractor()
    try:
        with time_limit(config.max_seconds):
            text = extracted(
                html,
                favor_precision=config.favour == "precision",
                favor_recall=config.favour == "recall",
                include_comments=config.comments,
                include_tables=config.tables,
                deduplicate=False,  # it remembers pages that it saw before, so the result would depend on the order
            )
    except TimeUp:  # the limit, not the time taken, is noted: the same page gives the same row
        return rejection(batch, row, STEP, "max_seconds", threshold=config.max_seconds, detail="took too long")
    except Exception as error:  # a page from the web can trip any part of a parser
        return rejection(batch, row, STEP, "failed", detail=f"{type(error).__name__}: {str(error)[:200]}")
    if not text or not text.strip():
        return rejection(batch, row, STEP, "no_text", detail="no article was found in the page")
    return text.encode("utf-8", "replace").decode("utf-8")


@lru_cache(maxsize=1)
def extractor() -> Callable[..., Any]:
    """trafilatura's function. DataError if it is not installed."""
    try:
        import trafilatura
    except ImportError as error:
        raise DataError(
            f"taking text out of web pages needs the package trafilatura ({str(error).splitlines()[0]})",
            hint="pip install 'luopan[data]'",
        ) from error
    for name in ("trafilatura", "htmldate", "justext"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what it says of a page is said in the reason
    return trafilatura.extract


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises TimeUp inside after so many seconds; in the main thread of a process alone, as signals are."""
    if seconds is None or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    before, again = signal.setitimer(signal.ITIMER_REAL, seconds)  # somebody else's alarm, rung later
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if before:
            signal.setitimer(signal.ITIMER_REAL, max(before - (time.monotonic() - started), 0.001), again)
