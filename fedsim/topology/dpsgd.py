"""D-PSGD: no server; every client averages with its neighbours on a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.core.cohort import BLOCK, Cohort, Traffic, Update
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Federation, Round, Schedule
from fedsim.core.results import Evaluation, Metrics, merge
from fedsim.core.setting import Setting
from fedsim.core.state import Drawer, State
from fedsim.errors import FieldError, UserError, check_at_least
from fedsim.evaluation.evaluate import evaluate, evaluate_own, personal_prefixes
from fedsim.machine import refuse_larger
from fedsim.metrics import Column
from fedsim.topology.graphs import GRAPHS, make_graph, matrix, metropolis, spectral_gap
from fedsim.topology.rows import NEXT, ROWS, gathered, refuse_one_model, refuse_server_schedule

if TYPE_CHECKING:
    from torch import Tensor

DEGREE = 4
"""Neighbours of each client in a random graph, unless the setting says otherwise."""

LARGEST_MATRIX = 2000
"""Clients up to which the spectral gap is shown, which takes the eigenvalues of an N x N matrix."""


@dataclass(frozen=True, kw_only=True)
class DPSGD(Schedule):
    """Gossip (D-PSGD, Lian 2017, Algorithm 1, with its two steps in the other order: training, then the average).

    Every client has a model of its own, all the same at first. In a round each trains it on its own samples and sends
    it to its neighbours, and

        ``x_i <- sum over j of W_ij (x_j + delta_j)``,

    with the Metropolis-Hastings weights W of the graph, which are symmetric and doubly stochastic. With one local step
    of plain SGD that is the paper's algorithm; several local steps are those of Koloskova 2020. All clients take part
    in all rounds and count the same: it is ``mean F_k`` that is minimised, whatever their samples.

    The global model, which ``test_*`` judges and which is saved, is the mean of all rows; W leaves it as it is, and
    nobody has it. ``personal_*`` judges each client's row on its own test samples; unseen clients get the mean.
    ``consensus_distance`` is the root mean square distance of the rows from their mean after a round (Kong 2021,
    section 3; its square is what Lian 2017 bounds).

    Attributes:
        graph: who is whose neighbour: ``ring``, ``torus``, ``random_regular``, ``complete``, or a CSV file with the
            columns ``client`` and ``neighbour`` and an edge per line.
        degree: neighbours of each client in ``random_regular``; None is 4.
    """

    graph: str = "ring"
    degree: int | None = None

    option: ClassVar[str] = "dpsgd"
    facts: ClassVar[Facts] = frozenset({Fact.PERSONAL})
    columns: ClassVar[tuple[Column, ...]] = (
        Column("consensus_distance", "min"),
        Column("bytes_busiest", "min", cumulative=True),
    )

    def __post_init__(self) -> None:
        check_at_least(self, 1, "degree")
        if not self.graph:
            raise FieldError("graph", self.graph, f"must be {', '.join(GRAPHS)} or a CSV file")
        if self.degree is not None and self.graph != "random_regular":
            raise FieldError("degree", self.degree, f"has an effect only with graph=random_regular, not {self.graph}")

    def check(self, setting: Setting) -> None:
        """Refuse what needs a server."""
        facts = setting.facts
        rules = [facts[f] for f in (Fact.READS_ROWS, Fact.READS_REPORT, Fact.OWN_STEP, Fact.SCALES_STEP) if f in facts]
        if rules:
            raise UserError(
                f"schedule=dpsgd: there is no server, which {' and '.join(dict.fromkeys(rules))} would be about: "
                "neighbours average with the weights of the graph, and all clients take part; take aggregator=mean "
                "sampler.fraction=1"
            )
        if Fact.TIMED in facts:
            raise UserError(
                f"{facts[Fact.TIMED]}: its virtual clock knows how fast devices and server reach each other, and under "
                "schedule=dpsgd devices reach their neighbours; take system=none and count bytes"
            )
        if Fact.EXCHANGES in facts:
            raise UserError(
                f"{facts[Fact.EXCHANGES]}: acts on what clients and server send each other, and under schedule=dpsgd "
                "there is no server; take schedule=synchronous or switch it off"
            )
        refuse_one_model(setting, "dpsgd")

    def check_clients(self, setting: Setting) -> None:
        """Refuse samplers that leave clients out."""
        smallest, largest = setting.sampled
        if smallest < setting.num_clients:
            drawn = f"{largest}" if smallest == largest else f"{smallest} to {largest}"
            raise UserError(
                f"schedule=dpsgd: there is no server that draws clients, and all take part in every round; the sampler "
                f"draws {drawn} of {setting.num_clients}: take sampler=uniform sampler.fraction=1"
            )

    def check_bound(self, federation: Federation, state: State) -> None:
        """Refuse a schedule of the server's learning rate, which nothing would use."""
        refuse_server_schedule(federation, "dpsgd")

    def bind(self, bound: Bound) -> DPSGD:
        """Return the schedule that runs, on the graph of the clients.

        Raises:
            UserError: if the graph falls apart, or the rows do not fit in the machine's memory.
        """
        population, width = bound.population, bound.task.arch.layout.num_parameters
        refuse_larger(
            3 * population.num_clients * width * bound.itemsize,
            "num_clients",
            population.num_clients,
            f"a row of {width:,} parameters for each client, kept, trained and mixed",
            "take fewer clients or a smaller model: without a server each has a model of its own",
        )
        around = make_graph(self.graph, population.client_names, self.degree or DEGREE, bound.seed)
        return DPSGDInRun(graph=self.graph, degree=self.degree, around=around, weights=metropolis(around))


