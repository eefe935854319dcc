"""Dotted keys, such as ``client.optimizer.lr``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``{dotted key: value}``."""
    if not isinstance(node, Mapping) or not node:
        return {prefix[:-1]: node}
    return {k: v for key, child in node.items() for k, v in flat(child, f"{prefix}{key!s}.").items()}


def within(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of `names` or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)
