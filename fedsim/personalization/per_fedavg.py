"""Per-FedAvg: a global model that is good after a step on a client's own samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fedsim.clients.optimizers import SGD
from fedsim.clients.report import Memory
from fedsim.clients.step import Step
from fedsim.clients.task import LocalTask
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Bound, Correction, Federation, Round
from fedsim.core.results import Evaluation
from fedsim.core.setting import Setting
from fedsim.core.state import State
from fedsim.corrections.plain_steps import check_one_rate, check_plain_steps
from fedsim.corrections.within_round import notebook, whose
from fedsim.errors import check_above, check_at_least
from fedsim.personalization.adapting import check_alone
from fedsim.personalization.finetune import FineTune
from fedsim.personalization.personalization import OwnModelsInRun

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PerFedAvg(Correction):
    """Per-FedAvg, first order (Fallah 2020, Algorithm 1 without second derivatives, FO in section 5).

    Clients minimise ``F_k(w - alpha * grad F_k(w))``. With two minibatches D and D',

        ``v = w - alpha * g(w; D)``, then ``w <- w - lr * g(v; D')``,

    so that two local steps are one of the algorithm. If a client takes an odd number of steps, the last one is one of
    the algorithm with D' = D. A client's own model is the global one after `steps` steps of length alpha, which a
    client that never took part makes as well; the columns ``personal_*`` judge it.

    Attributes:
        alpha: length of the inner step; None is the local learning rate. With ``client.lr_decay`` it falls as that.
        steps: inner steps before each evaluation.
    """

    alpha: float | None = None
    steps: int = 1

    option: ClassVar[str] = "per_fedavg"
    facts: ClassVar[Facts] = frozenset({Fact.BENDS, Fact.PERSONAL})
    held_rows: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_above(self, 0, "alpha")
        check_at_least(self, 1, "steps")

    def check(self, setting: Setting) -> None:
        """Refuse all but plain SGD, and other personal models."""
        check_plain_steps(setting, "per_fedavg", "every second of which it takes back")
        check_one_rate(setting, "aggregator/correction=per_fedavg")
        check_alone(setting, "per_fedavg")

    def bind(self, bound: Bound) -> PerFedAvg:
        """Return the correction that runs, with the engine that adapts and scores."""
        adapted = Adapted(steps=self.steps, alpha=self.alpha).bind(bound)
        return PerFedAvgInRun(alpha=self.alpha, steps=self.steps, adapted=adapted)

    def recall(self, clients: Tensor, round: Round) -> Memory:
        """Return blank notes for the inner gradients, and the lengths of both steps."""
        row, task = round.state.row, round.federation.task
        lr, rate = task.lr(round.number), task.config.optimizer.lr
        inner = lr if self.alpha is None else self.alpha * (lr / rate)
        lengths = row.new_tensor([lr, inner], device="cpu")
        return notebook(clients, gradient=row.new_zeros(len(clients), len(row)), lengths=lengths)

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Take the inner step, or take it back and add the outer one; plain SGD multiplies both by lr."""
        assert step.memory is not None
        notes, clients = step.memory.shared, whose(step)
        lr, inner = notes["lengths"].tolist()
        if step.number % 2 == 1:
            gradient.sub_(notes["gradient"][clients], alpha=inner / lr)
            return
        notes["gradient"][clients] = gradient
        unpaired = (step.total == step.number + 1).to(gradient.device)
        outer = step.at(step.rows - inner * gradient)[unpaired] if bool(unpaired.any()) else None
        gradient.mul_(inner / lr)
        if outer is not None:
            gradient[unpaired] = outer


@dataclass(frozen=True, kw_only=True)
class PerFedAvgInRun(PerFedAvg):
    """Per-FedAvg, with the engine that makes the clients' own models.

    Attributes:
        adapted: the models after the inner steps.
    """

    adapted: OwnModelsInRun

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``personal_*`` columns."""
        return self.adapted.examine(federation, state)


@dataclass(frozen=True, kw_only=True)
class Adapted(FineTune):
    """The global model after inner steps of plain gradient descent.

    Attributes:
        alpha: their length, or None for the local learning rate.
    """

    alpha: float | None = None

    def task(self, task: LocalTask) -> LocalTask:
        """Return a task of `steps` local steps of that length."""
        task = super().task(task)
        lr = task.config.optimizer.lr if self.alpha is None else self.alpha
        return replace(task, config=replace(task.config, optimizer=SGD(lr=lr)), stream="per_fedavg")
