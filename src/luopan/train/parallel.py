"""Where the weights of a training live: on every rank whole ("replicas"), or in shards ("full_shard", "hybrid_shard").

`place` takes the stage's model and gives a `Placement`; the loop trains `placement.model`, computes losses through
`placement.loss` and calls `placement.finish` at the end, which writes the trained weights back into the stage's model.
Gradients are sums over micro-batches and over ranks in every layout, in fp32, so that the loop's one division by the
step's weight stays the only one and layouts agree to rounding.

Sharding is FSDP2 (`torch.distributed.fsdp.fully_shard`; Zhao et al. 2023, arXiv:2304.11277): each block is gathered
before it runs and given back afterwards; embedding, last norm and head stay gathered from the forward pass to the end
of the backward pass, because a tied head is the embedding. Our losses call `model.hidden` and `model.logits`, not
`forward`: the whole loss therefore runs inside the forward pass of one root module, and FSDP needs no hook on either.

Limits: weights travel between ranks in fp32, also where the computation is bf16 (by autocast, as with replicas); while
gradients accumulate over micro-batches a rank holds them whole (4 bytes a parameter); the stage's own model waits in
host memory meanwhile, on every rank, and for a measurement it has to fit on rank 0's device. Replicas sum their
gradients after the backward pass, not during it. Tested with gloo on the CPU; NCCL and CUDA have not run.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from luopan.errors import TrainingError
from luopan.model.decoder import Decoder
from luopan.objectives.base import LossTerm, Metric
from luopan.tokens.batch import Batch
from luopan.train.config import TrainConfig
from luopan.train.health import check_same_weights
from luopan.train.ranks import barrier, gather_objects, lost_peer, rank, sum_over_ranks, world_size

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

LossFn = Callable[[Decoder, Batch], LossTerm]


class Placement(Protocol):
    """A model laid out over the ranks. In a single process every method but `loss` and `whole` does nothing.

    One step of the loop::

        batches = feed.micro_batches(step)
        rounds = placement.rounds(len(batches))
        for n in range(rounds):
            with placement.micro_batch(last=n == rounds - 1):
                if n < len(batches):
                    term = placement.loss(loss_fn, batches[n])   # inside autocast, batch on the device
                    term.total.backward()
                else:
                    placement.idle().backward()                  # this rank has no batch left, others have
        placement.sum_gradients(sums)                            # now every .grad, and `sums`, is the step's
    """

    model: Decoder
    """What is trained: for the optimizer, `recompute`, `compile_blocks` (set after `place`), EMA, checkpoints."""
    sharded: bool
    """Parameters, gradients and optimizer state are DTensors: every rank saves, loads and reads norms together."""

    def rounds(self, batches: int) -> int:
        """How many micro-batches this rank runs in a step it has `batches` for: shards move in step, so all run as
        many as the rank with the most. One exchange between hosts with shards, none otherwise."""
        ...

    def micro_batch(self, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch: gradients travel in the step's `last` one only."""
        ...

    def loss(self, loss_fn: LossFn, batch: Batch) -> LossTerm:
        """`loss_fn(model, batch)`, with graph."""
        ...

    def idle(self) -> Tensor:
        """A loss of 0 that needs every weight, for a micro-batch that this rank does not have."""
        ...

    def sum_gradients(self, sums: Tensor) -> None:
        """After the step's last backward pass: adds up over ranks, in place, the gradients (where the backward pass
        has not done it) and `sums`, an fp32 tensor. Replicas make a missing gradient zeros before they sum."""
        ...

    def whole(self) -> AbstractContextManager[Decoder]:
        """The whole model with the current weights, to be measured: every rank enters, rank 0 alone uses it, and all
        leave together (however long rank 0 takes). Changes to it are lost or not, so make none."""
        ...

    def full_state_dict(self) -> dict[str, Tensor]:
        """The whole weights on the CPU on rank 0, an empty dict elsewhere; every rank calls it."""
        ...

    def finish(self) -> None:
        """The trained weights back into the model that `place` was given, on every rank, on the training's device."""
        ...


def place(model: Decoder, config: TrainConfig, device: torch.device) -> Placement:
    """Lay `model` out over the ranks as `config.parallel` says; every rank calls it with the same weights.

    A single process always holds the whole model, whatever `parallel` says: a recipe for eight GPUs goes on on one.
    Raises TrainingError where `hybrid_shard` does not know which ranks share a machine, and where the ranks bring
    different models to be cut up (replicas are compared by the loop, after loading a checkpoint).
    """
    if config.parallel == "replicas" or world_size() == 1:
        return Replicas(model, device)
    check_same_weights(dict(model.named_parameters()))
    return Shards(model, device, make_mesh(config.parallel, device))


