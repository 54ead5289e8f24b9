"""Several processes that train one network, as torchrun starts them: each takes its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from rtlit.errors import DeviceError, UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them; alone by default, and then every method does nothing."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """This process' part of a batch.

        Raises:
            UsageError: the batch can't be shared out evenly.
        """
        if batch % self.world:
            raise UsageError(f"a batch of {batch} can't be shared by {self.world} processes; choose a multiple")
        size = batch // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in one message; all get the same bits."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([each.reshape(-1).float() for each in tensors])
        dist.all_reduce(flat)
        means = torch.split(flat / self.world, [each.numel() for each in tensors])
        for each, mean in zip(tensors, means, strict=True):
            each.copy_(mean.view_as(each))

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        for each in tensors if self.world > 1 else ():
            dist.broadcast(each, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """The end of the group."""
        if self.world > 1:
            dist.destroy_process_group()


def join(device: str) -> tuple[Ranks, torch.device]:
    """Join the processes that torchrun started, if any.

    Args:
        device: "auto", "cpu" or "cuda"; of several processes each takes a GPU of its own.

    Raises:
        DeviceError: no CUDA, or fewer GPUs than processes.
    """
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise DeviceError("cuda: no usable NVIDIA GPU here; use --device cpu, or `rtlit doctor` to see why")
    local, world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if cuda and local >= torch.cuda.device_count():
        raise DeviceError(f"cuda: {torch.cuda.device_count()} GPUs for more processes; lower --nproc-per-node")
    place = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    if world == 1:
        return Ranks(), place
    dist.init_process_group("nccl" if cuda else "gloo")
    return Ranks(dist.get_rank(), world), place
