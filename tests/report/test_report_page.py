"""The page: whole, closed to scripts and networks, and standing when parts are missing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

from luopan.report.data import Figure, Image, LineChart, RunReport, Sample, StageReport, Table
from luopan.report.markup import VOID, Markup, escape, tag, visible
from luopan.report.page import render

HOSTILE = "\"'><script>alert(1)</script><img src=http://x.test/a onerror=alert(2)></style></svg>&amp;\x00\u202e"


class Page(HTMLParser):
    """Reads a page strictly: every element closed in order. Keeps tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags for key, value in attrs.items() if key == name and value is not None]


def poisoned(value: Any, key: str = "") -> Any:
    """`value` (a dump of a report) with every free string, and every key of a free mapping, made hostile."""
    if key in ("type", "style", "status", "level", "media_type", "created", "unit"):
        return value
    if isinstance(value, str):
        return HOSTILE + value
    if isinstance(value, list | tuple):
        return [poisoned(item) for item in value]
    if isinstance(value, dict):
        free = key in ("inputs", "series", "rows", "answers", "hardware", "versions") or key.startswith("free:")
        return {(HOSTILE + k if free else k): poisoned(v, "free:" if key == "rows" else k) for k, v in value.items()}
    return value


def assert_harmless(html: str) -> Page:
    page = Page(html)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "base", "form", "foreignobject", "use", "animate"}
    for name, attrs in page.tags:
        assert not [key for key in attrs if key.startswith("on")], (name, attrs)
        if name in ("img", "image"):
            assert (attrs.get("src") or "").startswith("data:image/")
    links = page.attributes("href") + page.attributes("src")
    assert links and all(link.startswith(("#", "data:image/")) for link in links)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    return page


def test_a_whole_run_is_one_closed_page(report: RunReport) -> None:
    html = render(report)
    page = assert_harmless(html)
    assert len(html.encode()) < 1_000_000
    assert html == render(report), "the same report gives the same page"
    policy = next(a["content"] for n, a in page.tags if n == "meta" and a.get("http-equiv"))
    assert policy and "default-src 'none'" in policy
    text = " ".join(page.text)
    for stage in report.stages:
        assert stage.name in text and stage.identity[:16] in text
    for words in (
        "8 clearly better, 2 without a clear change",
        "3.22×10¹³",
        "6\u00a0min\u00a033\u00a0s",
        "1.13\u00a0GiB",
        "11,480 · 8.24\u00a0MiB",
        "malformed JSON",
        "exact duplicate of an earlier document",
        "It knows no facts.",
        "expected: 1172",
        "✂ did not stop",
        "transformers",
        "learning_rate: 3.0e-3   # <b>not markup</b>",
        "pretrained length 256",
        "chance level",
    ):
        assert words in text, words


def test_contents_lead_somewhere_and_ids_are_unique(report: RunReport) -> None:
    page = Page(render(report))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in page.attributes("href") if link.startswith("#")}
    assert targets == set(ids)
    assert {
        "glance",
        "samples",
        "limits",
        "cost",
        "set-aside",
        "lineage",
        "provenance",
        "stage-0",
        "stage-7",
    } <= targets


def test_pictures_have_a_text_alternative_and_are_sound_xml(report: RunReport) -> None:
    html = render(report)
    page = Page(html)
    for name, attrs in page.tags:
        if name == "svg" and "viewbox" in attrs and "xmlns" in attrs:
            assert attrs["role"] == "img" and len(attrs["aria-label"] or "") > 10
    pictures = re.findall(r"<svg xmlns=.*?</svg>(?:(?:(?!<svg xmlns).)*?</svg>)*", html, re.S)
    assert len(pictures) > 40
    for picture in re.findall(r'<div class="scroll[^"]*">(<svg xmlns.*?)</div>', html, re.S):
        ElementTree.fromstring(picture)
    # Colour is not the only carrier: verdicts are words, curves differ in dash, bars carry their values.
    assert "no clear change" in html and "stroke-dasharray" in html and "45.0% ±\u00a03.5" in html


