"""FedNova: deltas normalised by the coefficients of the gradients in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.rules import WeightedSum
from fedsim.clients.optimizers import SGD
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_one_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class NovaSum:
    """Running sums of a round: ``sum(n_k / |a_k| * delta_k)``, ``sum(n_k * tau_k)`` and ``sum(n_k)``."""

    normalised: WeightedSum
    lengths: float = 0.0
    samples: int = 0


@dataclass(frozen=True, kw_only=True)
class FedNova:
    """``tau_eff * sum(p_k * delta_k / |a_k|)`` with ``tau_eff = sum(p_k * |a_k|)`` (Wang 2020, section 4).

    ``p_k`` is a client's share of the cohort's samples, and ``|a_k|`` (`Report.coefficient_norm`) the sum of the
    coefficients of its minibatch gradients in its delta, with momentum and the proximal term.

    The paper leaves tau_eff free. The authors' code takes ``sum(p_k * |a_k|)`` without a proximal term, and
    ``sum(p_k * steps_k)`` with one (``tau_eff=steps``), which makes larger steps, as the pull makes ``|a_k|`` smaller
    than the number of steps. (With momentum and a proximal term together their code also counts every step twice in
    ``|a_k|``; ours is exact.)

    Attributes:
        tau_eff: the effective number of local steps. ``coefficients``: ``sum(p_k * |a_k|)``. ``steps``:
            ``sum(p_k * steps_k)``.
    """

    tau_eff: str = "coefficients"

    option: ClassVar[str] = "fednova"

    facts: ClassVar[Facts] = frozenset(
        {Fact.COUNTS_SAMPLES, Fact.READS_REPORT, Fact.COMPARES, Fact.UNBOUNDED_WEIGHTS, Fact.NEEDS_COEFFICIENTS}
    )

    needs: ClassVar[tuple[str, ...]] = ("coefficient_norm",)

    def __post_init__(self) -> None:
        check_one_of(self, "tau_eff", ("coefficients", "steps"))

    def check(self, setting: Setting) -> None:
        """Refuse settings under which a delta is not a sum of gradients with known coefficients."""
        client = setting.client
        if not isinstance(client.optimizer, SGD):
            raise UserError(
                f"client/optimizer={type(client.optimizer).__name__.lower()}: aggregator/combine=fednova normalises "
                "by the coefficients of the local gradients, which only client/optimizer=sgd has"
            )
        if client.keep_optimizer_state:
            raise UserError(
                "client.keep_optimizer_state=true: aggregator/combine=fednova needs deltas made of this round's "
                "gradients alone"
            )
        if client.clip_norm is not None and Fact.PULLS in setting.facts:
            raise UserError(
                f"client.clip_norm={client.clip_norm}: clips the proximal term too, so that aggregator/combine=fednova "
                "does not know the coefficients of the local gradients"
            )

        if self.tau_eff == "steps" and client.optimizer.momentum == 0 and Fact.PULLS not in setting.facts:
            raise UserError(
                "aggregator.combine.tau_eff=steps: has an effect only with aggregator/correction=prox or "
                "client.optimizer.momentum; without them the coefficients of a client sum to its steps"
            )

    def start(self, like: Tensor) -> NovaSum:
        """Return empty sums, shaped like the row `like` ``[P]``."""
        return NovaSum(WeightedSum(torch.zeros_like(like, dtype=torch.float64)))

    def add(self, state: NovaSum, deltas: Tensor, report: Report) -> None:
        """Add the deltas of a chunk of clients to the sums, in place."""
        assert report.coefficient_norm is not None, "asked for in `needs`"
        samples, norms = report.num_samples.double(), report.coefficient_norm
        state.normalised.add(deltas, samples / norms)
        state.lengths += float(samples @ (norms if self.tau_eff == "coefficients" else report.local_steps.double()))
        state.samples += int(report.num_samples.sum())

    def finish(self, state: NovaSum) -> Tensor:
        """Return the step ``[P]`` of the global row."""
        return state.normalised.total * (state.lengths / state.samples**2)
