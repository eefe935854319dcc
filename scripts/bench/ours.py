"""fedsim on a workload, through its public API, and a comparison with the plain loop.

Run by `benchmark.py` as ``python -m bench.ours SPEC``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench import plain
from bench.workloads import Spec, Turns, Workload, first_model, make_data
from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.weighted import Weighted
from fedsim.clients import optimizers
from fedsim.clients.engine import StackedEngine
from fedsim.clients.settings import ClientConfig
from fedsim.core.state import State
from fedsim.corrections.none import NoCorrection
from fedsim.data.batches import batch_indices
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.evaluation.settings import Eval
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation, initial_state, prepare
from fedsim.federation.round import simulate
from fedsim.models import recurrent
from fedsim.models.macs import forward_macs
from fedsim.partition.natural import Natural
from fedsim.samplers.choose import choose_cohort
from fedsim.samplers.uniform import Uniform
from fedsim.server.optimizers import SGD


@dataclass(frozen=True)
class Random:
    """The data of a workload as a data source: natural clients, and one test sample, because there must be one."""

    workload: Workload

    def load(self, seed: int) -> Dataset:
        """Make the data, the same for every seed."""
        w = self.workload
        inputs, targets = (array.reshape(-1, *array.shape[2:]) for array in make_data(w))
        lengths = np.full(len(inputs), w.steps, np.int64)
        clients = np.repeat(np.arange(w.clients), w.samples)
        return Dataset(
            name="random",
            task=Task(w.task),
            train=Split(inputs, lengths, targets, clients),
            test=Split(inputs[:1], lengths[:1], targets[:1], clients[:1]),
            num_outputs=w.outputs,
            vocabulary_size=w.vocabulary or None,
            client_names=tuple(f"client {k}" for k in range(w.clients)),
        )


def experiment(spec: Spec) -> Experiment:
    """A workload as an experiment; it is evaluated before the first round, and after an extra one that is never run."""
    w = spec.workload
    model = {"gru": recurrent.GRU, "lstm": recurrent.LSTM, "rnn": recurrent.RNN}[w.cell]
    local = {"sgd": optimizers.SGD, "adam": optimizers.Adam}[w.optimizer]
    sizes = {"hidden_size": w.hidden, "num_layers": w.layers, "embedding_size": w.embedding or None}
    return Experiment(
        model=model(**sizes, head_projection=w.projection or None),
        data=Random(w),
        partition=Natural(),
        client=ClientConfig(optimizer=local(lr=w.lr), epochs=w.epochs, batch_size=w.batch_size),
        sampler=Uniform(fraction=None, cohort_size=w.cohort),
        aggregator=Aggregator(combine=Weighted(), server_optimizer=SGD(), correction=NoCorrection()),
        engine=StackedEngine(kernels=spec.kernels),
        eval=Eval(every=10**9),
        rounds=spec.rounds + 1,
        device=spec.device,
        threads=spec.threads,
    )


def start(spec: Spec) -> tuple[Simulation, State]:
    """Prepare, with the first model of all contenders."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    simulation = prepare(experiment(spec))
    state = initial_state(simulation)
    for name, view in simulation.task.arch.layout.views(state.row).items():
        view.copy_(torch.from_numpy(first_model(spec.workload)[name]))
    return simulation, state


def weights(simulation: Simulation, state: State) -> plain.Weights:
    """The global model as a state dict for the plain model."""
    return {name: view.clone() for name, view in simulation.task.arch.layout.views(state.row).items()}


def main(spec: Spec) -> None:
    """Run the rounds that the benchmark asks for."""
    turns = Turns()
    simulation, state = start(spec)
    results = simulate(simulation, state)
    next(results)  # round 0 is the untrained model's evaluation
    for _ in turns.rounds(spec.rounds):
        next(results)

    def loss() -> float:
        model = plain.Model(spec.workload).to(spec.device)
        model.load_state_dict(weights(simulation, state))
        return plain.mean_loss(spec.workload, model, *plain.tensors(spec.workload, spec.device))

    turns.finish(loss)


def compare_with_loop(spec: Spec) -> dict[str, float]:
    """Run fedsim, and the plain loop on the same cohorts and batch orders; return how far apart they are.

    Returns:
        ``loss``: the largest relative difference of a round's training loss; ``weights``: that of the final model,
        ``norm(fedsim - loop) / norm(change of the model)``; ``flops``: fedsim's own count, relative to the workload's.
    """
    w = spec.workload
    simulation, state = start(spec)
    samples = simulation.population.train
    data, model = plain.tensors(w, spec.device), plain.Model(w).to(spec.device)
    world = weights(simulation, state)
    first = state.row.double().cpu()
    worst = 0.0

    def order(round_number: int, client: int, epoch: int) -> Sequence[Tensor]:
        """The batches that fedsim uses, as sample numbers within the client."""
        clients = torch.tensor([client])
        plan = batch_indices(
            samples, clients, simulation.task.steps(clients), w.batch_size, simulation.task.batch_key(round_number)
        )
        batches = [index[0] - samples.offsets[client] for index, _ in plan]
        per_epoch = len(batches) // w.epochs
        return batches[epoch * per_epoch : (epoch + 1) * per_epoch]

    results = simulate(simulation, state)
    next(results)
    for round_number in range(1, spec.rounds + 1):
        ours = float(next(results).metrics["train_loss"] or 0.0)
        cohort = choose_cohort(simulation, state, round_number)[0]
        world, theirs = plain.run_round(w, model, world, data, cohort, round_number, order)
        worst = max(worst, abs(ours - theirs) / abs(theirs))
    row = torch.cat([value.reshape(-1) for value in world.values()]).double().cpu()
    apart = float((state.row.double().cpu() - row).norm() / (row - first).norm())
    return {
        "loss": worst,
        "weights": apart,
        "flops": 2 * forward_macs(simulation.task.arch, w.steps) / w.flops_per_sample,
    }


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
