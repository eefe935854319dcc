"""What a data source is, and how one is loaded."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Protocol, runtime_checkable

from fedsim.data.dataset import Dataset
from fedsim.data.fitted import Fitted
from fedsim.errors import UserError


@runtime_checkable
class DataSource(Hashable, Protocol):
    """Where samples come from. A frozen dataclass, so that equal settings are loaded once."""

    def load(self, seed: int) -> Dataset:
        """Read or make the data."""
        ...


@runtime_checkable
class Refittable(Protocol):
    """A data source that fits something to its training samples and can use what was fitted to others instead."""

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Read or make the data, with labels, vocabulary, features and scaling as in `fitted`."""
        ...


@lru_cache(maxsize=2)
def load_dataset(data: DataSource, seed: int, fitted: Fitted | None = None) -> Dataset:
    """Load a data source, once for equal settings in one process (a sweep checks first and runs later).

    Args:
        data: the source.
        seed: of the run.
        fitted: how the data of a saved model were prepared, which is how these are to be; None fits them anew.

    Raises:
        UserError: if the data cannot be prepared as the model's were, or do not fit in memory.
    """
    try:
        dataset = data.load_as(seed, fitted) if fitted is not None and isinstance(data, Refittable) else data.load(seed)
    except MemoryError as error:
        why = " ".join(str(error).split()) or "not enough memory"
        raise UserError(f"data: {type(data).__name__} does not fit in memory ({why}); take less of it") from None
    if fitted is None:
        return dataset
    if (difference := fitted.difference(dataset.fitted)) is not None:
        raise UserError(f"{dataset.name}: these data are not prepared as the model's were: {difference}")
    return dataset
