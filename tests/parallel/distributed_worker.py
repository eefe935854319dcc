"""Run experiments from their records, in one of the processes that `test_distributed.py` starts."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

from fedsim import build
from fedsim.errors import Diverged
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate
from fedsim.federation.shared import publish, receive
from fedsim.parallel import processes as distributed
from fedsim.runs.checkpoints import encode_state


def canonical(state):
    """A state whose stores hold their clients in order, because the order in which they came is not recorded."""
    rows = state.store.state_dict()
    for name in [name for name in rows if name.endswith("/clients")]:
        order = rows[name].argsort()
        rows[name], block = rows[name][order], name.removesuffix("/clients")
        rows[f"{block}/rows"] = rows[f"{block}/rows"][order]
    fresh = type(state.store)(state.store.num_clients)
    fresh.load_state_dict(rows)
    return encode_state(replace(state, store=fresh))


def run(world, record):
    simulation = prepare(build.build(record, Experiment), held=receive(world) if world.rank else None, here=world)
    if world.rank == 0:
        publish(world, simulation.laid)
    assert (simulation.laid is not None) == (world.size > 1)
    state = initial_state(simulation)
    if simulation.laid is not None:
        state.store.share(simulation.laid.rows.room)
    world.added_up = world.gathered = 0
    metrics, evaluation, reason = [], None, ""
    try:
        for result in simulate(replace(simulation, world=world), state):
            metrics.append(result.metrics)
            evaluation = result.evaluation or evaluation
    except Diverged as error:
        reason = str(error)
    sent = {"added_up": world.added_up, "gathered": world.gathered}
    content = canonical(state).hex()
    assert evaluation is not None
    clients = [value for column in evaluation.clients.values() for value in column.tolist()]
    same = len(set(world.exchange(content))) == 1
    return {
        "metrics": metrics,
        "clients": clients,
        "reason": reason,
        "same": same,
        "parameters": len(state.row),
        **sent,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    world = distributed.join()
    import torch

    torch.set_num_threads(1)
    results = {name: run(world, record) for name, record in json.loads(Path("records.json").read_text()).items()}
    if world.rank == 0:
        Path("results.json").write_text(json.dumps(results))
    distributed.leave(0)
