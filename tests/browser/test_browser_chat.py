"""The tab Chat, looked at in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
Open = Callable[..., Any]


def say(page: Any, text: str, *, wait: bool = True) -> None:
    before = page.locator(".message").count()
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    if wait:
        page.wait_for_selector(f".message.assistant:nth-child({before + 2}):last-child .actions")


def last(page: Any) -> str:
    return page.locator(".message.assistant").last.inner_text()


def test_an_answer_streams_with_its_figures(open_page: Open, app: Any) -> None:
    page = open_page("#/chat")
    say(page, "steady")  # an answer that is there at once has no rate
    assert "sft says: steady (1 messages)" in last(page)
    assert "tokens/s" in last(page) and "prompt 12" in last(page) and "5 tokens" in last(page)
    say(page, "again")
    assert "(3 messages)" in last(page)
    assert app.state.asked[-1]["messages"][1]["role"] == "assistant"


def test_thinking_is_folded(open_page: Open) -> None:
    page = open_page("#/chat")
    say(page, "think about it")
    fold = page.locator(".thinking")
    assert fold.get_attribute("open") is None and "7 + 5" not in last(page)
    fold.locator("summary").click()
    assert "7 + 5" in last(page) and "Thought for" in last(page)


def test_stopping_keeps_what_was_said(open_page: Open) -> None:
    page = open_page("#/chat")
    say(page, "slow please", wait=False)
    page.wait_for_selector("text=word3")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=Stopped.")
    assert "word3" in last(page) and "word399" not in last(page)


def test_another_answer_is_kept_beside_the_first(open_page: Open, app: Any) -> None:
    page = open_page("#/chat")
    say(page, "hello")
    page.click("[aria-label='Answer again']")
    page.wait_for_selector("text=2 / 2")
    assert len(app.state.asked[-1]["messages"]) == 1
    page.click("[aria-label='Answer before']")
    page.wait_for_selector("text=1 / 2")


def test_an_earlier_message_is_edited_and_the_edit_undone(open_page: Open) -> None:
    page = open_page("#/chat")
    say(page, "first")
    say(page, "second")
    page.locator(".message.user").first.hover()
    page.locator("[aria-label='Edit']").first.click()
    page.fill(".editing textarea", "changed")
    page.press(".editing textarea", "Enter")
    page.wait_for_selector("text=sft says: changed (1 messages)")
    assert page.locator(".message").count() == 2
    page.click(".toast button")
    page.wait_for_selector("text=sft says: second")
    assert page.locator(".message").count() == 4


def test_parameters_are_sent_and_only_those_that_the_model_has(open_page: Open, app: Any) -> None:
    page = open_page("#/chat", viewport={"width": 1400, "height": 820})
    page.fill("#param-temperature", "0.3")
    page.fill("#param-top_k", "7")
    page.fill("#param-seed", "42")
    page.fill("#param-max_tokens", "99999")
    page.locator("label:has(#param-enable_thinking)").click()
    page.fill("#system", "Be brief.")
    say(page, "hello")
    body = app.state.asked[-1]
    assert (body["temperature"], body["top_k"], body["seed"], body["max_tokens"]) == (0.3, 7, 42, 256)
    assert body["chat_template_kwargs"] == {"enable_thinking": True} and "top_p" not in body and body["stream"] is True
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    page.select_option("#model", "elsewhere")
    assert page.locator("#param-top_k").count() == page.locator("#param-enable_thinking").count() == 0
    say(page, "hello")
    assert "top_k" not in app.state.asked[-1] and "chat_template_kwargs" not in app.state.asked[-1]
    assert app.state.asked[-1]["model"] == "elsewhere"


def test_tool_calls_are_shown_and_answered(open_page: Open, app: Any) -> None:
    page = open_page("#/chat", viewport={"width": 1400, "height": 820})
    page.fill("#tools", '[{"type": "function",')
    assert "Line 1, column 22" in page.locator(".settings .notice").inner_text()
    page.fill("#tools", '[{"type": "function", "function": {"name": "weather"}}]')
    say(page, "tool please")
    assert "weather" in last(page) and '"city": "Oslo"' in last(page)
    page.fill(".tool-form textarea", '{"celsius": -3}')
    page.click(".tool-form button")
    page.wait_for_selector("text=The tool said")
    sent = app.state.asked[-1]
    assert sent["tools"][0]["function"]["name"] == "weather"
    assert [m["role"] for m in sent["messages"]] == ["user", "assistant", "tool"]
    assert sent["messages"][2]["tool_call_id"] == sent["messages"][1]["tool_calls"][0]["id"] == "call_1"


def test_errors_say_what_they_say(open_page: Open) -> None:
    page = open_page("#/chat", errors_meant=True)
    say(page, "fail")
    assert "longer than the context of 256" in page.locator(".message .notice.bad").inner_text()
    say(page, "break off")
    assert "broke off" in page.locator(".message .notice.bad").last.inner_text() and "says:" in last(page)
    say(page, "hello")
    assert "sft says: hello" in last(page), "after an error one can go on"


def test_markdown_becomes_elements(open_page: Open) -> None:
    page = open_page("#/chat")
    say(page, "markdown")
    said = page.locator(".md")
    assert said.locator("ol > li").count() == 2 and said.locator("strong").first.inner_text() == "a list"
    assert "def longest" in said.locator("pre code").inner_text() and said.locator("td").nth(1).inner_text() == "3"
    link = said.locator("a")
    assert link.get_attribute("href") == "https://example.com/" and "noopener" in link.get_attribute("rel")
    assert "<b>no markup</b>" in said.locator("blockquote").inner_text()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    said.locator("[aria-label=Copy]").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("def longest")


def test_an_answer_that_attacks_is_text(open_page: Open) -> None:
    page = open_page("#/chat")
    say(page, "attack")
    page.wait_for_timeout(200)
    inside = page.locator(".message .md")
    assert inside.locator("img, script, iframe, svg[onload]").count() == 0
    assert all(
        h.startswith(("http:", "https:", "mailto:"))
        for h in inside.locator("a").evaluate_all("a => a.map(x => x.href)")
    )
    assert "<script>window.hacked=1</script>" in inside.inner_text()
    say(page, "<img src=x onerror=window.hacked=1>")
    assert page.locator(".bubble img").count() == 0


def test_trusted_types_forbid_markup_out_of_text(open_page: Open) -> None:
    page = open_page("#/chat", errors_meant=True)
    tried = "() => { try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (e) { return e.name } }"
    assert page.evaluate("typeof trustedTypes") == "object"
    # Evaluated by the debugger, but under the page's policy.
    assert page.evaluate(f"new Promise(r => setTimeout(() => r(({tried})()), 0))") == "TypeError"


MARKDOWN_CASES = [
    ("*a* **b** ~~c~~ `d`", ["EM:a", "STRONG:b", "DEL:c", "CODE:d"]),
    ("a_b_c __x__ * y *", ["STRONG:x"]),
    ("- a\n  - b\n- c", ["UL:", "LI:a", "UL:", "LI:b", "LI:c"]),
    ("3. x\n4. y", ["OL:", "LI:x", "LI:y"]),
    ("# T #\ntext", ["H3:T"]),
    ("> q\n> r", ["BLOCKQUOTE:", "BR:"]),
    ("[x](javascript:alert(1)) [y](http://a.b/c)", ["A:y"]),
    ("see https://a.example/x. ok", ["A:https://a.example/x"]),
    ("\\*not\\* <script>x</script>", []),
    ("```\n<b>\n", ["DIV:", "DIV:", "SPAN:code", "BUTTON:", "PRE:", "CODE:<b>"]),
    ("a\n\n---\n\nb", ["HR:"]),
]


def test_markdown_by_hand(open_page: Open) -> None:
    page = open_page("#/chat")
    shape = """async (text) => {
      const { markdown } = await import(new URL("static/js/markdown.js", location.href).href);
      const own = (node) => [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("").trim();
      return [...markdown(text).querySelectorAll("*:not(p, svg, svg *)")].map((n) => `${n.tagName}:${own(n)}`);
    }"""
    for text, expected in MARKDOWN_CASES:
        got = [item if item.split(":")[0] != "BLOCKQUOTE" else "BLOCKQUOTE:" for item in page.evaluate(shape, text)]
        assert got == expected, text


def test_long_answers_take_linear_time(open_page: Open) -> None:
    page = open_page("#/chat")
    took = """async (text) => {
      const { markdown } = await import(new URL("static/js/markdown.js", location.href).href);
      const begun = performance.now();
      markdown(text);
      return performance.now() - begun;
    }"""
    for piece in (
        "*a ",
        "**",
        "`",
        "[",
        "[a](",
        "_a",
        "<http://",
        "> ",
        "- ",
        "| a |\n|-|\n",
        "1. a\n   ",
        "\\",
        "~~x ",
    ):
        assert page.evaluate(took, piece * 20_000) < 4000, piece


def test_conversations_are_kept_found_and_deleted(open_page: Open) -> None:
    page = open_page("#/chat")
    say(page, "about whales")
    page.click("#new-chat")
    say(page, "about clouds")
    page.reload()
    page.wait_for_selector(".chat-link")
    assert page.locator(".chat-link").count() == 2
    page.fill("input[type=search]", "whale")
    assert page.locator(".chat-link").count() == 1
    page.click(".chat-link")
    page.wait_for_selector("text=sft says: about whales")
    page.hover(".chats li")
    page.click(".chats li [aria-label^=Delete]")
    page.wait_for_selector("text=Conversation deleted")
    page.click(".toast button")
    page.wait_for_selector("text=sft says: about whales")


def test_an_answer_goes_on_while_another_tab_is_looked_at(open_page: Open) -> None:
    page = open_page("#/chat")
    say(page, "slow please", wait=False)
    page.wait_for_selector("text=word3")
    page.click("#tab-runs")
    page.wait_for_selector(".run-list")
    page.click("#tab-chat")
    page.wait_for_selector("text=word12")
    page.click(".send")
    page.wait_for_selector("text=Stopped.")


@pytest.mark.parametrize("kind", ["JSON", "Markdown"])
def test_export(open_page: Open, tmp_path: Path, kind: str) -> None:
    page = open_page("#/chat")
    say(page, "think about it")
    page.click("#export")
    with page.expect_download() as download:
        page.click(f".choice:has-text('{kind}')")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    text = file.read_text(encoding="utf-8")
    if kind == "JSON":
        assert file.name == "think-about-it.json"
        given = json.loads(text)
        assert [m["role"] for m in given["messages"]] == ["user", "assistant"] and "7 + 5" in given["answers"][0][
            "thinking"
        ]
    else:
        assert "## You\n\nthink about it" in text and "> 7 + 5" in text
