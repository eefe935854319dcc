"""The whole state of a run in one safetensors file: tensors as they are, everything else as JSON in its metadata.

There is no pickle: loading an untrusted checkpoint may give wrong numbers, but cannot run code. A digest of the tensors
is in the JSON, and one of the JSON at its end, so that a file that was damaged or edited is not used (format 3;
files of formats 1 and 2 have none and are still read).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from fedsim.client_store import ClientStore
from fedsim.core.state import Drawer, State
from fedsim.core.stopping import Progress
from fedsim.errors import UserError
from fedsim.json_bounds import parse_json
from fedsim.links.link import ERROR
from fedsim.recording.run_directory import write_atomically
from fedsim.runs.checkpoint_facts import check_facts
from fedsim.runs.format_1 import upgraded

FORMAT_VERSION = 3
READABLE = (1, 2, FORMAT_VERSION)
DAMAGED = "has changed since it was written (its digest is another)"
MOST_SLOTS = 2**28
"""Clients times blocks of the client store, which has 8 bytes for each, however few of them have a row."""
ON_CPU = ("traffic", "system")
"""Drawers that stay on the CPU."""


def checkpoint_path(directory: Path, round_number: int) -> Path:
    """Return the path of a round's checkpoint, such as ``checkpoints/round_000120.safetensors``."""
    return directory / "checkpoints" / f"round_{round_number:06d}.safetensors"


def checkpoint_rounds(directory: Path) -> list[int]:
    """Return the rounds that have a checkpoint file, ascending; the files are not read."""
    found = {path: path.stem.removeprefix("round_") for path in directory.glob("checkpoints/round_*.safetensors")}
    numbers = (int(number) for number in found.values() if number.isdecimal())
    return sorted(number for number in numbers if checkpoint_path(directory, number) in found)


def save_checkpoint(directory: Path, state: State, run: Mapping[str, Any] | None = None) -> Path:
    """Write the state after a round; the file appears whole or not at all.

    Args:
        directory: the run's directory.
        state: the state to save.
        run: further facts about the run, for `read_run_facts`; plain data.
    """
    return write_checkpoint(directory, state.round, encode_state(state, run))


def write_checkpoint(directory: Path, round_number: int, content: bytes) -> Path:
    """Write what `encode_state` returned for the state after a round."""
    path = checkpoint_path(directory, round_number)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content)
    return path


def encode_state(state: State, run: Mapping[str, Any] | None = None) -> bytes:
    """Return the content of a checkpoint file."""
    from safetensors.torch import save  # here because it needs torch at once

    tensors = {"row": state.row}
    tensors |= {f"store/{name}": value for name, value in state.store.state_dict().items()}
    for group, drawer in state.drawers.items():
        tensors |= {f"drawers/{group}/{name}": value for name, value in drawer.items()}
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    facts = {
        "format_version": FORMAT_VERSION,
        "round": state.round,
        "num_clients": state.store.num_clients,
        "progress": dataclasses.asdict(state.progress),
        "run": dict(run or {}),
        "tensors": _digest(contiguous),
    }
    return save(contiguous, metadata={"fedsim": _sealed(json.dumps(facts))})  # one entry, as several come in any order


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of names, types, shapes and every bit of tensors on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sealed(text: str) -> str:
    """Add its own digest to the text of a JSON object, as its last entry."""
    return f'{text[:-1]}, "digest": "{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"}}'


def _is_sealed(text: str) -> bool:
    return _sealed(text.rpartition(", ")[0] + "}") == text


def load_checkpoint(path: Path, device: torch.device) -> State:
    """Read a state from a checkpoint.

    Raises:
        UserError: if the file is missing, truncated, damaged or not a checkpoint of this format.
    """
    try:
        facts, tensors = _read(path)
        if facts["format_version"] > 2 and facts["tensors"] != _digest(tensors):
            raise UserError(f"{path}: {DAMAGED}")
        state = _state(facts, tensors, device)
        if not bool(torch.isfinite(state.row).all()):
            raise UserError(f"{path}: the model's weights are not finite{_first_of(facts, state.row)}")
        return state
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: is not a complete checkpoint ({type(error).__name__}: {error})") from None


def _first_of(facts: Mapping[str, Any], row: torch.Tensor) -> str:
    """Words that name the first parameter whose numbers are not all finite, if the run says which numbers are whose."""
    place, end = int((~torch.isfinite(row)).nonzero()[0]), 0
    for name, shape in facts.get("run", {}).get("model", {}).get("parameters", {}).items():
        end += math.prod(shape)
        if place < end:
            return f" ({name})"
    return ""