@dataclass(frozen=True, kw_only=True)
class DPSGDInRun(DPSGD):
    """D-PSGD, bound to a graph.

    Attributes:
        around: the neighbours of every client, ``[degree]`` int64 each.
        weights: their weights in its average, ``[degree]`` float64 each.
    """

    around: list[Tensor]
    weights: list[Tensor]

    @property
    def degrees(self) -> Tensor:
        """How many neighbours each client has, ``[N]`` int64."""
        return torch.tensor([len(one) for one in self.around])

    def start(self, row: Tensor) -> Drawer:
        """Return the same model for every client."""
        return {ROWS: row.repeat(len(self.around), 1)}

    def fingerprint(self) -> list[Tensor]:
        """Return the graph, which may come from a file that can change."""
        return [self.degrees, torch.cat(self.around)]

    def anchors(self, part: Cohort, round: Round) -> Tensor:
        """Return the clients' own models."""
        rows: Tensor = round.drawer(self)[ROWS][part.clients]
        return rows

    def pass_on(self, updates: Iterator[Update], round: Round) -> Iterator[Update]:
        """Average with the neighbours, and pass the updates on as distances from the mean of all rows."""
        rows = round.drawer(self)[ROWS]
        held, deltas, _, _ = gathered(updates, round)
        assert deltas is not None, "all clients take part, and all arrive"
        round.notes[NEXT] = self.mixed(rows + deltas)
        for update in held:
            yield update._replace(rows=update.rows + (rows[update.clients] - round.state.row))

    def mixed(self, rows: Tensor) -> Tensor:
        """Return ``W rows`` of the rows ``[N, P]``, each added up in float64."""
        result = torch.empty_like(rows)
        for k, (one, weight) in enumerate(zip(self.around, self.weights, strict=True)):
            others = weight.to(rows.device) @ rows[one].double()
            result[k] = (float(1 - weight.sum()) * rows[k].double() + others).to(rows.dtype)
        return result

    def close(self, round: Round) -> None:
        """Keep the rows, and their mean as the global model."""
        rows = round.notes[NEXT]
        round.state.drawers[self.group] = {ROWS: rows}
        round.state.row = mean_row(rows).to(rows.dtype)

    def measure(self, round: Round) -> Metrics:
        """Return how far rows are from their mean, and what the client with most neighbours has sent and received."""
        rows = round.drawer(self)[ROWS]
        busiest = 2 * int(self.degrees.max()) * round.state.row.nbytes * round.number
        return {"consensus_distance": consensus_distance(rows), "bytes_busiest": busiest}

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``personal_*`` columns."""
        rows, world, unseen = state.drawers[self.group][ROWS], federation.world, federation.population.unseen

        def own(clients: Tensor) -> Tensor:
            return rows[clients]

        trainer, population, size = federation.trainer, federation.population, federation.chunk_size
        found = [
            evaluate_own(trainer, own, population, size, prefix, world) for prefix in personal_prefixes(population)
        ]
        if unseen is not None:
            theirs = evaluate(federation.trainer, state.row, unseen, world, "unseen_personal")
            found.append(Evaluation(theirs.metrics, unseen=theirs.clients))
        return merge(found)

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Count a row to and from each neighbour, in the place of one from and to a server."""
        down = self.degrees[clients] * state.row.nbytes
        return traffic._replace(down=down, row=0, relayed_up=int(down.sum()))

    def introduce(self) -> list[str]:
        """Say whose models the columns judge."""
        return [
            "schedule=dpsgd: test_*, the best round and the saved model are of the mean of all clients' rows, which no "
            "client has; personal_* judges each one's own (stop.metric chooses another column)"
        ]

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """Show the graph, what its edges carry, and what the rows take."""
        degrees, count = self.degrees, len(self.around)
        few, many = int(degrees.min()), int(degrees.max())
        each = f"{many}" if few == many else f"{few} to {many}"
        edges, gap = int(degrees.sum()) // 2, ""
        if count <= LARGEST_MATRIX:
            gap = f", spectral gap {spectral_gap(matrix(self.around, self.weights)):.3g}"
        row = state.row.nbytes
        return {
            "schedule": f"dpsgd: {self.graph} of {count} clients with {each} neighbours each, {edges:,} edges{gap}",
            "bytes of the graph": f"{2 * row:,} on each edge in a round, {2 * many * row:,} at the client with most",
            "rows": f"one for each client, {count * row / 2**20:,.1f} MiB in memory and in every checkpoint",
        }


def mean_row(rows: Tensor) -> Tensor:
    """The mean ``[P]`` float64 of rows ``[N, P]``."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for block in rows.split(BLOCK):
        total += block.double().sum(0)
    return total / len(rows)


def consensus_distance(rows: Tensor) -> float:
    """``sqrt(mean_i |x_i - mean|^2)`` of rows ``[N, P]``."""
    mean = mean_row(rows)
    squares = sum(float((block.double() - mean).square().sum()) for block in rows.split(BLOCK))
    return float((squares / len(rows)) ** 0.5)
