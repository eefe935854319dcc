"""FedAtt: clients that moved further count more, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.aggregation.rules import Combine
from fedsim.clients.report import Report
from fedsim.core.facts import Fact, Facts
from fedsim.core.setting import Setting
from fedsim.errors import UserError, check_one_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FedAtt:
    """Attentive aggregation (FedAtt, Ji 2019, Algorithm 1; made for GRU language models).

    For each layer l of the model, ``w^l`` moves by ``sum_k a_k^l * delta_k^l``, where ``a^l`` is the softmax over the
    clients k of ``|delta_k^l|``. The paper's step size epsilon is ``aggregator.server_optimizer.lr`` (1.2 in the
    authors' code), and its noise is ``privacy=local_dp``.

    The norm is the Frobenius norm. The authors' code has the spectral norm for matrices, and takes each weight and each
    bias for a layer of its own, as ``per=parameter`` does.

    Attributes:
        per: what has weights of its own: each ``parameter`` (a weight matrix or a bias), or each ``block`` (embedding,
            recurrent, head).
    """

    per: str = "parameter"

    option: ClassVar[str] = "fedatt"
    facts: ClassVar[Facts] = frozenset({Fact.READS_ROWS, Fact.COMPARES})

    def __post_init__(self) -> None:
        check_one_of(self, "per", ("parameter", "block"))

    def check(self, setting: Setting) -> None:
        """Refuse cohorts of one client, which has nobody to be weighed against."""
        if setting.largest == 1:
            raise UserError(
                "aggregator/combine=fedatt: weighs the clients of a cohort against each other, and here it "
                "has one; take aggregator/combine=mean or larger cohorts"
            )

    def on_layers(self, layers: Mapping[str, slice]) -> Combine:
        """Return the rule for a model whose parameters lie at `layers`."""
        groups: dict[str, list[slice]] = {}
        for name, place in layers.items():
            groups.setdefault(name if self.per == "parameter" else name.split(".")[0], []).append(place)
        return FedAttInRun(per=self.per, layers=tuple(tuple(places) for places in groups.values()))

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the combined delta ``[P]``, as of a model with a single layer."""
        return _attended(deltas.double(), ((slice(None),),))


@dataclass(frozen=True, kw_only=True)
class FedAttInRun(FedAtt):
    """FedAtt, bound to a model.

    Attributes:
        layers: where the parts of each layer lie in a delta.
    """

    layers: tuple[tuple[slice, ...], ...]

    def combine(self, deltas: Tensor, report: Report) -> Tensor:
        """Return the combined delta ``[P]``."""
        return _attended(deltas.double(), self.layers)


def _attended(rows: Tensor, layers: tuple[tuple[slice, ...], ...]) -> Tensor:
    combined = torch.empty_like(rows[0])
    for places in layers:
        squares = torch.stack([rows[:, place].square().sum(1) for place in places]).sum(0)
        weights = torch.softmax(squares.sqrt(), 0)
        for place in places:
            combined[place] = weights @ rows[:, place]
    return combined
