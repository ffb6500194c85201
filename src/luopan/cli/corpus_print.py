"""What `luopan corpus` prints: funnels, cards, documents, the comparison of a trial."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luopan.corpus.document import Rejected
    from luopan.corpus.trial import Change, Passed, Trial
    from luopan.corpus.trial_sample import Drawn


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_columns(rows: list[list[str]], right: set[int]) -> None:
    """Rows under each other; the columns in `right` are numbers."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = (cell.rjust(w) if at in right else cell.ljust(w) for at, (cell, w) in enumerate(zip(row, widths)))
        print("  ".join(cells).rstrip())


def print_funnel(funnel: dict[str, Any]) -> None:
    """Documents and bytes after each step, and the rules that took most of them."""
    from luopan.report.numbers import size

    rows = [["step", "documents", "text"]]
    rows += [[step["step"], f"{step['documents']:,}", size(step["bytes"])] for step in funnel["steps"]]
    print_columns(rows, {1, 2})
    if funnel["rejected"]:
        print()
        worst = sorted(funnel["rejected"], key=lambda row: (-row["documents"], row["step"], row["rule"]))
        taken = [[f"{row['step']}/{row['rule']}", f"{row['documents']:,}", size(row["bytes"])] for row in worst]
        print_columns([["rejected by", "documents", "text"], *taken], {1, 2})
    for text in funnel["notes"]:
        print(f"note: {text}", file=sys.stderr)
    print()


def summary(card: dict[str, Any]) -> str:
    """One line on what a corpus holds."""
    from luopan.report.numbers import quantity, size

    documents, text = card["documents"], card["bytes"]
    about = "" if card["tokens_by"]["counted"] else "about "
    return (
        f"{documents['train']:,} documents to train on ({size(text['train'])}, {about}"
        f"{quantity(card['tokens']['train'])} tokens), {documents['held_out']:,} held out ({size(text['held_out'])})"
    )


def print_card(card: dict[str, Any]) -> None:
    from luopan.report.numbers import number, quantity, size

    print(summary(card) + "\n")
    rows = [["source", "documents", "text", "words", "held out", "licence"]]
    for name, part in card["sources"].items():
        counts = [f"{part['documents']['train']:,}", size(part["bytes"]["train"]), quantity(part["words"]["train"])]
        rows.append([name, *counts, f"{part['documents']['held_out']:,}", part["licence"]])
    print_columns(rows, {1, 2, 3, 4})
    total = sum(each["bytes"] for each in card["languages"].values()) or 1
    shares = [f"{name} {number(each['bytes'] / total, '%')}" for name, each in list(card["languages"].items())[:10]]
    print(f"\nlanguages  {', '.join(shares) or '–'}")
    lengths = [f"{size(row['from'])}+ {row['documents']:,}" for row in card["length_histogram"] if row["documents"]]
    every = sum(row["documents"] for row in card["length_histogram"])
    print(f"lengths    {', '.join(lengths) or '–'} (of {plural(every, 'document')}, training and held out)")
    if card["domains"]["documents"]:
        hosts = [f"{row['host']} {row['documents']:,}" for row in card["domains"]["top"][:8]]
        print(f"hosts      {', '.join(hosts)}")
    if card["pii"]:
        print(f"replaced   {', '.join(f'{kind} {count:,}' for kind, count in card['pii'].items())}")
    if card["top_spans"]["spans"]:
        print("\nspans that come again (documents)")
        for row in card["top_spans"]["spans"][:10]:
            print(f"  {row['documents']:>7,}  {row['text']}")


def print_document(number: int, row: dict[str, Any], characters: int) -> None:
    """One document: why it was rejected if it was, its id, the beginning of its text."""
    reason = f"  {reason_text(row)}" if "rule" in row else ""
    print(f"{number}. {row['id']}{reason}")
    print(indented(row["text"], characters) + "\n")


