"""Pages to text, and addresses that are refused."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import threading
import time

import pytest

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.document import Document
from luopan.corpus.steps import extract as extracting
from luopan.corpus.steps import urls as address_rules
from luopan.corpus.steps.extract import TimeUp, extract, time_limit
from luopan.corpus.steps.urls import listed_hashes, parts_of, urls
from luopan.corpus.web_config import SOFT_WORDS, STRICT_WORDS, ExtractConfig, UrlConfig
from luopan.errors import DataError

BODY = "".join(
    f"<p>Paragraph {n} of the article says something about rivers, boats and the people who live with them.</p>"
    for n in range(6)
)
PAGE = (
    "<html><head><title>Rivers</title><script>var menu = 1;</script></head><body>"
    "<nav><ul><li><a href='/'>Home</a></li><li><a href='/shop'>Shop</a></li></ul></nav>"
    f"<article><h1>Rivers</h1>{BODY}<table><tr><td>Rhine</td><td>1230 km</td></tr></table></article>"
    "<footer>Copyright, cookies, terms of use</footer></body></html>"
)


# The package itself may be there and one that it needs be missing.
try:
    extracting.extractor()
    absent = ""
except DataError as error:
    absent = error.message
needs_trafilatura = pytest.mark.skipif(bool(absent), reason=absent)


def batch(*texts, **meta):
    return DocumentBatch.of(Document(f"web/{n}", text, "web", dict(meta)) for n, text in enumerate(texts))


def pages(*texts):
    return batch(*texts, format="html", file="a.warc")


# --------------------------------------------------------------------------------------------------------- extract


@needs_trafilatura
def test_the_article_comes_out_and_menu_and_footer_stay_behind():
    outcome = extract(pages(PAGE), ExtractConfig())
    text = outcome.batch.texts[0]
    assert text.count("Paragraph") == 6 and "1230 km" in text and "<p>" not in text
    assert not any(word in text for word in ("Shop", "cookies", "var menu"))
    assert outcome.batch.metas[0] == {"format": "text", "file": "a.warc"} and outcome.counts == {"pages": 1}
    assert "1230 km" not in extract(pages(PAGE), ExtractConfig(tables=False)).batch.texts[0]


@needs_trafilatura
def test_documents_that_are_no_pages_pass_untouched_beside_pages():
    plain = Document("web/p", "<b>not a page", "web", {})
    mixed = DocumentBatch.of([plain, Document("web/q", "<html></html>", "web", {"format": "html"}), plain])
    outcome = extract(mixed, ExtractConfig())
    assert outcome.batch.documents() == [plain, plain]
    assert [(item.id, item.rule) for item in outcome.rejected] == [("web/q", "no_text")]
    untouched = batch("text")
    assert extract(untouched, ExtractConfig()).batch is untouched


@pytest.mark.parametrize(
    ("config", "rule"),
    [({"max_html_bytes": 500}, "max_html_bytes"), ({"max_elements": 10}, "max_elements")],
)
def test_pages_over_the_limits_are_set_aside_before_any_work(config, rule, monkeypatch):
    monkeypatch.setattr(extracting, "extractor", lambda: pytest.fail("the page was read"))
    outcome = extract(pages(PAGE), ExtractConfig(**config))
    (item,) = outcome.rejected
    assert len(outcome.batch) == 0 and (item.step, item.rule, item.threshold) == ("extract", rule, config[rule])
    assert item.value > item.threshold and item.text == PAGE


@needs_trafilatura
@pytest.mark.parametrize(
    "html",
    ["", "   ", "<html>", "<", "\x01\x02", "<div>" * 3000, "<table>" * 500 + "x", "<p>" + "&#x110000;" * 50,
     '<?xml version="1.0" encoding="utf-8"?><html><body><p>x</p></body></html>', "<!--" * 1000, "<a href='" * 500],
)  # fmt: skip
def test_pages_that_are_broken_give_a_reason_or_text_and_nothing_else(html):
    outcome = extract(pages(html), ExtractConfig())
    assert len(outcome.batch) + len(outcome.rejected) == 1
    assert all(item.rule in ("no_text", "failed") for item in outcome.rejected)


def test_an_error_of_the_library_costs_one_page(monkeypatch):
    def fail(html, **options):
        raise RecursionError("too deep")

    monkeypatch.setattr(extracting, "extractor", lambda: fail)
    (item,) = extract(pages(PAGE), ExtractConfig()).rejected
    assert (item.rule, item.detail) == ("failed", "RecursionError: too deep")


def test_a_page_that_takes_too_long_is_set_aside_with_the_limit_alone(monkeypatch):
    def slow(html, **options):
        try:
            while True:
                time.sleep(0.01)
        except Exception:
            return "swallowed"

    monkeypatch.setattr(extracting, "extractor", lambda: slow)
    (item,) = extract(pages(PAGE), ExtractConfig(max_seconds=0.05)).rejected
    assert (item.rule, item.value, item.threshold) == ("max_seconds", None, 0.05)


def test_the_time_limit_leaves_another_alarm_as_it_was_and_does_nothing_in_other_threads():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(1))
    kept = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(TimeUp), time_limit(0.05):
            time.sleep(5)
        assert not rung and 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 0.2
        time.sleep(0.25)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *kept)
        signal.signal(signal.SIGALRM, before)
    done = []

    def work():
        with time_limit(0.01):
            time.sleep(0.05)
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


@needs_trafilatura
def test_extraction_does_not_depend_on_the_order():
    several = [PAGE.replace("rivers", word) for word in ("hills", "roads", "hills", "trees")]
    one = extract(pages(*several), ExtractConfig()).batch.texts
    other = extract(pages(*reversed(several)), ExtractConfig()).batch.texts
    assert one == other[::-1] and one[0] == one[2]


@pytest.mark.slow
@needs_trafilatura
def test_extraction_does_not_depend_on_the_hash_seed():
    script = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]);"
        "from test_corpus_web_steps import *;"
        "print(hashlib.sha256(extract(pages(PAGE), ExtractConfig()).batch.texts[0].encode()).hexdigest())"
    )
    here = str(__file__).rsplit("/", 1)[0]
    said = {
        subprocess.run([sys.executable, "-c", script, here], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    extracting.extractor.cache_clear()
    with pytest.raises(DataError, match=r"luopan\[data\]"):
        extract(pages(PAGE), ExtractConfig())
    extracting.extractor.cache_clear()


# ------------------------------------------------------------------------------------------------------------ urls


def refused(url, **config):
    outcome = urls(batch("text", url=url), UrlConfig(**config))
    return (outcome.rejected[0].rule, outcome.rejected[0].detail) if outcome.rejected else None


@pytest.mark.parametrize(
    ("url", "config", "verdict"),
    [
        ("https://example.org/a-walk-by-the-river", {}, None),
        ("https://www.Bad.org:8080/x", {"domains": ("bad.org",)}, ("domains", "bad.org is listed")),
        ("http://sub.bad.org/x", {"domains": ("www.bad.org",)}, ("domains", "bad.org is listed")),
        ("http://notbad.org/x", {"domains": ("bad.org",)}, None),
        ("http://bad.org.uk/x", {"domains": ("bad.org",)}, None),
        ("http://user:pw@bad.org/", {"domains": ("bad.org",)}, ("domains", "bad.org is listed")),
        ("bad.org/path", {"domains": ("bad.org",)}, ("domains", "bad.org is listed")),
        ("https://bücher.example/x", {"domains": ("xn--bcher-kva.example",)},
         ("domains", "xn--bcher-kva.example is listed")),
        ("https://good.bad.org/x", {"domains": ("bad.org",), "allow": ("good.bad.org",)}, None),
        ("https://x.org/free-Porn-films", {}, ("words", "porn")),
        ("https://x.org/%70orn", {}, ("words", "porn")),
        ("https://essex.gov.uk/middlesex/analysis", {}, None),
        ("https://x.org/adult", {}, None),
        ("https://x.org/adult-dating", {}, ("max_soft_words", "adult, dating")),
        ("https://x.org/adult-adult", {}, None),
        ("https://x.org/adult-dating", {"max_soft_words": 2}, None),
        ("https://my-free-por-n.org/", {"substrings": ("porn",)}, ("substrings", "porn")),
        ("https://x.org/?q=one&WORD=2", {"words": ("word",)}, ("words", "word")),
    ],
)  # fmt: skip
def test_addresses(url, config, verdict):
    assert refused(url, **config) == verdict


def test_documents_without_an_address_pass_and_are_counted():
    documents = [
        Document("a", "t", "web", {}),
        Document("b", "t", "web", {"url": "http://[broken"}),
        Document("c", "t", "web", {"url": "   "}),
        Document("d", "t", "web", {"url": "https://x.org/porn", "file": "f.jsonl", "row": 3}),
    ]
    outcome = urls(DocumentBatch.of(documents), UrlConfig())
    assert outcome.batch.ids == ["a", "b", "c"] and outcome.counts == {"without_url": 2, "unreadable": 1}
    (item,) = outcome.rejected
    assert (item.step, item.rule, item.value, item.threshold, item.where) == ("urls", "words", 1, 0, "f.jsonl:3")
    assert item.text == "t"


@pytest.mark.parametrize("url", ["http://", "//", "http://[::1", "mailto:", "http://\x00", "///", ":", "http://a b/c"])
def test_no_address_raises(url):
    parts_of(url)
    refused(url)


def test_lists_of_domains_are_read_in_the_forms_they_come_in(tmp_path):
    (tmp_path / "plain.txt").write_text("# a comment\nBAD.org\n\nwww.worse.net  # why\nbücher.example\n")
    (tmp_path / "hosts.gz").write_bytes(gzip.compress(b"0.0.0.0 tracker.example\n127.0.0.1 ads.example\n"))
    lists = (str(tmp_path / "plain.txt"), str(tmp_path / "hosts.gz"))
    for host in ("bad.org", "a.worse.net", "bücher.example", "tracker.example", "ads.example"):
        assert refused(f"https://{host}/x", domain_lists=lists)[0] == "domains"
    for host in ("good.org", "org", "example", "comment"):
        assert refused(f"https://{host}/x", domain_lists=lists) is None
    assert len(listed_hashes(lists)) == 5


def test_a_list_that_is_missing_or_empty_is_an_error(tmp_path):
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(DataError, match="cannot be read"):
        refused("https://x.org", domain_lists=(str(tmp_path / "none"),))
    with pytest.raises(DataError, match="no domain stands"):
        refused("https://x.org", domain_lists=(str(tmp_path / "empty"),))


def test_the_words_that_ship_are_single_lower_case_words():
    for word in (*STRICT_WORDS, *SOFT_WORDS):
        assert address_rules.SEPARATORS.split(word) == [word] and word == word.lower()
    assert not set(STRICT_WORDS) & set(SOFT_WORDS)


def test_a_binary_file_is_no_list_of_domains(tmp_path):
    (tmp_path / "list.gz.txt").write_bytes(b"example.org\n\xff\xfe\x01\x80 broken\xff\n")
    with pytest.raises(DataError, match="no list of domains") as caught:
        listed_hashes((str(tmp_path / "list.gz.txt"),))
    assert "list.gz.txt:2" in str(caught.value)
