"""One experiment: every setting of a run as checked, typed values, and what can be said about them before it starts."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.setting import Particular, Setting
from fedsim.aggregation.weighted import Weighted
from fedsim.asynchrony.schedule import Asynchronous, Schedule, Synchronous
from fedsim.attacks.alie import ALIE, largest_z
from fedsim.attacks.attack import Attack, NoAttack
from fedsim.attacks.backdoor import Backdoor
from fedsim.audits.audit import Audit, NoAudit
from fedsim.baselines.baseline import Baseline, NoBaseline
from fedsim.clients.engine import Engine
from fedsim.clients.settings import ClientConfig
from fedsim.core.stopping import Stop
from fedsim.corrections.correction import NoCorrection
from fedsim.data.dataset import Assignment, Dataset, Task
from fedsim.devices.system import NoSystem, System, Timed
from fedsim.errors import FieldError, UserError, check_at_least, check_between, check_one_of, did_you_mean
from fedsim.links.link import Link
from fedsim.models.recurrent import RecurrentModel
from fedsim.personalization.personalization import Ditto, NoPersonalization, Personalization
from fedsim.privacy.privacy import NoPrivacy, Privacy
from fedsim.recording.settings import Checkpoint, Console
from fedsim.recording.trackers import NoTracker, Tracker
from fedsim.samplers.sampler import Sampler
from fedsim.server.schedules import CONSTANT

MAX_SEED = 2**63 - 1
MAX_THREADS = 1024


@runtime_checkable
class DataSource(Hashable, Protocol):
    """Where samples come from. A frozen dataclass, so that equal settings are loaded once."""

    def load(self, seed: int) -> Dataset:
        """Read or make the data."""
        ...


@runtime_checkable
class Partition(Protocol):
    """Who holds which sample."""

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Give the samples to clients."""
        ...