def plural(count: int, word: str) -> str:
    """`1 document`, `22 documents`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def print_page(rows: list[dict[str, Any]], page: int, per_page: int, total: int, characters: int) -> None:
    """The documents of one page, between which page this is and how to see the next."""
    pages = -(-total // per_page)
    if not rows:
        print("nothing to show")
        return
    print(f"page {page} of {pages}, {plural(total, 'document')}\n")
    for number, row in enumerate(rows, (page - 1) * per_page + 1):
        print_document(number, row, characters)
    if page < pages:
        print(f"the next: --page {page + 1}")


def print_trial(trial: Trial, shown: int, characters: int) -> None:
    """The funnel before and after, then examples of each kind of change; one funnel where no change is tried."""
    from luopan.report.numbers import size

    rows = [["step", "documents", "text"]] if trial.one_sided else [["step", "before", "after", "change"]]
    for step in trial.steps:
        old, new = (side.left.get(step) for side in (trial.before, trial.after))
        if trial.one_sided:
            rows.append([step, *([f"{old[0]:,}", size(old[1])] if old else ["–", "–"])])
            continue
        difference = f"{new[0] - old[0]:+,}" if old and new and new[0] != old[0] else ""
        rows.append([step, *(f"{side[0]:,}" if side else "–" for side in (old, new)), difference])
    print_columns(rows, set(range(1, len(rows[0]))))
    print(f"\n{drawn_line(trial.drawn)}")
    for reason in trial.drawn.reasons:
        print(f"not read   {reason}")
    if trial.one_sided:
        print(f"kept       {kept_line(trial, trial.before)}")
        print_taken(trial.before)
    else:
        print(f"kept       {kept_line(trial, trial.before)} before, {kept_line(trial, trial.after)} after")
        print_changes(trial, shown, characters)


def print_taken(side: Passed) -> None:
    """What each rule took of the sample."""
    taken = Counter(f"{item.step}/{item.rule}" for item in side.rejected.values())
    if taken:
        print()
        ordered = sorted(taken.items(), key=lambda item: (-item[1], item[0]))
        print_columns([["rejected by", "documents"], *([rule, f"{count:,}"] for rule, count in ordered)], {1})


def print_changes(trial: Trial, shown: int, characters: int) -> None:
    """How many documents have another verdict, and examples."""
    counts = f"{len(trial.newly_rejected):,} newly rejected, {len(trial.newly_kept):,} newly kept"
    others = f"{len(trial.other_reason):,} rejected for another reason, {trial.other_texts:,} kept with another text"
    print(f"changed    {counts}, {others}")
    if trial.unmatched:
        print(f"{trial.unmatched:,} pieces stand under one side only: documents were cut elsewhere")
    for title, changes in (
        ("newly rejected", trial.newly_rejected),
        ("newly kept", trial.newly_kept),
        ("rejected for another reason", trial.other_reason),
    ):
        for change in changes[:shown]:
            print(f"\n{title}: {change.id}\n  {reason_line(change)}")
            print(indented(change.text, characters))


def drawn_line(drawn: Drawn) -> str:
    """`320 of 493 documents tried; 2 rows beside them cannot be read`."""
    tried = f"{len(drawn.documents):,} of {plural(drawn.seen, 'document')} tried"
    if not drawn.whole:
        tried = f"{plural(len(drawn.documents), 'document')} tried, of {drawn.seen:,} looked through; there are more"
    return tried + (f"; {plural(drawn.unread, 'row')} beside them cannot be read" if drawn.unread else "")


def kept_line(trial: Trial, side: Passed) -> str:
    """Documents (pieces, where some were cut) that stay, and their share of all that were judged."""
    total = len(side.kept) + len(side.rejected)
    word = " pieces" if total > len(trial.drawn.documents) else ""
    return f"{len(side.kept):,} of {total:,}{word}{f' ({100 * len(side.kept) / total:.1f}%)' if total else ''}"


def reason_line(change: Change) -> str:
    """`before: kept; after: gopher_quality/min_words 41 (limit 50)`."""
    sides = (("before", change.before), ("after", change.after))
    return "; ".join(f"{name}: {'kept' if item is None else reason_text(plain_reason(item))}" for name, item in sides)


def plain_reason(item: Rejected) -> dict[str, Any]:
    return {name: getattr(item, name) for name in ("step", "rule", "value", "threshold", "detail")}


def reason_text(row: dict[str, Any]) -> str:
    """`gopher_quality/min_words 41 (limit 50)`, with words where a number does not say it."""
    limit = f" (limit {row['threshold']:.4g})" if row["threshold"] is not None else ""
    value = f" {row['value']:.4g}{limit}" if row["value"] is not None else ""
    detail = f" {row['detail']}" if row["detail"] else ""
    return f"{row['step']}/{row['rule']}{value}{detail}"


def indented(text: str | None, characters: int) -> str:
    """The beginning of a text, indented, with how much more there is."""
    if not text:
        return "   (its text is not kept)"
    shown = text[:characters] + (f"… ({len(text) - characters:,} more characters)" if len(text) > characters else "")
    return "\n".join(f"   {line}" for line in shown.splitlines())


def trial_as_plain(trial: Trial) -> dict[str, Any]:
    """What --json prints."""

    def reason(item: Rejected | None) -> dict[str, Any] | None:
        return None if item is None else plain_reason(item)

    def left(side: Passed, step: str) -> dict[str, int] | None:
        found = side.left.get(step)
        return None if found is None else {"documents": found[0], "bytes": found[1]}

    return {
        "documents": len(trial.drawn.documents),
        "seen": trial.drawn.seen,
        "all_seen": trial.drawn.whole,
        "unread": trial.drawn.unread,
        "unread_reasons": list(trial.drawn.reasons),
        "steps": [
            {"step": step, "before": left(trial.before, step), "after": left(trial.after, step)} for step in trial.steps
        ],
        "newly_rejected": len(trial.newly_rejected),
        "newly_kept": len(trial.newly_kept),
        "other_reason": len(trial.other_reason),
        "other_texts": trial.other_texts,
        "unmatched": trial.unmatched,
        "changes": [
            {
                "id": each.id,
                "source": each.source,
                "before": reason(each.before),
                "after": reason(each.after),
                "text": each.text,
            }
            for each in trial.changes
        ],
    }
