"""Weights of the classes in the local loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fedsim.data.dataset import IGNORE, Task
from fedsim.errors import UserError

if TYPE_CHECKING:
    from fedsim.data.population import Population

BALANCED = "balanced"
LEAST, MOST = 1e-9, 1e9
"""Of a weight: float32 would make 0 or infinity of what is far beyond, and all gradients zero or NaN."""


def class_weights(setting: str | Sequence[float] | None, population: Population) -> tuple[float, ...]:
    """What ``client.class_weights`` asks for: a weight for each of the K classes; empty where all count the same.

    ``balanced`` is ``n / (K n_k)`` for a class with n_k of the n training targets of all clients, as in scikit-learn's
    ``compute_class_weight`` (King, Zeng 2001, "Logistic Regression in Rare Events Data", section 4.2); K are the
    classes that occur, and one that does not weighs 1, since nothing is trained on it.

    Args:
        setting: null, ``balanced``, or a number for each class.
        population: with the training data of all clients.

    Raises:
        UserError: if the data have no classes, or not as many as there are numbers.
    """
    if setting is None:
        return ()
    if population.task is Task.REGRESSION:
        raise UserError(
            f"client.class_weights={_shown(setting)}: has no effect, because these data have numbers to predict, not "
            "classes; leave it null"
        )
    if setting != BALANCED:
        if len(setting) != population.num_outputs:
            raise UserError(
                f"client.class_weights={_shown(setting)}: must have a number for each of the "
                f"{population.num_outputs:,} classes{_named(population)}, and has {len(setting):,}"
            )
        return tuple(map(float, setting))
    targets = population.train.targets.reshape(-1)
    counts = torch.bincount(targets[targets != IGNORE], minlength=population.num_outputs).tolist()
    each = sum(counts) / max(1, sum(count > 0 for count in counts))
    return tuple(each / count if count else 1.0 for count in counts)


def check_class_weights(setting: str | Sequence[float] | None) -> str | None:
    """Return why a value of ``client.class_weights`` is none of those that are allowed; None if it is."""
    if setting is None or setting == BALANCED:
        return None
    if not isinstance(setting, str) and setting and all(map(_allowed, setting)):
        return None
    return f"must be null, balanced, or a list of numbers from {LEAST:g} to {MOST:g}, one for each class"


def _allowed(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and LEAST <= x <= MOST


def _shown(setting: str | Sequence[float]) -> str:
    if isinstance(setting, str):
        return setting
    some = ",".join(f"{weight:g}" for weight in setting[:6])
    return f"[{some}{',...' if len(setting) > 6 else ''}]"


def _named(population: Population) -> str:
    """The names of the classes, if the data have any and they are few."""
    names = population.fitted.labels or population.fitted.vocabulary
    return f" ({', '.join(names)})" if 0 < len(names) <= 12 else ""
