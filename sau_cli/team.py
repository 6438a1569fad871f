"""Several processes that work on one thing together: torchrun, or ``accelerate launch``, starts them.

Each takes its part of every batch, and sums over the parts go round by ``torch.distributed``.
torch is imported where it is needed: whether a process leads is asked before it is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from sau_cli.errors import Interrupted, UsageError, argument

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of a run, of which this is number ``rank``. One alone needs no set-up."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """The items of ``count`` that are this process's: about as many for each.

        >>> [Team(rank, 3).part(7) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
        """
        each, more = divmod(count, self.size)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype and device, in place, by their sums over all processes."""
        if self.size == 1 or not tensors:
            return
        import torch
        from torch.distributed import all_reduce

        together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _all_there():
            all_reduce(together)
        for tensor, summed in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.reshape(tensor.shape))

    def any(self, what: bool, device: torch.device) -> bool:
        """Whether it is so in any of the processes."""
        if self.size == 1:
            return what
        import torch

        said = torch.tensor(float(what), device=device)
        self.add_up([said])
        return bool(said > 0)

    def differ(self, what: str, device: torch.device) -> bool:
        """Whether it is not the same in all of the processes."""
        if self.size == 1:
            return False
        import torch
        from torch.distributed import ReduceOp, all_reduce

        number = int.from_bytes(sha256(what.encode()).digest()[:7], "big")
        ends = torch.tensor([number, -number], dtype=torch.int64, device=device)
        with _all_there():
            all_reduce(ends, op=ReduceOp.MAX)
        highest, lowest = ends.tolist()
        return bool(highest != -lowest)


ALONE = Team()


def team_of_environment() -> Team:
    """What the variables RANK and WORLD_SIZE say, as torchrun sets them.

    Raises:
        UsageError: they make no sense.
    """
    told = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if None in told:
        return ALONE
    try:
        rank, size = (int(value or "") for value in told)
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        raise UsageError(f"RANK={told[0]} and WORLD_SIZE={told[1]} make no sense; start with torchrun, or unset them")
    return Team(rank, size)


@contextmanager
def _all_there() -> Iterator[None]:
    """Raises Interrupted where another process has gone."""
    try:
        yield
    except RuntimeError as error:
        raise Interrupted(
            "another process of the run ended, and this one with it; what was kept after the last epoch is whole, and "
            f"the same command with {argument('resume')} goes on"
        ) from error


def own_device(name: str) -> str:
    """``cuda`` and ``auto`` are a device of its own for each process of a machine, by LOCAL_RANK."""
    import torch

    number = os.environ.get("LOCAL_RANK", "")
    several = team_of_environment().size > 1 and number.isdigit() and torch.cuda.device_count() > 0
    return f"cuda:{number}" if several and name in {"auto", "cuda"} else name


@contextmanager
def together(team: Team, device: torch.device) -> Iterator[None]:
    """The processes are connected inside the block.

    Raises:
        UsageError: they cannot be.
    """
    if team.size == 1:
        yield
        return
    from torch.distributed import destroy_process_group, init_process_group

    try:
        init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"the {team.size} processes could not be connected ({error}); start with torchrun") from error
    try:
        yield
    finally:
        destroy_process_group()
