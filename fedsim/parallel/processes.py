"""The processes of one simulation (``torchrun -m fedsim run``), and all that they tell each other.

No pickle goes between them: tensors travel as they are, everything else as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from fedsim.errors import ProcessLost, UserError
from fedsim.parallel.environment import number, rank_and_size

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: one that dies is noticed at once, one whose network fails after this."""

LOST = "a process of this run has ended, or cannot be reached any more"


@dataclass(eq=False)
class World:
    """The processes that run one simulation together, as one of them sees it. Rank 0 alone prints and writes.

    Attributes:
        rank: number of this process.
        size: how many processes there are.
        local_rank: number of this process on its machine.
        local_size: processes on this machine.
        store: what can be read and written while processes die, or None without others.
        busy: whether the others are in the middle of a simulation and wait for nothing that rank 0 might say.
        added_up: bytes of the messages that were added up (payload; see docs/scaling.md for what the network carries).
        gathered: bytes of the rows that came from other processes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Any = None
    busy: bool = False
    added_up: int = 0
    gathered: int = 0

    def add_up(self, values: Tensor) -> None:
        """Replace `values` by their sum over all processes, the same bits everywhere."""
        if self.size > 1:
            with _others():
                dist.all_reduce(values)
            self.added_up += values.nbytes

    def tell(self, value: Any) -> list[Any]:
        """What every process says, by rank; plain data."""
        if self.size == 1:
            return [value]
        own = _as_tensor(json.dumps(value).encode())
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with _others():
            dist.all_gather(lengths, torch.tensor([len(own)]))
            longest = int(max(lengths))
            parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(parts, torch.nn.functional.pad(own, (0, longest - len(own))))
        return [json.loads(_as_bytes(part[: int(n)])) for part, n in zip(parts, lengths, strict=True)]

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """What every process gives, by rank: names, shapes and numbers may differ from one to the next."""
        if self.size == 1:
            return [dict(tensors)]
        described = self.tell({name: [str(t.dtype)[6:], list(t.shape), t.device.type] for name, t in tensors.items()})
        return [self._spread(rank, names, tensors) for rank, names in enumerate(described)]

    def _spread(self, rank: int, names: Mapping[str, list[Any]], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Send `tensors` to all, or receive those that process `rank` describes as ``[type, shape, device]``.

        They go as one message per device; wide numbers come first in it, so that all lie where their type allows.
        """
        order = sorted(names, key=lambda name: (-getattr(torch, names[name][0]).itemsize, name))
        result: dict[str, Tensor] = {}
        for device in sorted({place for _, _, place in names.values()}):
            here = [name for name in order if names[name][2] == device]
            sizes = [getattr(torch, names[n][0]).itemsize * torch.Size(names[n][1]).numel() for n in here]
            if rank == self.rank:
                message = torch.cat([tensors[name].contiguous().reshape(-1).view(torch.uint8) for name in here])
            else:
                message = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
                self.gathered += len(message)
            if len(message) > 0:
                with _others():
                    dist.broadcast(message, src=rank)
            for name, part in zip(here, message.split(sizes), strict=True):
                dtype, shape, _ = names[name]
                result[name] = part.view(getattr(torch, dtype)).view(shape)
        return result

    def send(self, content: bytes) -> None:
        """Rank 0 sends bytes to all others."""
        with _others():
            dist.broadcast(torch.tensor([len(content)]), src=0)
            dist.broadcast(_as_tensor(content), src=0)

    def receive(self) -> bytes:
        """What rank 0 sends."""
        length = torch.zeros(1, dtype=torch.int64)
        with _others():
            dist.broadcast(length, src=0)
            content = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, src=0)
        return _as_bytes(content)

    def agree(self, row: Tensor, signals: list[int]) -> int:
        """After a round: the signal that one of the processes got, or 0; all must hold the same model `row` ``[P]``.

        Raises:
            RuntimeError: if they do not.
        """
        number = signals[0] if signals else 0
        if self.size == 1:
            return number
        bits = row.detach().view(torch.int32 if row.dtype == torch.float32 else torch.int64)
        told = self.tell([number, int(bits.sum(dtype=torch.int64))])
        if len({checksum for _, checksum in told}) > 1:
            raise RuntimeError(
                "the processes no longer hold the same model; they must run on machines of one kind, with the same "
                "versions and the same number of threads"
            )
        return int(max(number for number, _ in told))

    def is_first_to_tell(self) -> bool:
        """Whether this process is the one to print what went wrong for all."""
        if self.store is None:
            return True
        try:
            return bool(self.store.add("fedsim/told", 1) == 1)
        except RuntimeError:  # the store went with the process that had it
            return self.rank == 0


ALONE = World()
_world = ALONE


@contextmanager
def _others() -> Iterator[None]:
    """What goes wrong in an exchange is the others' end."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(LOST) from error


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.zeros(0, dtype=torch.uint8)


def _as_bytes(content: Tensor) -> bytes:
    return content.numpy().tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# beginning and end


def world() -> World:
    """The processes of this run; `ALONE` unless `join` found others."""
    return _world


def join(url: str = "env://", timeout: timedelta = TIMEOUT) -> World:
    """Meet the other processes, if torchrun started several; their collectives are gloo's on CPUs, NCCL's on GPUs.

    Raises:
        UserError: if they cannot be reached.
    """
    global _world
    rank, size = rank_and_size()
    if size == 1:
        return ALONE
    local_rank, local_size = number("LOCAL_RANK", 0), number("LOCAL_WORLD_SIZE", 1)
    if local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)  # what "cuda" means from here on
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, rank, size = next(iter(rendezvous(url, rank, size, timeout=timeout)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"process {rank} of {size} cannot reach the others ({error})") from None
    _world = World(rank, size, local_rank, local_size, store)
    share_cores(_world)
    return _world


def leave(code: int) -> None:
    """End: rank 0 tells the others the exit code, unless something went wrong while they were busy.

    With several processes this does not return. At an ordinary end of Python, the thread of torch's store is sometimes
    still there when its objects go, and C++ then aborts the process: what was done would be reported as a failure.
    """
    if _world.size == 1:
        return
    if _world.rank == 0 and _world.busy:
        _world.is_first_to_tell()  # it has told why; the others will only see that it is gone
    else:
        with suppress(ProcessLost):
            if _world.rank == 0:
                _world.send(json.dumps({"code": code}).encode())
            dist.destroy_process_group()
    error = sys.exception()
    if error is not None and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def cores() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(here: World) -> None:
    """Divide the cores among the processes of a machine, as far as nobody else did.

    torchrun sets ``OMP_NUM_THREADS=1`` where it is not set, which would leave cores idle; another number is somebody's
    wish. ``threads=`` counts in any case.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, cores() // here.local_size))
