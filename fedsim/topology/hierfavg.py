"""HierFAVG: clients meet at edge servers, and these in the cloud."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fedsim.aggregation.rules import combine_chunks, part_of
from fedsim.core.cohort import Cohort, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Federation, Round, Schedule
from fedsim.core.results import Metrics
from fedsim.core.setting import Setting
from fedsim.core.state import Drawer, State
from fedsim.errors import FieldError, UserError, check_at_least, check_between, did_you_mean
from fedsim.metrics import Column
from fedsim.topology.pairs import read_pairs
from fedsim.topology.rows import NEXT, ROWS, gathered, refuse_one_model, refuse_server_schedule

if TYPE_CHECKING:
    from torch import Tensor

ASSIGNMENTS = ("blocks", "round_robin")
"""How clients are assigned to edges without a file."""

UP, DOWN = "cloud_up", "cloud_down"
"""Entries of the drawer: bytes between edges and cloud so far."""


@dataclass(frozen=True, kw_only=True)
class HierFAVG(Schedule):
    """HierFAVG (Liu 2020, Algorithm 1): every edge server averages its own clients, and the cloud the edges.

    Clients train from the model of their edge for ``client.epochs`` or ``steps`` (kappa_1 in the paper), and

        ``w_l <- sum over the clients k of edge l of n_k w_k / n_l`` after every round,
        ``w_l <- w = sum over all edges l of n_l w_l / n`` after every `cloud_every` (kappa_2) rounds,

    with n_k training samples of a client, n_l of all clients of an edge, and n of all. The first line is the
    aggregator's combine rule, applied within each edge to those of its clients that take part; an edge of which nobody
    does keeps its model. In the second line edges count by clients where the combine rule does not count samples.

    The global model, which ``test_*`` judges and which is saved, is w in every round, though clients have it only after
    those in which the cloud has averaged.

    All edges keep step: a round ends when the last edge is done. With a virtual clock, the messages between edges and
    cloud take ``8e-6 * bytes / backhaul_mbps`` seconds each way, all edges at once.

    Attributes:
        edges: how many edge servers; None is two, or as many as the file of `assignment` names.
        cloud_every: rounds from one average of the cloud to the next.
        assignment: which client belongs to which edge: ``blocks`` (the first of N/E clients to the first edge, and so
            on), ``round_robin`` (client k to edge ``k mod E``), or a CSV file with the columns ``client`` and ``edge``,
            which may name clients that do not take part in the run.
        backhaul_mbps: bandwidth between an edge and the cloud in 10^6 bits per second, each way; needed with a virtual
            clock, and of no use without.
    """

    edges: int | None = None
    cloud_every: int = 2
    assignment: str = "blocks"
    backhaul_mbps: float | None = None

    option: ClassVar[str] = "hierfavg"
    facts: ClassVar[Facts] = frozenset()
    columns: ClassVar[tuple[Column, ...]] = (
        Column("bytes_cloud_down", "min", cumulative=True),
        Column("bytes_cloud_up", "min", cumulative=True),
    )

    def __post_init__(self) -> None:
        check_at_least(self, 1, "edges", "cloud_every")
        check_between(self, 1e-9, 1e9, "backhaul_mbps")
        if not self.assignment:
            raise FieldError("assignment", self.assignment, f"must be {', '.join(ASSIGNMENTS)} or a CSV file")
        if self.edges is not None and self.assignment not in ASSIGNMENTS:
            raise FieldError(
                "edges",
                self.edges,
                f"has an effect only with assignment=blocks or round_robin, and {self.assignment} names the edges"
                + did_you_mean(self.assignment, ASSIGNMENTS),
            )

    def check(self, setting: Setting) -> None:
        """Refuse what works on one model or on one sum of all rows, and a link without the time that it takes."""
        refuse_one_model(setting, "hierfavg")
        for fact in (Fact.HIDES_ROWS, Fact.PRIVATE_MEAN):
            if fact in setting.facts:
                raise UserError(
                    f"{setting.facts[fact]}: is about one sum over the cohort, and under schedule=hierfavg every edge "
                    "has its own; take privacy=local_dp or none"
                )
        timed = setting.facts.get(Fact.TIMED)
        if timed and self.backhaul_mbps is None:
            raise UserError(
                f"schedule=hierfavg: {timed} counts virtual seconds, and how long edges and cloud take to exchange a "
                "model is not known; take schedule.backhaul_mbps=100 (10^6 bits per second), or another number"
            )
        if self.backhaul_mbps is not None and not timed:
            raise UserError(
                f"schedule.backhaul_mbps={self.backhaul_mbps:g}: has an effect only with system=devices or profiles"
            )

    def check_clients(self, setting: Setting) -> None:
        """Refuse more edges than clients."""
        if self.edges is not None and self.edges > setting.num_clients:
            raise UserError(f"schedule.edges={self.edges}: there are only {setting.num_clients} clients")

    def cohort_sizes(self, smallest: int, largest: int) -> tuple[int, int]:
        """Return how many clients an edge combines: with several edges, any number."""
        return (smallest if self.edges == 1 else 1), largest

    def check_bound(self, federation: Federation, state: State) -> None:
        """Refuse a schedule of the server's learning rate, which nothing would use."""
        refuse_server_schedule(federation, "hierfavg")

    def bind(self, bound: Bound) -> HierFAVG:
        """Return the schedule that runs, which knows the edge of each client and how much an edge counts."""
        names, sizes = bound.population.client_names, bound.population.train.sizes
        edge = self.assign(names)
        counts = sizes if Fact.COUNTS_SAMPLES in bound.facts else torch.ones_like(sizes)
        shares = torch.bincount(edge, weights=counts.double())
        return HierFAVGInRun(
            edges=self.edges,
            cloud_every=self.cloud_every,
            assignment=self.assignment,
            backhaul_mbps=self.backhaul_mbps,
            rounds=bound.rounds,
            edge=edge,
            shares=shares / shares.sum(),
        )

    def assign(self, names: Sequence[str]) -> Tensor:
        """Return the edge of each client, ``[N]`` int64: 0, 1, ... without gaps.

        Raises:
            UserError: if the file is not readable or says nothing of a client.
        """
        clients = torch.arange(len(names))
        if self.assignment in ASSIGNMENTS:
            count = 2 if self.edges is None else self.edges
            if count > len(names):
                raise UserError(f"schedule=hierfavg: has {count} edges, and there is only {len(names)} client")
            blocks = self.assignment == "blocks"
            return clients * count // len(names) if blocks else clients % count
        known: dict[str, str] = {}
        for line, client, edge in read_pairs("schedule.assignment", self.assignment, ("client", "edge"), ASSIGNMENTS):
            if client in known:
                raise UserError(
                    f"schedule.assignment={self.assignment}, line {line}: client {client!r} has an edge already"
                )
            known[client] = edge
        if missing := [name for name in names if name not in known]:
            raise UserError(
                f"schedule.assignment={self.assignment}: no edge for client {missing[0]!r}"
                + (f" (and for {len(missing) - 1} more of {len(names)})" if len(missing) > 1 else "")
                + did_you_mean(missing[0], known)
            )
        number = {edge: k for k, edge in enumerate(dict.fromkeys(known[name] for name in names))}
        return torch.tensor([number[known[name]] for name in names])


