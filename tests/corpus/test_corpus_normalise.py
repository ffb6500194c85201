"""Making text regular, and cutting it."""

from __future__ import annotations

import random
import sys
import unicodedata

import pytest

from luopan.corpus import encoding
from luopan.corpus.batch import DocumentBatch
from luopan.corpus.document import Document
from luopan.corpus.encoding import fix_encoding, suspicious, unescape_entities
from luopan.corpus.filter_config import NormaliseConfig
from luopan.corpus.normalise import cut, normalise, strip_gutenberg
from luopan.corpus.steps.normalise import normalise as normalise_step
from luopan.errors import DataError

DEFAULT = NormaliseConfig()
PLAIN = NormaliseConfig(fix_encoding=False)
OFF = NormaliseConfig(
    fix_encoding=False, unescape_entities=False, nfc=False, strip_control=False, whitespace=False, strip_gutenberg=False
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc\u2028d\x0be\x85f", "a\nb\nc\nd\ne\nf"),
        ("e\u0301te\u0301", "été"),
        ("bell\x07 null\x00 del\x7f c1\x9b", "bell null del c1"),
        ("\ufeffzero\u200bwidth soft\u00adhyphen \u202eover", "zerowidth softhyphen over"),
        ("non\u00a0breaking\u2009thin", "non breaking thin"),
        ("trailing  \t\nspace \nend ", "trailing\nspace\nend"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("\n\n  indented\n\tcode\n", "  indented\n\tcode"),
        ("می\u200cخواهم 👨\u200d👩\u200d👧", "می\u200cخواهم 👨\u200d👩\u200d👧"),
        ("", ""),
    ],
)
def test_normalise(raw, clean):
    assert normalise(raw, PLAIN) == clean
    assert normalise(clean, DEFAULT) == clean


def test_what_is_turned_off_stays():
    raw = "e\u0301 \x07 a\u00a0b \nc"
    assert normalise(raw, OFF) == raw


def test_blank_lines_can_go_altogether():
    assert normalise("a\n\n\nb\nc", NormaliseConfig(max_blank_lines=0)) == "a\nb\nc"


def test_gutenberg_boilerplate_goes_and_mere_mention_stays():
    text = (
        "The Project Gutenberg eBook of Emma\n\nlicence\n\n*** START OF THE PROJECT GUTENBERG EBOOK EMMA\nBY X ***\n\n"
        "Emma Woodhouse, handsome.\n\n*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\nlong licence"
    )
    assert strip_gutenberg(text) == "Emma Woodhouse, handsome."
    old = "Macbeth speaks.\nEnd of Project Gutenberg's Macbeth\nlicence"
    assert strip_gutenberg(old) == "Macbeth speaks."
    mention = "Project Gutenberg is a library. START OF THE PROJECT GUTENBERG was 1971."
    assert strip_gutenberg(mention) == mention


def test_cut_keeps_every_word_and_prefers_paragraphs():
    text = "\n\n".join(f"Paragraph {n} has a few words in it, ünïcode too." for n in range(100))
    parts = cut(text, 500)
    assert all(len(part.encode()) <= 500 for part in parts)
    assert " ".join(" ".join(parts).split()) == " ".join(text.split())
    assert all(part.startswith("Paragraph") for part in parts)
    assert min(len(part) for part in parts) > 200  # no scrap at the end


@pytest.mark.parametrize("unit", ["x", "é", "漢", "👍"])
def test_cut_without_any_border_never_splits_a_character(unit):
    parts = cut(unit * 1000, 301)
    assert "".join(parts) == unit * 1000
    assert all(0 < len(part.encode()) <= 301 for part in parts)


def test_cut_leaves_short_text_alone():
    assert cut("short", 300) == ["short"]


def test_normal_form_is_reached_even_after_controls_are_dropped():
    text = normalise("e\u200b\u0301", DEFAULT)
    assert text == unicodedata.normalize("NFC", text) == "é"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("It wasnâ€™t â€œfineâ€\x9d, he said.", "It wasn’t “fine”, he said."),
        ("Ã©tÃ© Ã  la plage", "été à la plage"),
        ("a quote \x93in Windows\x94 form\x85", "a quote “in Windows” form…"),
        ("Привет, as “curly” – text… naïve café €5", "Привет, as “curly” – text… naïve café €5"),
        ("今天天气很好，“我们”走吧。", "今天天气很好，“我们”走吧。"),
        ("fine\nnot Ã©\nfine", "fine\nnot é\nfine"),
    ],
)
def test_wrongly_decoded_text_is_mended(raw, clean):
    pytest.importorskip("ftfy")
    assert normalise(raw, DEFAULT) == clean


def test_nothing_that_ftfy_would_mend_is_passed_over():
    pytest.importorskip("ftfy")
    from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad

    source = random.Random(1)
    drawn = [chr(c) for c in range(0x20, 0x180)] + [
        c for group in MOJIBAKE_CATEGORIES.values() for c in group.replace("-", "")
    ]
    drawn += list("aé ÃÂ√≈‚вЂβ€āГўВЖØÙ×œŒàz.,") * 20
    bad = 0
    for _ in range(20_000):
        text = "".join(source.choices(drawn, k=source.randint(1, 6)))
        if is_bad(text):
            bad += 1
            assert suspicious(text), text
    assert bad > 2000


def test_clean_text_needs_no_ftfy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    encoding.mender.cache_clear()
    clean = "Naïve “quotes” – and dashes… 今天 Привет"
    assert fix_encoding(clean.replace("Привет", "")) == clean.replace("Привет", "")
    with pytest.raises(DataError, match="ftfy") as caught:
        fix_encoding("broken Ã©")
    assert "luopan[data]" in (caught.value.hint or "")


def test_named_characters_are_resolved_outside_markup():
    assert unescape_entities("caf&eacute; &amp; bar &#8217; &#x2014; &nosuch; R&D") == "café & bar ’ — &nosuch; R&D"
    markup = "<p>caf&eacute;</p>"
    assert normalise(markup, DEFAULT) == markup
    assert normalise("a&nbsp;b", DEFAULT) == "a b"
    assert normalise("&amp;", NormaliseConfig(unescape_entities=False)) == "&amp;"


def test_the_step_counts_changes_and_rejects_what_is_empty():
    texts = ["clean text", "odd\u00a0space", " \u200b\n", ""]
    batch = DocumentBatch.of(Document(str(number), text, "made") for number, text in enumerate(texts))
    outcome = normalise_step(batch, DEFAULT)
    assert outcome.batch.ids == ["0", "1"] and outcome.batch.texts == ["clean text", "odd space"]
    assert [(rejected.id, rejected.step, rejected.rule) for rejected in outcome.rejected] == [
        ("2", "normalise", "empty"),
        ("3", "normalise", "empty"),
    ]
    assert outcome.counts == {"changed": 2}
