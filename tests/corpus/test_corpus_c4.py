"""C4's rules for lines and documents, and the counting of sentences they rest on."""

from __future__ import annotations

import pytest

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.document import Document
from luopan.corpus.filter_config import C4Config
from luopan.corpus.sentences import count_sentences, terminal_marks
from luopan.corpus.steps.c4 import c4, clean, longest_word, words_in

CONFIG = C4Config()
SOUND = [f"The {word} came home before the winter." for word in ("baker", "sailor", "painter", "teacher", "farmer")]
CJK = "今天我们一起去市场买了很多东西。"


def kept(*lines, **settings):
    return clean("\n".join([*SOUND, *lines]), C4Config(**settings)).text.split("\n")[len(SOUND) :]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("Two words", "min_words_per_line"),
        ("Please enable JavaScript in your browser.", "javascript"),
        ("By staying here you agree to our Terms of Use.", "policy"),
        ("This is " + "a" * 1001 + " too long a word.", "max_word_length"),
    ],
)
def test_lines_that_go(line, rule):
    result = clean("\n".join([*SOUND, line]), CONFIG)
    assert result.text == "\n".join(SOUND) and result.dropped == {f"lines_{rule}": 1} and result.finding is None
    relaxed = C4Config(
        min_words_per_line=None, max_word_length=None, drop_javascript_lines=False, drop_policy_lines=False
    )
    assert clean("\n".join([*SOUND, line]), relaxed).text.split("\n")[-1] == line


def test_terminal_punctuation_is_for_those_who_ask():
    lines = ["A line that ends in nothing", "A line that trails off...", "“A line in curly quotes.”", f"{CJK}{CJK}"]
    assert kept(*lines) == lines
    assert kept(*lines, terminal_punctuation="any") == lines[2:]
    assert kept(*lines, 'Said "so it is"', terminal_punctuation="ascii") == ['Said "so it is"']


def test_citations_leave_the_line():
    line = "It was built in 1850[1] and burnt down[citation needed] twice. [12]"
    assert kept(line) == ["It was built in 1850 and burnt down twice."]
    assert kept(line, terminal_punctuation="any") == ["It was built in 1850 and burnt down twice."]
    assert kept(line, remove_citations=False) == [line]


def test_documents_go_for_what_they_hold():
    for line, rule in (
        ("This line {has} a bracket.", "max_curly_brackets"),
        ("Lorem ipsum dolor sit.", "max_lorem_ipsum"),
    ):
        finding = clean("\n".join([*SOUND, line, line]), CONFIG).finding
        assert finding is not None and (finding.rule, finding.value, finding.threshold) == (rule, 2, 0)
        assert kept(line, line, **{rule: 2}) == [line, line] == kept(line, line, **{rule: None})
        # A line that another rule drops before is not looked at.
        assert clean("\n".join([*SOUND, f"{line[:5]}{{"]), CONFIG).finding is None


def test_too_few_sentences():
    finding = clean("\n".join([*SOUND[:3], "No words"]), CONFIG).finding
    assert finding is not None and (finding.rule, finding.value, finding.threshold) == ("min_sentences", 3, 5)
    assert clean(" ".join(SOUND), CONFIG).finding is None
    assert clean("", CONFIG).finding is not None
    assert clean("", C4Config(min_sentences=None)).finding is None


def test_blank_lines_stay_for_those_who_ask():
    text = "\n\n\n".join(["", *SOUND, "Two words", SOUND[0], ""])
    assert clean(text, CONFIG).text == "\n".join([*SOUND, SOUND[0]])
    assert clean(text, C4Config(keep_blank_lines=True)).text == "\n\n".join([*SOUND, SOUND[0]])


def test_the_step_counts_lines_and_keeps_what_it_rejects_as_it_came():
    good, bad = "\n".join([*SOUND, "Two words", "One"]), "Too short.\nJavaScript is a language of its own."
    batch = DocumentBatch.of([Document("good", good, "made"), Document("bad", bad, "made")])
    outcome = c4(batch, CONFIG)
    assert outcome.batch.texts == ["\n".join(SOUND)] and outcome.counts == {"lines_min_words_per_line": 2}
    (rejected,) = outcome.rejected
    assert (rejected.id, rejected.step, rejected.rule, rejected.text) == ("bad", "c4", "min_sentences", bad)


def test_scripts_without_spaces_have_words_and_sentences():
    assert words_in(CJK) == 7.5 and words_in("我们go到 the 北京") == 4.5
    chinese = CJK * 80  # more than a thousand characters without a space
    assert longest_word(chinese) == 1
    assert clean(chinese, CONFIG).text == chinese and clean(chinese, CONFIG).finding is None
    thai = "เมื่อวานนี้เราไปตลาด และซื้อผลไม้ กลับมาบ้าน แล้วทำอาหาร ด้วยกัน"
    assert clean(thai, CONFIG).finding is None


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("One sentence without an end", 1),
        ("One. Two! Three? Four", 4),
        ("Mr. Smith of the U.S. met J. K. Rowling at 3.14 p.m. on e.g. Monday.", 1),
        ("Wait... what? Yes.", 2),
        ("“Really?” she said. “Yes!” (He left.) Then", 5),
        ("end.Next", 1),
        ("你好！今天天气很好。我们走吧？好。", 4),
        ("他说：“你好。”然后走了。", 2),
        ("यह एक वाक्य है। यह दूसरा है। तीसरा", 3),
        ("", 1),
    ],
)
def test_sentences_are_counted(line, count):
    assert count_sentences(line, 99) == count
    assert count_sentences(line, 2) == min(2, count)


def test_terminal_marks_are_unicodes():
    regex = pytest.importorskip("regex")
    theirs = {chr(code) for code in range(0x110000) if regex.match(r"\p{STerm}", chr(code))}
    # Three Khmer marks that datatrove counts; newer Unicode versions may have marks that ours does not.
    assert set("៖៙៚") == terminal_marks() - theirs
    assert len(theirs - terminal_marks()) < 10
