"""IFCA: every client takes the model that fits its samples best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim import seeding
from fedsim.clients.trainer import Trainer
from fedsim.core.cohort import Cohort, Traffic
from fedsim.core.part import Bound, Federation
from fedsim.core.state import Drawer, State
from fedsim.data.population import Population
from fedsim.errors import check_at_least
from fedsim.models.recurrent import Architecture, initial_row
from fedsim.personalization.clusters import ROWS, Clustered, best_model, engine_for_unseen

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class IFCA(Clustered):
    """IFCA (Ghosh 2020, Algorithm 1 with model averaging), the same as HypCluster (Mansour 2020, Algorithm 1).

    The server sends K models to each client of the cohort, which chooses ``argmin_j F_k(theta_j)`` over its training
    samples, trains from there and says which one it was. Each model becomes that of its own clients:
    ``theta_j <- theta_j + mean of their deltas``, by the aggregator's rule and server optimizer. A client that never
    trained chooses in the same way.

    The first model is that of a run without clusters, the others are drawn from the same distribution. Clusters depend
    on these draws, and a model may end up without clients: the paper restarts from several, which is ``seed`` here.
    With ``init_from`` only the first model is the given one, which all clients would choose.

    Attributes:
        models: K; 1 is the aggregator without clusters.
    """

    models: int = 2

    option: ClassVar[str] = "ifca"

    def __post_init__(self) -> None:
        check_at_least(self, 1, "models")

    def choose(
        self, rows: Tensor, clients: Tensor, trainer: Trainer, population: Population, member: Tensor | None
    ) -> Tensor:
        """Return the model with the lowest loss."""
        return best_model(rows, clients, trainer, population)

    def bind(self, bound: Bound) -> IFCA:
        """Return the schedule that runs, which draws the models and knows unseen clients."""
        other = engine_for_unseen(bound)
        return IFCAInRun(models=self.models, arch=bound.task.arch, seed=bound.seed, other=other)


@dataclass(frozen=True, kw_only=True)
class IFCAInRun(IFCA):
    """IFCA, bound to a model.

    Attributes:
        arch: the model.
        seed: the run's seed.
        other: the engine bound to unseen clients, or None if there are none.
    """

    arch: Architecture
    seed: int
    other: Trainer | None = None

    def start(self, row: Tensor) -> Drawer:
        """Return the K models."""
        keys = [seeding.stream_key(self.seed, "schedule.cluster", number) for number in range(1, self.models)]
        drawn = [initial_row(self.arch, key, row.dtype).to(row.device) for key in keys]
        return {ROWS: torch.stack([row, *drawn])}

    @property
    def newcomers(self) -> Trainer | None:
        """The engine bound to unseen clients."""
        return self.other

    def add_bytes(self, traffic: Traffic, clients: Tensor, state: State, round_number: int) -> Traffic:
        """Count K models on the way down, and the number of the chosen one on the way up."""
        said = (self.models - 1).bit_length()
        more = (self.models - 1) * state.row.nbytes
        return traffic._replace(down=traffic.down + more, after=traffic.after + (said + 7) // 8)

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """Show how many models there are."""
        return {"schedule": f"ifca: {self.models} models, of which every client takes the best"}
