"""What holds for all tabs: keyboard, phone, dark, Chinese, the key, nothing broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_server
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
Open = Callable[..., Any]
TABS = {"chat": ".welcome", "compare": "#compare-begin", "templates": ".panels .area", "runs": ".run-link"}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
CJK = """() => [...document.querySelectorAll('#app *')].flatMap((n) => [...n.childNodes])
  .some((c) => c.nodeType === 3 && /[\\u4e00-\\u9fff]/.test(c.data))"""


@pytest.mark.parametrize(
    "options", [{}, PHONE, {"color_scheme": "dark"}, {"locale": "zh-CN"}], ids=["desktop", "phone", "dark", "zh"]
)
def test_every_tab_opens_and_fits(open_page: Open, options: dict[str, Any]) -> None:
    page = open_page("", **options)
    for tab, expected in TABS.items():
        page.click(f"#tab-{tab}")
        page.wait_for_selector(expected)
        page.wait_for_timeout(150)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{tab} is {wide} pixels too wide"
        assert page.get_attribute(f"#tab-{tab}", "aria-selected") == "true"
        out = page.evaluate(
            """() => [...document.querySelectorAll('#main *')].filter((n) => {
                 const r = n.getBoundingClientRect(); const s = getComputedStyle(n);
                 if (!r.width || s.visibility === 'hidden') return false;
                 if (n.closest('.side, .settings, .rail, .scroll, .run-page, .area, svg, .tokens')) return false;
                 return r.right > innerWidth + 1;
               }).map((n) => n.className || n.tagName).slice(0, 5)"""
        )
        assert out == [], f"{tab}: {out}"


@pytest.mark.parametrize("width", [1199, 1200, 1201])
def test_the_settings_never_lie_over_a_conversation_unasked(open_page: Open, width: int) -> None:
    page = open_page("#/chat", viewport={"width": width, "height": 820})
    page.wait_for_selector(".welcome")
    assert not page.is_visible(".veil")


def test_touch_targets_are_large_enough_on_a_phone(open_page: Open) -> None:
    page = open_page("#/chat", **PHONE)
    page.wait_for_selector(".welcome")
    small = page.evaluate(
        "[...document.querySelectorAll('button, a[role=tab], select')]"
        ".filter(n => n.checkVisibility({visibilityProperty: true}))"
        ".map(n => [n.id || n.className, n.getBoundingClientRect().height]).filter(([, h]) => h < 34)"
    )
    assert small == []


def test_a_phone_talks(open_page: Open) -> None:
    page = open_page("#/chat", **PHONE)
    page.fill("#prompt", "hello")
    page.tap(".send")
    page.wait_for_selector("text=sft says: hello")
    page.tap(".side-button")
    page.wait_for_selector(".show-side .chat-link")
    page.tap(".veil", position={"x": 380, "y": 300})
    page.tap("#settings-button")
    page.wait_for_selector("#param-temperature", state="visible")


def test_dark_and_light_by_system_and_by_switch(open_page: Open) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page("", color_scheme=scheme) for scheme in ("light", "dark"))
    assert light.evaluate(colour) != dark.evaluate(colour)
    night = dark.evaluate(colour)
    for _ in range(2):
        light.click("#theme")
    assert light.evaluate(colour) == night
    light.reload()
    assert light.evaluate(colour) == night, "remembered"


def test_contrast_is_enough(open_page: Open) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text, of the tokens that text and its ground are made of."""
    ratio = """([fore, back]) => {
      const probe = document.createElement('i'); document.body.append(probe);
      const lum = (name) => {
        probe.style.color = `var(--${name})`;
        const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const [a, b] = [lum(fore), lum(back)].sort((x, y) => y - x); probe.remove();
      return (a + 0.05) / (b + 0.05);
    }"""
    pairs = [
        ("ink", "paper"),
        ("soft", "paper"),
        ("soft", "wash"),
        ("accent", "card"),
        ("accent-ink", "accent"),
        ("faint", "card"),
        ("faint", "paper"),
    ]
    pairs += [(n, f"{n}-wash") for n in ("good", "warn", "bad", "special", "accent")]
    for scheme in ("light", "dark"):
        page = open_page("", color_scheme=scheme)
        poor = {pair: round(found, 2) for pair in pairs if (found := page.evaluate(ratio, list(pair))) < 4.5}
        assert not poor, (scheme, poor)