@dataclass(frozen=True, kw_only=True)
class HierFAVGInRun(HierFAVG):
    """HierFAVG, bound to a population.

    Attributes:
        rounds: R, the round limit.
        edge: ``[N]`` int64, the edge of each client.
        shares: ``[E]`` float64, how much each edge counts in the cloud; they add up to 1.
    """

    rounds: int
    edge: Tensor
    shares: Tensor

    def __post_init__(self) -> None:
        """Nothing is left to check."""

    def start(self, row: Tensor) -> Drawer:
        """Return the model for every edge, and no bytes."""
        none = torch.zeros((), dtype=torch.int64)
        return {ROWS: row.repeat(len(self.shares), 1), UP: none, DOWN: none.clone()}

    def accepts(self, drawer: Drawer, fresh: Drawer) -> bool:
        """Accept a model for every edge, and totals that can still be added to."""
        return super().accepts(drawer, fresh) and all(0 <= int(drawer[name]) < 2**62 for name in (UP, DOWN))

    def fingerprint(self) -> list[Tensor]:
        """Return who belongs to which edge, which may come from a file that can change."""
        return [self.edge]

    def anchors(self, part: Cohort, round: Round) -> Tensor:
        """Return the models of the clients' edges."""
        rows: Tensor = round.drawer(self)[ROWS][self.edge[part.clients]]
        return rows

    def next_cohort(self, federation: Federation, state: State, round_number: int) -> Cohort:
        """Return who takes part, and how long the round takes with the messages between edges and cloud."""
        cohort = super().next_cohort(federation, state, round_number)
        if self.backhaul_mbps is None:
            return cohort
        one = 8e-6 * state.row.nbytes / self.backhaul_mbps
        return cohort._replace(seconds=cohort.seconds + one * sum(self._meetings(round_number)))

    def _meetings(self, round_number: int) -> tuple[int, int]:
        """Whether the cloud sends its model before a round, and whether it gets those of the edges after it."""
        return int((round_number - 1) % self.cloud_every == 0), int(round_number % self.cloud_every == 0)

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Combine the updates of each edge, and pass them on as distances from the global model of the records."""
        rows = round.drawer(self)[ROWS]
        held, deltas, clients, report = gathered(updates, round)
        moved, edge = rows.clone(), self.edge[clients]
        if deltas is not None and report is not None:
            for number in edge.unique().tolist():
                which = (edge == number).nonzero()[:, 0]
                chunk = deltas[which.to(deltas.device)], part_of(report, which)
                combined = combine_chunks(round.federation.bound.combine, rows[number], [chunk])
                if combined is not None:
                    moved[number] = rows[number] + combined.delta
        round.notes[NEXT] = moved
        for update in held:
            yield update._replace(rows=update.rows + (rows[self.edge[update.clients]] - round.state.row))

    def close(self, round: Round) -> None:
        """Average the edges, which have the result if it is time, and count what has been sent."""
        drawer = round.drawer(self)
        rows = round.notes.get(NEXT, drawer[ROWS])
        mean = (self.shares.to(rows.device) @ rows.double()).to(rows.dtype)
        down, up = self._meetings(round.number)
        every = len(rows) * mean.nbytes
        round.state.row = mean
        round.state.drawers[self.group] = {
            ROWS: mean.repeat(len(rows), 1) if up else rows,
            UP: drawer[UP] + up * every,
            DOWN: drawer[DOWN] + down * every,
        }

    def measure(self, round: Round) -> Metrics:
        """Return the bytes between edges and cloud so far."""
        drawer = round.drawer(self)
        return {"bytes_cloud_down": int(drawer[DOWN]), "bytes_cloud_up": int(drawer[UP])}

    def summary(self, state: State) -> dict[str, Any]:
        """Return the bytes between edges and cloud in the run so far."""
        drawer = state.drawers[self.group]
        return {"bytes_cloud_down": int(drawer[DOWN]), "bytes_cloud_up": int(drawer[UP])}

    def introduce(self) -> list[str]:
        """Say what the global model is where clients do not have it in every round."""
        if self.cloud_every == 1 or len(self.shares) == 1:
            return []
        when = f"have after every {self.cloud_every} rounds only"
        if self.rounds < self.cloud_every:
            when = f"never have: schedule.cloud_every={self.cloud_every} is more than rounds={self.rounds}"
        return [
            f"schedule=hierfavg: test_*, the best round and the saved model are of the mean of {len(self.shares)} "
            f"edges, which clients {when}"
        ]

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """Show the edges, and what they send to the cloud."""
        sizes, count = torch.bincount(self.edge), len(self.shares)
        few, many, whole = int(sizes.min()), int(sizes.max()), count * state.row.nbytes
        of = f"{many}" if few == many else f"{few} to {many}"
        often = "every round" if self.cloud_every == 1 else f"every {self.cloud_every} rounds"
        return {
            "schedule": f"hierfavg: {count} edge(s) of {of} clients ({self.assignment}), averaged by the cloud {often}",
            "bytes to the cloud": f"{whole:,} down and {whole:,} up {often}, all edges together",
        }
