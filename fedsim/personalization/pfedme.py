"""pFedMe: personal models pulled towards the global one, which follows them."""

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
from fedsim.corrections.proximal import Prox
from fedsim.errors import check_above, check_at_least
from fedsim.personalization.adapting import check_alone
from fedsim.personalization.finetune import FineTune
from fedsim.personalization.personalization import OwnModelsInRun

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PFedMe(Correction):
    """pFedMe (Dinh 2020, Algorithm 1).

    In each local step a client looks for its personal model theta near its local model w, and moves w towards it:

        ``theta = argmin_theta F_k(theta; D) + mu / 2 * |theta - w|^2``, then ``w <- w - lr * mu * (w - theta)``,

    the first by `steps` steps of gradient descent from w on one minibatch D. The paper's beta, by which the server
    moves to the mean of the local models, is ``aggregator.server_optimizer.lr``, and all clients count the same there
    (``aggregator/combine=mean``). The authors' code lets theta continue from the last theta of the round.

    A client's own model is the theta of the global model, found by as many steps on a minibatch each, which a client
    that never took part finds as well; the columns ``personal_*`` judge it.

    Attributes:
        mu: strength of the pull (lambda in the paper).
        steps: gradients with which theta is looked for (K in the paper).
        lr: length of these steps; None is the local learning rate. With ``client.lr_decay`` it falls as that.
    """

    mu: float = 1.0
    steps: int = 5
    lr: float | None = None

    option: ClassVar[str] = "pfedme"
    facts: ClassVar[Facts] = frozenset({Fact.BENDS, Fact.PERSONAL})
    held_rows: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_above(self, 0, "mu", "lr")
        check_at_least(self, 1, "steps")

    @property
    def gradients(self) -> int:  # type: ignore[override]  # as many as a setting says, and not a constant of the class
        """`steps`."""
        return self.steps

    def check(self, setting: Setting) -> None:
        """Refuse all but plain SGD, and other personal models."""
        check_plain_steps(setting, "pfedme", "towards the personal model")
        check_one_rate(setting, "aggregator/correction=pfedme")
        check_alone(setting, "pfedme")

    def bind(self, bound: Bound) -> PFedMe:
        """Return the correction that runs, with the engine that finds personal models and scores them."""
        found = Found(steps=self.steps, mu=self.mu, lr=self.lr).bind(bound)
        return PFedMeInRun(mu=self.mu, steps=self.steps, lr=self.lr, found=found)

    def recall(self, clients: Tensor, round: Round) -> Memory:
        """Return the length of the steps to theta in this round."""
        task = round.federation.task
        lr, rate = task.lr(round.number), task.config.optimizer.lr
        length = lr if self.lr is None else self.lr * (lr / rate)
        return Memory({}, {"length": round.state.row.new_tensor(length, device="cpu")})

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Replace the gradient by ``mu * (w - theta)``."""
        assert step.memory is not None
        length = step.memory.shared["length"].item()
        away = -length * gradient  # theta - w after the first step, at which both are the same
        for _ in range(1, self.steps):
            slope = step.at(step.rows + away)
            away -= length * (slope + self.mu * away)
        gradient.copy_(away).mul_(-self.mu)


@dataclass(frozen=True, kw_only=True)
class PFedMeInRun(PFedMe):
    """pFedMe, with the engine that finds the clients' own models.

    Attributes:
        found: the personal models of the global one.
    """

    found: OwnModelsInRun

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Return the ``personal_*`` columns."""
        return self.found.examine(federation, state)


@dataclass(frozen=True, kw_only=True)
class Found(FineTune):
    """The model near the global one that minimises a client's own loss and a pull towards the global one.

    Attributes:
        mu: strength of the pull.
        lr: length of the steps, or None for the local learning rate.
    """

    mu: float
    lr: float | None = None

    def task(self, task: LocalTask) -> LocalTask:
        """Return a task of `steps` local steps with that pull."""
        task = super().task(task)
        lr = task.config.optimizer.lr if self.lr is None else self.lr
        config = replace(task.config, optimizer=SGD(lr=lr))
        return replace(task, config=config, correction=Prox(mu=self.mu), stream="pfedme")
