"""The rules by which the compass points, each with its reason and where it comes from.

They are of three kinds: why (train at all?), what (size, tokens, shape) and how (optimizer, batch, stages, evaluation).
A rule sees the answers and what was decided before it. Limits: rules of thumb from published trainings of 100M to 8B
parameters; below, they are carried over. What they name is where to begin, and the ablations decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luopan.errors import RecipeError
from luopan.lab.compass.answers import Answers
from luopan.lab.planning.devices import find_device
from luopan.lab.planning.plans import ASSUMED_MFU, shape_of
from luopan.lab.planning.quantities import count_text
from luopan.lab.planning.scaling import BESIROGLU, deepseek_law, step_law
from luopan.model.config import ModelConfig

PLAYBOOK = "Smol Training Playbook (Hugging Face, 2025)"
Path = Literal["stop", "prompt", "finetune", "learn", "pretrain"]

# Bytes that weights may take where the model answers, and how many a weight takes there.
PLACES = {
    "phone": (1.5e9, 0.6, "four-bit weights within 1.5 GB of a phone's memory"),
    "laptop": (4e9, 1.1, "eight-bit weights within 4 GB of a laptop's memory"),
    "gpu-24gb": (12e9, 2.0, "bf16 weights in half of 24 GB, the rest for keys and values"),
    "gpu-80gb": (40e9, 2.0, "bf16 weights in half of 80 GB"),
    "server": (80e9, 2.0, "bf16 weights over a server's cards"),
}
LARGEST = 3e9  # what luopan is made for
FEWEST_TOKENS = 20.0  # a parameter, below which a smaller model learns more from the same compute
MOST_EPOCHS = 4.0
CPU_FLOPS = 1.0e11  # fp32, two cores


@dataclass(frozen=True)
class Finding:
    """One recommendation: at which step, what, why, and who found it."""

    step: Literal["why", "what", "how"]
    advice: str
    because: str
    source: str


@dataclass(frozen=True)
class Direction:
    """Where the needle points. `model`, `tokens` and `batch_tokens` belong to pretraining."""

    path: Path
    findings: tuple[Finding, ...]
    model: ModelConfig | None = None
    tokens: float = 0.0
    batch_tokens: int = 0
    learning_rate: float = 0.0
    base: str = ""

    @property
    def trains(self) -> bool:
        return self.path in ("finetune", "learn", "pretrain")


def point(answers: Answers) -> Direction:
    """Why first; what and how only where there is a why."""
    path, why = _why(answers)
    if path in ("stop", "prompt"):
        return Direction(path, tuple(why))
    if path == "finetune":
        base, found = _base(answers)
        return Direction(path, (*why, *found, *_evaluation(answers)), base=base)
    model, tokens, what = _size(answers, path)
    batch, rate, how = _optimizer(answers, model, tokens)
    return Direction(
        path, (*why, *what, *_shape(answers, model), *how, *_stages(answers, path), *_evaluation(answers)),
        model, tokens, batch, rate,
    )  # fmt: skip


def _why(answers: Answers) -> tuple[Path, list[Finding]]:
    source = f"{PLAYBOOK}, on whether to train"
    if answers.reason == "compute":
        return "stop", [Finding(
            "why", "Train nothing yet.",
            "That machines are there says how much could be trained, not what for. A model without a question has no "
            "evaluation that could tell whether it came out well, and is forgotten. Come back with one sentence: who "
            "will do what with it that no existing model lets them do?", source,
        )]  # fmt: skip
    if answers.reason == "learning":
        return "learn", [Finding(
            "why", "Train something small from scratch, end to end.",
            "To understand how a model comes about, hours of a laptop teach more than weeks of a cluster: every stage "
            "can be repeated, changed and compared the same day.", "rule of this house",
        )]  # fmt: skip
    if answers.prompting == "works":
        return "prompt", [Finding(
            "why", "Use the existing model.",
            "It does what is wanted. Keep its answers with grades: they are the evaluation, and the data, should a "
            "smaller model be wanted for speed or cost later (distil).", source,
        )]  # fmt: skip
    if answers.prompting == "untried" and answers.reason == "product":
        return "prompt", [Finding(
            "why", "First ask an existing model, with a written prompt, on fifty real cases.",
            "It takes a day, and whatever comes after is measured by it. Training begins where it demonstrably fails.",
            source,
        )]  # fmt: skip
    against = {
        "domain": "existing models do not know the field", "language": "existing models do not know the language",
        "size": "no existing model is small enough for its place", "licence": "existing licences do not allow it",
        "control": "every byte of its data must be known",
    }.get(answers.obstacle)  # fmt: skip
    scratch = answers.reason in ("research", "gap") and answers.obstacle != "none"
    if answers.reason == "research" and answers.obstacle in ("none", "control"):
        scratch = answers.finetuning == "fails" or answers.obstacle == "control"
    if answers.finetuning == "fails" and answers.obstacle != "none":
        scratch = True
    if not scratch:
        detail = "has not been tried" if answers.finetuning == "untried" else "works"
        if answers.finetuning == "fails":
            detail = (
                "fails, but nothing that stands against existing models was named: more and cleaner data, a larger "
            )
            detail += "base or continued pretraining come before a new model"
        return "finetune", [Finding(
            "why", "Fine-tune an existing small model.",
            f"Fine-tuning {detail}. It costs hundredths to millionths of a pretraining, and a domain's words and facts "
            "come by continued pretraining (midtrain) if fine-tuning alone does not bring them.", source,
        )]  # fmt: skip
    return "pretrain", [Finding(
        "why", "Pretrain from scratch.",
        f"There is a reason that existing models do not meet ({against or 'a question about training itself'}), and "
        f"cheaper ways were {'tried' if answers.finetuning == 'fails' else 'considered'}.", source,
    )]  # fmt: skip


def _base(answers: Answers) -> tuple[str, list[Finding]]:
    room, each, why = PLACES[answers.serve_on]
    largest = room / each
    bases = ((3e9, "HuggingFaceTB/SmolLM3-3B-Base"), (1.7e9, "HuggingFaceTB/SmolLM2-1.7B"),
             (3.6e8, "HuggingFaceTB/SmolLM2-360M"), (0.0, "HuggingFaceTB/SmolLM2-135M"))  # fmt: skip
    memory = 16e9 if answers.device == "this" else find_device(answers.device).memory_bytes * answers.devices
    trainable = memory / 18  # full fine-tuning; adapters take a sixth
    base = next(name for size, name in bases if size <= min(largest, 6 * trainable))
    found = [Finding("what", f"Begin with {base}.", f"The largest of the family that fits: {why}; and training memory.",
                     "18 bytes a parameter for full fine-tuning, about 3 with adapters (luopan plan)")]  # fmt: skip
    if base.endswith(("1.7B", "3B-Base")) and min(largest, trainable) < 1.7e9:
        found.append(Finding("how", "Train a LoRA adapter instead of all weights.",
                             "Full fine-tuning needs 18 bytes a parameter.", "docs/adapters.md"))  # fmt: skip
    found.append(Finding(
        "how", "Scan the learning rate over 1e-6 … 1e-4 with two seeds; one epoch; 128 conversations a batch at most.",
        "It moves results more than anything else at this stage; long batches of packed short sets cost instruction "
        "following.", f"{PLAYBOOK}, supervised fine-tuning",
    ))  # fmt: skip
    if answers.obstacle in ("domain", "language"):
        found.append(Finding(
            "how", "Put a midtrain stage before it: your text, and a tenth of general text against forgetting.",
            "Fine-tuning teaches manners and formats; words and facts come from many tokens.",
            f"{PLAYBOOK}, mid-training",
        ))  # fmt: skip
    return base, found


def _size(answers: Answers, path: Path) -> tuple[ModelConfig, float, list[Finding]]:
    """The largest shape that fits its place, is read `FEWEST_TOKENS` tokens a parameter, and has data for it."""
    flops = _flops(answers)
    room, each, why = PLACES[answers.serve_on]
    limits = {why: room / each, "luopan's range": LARGEST}
    if path == "learn":
        limits = {"an exercise": 5e6}
    limits[f"{answers.days:g} days of {answers.devices} × {answers.device} at {FEWEST_TOKENS:g} tokens a parameter"] = (
        flops / 6 / FEWEST_TOKENS
    ) ** 0.5
    if answers.device != "this":
        memory = answers.devices * find_device(answers.device).memory_bytes
        limits[f"the memory of {answers.devices} × {answers.device}, half of it for weights and their state"] = (
            memory / 36
        )
    if answers.tokens is not None:
        usable = MOST_EPOCHS * answers.tokens
        limits[f"{count_text(answers.tokens)} tokens of text, read {MOST_EPOCHS:g} times"] = usable / FEWEST_TOKENS
    reason, most = min(limits.items(), key=lambda item: item[1])
    if most < 5e5:
        raise RecipeError(
            f"{reason} allows {count_text(most)} parameters, which is too few to learn from text",
            hint="More text, more days, or fine-tune an existing model.",
        )
    model = _read_enough(most, flops, answers, reason)
    tokens = flops / model.flops_per_token(row_length(answers, model))
    found = [Finding(
        "what", f"{count_text(model.num_parameters())} parameters.", f"The tightest limit is {reason}.",
        f"{FEWEST_TOKENS:g} tokens a parameter: Hoffmann et al. 2022, refit Besiroglu et al. 2024",
    )]  # fmt: skip
    if answers.tokens is not None and tokens > MOST_EPOCHS * answers.tokens:
        tokens = MOST_EPOCHS * answers.tokens
        found.append(Finding(
            "what", f"Stop at {count_text(tokens)} tokens: the text {MOST_EPOCHS:g} times.",
            "Up to four readings are nearly as good as fresh text, further ones are worth less and less.",
            "Muennighoff et al. 2023, arXiv:2305.16264",
        ))  # fmt: skip
    over = tokens / BESIROGLU.optimal_tokens(model.num_active_parameters())
    found.append(Finding(
        "what", f"{count_text(tokens)} tokens, {tokens / model.num_parameters():.0f} a parameter.",
        f"{over:.1f} times the optimum of its training compute: what is answered often pays for a small model that was "
        "trained long." if over >= 1 else f"{over:.1f} times the optimum of its training compute: more tokens would "
        "still help more than more parameters.", "Besiroglu et al. 2024; SmolLM3 had 3,600 a parameter",
    ))  # fmt: skip
    return model, tokens, found


def _read_enough(most: float, flops: float, answers: Answers, reason: str) -> ModelConfig:
    """The largest shape below `most` that the compute reads enough tokens with: attention and the head cost, too."""
    vocab = 49_152 if answers.languages <= 2 else 128_256
    while most >= 5e5:
        values = shape_of(most, vocab_size=vocab).model_dump(exclude_unset=True)
        if answers.context > 4096:
            values["no_rope_layer_interval"] = 4
        model = ModelConfig.model_validate(values)
        if flops / model.flops_per_token(row_length(answers, model)) >= 0.9 * FEWEST_TOKENS * model.num_parameters():
            return model
        most *= 0.8
    raise RecipeError(f"{reason} is too little to train anything on", hint="More days, or more devices.")


def row_length(answers: Answers, model: ModelConfig) -> int:
    """Tokens in a row of pretraining: the context, as far as it pays from the start."""
    return min(answers.context, 4096 if model.num_parameters() > 5e7 else 512)


def _flops(answers: Answers) -> float:
    """What the devices do in the days, less a fifth for ablations, restarts and mistakes."""
    if answers.device == "this":
        return 0.8 * CPU_FLOPS * 0.45 * answers.devices * answers.seconds
    return 0.8 * find_device(answers.device).flops * ASSUMED_MFU * answers.devices * answers.seconds


def _shape(answers: Answers, model: ModelConfig) -> list[Finding]:
    share = (model.num_parameters() - model.num_non_embedding_parameters()) / model.num_parameters()
    found = [
        Finding("what", "A dense decoder: grouped queries, RMSNorm, SwiGLU, rotary positions, documents masked apart.",
                "Memory where it answers is the limit here, and there experts cost their full size.",
                f"{PLAYBOOK}, architecture ablations (grouped queries of 2 to 8 equal full attention)"),
        Finding("what", f"{'Tied' if model.tie_word_embeddings else 'Untied'} embeddings, {model.vocab_size:,} tokens.",
                f"Embeddings are {share:.0%} of it; untying would double that without a gain at this size."
                if model.tie_word_embeddings else "At this size they cost little.",
                f"{PLAYBOOK}; MobileLLM, arXiv:2402.14905"),
    ]  # fmt: skip
    if answers.languages > 1 or answers.obstacle in ("domain", "language"):
        found.append(Finding("what", "A tokenizer of your own, compared with existing ones on your text.",
                             "A word cut into many pieces costs context, compute and quality in every later step.",
                             f"{PLAYBOOK}, tokenizer: fertility and split words"))  # fmt: skip
    if answers.context > 4096:
        found.append(Finding("what", f"No positions in every fourth layer; {answers.context:,} tokens at the end only.",
                             "Full length throughout wastes compute; extension takes a per cent of the tokens.",
                             "SmolLM3: 100B of 11T tokens; Yang et al. 2025, arXiv:2501.18795"))  # fmt: skip
    return found


def _optimizer(answers: Answers, model: ModelConfig, tokens: float) -> tuple[int, float, list[Finding]]:
    number = model.num_non_embedding_parameters()
    fits = [step_law(number, tokens), deepseek_law(6 * number * tokens)]
    low, high = sorted(rate for rate, _ in fits)
    rate = float(f"{(low * high) ** 0.5:.1e}")
    batches = sorted(batch for _, batch in fits)
    # A run has a thousand updates at least, whatever a fit made on trillions of tokens says.
    batch = int(min((batches[0] * batches[1]) ** 0.5, tokens / 1000))
    return batch, rate, [
        Finding("how", "AdamW (0.9, 0.95), weight decay 0.1 but not on embeddings, clip at 1; warm up, stay, "
                "decay over the last fifth (WSD).",
                "What is known to hold at scale; its length can be changed while it runs.",
                "SmolLM3; Hu et al. 2024, arXiv:2404.06395"),
        Finding("how", f"Sweep the learning rate between {low:.1e} and {high:.1e}, beginning at {rate:.1e}.",
                "The two published fits disagree by that much; for SmolLM3 both are above what was used.",
                "arXiv:2503.04715, arXiv:2401.02954"),
        Finding("how", f"About {count_text(batch)} tokens an update.",
                f"The fits say {count_text(batches[0])} and {count_text(batches[1])}; at least a thousand updates.",
                "the same fits"),
    ]  # fmt: skip


def _stages(answers: Answers, path: Path) -> list[Finding]:
    found = [Finding("how", "Ablate on a proxy before the run: one change at a time, three seeds, and a noise band.",
                     "Most ideas do nothing; those that do are found for a few per cent of the budget.",
                     f"{PLAYBOOK}, ablations")]  # fmt: skip
    if answers.conversations and path == "pretrain":
        found.append(Finding("how", "Then fine-tune on conversations, then preferences.",
                             "A base model goes on with a text; turns, endings and manners are taught afterwards.",
                             f"{PLAYBOOK}, post-training"))  # fmt: skip
    if answers.reasoning:
        found.append(Finding("how", "Put reasoning traces into mid-training, before fine-tuning.",
                             "It about tripled competition mathematics and code at 3B.",
                             f"{PLAYBOOK}, reasoning mid-training"))  # fmt: skip
    return found


def _evaluation(answers: Answers) -> list[Finding]:
    return [Finding("how", "Write the evaluation first: fifty cases of the goal itself, graded by rule where it can "
                    "be, and two tasks of general ability that must not fall.",
                    "What is not measured before the first step cannot be said to have become better.",
                    f"{PLAYBOOK}, evaluation")]  # fmt: skip
