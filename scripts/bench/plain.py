"""The plain PyTorch loop that one would write without a simulator: one client after another.

It is the yardstick of the benchmark, so it wastes nothing: tensors instead of a `DataLoader`, one module for all
clients, one optimizer per client and round. Run by `benchmark.py` as ``python -m bench.plain SPEC``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from bench.workloads import Spec, Turns, Workload, first_model, make_data

Weights = dict[str, Tensor]
Data = tuple[Tensor, Tensor]
Order = Callable[[int, int, int], Sequence[Tensor]]
"""``order(round, client, epoch)``: the batches, as sample numbers."""


class Model(nn.Module):
    """Embedding (for tokens), recurrent layers and a linear head, with PyTorch's own modules."""

    def __init__(self, w: Workload) -> None:
        super().__init__()
        self.every_step = w.task == "sequence_labelling"
        self.embedding = nn.Embedding(w.vocabulary, w.embedding) if w.vocabulary else None
        kind = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[w.cell]
        self.recurrent = kind(w.embedding or w.features, w.hidden, w.layers, batch_first=True)
        self.projection = nn.Linear(w.hidden, w.projection) if w.projection else nn.Identity()
        self.head = nn.Linear(w.projection or w.hidden, w.outputs)
        self.load_state_dict({name: torch.from_numpy(value) for name, value in first_model(w).items()})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, T, D]`` or ``[b, T]`` to outputs ``[b, K]``, or ``[b, T, K]`` for a label at every step."""
        states, _ = self.recurrent(x if self.embedding is None else self.embedding(x))
        outputs: Tensor = self.head(self.projection(states if self.every_step else states[:, -1]))
        return outputs


def loss_of(w: Workload, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error or mean cross-entropy of a batch."""
    if w.task == "regression":
        return nn.functional.mse_loss(outputs, targets)
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@lru_cache(maxsize=1)
def tensors(w: Workload, device: str = "cpu") -> Data:
    """Inputs and targets of all clients, made once."""
    inputs, targets = make_data(w)
    return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)


def mean_loss(w: Workload, model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """The mean loss over every sample of every client, with no more memory than training takes.

    Losses and means are in double precision: two rounds of W3 change the loss by few of float32's digits.
    """
    exact = targets.double() if w.task == "regression" else targets
    model.eval()
    with torch.no_grad():
        losses = [loss_of(w, model(x).double(), y) for x, y in zip(inputs, exact, strict=True)]
    model.train()
    return float(torch.stack(losses).mean())


def shuffled(w: Workload) -> Order:
    """A fresh random order every epoch."""
    return lambda round_number, client, epoch: torch.randperm(w.samples).split(w.batch_size)


def train_client(w: Workload, model: nn.Module, x: Tensor, y: Tensor, epochs: Sequence[Sequence[Tensor]]) -> Tensor:
    """Train on one client's samples; return the mean of the minibatch losses, weighted by their samples."""
    kind = torch.optim.Adam if w.optimizer == "adam" else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=w.lr)
    total = torch.zeros((), device=x.device)
    for batches in epochs:
        for batch in batches:
            optimizer.zero_grad()
            loss = loss_of(w, model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
    return total / (w.epochs * w.samples)


def run_round(
    w: Workload, model: nn.Module, world: Weights, data: Data, cohort: Tensor, round_number: int, order: Order
) -> tuple[Weights, float]:
    """Run one round of FedAvg from the global weights `world`; return the new ones and the mean training loss."""
    inputs, targets = data
    updated = {name: torch.zeros_like(value) for name, value in world.items()}
    losses = []
    for client in cohort.tolist():
        model.load_state_dict(world)
        epochs = [order(round_number, client, epoch) for epoch in range(w.epochs)]
        losses.append(train_client(w, model, inputs[client], targets[client], epochs))
        for name, value in model.state_dict().items():
            updated[name] += value / len(cohort)  # all clients have the same number of samples
    return updated, float(torch.stack(losses).mean())


def main(spec: Spec) -> None:
    """Run the rounds that the benchmark asks for."""
    w, turns = spec.workload, Turns()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    data = tensors(w, spec.device)
    model = Model(w).to(spec.device)
    world = {name: value.clone() for name, value in model.state_dict().items()}
    for round_number in turns.rounds(spec.rounds):
        cohort = torch.randperm(w.clients)[: w.cohort]
        world, _ = run_round(w, model, world, data, cohort, round_number, shuffled(w))
    model.load_state_dict(world)
    turns.finish(lambda: mean_loss(w, model, *data))


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
