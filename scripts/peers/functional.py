"""torch.func: `vmap` over the gradient of one client's loss, so that all clients of a round train at once.

This is what PyTorch's own tutorial on model ensembles recommends. `vmap` cannot pass through `nn.GRU`, `nn.LSTM` and
`nn.RNN`, so the layers are written out here, with the product with the inputs taken out of the loop over time. It needs
nothing but PyTorch: ``--peer functional`` runs it in fedsim's environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from bench.plain import Model, Weights, loss_of, mean_loss, tensors
from bench.workloads import Spec, Turns, Workload

Gradient = Callable[[Weights, Tensor, Tensor], Weights]


class Layers(nn.RNNBase):
    """`nn.GRU`, `nn.LSTM` or `nn.RNN` with their parameters, from operations that `vmap` knows."""

    def __init__(self, w: Workload) -> None:
        mode = {"gru": "GRU", "lstm": "LSTM", "rnn": "RNN_TANH"}[w.cell]
        super().__init__(mode, w.embedding or w.features, w.hidden, w.layers, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Map ``[b, T, D]`` to the last layer's states ``[b, T, H]``."""
        cell = {"GRU": gru_step, "LSTM": lstm_step, "RNN_TANH": rnn_step}[self.mode]
        for weight_ih, weight_hh, bias_ih, bias_hh in self.all_weights:
            state = (x.new_zeros(len(x), self.hidden_size),) * 2
            states = []
            for gates in nn.functional.linear(x, weight_ih, bias_ih).unbind(1):
                state = cell(gates, torch.addmm(bias_hh, state[0], weight_hh.T), state)
                states.append(state[0])
            x = torch.stack(states, 1)
        return x, None


def gru_step(x: Tensor, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A step of a GRU; `x` and `u` are the input's and the state's shares of the gates."""
    (x_r, x_z, x_n), (u_r, u_z, u_n) = x.chunk(3, -1), u.chunk(3, -1)
    n = torch.tanh(x_n + torch.sigmoid(x_r + u_r) * u_n)
    return (torch.lerp(n, state[0], torch.sigmoid(x_z + u_z)),)


def lstm_step(x: Tensor, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A step of an LSTM."""
    i, f, g, o = (x + u).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def rnn_step(x: Tensor, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A step of a plain recurrent layer."""
    return (torch.tanh(x + u),)


def with_layers(w: Workload, layers: nn.Module) -> Model:
    """The model of all contenders with other recurrent layers, which start from the same weights."""
    model = Model(w)
    layers.load_state_dict(model.recurrent.state_dict())
    model.recurrent = layers
    return model


def train_cohort(w: Workload, model: nn.Module, gradient: Gradient, inputs: Tensor, targets: Tensor) -> Weights:
    """Train clients ``[C, samples, ...]`` from the same model; return their weights, stacked ``[C, ...]``."""
    count = len(inputs)
    rows, _ = stack_module_state([model] * count)
    kind = torch.optim.Adam if w.optimizer == "adam" else torch.optim.SGD
    optimizer = kind(rows.values(), lr=w.lr)  # it treats numbers one by one, so a stack of models is as good as a model
    clients = torch.arange(count)[:, None]
    for _ in range(w.epochs):
        for batch in torch.rand(count, w.samples).argsort(1).split(w.batch_size, 1):
            found = gradient(
                {name: row.detach() for name, row in rows.items()}, inputs[clients, batch], targets[clients, batch]
            )
            for name, row in rows.items():
                row.grad = found[name]
            optimizer.step()
    return {name: row.detach() for name, row in rows.items()}


def run(spec: Spec, model: Model) -> None:
    """Run the rounds that the benchmark asks for, with recurrent layers that `vmap` can pass through."""
    w, turns = spec.workload, Turns()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    inputs, targets = tensors(w)

    def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        return loss_of(w, functional_call(model, weights, (x,)), y)

    gradient = vmap(grad(loss))
    for _ in turns.rounds(spec.rounds):
        cohort = torch.randperm(w.clients)[: w.cohort]
        rows = train_cohort(w, model, gradient, inputs[cohort], targets[cohort])
        model.load_state_dict({name: row.mean(0) for name, row in rows.items()})  # clients have equally many samples
    turns.finish(lambda: mean_loss(w, model, inputs, targets))


if __name__ == "__main__":
    given = Spec.from_json(sys.argv[1])
    run(given, with_layers(given.workload, Layers(given.workload)))
