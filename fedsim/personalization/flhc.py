"""FL+HC: clients are clustered once, by their updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from fedsim.clients.trainer import Trainer
from fedsim.core.cohort import Cohort
from fedsim.core.part import Bound, Federation, Round
from fedsim.core.setting import Setting
from fedsim.core.state import Drawer, State
from fedsim.data.population import Population
from fedsim.errors import UserError, check_above, check_at_least, check_exactly_one, check_one_of
from fedsim.personalization.clusters import MEMBER, ROWS, SERVER, Clustered, best_model, engine_for_unseen

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FLHC(Clustered):
    """FL+HC (Briggs 2020, Algorithm 1): one model for some rounds, then one for each cluster of similar updates.

    After `after` rounds, the updates of a cohort are clustered from the bottom up by their distances, and every cluster
    goes on as a federation of its own from the model that there was; that round is its first one. In the paper all
    clients take part in it, as with ``sampler.fraction=1``. A client that does not, and one that never trains, takes
    the model that fits its training samples best whenever it needs one.

    Attributes:
        after: rounds before clients are clustered.
        clusters: how many clusters, or None; exclusive with `threshold`.
        threshold: clusters nearer than this are joined; None takes a number of them.
        linkage: how near two clusters are: ``average``, ``complete`` or ``single`` distance of their updates, or
            ``ward``, by how much the spread grows.
        metric: how far two updates are from each other: ``euclidean``, ``cityblock`` or ``cosine``.
    """

    after: int = 5
    clusters: int | None = 2
    threshold: float | None = None
    linkage: str = "average"
    metric: str = "euclidean"

    option: ClassVar[str] = "flhc"

    def __post_init__(self) -> None:
        check_at_least(self, 1, "after", "clusters")
        check_above(self, 0, "threshold")
        check_exactly_one(self, "clusters", "threshold")
        check_one_of(self, "linkage", ("average", "complete", "single", "ward"))
        check_one_of(self, "metric", ("euclidean", "cityblock", "cosine"))
        if self.linkage == "ward" and self.metric != "euclidean":
            raise UserError(f"schedule.linkage=ward: needs schedule.metric=euclidean, not {self.metric}")

    def check(self, setting: Setting) -> None:
        """Refuse runs that end before clients are clustered."""
        super().check(setting)
        if setting.rounds <= self.after:
            raise UserError(
                f"schedule.after={self.after}: has an effect only with more rounds than that, and rounds="
                f"{setting.rounds}"
            )

    def start(self, row: Tensor) -> Drawer:
        """Return one model, to which no client is said to belong yet."""
        return {ROWS: row[None].clone()}

    def bind(self, bound: Bound) -> FLHC:
        """Return the schedule that runs, which knows how many clients there are."""
        settings = {name: getattr(self, name) for name in ("after", "clusters", "threshold", "linkage", "metric")}
        return FLHCInRun(**settings, num_clients=bound.population.num_clients, other=engine_for_unseen(bound))

    def choose(
        self, rows: Tensor, clients: Tensor, trainer: Trainer, population: Population, member: Tensor | None
    ) -> Tensor:
        """Return the model of a client's cluster, or the one that fits best if it belongs to none."""
        choice = torch.full((len(clients),), -1) if member is None else member[clients]
        if len(rows) == 1:
            return torch.zeros_like(choice)
        unknown = (choice < 0).nonzero()[:, 0]
        if len(unknown):
            choice = choice.clone()
            choice[unknown] = best_model(rows, clients[unknown], trainer, population)
        return choice

    def accepts(self, drawer: Drawer, fresh: Drawer) -> bool:
        """Accept any number of models of the right length, with a member for each client once there are several."""
        rows = drawer.get(ROWS)
        if (
            rows is None
            or rows.dim() != 2
            or rows.dtype != fresh[ROWS].dtype
            or rows.shape[1:] != fresh[ROWS].shape[1:]
        ):
            return False
        others = [kept for name, kept in drawer.items() if name.startswith(SERVER)]
        return all(len(kept) == len(rows) for kept in others) and self._belongs(drawer.get(MEMBER), len(rows))

    def _belongs(self, member: Tensor | None, count: int) -> bool:
        return member is None or (member.dtype == torch.int64 and member.dim() == 1 and int(member.max()) < count)


@dataclass(frozen=True, kw_only=True)
class FLHCInRun(FLHC):
    """FL+HC, bound to a population.

    Attributes:
        num_clients: N.
        other: the engine bound to unseen clients, or None if there are none.
    """

    num_clients: int
    other: Trainer | None = None

    @property
    def newcomers(self) -> Trainer | None:
        """The engine bound to unseen clients."""
        return self.other

    def regroup(self, rows: Tensor, clients: Tensor, choice: Tensor, moved: Drawer, round: Round) -> Tensor:
        """Cluster the clients of the first cohort behind `after` rounds; their clusters start from the one model."""
        if round.number <= self.after or len(moved[ROWS]) > 1 or MEMBER in moved:
            return choice
        found = self.clustered(rows)
        count = int(found.max()) + 1
        for name in (ROWS, *(name for name in moved if name.startswith(SERVER))):
            moved[name] = moved[name].repeat_interleave(count, 0)
        moved[MEMBER] = torch.full((self.num_clients,), -1)
        moved[MEMBER][clients] = found
        return found

    def clustered(self, rows: Tensor) -> Tensor:
        """Return the clusters of updates ``[C, P]``, ``[C]`` int64, numbered by their first client."""
        from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]  # here: a slow import
        from scipy.spatial.distance import pdist  # type: ignore[import-untyped]  # as above

        if len(rows) == 1:
            return torch.zeros(1, dtype=torch.int64)
        apart = pdist(rows.double().cpu().numpy(), self.metric)
        apart[np.isnan(apart)] = 1.0  # the angle to an update of length 0, which has no direction
        tree = linkage(apart, self.linkage)
        far, criterion = (self.threshold, "distance") if self.clusters is None else (self.clusters, "maxclust")
        labels = fcluster(tree, far, criterion)
        names: dict[int, int] = {}
        return torch.tensor([names.setdefault(int(label), len(names)) for label in labels])

    def _belongs(self, member: Tensor | None, count: int) -> bool:
        return super()._belongs(member, count) and (member is None or len(member) == self.num_clients)

    def plan(self, federation: Federation, state: State, cohort: Cohort) -> dict[str, str]:
        """Show when clients are clustered."""
        ends = f"{self.clusters} clusters" if self.threshold is None else f"clusters {self.threshold:g} apart"
        return {"schedule": f"flhc: one model for {self.after} rounds, then one for each of {ends}"}
