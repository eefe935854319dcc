"""Two published results, reproduced with fedsim's components.

    python scripts/reproduce.py quadratics      # seconds
    python scripts/reproduce.py fedprox         # a minute or two

``quadratics``: Karimireddy et al. 2020 ("SCAFFOLD"), figure 3. Two clients with one parameter, ``f_1(x) = x^2 + G x``
and ``f_2(x) = -G x``, exact gradients, full participation: their mean ``x^2 / 2`` has its minimum 0 at 0, whatever the
gradient dissimilarity G. FedAvg's clients drift apart, so that it stalls further from the minimum the larger G and the
number K of local steps are; SCAFFOLD converges for every G, and faster with more local steps. (FedAvg and SCAFFOLD run
with the same step sizes, the global one 1; SGD is K = 1.)

``fedprox``: Li et al. 2020 ("FedProx"), section 5.2. On the heterogeneous data set synthetic(1,1) with 20 local epochs
FedAvg (mu = 0) is unstable, and a proximal term stabilises it. Theirs is a logistic regression; here it is a GRU on
`data=synthetic data.alpha=1 data.beta=1`, sequences labelled by a teacher that differs from client to client.
"""

from __future__ import annotations

import argparse
from statistics import mean, pstdev

import torch
from torch import Tensor

from fedsim.clients.report import Memory
from fedsim.clients.step import Step
from fedsim.config.compose import Request, check_request
from fedsim.core.part import Correction
from fedsim.corrections.none import NoCorrection
from fedsim.corrections.remembering import Remembering
from fedsim.corrections.scaffold import Scaffold
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate
from fedsim.models.blocks import Blocks
from fedsim.models.parameters import ParameterLayout

CURVATURE = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
"""Second derivatives ``[C, P]`` of the two clients' functions."""
LAYOUT = ParameterLayout.of([("head.weight", (1,))])


def quadratic(correction: Correction, dissimilarity: float, steps: int, lr: float, rounds: int) -> list[float]:
    """Run a correction on the two quadratics; return the distance to the minimum, ``|x|``, after each round."""
    slope = dissimilarity * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    x, distances, total = torch.ones(1, dtype=torch.float64), [], torch.tensor([steps, steps])
    own, mean = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def at(rows: Tensor) -> Tensor:
        return CURVATURE * rows + slope

    for _ in range(rounds):
        rows, memory = x.repeat(2, 1), Memory({"own": own}, {"mean": mean})
        for number in range(steps):
            gradient = at(rows)
            correction.correct(gradient, Step(rows, x, memory, number, total, LAYOUT, Blocks(1), at))
            rows -= lr * gradient
        deltas = rows - x
        if isinstance(correction, Remembering):
            own = correction.remember(own, mean, deltas, total, lr)
            mean = own.mean(0)
        x = x + deltas.mean(0)
        distances.append(float(x.abs()))
    return distances


def quadratics() -> None:
    """Print the table of figure 3."""
    lr, rounds = 0.1, 50
    print(f"\n|x| after {rounds} rounds, local step size {lr}; the minimum is at 0, the start at 1\n")
    print("| G | SGD | FedAvg, K=2 | FedAvg, K=10 | SCAFFOLD, K=2 | SCAFFOLD, K=10 |")
    print("|---:|---:|---:|---:|---:|---:|")
    for dissimilarity in (1, 10, 100):
        cases = [(NoCorrection(), 1), (NoCorrection(), 2), (NoCorrection(), 10), (Scaffold(), 2), (Scaffold(), 10)]
        ends = [quadratic(correction, dissimilarity, steps, lr, rounds)[-1] for correction, steps in cases]
        print(f"| {dissimilarity} | " + " | ".join(f"{end:.1e}" for end in ends) + " |")


def fedprox() -> None:
    """Print how the loss develops with and without the proximal term, over three seeds."""
    base = (
        *("data=synthetic", "data.alpha=1", "data.beta=1", "data.clients=30", "partition=natural", "rounds=40"),
        *("sampler.fraction=null", "sampler.cohort_size=10", "client.epochs=20", "client.batch_size=10"),
        *("model=gru", "model.hidden_size=32", "client.optimizer.lr=0.1", "device=cpu"),
    )
    print("\nmeans over three seeds, 40 rounds\n")
    torch.set_num_threads(1)  # ten small clients: a second thread would mostly wait
    print("| mu | final test loss | worst of the last 20 rounds | spread of the last 20 rounds | final test accuracy |")
    print("|---:|---:|---:|---:|---:|")
    for mu in (0.0, 0.01, 0.1, 1.0):
        finals, worst, spread, accuracy = [], [], [], []
        for seed in range(3):
            overrides = (*base, "aggregator=fedprox", f"aggregator.correction.mu={mu}", f"seed={seed}")
            simulation = prepare(check_request(Request(overrides))[0].experiment)
            results = [result.metrics for result in simulate(simulation, initial_state(simulation))]
            losses = [float(r["test_loss"] or 0) for r in results[-20:]]
            finals.append(losses[-1]), worst.append(max(losses)), spread.append(pstdev(losses))
            accuracy.append(float(results[-1]["test_accuracy"] or 0))
        row = (mean(finals), mean(worst), mean(spread), mean(accuracy))
        print(f"| {mu:g} | " + " | ".join(f"{value:.3f}" for value in row) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["quadratics", "fedprox"])
    {"quadratics": quadratics, "fedprox": fedprox}[parser.parse_args().which]()
