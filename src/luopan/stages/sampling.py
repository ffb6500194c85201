"""Who samples for a stage: the engine in this process, or a server that is given the policy's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from luopan.errors import RecipeError
from luopan.model import hf
from luopan.model.decoder import Decoder
from luopan.recipe.rl_specs import OnPolicySpec
from luopan.recipe.sampler_spec import EndpointSampler as EndpointKeys
from luopan.rl.endpoint import Command, EndpointSampler, HandOver, Holder, Reload
from luopan.rl.groups import Sampler
from luopan.rl.line import Line
from luopan.stages.base import Workspace
from luopan.stages.common import Chat
from luopan.stages.measure import engine_of
from luopan.stages.on_policy import PreciseEngine
from luopan.train.ranks import asked_for


def check_sampler(spec: OnPolicySpec) -> None:
    """RecipeError for an address or a command that cannot be one."""
    if isinstance(spec.sampler, EndpointKeys):
        parts_of(spec.sampler, None)


def parts_of(keys: EndpointKeys, say: Callable[[str], None] | None) -> tuple[Line, Holder]:
    """The line to the server, and how it gets weights."""
    line = Line(keys.base_url, keys.api_key_env, keys.timeout, keys.patience, keys.concurrency, say=say)
    return line, Reload(line, keys.model) if keys.command is None else Command(keys.command)


def sampler_of(spec: OnPolicySpec, chat: Chat, out: Workspace, model: Decoder | None = None) -> Sampler:
    """What samples with the weights of `model` (default: the policy's), as the recipe's key `sampler` says."""
    chat = chat if model is None else replace(chat, model=model)
    keys = spec.sampler
    if not isinstance(keys, EndpointKeys):
        return PreciseEngine(engine_of(chat), chat.device, spec.precision)
    if asked_for() > 1:
        raise RecipeError(
            "a server samples for one process that trains, and several were started",
            where="sampler",
            hint="Start one process, or leave sampler out.",
        )
    line, holder = parts_of(keys, out.progress.note)
    save = partial(hf.save, chat.model, architecture="auto", pad_token_id=chat.pad_id)
    hand_over = HandOver(chat.model, save, out.path / "rollouts" / "weights", holder)
    ends = engine_of(chat).eos_ids
    return EndpointSampler(line, keys.model, ends, chat.model.config.vocab_size, hand_over, keys.extra)