class Replicas:
    """Every rank holds the whole model (or the only process does)."""

    sharded = False

    def __init__(self, model: Decoder, device: torch.device) -> None:
        self.model = model.to(device)

    def rounds(self, batches: int) -> int:
        return batches

    def micro_batch(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def loss(self, loss_fn: LossFn, batch: Batch) -> LossTerm:
        return loss_fn(self.model, batch)

    def idle(self) -> Tensor:
        return no_loss(self.model)

    def sum_gradients(self, sums: Tensor) -> None:
        if world_size() == 1:
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # A rank without a batch has no gradients; the others' sums must reach it all the same.
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sum_over_ranks([*(parameter.grad for parameter in parameters if parameter.grad is not None), sums])

    @contextmanager
    def whole(self) -> Iterator[Decoder]:
        try:
            yield self.model
        finally:
            barrier()

    def full_state_dict(self) -> dict[str, Tensor]:
        if rank() != 0:
            return {}
        return {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}

    def finish(self) -> None:
        return


class Shards:
    """Every rank holds a part of each weight, of its gradient and of its optimizer state, and computes on its rows."""

    sharded = True

    def __init__(self, model: Decoder, device: torch.device, mesh: DeviceMesh) -> None:
        # The stage's own model is never touched by FSDP, which cannot be taken off again: it waits and gets the result.
        self.home, self.device = model.cpu(), device
        self.model = copy.deepcopy(self.home)
        self.root = shard(self.model, mesh)

    def rounds(self, batches: int) -> int:
        return int(max(gather_objects(batches)))

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        self.root.set_requires_gradient_sync(last)
        with lost_peer():
            yield

    def loss(self, loss_fn: LossFn, batch: Batch) -> LossTerm:
        total, weight, metrics = self.root(loss_fn, batch)
        return LossTerm(total, weight, metrics)

    def idle(self) -> Tensor:
        return self.loss(lambda model, _: LossTerm(no_loss(model), torch.zeros(())), None).total  # type: ignore[arg-type]

    def sum_gradients(self, sums: Tensor) -> None:
        sum_over_ranks([sums])  # the gradients were summed by the last backward pass

    @contextmanager
    def whole(self) -> Iterator[Decoder]:
        if rank() == 0:
            self.home.to(self.device)
        self.copy_home(keep=rank() == 0)
        try:
            yield self.home
        finally:
            self.home.cpu()
            barrier()

    def full_state_dict(self) -> dict[str, Tensor]:
        self.copy_home(keep=rank() == 0)
        return {name: tensor.clone() for name, tensor in self.home.state_dict().items()} if rank() == 0 else {}

    def finish(self) -> None:
        self.copy_home(keep=True)
        self.home.to(self.device)

    @torch.no_grad()
    def copy_home(self, *, keep: bool) -> None:
        """The current weights (and persistent buffers) into the stage's model, one tensor at a time: every rank takes
        part in gathering, those that `keep` write it down."""
        from torch.distributed.tensor import DTensor

        home = self.home.state_dict()
        for name, tensor in self.model.state_dict().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if keep:
                home[name].copy_(whole)


class Root(nn.Module):
    """The module that FSDP knows as the whole: its forward pass is a loss, with all that the loss calls inside."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, loss_fn: LossFn, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Metric]]:
        term = loss_fn(self.decoder, batch)
        return term.total, term.weight, term.metrics  # FSDP looks for tensors in tuples and dicts only


def shard(decoder: Decoder, mesh: DeviceMesh) -> Any:
    """`decoder` cut up over `mesh`, block by block, and the root whose call computes a loss on it."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    # A mixture's routing is a view. The warning is about changing such a view in place, which nothing here does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in decoder.layers:
        fully_shard(block, mesh=mesh)
    root = Root(decoder)
    fully_shard(root, mesh=mesh, reshard_after_forward=False)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # Sums, where FSDP would take means; and plain sums on the wire: gloo knows no scaled ones.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return root


def make_mesh(parallel: str, device: torch.device) -> DeviceMesh:
    """The ranks in one row; for `hybrid_shard` [machines, ranks of a machine]: shards within, replicas across."""
    from torch.distributed.device_mesh import init_device_mesh

    ranks = world_size()
    if parallel == "full_shard":
        return init_device_mesh(device.type, (ranks,))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if local < 1 or ranks % local:
        raise TrainingError(
            f"parallel: hybrid_shard needs to know how many of the {ranks} processes share a machine, and "
            f"LOCAL_WORLD_SIZE is {local or 'not set'}",
            hint="Start with torchrun, which sets it, or use parallel: full_shard.",
        )
    if local == ranks:  # one machine: nothing to replicate
        return init_device_mesh(device.type, (ranks,))
    return init_device_mesh(device.type, (ranks // local, local), mesh_dim_names=("machines", "ranks"))


def no_loss(model: Decoder) -> Tensor:
    """0, by way of every weight: the logits of one token, times 0."""
    token = torch.zeros((1, 1), dtype=torch.int64, device=next(model.parameters()).device)
    return model.logits(model.hidden(token)).float().sum() * 0.0
