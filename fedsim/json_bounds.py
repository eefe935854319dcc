"""JSON of strangers, read within bounds: no file without an end, no depth or number that nothing of fedsim's has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedsim.errors import UserError
from fedsim.yaml_bounds import DEEPEST, read_bounded

LARGEST = 2**27
"""Bytes of a file: a summary names every client whose data are scaled by themselves."""


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        UserError: if it cannot be read, is too large, or is not what `parse_json` reads.
    """
    try:
        return parse_json(read_bounded(path, LARGEST))
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def parse_json(text: str) -> Any:
    """Return what a text holds.

    Raises:
        ValueError: if it is no JSON, too deep, or holds a whole number beyond 64 bits or half a character.
    """
    try:
        found = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError(f"has more than {DEEPEST} lists and mappings within each other") from None
    _check(found)
    return found


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"holds a whole number of {len(digits)} digits, beyond 64 bits")
    return int(digits)


def _check(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError(f"has more than {DEEPEST} lists and mappings within each other")
    if isinstance(value, str):
        if not value.isascii():
            value.encode()  # half of a character cannot be written again
    elif isinstance(value, dict):
        for name, child in value.items():
            _check(name, depth)
            _check(child, depth + 1)
    elif isinstance(value, list):
        for child in value:
            _check(child, depth + 1)