@pytest.mark.parametrize("name", ["curate", "pretrain", "sft", "grpo", "eval"])
def test_a_stage_may_be_missing(report: RunReport, name: str) -> None:
    fewer = report.model_copy(update={"stages": [s for s in report.stages if s.name != name]})
    page = assert_harmless(render(fewer))
    assert "stage-6" in page.attributes("id") and "stage-7" not in page.attributes("id")


def test_hostile_text_in_every_field_stays_text(report: RunReport) -> None:
    hostile = RunReport.model_validate(poisoned(report.model_dump()))
    html = render(hostile)
    page = assert_harmless(html)
    assert "alert(1)" in html and "\x00" not in html and "\u202e" not in html
    assert any("<script>alert('x')</script> hello" in text for text in page.text), "the sample is there to be read"
    plain = {name for name, _ in Page(render(report)).tags}
    assert {name for name, _ in page.tags} == plain


def test_little_or_nothing_to_show() -> None:
    nothing = assert_harmless(render(RunReport(name="empty")))
    assert "empty" in nothing.text and nothing.attributes("id") == ["top"]
    two = RunReport(
        name="two",
        stages=[
            StageReport(kind="tokenizer", name="tok"),
            StageReport(
                kind="pretrain",
                name="base",
                status="failed",
                series={"loss": [], "grad_norm": [(1, None)], "learning_rate": [(1, float("nan"))]},
                figures=[Figure(name="bits"), Figure(name="nan", before=float("nan"), after=float("inf"))],
                pictures=[LineChart(title="bare", lines=[])],
                tables=[Table(title="no rows", columns=["a", "b"], rows=[])],
            ),
        ],
    )
    page = assert_harmless(render(two))
    text = " ".join(page.text)
    assert "no rows" in text and "failed" in text and "nan" in text
    assert "2 figures measured; none has something to be compared with." in text
    assert {"stage-0", "stage-1", "lineage"} <= set(page.attributes("id"))
    assert "cost" not in page.attributes("id") and "samples" not in page.attributes("id")
    labels = page.attributes("aria-label")
    assert "bare: no data" in labels and not any("Loss" in label for label in labels)


def test_a_long_run_stays_small(report: RunReport) -> None:
    series = {f"metric_{i}": [(float(s), (s * 7919 % 1000) / 1000) for s in range(5000)] for i in range(12)}
    stages = [stage.model_copy(update={"series": {**stage.series, **series}}) for stage in report.stages]
    samples = [s.model_copy(update={"title": f"{i}"}) for i in range(20) for s in report.samples]
    html = render(report.model_copy(update={"stages": stages, "samples": samples}))
    assert html.count("Metric 11") >= len(stages)
    assert len(html.encode()) < 3_000_000


def test_a_runaway_answer_is_cut_and_says_so(report: RunReport) -> None:
    sample = report.samples[0]
    answer = sample.answers["sft"].model_copy(update={"text": "ha" * 50_000})
    html = render(RunReport(name="x", samples=[Sample(messages=sample.messages, answers={"sft": answer})]))
    assert "(97,000 more characters)" in html and len(html) < 40_000


def test_kept_as_json_it_renders_the_same(report: RunReport) -> None:
    picture = Image(title="photo", alt="a photo", data=b"<svg xmlns='http://www.w3.org/2000/svg'/>\xff")
    stage = report.stages[0].model_copy(update={"pictures": [picture]})
    whole = report.model_copy(update={"stages": [stage, *report.stages[1:]]})
    again = RunReport.model_validate_json(whole.model_dump_json())
    assert again == whole and render(again) == render(whole)
    assert 'alt="a photo"' in render(whole) and "data:image/svg+xml;base64,PHN2Zy" in render(whole)


def test_markup_escapes_whatever_is_not_markup() -> None:
    assert tag("p", "<b>", Markup("<i>x</i>"), title='"<&') == '<p title="&quot;&lt;&amp;">&lt;b&gt;<i>x</i></p>'
    assert tag("a", href=Markup('"><script>')) == '<a href="&quot;&gt;&lt;script&gt;"></a>'
    assert tag("br", None, hidden=True, id=None, x=False) == "<br hidden/>"
    assert tag("i", 0) == "<i>0</i>", "zero is not nothing"
    assert escape("a\x00\x1b\n\ud800\u202e") == "a␀␛\n\ufffd[U+202E]"
    assert visible("plain é 中文\t") == "plain é 中文\t"
