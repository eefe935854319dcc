"""A population as plain data and places of tensors, from which other processes put the same one together."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import torch

from fedsim.data.dataset import Forecast, Pooled, Score, Task, WordTokens
from fedsim.data.fitted import NOTHING, read_fitted
from fedsim.data.population import Population, Samples

if TYPE_CHECKING:
    from torch import Tensor

_SAMPLES = ("train", "test", "validation", "local_validation")
_PLAIN = ("num_outputs", "input_size", "vocabulary_size", "notes", "sampled_from")


@dataclass(frozen=True, eq=False)
class Names(Sequence[str]):
    """Names that are read from one piece of memory when they are asked for: a million strings take 70 MB.

    Attributes:
        text: ``[B]`` uint8, the names in UTF-8, one after another.
        ends: ``[N + 1]`` int64; name k is the bytes from ``ends[k]`` to before ``ends[k + 1]``.
    """

    text: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[str]: ...
    def __getitem__(self, key: int | slice) -> str | Sequence[str]:
        if isinstance(key, slice):
            return tuple(self[k] for k in range(len(self))[key])
        first, end = self.ends.numpy()[range(len(self))[key] :][:2]
        return self.text.numpy()[first:end].tobytes().decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        text, ends = self.text.numpy(), self.ends.tolist()
        for first, end in pairwise(ends):
            yield text[first:end].tobytes().decode(errors="surrogatepass")


def names_of(names: Sequence[str]) -> Names:
    """Put names into one piece of memory."""
    texts = [name.encode(errors="surrogatepass") for name in names]
    ends = torch.tensor([0, *map(len, texts)]).cumsum(0)
    return Names(torch.frombuffer(bytearray(b"".join(texts)) or bytearray(1), dtype=torch.uint8), ends)


def record_of(population: Population, lay: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Return a population on the CPU as plain data.

    Args:
        population: whose samples no device holds yet.
        lay: puts a tensor somewhere and returns where, as plain data.

    Raises:
        ValueError: if its `score` is not a function of a module, which another process could find.
    """
    laid: dict[tuple[object, ...], Any] = {}

    def once(tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())  # windows share their rows
        if key not in laid:
            laid[key] = lay(tensor)
        return laid[key]

    def samples(of: Samples | None) -> Any:
        return None if of is None else {field.name: once(getattr(of, field.name)) for field in fields(of)}

    def names(of: Sequence[str]) -> Any:
        packed = names_of(of)
        return [lay(packed.text), lay(packed.ends)]

    def record(p: Population) -> dict[str, Any]:
        forecast = p.forecast and asdict(p.forecast)
        if forecast and forecast["naive_errors"] is not None:
            forecast["naive_errors"] = lay(torch.from_numpy(forecast["naive_errors"]))
        return {
            **{name: getattr(p, name) for name in _PLAIN},
            **{name: samples(getattr(p, name)) for name in _SAMPLES},
            "task": p.task.value,
            "client_names": names(p.client_names),
            "source_names": names(p.source_names),
            "groups": None if p.groups is None else lay(torch.from_numpy(p.groups)),
            "fitted": p.fitted.record(),
            "forecast": forecast,
            "score": p.score and [p.score.name, *_address(p.score.of)],
            "words": p.words and asdict(p.words),
            "facts": [list(fact) for fact in p.facts],
            "pooled": [list(one) for one in p.pooled],
            "unseen": None if p.unseen is None else record(p.unseen),
        }

    return record(population)


def population_of(record: Mapping[str, Any], at: Callable[[Any], Tensor], allowed: Sequence[str] = ()) -> Population:
    """Return the population of a record.

    Args:
        record: from `record_of`.
        at: returns the tensor at a place.
        allowed: modules besides fedsim that may hold its score.

    Raises:
        ValueError: if its score is in another module.
    """

    def samples(of: Mapping[str, Any] | None) -> Samples | None:
        if of is None:
            return None
        tensors: dict[str, Any] = {name: None if place is None else at(place) for name, place in of.items()}
        return Samples(**tensors)

    def forecast(of: dict[str, Any] | None) -> Forecast | None:
        if of is None:
            return None
        errors = None if of["naive_errors"] is None else at(of["naive_errors"]).numpy()
        return Forecast(**{k: tuple(v) if isinstance(v, list) else v for k, v in of.items()} | {"naive_errors": errors})

    score, words, unseen = record["score"], record["words"], record["unseen"]
    made = {
        **{name: record[name] for name in _PLAIN},
        **{name: samples(record[name]) for name in _SAMPLES},
        "notes": tuple(record["notes"]),
        "task": Task(record["task"]),
        "client_names": Names(*map(at, record["client_names"])),
        "source_names": Names(*map(at, record["source_names"])),
        "groups": None if record["groups"] is None else at(record["groups"]).numpy(),
        "fitted": read_fitted(record["fitted"], "another process") or NOTHING,
        "forecast": forecast(record["forecast"]),
        "score": score and Score(score[0], _found(score[1], score[2], allowed)),
        "words": words and WordTokens(tuple(words["unknown"]), words["end"]),
        "facts": tuple((label, text) for label, text in record["facts"]),
        "pooled": tuple(Pooled(*one) for one in record["pooled"]),
        "unseen": unseen and population_of(unseen, at, allowed),
    }
    return Population(**made)


def _address(function: Callable[..., Any]) -> tuple[str, str]:
    """The module and the name of a function of a module."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if getattr(sys.modules.get(module), name, None) is not function:
        raise ValueError(f"{function} is not a function of a module")
    return module, name


def _found(module: str, name: str, allowed: Sequence[str]) -> Callable[[Tensor], Tensor]:
    """The function of that name in a module of fedsim or an allowed one."""
    if module.split(".")[0] != "fedsim" and module not in allowed:
        raise ValueError(f"{module} is not allowed")
    found: Callable[[Tensor], Tensor] = getattr(importlib.import_module(module), name)
    return found
