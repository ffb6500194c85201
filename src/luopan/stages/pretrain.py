"""Pretraining: next-token prediction from random weights on a mixture of sources, against a byte bigram."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from luopan.errors import RecipeError
from luopan.evals.bigram import bigram_bits_per_byte
from luopan.model import hf
from luopan.model.decoder import Decoder
from luopan.recipe.specs import PretrainSpec
from luopan.report.data import BarChart, Bars
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    Chat,
    check_vocabulary,
    fit_metrics,
    save_model,
    start_device,
    train,
    training_report,
)
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.mixture_plan import plan_table, planned, stages_picture
from luopan.stages.text import TextFeed, bits_figures, held_out, mixture_picture, text_bits, train_texts
from luopan.tokens.tokenizer import load_tokenizer
from luopan.train.checkpoint import checkpoint_path, steps_saved
from luopan.train.preflight import check_training
from luopan.train.schedule import first_row

BIGRAM_BYTES = 4_000_000


class Pretrain:
    """See the module."""

    kind: ClassVar[str] = "pretrain"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: PretrainSpec) -> str:
        return ""

    @staticmethod
    def check(spec: PretrainSpec) -> None:
        check_training(spec)

    @staticmethod
    def run(spec: PretrainSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        device = start_device()
        corpus = inputs["corpus"][0]
        tokenizer = load_tokenizer(inputs["tokenizer"][0].tokenizer_path)
        check_vocabulary(spec.model.vocab_size, tokenizer, out.name)
        mixture = planned(spec, corpus, tokenizer, out)
        shards = mixture.shards
        data_seed, branch = branched(spec, inputs, out.seed)
        chat = Chat(start_model(spec, inputs, out.seed).to(device), tokenizer, device, spec.branch or "random weights")

        def baselines() -> dict[str, Any]:
            bigrams = {
                name: bigram_bits_per_byte(train_texts(corpus, name, BIGRAM_BYTES), texts)
                for name, texts in held_out(corpus, spec.eval_bytes).items()
                if name in shards
            }
            return {
                "bits": _seen(text_bits(chat, corpus, spec.eval_bytes, spec.sequence_length), shards),
                "bigram": bigrams,
            }

        before = out.remember("before", baselines)
        rows = mixture.rows(data_seed)
        result = train(chat, TextFeed(rows, spec), mixture.loss(spec.z_loss_coef), spec, out, branch=branch)
        after = _seen(text_bits(chat, corpus, spec.eval_bytes, spec.sequence_length), shards)
        save_model(chat, out.path)
        bigram = before["bigram"]
        figures = bits_figures(before["bits"], after, baseline=bigram)
        write_report(
            out.path,
            training_report(
                "pretrain",
                out.name,
                chat,
                result,
                spec.sequence_length,
                summary=f"{tokens_text(result.tokens)} in {result.steps} steps"
                + (", from random weights." if spec.branch is None else f", those of {spec.branch} included."),
                figures=figures,
                pictures=[
                    against_bigram(out.name, after, bigram),
                    mixture_picture(rows.order.consumed(first_row(spec, result.steps))),
                    *stages_picture(mixture.plan),
                ],
                tables=[plan_table(mixture.plan)],
            ),
        )
        return metrics_of(
            figures, **fit_metrics(result), bigram_bits_per_byte=bigram, bits_per_byte=after,
            parameters=spec.model.num_parameters(), data_seed=data_seed,
        )  # fmt: skip


def start_model(spec: PretrainSpec, inputs: Inputs, seed: int) -> Decoder:
    """Random weights, or those of the branch's stage, which are what this one is measured against."""
    if spec.branch is not None:
        return hf.load(inputs["branch"][0].model_path)
    model = Decoder(spec.model)
    model.reset_parameters(seed)
    return model


def tokens_text(tokens: int) -> str:
    """12.3M tokens, 45,056 tokens."""
    return f"{tokens / 1e6:.1f}M tokens" if tokens >= 1e6 else f"{tokens:,} tokens"


def branched(spec: PretrainSpec, inputs: Inputs, seed: int) -> tuple[int, Path | None]:
    """The seed of the data order, and the checkpoint to begin from, if there is one: a branch reads on in the order of
    the run that it leaves, so that under the same mixture nothing is read twice."""
    if spec.branch is None:
        return seed, None
    base = inputs["branch"][0]
    folder = base.path / "checkpoints"
    if spec.branch_step is not None:
        folder = checkpoint_path(folder, spec.branch_step)
        if not folder.is_dir():
            kept = ", ".join(str(step) for step in steps_saved(base.path / "checkpoints"))
            raise RecipeError(
                f"stage {spec.branch} kept no checkpoint of step {spec.branch_step}",
                hint=f"It has those of {kept or 'no step'}; keep_every_steps keeps more.",
            )
    return int(base.manifest.metrics["data_seed"]), folder


def against_bigram(name: str, bits: dict[str, float], bigram: dict[str, float]) -> BarChart:
    """Bits per byte of the model and of the bigram, by source."""
    return BarChart(
        title="Bits per byte on held-out text",
        categories=list(bits),
        bars=[
            Bars(name=name, values=list(bits.values())),
            Bars(name="byte bigram", values=[bigram[source] for source in bits]),
        ],
        higher_is_better=False,
        caption="The bigram is trained on the same training text.",
    )


def _seen(bits: dict[str, float], shards: Any) -> dict[str, float]:
    """Of the sources that were trained on: the others are no fair test."""
    return {name: value for name, value in bits.items() if name in shards}
