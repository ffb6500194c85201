"""The whole of curation on web-like text: megabytes per second per core, and the memory it takes as the input grows.

    python benchmarks/corpus.py --text pages.jsonl --megabytes 50 --preset web
    python benchmarks/corpus.py --text pages.jsonl --megabytes 50 1000        # memory: is it flat?

The input is made of the given pages (.jsonl with a column `text`): each made document takes the paragraphs of one page
and swaps words with those of other pages until it is a text of its own, so that near-duplicate removal does not thin it
out and filters meet what they meet in real pages. Every size runs in a process of its own; memory is the peak of
resident bytes over the process and its workers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

SHARE_SWAPPED = 0.35  # of the words, between pages: Jaccard similarity of word 5-grams falls below 0.1
VOCABULARY_PAGES = 50


def make_input(pages: list[str], file: Path, megabytes: float, seed: int) -> int:
    """Write about `megabytes` of documents to `file`; returns how many."""
    source = random.Random(seed)
    written = count = 0
    with open(file, "w", encoding="utf-8") as out:
        while written < megabytes * 1e6:
            page = pages[count % len(pages)]
            words = [word for other in source.sample(pages, min(len(pages), 5)) for word in other.split()[:400]]
            text = "\n".join(
                " ".join(source.choice(words) if source.random() < SHARE_SWAPPED else word for word in line.split(" "))
                for line in page.split("\n")
            )
            out.write(
                json.dumps({"text": text, "url": f"https://example{count % 997}.org/{count}"}, ensure_ascii=False)
                + "\n"
            )
            written += len(text.encode())
            count += 1
    return count


def watch(peak: list[int], stop: threading.Event) -> None:
    """Keep the largest sum of resident bytes over this process and its children."""
    own = psutil.Process()
    while not stop.wait(0.1):
        total = 0
        for process in [own, *own.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)


def measure(file: Path, preset: str, workers: int, queue: Any) -> None:
    """Curate `file` once, in a process of its own; puts {seconds, bytes, peak, steps} on the queue."""
    from luopan.corpus import CurateConfig, FileSource, curate

    config = CurateConfig.build({"preset": preset, "workers": workers})
    peak, stop = [0], threading.Event()
    thread = threading.Thread(target=watch, args=(peak, stop), daemon=True)
    thread.start()
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        source = FileSource(path=str(file), url_column="url")
        began = time.perf_counter()
        made = curate([source], config, Path(folder) / "corpus")
        seconds = time.perf_counter() - began
    stop.set()
    thread.join()
    steps = {step["step"]: step["documents"] for step in made.funnel["steps"]}
    queue.put({"seconds": seconds, "bytes": made.read_bytes, "peak": peak[0], "steps": steps})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help=".jsonl of pages, column text")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[20.0])
    parser.add_argument("--preset", default="web")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="where the made input goes")
    args = parser.parse_args()
    pages = [json.loads(line)["text"] for line in args.text.read_text(encoding="utf-8").splitlines() if line.strip()]
    context = multiprocessing.get_context("spawn")
    for megabytes in args.megabytes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            file = Path(folder) / "pages.jsonl"
            count = make_input(pages, file, megabytes, seed=1)
            results = []
            for _ in range(args.runs):
                queue = context.Queue()
                process = context.Process(target=measure, args=(file, args.preset, args.workers, queue))
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(process.exitcode)
                results.append(queue.get())
            rates = [result["bytes"] / 1e6 / result["seconds"] / args.workers for result in results]
            print(
                f"{megabytes:g} MB, {count} documents, {args.workers} worker(s): "
                f"{statistics.median(rates):.2f} MB/s per core, peak {max(r['peak'] for r in results) / 1e6:.0f} MB"
            )
            print("  " + "  ".join(f"{name} {documents}" for name, documents in results[0]["steps"].items()))


if __name__ == "__main__":
    main()