def decode_state(content: bytes, device: torch.device) -> State:
    """Return the state that `encode_state` encoded."""
    from safetensors.torch import load  # here because it needs torch at once

    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # as safetensors defines it
    return _state(json.loads(header["__metadata__"]["fedsim"]), load(content), device)


def _state(facts: dict[str, Any], tensors: dict[str, torch.Tensor], device: torch.device) -> State:
    if facts["format_version"] == 1:
        tensors = upgraded(facts, tensors)
    row = tensors["row"]
    if row.dtype not in (torch.float32, torch.float64) or row.ndim != 1:
        raise ValueError(f"row is {row.dtype} {[*row.shape]}, not one row of float32 or float64")
    store, drawers = ClientStore(facts["num_clients"]), dict[str, Drawer]()
    kept = _below("store/", tensors)
    _check_kept(kept, facts["num_clients"])
    store.load_state_dict({name: _place(name, value, device) for name, value in kept.items()})
    for path, value in _below("drawers/", tensors).items():
        group, _, name = path.partition("/")
        if value.is_floating_point() and not bool(torch.isfinite(value.double()).all()):
            raise ValueError(f"drawers/{path} holds numbers that are not finite")
        place = torch.device("cpu") if group in ON_CPU else device
        drawers.setdefault(group, {})[name] = value.to(
            place, copy=True
        )  # where torch puts its own: bytes lie as they come
    return State(row.to(device, copy=True), store, Progress(**facts["progress"]), facts["round"], drawers)


def _check_kept(kept: Mapping[str, torch.Tensor], num_clients: int) -> None:
    """Raise `ValueError` unless every block has a row for each of its clients, and all of them fit into memory."""
    if len(kept) // 2 * num_clients > MOST_SLOTS:
        raise ValueError(f"num_clients={num_clients}: are too many for the {len(kept) // 2} blocks that are kept")
    for name, value in kept.items():
        block, _, kind = name.rpartition("/")
        if not block or kind not in ("clients", "rows") or f"{block}/clients" not in kept:
            raise ValueError(f"store/{name} belongs to no block")
        if kind == "clients":
            rows = kept[f"{block}/rows"]
            if value.dtype != torch.int64 or value.ndim != 1 or rows.ndim != 2 or len(rows) != len(value):
                raise ValueError(f"{block} does not have a row for each of its clients")
            if bool(((value < 0) | (value >= num_clients)).any()):
                raise ValueError(f"{block} names clients that there are not")
            if len(value.unique()) != len(value):
                raise ValueError(f"{block} names a client twice")
            # A forged row may have any numbers, and then so has the error that a compressor leaves of it.
            if block != ERROR and rows.is_floating_point() and not bool(torch.isfinite(rows.double()).all()):
                raise ValueError(f"{block} holds numbers that are not finite")


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def read_run_facts(path: Path) -> dict[str, Any]:
    """Read the facts about the run that `save_checkpoint` was given.

    Raises:
        UserError: if the file is missing, truncated or not a checkpoint of this format, or the facts have changed.
    """
    run: dict[str, Any] = _read(path, with_tensors=False)[0].get("run", {})
    return run


def _read(path: Path, with_tensors: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: is no regular file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("fedsim", "null")
            facts = parse_json(text)
            names = file.keys() if with_tensors else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a checkpoint ({error})") from None
    known = isinstance(facts, dict) and type(facts.get("format_version")) is int and facts["format_version"] in READABLE
    if known and ("digest" in facts or facts["format_version"] > 2) and not _is_sealed(text):
        raise UserError(f"{path}: {DAMAGED}")
    if not known:
        raise UserError(f"{path}: is not a fedsim checkpoint of format 1 to {FORMAT_VERSION}")
    try:
        check_facts(facts)
    except ValueError as error:
        raise UserError(f"{path}: is not a complete checkpoint ({error})") from None
    return facts, tensors


def _place(name: str, value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Leave client numbers on the CPU, and move rows to the device."""
    return value if name.endswith("/clients") else value.to(device)


def prune_checkpoints(directory: Path, scores: dict[int, float], best_is_low: bool) -> None:
    """Delete all checkpoints except the last two and the best of those in `scores` (metric value by round)."""
    rounds = checkpoint_rounds(directory)
    keep = set(rounds[-2:])
    judged = [r for r in rounds if r in scores]
    if judged:
        keep.add(min(judged, key=lambda r: (scores[r] if best_is_low else -scores[r], r)))
    for number in set(rounds) - keep:
        checkpoint_path(directory, number).unlink(missing_ok=True)
