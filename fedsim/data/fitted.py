"""What a data source has learnt from its training samples: with it, other data are prepared as those were.

A model knows label 2, feature 5 and one standard deviation; only this says that they are ``walking``, the pressure and
4.2 bar. It is kept in ``summary.json``, in checkpoints and beside exported models, and data that meet a saved model are
prepared by it instead of being fitted anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedsim.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True)
class Column:
    """A feature or a target: the model sees ``(value - shift) / scale``.

    Attributes:
        name: of the column, or what is measured.
        shift: in the column's own unit.
        scale: what one unit of the model stands for, in the column's own unit.
    """

    name: str
    shift: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Scaling:
    """How the numbers of some samples were scaled.

    Attributes:
        features: in the order of the model's inputs.
        targets: of a regression, in the order in which a step's targets come.
    """

    features: tuple[Column, ...] = ()
    targets: tuple[Column, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """Everything that a data source took from its training samples.

    Attributes:
        scaling: of all clients. Where each client has its own, names alone count here.
        clients: the data's own clients that are scaled by themselves, with their scaling.
        labels: names of the classes, in the order of their numbers.
        vocabulary: the tokens, in the order of their numbers; those that stand for no text are in angle brackets.
    """

    scaling: Scaling = Scaling()
    clients: tuple[tuple[str, Scaling], ...] = ()
    labels: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return plain data, without what is empty, for `read_fitted`."""
        record: dict[str, Any] = _record(self.scaling)
        record |= {"clients": {name: _record(scaling) for name, scaling in self.clients}}
        record |= {"labels": [*self.labels], "vocabulary": [*self.vocabulary]}
        return {name: value for name, value in record.items() if value}

    def difference(self, other: Fitted) -> str | None:
        """Return the first way in which other data are not prepared as these are, in words; None if they are.

        What either does not say, such as the names of labels that nobody named, counts as equal.
        """
        pairs = {
            "labels": (self.labels, other.labels),
            "vocabulary": (self.vocabulary, other.vocabulary),
            "features": tuple(tuple(c.name for c in one.scaling.features) for one in (self, other)),
            "targets": tuple(tuple(c.name for c in one.scaling.targets) for one in (self, other)),
        }
        for what, (ours, theirs) in pairs.items():
            if ours and theirs and ours != theirs:
                return f"the {what} are {_some(theirs, ours)}, not {_some(ours, theirs)}"
        if bool(self.clients) != bool(other.clients):
            alone = "each client is scaled by itself", "all clients are scaled together"
            return f"{alone[not other.clients]}, not {alone[not self.clients]}"
        for mine, its in zip(_columns(self), _columns(other), strict=False):
            if mine != its:
                return (
                    f"column {its.name!r} is scaled by ({its.shift:g}, {its.scale:g}), not ({mine.shift:g}, "
                    f"{mine.scale:g})"
                )
        return None


NOTHING = Fitted()
"""Of data from which nothing was fitted, or that do not say what."""


def columns(names: Iterable[str], shift: ArrayLike = 0.0, scale: ArrayLike = 1.0) -> tuple[Column, ...]:
    """Put together columns from their names and arrays (or one number) of shifts and scales."""
    names = tuple(names)
    shifts, scales = (np.broadcast_to(np.asarray(x, np.float64), len(names)).tolist() for x in (shift, scale))
    return tuple(Column(*column) for column in zip(names, shifts, scales, strict=True))


def arrays(columns: Iterable[Column]) -> tuple[Floats, Floats]:
    """Return the shifts and the scales, one number a column."""
    pairs = np.array([(column.shift, column.scale) for column in columns], np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def read_fitted(record: object, where: str) -> Fitted | None:
    """Read back what `Fitted.record` gave; None if there is no record.

    Args:
        record: plain data, perhaps from a file of someone else.
        where: what to call it in an error.

    Raises:
        UserError: if it is not such a record.
    """
    if record is None:
        return None
    try:
        if not isinstance(record, Mapping):
            raise TypeError("not a mapping")
        if unknown := {*record} - {"features", "targets", *(field.name for field in fields(Fitted))}:
            raise TypeError(f"unknown: {', '.join(map(str, unknown))}")
        return Fitted(
            scaling=_scaling(record),
            clients=tuple((_text(name), _scaling(own)) for name, own in record.get("clients", {}).items()),
            labels=tuple(map(_text, record.get("labels", ()))),
            vocabulary=tuple(map(_text, record.get("vocabulary", ()))),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: its record of how the data were prepared cannot be read ({error})") from None


def _record(scaling: Scaling) -> dict[str, Any]:
    return {
        name: [{"name": c.name, "shift": c.shift, "scale": c.scale} for c in found]
        for name, found in (("features", scaling.features), ("targets", scaling.targets))
        if found
    }


def _scaling(record: Mapping[str, Any]) -> Scaling:
    def read(name: str) -> tuple[Column, ...]:
        found = record.get(name, ())
        return tuple(Column(_text(c["name"]), _number(c["shift"]), _number(c["scale"], positive=True)) for c in found)

    return Scaling(read("features"), read("targets"))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _number(value: object, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not a number")
    if positive and value <= 0:
        raise ValueError(f"{value!r} is not above 0")
    return float(value)


def _columns(fitted: Fitted) -> tuple[Column, ...]:
    """All columns that clients share, none where each client has its own scaling."""
    return () if fitted.clients else (*fitted.scaling.features, *fitted.scaling.targets)


def _some(names: tuple[str, ...], others: tuple[str, ...], most: int = 6) -> str:
    """A few of the names, those first that the others lack."""
    first = sorted(range(len(names)), key=lambda k: names[k] in others)
    shown = [names[k] for k in (range(len(names)) if len(names) <= most else first[:most])]
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(repr, shown)) + more
