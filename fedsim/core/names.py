"""The names that components have in the config."""

from __future__ import annotations

import re
from functools import cache
from typing import Any


def option_name(component: Any) -> str:
    """The config option that selects a component: its class variable ``option``, or else its class name in snake case.

    ``GeometricMedian`` is ``geometric_median``; ``NoPrivacy`` and other names that begin with ``No`` are ``none``.
    """
    cls: Any = type(component)
    return _of_class(cls)


@cache
def _of_class(cls: type[object]) -> str:
    declared: str | None = getattr(cls, "option", None)
    if declared is not None:
        return declared
    if re.match(r"No[A-Z]", cls.__name__):
        return "none"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
