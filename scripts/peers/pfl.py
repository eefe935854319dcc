"""pfl-research (Apple): its `FederatedAveraging` in a `SimulatedBackend`. Tried with pfl 0.6 and torch 2.13.

pfl does not shuffle a client's samples, and it cycles through the clients instead of drawing them; neither costs time.
"""

from __future__ import annotations

import sys

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor

from bench.plain import Model, loss_of, mean_loss, tensors
from bench.workloads import Spec, Turns, Workload


class PflModel(Model):
    """The model with the two methods that pfl requires."""

    def __init__(self, w: Workload) -> None:
        super().__init__(w)
        self.w = w

    def loss(self, x: Tensor, y: Tensor, is_eval: bool = False) -> Tensor:
        """The mean loss of a batch."""
        return loss_of(self.w, self(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict:
        """No metrics; pfl always evaluates in its first round."""
        return {}


class Clock(TrainingProcessCallback):
    """Waits for its turn before each round."""

    def __init__(self, turns: Turns, rounds: int) -> None:
        self.turns, self.rounds = turns, rounds

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        """Begin the first round."""
        self.turns.begin()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """End this round and begin the next."""
        self.turns.end()
        if central_iteration + 1 < self.rounds:
            self.turns.begin()
        return False, Metrics()


def main(spec: Spec) -> None:
    """Run the rounds that the benchmark asks for."""
    w, turns = spec.workload, Turns()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    inputs, targets = tensors(w)
    users = [Dataset(raw_data=[inputs[k], targets[k]]) for k in range(w.clients)]
    sampler = get_user_sampler("minimize_reuse", list(range(w.clients)))
    backend = SimulatedBackend(FederatedDataset(users.__getitem__, sampler), None, [WeightByDatapoints()])
    network = PflModel(w)
    local = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[w.optimizer]
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=spec.rounds,
            evaluation_frequency=spec.rounds + 1,
            train_cohort_size=w.cohort,
            val_cohort_size=None,
        ),
        backend,
        PyTorchModel(network, local, torch.optim.SGD(network.parameters(), lr=1.0)),
        NNTrainHyperParams(local_num_epochs=w.epochs, local_learning_rate=w.lr, local_batch_size=w.batch_size),
        callbacks=[Clock(turns, spec.rounds)],
        send_metrics_to_platform=False,
    )
    turns.finish(lambda: mean_loss(w, network, inputs, targets))


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
