"""Dotted keys, such as ``client.optimizer.lr``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as ``{dotted key: value}``."""
    if not isinstance(node, Mapping) or not node:
        return {prefix[:-1]: node}
    return {k: v for key, child in node.items() for k, v in flat(child, f"{prefix}{key!s}.").items()}


def texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every value that is no mapping or list, as text, with its dotted key; the entries of lists have numbers."""
    named: Any = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if named is None:
        yield key, str(node)
    else:
        for name, child in named:
            yield from texts(child, f"{key}.{name}" if key else str(name))


def within(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of `names` or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)
