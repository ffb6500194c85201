"""What GRPO and PPO learn from rewards alone: three tasks, several seeds, from the quickstart's SFT model.

    python benchmarks/rl_learning.py [--model runs/quickstart/sft/model] [--runs runs] [--seeds 1 2 3]
        [--stages addition] [--json FILE] [--plot docs/images/rl-learning.png] [--only-read]

Runs the recipe `rl-tasks` once per seed (`runs/rl-tasks-1`, …), stage by stage; what is there already is gone on from
or left as it is, so it may be stopped at any time. Held-out accuracy is the mean over 100 questions that training never
asks, 8 sampled answers each (avg@8), before, every 40 updates and after; its standard error is over questions. Seeds
differ in the order of training questions, in what is sampled, and in the warm-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STAGES = {
    "addition": "addition, three digits (GRPO)",
    "addition-ppo": "the same (PPO)",
    "letters": "counting letters (GRPO)",
    "chains": "rg:chain_sum (GRPO)",
}
CURVES = {"held-out accuracy": "accuracy", "reward in training": "reward", "tokens of an answer": "length"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart/sft/model")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plot", type=Path, help="draw the curves here (needs matplotlib)")
    parser.add_argument("--only-read", action="store_true", help="train nothing; show what is there")
    options = parser.parse_args()
    for seed in () if options.only_read else options.seeds:
        for stage in options.stages:
            run(options.model, options.runs, seed, stage)
    found = {
        stage: {
            seed: read(folder) for seed in options.seeds if (folder := stage_of(options.runs, seed, stage)).exists()
        }
        for stage in options.stages
    }
    print("\n".join(table(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.plot:
        draw(found, options.plot)


def stage_of(runs: Path, seed: int, stage: str) -> Path:
    """Where a stage's result lies."""
    return runs / f"rl-tasks-{seed}" / stage


def run(model: str, runs: Path, seed: int, stage: str) -> None:
    """One stage of one seed, and what it needs; in a process of its own, whose memory goes when it ends."""
    name = f"rl-tasks-{seed}"
    command = [sys.executable, "-m", "luopan", "run", "rl-tasks", "--runs", str(runs), "--until", stage]
    subprocess.run([*command, f"start.path={model}", f"name={name}", f"seed={seed}"], check=True)


def read_all(runs: Path, seeds: Sequence[int], stage: str) -> dict[int, dict[str, Any]]:
    """Of the seeds whose stage is done."""
    folders = {seed: stage_of(runs, seed, stage) for seed in seeds}
    return {seed: read(folder) for seed, folder in folders.items() if folder.exists()}


def read(folder: Path) -> dict[str, Any]:
    """Accuracy before and after with standard errors, answers' lengths, minutes, and the curves [(update, value)]."""
    figure, *_ = json.loads((folder / "stage_report.json").read_text())["figures"]
    assert figure["name"] == "verifier accuracy, sampled", figure["name"]
    before = json.loads((folder / "before.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    held_out = [(line["step"], line["held_out/accuracy"]) for line in lines if "held_out/accuracy" in line]
    last = max(line["step"] for line in lines)
    return {
        "before": figure["before"],
        "after": figure["after"],
        "stderr": [figure["stderr_before"], figure["stderr_after"]],
        "length": [before["length"], statistics.fmean(line["completion_length"] for line in lines[-10:])],
        "minutes": lines[-1]["seconds"] / 60,
        "accuracy": [(0, figure["before"]), *(point for point in held_out if point[0] < last), (last, figure["after"])],
        "reward": smooth([(line["step"], line["reward"]) for line in lines]),
        "lengths": smooth([(line["step"], line["completion_length"]) for line in lines]),
    }


def smooth(points: Sequence[tuple[int, float]], width: int = 10) -> list[tuple[int, float]]:
    """Means over so many updates."""
    pieces = [points[start : start + width] for start in range(0, len(points), width)]
    return [(piece[-1][0], statistics.fmean(value for _, value in piece)) for piece in pieces]


def table(found: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """Markdown."""
    rows = ["| task | seed | before | after | gain | answer, tokens | minutes |", "|---|---|---|---|---|---|---|"]
    for stage, seeds in found.items():
        for seed, one in seeds.items():
            errors = zip((one["before"], one["after"]), one["stderr"], strict=True)
            accuracy = " | ".join(f"{100 * value:.1f} ± {100 * error:.1f}" for value, error in errors)
            gain, lengths = (
                100 * (one["after"] - one["before"]),
                " → ".join(f"{length:.0f}" for length in one["length"]),
            )
            rows.append(f"| {STAGES[stage]} | {seed} | {accuracy} | {gain:+.1f} | {lengths} | {one['minutes']:.1f} |")
        if len(seeds) > 1:
            gains = [100 * (one["after"] - one["before"]) for one in seeds.values()]
            error = statistics.stdev(gains) / len(gains) ** 0.5
            rows.append(f"| {STAGES[stage]} | mean | | | {statistics.fmean(gains):+.1f} ± {error:.1f} | | |")
    return rows


def draw(found: dict[str, dict[int, dict[str, Any]]], file: Path) -> None:
    """A column per task, a line per seed; PPO dashed beside GRPO."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = [stage for stage in found if stage != "addition-ppo" and found[stage]]
    figure, grid = plt.subplots(3, len(tasks), figsize=(4 * len(tasks), 7), sharex="col", squeeze=False)
    for place, stage in enumerate(tasks):
        grid[0][place].set_title(STAGES[stage].removesuffix(" (GRPO)"))
        sources = {stage: "-"} | ({"addition-ppo": "--"} if stage == "addition" and found.get("addition-ppo") else {})
        for source, style in sources.items():
            for number, (seed, one) in enumerate(found[source].items()):
                label = f"{'PPO' if style == '--' else 'GRPO'}, seed {seed}"
                for axis, key in zip(grid[:, place], ("accuracy", "reward", "lengths"), strict=True):
                    axis.plot(*zip(*one[key], strict=True), style, color=f"C{number}", label=label)
        for axis, title in zip(grid[:, place], CURVES, strict=True):
            axis.set_ylim(0, None if "tokens" in title else 1)
            axis.grid(alpha=0.3)
            if place == 0:
                axis.set_ylabel(title)
        grid[2][place].set_xlabel("updates")
        grid[0][place].legend(fontsize=7)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    main()
