"""fluke: its `CentralizedFL` with its own clients and server (FedAvg).

Tried with fluke-fl 0.8, torch 2.14.1 and torchvision 0.29.1.
"""

from __future__ import annotations

import sys

import torch
from fluke import FlukeENV
from fluke.algorithms import CentralizedFL
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.server import Server
from fluke.utils import FederationObserver
from torch import Tensor, nn

from bench.plain import Model, loss_of, mean_loss, tensors
from bench.workloads import Spec, Turns, Workload


class Loss(nn.Module):
    """The workload's loss as a module."""

    def __init__(self, w: Workload) -> None:
        super().__init__()
        self.w = w

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return loss_of(self.w, outputs, targets)


class Clock(FederationObserver):
    """Waits for its turn before each round."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def start_round(self, round: int, global_model: nn.Module) -> None:
        """Begin a round."""
        self.turns.begin()

    def end_round(self, round: int) -> None:
        """End the round."""
        self.turns.end()


def main(spec: Spec) -> None:
    """Run the rounds that the benchmark asks for."""
    w, turns = spec.workload, Turns()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    FlukeENV().set_seed(0)
    FlukeENV().set_device("cpu")
    inputs, targets = tensors(w)
    optimizer = OptimizerConfigurator({"name": {"sgd": "SGD", "adam": "Adam"}[w.optimizer], "lr": w.lr})
    clients = [
        Client(
            index=k,
            train_set=FastDataLoader(
                inputs[k],
                targets[k],
                num_labels=w.outputs,
                batch_size=w.batch_size,
                shuffle=True,
                skip_singleton=False,
            ),
            test_set=None,
            optimizer_cfg=optimizer,
            loss_fn=Loss(w),
            local_epochs=w.epochs,
            persistency=False,  # a fresh optimizer in every round, as in FedAvg
        )
        for k in range(w.clients)
    ]
    server = Server(model=Model(w), test_set=None, clients=clients, weighted=True)
    algorithm = CentralizedFL(w.clients, None, {}, clients=clients, server=server)
    algorithm.set_callbacks(Clock(turns))
    # fluke truncates clients * share; half a client more guards against rounding errors
    share = 1 if w.cohort == w.clients else (w.cohort + 0.5) / w.clients
    algorithm.run(spec.rounds, share)
    turns.finish(lambda: mean_loss(w, server.model, inputs, targets))


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
