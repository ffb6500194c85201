"""Where the answer begins and ends: generation prompt, trained span, stop token, white space, roles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luopan.tokens.lint_probe import CONTROL, Probe, around, call, result, says, system, tool, user
from luopan.tokens.lint_report import Finding, Severity
from luopan.tokens.template import Piece

U1, A1, U2, A2, CALLED, THOUGHT = "Zquoneqz", "Zqaoneqz", "Zqutwoqz", "Zqatwoqz", "Zqcalledqz", "Zqthoughtqz"
RESULT = "Zqresultqz"
OFF, THINKING = "assistant, thinking off", "assistant with reasoning_content"
_THOUGHT = [user(U1), says(A1, reasoning_content=THOUGHT), user(U2), says(A2, reasoning_content=THOUGHT)]
_HINTS = {
    "header-trained": "begin {% generation %} behind the header that add_generation_prompt writes",
    "trained-late": "begin {% generation %} right behind what add_generation_prompt writes",
    "stop-untrained": "put the token that ends the turn inside {% generation %}: else a model never learns to stop",
    "stop-not-last": "end {% generation %} right behind the stop token",
    "user-trained": "put nothing but the assistant's words inside {% generation %}",
    "mask-empty": "put {% generation %} … {% endgeneration %} around the answer and its stop token",
    "no-stop": "end an assistant turn with a control token, and name it as eos",
    "prompt-differs": "let add_generation_prompt write exactly the header of an assistant turn",
    "no-generation-prompt": "write the assistant's header where add_generation_prompt is set",
    "rewrites-history": "train on the last turn only (train_on: last_turn): at inference a turn has its new form",
    "roles": "write each message under a header of its own role",
}


@dataclass(frozen=True)
class Talk:
    """A conversation whose assistant turns (`turns`: index of the message, a word near its end) are looked at."""

    where: str
    messages: Sequence[dict[str, Any]]
    turns: Sequence[tuple[int, str]]
    tools: Sequence[dict[str, Any]] | None = None
    thinking: bool = True


def talks() -> list[Talk]:
    """A plain conversation with thinking on and off, one with thinking, one with a tool call."""
    plain = [user(U1), says(A1), user(U2), says(A2)]
    called = [user(U1), says("", tool_calls=[call(arguments={"town": CALLED})]), result(RESULT), says(A2)]
    turns = [(1, A1), (3, A2)]
    return [
        Talk("assistant", plain, turns),
        Talk(OFF, plain, turns, thinking=False),
        Talk(THINKING, _THOUGHT, turns),
        Talk("assistant with tool_calls", called, [(1, CALLED), (3, A2)], [tool()]),
    ]


def _find(rule: str, where: str, message: str, example: str = "", severity: Severity = "error") -> Finding:
    return Finding(rule, severity, where, message, _HINTS.get(rule, ""), example)


def check_spans(probe: Probe) -> Iterator[Finding]:
    """Prefix property, trained span and stop token of each kind of turn; white space; roles."""
    if not probe.marks_training:
        yield _unmarked(probe)
    found = {talk.where: list(_turns(probe, talk)) for talk in talks()}
    sound = not any(f.severity == "error" for where in (OFF, THINKING) for f in found[where])
    for where, findings in found.items():
        mild = sound and where not in (OFF, THINKING) and probe.render(_THOUGHT).text.count(THOUGHT) > 0
        for finding in findings:
            if mild and finding.rule == "prompt-differs":
                hint = "switch thinking off in rows that have none (enable_thinking: false)"
                yield replace(
                    finding, severity="warning", hint=hint, message=f"without thinking in it, {finding.message}"
                )
            else:
                yield finding
    yield from _roles(probe)
    yield from _borders(probe)
    yield from _white_space(probe)
    yield from _stripped(probe)


def _turns(probe: Probe, talk: Talk) -> Iterator[Finding]:
    done = probe.render(talk.messages, tools=talk.tools, enable_thinking=talk.thinking)
    if done.usable:
        yield from _prompts(probe, talk, done.text)
        yield from _spans(probe, talk, done.pieces) if probe.marks_training else _ends(probe, talk, done.text)


def _unmarked(probe: Probe) -> Finding:
    talk = talks()[0]
    done = probe.render(talk.messages)
    ends = [probe.render(talk.messages[: i + 1]).text.rstrip() for i, _ in talk.turns]
    whole = all(done.text.startswith(end) for end in ends)
    how = (
        "of every turn" if whole else "of the last turn only (train_on: last_turn), because earlier turns are rewritten"
    )
    message = (
        f"no {{% generation %}}: the trained part is found here by rendering the prompt {how}; others train on all"
    )
    return Finding("no-generation", "warning", "assistant", message, "mark the answer and its stop token")


def _prompts(probe: Probe, talk: Talk, text: str) -> Iterator[Finding]:
    """The prompt of a turn must be what stands before it in training."""
    for number, (index, _) in enumerate(talk.turns):
        given: dict[str, Any] = {"tools": talk.tools, "enable_thinking": talk.thinking}
        prompt = probe.render(talk.messages[:index], prompt=True, **given)
        bare = probe.render(talk.messages[:index], **given)
        newest = probe.render(talk.messages[: index + 1], **given)
        if not (prompt.usable and newest.usable):
            continue
        if not newest.text.startswith(prompt.text):
            said = newest.text[_common(prompt.text, newest.text) :][:60]
            asked = prompt.text[_common(prompt.text, newest.text) :][:60]
            message = f"the generation prompt continues with {asked!r}, the turn in training with {said!r}"
            yield _find("prompt-differs", talk.where, message, prompt.text[-120:])
        elif prompt.text == bare.text and _header(newest.text[len(prompt.text) :], talk.messages[index]):
            yield _find("no-generation-prompt", talk.where, "add_generation_prompt adds nothing", newest.text[-120:])
        elif not (text.startswith(prompt.text) and text.startswith(newest.text.rstrip())):
            last = number + 1 == len(talk.turns)
            at = _common(newest.text, text)
            message = (
                f"once others follow, a turn changes: {newest.text[at : at + 50]!r} becomes {text[at : at + 50]!r}"
            )
            yield _find("rewrites-history", talk.where, message, text[:160], "error" if last else "warning")


def _header(text: str, message: dict[str, Any]) -> bool:
    """Whether a control token stands before what a turn says."""
    content = message["content"] or CALLED
    return CONTROL.search(text[: max(0, text.find(content))]) is not None


def _common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _runs(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Where trained stretches begin and end, in characters."""
    runs: list[tuple[int, int]] = []
    at = 0
    for piece in pieces:
        end = at + len(piece.text)
        if piece.trained:
            if runs and runs[-1][1] == at:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((at, end))
        at = end
    return runs


