"""Which of several processes this one is, and which GPU it takes; read without importing numpy or torch."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class ProcessRank:
    """One of several processes that embed together, in torchrun's words; the only one by default.

    Attributes:
        rank: Its number; 0 leads.
        world_size: How many there are, on all machines.
        local_rank: Its number on its machine, which picks its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether it plans, waits for the others, and goes on after embedding."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return every ``world_size``-th item.

        Example:
            >>> ProcessRank(1, 2).share("abcde")
            'bd'
        """
        return items[self.rank :: self.world_size]

    def __str__(self) -> str:
        """Return the words of logs and messages."""
        return f"rank {self.rank} of {self.world_size}"


def process_rank(environment: Mapping[str, str] | None = None) -> ProcessRank:
    """Read what torchrun tells its processes.

    Example:
        >>> process_rank({"RANK": "1", "WORLD_SIZE": "2"}).local_rank
        1
    """
    known = os.environ if environment is None else environment
    if not known.get("WORLD_SIZE"):
        return ProcessRank()
    world_size = _number(known, "WORLD_SIZE")
    if world_size == 1:
        return ProcessRank()
    rank = _number(known, "RANK")
    if rank >= world_size:
        raise UserError(
            "no such process",
            value=f"RANK={rank}",
            allowed=f"0 to {world_size - 1}, since WORLD_SIZE is {world_size}",
            fix="torchrun sets both",
        )
    return ProcessRank(rank, world_size, _number(known, "LOCAL_RANK") if known.get("LOCAL_RANK") else rank)


def see_own_gpu(rank: ProcessRank) -> None:
    """Let a process see no GPU but its own, so that every thread and library in it takes that one.

    It works through CUDA_VISIBLE_DEVICES, hence before CUDA is first used. Where one GPU is visible it is left alone:
    a scheduler may have given each process its own, or they share one.
    """
    if rank.world_size == 1:
        return
    given = os.environ.get(VISIBLE)
    names = [name.strip() for name in given.split(",")] if given else [str(number) for number in range(_n_gpus())]
    if given == "" or len(names) < 2:
        return
    if rank.local_rank >= len(names):
        raise UserError(
            "there are more processes than GPUs on this machine",
            value=f"local rank {rank.local_rank}",
            allowed=f"0 to {len(names) - 1}",
            fix=f"torchrun --nproc-per-node={len(names)} ...",
        )
    os.environ[VISIBLE] = names[rank.local_rank]


def _number(known: Mapping[str, str], name: str) -> int:
    text = known.get(name, "")
    if not text.isdecimal() or (name == "WORLD_SIZE" and int(text) == 0):
        raise UserError(
            f"{name} says which of several processes this is, and must be a number",
            value=text,
            fix="start with torchrun, or set RANK, WORLD_SIZE and LOCAL_RANK; for one process unset WORLD_SIZE",
        )
    return int(text)


def _n_gpus() -> int:
    """Return the number of NVIDIA GPUs; asked of NVML, since CUDA would fix what is visible by being asked."""
    for library in ("libnvidia-ml.so.1", "nvml.dll"):
        try:
            nvml = ctypes.CDLL(library)
        except OSError:
            continue
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
            return count.value
    return 0
