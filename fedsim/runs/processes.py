"""A recorded run on several processes: rank 0 leads, and all other ranks share its work.

Only rank 0 reads the command line and the configs, checks them and writes files. The other ranks receive from it the
record of the run and the state in which it begins, follow it from round to round, and exit with its exit code.
"""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from fedsim import build
from fedsim.core.results import RoundResult
from fedsim.core.state import State
from fedsim.data.fitted import read_fitted
from fedsim.errors import Diverged, ProcessLost, UserError, print_error
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation, prepare
from fedsim.federation.round import simulate
from fedsim.federation.shared import publish, receive
from fedsim.interrupts import Asked, after_the_round
from fedsim.parallel.processes import World, join, world
from fedsim.runs.checkpoints import decode_state, encode_state
from fedsim.runs.digests import data_hash, devices_hash
from fedsim.runs.record import parse_record


def lead(simulation: Simulation, state: State, directory: Path) -> Simulation:
    """Send the run to the other processes, if there are any; they begin at once, so the caller must begin too.

    Args:
        simulation: the simulation as prepared by this process.
        state: the state in which the run begins.
        directory: the run's directory, with its ``config.yaml``.

    Returns:
        the simulation, with its work shared among the processes.

    Raises:
        UserError: if there are more processes on the machine than GPUs.
    """
    here = world()
    if here.size == 1:
        return simulation
    _check_devices(here, simulation.experiment)
    record = (directory / "config.yaml").read_text(encoding="utf-8")
    publish(here, simulation.laid)
    word = {"record": record, "directory": str(directory), "data": data_hash(simulation.population)}
    word |= {"devices": devices_hash(simulation) or "", "prepared": json.dumps(simulation.population.fitted.record())}
    here.send(json.dumps(word).encode())
    here.send(encode_state(state))
    here.busy = True
    if simulation.laid is not None:
        state.store.share(simulation.laid.rows.room)
    return replace(simulation, world=here)


def in_step(simulation: Simulation, state: State, asked: Asked) -> Iterator[RoundResult]:
    """Run `simulate` on all processes, until the end or until one of them is asked to stop after the round."""
    here = simulation.world
    try:
        for result in simulate(simulation, state):
            yield result
            if (number := here.agree(state.row, asked.numbers)) and not simulation.is_over(state):
                asked.numbers = asked.numbers or [number]
                break
    except Diverged:  # every process either notices this or is informed of it
        here.busy = False
        raise
    here.busy = False


def meet(allow_modules: Sequence[str]) -> None:
    """Join the other processes that torchrun started, if any; returns only on rank 0, which runs the command.

    Raises:
        UserError: if another process was given another command, which rank 0 would not follow.
        ConnectionError: if another process has ended.
        SystemExit: on all other ranks, once they have done what rank 0 asked for.
    """
    here = join()
    try:
        commands = here.exchange(sys.argv[1:])
    except ProcessLost as error:
        raise ConnectionError(str(error)) from None
    if here.rank == 0:
        _same_command(commands)
    else:
        raise SystemExit(follow(here, allow_modules))


def _same_command(commands: Sequence[Sequence[str]]) -> None:
    own = commands[0]
    for rank, other in enumerate(commands):
        if other == own:
            continue
        given = shlex.join(word for word in other if word not in own) or "fewer words"
        missing = shlex.join(word for word in own if word not in other)
        raise UserError(
            f"process {rank} was given {given}{f' and not {missing}' if missing else ''}; all processes need the "
            "command of process 0, the only one that counts"
        )


def follow(here: World, allow_modules: Sequence[str]) -> int:
    """Do what the leader asks for, without output; returns the exit code.

    Args:
        here: the processes.
        allow_modules: modules other than fedsim whose dataclasses the record may name.
    """
    hint = ""
    with after_the_round(lambda text: None) as asked:  # to the very end: when one process dies, torchrun kills the rest
        try:
            word = json.loads(here.receive())
            if "record" in word:
                hint = f"; to go on: fedsim resume {word['directory']}"
                _follow(here, word, allow_modules, asked)
                word = json.loads(here.receive())
            return int(word["code"])
        except KeyboardInterrupt as error:
            return 128 + int(getattr(error, "number", 2))
        except Exception as error:
            if here.is_first_to_tell():
                if not isinstance(error, UserError | OSError | ProcessLost):
                    traceback.print_exc()
                print_error(f"{error}{hint}")
            return 1


def _follow(here: World, word: dict[str, str], allow_modules: Sequence[str], asked: Asked) -> None:
    experiment = build.build(parse_record(word["record"], Path("config.yaml")), Experiment, allowed=allow_modules)
    assert isinstance(experiment, Experiment)
    _check_devices(here, experiment)
    content = here.receive()
    torch.set_num_threads(experiment.threads or torch.get_num_threads())
    simulation = _prepared(here, experiment, word, allow_modules)
    state = decode_state(content, experiment.torch_device())
    if simulation.laid is not None:
        state.store.share(simulation.laid.rows.room)
    with suppress(Diverged):  # the leader reports it
        for _ in in_step(replace(simulation, world=here), state, asked):
            pass


def _prepared(here: World, experiment: Experiment, word: dict[str, str], allow_modules: Sequence[str]) -> Simulation:
    """Prepare the run as process 0 has done, with the data that the first process of this machine has loaded."""
    held, laid = receive(here, allow_modules) if here.local_rank > 0 else None, None
    try:
        fitted = read_fitted(json.loads(word["prepared"]), "process 0")
        simulation = prepare(experiment, fitted, held=held, here=here)
        its = data_hash(simulation.population) if held is None else word["data"]
        if (its, devices_hash(simulation) or "") != (word["data"], word["devices"]):
            raise UserError(
                f"process {here.rank} has other samples or devices than process 0; all must find the same files"
            )
        laid = simulation.laid
    finally:
        if here.local_rank == 0:
            publish(here, laid)  # after a failure, too, for the others wait for it
    return simulation


def _check_devices(here: World, experiment: Experiment) -> None:
    if experiment.torch_device().type == "cuda" and here.local_size > torch.cuda.device_count():
        raise UserError(
            f"--nproc-per-node={here.local_size}: this machine has {torch.cuda.device_count()} CUDA devices, and each "
            "process needs one of its own; take fewer processes, or device=cpu"
        )