def _spans(probe: Probe, talk: Talk, pieces: Sequence[Piece]) -> Iterator[Finding]:
    text, runs = "".join(piece.text for piece in pieces), _runs(pieces)
    if not runs:
        yield _find("mask-empty", talk.where, "nothing is inside {% generation %}", text[-120:])
        return
    for word in (U1, U2, RESULT):
        at = text.find(word)
        if any(begin <= at < end for begin, end in runs):
            yield _find("user-trained", talk.where, "words of others are inside {% generation %}", around(text, at))
    for number, (index, word) in enumerate(talk.turns):
        at = text.rfind(word)
        run = next(((begin, end) for begin, end in runs if begin <= at < end), None)
        if at < 0:
            continue
        if run is None:
            last = number + 1 == len(talk.turns)
            message = "the answer is outside {% generation %}" if last else "earlier turns are not trained on"
            rule = "mask-empty" if last else "earlier-untrained"
            yield _find(rule, talk.where, message, around(text, at), "error" if last else "warning")
            continue
        prompt = probe.render(talk.messages[:index], prompt=True, tools=talk.tools, enable_thinking=talk.thinking)
        yield from _begins(talk, text, run, prompt.text)
        yield from _closes(probe, talk, text, run, at + len(word))


def _begins(talk: Talk, text: str, run: tuple[int, int], prompt: str) -> Iterator[Finding]:
    if not prompt or not text.startswith(prompt):
        return
    if run[0] < len(prompt):
        inside = text[run[0] : len(prompt)]
        yield _find("header-trained", talk.where, f"{inside!r} of the prompt is trained on", around(text, run[0]))
    elif run[0] > len(prompt):
        skipped = text[len(prompt) : run[0]]
        yield _find(
            "trained-late", talk.where, f"{skipped!r} must be generated, and is not trained on", around(text, run[0])
        )