def test_chinese_by_browser_and_by_switch_is_remembered(open_page: Open) -> None:
    page = open_page("", locale="zh-CN")
    assert page.inner_text("#tab-chat") == "对话" and page.get_attribute("html", "lang") == "zh"
    page.click("#language")
    page.wait_for_selector("#tab-chat:has-text('Chat')")
    page.reload()
    page.wait_for_selector("#tab-chat:has-text('Chat')")
    for tab, expected in TABS.items():
        page.click(f"#tab-{tab}")
        page.wait_for_selector(expected)
        if tab == "runs":
            assert "Stages" in page.get_attribute(".rail", "aria-label")


def test_keyboard_alone(open_page: Open) -> None:
    page = open_page("#/chat")
    page.wait_for_selector(".idea")
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press("Tab")
    press("Tab")
    assert page.evaluate("document.activeElement.id") == "tab-chat"
    press("ArrowRight")
    page.wait_for_selector("#compare-begin")
    assert page.evaluate("document.activeElement.id") == "tab-compare"
    press("End")
    page.wait_for_selector(".run-link")
    press("g")
    press("c")
    page.wait_for_selector(".idea")
    press("/")
    page.keyboard.type("hello")
    press("Enter")
    page.wait_for_selector("text=sft says: hello")
    page.wait_for_selector(".message.assistant .actions")  # only a whole answer can be made again
    press("Escape")
    press("r")
    page.wait_for_selector("text=2 / 2")
    press("e")
    page.wait_for_selector(".editing textarea:focus")
    press("Escape")
    page.wait_for_selector(".editing", state="detached")
    press("Escape")
    press("n")
    page.wait_for_selector(".idea")


def test_the_focus_can_be_seen_everywhere(open_page: Open) -> None:
    page = open_page("#/chat")
    page.wait_for_selector(".idea")
    seen = []
    for _ in range(22):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(
            """() => { const n = document.activeElement; if (n === document.body) return true;
                 const parts = [n, n.closest('.box')].filter(Boolean).map((m) => getComputedStyle(m));
                 const seen = parts.some((s) => s.outlineStyle !== 'none' || s.boxShadow.includes('0px 0px 0px 3px'));
                 return seen || n.outerHTML.slice(0, 90); }"""
        ))  # fmt: skip
    assert [one for one in seen if one is not True] == []


def test_every_control_has_a_name(open_page: Open) -> None:
    page = open_page("")
    for tab, expected in TABS.items():
        page.click(f"#tab-{tab}")
        page.wait_for_selector(expected)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('button, a, input, select, textarea, [role=tab]')]
                 .filter((n) => n.checkVisibility() && n.ariaHidden !== 'true')
                 .filter((n) => !(n.getAttribute('aria-label') || n.innerText?.trim() || n.labels?.length))
                 .map((n) => n.outerHTML.slice(0, 120))"""
        )
        assert nameless == [], tab


def test_help_lists_the_shortcuts_and_closes(open_page: Open) -> None:
    page = open_page("#/chat")
    page.wait_for_selector(".idea")
    page.keyboard.press("?")
    assert page.locator("dialog kbd").count() > 20
    page.keyboard.press("n")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")


def test_the_key_is_asked_for_and_used(open_page: Open, tmp_path: Path) -> None:
    app = fake_server.fake_app(runs=tmp_path, votes=tmp_path / "votes", api_key="open sesame")
    with fake_server.serving(app) as url:
        page = open_page_at(open_page, url)
        page.wait_for_selector("dialog input[type=password]:focus")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog .notice.bad")
        page.fill("dialog input", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector(".welcome")
        page.fill("#prompt", "hello")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=sft says: hello")
        page.reload()
        page.wait_for_selector(".chat-link")
        assert page.locator("dialog").count() == 0, "kept for this tab"


def open_page_at(open_page: Open, url: str) -> Any:
    return open_page("", at=url, errors_meant=True, wait="dialog")


def test_a_server_that_is_gone_is_said(open_page: Open, tmp_path: Path) -> None:
    app = fake_server.fake_app(runs=tmp_path, votes=tmp_path / "votes")
    with fake_server.serving(app) as url:
        page = open_page("#/chat", at=url, errors_meant=True)
        page.wait_for_selector(".welcome")
    page.fill("#prompt", "hello")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The server cannot be reached")


def test_without_storage_the_page_works(open_page: Open) -> None:
    page = open_page("#/chat", init="Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }})")
    page.fill("#prompt", "hello")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=sft says: hello")
    assert page.locator(".chat-link").count() == 1


def test_both_languages_are_complete_in_the_browser(open_page: Open) -> None:
    page = open_page("", locale="zh-CN")
    assert page.evaluate(CJK)
    page.click("#help")
    assert "快捷键" in page.inner_text("dialog")
