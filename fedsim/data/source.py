"""What a data source is, and how one is loaded."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Protocol, runtime_checkable

from fedsim.data.dataset import Dataset


@runtime_checkable
class DataSource(Hashable, Protocol):
    """Where samples come from. A frozen dataclass, so that equal settings are loaded once."""

    def load(self, seed: int) -> Dataset:
        """Read or make the data."""
        ...


@lru_cache(maxsize=2)
def load_dataset(data: DataSource, seed: int) -> Dataset:
    """Load a data source, once for equal settings in one process (a sweep checks first and runs later)."""
    return data.load(seed)
