"""``fedsim run --dry-run``: what a run would do and cost, before it does."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text  # not plain strings, in which rich reads [brackets] as markup
from torch import Tensor

from fedsim.asynchrony.queue import describe_schedule, scheduled
from fedsim.clients.engine import client_bytes
from fedsim.devices.clock import sample_flops
from fedsim.devices.system import Timed
from fedsim.errors import UserError
from fedsim.federation.arrivals import Arrivals, client_seconds, describe_clock, trainings
from fedsim.federation.exchange import bytes_per_client, download_sizes
from fedsim.federation.simulation import initial_state
from fedsim.federation.state import Simulation, State
from fedsim.models.macs import macs_per_sequence, macs_per_step
from fedsim.parallel.processes import world


def plan(simulation: Simulation) -> dict[str, str]:
    """What a run would do, as label and text."""
    e, population, arch = simulation.experiment, simulation.population, simulation.task.arch
    sizes = population.train.sizes
    state = initial_state(simulation)
    coming = scheduled(simulation, state, 1)
    cohort = coming.clients
    steps = simulation.task.steps(cohort) if coming.steps is None else coming.steps
    steps = steps if len(cohort) > 0 else torch.zeros(1, dtype=torch.int64)
    down = int(download_sizes(simulation, state, coming.informed, 1).sum())
    up = len(cohort) * bytes_per_client(simulation, len(coming.informed))[1] + coming.late_bytes
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
        "clients": f"{population.num_clients}, of which {len(cohort)} in round 1",
        "training samples": f"{len(population.train):,} (per client: min {int(sizes.min())}, "
        f"median {int(sizes.median())}, max {int(sizes.max())})",
        "test samples": f"{len(population.test):,}",
        "validation samples": "none" if population.validation is None else f"{len(population.validation):,}",
        "model": f"{type(e.model).__name__}, hidden_size={arch.hidden_size}"
        + ("" if e.model.parameters is None else f", the nearest to model.parameters={e.model.parameters}"),
        "parameters": f"{arch.layout.num_parameters:,} ("
        + ", ".join(f"{block} {count:,}" for block, count in blocks.items())
        + ")",
        "rounds": f"{e.rounds}, evaluated every {e.eval.every}",
        "local steps in round 1": f"min {int(steps.min())}, max {int(steps.max())}, all {int(steps.sum()):,}",
        **_work(simulation, cohort, steps),
        "bytes in round 1": f"{down:,} down, {up:,} up",
        **_times(simulation, state, coming),
        **describe_schedule(simulation),
        "engine": e.engine.describe(e.torch_device(), e.torch_dtype(), e.model.cell),
        "memory": f"about {memory / 2**20:,.1f} MiB for {chunk} clients at a time",
    }


def _work(simulation: Simulation, cohort: Tensor, steps: Tensor) -> dict[str, str]:
    """Multiply-accumulates of the model, and of the local training of a cohort ``[C]`` in `steps` ``[C]``."""
    task = simulation.task
    samples = task.population.train
    mean = float(samples.lengths.double().mean())
    forward = mean * macs_per_step(task.arch) + macs_per_sequence(task.arch)
    trained = 0.0
    if len(cohort) > 0:
        per_sample = sample_flops(task, trainings(simulation.experiment))[cohort] / 2  # a multiplication, an addition
        trained = float((task.samples(cohort, steps) * per_sample).sum())
    return {
        "multiply-accumulates": f"{macs_per_step(task.arch):,} per time step, {forward:,.0f} per sequence of mean "
        f"length {mean:.4g}; {trained:,.0f} in round 1, forward and backward",
    }


def _times(simulation: Simulation, state: State, coming: Arrivals) -> dict[str, str]:
    """How long clients and round 1 take on the virtual clock, if there is one."""
    if (clock := simulation.clock) is None:
        return {}
    clients, fleet, system = clock.fitting, clock.fleet, simulation.experiment.system
    speed, down, up = (float(column.median()) for column in (fleet.gflops, fleet.down_mbps, fleet.up_mbps))
    origin = system.origin if isinstance(system, Timed) else ""
    seconds = client_seconds(simulation, state, clients, simulation.task.steps(clients), 1)
    low, median, high, top = torch.quantile(seconds, torch.tensor([0, 0.5, 0.9, 1], dtype=torch.float64)).tolist()
    left = describe_clock(simulation)
    arrive = f"; {len(coming.clients)} of {len(coming.clients) + coming.dropped} asked arrive"
    return {
        "devices": f"{origin}; medians {speed:.3g} Gflop/s, {down:.3g} Mbit/s down, {up:.3g} Mbit/s up",
        "seconds of a client": f"min {low:.4g}, median {median:.4g}, 90% within {high:.4g}, max {top:.4g} (virtual)",
        "seconds of round 1": f"{coming.seconds:.4g} (virtual)" + ("" if coming.versions is not None else arrive),
        **({"left out": left[0]} if left else {}),
    }


def refuse_impossible(simulation: Simulation) -> None:
    """Raise `UserError` if a chunk of clients, at least one, needs more memory than the machine has in all.

    Processes that share a machine's memory train a chunk each.
    """
    device, dtype = simulation.experiment.torch_device(), simulation.experiment.torch_dtype()
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        return
    model, parameters = simulation.experiment.model, simulation.task.arch.layout.num_parameters
    sized = "hidden_size" if model.parameters is None else "parameters"
    here, clients = world(), simulation.population.num_clients
    together = 1 if device.type == "cuda" else here.local_size
    chunk = min(simulation.chunk_size, -(-clients // here.size))
    needed = together * chunk * client_bytes(simulation.task, dtype)
    many = "" if together == 1 else f", {together} processes"
    if needed > there:
        raise UserError(
            f"model.{sized}={getattr(model, sized)}: training would take about "
            f"{needed / 2**30:,.1f} GiB ({parameters:,} parameters{many}) and {device} has {there / 2**30:,.1f} GiB; "
            "take a smaller model, a smaller client.batch_size or a smaller engine.memory_budget"
        )


def show(simulation: Simulation, overrides: Sequence[str]) -> None:
    """Print the plan as a table."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for label, text in plan(simulation).items():
        table.add_row(Text(label), Text(text))
    console = Console(highlight=False, emoji=False)
    console.print(Text("plan", style="bold") + Text(" " + " ".join(overrides), style="not bold"), soft_wrap=True)
    console.print(table)
    console.print("nothing was trained")
