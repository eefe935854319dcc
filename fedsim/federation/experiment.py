"""One experiment: every setting of a run as a checked, typed value, and the checks that need no training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch

from fedsim.aggregation.aggregator import Aggregator
from fedsim.asynchrony.schedule import Synchronous
from fedsim.attacks.attack import NoAttack
from fedsim.audits.audit import NoAudit
from fedsim.baselines.baseline import Baseline, NoBaseline
from fedsim.clients.engine import Engine
from fedsim.clients.settings import ClientConfig
from fedsim.core.facts import Fact
from fedsim.core.part import Attack, Audit, Link, Part, Personalization, Privacy, Schedule, System
from fedsim.core.setting import Setting
from fedsim.core.stopping import Stop, start
from fedsim.data.population import Population
from fedsim.data.source import DataSource
from fedsim.devices.system import NoSystem
from fedsim.errors import FieldError, UserError, check_at_least, check_between, check_one_of, did_you_mean
from fedsim.evaluation.settings import Eval
from fedsim.federation.clashes import Claim, claims_of, refuse_clashes
from fedsim.links.link import TwoWayLink
from fedsim.metrics import Column
from fedsim.models.recurrent import RecurrentModel
from fedsim.partition.holding_out import HeldOut
from fedsim.partition.partition import Partition
from fedsim.personalization.personalization import NoPersonalization
from fedsim.privacy.privacy import NoPrivacy
from fedsim.recording.settings import Checkpoint, Console
from fedsim.recording.trackers import NoTracker, Tracker
from fedsim.samplers.sampler import Sampler
from fedsim.server.schedules import CONSTANT

MAX_SEED = 2**63 - 1
MAX_THREADS = 1024


@runtime_checkable
class Checked(Protocol):
    """A combine rule that does not work in every run."""

    def check(self, setting: Setting) -> None:
        """Raise `UserError` if the rule cannot work, or if one of its options would have no effect."""
        ...


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
        link: how the messages between clients and server are encoded.
        privacy: how clients' deltas are hidden.
        attack: what malicious clients do.
        audit: what a curious server tries to find out.
        system: what devices clients have, and how long the server waits for them.
        schedule: whether the server waits for a cohort.
        personalize: how clients get personal models.
        baseline: what is run instead of the federation, for comparison.
        stop: when to end early.
        checkpoint: when the state is saved.
        console: what is shown.
        tracker: the experiment tracker that rounds are also logged to.
        eval: when the global model is evaluated, and on what.
        seed: key of every random stream.
        rounds: round limit R.
        num_clients: N; None means 10 for generated partitions and all clients for natural ones.
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA where there is one).
        dtype: ``float32`` or ``float64``.
        threads: CPU threads; None leaves the number to torch.
        init_from: a run directory (its last checkpoint), a checkpoint, or a safetensors file with a ``state_dict``,
            whose model the run starts from; None draws an untrained model.
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
    link: Link = field(default_factory=TwoWayLink)
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
        schedule = self.aggregator.server_optimizer.schedule
        if schedule != CONSTANT and schedule.at(self.rounds, self.rounds) == 1:
            raise UserError(
                f"aggregator/server_optimizer/schedule: {type(schedule).__name__} changes nothing in "
                f"rounds={self.rounds}; take aggregator/server_optimizer/schedule=constant"
            )
        claims = self.claims()
        refuse_clashes(claims)
        setting = self.setting(claims)
        for part in self.parts():
            part.check(setting)
        self.effective()[1].check(setting)

    def effective(self) -> tuple[Sampler, Aggregator, ClientConfig]:
        """The sampler, aggregator and client settings that are used, after the baseline has replaced some of them."""
        changes = self.baseline.changes(self.partition, self.client)
        return (
            changes.get("sampler", self.sampler),
            changes.get("aggregator", self.aggregator),
            changes.get("client", self.client),
        )

    def dividing(self) -> Partition:
        """The partition, without the clients and samples that ``eval`` keeps out."""
        held = self.eval
        if not held.holds_out:
            return self.partition
        return HeldOut(self.partition, held.validation_fraction, held.unseen_clients, held.clients)

    def parts(self) -> tuple[Part, ...]:
        """The parts of a round that config groups choose, in the order in which they are called."""
        return (
            self.personalize,
            self.link,
            self.effective()[1].correction,
            self.attack,
            self.privacy,
            self.system,
            self.schedule,
            self.audit,
        )

    def by_drawer(self) -> dict[str, tuple[str, Any]]:
        """For each drawer name, the config key and the component that own the drawer."""
        keys = {"correction": "aggregator.correction"}
        chosen = {part.group: (keys.get(part.group, part.group), part) for part in self.parts()}
        return chosen | {"server": ("aggregator.server_optimizer", self.aggregator.server_optimizer)}

    def claims(self) -> list[Claim]:
        """The facts of all components, and of the settings that matter to other parts."""
        sampler, aggregator, client = self.effective()
        claims = claims_of(
            {
                "aggregator/combine": aggregator.combine,
                "aggregator/correction": aggregator.correction,
                "aggregator/server_optimizer": aggregator.server_optimizer,
                "sampler": sampler,
                "link": self.link,
                "privacy": self.privacy,
                "attack": self.attack,
                "audit": self.audit,
                "system": self.system,
                "schedule": self.schedule,
                "personalize": self.personalize,
                "baseline": self.baseline,
            }
        )
        blocks = aggregator.blocks
        if client.keep_optimizer_state:
            key = "client.keep_optimizer_state"
            claims.append(Claim(Fact.KEEPS_OPTIMIZER_STATE, f"{key}=true", f"{key}=false"))
        if blocks is not None:
            shared = (Fact.PRIVATE_BLOCKS,) if blocks else (Fact.PRIVATE_BLOCKS, Fact.NOTHING_SHARED)
            claims += [Claim(fact, f"aggregator.blocks={blocks}", "aggregator.blocks=null") for fact in shared]
        return claims

    def setting(self, claims: Sequence[Claim]) -> Setting:
        """What parts are checked against before the population is known, given the facts of all."""
        _, aggregator, client = self.effective()
        return Setting(
            rounds=self.rounds,
            seed=self.seed,
            client=client,
            blocks=aggregator.blocks,
            facts={claim.fact: claim.setting for claim in claims},
            dropout=self.model.dropout,
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
        """The keys of the parts that depend on `rounds`, so that a run cannot be continued with another round limit.

        A part declares this with an attribute ``depends_on_rounds``: a class variable, or a property if it depends on
        the part's settings.
        """

        def below(part: object, key: str) -> Iterator[str]:
            if getattr(part, "depends_on_rounds", False):
                yield key
            for child in fields(part) if is_dataclass(part) and not isinstance(part, type) else ():
                yield from below(getattr(part, child.name), f"{key}.{child.name}".lstrip("."))

        return list(below(self, ""))

    def check_clients(self, population: Population, num_clients: int) -> None:
        """Raise `UserError` if `num_clients` clients are too few for the sampler, or conflict with a part."""
        self.sampler.check(num_clients)
        self.client.check(population.task)
        sampled = self.sampler.limits(num_clients)
        smallest, largest = self.schedule.cohort_sizes(*self.system.cohort_sizes(*sampled))
        setting = replace(
            self.setting(self.claims()),
            population=population,
            num_clients=num_clients,
            smallest=max(1, smallest),
            largest=largest,
            sampled=sampled,
        )
        for part in self.parts():
            part.check_clients(setting)
        if isinstance(self.aggregator.combine, Checked):
            self.aggregator.combine.check(setting)

    def check_columns(self, columns: Sequence[Column]) -> None:
        """Raise `UserError` if ``stop.metric`` is not one of the run's `columns`, or neither of its ends is better."""
        judging = [column.name for column in columns if column.name not in ("round", "clients")]
        if self.stop.metric is not None and self.stop.metric not in judging:
            raise UserError(
                f"stop.metric={self.stop.metric}: this run records {', '.join(judging)}"
                + did_you_mean(self.stop.metric, judging)
            )
        if self.stop.metric is not None:
            start(self.stop, self.stop.metric, columns)