def _closes(probe: Probe, talk: Talk, text: str, run: tuple[int, int], behind: int) -> Iterator[Finding]:
    inside, after = text[behind : run[1]], text[run[1] : run[1] + 40]
    if probe.stop_at_end(inside):
        return
    if probe.stop_at_end(inside.rstrip()):
        extra = inside[len(inside.rstrip()) :]
        yield _find("stop-not-last", talk.where, f"{extra!r} behind the stop token is trained on", around(text, run[1]))
    else:
        message = f"the trained span ends before the stop token, which follows: {after!r}"
        yield _find("stop-untrained", talk.where, message, around(text, run[1]))


def _ends(probe: Probe, talk: Talk, text: str) -> Iterator[Finding]:
    word = talk.turns[-1][1]
    tail = text[text.rfind(word) + len(word) :]
    if word in text and not probe.stop_at_start(tail):
        yield _find("no-stop", talk.where, f"no token ends a turn; behind the answer stands {tail[:40]!r}", text[-80:])


def turn_end(probe: Probe) -> str:
    """The token that ends a plain answer, the last of several; nothing where there is none."""
    text = probe.render([user(U1), says(A1)]).text
    rest, end = text[text.rfind(A1) + len(A1) :] if A1 in text else "", ""
    while stop := probe.stop_at_start(rest):
        rest, end = rest.lstrip()[len(stop) :], stop
    return end


def _gap(probe: Probe, text: str, before: str, after: str) -> str | None:
    """What stands between two words, the first one's stop token and the white space behind it apart."""
    start, end = text.find(before), text.find(after)
    if start < 0 or end < start:
        return None
    gap = text[start + len(before) : end]
    stop = probe.stop_at_start(gap)
    return gap.split(stop, 1)[1] if stop else gap


def _roles(probe: Probe) -> Iterator[Finding]:
    text = probe.render([user(U1), says(A1), user(U2), says(A2)]).text
    asks, answers = _gap(probe, text, A1, U2), _gap(probe, text, U2, A2)
    if asks is None or answers is None:
        if text and text.find(U1) > text.find(A1) >= 0:
            yield _find("roles", "conversation", "the messages are not in their order", text[:160])
        return
    if asks.strip() == answers.strip() and probe.stop_at_start(text[text.find(U1) + len(U1) :]) == turn_end(probe):
        yield _find("roles", "user, assistant", f"both have the same header {asks.strip()!r}", text[:160])
    elif re.search("assistant", asks, re.I) and not re.search("user", asks, re.I):
        yield _find("roles", "user", f"the user speaks under {asks.strip()!r}", text[:160])
    elif re.search("user", answers, re.I) and not re.search("assistant", answers, re.I):
        yield _find("roles", "assistant", f"the assistant speaks under {answers.strip()!r}", text[:160])


