"""The processes of a run: one by itself, or several that torchrun started, each with an equal share of every batch.

Every process holds the whole network (DDP), or, where asked, a part of each of its tensors (FSDP), which then are put
together block by block as they are used. The gradients of the shares are averaged before the step, so all take the same
one, and only the first writes files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from .errors import UserError

PATIENCE = timedelta(hours=12)  # of the others while the first computes latents ahead or writes a large model


@dataclass(frozen=True)
class Processes:
    """Who this process is among those of the run."""

    rank: int = 0
    """Its number, from 0."""
    count: int = 1
    """Of all processes, on all machines."""
    local_rank: int = 0
    """Its number on this machine, which is also that of its GPU."""

    @classmethod
    def of_environment(cls) -> Processes:
        """As the variables say that torchrun sets."""
        rank, count, local_rank = (
            int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        return cls(rank, count, local_rank) if count > 1 else cls()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """This process's device: of several GPUs each process takes its own."""
        if self.count > 1 and asked in (None, "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank}"
        return asked or ("cpu" if self.count > 1 else None)

    def share(self, batch_size: int, pieces: int) -> int:
        """How many examples of a batch are this process's.

        Args:
            batch_size: of all processes together.
            pieces: that each share is computed in, one after another.

        Raises:
            UserError: if the batch cannot be divided.
        """
        if batch_size % (self.count * pieces):
            raise UserError(
                f"batch_size {batch_size} cannot be divided among {self.count} processes with {pieces} pieces each;"
                f" take a multiple of {self.count * pieces}"
            )
        return batch_size // self.count

    def shard(self, network: nn.Module, blocks: Sequence[nn.Module], whole: Collection[nn.Parameter]) -> None:
        """Leave a part of each tensor of a network with this process; its parameters are new objects then.

        Args:
            network: in place; used through its forward alone.
            blocks: whose tensors are put together when they are used, and no longer.
            whole: parameters that stay as they are, because they are used outside the network's forward.
        """
        device = next(network.parameters()).device.type
        mesh, ignored = init_device_mesh(device, (self.count,)), set(whole)
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh, ignored_params=ignored)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network such that a backward pass through its forward averages the gradients of all processes."""
        if self.count == 1 or isinstance(network, FSDPModule):
            return network
        on_gpu = next(network.parameters()).is_cuda
        return DistributedDataParallel(
            network, device_ids=[self.local_rank] if on_gpu else None, broadcast_buffers=False
        )

    @contextlib.contextmanager
    def apart(self, network: nn.Module) -> Iterator[None]:
        """Within it, a backward pass only adds to this process's gradients."""
        if isinstance(network, FSDPModule):
            network.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                network.set_requires_gradient_sync(True)
        elif isinstance(network, DistributedDataParallel):
            with cast(AbstractContextManager[Any], network.no_sync()):
                yield
        else:
            yield

    def whole(self, value: Tensor) -> Tensor:
        """A tensor that may be divided, put together on the CPU of the first process; all have to ask for it.

        Returns:
            The tensor itself, where it is whole; an empty one for all processes but the first.
        """
        if not isinstance(value, DTensor):
            return value.detach()
        full: Tensor = value.full_tensor().detach()
        return full.cpu() if self.is_first else full.new_empty(0)

    def all_whole(self, state: Any) -> Any:
        """The same for all tensors in nested dictionaries and lists."""
        if isinstance(state, Tensor):
            return self.whole(state)
        if isinstance(state, dict):
            return {key: self.all_whole(value) for key, value in state.items()}
        return [self.all_whole(value) for value in state] if isinstance(state, list) else state

    @staticmethod
    def divided(value: Tensor, like: Tensor) -> Tensor:
        """A whole tensor that every process has, divided as another is, and laid out in memory as that."""
        if not isinstance(like, DTensor):  # fused optimisers go through memory in its order, whatever the strides
            return torch.empty_like(like).copy_(value)
        return distribute_tensor(value.to(like.device).contiguous(), like.device_mesh, like.placements)

    @staticmethod
    def norm(gradients: Sequence[Tensor]) -> Tensor:
        """Of all gradients together, whole or divided."""
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        return cast(Tensor, norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes of a value that each has."""
        if self.count == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total / self.count

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()


@contextlib.contextmanager
def joined(device: str | None) -> Iterator[Processes]:
    """Join the processes that torchrun, or another launcher that sets the same variables, started.

    Args:
        device: that was asked for.
    """
    processes = Processes.of_environment()
    if processes.count == 1:
        yield processes
        return
    on_gpu = (processes.device(device) or "").startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(processes.local_rank)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield processes
    finally:
        distributed.destroy_process_group()


class Shares(Sampler[list[int]]):
    """The items of each batch that are one process's: together, in order of rank, they are the whole batch.

    Args:
        batches: how many.
        batch_size: of all processes together.
        share: of each process.
        rank: of this process.
    """

    def __init__(self, batches: int, batch_size: int, share: int, rank: int) -> None:
        self.batches, self.batch_size, self.share, self.rank = batches, batch_size, share, rank

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of numbers of items."""
        for batch in range(self.batches):
            first = batch * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))
