"""lm-evaluation-harness with our models: its tasks, its prompts, its scoring; our engine.

The package `lm_eval` is imported when it is needed. Where this differs from its own Hugging Face model: text is only
text (a control token spelt out in a row is no control token); a context is cut to the window instead of the window and
one token; rolling log-likelihoods read windows that overlap by one token. Chat templates are not applied: tasks of kind
generate do that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luopan.errors import DataError
from luopan.evals.bits import EncodedText, windows
from luopan.evals.likelihood import likelihoods
from luopan.evals.tasks.figures import Figure, Result
from luopan.generate.config import SamplingParams
from luopan.generate.score import continuation_logprobs
from luopan.generate.text import TextGenerator
from luopan.tokens.tokenizer import document_frame, plain_backend

BOOTSTRAP = 1000  # of the harness's own errors for what is no mean; its default of 100000 takes minutes


def run_harness(
    generator: TextGenerator, tasks: Sequence[str], limit: int | None = None, include_path: Path | None = None
) -> list[Result]:
    """The harness's figures, by row where they are means. `include_path`: a folder with task files in its format; only
    those are known then. DataError without the package, or for a task that it does not know."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise DataError("tasks of lm_eval need the package", hint="pip install 'luopan[lm-eval]'") from error
    manager = TaskManager(include_path=str(include_path) if include_path else None, include_defaults=not include_path)
    known = set(manager.all_tasks)
    if unknown := [name for name in tasks if name not in known]:
        raise DataError(
            f"lm_eval knows no task {unknown[0]!r}", where=include_path, hint="`lm_eval ls tasks` lists its own."
        )
    found = simple_evaluate(
        model=as_lm(generator), tasks=list(tasks), limit=limit, task_manager=manager, bootstrap_iters=BOOTSTRAP,
        log_samples=True,
    )  # fmt: skip
    assert found is not None
    return [result_of(name, figures, found["samples"].get(name, [])) for name, figures in found["results"].items()]


def result_of(name: str, told: dict[str, Any], samples: Sequence[dict[str, Any]]) -> Result:
    """The harness's results of one task in our form. Means become figures by row; the rest are notes."""
    figures: dict[str, Figure] = {}
    notes: dict[str, float] = {}
    for key, value in told.items():
        metric, comma, way = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        label = metric if way == "none" else f"{metric}/{way}"
        rows = sorted((one for one in samples if one.get("filter", way) == way), key=lambda one: one["doc_id"])
        scores = tuple(_number(one.get(metric)) for one in rows)
        figure = Figure(scores)
        if figure.value is not None and math.isclose(figure.value, value, rel_tol=1e-9, abs_tol=1e-12):
            figures[label] = figure
        else:
            notes[label] = float(value)
    if not figures:
        raise DataError("the harness gave no figure that is a mean over rows", where=name)
    main = next((one for one in ("acc_norm", "acc") if one in figures), next(iter(figures)))
    shown: list[dict[str, Any]] = [
        {key: one[key] for key in ("doc_id", "target", "filtered_resps") if key in one} for one in samples
    ]
    first = next(iter(figures.values()))
    return Result(f"lm_eval:{name}", main, figures, shown, notes, f"lm_eval:{name}:{len(first.scores)}")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def as_lm(generator: TextGenerator) -> Any:
    """An `lm_eval.api.model.LM` of the model."""
    from lm_eval.api.model import LM

    class Harnessed(LM):  # type: ignore[misc]  # the harness asks for a subclass
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [(one.args[0], one.args[1]) for one in requests]
            found = likelihoods(generator.model, generator.tokenizer, pairs)
            return [(one.logprob, one.greedy) for one in found]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [rolling(generator, one.args[0]) for one in requests]

        def generate_until(self, requests: list[Any]) -> list[str]:
            prompts = [cut(generator, one.args[0], params_of(one.args[1])) for one in requests]
            params = [params_of(one.args[1]) for one in requests]
            return [reply.text for reply in generator.batch(prompts, params)]

    return Harnessed()


def rolling(generator: TextGenerator, text: str) -> float:
    """Log-probability of a whole text after the token that begins or ends a document."""
    before, after = document_frame(generator.tokenizer)
    ids = plain_backend(generator.tokenizer).encode(text, add_special_tokens=False).ids
    whole = EncodedText([*(before or after), *ids], 1, 0)
    pieces = list(windows(whole, generator.model.config.max_position_embeddings, 1))
    rows = continuation_logprobs(generator.model, [one for one, _ in pieces], [start for _, start in pieces])
    return math.fsum(logprob for row in rows for logprob in row)


def params_of(told: dict[str, Any]) -> SamplingParams:
    """The harness's generation arguments; greedy unless it says otherwise, 256 tokens as its own models have."""
    until = told.get("until") or ()
    stop = tuple(one for one in ([until] if isinstance(until, str) else until) if one)
    sampled = bool(told.get("do_sample")) and float(told.get("temperature", 1.0)) > 0
    temperature = float(told.get("temperature", 1.0)) if sampled else 0.0
    length = told.get("max_gen_toks", told.get("max_new_tokens", 256))
    top_p = float(told["top_p"]) if sampled and "top_p" in told else 1.0
    return SamplingParams(max_new_tokens=int(length), temperature=temperature, stop=stop, top_p=top_p)


def cut(generator: TextGenerator, text: str, params: SamplingParams) -> str:
    """The end of a prompt that leaves room for the answer."""
    window = generator.model.config.max_position_embeddings
    room = max(1, window - params.max_new_tokens)
    ids = generator.encode(text)
    if len(ids) <= room:
        return text
    return str(generator.tokenizer.decode(ids[-room:], skip_special_tokens=True, clean_up_tokenization_spaces=False))
