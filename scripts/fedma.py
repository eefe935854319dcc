"""Would it help to match the units of recurrent nets before they are averaged? A study of FedMA on fedsim's engine.

    python scripts/fedma.py                                # synthetic data, two minutes on one core
    python scripts/fedma.py data=text partition=natural model=lstm num_clients=20 --epochs 2 --rounds 4 --seeds 1

Arguments with `=` are overrides of every run. A net computes the same if its hidden units change places, together with
all weights that belong to them. Clients that began with different models therefore learn the same things in different
places, and the mean of their models is none of them. Wang et al. 2020, "Federated Learning with Matched Averaging",
match units first: of each client the permutation that brings its units nearest to those of the common model (their
equation 2), where an LSTM's hidden-to-hidden weights change places on both sides (section 2.2). Here the common model
keeps its size, so that the matching is an assignment problem (Hungarian method) and the common model the mean of what
is matched, in turn until nothing moves; their Bayesian cost, by which it may also grow, is left out, and so is the
training layer by layer. The numbers of an embedding keep their places.

Two questions: what a single mean is worth, after local training from one model or from a model for each client; and
what matching does in every round of a federation, where all clients begin with the same model anyhow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedsim.client_store import ClientStore
from fedsim.config.compose import Request, check_request, normalise
from fedsim.errors import UserError, print_error
from fedsim.federation.prepare import Simulation, prepare
from fedsim.models.recurrent import Architecture, initial_row

DEFAULTS = ("data=synthetic", "data.samples_per_client=200", "num_clients=10", "partition=iid", "model=lstm")
BASE = ("aggregator=fedavg", "device=cpu", "threads=1", "sampler.fraction=1")
MOST_SWEEPS = 20


def units(arch: Architecture, row: Tensor, layer: int, order: Tensor) -> Tensor:
    """What belongs to each unit of a layer, ``[H, n]``: weights in, out and from the other units in the given order."""
    h, views = arch.hidden_size, arch.layout.views(row)
    own = [view.view(-1, h, *view.shape[1:]) for view in incoming(views, layer)]
    recurrent = views[f"recurrent.weight_hh_l{layer}"].view(-1, h, h)
    parts = [*own, recurrent[:, :, order], recurrent[:, order].transpose(1, 2)]
    return torch.cat(
        [*(part.transpose(0, 1).reshape(h, -1) for part in parts), *(w.T for w in outgoing(views, layer))], 1
    )


def incoming(views: dict[str, Tensor], layer: int) -> list[Tensor]:
    """Input weights ``[G H, D]`` and biases ``[G H]`` of a layer."""
    return [views[name] for name in views if name.endswith(f"_l{layer}") and "weight_hh" not in name]


def outgoing(views: dict[str, Tensor], layer: int) -> list[Tensor]:
    """What is multiplied with the states of a layer, ``[n, H]``."""
    return [views.get(f"recurrent.weight_ih_l{layer + 1}", views["head.weight"])]


def reordered(arch: Architecture, row: Tensor, orders: Sequence[Tensor]) -> Tensor:
    """The same function with the units of each layer in another order, ``[P]``."""
    row, h = row.clone(), arch.hidden_size
    views = arch.layout.views(row)
    for layer, order in enumerate(orders):
        for view in (*incoming(views, layer), views[f"recurrent.weight_hh_l{layer}"]):
            view.copy_(view.view(-1, h, *view.shape[1:])[:, order].reshape(view.shape))
        for view in (views[f"recurrent.weight_hh_l{layer}"], *outgoing(views, layer)):
            view.copy_(view[:, order])
    return row


def matched(arch: Architecture, rows: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """The mean ``[P]`` of rows ``[c, P]`` after their units are matched, and the share of units that changed places."""
    layers, same = arch.model.num_layers, torch.arange(arch.hidden_size)
    orders = [[same] * layers for _ in rows]
    aligned = rows.clone()
    common = rows[int(weights.argmax())].clone()  # the client with most samples; the others follow
    for _ in range(MOST_SWEEPS):
        moved = False
        for k, row in enumerate(rows):
            for layer in range(layers):
                others = [same if other == layer else order for other, order in enumerate(orders[k])]
                mine = units(arch, reordered(arch, row, others), layer, orders[k][layer])
                cost = torch.cdist(units(arch, common, layer, same), mine).square()
                order = torch.from_numpy(linear_sum_assignment(cost.numpy())[1])
                moved |= not torch.equal(order, orders[k][layer])
                orders[k][layer] = order
            aligned[k] = reordered(arch, row, orders[k])
        common = weights @ aligned
        if not moved:
            break
    changed = [float((order != same).double().mean()) for each in orders for order in each]
    return common, fmean(changed)


def accuracy(sim: Simulation, row: Tensor) -> float:
    """Test accuracy of a model ``[P]``, in percent."""
    sums = sim.trainer.score_samples(row.to(sim.experiment.torch_dtype()), sim.population.test)
    return 100 * float(sums.hits.sum() / sums.count.sum())


def trained(sim: Simulation, starts: Tensor, round_number: int) -> Tensor:
    """The clients' models ``[N, P]`` float64 after local training from `starts` ``[P]`` or ``[N, P]``."""
    clients = torch.arange(sim.population.num_clients)
    deltas, _ = sim.trainer.train(starts, clients, round_number, ClientStore(len(clients)))
    return (starts + deltas).double()


