"""What a system is: the devices of the clients, and the rules by which the server waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_one_of
from fedsim.personalization.personalization import Ditto
from fedsim.privacy.privacy import CentralPrivacy
from fedsim.samplers.sampler import PowerOfChoice, Sized

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment


@dataclass(frozen=True)
class Fleet:
    """The devices of all clients.

    Attributes:
        gflops: ``[N]`` float64, speed in training: 10^9 floating-point operations per second.
        down_mbps: ``[N]`` float64, 10^6 bits per second from the server.
        up_mbps: ``[N]`` float64, the same to the server.
        memory_mb: ``[N]`` float64, 10^6 bytes for training; infinite where nothing is said.
        availability: ``[N]`` float64, probability of being online when asked.
    """

    gflops: Tensor
    down_mbps: Tensor
    up_mbps: Tensor
    memory_mb: Tensor
    availability: Tensor


@dataclass(frozen=True)
class NoSystem:
    """All devices are alike, everybody is there, and nobody counts the time."""

    columns: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What all systems have in common: how long the server waits, and for whom.

    Attributes:
        latency: virtual seconds from the question to the first byte, the same for every client and round.
        over_selection: factor on the number of clients that are asked. The first to finish are kept, as many as the
            sampler would have asked.
        min_clients: fewest arrivals that make a round; with fewer it is given up and changes nothing.
        dropout: probability of a client that is online to vanish in the middle of a round.
        deadline: virtual seconds from the beginning of a round to its end at the latest, or None.
        late: what becomes of clients that would miss the deadline: ``drop`` leaves them out, ``partial`` has them take
            as many local steps as they have time for, and leaves out those who have no time for one.
    """

    latency: float = 0.1
    over_selection: float = 1.0
    min_clients: int = 1
    dropout: float = 0.0
    deadline: float | None = None
    late: str = "drop"

    columns: ClassVar[tuple[str, ...]] = ("dropped", "virtual_seconds")
    origin: ClassVar[str]
    """Where the devices come from, in a word or two."""

    def __post_init__(self) -> None:
        check_between(self, 0, 1e9, "latency")
        check_between(self, 1, 1e6, "over_selection")
        check_at_least(self, 1, "min_clients")
        check_between(self, 0, 1, "dropout", open_high=True)
        check_above(self, 0, "deadline")
        check_one_of(self, "late", ("drop", "partial"))
        if self.late == "partial" and self.deadline is None:
            raise FieldError("late", self.late, "nobody is late without a deadline; set system.deadline")
        if self.deadline is not None and self.deadline <= self.latency:
            raise FieldError("deadline", self.deadline, f"must be greater than the latency of {self.latency:g} s")

    def fleet(self, names: Sequence[str], seed: int) -> Fleet:
        """The devices of clients with these names.

        Raises:
            UserError: if there are none for them.
        """
        raise NotImplementedError

    def always_there(self) -> bool:
        """Whether every client is online whenever it is asked."""
        raise NotImplementedError

    def check(self, experiment: Experiment) -> None:
        """Raise `UserError` for settings that do not go with unequal devices."""
        e = experiment
        if e.aggregator.blocks == []:
            raise UserError("aggregator.blocks=[]: nothing is sent, so that no server waits for anybody; system=none")
        if isinstance(e.sampler, PowerOfChoice):
            raise UserError(
                "sampler=power_of_choice: asks clients for their losses before a round begins, which takes time that "
                "the virtual clock does not know; take another sampler or system=none"
            )
        if self.over_selection > 1:
            self._check_over_selection(e)
        if self.late == "partial" and isinstance(e.personalize, Ditto):
            raise UserError(
                "system.late=partial: shortens the training of the global model, and personalize=ditto trains a second "
                "model in the same round; take system.late=drop or personalize=none"
            )

    def _check_over_selection(self, e: Experiment) -> None:
        key = f"system.over_selection={self.over_selection:g}"
        if not isinstance(e.sampler, Sized):
            raise UserError(
                f"{key}: sampler={type(e.sampler).__name__.lower()} has no cohort size to ask more clients than; "
                "take system.over_selection=1"
            )
        if isinstance(e.privacy, CentralPrivacy):
            raise UserError(
                f"{key}: who is kept depends on how fast the others are, and so on their data, which the accountant of "
                "privacy=central_dp does not know; take system.over_selection=1 (deadlines and dropouts go with it)"
            )

    def check_population(self, experiment: Experiment, num_clients: int) -> None:
        """Raise `UserError` for options that have no effect, or leave no round, with so many clients."""
        smallest, largest = experiment.sampler.limits(num_clients)
        if self.over_selection > 1 and largest == num_clients:
            raise UserError(
                f"system.over_selection={self.over_selection:g}: has no effect where all {num_clients} client(s) are "
                "asked anyway; take a smaller sampler.fraction or sampler.cohort_size"
            )
        if self.min_clients > largest:
            raise UserError(f"system.min_clients={self.min_clients}: a round has at most {largest} client(s)")
        if 1 < self.min_clients <= smallest and not self.loses():
            raise UserError(
                f"system.min_clients={self.min_clients}: has no effect where all of at least {smallest} clients "
                "arrive; set a dropout, a deadline or an availability, or take system.min_clients=1"
            )

    def loses(self) -> bool:
        """Whether clients that are asked may not arrive, those left over from over-selection apart."""
        return self.dropout > 0 or self.deadline is not None or not self.always_there()

    def smallest(self, smallest: int) -> int:
        """The fewest clients that are ever combined, if a sampler's smallest cohort is so large."""
        return self.min_clients if self.loses() else max(smallest, self.min_clients)


System = NoSystem | Timed
