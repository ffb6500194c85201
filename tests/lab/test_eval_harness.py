"""Our scores against lm-evaluation-harness's own, on the same rows of ARC, PIQA, WinoGrande, LAMBADA and GSM8K.

Opt-in: it needs the rows (LUOPAN_DATA) and lm-eval. Three ways must agree: the harness with its Hugging Face model, the
harness with ours, and our task files. LUOPAN_EVAL_MODEL names a Hugging Face folder to use in place of a tiny model of
noise, LUOPAN_EVAL_ROWS how many rows.

Known differences, kept out here: the harness puts the token that begins a document before an empty context, we that
which ends it (a chat model's two differ); its `strict-match` compares digits as text, our `numeric` their value.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

from luopan.evals.tasks.figures import Figure, Result
from luopan.generate.text import TextGenerator
from luopan.lab.evaluation.harness import run_harness
from luopan.lab.evaluation.run import Settings, evaluate_tasks
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.pipeline.models import text_generator
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer

pytestmark = pytest.mark.data

ROWS = int(os.environ.get("LUOPAN_EVAL_ROWS", "40"))
SOURCES = {
    "arc": "mc/arc_easy", "piqa": "mc/piqa", "winogrande": "mc/winogrande", "lambada": "mc/lambada_openai",
    "gsm8k": "gsm8k_test", "train": "gsm8k_train",
}  # fmt: skip
HARNESS = {
    "arc": r"""
output_type: multiple_choice
doc_to_text: "{{query}}\nAnswer:"
doc_to_target: gold
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_mutual_info}]
""",
    "piqa": r"""
