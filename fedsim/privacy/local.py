"""Local differential privacy: every client clips and adds noise before anything leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedsim import seeding
from fedsim.aggregation.fednova import FedNova
from fedsim.aggregation.geometric_median import GeometricMedian
from fedsim.aggregation.norm_clipped_mean import NormClippedMean
from fedsim.aggregation.qffl import QFFL
from fedsim.aggregation.rules import BLOCK
from fedsim.aggregation.weighted import Weighted
from fedsim.errors import UserError
from fedsim.privacy.budget import Budget, make_budget
from fedsim.privacy.privacy import Clipped
from fedsim.samplers.sampler import PowerOfChoice, WeightedBySize

if TYPE_CHECKING:
    from fedsim.federation.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class LocalDP(Clipped):
    """The Gaussian mechanism on each client: ``delta * min(1, S / |delta|) + N(0, (z S)^2)``.

    Whatever its data, a client's message hardly changes: neighbours are any two clients, whose deltas are at most 2S
    apart. The sampling of clients is not counted in its favour. ``epsilon`` is that of the client that took part in
    most rounds; `target_epsilon` is met by one that takes part in all of them.
    """

    def check(self, experiment: Experiment) -> None:
        """Nothing but the noisy delta may leave a client."""
        e, name = experiment, "privacy=local_dp"
        combine, correction = e.aggregator.combine, e.aggregator.correction
        if isinstance(combine, Weighted | GeometricMedian | NormClippedMean | FedNova | QFFL):
            raise UserError(
                f"{name}: aggregator/combine={type(combine).__name__.lower()} asks clients for more than a delta "
                "(their samples, steps or losses), which would leave them without noise; take aggregator/combine=mean"
            )
        if correction.remembers:
            raise UserError(
                f"{name}: aggregator/correction={type(correction).__name__.lower()} keeps or sends what the noise does "
                "not cover; take aggregator/correction=none or prox"
            )
        if isinstance(e.sampler, PowerOfChoice | WeightedBySize):
            raise UserError(
                f"{name}: sampler={type(e.sampler).__name__} asks clients for losses or sizes, which would leave them "
                "without noise; take sampler=uniform"
            )

    def budget(self, experiment: Experiment, num_clients: int) -> Budget:
        """Without the help of sampling."""
        return make_budget(self.noise_multiplier, self.target_epsilon, self.delta, experiment.rounds, None)

    def privatise(self, deltas: Tensor, clients: Tensor, key: int, budget: Budget) -> Tensor:
        """Clip and add noise, drawn by client and place."""
        place = torch.arange(deltas.shape[1], device=deltas.device)
        sent = []
        for block, part in zip(deltas.split(BLOCK), clients.to(deltas.device).split(BLOCK), strict=True):
            rows = block.double()
            clipped = rows * (self.clip_norm / rows.norm(dim=1, keepdim=True).clamp(min=self.clip_norm))
            noise = seeding.normals(key, part[:, None], place)
            sent.append((clipped + budget.noise_multiplier * self.clip_norm * noise).to(deltas.dtype))
        return torch.cat(sent)