def shares(sim: Simulation) -> Tensor:
    """``[N]``, the clients' shares of all samples."""
    sizes = sim.population.train.sizes.double()
    return sizes / sizes.sum()


def once(sim: Simulation, seed: int) -> list[tuple[str, list[float]]]:
    """One mean: mean accuracy of the clients' models, of their mean and of the matched mean, and units that moved."""
    arch, clients = sim.task.arch, sim.population.num_clients
    common = initial_row(arch, seed, sim.experiment.torch_dtype())
    own = torch.stack([initial_row(arch, 1000 * (k + 1) + seed, sim.experiment.torch_dtype()) for k in range(clients)])
    found = []
    for name, start in (("one model", common), ("a model each", own)):
        rows = trained(sim, start, 1)
        mean, changed = matched(arch, rows, shares(sim))
        alone = fmean(accuracy(sim, row) for row in rows)
        found.append((name, [alone, accuracy(sim, shares(sim) @ rows), accuracy(sim, mean), 100 * changed]))
    return found


def rounds(sim: Simulation, seed: int, number: int) -> list[tuple[str, list[float]]]:
    """A federation with either mean: accuracy after the last round, and units that moved in all rounds together."""

    def plain(rows: Tensor) -> tuple[Tensor, float]:
        return shares(sim) @ rows, 0.0

    def by_matching(rows: Tensor) -> tuple[Tensor, float]:
        return matched(sim.task.arch, rows, shares(sim))

    found = []
    ways: tuple[tuple[str, Callable[[Tensor], tuple[Tensor, float]]], ...] = ("FedAvg", plain), ("matched", by_matching)
    for name, combine in ways:
        row, changed = initial_row(sim.task.arch, seed, sim.experiment.torch_dtype()), 0.0
        for round_number in range(1, number + 1):
            mean, share = combine(trained(sim, row, round_number))
            row, changed = mean.to(sim.experiment.torch_dtype()), changed + share
        found.append((name, [accuracy(sim, row), 100 * changed / number]))
    return found


def table(head: str, columns: Sequence[str], seeds: Sequence[list[tuple[str, list[float]]]]) -> None:
    """Print means over seeds, lowest and highest behind them."""
    print(f"| {head} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for line in zip(*seeds, strict=True):
        cells = [
            f"{fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            for values in zip(*(values for _, values in line), strict=True)
        ]
        print(f"| {line[0][0]} | {' | '.join(cells)} |")
    print()


def main() -> None:
    """Parse arguments, train, and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("overrides", nargs="*", help="such as data=text; of every run")
    parser.add_argument("--epochs", type=int, default=10, help="local epochs before the one mean")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the federation, of two epochs each")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    args = parser.parse_intermixed_args()
    alone: list[list[tuple[str, list[float]]]] = []
    together: list[list[tuple[str, list[float]]]] = []
    for seed in range(args.seeds):
        texts = (*(DEFAULTS if not args.overrides else ()), *BASE, *args.overrides, f"seed={seed}")
        experiment = check_request(normalise(Request(texts)))[0].experiment
        for epochs, found in ((args.epochs, alone), (2, together)):
            sim = prepare(replace(experiment, client=replace(experiment.client, epochs=epochs, steps=None)))
            found.append(once(sim, seed) if found is alone else rounds(sim, seed, args.rounds))
    print(f"Test accuracy in percent, {args.seeds} seeds, lowest and highest in brackets.\n")
    columns = "clients' own models", "their mean", "matched mean", "units that changed places, %"
    table(f"{args.epochs} local epochs from", columns, alone)
    table(f"{args.rounds} rounds", ("global model", "units that changed places, %"), together)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print_error(str(error))
        raise SystemExit(2) from None