@dataclass(frozen=True)
class Eval:
    """How often the global model is evaluated.

    Attributes:
        every: rounds between evaluations; round 0 and the last round are always evaluated.
    """

    every: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "every")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Every setting of a run.

    Attributes:
        model: what is trained.
        data: where samples come from.
        partition: who holds which sample.
        client: how clients train.
        sampler: who takes part in a round.
        aggregator: how deltas become the next global model.
        engine: how the computation is organised.
        link: how what clients and server send each other is encoded.
        privacy: how clients' deltas are hidden.
        attack: what malicious clients do.
        audit: what a curious server is to find out.
        system: what devices clients have, and how long the server waits for them.
        schedule: whether the server waits for a cohort.
        personalize: how clients come to models of their own.
        baseline: what is run in place of the federation, to read its results against.
        stop: when to end early.
        checkpoint: when the state is saved.
        console: what is shown.
        tracker: to what else the rounds are logged.
        eval: how often the global model is evaluated.
        seed: key of every random stream.
        rounds: round limit R.
        num_clients: N; None is 10 for made partitions and all of them for natural ones.
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA where there is one).
        dtype: ``float32`` or ``float64``.
        threads: CPU threads, None for as many as torch chooses.
        init_from: a run directory (its last checkpoint) or one checkpoint, whose model the run starts from; None draws
            an untrained one.
        name: label in records and comparisons.
        tags: more labels.
    """

    model: RecurrentModel
    data: DataSource
    partition: Partition
    client: ClientConfig
    sampler: Sampler
    aggregator: Aggregator
    engine: Engine
    link: Link = field(default_factory=Link)
    privacy: Privacy = field(default_factory=NoPrivacy)
    attack: Attack = field(default_factory=NoAttack)
    audit: Audit = field(default_factory=NoAudit)
    system: System = field(default_factory=NoSystem)
    schedule: Schedule = field(default_factory=Synchronous)
    personalize: Personalization = field(default_factory=NoPersonalization)
    baseline: Baseline = field(default_factory=NoBaseline)
    stop: Stop = field(default_factory=Stop)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    console: Console = field(default_factory=Console)
    tracker: Tracker = field(default_factory=NoTracker)
    eval: Eval = field(default_factory=Eval)
    seed: int = 0
    rounds: int = 50
    num_clients: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    init_from: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_at_least(self, 1, "rounds", "num_clients")
        check_between(self, 1, MAX_THREADS, "threads")
        check_one_of(self, "device", ("auto", "cpu", "cuda"))
        check_one_of(self, "dtype", ("float32", "float64"))
        if not 0 <= self.seed <= MAX_SEED:
            raise FieldError("seed", self.seed, f"must be from 0 to {MAX_SEED}")
        self.aggregator.correction.check(self.client)
        self.schedule.check(self)
        self._check_blocks()
        self._check_baseline()
        schedule = self.aggregator.server_optimizer.schedule
        if schedule != CONSTANT and schedule.at(self.rounds, self.rounds) == 1:
            raise UserError(
                f"aggregator/server_optimizer/schedule: {type(schedule).__name__} changes nothing in "
                f"rounds={self.rounds}; take aggregator/server_optimizer/schedule=constant"
            )
        combine = self.aggregator.combine
        if isinstance(combine, Weighted) and combine.by != "samples" and self.client.validation_fraction == 0:
            raise UserError(
                f"aggregator.combine.by={combine.by}: clients judge their models on a validation split of their own; "
                "set client.validation_fraction, for instance to 0.2"
            )

    def _check_baseline(self) -> None:
        """A baseline has no exchange between clients and server, and no federated model to start from."""
        off = {
            "personalize": isinstance(self.personalize, NoPersonalization),
            "link": self.link.lossless_up and self.link.lossless_down,
            "attack": isinstance(self.attack, NoAttack),
            "privacy": isinstance(self.privacy, NoPrivacy),
            "system": isinstance(self.system, NoSystem),
        }
        for group, is_off in off.items():
            if not isinstance(self.baseline, NoBaseline) and not is_off:
                name = type(self.baseline).__name__.lower()
                raise UserError(f"baseline={name}: is no federation, in which {group} would act; use {group}=none")

    def _check_blocks(self) -> None:
        blocks = self.aggregator.blocks
        if blocks is None:
            return
        if not isinstance(self.aggregator.correction, NoCorrection):
            raise UserError(
                f"aggregator.blocks={blocks}: a correction compares a client's model with the server's, and the server "
                "has no private blocks; use aggregator/correction=none"
            )
        if isinstance(self.personalize, Ditto):
            raise UserError(
                f"aggregator.blocks={blocks}: with private blocks there is no whole global model to which "
                "personalize=ditto could pull; use personalize=none or personalize=finetune"
            )

    def torch_device(self) -> torch.device:
        """Return the device that ``device`` names, or raise `UserError` if there is none."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda: no CUDA device is available here; use device=cpu or device=auto")
        cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")

    def torch_dtype(self) -> torch.dtype:
        """Return the floating-point type of parameters and features."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def bound_to_rounds(self) -> list[str]:
        """The keys of the parts whose numbers depend on `rounds`, so that a run cannot go on with another limit.

        A part says so by an attribute ``depends_on_rounds``: a class variable, or a property where it depends on its
        settings.
        """

        def below(part: object, key: str) -> Iterator[str]:
            if getattr(part, "depends_on_rounds", False):
                yield key
            for child in fields(part) if is_dataclass(part) and not isinstance(part, type) else ():
                yield from below(getattr(part, child.name), f"{key}.{child.name}".lstrip("."))

        return list(below(self, ""))

    def check_population(self, num_clients: int) -> None:
        """Raise `UserError` if so many clients give no cohorts, or parts do not go together."""
        self.sampler.check(num_clients)
        self.schedule.check_population(self, num_clients)
        self._check_exchange(num_clients)
        smallest, largest = self._limits(num_clients)
        if isinstance(self.system, Timed):
            self.system.check(self)
            self.system.check_population(self, num_clients)
            smallest = smallest if isinstance(self.schedule, Asynchronous) else self.system.smallest(smallest)
        combine = self.aggregator.combine
        if isinstance(combine, Particular):
            combine.check(Setting(max(1, smallest), largest, self.client, self.aggregator.correction))

    def _limits(self, num_clients: int) -> tuple[int, int]:
        """How many clients at least and at most are combined, as the sampler or the schedule has it."""
        smallest, largest = self.sampler.limits(num_clients)
        if isinstance(self.schedule, Asynchronous):
            return self.schedule.buffer(largest), self.schedule.buffer(largest)
        return smallest, largest

    def _check_exchange(self, num_clients: int) -> None:
        """What is on between clients and server must have something to act on."""
        off = self.link.lossless_up and self.link.lossless_down
        if self.aggregator.blocks == [] and not (off and isinstance(self.privacy, NoPrivacy)):
            raise UserError("aggregator.blocks=[]: nothing is sent that link or privacy could act on; take them off")
        if self.aggregator.blocks == [] and not isinstance(self.attack, NoAttack):
            raise UserError("aggregator.blocks=[]: nothing is sent, so that attacks reach nobody; take attack=none")
        if self.aggregator.blocks is not None and isinstance(self.attack, Backdoor):
            raise UserError(
                f"aggregator.blocks={self.aggregator.blocks}: attack=backdoor is judged by the global model, of which "
                "private blocks leave a part only; take aggregator.blocks=null"
            )
        if not isinstance(self.attack, NoAttack) and self.attack.start_round > self.rounds:
            raise UserError(f"attack.start_round={self.attack.start_round}: is after the last of rounds={self.rounds}")
        if isinstance(self.attack, ALIE) and self.attack.z is None:
            largest = self._limits(num_clients)[1]
            count = round(int(self.attack.malicious(num_clients, self.seed).sum()) * largest / num_clients)
            if largest_z(largest, count) == 0:
                raise UserError(
                    f"attack.z=null: the paper's z_max is 0 where {count} of {largest} clients attack, who would send "
                    "the mean of the others; set attack.z, for instance to 1"
                )
        self.privacy.check(self)

    def check_task(self, task: Task, columns: list[str]) -> None:
        """Raise `UserError` for settings that do not go with the data's task or with the columns recorded."""
        combine = self.aggregator.combine
        if isinstance(combine, Weighted) and combine.by == "accuracy" and task is Task.REGRESSION:
            raise UserError("aggregator.combine.by=accuracy: a regression has no accuracy; use by=loss or by=samples")
        judging = [c for c in columns if c not in ("round", "clients")]
        if self.stop.metric is not None and self.stop.metric not in judging:
            raise UserError(
                f"stop.metric={self.stop.metric}: this run records {', '.join(judging)}"
                + did_you_mean(self.stop.metric, judging)
            )


@lru_cache(maxsize=2)
def load_dataset(data: DataSource, seed: int) -> Dataset:
    """Load a data source, once for equal settings in one process (a sweep checks first and runs later)."""
    return data.load(seed)
