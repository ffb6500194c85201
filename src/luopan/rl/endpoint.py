"""Sampling by a server instead of the engine in this process: ours, or vLLM's, over `/v1/completions`.

Prompts go out as token ids and answers come back as token ids with the log-probabilities that they were drawn with, so
no text is encoded twice. Before it samples, the server is given the policy's weights where it does not have them: they
are written to a folder, and the server is told (`HandOver`). Weights are known by a hash of all their numbers, so what
is sampled under is a fact and no guess: our server says which weights it holds, before and after; one that was started
again in between gets them again, and the answers are made anew. Each answer has a seed of its own, a function of
(seed, its key), so a resumed run samples the same ones from a server that keeps to seeds (ours does).

vLLM has to be started with `--logprobs-mode processed_logprobs`: by default its log-probabilities are not those of the
distribution at the temperature it draws from. What goes wrong there is noticed: trainer and sampler are compared before
the first update. Limits: one process trains; vLLM itself has not been tried here, only what it documents.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from luopan.errors import FeedUnavailable, ModelError, RecipeError
from luopan.generate.completion import Completion
from luopan.generate.config import SamplingParams
from luopan.model.decoder import Decoder
from luopan.rl.line import Line

MOST_HAND_OVERS = 3  # for one call: a server that is started again and again is no server
_SENT = {"max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty",
         "presence_penalty", "min_new_tokens", "stop_token_ids", "seed"}  # fmt: skip


class Holder(Protocol):
    """How a server gets weights, and how it is known which it has."""

    def holds(self, version: str) -> bool: ...

    def give(self, folder: Path, version: str) -> None: ...


@dataclass
class EndpointSampler:
    """A `rl.groups.Sampler`. eos_ids: what ends an answer. vocab: how many tokens there are. extra: put into every
    request."""

    line: Line
    model: str
    eos_ids: Sequence[int]
    vocab: int
    hand_over: HandOver | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int | None = None,
        request_ids: Sequence[int] | None = None,
    ) -> list[Completion]:
        """As `Engine.generate`. FeedUnavailable where the server is away for too long, Refused for what it will not
        do, ModelError for answers that cannot be learnt from."""
        keys = range(len(prompts)) if request_ids is None else request_ids
        common = self.fields(params)
        seed = params.seed if seed is None else seed
        bodies = [
            {**common, "prompt": list(prompt), "seed": own_seed(seed, key)}
            for prompt, key in zip(prompts, keys, strict=True)
        ]
        for _ in range(MOST_HAND_OVERS):
            version = self.hand_over.bring() if self.hand_over else None
            answers = self.line.ask_all("completions", bodies)
            if self.hand_over is None or self.hand_over.holder.holds(str(version)):
                ends = {*self.eos_ids, *params.stop_token_ids}
                return [self.completion(answer, ends) for answer in answers]
        raise FeedUnavailable(
            f"{self.line.base_url} lost the policy's weights {MOST_HAND_OVERS} times while it sampled",
            hint="See why that server is started again, or who else changes its weights.",
        )

    def fields(self, params: SamplingParams) -> dict[str, Any]:
        """The sampling parameters of a request. All are said, so that the server's own defaults change nothing."""
        given = {name for name, value in params if value != SamplingParams.model_fields[name].default}
        if more := sorted(given - _SENT):
            raise RecipeError(f"an endpoint is not asked for {', '.join(more)}", hint="Sample with the own engine.")
        wanted = {
            "model": self.model,
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k or -1,
            "min_p": params.min_p,
            "repetition_penalty": params.repetition_penalty,
            "frequency_penalty": params.frequency_penalty,
            "presence_penalty": params.presence_penalty,
            "stop_token_ids": list(dict.fromkeys([*self.eos_ids, *params.stop_token_ids])),
            "logprobs": 0,
            "return_token_ids": True,
        }
        return {**wanted, **({"min_tokens": params.min_new_tokens} if params.min_new_tokens else {}), **self.extra}

    def completion(self, answer: Mapping[str, Any], ends: set[int]) -> Completion:
        """An answer of the API as one of the engine's."""
        try:
            choice = answer["choices"][0]
            told = choice["logprobs"]
            tokens = choice.get("token_ids")
            if tokens is None:  # older vLLM, with return_tokens_as_token_ids in `extra`
                tokens = [int(name.removeprefix("token_id:")) for name in told["tokens"]]
            tokens, logprobs = [int(token) for token in tokens], [float(value) for value in told["token_logprobs"]]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise self.unfit("its answers lack token ids or log-probabilities") from None
        if len(tokens) != len(logprobs):
            raise self.unfit(f"an answer has {len(tokens)} tokens and {len(logprobs)} log-probabilities")
        if any(not 0 <= token < self.vocab for token in tokens):
            raise self.unfit(f"an answer has a token that the policy does not have ({max(tokens)})")
        if choice.get("finish_reason") == "stop":
            if not tokens or tokens[-1] not in ends:
                raise self.unfit("an answer was ended by something that is no stop token of the policy")
            return Completion(tokens, logprobs, "stop")
        return Completion(tokens, logprobs, "length" if choice.get("finish_reason") == "length" else "cancelled")

    def unfit(self, why: str) -> ModelError:
        """The error for a server whose answers cannot be trained on."""
        return ModelError(
            f"{self.model} at {self.line.base_url} cannot sample for a training: {why}",
            hint="The server has to give token_ids and logprobs with the stop token, as luopan serve and vLLM do.",
        )


