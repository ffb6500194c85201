"""Our GRPO beside TRL's GRPOTrainer (without vLLM): same model, same questions, same verifier, same number of samples.

    python benchmarks/grpo.py runs/quickstart/sft/model [--steps 40] [--prompts 16] [--generations 8] [--json FILE]

The model is any Hugging Face folder with a chat template that thinks (the quickstart's SFT model). Both answer the
same training questions (subtraction of two digits) at temperature 1, are graded by the same verifier, and take one
update per step with the same settings: dapo normaliser, group scaling, no KL, AdamW without decay, constant learning
rate, fp32, no gradient checkpointing. Neither replaces groups of equal rewards. Two processes take turns step by step;
a sample is one answer. TRL generates through transformers in one batch of all answers, its fastest way on a CPU.

"Reward" is the mean over the last quarter of the steps, when both have seen equally many samples. Their random numbers
differ, so rewards are compared within the noise of that mean.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import turns
from turns import Result, Turnstile, Worker

SKILL, OPTIONS = "subtraction", {"digits": [2]}
LEARNING_RATE, LONGEST = 2e-4, 48


@dataclass(frozen=True)
class Setting:
    """What both run."""

    model: str
    steps: int
    prompts: int
    generations: int
    threads: int
    seed: int

    @property
    def samples(self) -> int:
        """In a step."""
        return self.prompts * self.generations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    for name, default in {"steps": 40, "prompts": 16, "generations": 8, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = vars(parser.parse_args())
    file = options.pop("json")
    setting = Setting(**options)
    workers = {"luopan": Worker(run_luopan, setting, ours=True), "TRL": Worker(run_trl, setting, ours=False)}
    results = turns.take_turns(workers, setting.steps)
    figures = summarise(setting, results)
    print(turns.heading(setting))
    for name, one in results.items():
        rate = setting.samples * (setting.steps - 1) / sum(one.seconds[1:])
        share = one.before / sum(one.seconds)
        print(f"{name:8} {rate:7.1f} samples/s, {share:4.0%} of it generation; reward {late(one):.3f}", end="")
        print(f" (first quarter {early(one):.3f}); {sum(one.tokens) / setting.steps:,.0f} answer tokens a step")
    for name, value in figures.items():
        print(f"{name:40} {value:.3f}")
    if file:
        file.write_text(turns.as_json(setting, results, figures))


def summarise(setting: Setting, results: dict[str, Result]) -> dict[str, float]:
    """The ratios that count."""
    ours, theirs = results["luopan"], results["TRL"]
    quarter = max(1, setting.steps // 4)
    spread = [statistics.stdev(one.losses[-quarter:]) if quarter > 1 else float("nan") for one in (ours, theirs)]
    return {
        "speed / TRL": turns.speedup(ours, theirs, [1.0] * setting.steps),
        "memory / TRL": ours.peak / theirs.peak,
        "reward - TRL's": late(ours) - late(theirs),
        "standard error of that": (sum(one**2 for one in spread) / quarter) ** 0.5,
    }


def late(result: Result) -> float:
    """Mean reward over the last quarter."""
    return statistics.fmean(result.losses[-max(1, len(result.losses) // 4) :])


def early(result: Result) -> float:
    """Mean reward over the first quarter."""
    return statistics.fmean(result.losses[: max(1, len(result.losses) // 4)])


# ------------------------------------------------------------------------------------------------------ what they run


def run_luopan(setting: Setting, gate: Turnstile) -> Result:
    """The `grpo` stage's feed and loss in the one training loop."""
    from functools import partial

    from luopan.model import hf
    from luopan.recipe.specs import GrpoSpec
    from luopan.rl.log import read_log
    from luopan.stages.base import Workspace
    from luopan.stages.common import Chat
    from luopan.stages.grpo import build_feed
    from luopan.tokens.tokenizer import load_tokenizer
    from luopan.train.device import peak_memory_bytes, tune_allocator
    from luopan.train.loop import fit
    from luopan.train.losses import policy_loss
    from luopan.train.progress import SilentProgress

    tune_allocator()
    idle = turns.resident_bytes()
    spec = GrpoSpec(
        kind="grpo", model="model", tasks=[{"skill": SKILL, "options": OPTIONS}], prompts=2000,
        prompts_per_step=setting.prompts, num_generations=setting.generations, max_completion_length=LONGEST,
        temperature=1.0, resample_rounds=0, max_length=256, seed=setting.seed,
        **{k: v for k, v in turns.same_training(setting.steps, LEARNING_RATE).items() if k != "spike_sigma"},
    )  # fmt: skip
    generation = 0.0
    with tempfile.TemporaryDirectory() as folder:
        chat = Chat(hf.load(setting.model), load_tokenizer(setting.model), turns.torch.device("cpu"))
        feed = build_feed(spec, chat, Workspace(Path(folder), "grpo", setting.seed, SilentProgress()))
        engine: Any = feed.collector.engine  # type: ignore[attr-defined]
        generate = engine.generate

        def timed(*arguments: Any, **more: Any) -> Any:
            nonlocal generation
            began = time.perf_counter()
            found = generate(*arguments, **more)
            generation += time.perf_counter() - began
            return found

        engine.generate = timed
        gate.start()
        fit(
            chat.model, feed, partial(policy_loss, temperature=1.0, loss_type="dapo"), spec, Path(folder),
            device="cpu", seed=setting.seed, progress=SilentProgress(), on_log=lambda line: gate.pass_through(),
        )  # fmt: skip
        peak = peak_memory_bytes() - idle
        steps = [
            [answer for group in read_log(feed.folder, step) for answer in group["answers"]]
            for step in range(setting.steps)
        ]
    rewards = [statistics.fmean(answer["reward"] for answer in answers) for answers in steps]
    tokens = [sum(len(answer["tokens"]) for answer in answers) for answers in steps]
    return Result(gate.seconds, rewards, tokens, peak, before=generation)