output_type: multiple_choice
doc_to_text: "{{query}}Answer:"
doc_to_target: gold
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "winogrande": r"""
output_type: multiple_choice
doc_to_text: gold
doc_to_target: continuation
doc_to_choice: context_options
metric_list: [{metric: acc}]
""",
    "lambada": r"""
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{' ' + continuation}}"
metric_list: [{metric: acc}, {metric: perplexity, aggregation: perplexity, higher_is_better: false}]
""",
    "gsm8k": r"""
output_type: generate_until
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer}}"
num_fewshot: 2
fewshot_split: train
fewshot_config: {sampler: first_n}
generation_kwargs: {until: ["Question:"], do_sample: false, temperature: 0.0, max_gen_toks: 40}
metric_list:
  - metric: exact_match
    regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]
filter_list:
  - name: strict
    filter: [{function: regex, regex_pattern: "#### (\\-?[0-9\\.\\,]+)"}, {function: take_first}]
""",
}
OURS = {
    "arc": r"""
kind: choice
prompt: "{{ query }}\nAnswer:"
choices: "{{ choices }}"
answer: "{{ gold }}"
unconditional: ""
""",
    "piqa": r"""
kind: choice
prompt: "{{ query }}Answer:"
choices: "{{ choices }}"
answer: "{{ gold }}"
""",
    "winogrande": r"""
kind: choice
prompts: "{{ context_options }}"
continuation: "{{ continuation }}"
answer: "{{ gold }}"
""",
    "lambada": r"""
kind: last_word
prompt: "{{ context }}"
continuation: "{{ continuation }}"
""",
    "gsm8k": r"""
kind: generate
prompt: "Question: {{ question }}\nAnswer:"
target: "{{ answer }}"
examples: {shots: 2, data: {path: train.jsonl}}
stop: ["Question:"]
max_new_tokens: 40
checks:
  strict: {verifier: numeric, extract: '#### (\-?[0-9\.\,]+)', args: {answer: "{{ answer }}"}}
""",
}
# The harness's name of a figure, and ours.
SAME = {
    "arc": {"acc": "acc", "acc_norm": "acc_norm", "acc_mutual_info": "acc_uncond"},
    "piqa": {"acc": "acc", "acc_norm": "acc_norm"},
    "winogrande": {"acc": "acc"},
    "lambada": {"acc": "acc"},
    "gsm8k": {"exact_match/strict": "strict"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows as .jsonl, and each task in both formats."""
    pytest.importorskip("lm_eval")
    root = Path(os.environ.get("LUOPAN_DATA", "/nowhere"))
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "harness").mkdir()
    for name, file in SOURCES.items():
        source = root / "eval" / f"{file}.jsonl.zst"
        if not source.is_file():
            pytest.skip("LUOPAN_DATA has no such rows")
        lines = (
            zstandard.ZstdDecompressor().stream_reader(source.read_bytes()).read().decode().splitlines(keepends=True)
        )
        (folder / f"{name}.jsonl").write_text("".join(lines[: 6 if name == "gsm8k" else ROWS]))
    for name, text in HARNESS.items():
        files = {"test": str(folder / f"{name}.jsonl")}
        files |= {"train": str(folder / "train.jsonl")} if name == "gsm8k" else {}
        head = (
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {json.dumps({'data_files': files})}\ntest_split: test\n"
        )
        (folder / "harness" / f"{name}.yaml").write_text(head + text)
        (folder / f"{name}.yaml").write_text(f"data: {{path: {name}.jsonl}}\n" + OURS[name])
    return folder


@pytest.fixture(scope="module")
def model(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: the one that was named, or a tiny model whose predictions differ from place to place."""
    if named := os.environ.get("LUOPAN_EVAL_MODEL"):
        return Path(named)
    folder = tmp_path_factory.mktemp("model")
    texts = [(place / f"{name}.jsonl").read_text() for name in SOURCES]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=640, min_frequency=2))
    config = ModelConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=2048, initializer_range=0.2,
    )  # fmt: skip
    decoder = Decoder(config)
    decoder.reset_parameters(0)
    hf.save(decoder, folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def generator(model: Path) -> TextGenerator:
    return text_generator(model)


@pytest.fixture(scope="module")
def ours(place: Path, model: Path) -> dict[str, Result]:
    (found,) = evaluate_tasks([str(model)], [str(place / f"{name}.yaml") for name in OURS], settings=Settings())
    return {result.task: result for result in found.results}


@pytest.fixture(scope="module")
def bridged(place: Path, generator: TextGenerator) -> dict[str, Result]:
    return {
        one.task.removeprefix("lm_eval:"): one for one in run_harness(generator, list(OURS), None, place / "harness")
    }


@pytest.fixture(scope="module")
def theirs(place: Path, model: Path) -> Any:
    """The harness with its own model class."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(str(model), device="cpu", dtype=torch.float32, batch_size=8)
    lm.custom_prefix_token_id = lm.tokenizer.eos_token_id  # as ours: see above
    manager = TaskManager(include_path=str(place / "harness"), include_defaults=False)
    return simple_evaluate(model=lm, tasks=list(OURS), task_manager=manager, bootstrap_iters=10, log_samples=True)


@pytest.mark.parametrize("name", list(OURS))
def test_our_figures_are_the_harness_s(name: str, ours: dict[str, Result], theirs: Any) -> None:
    for metric, figure in SAME[name].items():
        label, _, way = metric.partition("/")
        mine: Figure = ours[name].figures[figure]
        rows = sorted(theirs["samples"][name], key=lambda one: one["doc_id"])
        assert mine.n == len(rows) > 5
        assert list(mine.scores) == [float(one[label]) for one in rows]
        told = theirs["results"][name]
        assert mine.value == pytest.approx(told[f"{label},{way or 'none'}"])
        assert mine.stderr == pytest.approx(told[f"{label}_stderr,{way or 'none'}"])
    if name == "lambada":
        assert ours[name].notes["perplexity"] == pytest.approx(told["perplexity,none"], rel=1e-3)


@pytest.mark.parametrize("name", list(OURS))
def test_the_bridge_gives_the_harness_s_figures(name: str, bridged: dict[str, Result], theirs: Any) -> None:
    for metric in SAME[name]:
        label, _, way = metric.partition("/")
        assert bridged[name].figures[metric].value == pytest.approx(theirs["results"][name][f"{label},{way or 'none'}"])


@pytest.mark.parametrize("name", ["arc", "piqa", "winogrande"])
def test_log_probabilities_are_the_same(name: str, ours: dict[str, Result], theirs: Any) -> None:
    rows = sorted(theirs["samples"][name], key=lambda one: one["doc_id"])
    for mine, one in zip(ours[name].rows, rows, strict=True):
        expected = [float(answer[0]) for answer in one["filtered_resps"]]
        assert mine["logprobs"] == pytest.approx(expected[: len(mine["logprobs"])], abs=2e-2, rel=1e-4)


def test_greedy_answers_are_the_same_word_for_word(ours: dict[str, Result], theirs: Any) -> None:
    rows = sorted(theirs["samples"]["gsm8k"], key=lambda one: one["doc_id"])
    assert [row["text"] for row in ours["gsm8k"].rows] == [one["resps"][0][0] for one in rows]
