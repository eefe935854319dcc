"""The processes of one simulation (``torchrun -m fedsim run``), and how they communicate.

They exchange no pickles: tensors are sent as they are, everything else as JSON.
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
from typing import TYPE_CHECKING, Any

import torch

from fedsim.errors import ProcessLost, UserError
from fedsim.machine import allowed_cores
from fedsim.parallel.environment import rank_and_size, whole_number

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another whose network has failed; one that dies is noticed at once."""

ROOM = 8_192
"""Bytes of a message that every process sends in the first meeting; what is longer takes a second."""

LOST = "another process of this run has ended or can no longer be reached"


@dataclass(eq=False)
class World:
    """The processes that run one simulation together, as one of them sees it. Rank 0 alone prints and writes.

    Attributes:
        rank: rank of this process.
        size: number of processes.
        local_rank: rank of this process on its machine.
        local_size: number of processes on this machine.
        store: torch's key-value store, usable even while processes die; None if there is one process.
        busy: whether the other processes are in the middle of a simulation and not waiting for a message from rank 0.
        added_up: bytes of the tensors that were summed (payload; see docs/scaling.md for what the network carries).
        gathered: bytes of the tensors received from other processes.
        meetings: how often the processes have waited for each other to add up, gather or exchange.
        offers: how many this process has made or asked for.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Any = None
    busy: bool = False
    added_up: int = 0
    gathered: int = 0
    meetings: int = 0
    offers: int = 0

    def add_up(self, values: Tensor) -> None:
        """Replace `values` by their sum over all processes, the same bits in each."""
        if self.size > 1:
            with _communication():
                torch.distributed.all_reduce(values)
            self.added_up += values.nbytes
            self.meetings += 1

    def exchange(self, value: Any) -> list[Any]:
        """The `value` of every process, by rank; it must be plain data."""
        if self.size == 1:
            return [value]
        return [json.loads(_as_bytes(part)) for part in self._every(_as_tensor(json.dumps(value).encode()))]

    def _every(self, own: Tensor) -> list[Tensor]:
        """The bytes of every process, by rank: in one meeting where all have few, else in two."""
        head = torch.cat([torch.tensor([len(own)]).view(torch.uint8), own[:ROOM]])
        heads = self._side_by_side(head, 8 + ROOM)
        lengths = [int(one[:8].view(torch.int64)) for one in heads]
        beyond = max(lengths) - ROOM
        rests = self._side_by_side(own[ROOM:], beyond) if beyond > 0 else [own[:0]] * self.size
        return [torch.cat([one[8:], rest])[:n] for one, rest, n in zip(heads, rests, lengths, strict=True)]

    def _side_by_side(self, own: Tensor, width: int) -> list[Tensor]:
        """`own` of every process, each filled up to `width` bytes."""
        parts = [torch.empty(width, dtype=torch.uint8) for _ in range(self.size)]
        with _communication():
            torch.distributed.all_gather(parts, torch.nn.functional.pad(own, (0, width - len(own))))
        self.meetings += 1
        return parts

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The `tensors` of every process, by rank; their names, shapes and number may differ."""
        if self.size == 1:
            return [dict(tensors)]
        own = {name: [str(t.dtype)[6:], list(t.shape), t.device.type] for name, t in tensors.items()}
        described = _as_tensor(json.dumps(own).encode())
        described = torch.nn.functional.pad(described, (0, -len(described) % 8), value=ord(" "))
        length = torch.tensor([len(described)]).view(torch.uint8)
        answers = self._every(torch.cat([length, described, _joined(tensors, _order(own, "cpu"))]))
        found = []
        for rank, answer in enumerate(answers):
            end = 8 + int(answer[:8].view(torch.int64))
            names = json.loads(_as_bytes(answer[8:end]))
            if rank != self.rank:
                self.gathered += len(answer) - end
            devices = sorted({place for _, _, place in names.values()} - {"cpu"})
            parts = {"cpu": answer[end:]}
            parts |= {device: self._broadcast(rank, names, tensors, device) for device in devices}
            found.append({name: part for device in parts for name, part in _parted(parts[device], names, device)})
        return found

    def _broadcast(
        self, rank: int, names: Mapping[str, list[Any]], tensors: Mapping[str, Tensor], device: str
    ) -> Tensor:
        """Send those `tensors` of process `rank` that are on `device`, or receive what `names` says of them."""
        here = _order(names, device)
        if rank == self.rank:
            message = _joined(tensors, here)
        else:
            message = torch.empty(sum(_sizes(names, here)), dtype=torch.uint8, device=device)
            self.gathered += len(message)
        if len(message) > 0:
            with _communication():
                torch.distributed.broadcast(message, src=rank)
            self.meetings += 1
        return message

    def send(self, content: bytes) -> None:
        """Send bytes from rank 0 to all other processes."""
        with _communication():
            torch.distributed.broadcast(torch.tensor([len(content)]), src=0)
            torch.distributed.broadcast(_as_tensor(content), src=0)

    def receive(self) -> bytes:
        """Receive the bytes that rank 0 sends."""
        length = torch.zeros(1, dtype=torch.int64)
        with _communication():
            torch.distributed.broadcast(length, src=0)
            content = torch.empty(int(length), dtype=torch.uint8)
            torch.distributed.broadcast(content, src=0)
        return _as_bytes(content)

    def offer(self, value: Any) -> None:
        """Leave plain data for the other processes of this machine, each of which calls `offered` once."""
        self.store.set(self._next_offer(), json.dumps(value))

    def offered(self) -> Any:
        """Wait for what the first process of this machine offers."""
        with _communication():
            return json.loads(self.store.get(self._next_offer()))

    def _next_offer(self) -> str:
        self.offers += 1
        return f"fedsim/offer/{self.rank - self.local_rank}/{self.offers}"

    def agree(self, row: Tensor, signals: list[int]) -> int:
        """After a round, check that all processes hold the same model `row` ``[P]``, and agree on a signal.

        Returns:
            the number of a signal that one of the processes received, or 0.

        Raises:
            RuntimeError: if the models differ.
        """
        signal = signals[0] if signals else 0
        if self.size == 1:
            return signal
        bits = row.detach().view(torch.int32 if row.dtype == torch.float32 else torch.int64)
        answers = self.exchange([signal, int(bits.sum(dtype=torch.int64))])
        if len({checksum for _, checksum in answers}) > 1:
            raise RuntimeError(
                "the processes no longer hold the same model; they must run on the same kind of machine, with the same "
                "versions and the same number of threads"
            )
        return int(max(signal for signal, _ in answers))

    def is_first_to_tell(self) -> bool:
        """Whether this process is the first to report a failure, and so the one that prints it."""
        if self.store is None:
            return True
        try:
            return bool(self.store.add("fedsim/told", 1) == 1)
        except RuntimeError:  # the process that held the store has ended
            return self.rank == 0


