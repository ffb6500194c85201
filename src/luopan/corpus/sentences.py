"""Where sentences end, in any script, by marks alone: enough to count them, not to cut a text at them.

Unicode's property Sentence_Terminal says which marks end a sentence. In scripts that put a space after it, a mark
counts when a space follows and it is not that of an initial, an abbreviation or an ellipsis; in those that put none
(。！？), always. Thai and Lao have no such marks: there a space parts clauses, and each clause counts.
"""

from __future__ import annotations

import re
from functools import lru_cache

TERMINAL_RANGES = (
    "!.?\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u104a\u104b\u1362\u1367\u1368"
    "\u166e\u1735\u1736\u17d4-\u17d6\u17d9\u17da\u1803\u1809\u1944\u1945\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e"
    "\u1b5f\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f\u2024\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u2e53\u2e54"
    "\u2e60\u2e61\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0"
    "\uaaf1\uabeb\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57\uff01\uff0e\uff1f\uff61\U00010a56\U00010a57"
    "\U00010f55-\U00010f59\U00010f86-\U00010f89\U00011047\U00011048\U000110be-\U000110c1\U00011141-\U00011143"
    "\U000111c5\U000111c6\U000111cd\U000111de\U000111df\U00011238\U00011239\U0001123b\U0001123c\U000112a9\U000113d4"
    "\U000113d5\U0001144b\U0001144c\U000115c2\U000115c3\U000115c9-\U000115d7\U00011641\U00011642"
    "\U0001173c-\U0001173e\U00011944\U00011946\U00011a42\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42\U00011ef7"
    "\U00011ef8\U00011f43\U00011f44\U00016a6e\U00016a6f\U00016af5\U00016b37\U00016b38\U00016b44\U00016d6e\U00016d6f"
    "\U00016e98\U0001bc9f\U0001da88"
)
FULL_WIDTH = "\u3002\uff01\uff0e\uff1f\uff61\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57"  # no space follows these
CLOSING = "\"'’”»›)]}」』）】〉》"
UNMARKED = re.compile("[\u0e00-\u0eff]")  # Thai, Lao
ABBREVIATED = (
    "mr mrs ms dr prof st jr sr vs etc inc ltd co corp gen col sgt capt rev hon gov sen rep messrs mt fig no vol pp ed "
    "jan feb mar apr jun jul aug sep sept oct nov dec approx dept est ave blvd"
)
ABBREVIATIONS = frozenset(ABBREVIATED.split())


@lru_cache(maxsize=1)
def terminal_marks() -> frozenset[str]:
    """Every character that ends a sentence."""
    marks: set[str] = set()
    for low, high in re.findall("(.)(?:-(.))?", TERMINAL_RANGES):
        marks.update(map(chr, range(ord(low), ord(high or low) + 1)))
    return frozenset(marks)


@lru_cache(maxsize=3)
def end_pattern(marks: str) -> re.Pattern[str]:
    """Finds a run of end marks after which another sentence may begin; group 1 are marks that want a space after."""
    closers = f"[{re.escape(CLOSING)}]*"
    run_on = rf"[{FULL_WIDTH}]+{closers}(?=[^\s{FULL_WIDTH}{re.escape(CLOSING)}])"
    return re.compile(rf"([{marks}]+){closers}(?=\s+\S)|{run_on}")


def marks_of(line: str) -> str:
    """The marks to look for: few where a line has few scripts, which is many times faster."""
    if line.isascii():
        return "!.?"
    astral = len(line.encode("utf-16-le", "surrogatepass")) > 2 * len(line)  # forty times as fast as max(line)
    return TERMINAL_RANGES if astral else TERMINAL_RANGES[: TERMINAL_RANGES.index("\U00010a56")]


def count_sentences(line: str, enough: int) -> int:
    """Sentences in a line, 1 at least; the counting ends at `enough`."""
    if not line.isascii() and len(UNMARKED.findall(line)) * 2 > len(line):
        return min(enough, max(1, len(line.split())))
    count = 1
    for match in end_pattern(marks_of(line)).finditer(line):
        if count >= enough:
            break
        count += match[1] is None or ends(line, match.start(1), match[1])
    return count


def ends(line: str, at: int, marks: str) -> bool:
    """Whether `marks`, which stand at `at`, end a sentence, as far as they and the word before can tell."""
    if marks != ".":
        return marks.strip(".") != ""  # not an ellipsis
    word = line[max(0, at - 20) : at].rpartition(" ")[2].lstrip("\"'‘“«([")
    return not ((len(word) == 1 and word.isalpha()) or "." in word or word.lower() in ABBREVIATIONS)
