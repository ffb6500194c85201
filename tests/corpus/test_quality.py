"""The classifier: hand-worked sums, training on what can and cannot be told apart, saving, and the quality step."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from corpus_texts import WORDS

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.classifier import LinearModel, buckets_of, facts_path, load_model, save_model, word_hashes
from luopan.corpus.classifier_measures import at, auc, reliability
from luopan.corpus.classifier_training import TrainingSettings, train
from luopan.corpus.document import Document
from luopan.corpus.safety_config import QualityConfig
from luopan.corpus.steps.quality import limit, quality
from luopan.corpus.words import Reading
from luopan.errors import DataError

GOOD_WORDS, BAD_WORDS = WORDS[:20], WORDS[20:]
SMALL = TrainingSettings(buckets=1 << 14, epochs=6)


def texts(favoured: list[str], count: int, seed: int, share: float = 0.7) -> list[str]:
    """Word salads in which `share` of the words come from `favoured`."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(favoured if rng.random() < share else WORDS) for _ in range(rng.randint(20, 60)))
        for _ in range(count)
    ]


def hashes(*wanted: str) -> list[np.ndarray]:
    return word_hashes([Reading(text) for text in wanted])


def batch(*wanted: str) -> DocumentBatch:
    return DocumentBatch.of(Document(f"d/{n}", text, "d", {"n": n}) for n, text in enumerate(wanted))


@pytest.fixture(scope="module")
def model() -> LinearModel:
    return train(texts(GOOD_WORDS, 300, 1), texts(BAD_WORDS, 300, 2), SMALL, name="salad")


@pytest.fixture
def saved(model, tmp_path):
    save_model(model, tmp_path / "m.safetensors")
    load_model.cache_clear()
    return tmp_path / "m.safetensors"


def test_a_score_by_hand():
    """Two words, their pair: the logistic function of bias + mean of three weights."""
    one, two = (int(each[0]) for each in hashes("alpha", "beta"))
    weights = np.zeros(1 << 12, np.float32)
    pair = int(buckets_of(np.array([one, two], np.uint64), 2, len(weights))[0])
    first, second = buckets_of(np.array([one, two], np.uint64), 1, len(weights))
    weights[[first, second, pair]] = 1.0, 2.0, 6.0
    model = LinearModel(weights, -1.0, 2, {})
    assert model.scores(hashes("Alpha beta")) == pytest.approx([1 / (1 + np.exp(-(-1 + 9 / 3)))], abs=1e-4)
    assert model.scores(hashes("beta", "", "alpha")) == pytest.approx(
        [1 / (1 + np.exp(-(-1 + 2))), 1 / (1 + np.exp(1)), 0.5], abs=1e-4
    )  # the last word of one text and the first of the next are no pair


def test_a_score_does_not_depend_on_the_batch(model):
    many = [*texts(GOOD_WORDS, 40, 5), "", "one", *texts(BAD_WORDS, 40, 6)]
    together = model.scores(hashes(*many))
    assert [float(model.scores(hashes(text))[0]) for text in many] == together.tolist()


