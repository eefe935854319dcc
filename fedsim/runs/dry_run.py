"""``fedsim run --dry-run``: show what a run would do and cost, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text  # not plain strings, in which rich reads [brackets] as markup

from fedsim.clients.engine import client_bytes
from fedsim.data.describe import describe
from fedsim.devices.clock import sample_flops
from fedsim.errors import UserError, printable
from fedsim.evaluation.to_beat import describe_scores
from fedsim.federation.prepare import Simulation
from fedsim.machine import available_bytes
from fedsim.models.macs import macs_per_sequence, macs_per_step
from fedsim.parallel.processes import world
from fedsim.runs.estimate import Estimate, estimate, in_words
from fedsim.runs.saved_model import first_state

if TYPE_CHECKING:
    from torch import Tensor


def plan(simulation: Simulation) -> dict[str, str]:
    """Return what a run would do, text by label."""
    e, population, arch = simulation.experiment, simulation.population, simulation.task.arch
    sizes = population.train.sizes
    state = first_state(simulation)
    coming = simulation.schedule.next_cohort(simulation, state, 1)
    cohort = coming.clients
    steps = coming.steps if len(cohort) > 0 else torch.zeros(1, dtype=torch.int64)
    traffic = simulation.traffic(state, coming.informed, 1)
    down = int(traffic.down.sum()) + traffic.relayed_down
    up = len(cohort) * traffic.up + coming.late_bytes + traffic.relayed_up
    chunk = min(simulation.chunk_size, len(cohort))
    memory = chunk * client_bytes(simulation.task, e.torch_dtype())
    blocks = {
        block: sum(
            view.numel()
            for name, view in arch.layout.views(torch.empty(arch.layout.num_parameters)).items()
            if name.startswith(f"{block}.")
        )
        for block in arch.layout.blocks
    }
    return {
        "data": f"{type(e.data).__name__}, {population.task}",
        **describe(population),
        **({"data notes": "\n".join(population.notes)} if population.notes else {}),
        **{label: text for label, _, text in (line.partition(": ") for line in describe_scores(population))},
        "clients": f"{population.num_clients}, of which {len(cohort)} in round 1",
        "training samples": f"{len(population.train):,} (per client: min {int(sizes.min())}, "
        f"median {int(sizes.median())}, max {int(sizes.max())})",
        "test samples": f"{len(population.test):,}",
        "validation samples": "none" if population.validation is None else f"{len(population.validation):,}",
        **({} if (own := population.local_validation) is None else {"local validation samples": f"{len(own):,}"}),
        **({} if (new := population.unseen) is None else {"unseen clients": f"{new.num_clients:,}"}),
        "model": f"{type(e.model).__name__}, hidden_size={arch.hidden_size}"
        + ("" if e.model.parameters is None else f", the nearest to model.parameters={e.model.parameters}"),
        "parameters": f"{arch.layout.num_parameters:,} ("
        + ", ".join(f"{block} {count:,}" for block, count in blocks.items())
        + ")",
        "rounds": f"{e.rounds}, evaluated every {e.eval.every}"
        + ("" if e.eval.last is None else f", and each of the last {e.eval.last}"),
        "client optimizer": f"{type(e.client.optimizer).__name__}, lr={e.client.optimizer.lr:g}"
        + ("" if e.client.clip_norm is None else f", clip_norm={e.client.clip_norm:g}"),
        "local steps in round 1": f"min {int(steps.min())}, max {int(steps.max())}, all {int(steps.sum()):,}",
        **_work(simulation, cohort, steps),
        "bytes in round 1": f"{down:,} down, {up:,} up",
        **{label: text for part in simulation.parts for label, text in part.plan(simulation, state, coming).items()},
        **({"notes": "\n".join(simulation.advice)} if simulation.advice else {}),
        "engine": e.engine.describe(e.torch_device(), e.torch_dtype(), e.model),
        "memory": f"about {memory / 2**20:,.1f} MiB for {chunk} clients at a time",
    }


def _work(simulation: Simulation, cohort: Tensor, steps: Tensor) -> dict[str, str]:
    """Multiply-accumulates of the model, and of the local training of a cohort ``[C]`` in `steps` ``[C]`` steps."""
    task = simulation.task
    samples = task.population.train
    mean = float(samples.lengths.double().mean())
    forward = mean * macs_per_step(task.arch) + macs_per_sequence(task.arch)
    trained = _macs(simulation, cohort, steps)
    return {
        "multiply-accumulates": f"{macs_per_step(task.arch):,} per time step, {forward:,.0f} per sequence of mean "
        f"length {mean:.4g}; {trained:,.0f} in round 1, forward and backward",
    }


def _macs(simulation: Simulation, cohort: Tensor, steps: Tensor) -> float:
    """Multiply-accumulates of the local training of a cohort ``[C]`` in `steps` ``[C]`` steps, forward and backward."""
    if len(cohort) == 0:
        return 0.0
    task = simulation.task
    per_sample = sample_flops(task, simulation.bound.gradients)[cohort] / 2  # a multiplication, an addition
    return float((task.samples(cohort, steps) * per_sample).sum())


def round_macs(simulation: Simulation) -> float:
    """Multiply-accumulates of the first round's local training, forward and backward."""
    cohort = simulation.schedule.next_cohort(simulation, first_state(simulation), 1)
    return _macs(simulation, cohort.clients, cohort.steps)


def training_bytes(simulation: Simulation) -> int:
    """Bytes that the clients take that a process trains at a time."""
    chunk = min(simulation.chunk_size, -(-simulation.population.num_clients // world().size))
    return chunk * client_bytes(simulation.task, simulation.experiment.torch_dtype())


def refuse_impossible(simulation: Simulation) -> None:
    """Raise `UserError` if a chunk of clients needs more memory than the machine has in total.

    Processes that share a machine's memory train one chunk each.
    """
    device = simulation.experiment.torch_device()
    there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else available_bytes()
    model, parameters = simulation.experiment.model, simulation.task.arch.layout.num_parameters
    sized = "hidden_size" if model.parameters is None else "parameters"
    together = 1 if device.type == "cuda" else world().local_size
    needed = together * training_bytes(simulation)
    many = "" if together == 1 else f", {together} processes"
    if needed > there:
        raise UserError(
            f"model.{sized}={getattr(model, sized)}: training would take about "
            f"{needed / 2**30:,.1f} GiB ({parameters:,} parameters{many}) and {device} has {there / 2**30:,.1f} GiB; "
            "take a smaller model, a smaller client.batch_size or a smaller engine.memory_budget"
        )


def show(simulation: Simulation, overrides: Sequence[str]) -> Estimate:
    """Print the plan as a table, headed by the overrides of the command line; return what the run will take."""
    found = estimate(simulation, round_macs(simulation))
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for label, text in (plan(simulation) | in_words(found, simulation.experiment.rounds)).items():
        table.add_row(Text(label), Text(printable(text)))
    console = Console(highlight=False, emoji=False)
    console.print(
        Text("plan", style="bold") + Text(printable(" " + " ".join(overrides)), style="not bold"), soft_wrap=True
    )
    console.print(table)
    console.print("nothing was written")
    return found