ALONE = World()
_world = ALONE


@contextmanager
def _communication() -> Iterator[None]:
    """Report a failed exchange as the loss of another process."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(LOST) from error


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.zeros(0, dtype=torch.uint8)


def _as_bytes(content: Tensor) -> bytes:
    return content.numpy().tobytes()


def _order(names: Mapping[str, list[Any]], device: str) -> list[str]:
    """The names of what is on a device, widest types first, so that every tensor of a message is aligned for its type.

    Args:
        names: ``[type, shape, device]`` by name.
        device: ``cpu`` or ``cuda``.
    """
    here = [name for name, (_, _, place) in names.items() if place == device]
    return sorted(here, key=lambda name: (-getattr(torch, names[name][0]).itemsize, name))


def _sizes(names: Mapping[str, list[Any]], here: list[str]) -> list[int]:
    return [getattr(torch, names[name][0]).itemsize * torch.Size(names[name][1]).numel() for name in here]


def _joined(tensors: Mapping[str, Tensor], here: list[str]) -> Tensor:
    """The bytes of some tensors, one after another."""
    parts = [tensors[name].contiguous().reshape(-1).view(torch.uint8) for name in here]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8)


def _parted(message: Tensor, names: Mapping[str, list[Any]], device: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a message of `_joined`, by name."""
    here = _order(names, device)
    for name, part in zip(here, message.split(_sizes(names, here)), strict=True):
        yield name, part.view(getattr(torch, names[name][0])).view(names[name][1])


# ---------------------------------------------------------------------------------------------------------------------
# beginning and end


def world() -> World:
    """The processes of this run; `ALONE` unless `join` found several."""
    return _world


def join(url: str = "env://", timeout: timedelta = TIMEOUT) -> World:
    """Join the other processes if torchrun started several; they exchange by gloo on CPUs and by NCCL on GPUs.

    Raises:
        UserError: if they cannot be reached.
    """
    global _world
    rank, size = rank_and_size()
    if size == 1:
        return ALONE
    from torch.distributed.rendezvous import rendezvous

    local_rank, local_size = whole_number("LOCAL_RANK", 0), whole_number("LOCAL_WORLD_SIZE", 1)
    if local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)  # the device that "cuda" means from here on
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and torch.distributed.is_nccl_available() else "gloo"
    try:
        store, rank, size = next(iter(rendezvous(url, rank, size, timeout=timeout)))
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"process {rank} of {size} cannot reach the other processes ({error})") from None
    _world = World(rank, size, local_rank, local_size, store)
    share_cores(_world)
    return _world


def leave(code: int) -> None:
    """End this process; rank 0 sends the other processes the exit code, unless it failed while they were busy.

    With several processes this does not return. When Python exits normally, the thread of torch's store sometimes
    outlives its objects, and C++ then aborts the process: a finished run would be reported as a failure.
    """
    if _world.size == 1:
        return
    if _world.rank == 0 and _world.busy:
        _world.is_first_to_tell()  # it has said why; the other processes will only see that it is gone
    else:
        with suppress(ProcessLost):
            if _world.rank == 0:
                _world.send(json.dumps({"code": code}).encode())
            torch.distributed.destroy_process_group()
    error = sys.exception()
    if error is not None and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader is gone
            stream.flush()
    os._exit(code)


def share_cores(here: World) -> None:
    """Divide the cores of a machine among its processes, unless ``OMP_NUM_THREADS`` asks for something else.

    torchrun sets ``OMP_NUM_THREADS=1`` if it is not set, which would leave cores idle; any other number is the user's.
    ``threads=`` overrides both.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(allowed_cores()) // here.local_size))
