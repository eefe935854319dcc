"""The jobs of a sweep: every combination of the values of its overrides, counted before they are made.

Hydra's own sweepers keep one override per key, so that of ``model=lstm 'model={hidden_size: 8}'`` only the second would
count. Here every override stays in its place, and a job means what it would mean as a command of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

from fedsim.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MAX_JOBS = 10_000
"""The most jobs of a sweep: each is composed and checked before the first one starts."""


def combinations(overrides: Sequence[Override], options: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Every combination of the values of the overrides, the last one varying fastest; overrides of one value stay.

    Args:
        overrides: in the order in which they count; those made by the parser of a config loader can hold a ``glob``.
        options: all groups with their options.

    Raises:
        UserError: if a sweep has no values, or there are more than `MAX_JOBS` combinations.
    """
    counting = in_force(overrides)
    if math.prod(_sizes(counting, options)) > MAX_JOBS:
        raise UserError(f"{_swept(counting)}: makes more than {MAX_JOBS:,} jobs, the most of one sweep; split it")
    return [list(job) for job in itertools.product(*map(_texts, counting))]


def samples(overrides: Sequence[Override], options: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Jobs that together cover every choice and both ends of every interval, for a sweeper that chooses later.

    Raises:
        UserError: as `combinations` does.
    """
    counting = in_force(overrides)
    if sum(_sizes(counting, options)) > MAX_JOBS:
        raise UserError(f"{_swept(counting)}: gives more than {MAX_JOBS:,} values to choose from")
    values = [_texts(override) for override in counting]
    first = [texts[0] for texts in values]
    return [first] + [[*first[:k], text, *first[k + 1 :]] for k, texts in enumerate(values) for text in texts[1:]]


def in_force(overrides: Sequence[Override]) -> list[Override]:
    """The overrides without the sweeps that a later override of the same key replaces; mappings are merged instead."""

    def replaced(n: int, one: Override) -> bool:
        if not one.is_sweep_override() or _merges(one):
            return False
        later = (other for other in overrides[n + 1 :] if other.get_key_element() == one.get_key_element())
        return any(not _merges(other) for other in later)

    return [one for n, one in enumerate(overrides) if not replaced(n, one)]


def filled(template: Sequence[Override], trial: Sequence[str]) -> list[str]:
    """The overrides of a trial, of which a sweeper kept one per key: those of `template`, with the values it chose."""
    chosen = {text.partition("=")[0]: text for text in trial}
    mentioned = {one.get_key_element() for one in template}
    others = [text for text in trial if text.partition("=")[0] not in mentioned]
    swept = [chosen.get(one.get_key_element()) if one.is_sweep_override() else None for one in template]
    return others + [text or str(one.input_line) for text, one in zip(swept, template, strict=True)]


def _merges(override: Override) -> bool:
    """Whether a value of the override is a mapping, which changes some keys of its group and leaves the rest."""
    value: Any = override.value()
    return any(isinstance(entry, dict) for entry in (value.list if isinstance(value, ChoiceSweep) else [value]))


def _texts(override: Override) -> list[str]:
    """The overrides of one value each that a sweep stands for; of an interval, its ends."""
    key, value = override.get_key_element(), override.value()
    if override.is_interval_sweep():
        return [f"{key}={value.start}", f"{key}={value.end}"]  # type: ignore[union-attr]  # an interval, see above
    if override.is_sweep_override():
        return [f"{key}={text}" for text in override.sweep_string_iterator()]
    return [str(override.input_line)]


def _sizes(overrides: Sequence[Override], options: Mapping[str, Sequence[str]]) -> list[int]:
    return [_size(override, options) for override in overrides]


def _size(override: Override, options: Mapping[str, Sequence[str]]) -> int:
    """How many values an override has; more than `MAX_JOBS` may be any number above it."""
    value, text, group = override.value(), override.input_line, override.key_or_group
    if not override.is_discrete_sweep():
        return 1
    if isinstance(value, RangeSweep):
        count = _length(value, str(text))
    elif isinstance(value, ChoiceSweep):
        count = len(value.list)
    elif group not in options:
        raise UserError(f"{text}: glob chooses among the options of a group, and {group} is a value; list its values")
    else:
        count = len(list(override.sweep_string_iterator()))
        if count == 0:
            raise UserError(f"{text}: matches no option; available: {', '.join(options[group])}")
    if count == 0:
        raise UserError(f"{text}: holds no value")
    return count


def _length(value: RangeSweep, text: str) -> int:
    start, stop, step = value.start, value.stop, value.step
    if start is None or stop is None or not all(map(math.isfinite, _small(start, stop, step))):
        raise UserError(f"{text}: a range needs finite numbers")
    if step == 0:
        raise UserError(f"{text}: the step of a range must not be 0")
    if all(isinstance(number, int) for number in (start, stop, step)):
        return min(max(0, -int((start - stop) // step)), MAX_JOBS + 1)
    try:
        length = (float(stop) - float(start)) / float(step)
    except OverflowError:
        length = math.inf
    return math.ceil(min(max(0.0, length), MAX_JOBS + 1))


def _small(*numbers: float) -> list[float]:
    """The same numbers, without the whole ones, which are finite but may be too large for `math.isfinite`."""
    return [number for number in numbers if isinstance(number, float)]


def _swept(overrides: Sequence[Override]) -> str:
    return " ".join(str(one.input_line) for one in overrides if one.is_sweep_override())
