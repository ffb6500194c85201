"""Compare, Templates and Runs, looked at in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
Open = Callable[..., Any]
ATTACK = "<img src=x onerror=window.hacked=1>"


# ---------------------------------------------------------------- Compare


def paste(page: Any, text: str, name: str = "mine") -> None:
    page.click("[data-value=paste]")
    page.fill("[aria-label='Name of the suite']", name)
    page.fill("[aria-label='Paste your own']", text)
    page.click("#compare-begin")


def begin(page: Any, text: str, name: str = "mine") -> None:
    paste(page, text, name)
    page.wait_for_selector(".ballot")


def test_a_blind_vote_is_written_and_counted(open_page: Open, address: str, app: Any) -> None:
    page = open_page("#/compare")
    page.wait_for_selector("#compare-begin")
    page.fill("#param-temperature", "0.2")
    begin(page, "one\ntwo\nattack", "blind")
    assert page.locator(".answer header").all_inner_texts() == ["A\nhidden", "B\nhidden"]
    assert "quickstart" not in " ".join(page.locator(".answer header").all_inner_texts())
    assert page.locator(".prompt-card img").count() == 0
    said = page.locator(".answer .md").first.inner_text()
    first = "runs/quickstart/" + said.split(" ")[0]
    page.keyboard.press("1")
    page.wait_for_selector("[data-focus=next]:focus")
    assert page.locator(".answer.won header").inner_text().startswith(f"A\n{first}")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=two")
    page.wait_for_selector(".ballot kbd")
    page.keyboard.press("t")
    page.wait_for_selector("[data-focus=next]:focus")
    page.keyboard.press("Enter")
    page.wait_for_selector(".ballot kbd")
    page.keyboard.press("b")
    page.wait_for_selector("text=Every prompt has been voted on")
    votes = page.request.get(address + "api/compare/votes?suite=blind").json()
    assert [vote["vote"] for vote in votes["votes"]] == ["win", "tie", "bad"] and votes["votes"][0]["winner"] == first
    assert app.state.asked[-1]["temperature"] == 0.2
    row = Path(votes["file"]).read_text("utf-8").splitlines()[-3]
    assert json.loads(row)["answers"][0]["texts"][0].strip() == said and json.loads(row)["blind"] is True
    best = page.locator(".scores tbody tr").first.inner_text()
    assert best.startswith(first) and "75%" in best


def test_the_order_is_shuffled_for_each_prompt_and_fairly(open_page: Open) -> None:
    page = open_page("#/compare")
    orders = """async (blind) => {
      const { begin } = await import(new URL("static/js/compare/session.js", location.href).href);
      const suite = { name: "s", prompts: Array(6000).fill({ turns: ["x"] }) };
      return begin({ suite, models: ["a", "b", "c"], params: {}, blind }).orders.map((one) => one.join(""));
    }"""
    seen = page.evaluate(orders, True)
    counts = {order: seen.count(order) for order in set(seen)}
    assert len(counts) == 6 and all(850 < count < 1150 for count in counts.values()), counts  # 1000 ± 29 each
    assert set(page.evaluate(orders, False)) == {"abc"}


def test_a_comparison_goes_on_after_a_reload(open_page: Open) -> None:
    page = open_page("#/compare")
    begin(page, '{"name": "later", "prompts": ["a", {"system": "S", "turns": ["b", "c"]}]}')
    page.keyboard.press("2")
    page.wait_for_selector("[data-focus=next]")
    page.reload()
    page.wait_for_selector("#compare-resume")
    assert "1 of 2 voted" in page.locator(".resume").inner_text()
    page.click("#compare-resume")
    page.wait_for_selector(".ballot kbd")
    assert page.locator(".asked").all_inner_texts() == ["b", "c"] and "S" in page.locator(".system").inner_text()
    assert "(4 messages)" in page.locator(".answer").last.inner_text()


def test_a_broken_suite_says_where(open_page: Open) -> None:
    page = open_page("#/compare")
    page.wait_for_selector("#compare-begin")
    paste(page, '[\n  "a",\n  nope\n]')
    assert "Line 3, column 3" in page.locator(".setup .notice.bad").inner_text()
    page.fill("[aria-label='Paste your own']", '[{"turns": []}]')
    page.click("#compare-begin")
    assert "Prompt 1" in page.locator(".setup .notice.bad").inner_text()


def test_a_model_that_fails_is_no_vote(open_page: Open) -> None:
    page = open_page("#/compare", errors_meant=True)
    begin(page, "fail\nfine", "failing")
    assert "longer than the context" in page.locator(".answer").first.inner_text()
    page.keyboard.press("1")
    page.click(".ballot >> text=Skip")
    page.wait_for_selector(".ballot kbd")
    assert "0 voted" in page.locator(".arena").inner_text()


# ---------------------------------------------------------------- Templates


def rendered(page: Any) -> str:
    page.wait_for_selector(".tokens")
    page.wait_for_selector(".templates:not(.working)")
    return page.locator(".tokens").inner_text()


@pytest.fixture
def templates(open_page: Open) -> Any:
    page = open_page("#/templates", errors_meant=True)
    page.context.set_default_timeout(60_000)  # the worker starts with the first
    page.wait_for_selector(".lint li, .lint .chip.good")
    return page


def test_tokens_with_their_mask(templates: Any) -> None:
    page = templates
    assert "<|im_start|>assistant" in rendered(page).replace("↵", "")
    trained = page.locator(".tok.trained").all_inner_texts()
    assert "<|im_end|>" in trained and "user" not in "".join(trained)
    page.focus(".tokens")
    page.keyboard.press("ArrowRight")
    assert '"<|im_start|>"' in page.locator(".token-info").inner_text()
    page.hover(".tokens .tok.trained >> nth=0")
    assert "trained" in page.locator(".token-info").inner_text() and "id " in page.locator(".token-info").inner_text()
    page.click("[data-value=prompt]")
    page.wait_for_selector(".tok.trained", state="detached")


def test_json_is_checked_with_line_and_column(templates: Any) -> None:
    page = templates
    page.fill("#edit-messages", '[\n  {"role": "user" "content": "x"}\n]')
    page.wait_for_selector("text=Line 2, column 19: a comma or } is missing")
    page.wait_for_selector("text=Mend the JSON first")
    page.fill("#edit-messages", '[{"role": "user", "content": "fresh"}, {"role": "assistant", "content": "ok"}]')
    page.wait_for_selector(".tokens:has-text('fresh')")
    page.click("#tab-kwargs")
    page.fill("#edit-kwargs", "[1]")
    page.wait_for_selector("text=This must be an object")


def test_a_pasted_template_is_rendered_and_looked_at(templates: Any) -> None:
    page = templates
    page.click("#tab-source")
    page.fill("#edit-source", "{% for m in messages %}<|im_start|>" + ATTACK + "{{ m.content }}<|im_end|>{% endfor %}")
    page.wait_for_selector(".lint .finding.bad")
    assert page.locator("#template").input_value() == "pasted"
    assert ATTACK in rendered(page) and page.locator(".tokens img, .lint img").count() == 0
    page.fill("#edit-source", "{% for %}")
    page.wait_for_selector(".result-slot >> text=not valid Jinja")
    page.fill("#edit-source", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    page.wait_for_selector(".result-slot >> text=too long")
    page.select_option("#template", "shipped:qwen3")
    page.wait_for_selector(".tokens")


def test_the_tokenizer_of_a_model(templates: Any) -> None:
    page = templates
    page.select_option("#template", "model:runs/quickstart/sft")
    page.wait_for_selector("text=Tokens of a small stand-in", state="detached")
    assert page.locator("#tokenizer").input_value() == "runs/quickstart/sft"
    page.click("text=Forged tokens")
    page.wait_for_selector(".tokens:has-text('👋')")
    assert page.locator(".tok.special:has-text('im_end')").count() == 3  # system's own, and two turns: none is forged


# ---------------------------------------------------------------- Runs


def test_curves_grow_while_a_run_trains(open_page: Open, runs_folder: Path) -> None:
    page = open_page("#/runs/mine")
    page.wait_for_selector(".chart.main svg")
    titles = page.locator(".chart.main h3").all_inner_texts()
    assert titles[:3] == ["Loss", "Loss by source", "Learning rate"] and "Tokens per second" in titles
    assert page.locator(".live dd").first.inner_text() == "200"
    label = page.locator(".plot").first.get_attribute("aria-label")
    assert label.startswith("Loss: loss from 5") and "Steps 1 to 200" in label


def test_a_living_run_is_polled(open_page: Open, runs_folder: Path) -> None:
    import os
    import socket
    from datetime import UTC, datetime

    lock = runs_folder / "mine" / ".lock"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
    try:
        page = open_page("#/runs/mine")
        page.wait_for_selector(".rail-stage.running")
        page.wait_for_selector(".live dd")
        before = page.locator(".live dd").first.inner_text()
        with open(runs_folder / "mine/base.partial/metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": 777, "loss": 0.01}) + "\n")
        page.wait_for_selector(".live dd:has-text('777')", timeout=8000)
        assert before == "200"
    finally:
        lock.unlink()


def test_charts_are_read_by_pointer_and_keys(open_page: Open) -> None:
    page = open_page("#/runs/mine")
    plot = page.locator(".chart:has-text('Loss by source') .plot")
    plot.wait_for()
    plot.hover()
    tip = page.locator(".chart:has-text('Loss by source') .tip")
    assert "books" in tip.inner_text() and "web" in tip.inner_text()
    plot.focus()
    page.mouse.move(0, 0)
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("step 1")
    page.click(".legend-row >> text=web")
    assert page.locator(".chart:has-text('Loss by source') .line.c2").count() == 0
    before = page.locator(".chart .line").first.get_attribute("d")
    page.keyboard.press("l")
    page.wait_for_selector("[data-option=log][aria-pressed=true]")
    assert page.locator(".chart .line").first.get_attribute("d") != before


def test_stages_figures_and_samples(open_page: Open) -> None:
    page = open_page("#/runs/mine")
    page.click("#stage-tok")
    page.wait_for_selector(".sample")
    assert "It is sunny." in page.locator(".lead").last.inner_text()
    assert "50%" in page.locator(".figures-table").inner_text() and "+40" in page.locator(".figures-table").inner_text()
    assert page.locator("#stage-sft").is_disabled()


def test_stages_in_the_list_of_runs_are_bars_of_one_height(open_page: Open) -> None:
    page = open_page("#/runs/mine")
    page.wait_for_selector(".run-link .dots i.waiting")
    boxes = page.locator(".run-link .dots i").evaluate_all("all => all.map((one) => [one.className, one.offsetHeight])")
    assert {"finished", "waiting"} <= {name for name, _ in boxes} and {height for _, height in boxes} == {4}
    page.wait_for_selector(".rail-stage .state")
    dots = page.locator(".rail-stage .state").evaluate_all("all => all.map((a) => a.offsetWidth - a.offsetHeight)")
    assert set(dots) == {0}


def test_a_report_opens_where_it_can_run_nothing(open_page: Open) -> None:
    page = open_page("#/runs/mine", errors_meant=True)
    page.click("[data-page='report.html']")
    frame = page.frame_locator("iframe")
    frame.locator("h1").wait_for()
    assert frame.locator("body").inner_text().strip() == "The report"
    assert page.locator("iframe").get_attribute("sandbox") == ""


def test_a_run_whose_name_is_markup_is_a_name(open_page: Open) -> None:
    page = open_page("#/runs")
    link = page.locator(".run-link", has_text="<img")
    link.click()
    page.wait_for_selector(f"h1:has-text('{ATTACK}')")
    page.click("#stage-tok")
    page.wait_for_selector(".sample")
    assert page.locator(".runs img, .runs script").count() == 0
    assert "<script>window.hacked=1</script>" in page.locator(".sample").inner_text()
