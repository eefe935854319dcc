"""Which group each group is compared with: its baseline."""

from __future__ import annotations

import os
from collections.abc import Sequence

import yaml

from fedsim.compare.groups import ABSENT, Group
from fedsim.compare.records import Target
from fedsim.errors import UserError, did_you_mean


def find_baselines(groups: Sequence[Group], asked: Sequence[str]) -> list[Group | None]:
    """Return each group's baseline.

    Args:
        groups: all of them.
        asked: what ``--baseline`` said: the path or name of one run, or settings such as ``aggregator=fedavg``. Where
            several groups have these settings, a group's baseline is the one that equals it in all other settings:
            FedProx is compared with FedAvg on the same partition.

    Raises:
        UserError: if `asked` names nothing here, or the choice among several is not clear.
    """
    if len(asked) == 1 and (named := _by_path(groups, asked[0])) is not None:
        return [named] * len(groups)
    wanted = [_setting(groups, text) for text in asked]
    matching = [group for group in groups if all(_is(_value(group, key), value) for key, value in wanted)]
    words = " ".join(asked)
    if not matching:
        values = [(key, dict.fromkeys(_value(group, key) for group in groups)) for key, _ in wanted]
        there = [", ".join(f"{key}={value}" for value in found if value != ABSENT) for key, found in values]
        raise UserError(f"--baseline {words}: no run has this setting; the runs have {'; '.join(there)}")
    if len(matching) == len(groups) > 1:
        raise UserError(f"--baseline {words}: every run has this setting, so there is nothing to compare with it")
    if len(matching) == 1:
        return [matching[0]] * len(groups)
    named_keys = [key.replace("/", ".") for key, _ in wanted]
    return [group if group in matching else _counterpart(group, matching, named_keys, words) for group in groups]


def _counterpart(group: Group, matching: Sequence[Group], named: Sequence[str], words: str) -> Group | None:
    rest = [key for key in group.keys if not any(f"{key.replace('/', '.')}.".startswith(f"{name}.") for name in named)]
    alike = [other for other in matching if all(_same(group, other, key) for key in rest)]
    if len(alike) > 1:
        others = " and ".join(other.label for other in alike[:2])
        raise UserError(f"--baseline {words}: {others} both fit; add another --baseline KEY=VALUE")
    return alike[0] if alike else None


def _same(group: Group, other: Group, key: str) -> bool:
    return group.keys.get(key, ABSENT) == other.keys.get(key, ABSENT)


def _by_path(groups: Sequence[Group], text: str) -> Group | None:
    """The group with the run at this path, or of this name."""
    path = os.path.realpath(text)
    for group in groups:
        for run in group.runs:
            if path in (os.path.realpath(run.path), os.path.realpath(run.path / "metrics.csv")):
                return group
    named = [group for group in groups if any(run.path.name == text for run in group.runs)]
    if len(named) > 1:
        raise UserError(f"--baseline {text}: several of these runs have this name; give the path of one")
    return named[0] if named else None


def _setting(groups: Sequence[Group], text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        names = [run.path.name for group in groups for run in group.runs]
        hint = did_you_mean(text, names)
        raise UserError(f"--baseline {text}: must be the path of one of the runs, or KEY=VALUE{hint}")
    known = {name for group in groups for run in group.runs for name in (*(run.config or ()), *(run.choices or ()))}
    if key not in known:
        raise UserError(f"--baseline {text}: no run has the key {key!r}{did_you_mean(key, known)}")
    return key, value


def _value(group: Group, key: str) -> object:
    run = group.runs[0]
    return (run.choices or {}).get(key, (run.config or {}).get(key, ABSENT))


def _is(value: object, text: str) -> bool:
    if isinstance(value, Target):  # without a record of options, a component is known by its class
        return value.rpartition(".")[2].lower() == text.lower().replace("_", "")
    if isinstance(value, (int, float)):
        try:
            return bool(value == yaml.safe_load(text))
        except yaml.YAMLError:
            return False
    return str(value) == text