def own_seed(seed: int | None, key: int) -> int | None:
    """One answer's seed, below 2**63; None where there is none."""
    return None if seed is None else int(np.random.SeedSequence([seed, key]).generate_state(1, np.uint64)[0] >> 1)


# ---- weights ----


@dataclass
class HandOver:
    """The policy's weights, brought to a server that does not have them. save: writes them into a folder. folder: where
    they lie until the server has read them; the server must see it under the same path."""

    model: Decoder
    save: Callable[[Path], None]
    folder: Path
    holder: Holder

    def bring(self) -> str:
        """See to it that the server holds the weights of now; returns what they are called."""
        version = weights_hash(self.model)
        if self.holder.holds(version):
            return version
        place = self.folder.resolve() / f"{version}-{uuid.uuid4().hex[:8]}"
        try:
            self.save(place)
            self.holder.give(place, version)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return version


def weights_hash(model: Decoder) -> str:
    """A name for exactly these numbers: 16 hexadecimal digits. A second for a GB."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@dataclass
class Reload:
    """`POST /v1/reload` of our own server, started with `--reload-from`."""

    line: Line
    model: str

    def holds(self, version: str) -> bool:
        """What the server itself says."""
        said = self.line.fetch(f"models/{self.model}").get("luopan")
        return isinstance(said, dict) and said.get("weights") == version

    def give(self, folder: Path, version: str) -> None:
        """Have the weights read; answers that are still being made are waited for."""
        self.line.ask("reload", {"model": self.model, "path": str(folder), "version": version})


@dataclass
class Command:
    """A command of the user's, run without a shell, with {path} and {version} filled in. That it succeeded is all that
    is known, so a server that was started again since is not noticed."""

    command: str
    seconds: float = 600.0
    given: str = ""

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command)
            filled = [word.format(path="", version="") for word in words]
        except (ValueError, KeyError, IndexError) as error:
            raise RecipeError(f"{self.command!r} is no command: {error}", hint="Write {path} and {version}.") from None
        if not filled or not any("{path}" in word for word in words):
            raise RecipeError("the command does not say where the weights are", hint="Write {path} where they belong.")

    def holds(self, version: str) -> bool:
        return self.given == version

    def give(self, folder: Path, version: str) -> None:
        """Run it. FeedUnavailable where it fails."""
        words = [word.format(path=folder, version=version) for word in shlex.split(self.command)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=self.seconds, check=False)
            failed = f"ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}"
            well = done.returncode == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            failed, well = str(error), False
        if not well:
            raise FeedUnavailable(f"the command that hands weights over {failed}", hint=f"Try it: {self.command}")
        self.given = version
