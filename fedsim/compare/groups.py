"""Groups of runs that differ only in their seed, and the settings in which the groups differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedsim.compare.reading import Run
from fedsim.compare.records import Target
from fedsim.errors import UserError, did_you_mean

ABSENT = ""  # the value of a key that a config does not have
FINISHED = ("done", "stopped")


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one config and different seeds.

    Attributes:
        runs: by seed; a run without a config is a group of its own.
        keys: the config keys and options in which the groups differ, and this one's values.
    """

    runs: tuple[Run, ...]
    keys: Mapping[str, object] = field(default_factory=dict)

    @property
    def by_seed(self) -> dict[object, Run]:
        """Its runs whose seed is known."""
        return {run.seed: run for run in self.runs if run.seed is not None}

    @property
    def label(self) -> str:
        """Its settings as on the command line; the file's name for a run without a config."""
        words = [f"{key}={value}" for key, value in self.keys.items() if value != ABSENT]
        return " ".join(words) if words else self.runs[0].path.name


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Put runs into groups, in the order of their first runs.

    Returns:
        The groups; and a sentence for every run that repeats another's config and seed: it is left out, because the
        same numbers twice would make seeds look more alike than they are. A finished run is preferred to an unfinished
        one, and a longer one to a shorter.
    """
    sets: dict[object, dict[object, Run]] = {}
    said = []
    for run in runs:
        if run.config is None:
            sets[run.path] = {None: run}
            continue
        identity = frozenset((key, value) for key, value in run.config.items() if key != "seed")
        seeds = sets.setdefault(identity, {})
        other = seeds.get(run.seed)
        kept = run if other is None or _worth(run) > _worth(other) else other
        seeds[run.seed] = kept
        if other is not None:
            left = other if kept is run else run
            said.append(f"{left.path}: left out, because it has the same config and seed as {kept.path}")
    members = [tuple(sorted(seeds.values(), key=_by_seed)) for seeds in sets.values()]
    shown = differing([group[0] for group in members])
    return [Group(group, {key: values[at] for key, values in shown.items()}) for at, group in enumerate(members)], said


def only_keys(groups: Sequence[Group], asked: Sequence[str]) -> tuple[list[Group], list[str]]:
    """Return the groups with only the settings `asked`, and the other settings in which they differ.

    Raises:
        UserError: if a setting is not among those, or the ones asked for leave two groups alike.
    """
    there = list(dict.fromkeys(key for group in groups for key in group.keys))
    words = ",".join(asked)
    for key in asked:
        if key not in there:
            known = f"these runs differ in {', '.join(there)}" if there else "these runs differ only in the seed"
            raise UserError(f"--keys {words}: {known}{did_you_mean(key, there)}")
    kept = [Group(group.runs, {key: group.keys[key] for key in asked}) for group in groups]
    rest = [key for key in there if key not in asked]
    seen: dict[tuple[object, ...], int] = {}
    for at, group in enumerate(kept):
        first = seen.setdefault(tuple(group.keys.values()), at)
        if first != at and group.runs[0].config is not None:  # without one, the label is the file's name
            more = [key for key in rest if groups[first].keys[key] != groups[at].keys[key]]
            raise UserError(f"--keys {words}: two groups have {group.label}; they differ in {', '.join(more)}")
    return kept, rest


def _worth(run: Run) -> tuple[bool, int]:
    return run.status in FINISHED, -1 if run.rounds is None else run.rounds


def _by_seed(run: Run) -> tuple[float, str]:
    return (float(run.seed), "") if isinstance(run.seed, (int, float)) else (0.0, str(run.seed))


def differing(runs: Sequence[Run]) -> dict[str, list[object]]:
    """Return the settings in which the runs differ, as few as tell them apart, with each run's value.

    Where all runs have Hydra's record, an option stands for the settings that come with it: ``aggregator=fedprox``, not
    the keys that only FedProx has. A setting from a run's command line is always listed if it differs, any other only
    if its value does not follow from those listed already. Without that record, every key that differs is listed; a
    component is shown by its class, and keys that only its class has are left out. A run without a config is not
    considered and has empty values.
    """
    known = [run for run in runs if run.config is not None]
    names = [key for run in known for key in (run.config or {}) if key != "seed"]
    keys = {key: [(run.config or {}).get(key, ABSENT) for run in known] for key in dict.fromkeys(names)}
    choices: dict[str, list[object]] = {}
    if all(run.choices is not None for run in known):
        groups = dict.fromkeys(group for run in known for group in (run.choices or {}))
        choices = {group: [(run.choices or {}).get(group, ABSENT) for run in known] for group in groups}
        options = {group.replace("/", ".") for group in choices}
        keys = {key: values for key, values in keys.items() if key not in options}
    candidates = {name: v for name, v in (choices | keys).items() if len(set(v)) > 1}
    typed = {name for run in known for name in run.typed} if choices else set()
    shown = {name: values for name, values in candidates.items() if name in typed}
    for name, values in candidates.items():
        explained = _follows(values, list(shown.values())) if choices else _comes_along(name, values, shown)
        if name not in shown and not explained:
            shown[name] = values
    places = {id(run): at for at, run in enumerate(known)}
    return {
        name: [_short(shown[name])[places[id(run)]] if id(run) in places else ABSENT for run in runs]
        for name in candidates  # their own order
        if name in shown
    }


def _follows(values: Sequence[object], given: Sequence[Sequence[object]]) -> bool:
    """Whether equal `given` always means equal `values`."""
    seen: dict[tuple[object, ...], object] = {}
    return all(seen.setdefault(tuple(v[at] for v in given), value) == value for at, value in enumerate(values))


def _comes_along(name: str, values: Sequence[object], shown: Mapping[str, object]) -> bool:
    """Whether a component's key has the same value wherever it exists, so that naming the component is enough."""
    parents = (name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1))
    return len(set(values) - {ABSENT}) == 1 and any(parent in shown for parent in parents)


def _short(values: Sequence[object]) -> list[object]:
    """Classes by their own name, unless two modules have one of that name."""
    short = {value: value.rpartition(".")[2] for value in values if isinstance(value, Target)}
    if len(set(short.values())) < len(short):
        return list(values)
    return [short[value] if isinstance(value, Target) else value for value in values]