def run_trl(setting: Setting, gate: Turnstile) -> Result:
    """`trl.GRPOTrainer` over the same questions, graded by the same verifier."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from luopan.corpus.skills import generate_cases
    from luopan.evals.verifiers import grade
    from luopan.train.device import peak_memory_bytes

    turns.quiet()
    idle = turns.resident_bytes()
    cases = generate_cases(SKILL, 2000, setting.seed, "train", thinking=1.0, **OPTIONS)
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    rewards: list[float] = []
    tokens: list[int] = []

    def reward(prompts, completions, completion_ids, case, **_):  # type: ignore[no-untyped-def]
        tokens.append(sum(map(len, completion_ids)))
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in completion_ids]
        ended = [len(ids) < LONGEST or ids[-1] in stops for ids in completion_ids]
        graded = [
            float(grade(cases[number], opening + text).score or 0.0) if done else 0.0
            for number, text, done in zip(case, texts, ended, strict=True)
        ]
        rewards.append(statistics.fmean(graded))
        return graded

    class Timed(GRPOTrainer):  # type: ignore[misc]
        took = 0.0

        def _generate_single_turn(self, *arguments, **more):  # type: ignore[no-untyped-def]
            began = time.perf_counter()
            found = super()._generate_single_turn(*arguments, **more)
            self.took += time.perf_counter() - began
            return found

    class Turns(TrainerCallback):
        def on_step_end(self, args, state, control, **rest) -> None:  # type: ignore[no-untyped-def]
            gate.pass_through()

    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype="float32")
    ends = model.generation_config.eos_token_id
    stops = set(ends if isinstance(ends, list) else [ends])
    rendered = tokenizer.apply_chat_template(
        cases[0].messages[:1], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    # What the template has already opened belongs to the text that is graded.
    opening = "<think>\n" if rendered.rstrip().endswith("<think>") else ""
    with tempfile.TemporaryDirectory() as folder:
        training = turns.their_training(folder, setting.steps, LEARNING_RATE)
        training.pop("train_sampling_strategy", None)
        trainer = Timed(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                **training,
                per_device_train_batch_size=setting.samples,
                num_generations=setting.generations,
                max_completion_length=LONGEST,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                loss_type="dapo",
                scale_rewards="group",
                beta=0.0,
                gradient_checkpointing=False,
                chat_template_kwargs={"enable_thinking": True},
                seed=setting.seed,
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": one.messages[:1], "case": number} for number, one in enumerate(cases)]
            ),
            processing_class=tokenizer,
            callbacks=[Turns()],
        )
        turns.quiet(trainer)
        gate.start()
        trainer.train()
    peak = peak_memory_bytes() - idle
    return Result(gate.seconds, rewards, tokens, peak, before=trainer.took)


if __name__ == "__main__":
    main()