def _borders(probe: Probe) -> Iterator[Finding]:
    """Where a user's turn is closed and the next opened by control tokens, so must be every other message's."""
    plain, end = probe.render([user(U1), says(A1), user(U2), says(A2)]).text, turn_end(probe)
    if not end or not _closed(_between(plain, U1, A1), end) or not _closed(_between(plain, A1, U2), end):
        return
    called = [user(U1), says("", tool_calls=[call(arguments={"town": CALLED})]), result("Zqresultqz"), says(A2)]
    for messages, tools, pairs in (
        ([system("Zqsysqz"), user(U1), says(A1)], None, [("system", "Zqsysqz", U1)]),
        ([system("Zqsysqz"), user(U1), says(A1)], [tool()], [("system with tools", "Zqsysqz", U1)]),
        (called, [tool()], [("assistant with tool_calls", CALLED, "Zqresultqz"), ("tool", "Zqresultqz", A2)]),
    ):
        text = probe.render(messages, tools=tools).text
        for where, one, other in pairs:
            gap = _between(text, one, other)
            if gap is not None and CONTROL.search(gap) and not _closed(gap, end):
                hint = "close every message with the token that ends a turn, and open the next with its header"
                message = "no token ends it, or none begins what follows"
                # some formats keep calls and results inside one turn of the assistant
                level: Severity = "error" if where.startswith("system") else "warning"
                yield Finding("open-turn", level, where, message, hint, around(text, text.find(one)))
        sys_at = text.find("Zqsysqz")
        if sys_at >= 0 and not probe.stop_at_start(text):
            hint = "write its header in front of it"
            yield Finding("open-turn", "error", "system", "no control token begins the text", hint, text[:80])


def _between(text: str, one: str, other: str) -> str | None:
    here, there = text.rfind(one), text.find(other)
    return text[here + len(one) : there] if 0 <= here < there else None


def _closed(gap: str | None, end: str) -> bool:
    """The token that ends a turn stands in the gap, and another control token behind it."""
    return gap is not None and end in gap and CONTROL.search(gap.rsplit(end, 1)[1]) is not None


def _white_space(probe: Probe) -> Iterator[Finding]:
    """White space that the template's layout leaks. Allowed: one line break or space behind a turn's stop token."""
    hint = "write {%- … -%} and {{- … -}} where a line of the template must leave no trace"
    messages = [system("Zqsysqz"), user(U1), says(A1), user(U2), says(A2)]
    done = probe.render(messages)
    if not done.usable:
        messages = messages[1:]
        done = probe.render(messages)
    text = done.text
    if text != text.lstrip():
        yield Finding("white-space", "warning", "before the first message", f"the text begins with {text[:12]!r}", hint)
    words = [m["content"] for m in messages if m["content"] in text]
    places = [text.find(w) for w in words]
    for one, here, there in zip(words, places, [*places[1:], len(text)], strict=False):
        gap = text[here + len(one) : max(there, here)]
        stop = probe.stop_at_start(gap)
        if not stop and one == "Zqsysqz":
            continue  # a template may put words of its own, or a line, behind a system prompt
        lead = gap[: gap.find(stop)] if stop and one != "Zqsysqz" else ""
        behind = gap[len(lead) + len(stop) :]
        blank = behind[: len(behind) - len(behind.lstrip())]
        if len(blank) > 1 or blank in ("\t", "\r") or lead.strip(" ") or len(lead) > 1:
            message = f"{(lead or blank)!r} stands between messages"
            yield Finding("white-space", "warning", "between messages", message, hint, gap[:80])
        elif indented := re.search(r"\n[ \t]+|[ \t]{2,}", gap):
            message = f"{indented[0]!r} stands in a header"
            yield Finding("white-space", "warning", "header", message, hint, gap[:80])
    prompt = probe.render(messages[:-1], prompt=True).text
    if prompt.endswith((" ", "\t")):
        hint = "end the prompt before the space: it becomes a token of its own that training never has there"
        yield Finding("white-space", "warning", "generation prompt", "the prompt ends on a space", hint, prompt[-60:])


def _stripped(probe: Probe) -> Iterator[Finding]:
    """Content must keep the white space that it begins and ends with."""
    said = " \n Zqspacedqz \n "
    hint = "leave content as it is (no | trim): code and verse begin with white space"
    for where, messages in (
        ("system content", [system(said), user(), says()]),
        ("user content", [user(said), says()]),
        ("assistant content, last", [user(), says(said)]),
        ("assistant content, earlier", [user(), says(said), user(), says()]),
    ):
        text = probe.render(messages).text
        if "Zqspacedqz" in text and said not in text:
            at = text.find("Zqspacedqz")
            yield Finding(
                "strips", "warning", where, "white space round the content is taken away", hint, around(text, at)
            )
