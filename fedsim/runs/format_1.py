"""Checkpoints of format 1, which fedsim wrote before each part had its own drawer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

_BLOCKS = {"memory": "correction.own", "ditto": "personalize.ditto"}
_PARTS = ("link", "privacy", "schedule")


def upgraded(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under their names in format 2.

    Args:
        facts: the JSON of the checkpoint.
        tensors: the tensors under their names in format 1.
    """
    found = {"row": tensors["row"]}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "server":
            found[f"drawers/server/{rest}"] = value
        elif kind == "memory":
            found["drawers/correction/mean"] = value
        elif kind == "store":
            block, _, what = rest.rpartition("/")
            found[f"store/{_BLOCKS.get(block, block)}/{what}"] = value
        elif kind == "parts":
            group, _, what = rest.partition(".")
            if group in _PARTS:
                found[f"drawers/{group}/{what}"] = value
    for way in ("down", "up"):
        found[f"drawers/traffic/{way}"] = torch.tensor(facts[f"bytes_{way}"], dtype=torch.int64)
    run = facts.get("run")
    if isinstance(run, dict) and run.get("devices") is not None:
        found["drawers/system/virtual_seconds"] = torch.tensor(facts["virtual_seconds"], dtype=torch.float64)
    return found
