"""The exceptions that fedsim raises on purpose, and the checks that raise them.

Everything a user can cause is a `UserError`: one readable line that names the key, the value and what is
allowed. The command line prints it and exits with code 2; a traceback is a bug.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import fields
from typing import Any


class UserError(Exception):
    """A mistake in the request: a wrong option, value, file or combination. Exit code 2."""


class FieldError(UserError):
    """A value of one field of a component is not allowed.

    The component knows only the field's own name; `fedsim.build` puts the full key in front of it.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={show(value)}: {allowed}")
        self.field, self.value, self.allowed = field, value, allowed


class Diverged(Exception):
    """The loss or a parameter is no longer finite. Exit code 3."""


class ProcessLost(Exception):
    """Another process of the same run is gone. Exit code 1."""


class RecordingFailed(Exception):
    """A file of a run cannot be written, or somebody else has changed it. Exit code 1."""


def show(value: object) -> str:
    """A value as it is written in a config."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def printable(text: str) -> str:
    """Escape what a terminal may obey instead of showing, such as the sequences that move its cursor; lines stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def print_error(text: str, word: str = "error") -> None:
    """Print one line to stderr: unprintable characters are escaped, and the middle of a very long line is left out."""
    line = printable(" ".join(text.split()))
    if len(line) > 2000:
        line = f"{line[:1000]} ... {line[-900:]}"
    with suppress(OSError, ValueError):  # if stderr is closed, there is nobody left to tell
        print(f"{word}: {line}", file=sys.stderr)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_at_least(component: Any, minimum: float, *names: str) -> None:
    """Require that each named field that is set is a finite number not below `minimum`."""
    for name in names:
        value = getattr(component, name)
        if value is not None and not (math.isfinite(value) and value >= minimum):
            raise FieldError(name, value, f"must be at least {minimum:g}{_finite(value)}")


def check_above(component: Any, bound: float, *names: str) -> None:
    """Require that each named field that is set is a finite number above `bound`."""
    for name in names:
        value = getattr(component, name)
        if value is not None and not (math.isfinite(value) and value > bound):
            raise FieldError(name, value, f"must be greater than {bound:g}{_finite(value)}")


def _finite(value: float) -> str:
    return "" if math.isfinite(value) else " and finite"


def check_between(component: Any, low: float, high: float, *names: str, open_high: bool = False) -> None:
    """Require ``low <= field <= high`` (``< high`` if `open_high`) for each named field that is set."""
    for name in names:
        value = getattr(component, name)
        if value is not None and not (low <= value < high if open_high else low <= value <= high):
            upper = f"below {high:g}" if open_high else f"at most {high:g}"
            raise FieldError(name, value, f"must be at least {low:g} and {upper}")


def check_one_of(component: Any, name: str, allowed: Collection[str]) -> None:
    """Require that the field `name` is one of the words in `allowed`."""
    value = getattr(component, name)
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise FieldError(name, value, f"must be one of {', '.join(allowed)}{hint}")


def check_exactly_one(component: Any, first: str, second: str) -> None:
    """Require that exactly one of two exclusive fields is set (not None)."""
    a, b = getattr(component, first), getattr(component, second)
    if (a is None) == (b is None):
        state = "neither is set" if a is None else f"{first}={a} and {second}={b} are both set"
        raise FieldError(first, a, f"set exactly one of {first} and {second} ({state})")


def field_names(component: Any) -> list[str]:
    """The names of a dataclass's fields, in order."""
    return [f.name for f in fields(component)]
