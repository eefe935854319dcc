"""The settings of a run that are not the default ones, for the lines that it begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fedsim.build import build, record_of
from fedsim.config.option_files import default_values
from fedsim.config.request import EXCLUSIVE
from fedsim.errors import show
from fedsim.federation.experiment import Experiment
from fedsim.runs.record import differences

SAID = ("seed", "threads", "device", "console", "checkpoint", "tracker", "name", "tags")
"""Keys that other lines show, or that do not change what is simulated."""


def chosen(experiment: Experiment) -> list[str]:
    """Every setting that differs from what ``fedsim run`` alone would take, as ``model.hidden_size=8``.

    A component of another class is shown with its first value and those that are not the class's own defaults:
    ``client.optimizer=Adam(lr=0.001)``.
    """
    found = []
    for key, (_, value) in differences(_default(), record_of(experiment)).items():
        if key.split(".")[0] in SAID or (value is None and any(key in pair for pair in EXCLUSIVE)):
            continue
        text = _component(experiment, key) if isinstance(value, Mapping) else show(value)
        found.append(f"{key}={text}".replace("\n", "\\n"))  # in one line, whatever a name holds
    return found


@lru_cache(maxsize=1)
def _default() -> dict[str, Any]:
    return record_of(build(default_values(), Experiment))


def _component(experiment: Experiment, key: str) -> str:
    component: Any = experiment
    for name in key.split("."):
        component = getattr(component, name)
    values = []
    for number, field in enumerate(dataclasses.fields(component)):
        value = getattr(component, field.name)
        if not dataclasses.is_dataclass(value) and (number == 0 or value != _default_of(field)):
            values.append(f"{field.name}={show(value)}")
    return type(component).__name__ + (f"({', '.join(values)})" if values else "")


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
