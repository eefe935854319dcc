"""Whether a run can continue from a checkpoint with the current settings, data and versions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedsim import build
from fedsim.asynchrony.queue import is_whole
from fedsim.asynchrony.schedule import Asynchronous
from fedsim.core.part import Part
from fedsim.core.state import State
from fedsim.corrections.remembering import OWN
from fedsim.errors import UserError, print_error, printable, show
from fedsim.federation.experiment import Experiment
from fedsim.federation.prepare import Simulation, initial_state
from fedsim.links.link import ERROR, SEEN
from fedsim.models.blocks import PRIVATE
from fedsim.parallel.processes import world
from fedsim.personalization.ditto import KEPT
from fedsim.privacy.participations import PARTICIPATIONS
from fedsim.recording.moved import moved
from fedsim.runs.digests import data_hash
from fedsim.runs.facts import versions
from fedsim.runs.record import differences, in_place, plain_record

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # messages for users are printed as well

SAME_KIND = ("schedule", "personalize")
"""Parts that must not change their kind even if they have kept nothing yet: the CSV's rows depend on it."""


def changes(recorded: Experiment, wanted: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two experiments differ, with both values."""
    return differences(build.record_of(recorded), build.record_of(wanted))


def check_rounds(recorded: Experiment, wanted: Experiment) -> None:
    """Raise `UserError` for another round limit if a part depends on it."""
    bound = dict.fromkeys([*recorded.bound_to_rounds(), *wanted.bound_to_rounds()])
    if recorded.rounds != wanted.rounds and bound:
        raise UserError(
            f"rounds={wanted.rounds}: {', '.join(bound)} depends on the round limit, so that the rounds done with "
            f"rounds={recorded.rounds} are not those of such a run; fedsim run starts a new one"
        )


def check_record(facts: Mapping[str, Any], recorded: Experiment, directory: Path) -> None:
    """Raise `UserError` if ``config.yaml`` no longer says what the rounds so far were run with; it names the keys.

    Keys that may change within a run (`fedsim.runs.record.IN_PLACE`) may also be edited in the file. Checkpoints of
    earlier versions do not hold the record.
    """
    before = facts.get("record")
    if not isinstance(before, dict):
        return
    found = differences(moved(before), plain_record(recorded))
    known = {key: pair for key, pair in found.items() if _holds(before, key)}
    edited = {key: pair for key, pair in known.items() if not in_place(key)}
    if edited:
        keys = ", ".join(f"{key} is {_word(new)}, and was {_word(old)}" for key, (old, new) in edited.items())
        raise UserError(
            f"{directory / 'config.yaml'}: has changed since the rounds so far were run: {keys}; put that back (to go "
            f"on with another value, fork the run then: fedsim resume {directory} KEY=VALUE)"
        )


def _holds(record: Mapping[str, Any], key: str) -> bool:
    """Whether a record has this dotted key; one of an earlier version lacks those that came later."""
    node: Any = record
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return True


def _word(value: object) -> str:
    if not isinstance(value, Mapping):
        return show(value)
    target = value.get("_target_")
    return target.rpartition(".")[2] if isinstance(target, str) else "a group of keys"


def check_facts(facts: Mapping[str, Any], simulation: Simulation) -> None:
    """Raise `UserError` for other data; warn of other versions, threads or numbers of processes."""
    if facts.get("data_hash") != data_hash(simulation.population):
        raise UserError(
            "the clients do not hold the samples with which the run began (data, partition, seed or files have "
            "changed); fedsim run starts a new run"
        )
    now, before = versions(), facts.get("versions")
    before = before if isinstance(before, dict) else {}
    differing = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if facts.get("threads") != torch.get_num_threads():
        differing.append(f"threads {facts.get('threads')} -> {torch.get_num_threads()}")
    if facts.get("processes", 1) != world().size:
        differing.append(f"processes {facts.get('processes', 1)} -> {world().size}")
    if differing:
        warn(f"not as when the checkpoint was written: {', '.join(differing)}; the last digits may differ")


def check_fit(state: State, simulation: Simulation, recorded: Experiment) -> None:
    """Raise `UserError` for settings that the content of the checkpoint does not fit."""
    now = simulation.experiment
    _check_privacy(recorded, now)
    fresh = initial_state(simulation)
    keeps = recorded.client.keep_optimizer_state or now.client.keep_optimizer_state
    check_kept(state, simulation)
    misfits = {
        "init_from": recorded.init_from != now.init_from,
        "model": (state.row.shape, state.row.dtype) != (fresh.row.shape, fresh.row.dtype),
        "num_clients": state.store.num_clients != fresh.store.num_clients,
        "aggregator.blocks": recorded.aggregator.blocks != now.aggregator.blocks,
        "client.optimizer": keeps and type(recorded.client.optimizer) is not type(now.client.optimizer),
    }
    before, after = recorded.by_drawer(), now.by_drawer()
    for part in simulation.parts:
        if part.group in after:
            key, new = after[part.group]
            misfits[key] = not _can_continue(part, before[part.group][1], new, state, fresh)
        elif part.group in fresh.drawers:  # that of no setting, such as the bytes sent so far
            misfits[part.group] = not part.accepts(state.drawers.get(part.group, {}), fresh.drawers[part.group])
    if bad := [key for key, misfit in misfits.items() if misfit]:
        raise UserError(
            f"{', '.join(bad)}: what the run has learnt or remembers does not fit this; fedsim run starts a new run"
        )


def check_kept(state: State, simulation: Simulation) -> None:
    """Raise `UserError` for rows of clients, or clients at work, that no run of this model has, whatever its settings.

    A part that reads such rows says so itself, but only in the middle of a round.
    """
    row, size = state.row[None], simulation.blocks.size
    optimizer = simulation.task.config.optimizer.state(row)
    counter, part = row.new_zeros((1, 1), dtype=torch.float64), row.new_zeros((1, size))
    wanted = {f"optimizer.{name}": kept for name, kept in optimizer.items()}
    wanted |= {PRIVATE: row[:, size:], SEEN: counter, PARTICIPATIONS: counter, ERROR: part, OWN: part, KEPT: row}
    for block in state.store.blocks:
        if block in wanted:
            state.store.check(block, wanted[block])
        if block in (SEEN, PARTICIPATIONS):
            counts = state.store.state_dict()[f"{block}/rows"]
            if not bool(((counts >= 0) & (counts <= 2 * state.round) & (counts == counts.round())).all()):
                raise UserError(f"{block}: the checkpoint keeps numbers that do not count rounds up to {state.round}")
    if isinstance(simulation.experiment.schedule, Asynchronous) and not is_whole(state, state.round):
        raise UserError("schedule: the clients at work that the checkpoint keeps are none of a run's")


def _can_continue(part: Part, old: object, new: object, state: State, fresh: State) -> bool:
    """Whether a part can continue with what the recorded one kept: same kind, same shapes in its drawer."""
    kept, empty = state.drawers.get(part.group, {}), fresh.drawers.get(part.group, {})
    remembers = kept or empty or any(block.startswith(f"{part.group}.") for block in state.store.blocks)
    if type(old) is not type(new) and (remembers or part.group in SAME_KIND):
        return False
    return part.accepts(kept, empty)


def _check_privacy(recorded: Experiment, wanted: Experiment) -> None:
    """Refuse other privacy or sampling: epsilon is for equal rounds (Abadi et al. 2016, Section 3.2)."""
    if not any(e.privacy.facts for e in (recorded, wanted)):
        return
    changed = [key for key in changes(recorded, wanted) if key.split(".")[0] in ("privacy", "sampler")]
    changed = [key for key in changed if key != "privacy.noise_stream"]  # other noise hides as much
    if changed:
        raise UserError(
            f"{', '.join(changed)}: epsilon is that of all rounds under one setting of privacy and of who takes part, "
            "and those before the fork had another; fedsim run starts a new run"
        )


def warn(text: str) -> None:
    """Print a warning, and log it."""
    log.warning(printable(text))
    print_error(text, "warning")
