"""Mid-training: go on from a pretrained model on another mixture and a longer context.

The rotary base (or scaling) changes first, the rest is ordinary training. Measured before and after: the loss at
positions beyond the pretrained length, retrieval of facts from far back, bits per byte of the domain, and of everything
else (forgetting).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from luopan.artifacts import Artifact
from luopan.errors import RecipeError
from luopan.evals.retrieval import retrieval_accuracy
from luopan.model.config import extend_context
from luopan.model.decoder import Decoder
from luopan.recipe.specs import MidtrainSpec
from luopan.report.data import Figure
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import (
    MODEL_PAYLOAD,
    Chat,
    fit_metrics,
    open_model,
    save_model,
    start_device,
    train,
    training_report,
)
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.mixture_plan import plan_table, planned, stages_picture
from luopan.stages.text import (
    TextFeed,
    beyond,
    bits_figures,
    mixture_picture,
    position_chart,
    position_loss,
    source_names,
    text_bits,
)
from luopan.train.preflight import check_training
from luopan.train.schedule import first_row


class Midtrain:
    """See the module."""

    kind: ClassVar[str] = "midtrain"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: MidtrainSpec) -> str:
        return ""

    @staticmethod
    def check(spec: MidtrainSpec) -> None:
        check_training(spec)

    @staticmethod
    def run(spec: MidtrainSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        device = start_device()
        corpus = inputs["corpus"][0]
        chat = open_model(inputs["model"][0], device)
        pretrained = chat.model.config.max_position_embeddings
        chat.model = extended(chat.model, spec, device)
        if spec.domain is not None and spec.domain not in source_names(corpus):
            raise RecipeError(
                f"domain is {spec.domain!r}, which the corpus lacks", hint=f"It has: {', '.join(source_names(corpus))}"
            )
        mixture = planned(spec, corpus, chat.tokenizer, out)

        def measure(model: Chat) -> dict[str, Any]:
            return measure_text(model, corpus, spec)

        # The model as it came, at the new length: what it can do beyond the length it was trained with.
        before = out.remember("before", lambda: measure(_as_it_came(inputs["model"][0], spec, device)))
        rows = mixture.rows(out.seed)
        result = train(chat, TextFeed(rows, spec), mixture.loss(spec.z_loss_coef), spec, out)
        after = measure(chat)
        save_model(chat, out.path)
        figures = _figures(spec, before, after, pretrained)
        write_report(
            out.path,
            training_report(
                "midtrain",
                out.name,
                chat,
                result,
                spec.sequence_length,
                summary=f"{result.tokens / 1e6:.1f}M tokens at {spec.sequence_length} tokens a row "
                f"(pretrained: {pretrained}).",
                figures=figures,
                pictures=[
                    position_chart(before["positions"], after["positions"], pretrained, (chat.origin, out.name)),
                    mixture_picture(rows.order.consumed(first_row(spec, result.steps))),
                    *stages_picture(mixture.plan),
                ],
                tables=[plan_table(mixture.plan)],
            ),
        )
        return metrics_of(figures, **fit_metrics(result), bits_per_byte=after["bits"])


def extended(model: Decoder, spec: MidtrainSpec, device: torch.device) -> Decoder:
    """The same weights under the new context length and rotary base; RecipeError where they do not fit together."""
    context = model.config.max_position_embeddings
    if (spec.sequence_length > context) != (spec.extension is not None):
        raise RecipeError(
            f"sequence_length is {spec.sequence_length}, the model's context {context} tokens, extension "
            f"{spec.extension or 'not given'}",
            hint="A longer sequence needs an extension (abf, linear or yarn); within the context it has no effect.",
        )
    if spec.extension is None:
        return model
    config = extend_context(model.config, spec.sequence_length, method=spec.extension, rope_theta=spec.rope_theta)
    longer = Decoder(config).to(device)
    longer.load_state_dict(model.state_dict())
    return longer


def _as_it_came(artifact: Artifact, spec: MidtrainSpec, device: torch.device) -> Chat:
    """The input model, allowed to read at the new length but otherwise unchanged."""
    chat = open_model(artifact, device)
    length = max(spec.sequence_length, chat.model.config.max_position_embeddings)
    same = Decoder(chat.model.config.model_copy(update={"max_position_embeddings": length})).to(device)
    same.load_state_dict(chat.model.state_dict())
    chat.model = same
    return chat


def measure_text(chat: Chat, corpus: Artifact, spec: MidtrainSpec) -> dict[str, Any]:
    """Bits per byte per source, loss by position, retrieval."""
    result: dict[str, Any] = {
        "bits": text_bits(chat, corpus, spec.eval_bytes, spec.sequence_length),
        "positions": position_loss(chat, corpus, spec.eval_bytes, spec.sequence_length),
    }
    if spec.retrieval_cases:
        result["retrieval"] = retrieval_accuracy(
            chat.model, chat.tokenizer, cases=spec.retrieval_cases, length=spec.sequence_length
        )
    return result


def _figures(spec: MidtrainSpec, before: dict[str, Any], after: dict[str, Any], pretrained: int) -> list[Figure]:
    figures = []
    if spec.sequence_length > pretrained:
        figures.append(
            Figure(
                name=f"loss beyond {pretrained} tokens",
                before=beyond(before["positions"], pretrained),
                after=beyond(after["positions"], pretrained),
                unit="nats/token",
                higher_is_better=False,
                help="held-out text at positions that pretraining never saw",
            )
        )
    if "retrieval" in after:
        old, new = before["retrieval"], after["retrieval"]
        figures.append(
            Figure(name="retrieval", before=old["accuracy"], after=new["accuracy"], unit="%", n=new["n"],
                   stderr_before=old["stderr"], stderr_after=new["stderr"],
                   help="a fact stated early, asked for at the end of the new length")
        )  # fmt: skip
    if spec.domain is not None:
        figures.append(
            Figure(name=f"bits per byte, {spec.domain}", before=before["bits"].get(spec.domain),
                   after=after["bits"].get(spec.domain), unit="bits/byte", higher_is_better=False, help="the domain")
        )  # fmt: skip
        old_rest, new_rest = (
            {name: value for name, value in part["bits"].items() if name != spec.domain} for part in (before, after)
        )
        rest, *each = bits_figures(old_rest, new_rest)
        return [*figures, rest.model_copy(update={"name": "bits per byte, the rest"}), *each]
    return figures + bits_figures(before["bits"], after["bits"])