def test_words_hash_the_same_in_every_process():
    code = (
        "from luopan.corpus.classifier import word_hashes; from luopan.corpus.words import Reading\n"
        "print(word_hashes([Reading('The Quick’s 北京 fox!')])[0].tolist())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert runs == {f"{hashes('the QUICK' + chr(39) + 's 北京 fox!')[0].tolist()}\n"}


def test_training_tells_them_apart_and_says_so(model):
    assert model.facts["held_out_auc"] > 0.99
    assert model.facts["calibration"]["expected_error"] < 0.1
    assert {row["ngram"] for row in model.facts["strongest"]["good"][:8]} <= set(GOOD_WORDS)
    assert {row["ngram"] for row in model.facts["strongest"]["bad"][:8]} <= set(BAD_WORDS)
    fresh = model.scores(hashes(*texts(GOOD_WORDS, 50, 8), *texts(BAD_WORDS, 50, 9)))
    assert auc(fresh[50:], fresh[:50]) > 0.99


def test_chinese_is_read_by_characters():
    rng = random.Random(0)
    side = lambda alphabet: ["".join(rng.choices(alphabet, k=40)) for _ in range(80)]  # noqa: E731
    model = train(side("春夏秋冬山水云月"), side("买卖价格优惠点击"), SMALL)
    assert model.facts["held_out_auc"] == 1.0
    assert {row["ngram"] for row in model.facts["strongest"]["bad"]} >= {"价", "优"}


def test_noise_is_not_called_knowledge():
    """The same kind of text on both sides: held-out AUC near one half, and calibrated scores near one half."""
    model = train(texts(WORDS, 300, 1), texts(WORDS, 300, 2), SMALL)
    assert 0.35 < model.facts["held_out_auc"] < 0.65
    scores = model.scores(hashes(*texts(WORDS, 100, 3)))
    assert abs(float(scores.mean()) - 0.5) < 0.1


def test_training_depends_on_seed_and_texts_not_on_their_order(model):
    good, bad = texts(GOOD_WORDS, 300, 1), texts(BAD_WORDS, 300, 2)
    again = train(good[::-1] + good[:5], bad, SMALL, name="salad")
    assert np.array_equal(again.weights, model.weights) and again.bias == model.bias
    other = train(good, bad, TrainingSettings(buckets=1 << 14, epochs=6, seed=1), name="salad")
    assert not np.array_equal(other.weights, model.weights)


def test_texts_on_both_sides_and_too_few():
    good, bad = texts(GOOD_WORDS, 60, 1), texts(BAD_WORDS, 60, 2)
    model = train(good + bad[:10], bad, SMALL)
    assert model.facts["left_out"] == {"on_both_sides": 10}
    assert sum(model.facts["examples"]["bad"].values()) == 50
    with pytest.raises(DataError, match="39 different good examples") as told:
        train(good[:39] + bad[:30], bad + texts(BAD_WORDS, 30, 3), SMALL)
    assert "30 texts stood on both sides" in str(told.value)


def test_ignored_words_get_no_weight():
    settings = TrainingSettings(buckets=1 << 14, epochs=4, ngrams=1, ignored=tuple(GOOD_WORDS))
    model = train(texts(GOOD_WORDS, 100, 1), texts(BAD_WORDS, 100, 2), settings)
    places = [int(buckets_of(each, 1, 1 << 14)[0]) for each in hashes(*GOOD_WORDS)]
    others = {int(buckets_of(each, 1, 1 << 14)[0]) for each in hashes(*BAD_WORDS)}
    assert not model.weights[[place for place in places if place not in others]].any()
    assert not {row["ngram"] for row in model.facts["strongest"]["good"]} & set(GOOD_WORDS)


def test_saved_and_loaded_scores_are_the_same_and_so_are_the_bytes(model, saved, tmp_path):
    loaded = load_model(str(saved))
    many = texts(WORDS, 50, 4)
    assert loaded.scores(hashes(*many)).tolist() == model.scores(hashes(*many)).tolist()
    assert json.loads(facts_path(saved).read_text()) == json.loads(json.dumps(model.facts)) == loaded.facts
    save_model(model, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_unusable_files_are_refused(saved, tmp_path):
    with pytest.raises(DataError, match="no such classifier file"):
        load_model(str(tmp_path / "none"))
    whole = saved.read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="damaged classifier file"):
            load_model(str(tmp_path / name))
    from safetensors.numpy import save

    (tmp_path / "other").write_bytes(save({"weights": np.zeros(8, np.float16)}))
    with pytest.raises(DataError, match="not a classifier in the format"):
        load_model(str(tmp_path / "other"))
    (tmp_path / "odd").write_bytes(whole.replace(b'\\"ngrams\\"', b'\\"ngrbms\\"'))
    with pytest.raises(DataError, match="damaged"):
        load_model(str(tmp_path / "odd"))


def test_measures_by_hand():
    bad, good = np.array([0.1, 0.4, 0.6]), np.array([0.4, 0.9])
    assert auc(bad, good) == pytest.approx((1.5 + 3) / 6)  # 0.4 beats 0.1 and ties 0.4; 0.9 beats all
    assert at(bad, good, 0.5) == {"score": 0.5, "recall": 0.5, "false_positives": 0.3333, "precision": 0.6}
    told = reliability(np.array([0.25]), np.array([0.25, 0.95]))
    # Weights 1/2 and 1/4 each: in the range of 0.25 a third is good, at 0.95 all are.
    assert told["ranges"][0] == {"mean_score": 0.25, "good": 0.3333, "share": 0.75}
    assert told["expected_error"] == pytest.approx(0.75 * (1 / 3 - 0.25) + 0.25 * 0.05, abs=1e-4)


def test_the_step_scores_and_drops(saved):
    wanted = batch(*texts(GOOD_WORDS, 5, 11), *texts(BAD_WORDS, 5, 12))
    scored = quality(wanted, QualityConfig(model=str(saved)))
    assert len(scored.batch) == 10 and not scored.rejected
    assert all(set(meta) == {"n", "quality"} for meta in scored.batch.metas)
    kept = quality(wanted, QualityConfig(model=str(saved), min_score=0.5))
    assert [meta["n"] for meta in kept.batch.metas] == list(range(5))
    one = kept.rejected[0]
    assert (one.step, one.rule, one.threshold) == ("quality", "min_score", 0.5)
    assert one.value == one.meta["quality"] < 0.5


def test_keep_fraction_is_of_documents_like_the_bad_ones(saved):
    pool = texts(BAD_WORDS, 400, 77)
    config = QualityConfig(model=str(saved), keep_fraction=0.25)
    outcome = quality(batch(*pool), config)
    assert 0.15 < len(outcome.batch) / len(pool) < 0.35
    assert outcome.rejected[0].rule == "keep_fraction"
    assert outcome.rejected[0].threshold == limit(load_model(str(saved)), config)
    model = LinearModel(np.zeros(4, np.float32), 0.0, 1, {"bad_percentiles": [n / 100 for n in range(101)]})
    assert limit(model, config) == 0.75
    with pytest.raises(DataError, match="no percentiles"):
        limit(LinearModel(np.zeros(4, np.float32), 0.0, 1, {}), config)


def test_two_limits_are_refused():
    with pytest.raises(ValueError, match="both say where to cut"):
        QualityConfig(model="m", min_score=0.5, keep_fraction=0.5)


def test_an_empty_batch(saved):
    assert len(quality(batch(), QualityConfig(model=str(saved), min_score=0.5)).batch) == 0


def test_the_command(tmp_path, capsys):
    import typer

    from luopan.cli.corpus_quality_verb import train_quality

    for name, words, seed in (("good", GOOD_WORDS, 1), ("bad", BAD_WORDS, 2)):
        lines = [json.dumps({"body": text}) for text in texts(words, 80, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*lines, '{"body": 3}' if name == "bad" else "", ""]))
    app = typer.Typer()
    app.command()(train_quality)
    for place in ("quality.json", "none/quality.safetensors"):
        with pytest.raises(DataError, match="cannot be written there"):
            app(["--good", "a", "--bad", "b", "--out", str(tmp_path / place)], standalone_mode=False)
    out = tmp_path / "quality.safetensors"
    arguments = ["--good", str(tmp_path / "good.jsonl"), "--bad", str(tmp_path / "bad.jsonl"), "--out", str(out)]
    app([*arguments, "--text-column", "body", "--buckets", "12"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "held-out AUC" in shown and "speaks for good: “" in shown and "bad.jsonl:81" in shown
    assert "(16 good and 16 bad examples measured)" in shown
    with pytest.raises(DataError, match="that is the figures; the model is quality"):
        load_model(str(out.with_suffix(".json")))
    with pytest.raises(DataError, match="0 different bad examples") as caught:
        app([*arguments, "--good-column", "body"], standalone_mode=False)
    assert "80 × " in str(caught.value) or "81 × " in str(caught.value)
    assert "column 'body' and 'text': --text-column NAME" in str(caught.value)
    assert load_model(str(out)).facts["settings"]["buckets"] == 1 << 12
    app([*arguments, "--text-column", "body", "--buckets", "12", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["inputs"]["unread"]
