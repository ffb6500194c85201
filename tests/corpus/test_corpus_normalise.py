"""Making text regular, and cutting it."""

from __future__ import annotations

import unicodedata

import pytest

from luopan.corpus.config import NormaliseConfig
from luopan.corpus.normalise import cut, normalise, strip_gutenberg

DEFAULT = NormaliseConfig()
OFF = NormaliseConfig(nfc=False, strip_control=False, whitespace=False, strip_gutenberg=False)


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
    assert normalise(raw, DEFAULT) == clean
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
