"""Delta-SGD: local steps whose length follows the local smoothness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.clients.report import Memory
from fedsim.clients.step import Step
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Correction, Round
from fedsim.core.setting import Setting
from fedsim.corrections.plain_steps import check_one_rate, check_plain_steps
from fedsim.corrections.within_round import notebook, whose
from fedsim.errors import check_above, check_at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DeltaSGD(Correction):
    """Delta-SGD (Kim 2024, Algorithm 1): every client finds its own learning rate, anew in each round.

    The k-th local step is ``y_(k+1) = y_k - eta_k * g(y_k)``, with

        ``min(gamma * |y_k - y_(k-1)| / (2 * |g(y_k) - g(y_(k-1))|), sqrt(1 + delta * theta_(k-1)) * eta_(k-1))``

    for eta_k, ``theta_k = eta_k / eta_(k-1)``, and the gradients of the same minibatch at both rows. The first step has
    ``eta_0 = client.optimizer.lr`` and ``theta_0 = 1``. A step takes two gradients. (The authors' code lengthens the
    first step by ``sqrt(1 + delta)``, too.)

    Attributes:
        gamma: how far a step goes, in units of the inverse of twice the smoothness.
        delta: how fast the learning rate may grow.
    """

    gamma: float = 2.0
    delta: float = 0.1

    option: ClassVar[str] = "delta_sgd"
    facts: ClassVar[Facts] = frozenset({Fact.BENDS})
    gradients: ClassVar[int] = 2
    held_rows: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_above(self, 0, "gamma")
        check_at_least(self, 0, "delta")

    def check(self, setting: Setting) -> None:
        """Refuse all but plain SGD, and learning rates that differ among the clients of a cohort."""
        check_plain_steps(setting, "delta_sgd", "whose length it finds")
        check_one_rate(setting, "aggregator/correction=delta_sgd")

    def recall(self, clients: Tensor, round: Round) -> Memory:
        """Return blank notes: the rows before the last step, and learning rates in units of that of the round."""
        rows = round.state.row.new_zeros(len(clients), len(round.state.row))
        ones = torch.ones(len(clients), dtype=torch.float64, device=rows.device)
        lr = torch.tensor(round.federation.task.lr(round.number), dtype=torch.float64)
        return notebook(clients, before=rows, rate=ones, growth=ones.clone(), lr=lr)

    def correct(self, gradient: Tensor, step: Step) -> None:
        """Multiply the gradient by ``eta_k / eta_0``, the step of plain SGD being ``eta_0`` times what it gets."""
        assert step.memory is not None
        notes, clients = step.memory.shared, whose(step)
        rate, growth = notes["rate"][clients], notes["growth"][clients]
        if step.number > 0:
            before = notes["before"][clients]
            moved = (step.rows - before).double().norm(dim=1)
            changed = (gradient - step.at(before)).double().norm(dim=1)
            fastest = (1 + self.delta * growth).sqrt() * rate
            smooth = self.gamma * moved / (2 * changed * notes["lr"])
            known = (moved > 0) & (changed > 0)
            now = torch.where(known, torch.minimum(smooth, fastest), fastest)
            rate, growth = now, now / rate
        notes["before"][clients] = step.rows
        notes["rate"][clients], notes["growth"][clients] = rate, growth
        gradient.mul_(rate.to(gradient.dtype)[:, None])
