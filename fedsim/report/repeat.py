"""How to make the runs again: commands, versions, seeds, and what the record does not hold."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.compare.reading import CONFIG, Run
from fedsim.compare.records import Target
from fedsim.recording.typed import run_overrides, sweep_overrides
from fedsim.report.summaries import UNKNOWN, at, packages, text, together

_MOST = 6


def sweep_folder(run: Run) -> Path | None:
    """The folder of the sweep to which a run belongs."""
    folders = (run.path.parent, run.path.parent.parent)
    return next((folder for folder in folders if (folder / "sweep.yaml").is_file()), None)


def commands(runs: Sequence[Run], names: Mapping[Path, str], folder: Path) -> list[tuple[str, str]]:
    """What was typed, as ``(what it makes, command)``, and what makes a run again from its record.

    A stranger's record may hold anything: what does more than set up the runs is not shown.
    """
    found: list[tuple[str, str]] = []
    sweeps = dict.fromkeys(sweep_folder(run) for run in runs)
    for sweep in sweeps:
        if sweep is not None and (typed := sweep_overrides(sweep)):
            name = sweep.relative_to(folder).as_posix() if sweep.is_relative_to(folder) else sweep.name
            found.append((f"the sweep {'' if name == '.' else name}".strip(), f"fedsim run -m {shlex.join(typed)}"))
    for run in runs:
        if sweep_folder(run) is None and run.choices is not None and (typed := run_overrides(run.path)):
            found.append((names[run.path], f"fedsim run {shlex.join(typed)}"))
    if len(found) > _MOST:
        found[_MOST:] = []
    recorded = [run for run in runs if run.path.is_dir() and run.config is not None]
    if recorded:
        record = shlex.quote(f"{names[recorded[0].path]}/{CONFIG}")
        what = "the same from its record" if len(runs) == 1 else "one of the runs, from its record"
        what += f" (in the folder that holds {'it' if len(runs) == 1 else 'them'})"
        found.append((what, f"fedsim run {record}"))
    return found


def facts(runs: Sequence[Run], summaries: Mapping[Path, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Versions, seeds and machine, each with the several values that runs have."""
    found = [summaries[run.path] for run in runs]
    versions = packages(found)
    listed = [
        ("seeds", together("" if run.seed is None else str(run.seed) for run in runs)),
        ("fedsim", versions.pop("fedsim", UNKNOWN)),
        ("git commit of fedsim", together(text(one, "git_hash") for one in found)),
        *versions.items(),
        ("device", together(text(one, "device") for one in found)),
        ("threads", together(text(one, "threads") for one in found)),
        ("processes", together(text(one, "processes") for one in found)),
        ("hash of the data", together((text(one, "data_hash") for one in found), 3)),
    ]
    return [(name, value) for name, value in listed if value]


def sentences(runs: Sequence[Run], summaries: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """What else is needed, and what is not known."""
    found = [summaries[run.path] for run in runs]
    said = [
        "The same settings, seed, versions, kind of machine and number of threads give the same metrics.csv, byte for "
        "byte; other versions or threads give the same up to rounding."
    ]
    if any(str((run.config or {}).get("threads", "")) == "null" for run in runs):
        counts = together(text(one, "threads") for one in found)
        said.append(f"The number of threads was left to the machine; it was {counts}: add threads=N.")
    if not all(text(one, "git_hash") for one in found):
        said.append("Not all runs know the commit of fedsim that made them; those from an installed package do not.")
    else:
        said.append("The commit is that of the checkout; changes that were not committed are not recorded.")
    said.append(
        "Whether constraints.txt was used to install is not recorded; the versions above are those that the runs had."
    )
    foreign = sorted(
        {str(value) for run in runs for value in (run.config or {}).values() if isinstance(value, Target)} - {""}
    )
    foreign = [name for name in foreign if not name.startswith("fedsim.")]
    if foreign:
        said.append(f"Parts that are not fedsim's own, and are needed too: {', '.join(foreign[:_MOST])}.")
    if any(isinstance(at(one, "resumed"), list) and at(one, "resumed") for one in found):
        said.append(
            "Some runs were resumed, which changes no number unless settings were changed: see resumed in summary.json."
        )
    if not all(run.path.is_dir() for run in runs):
        said.append("Of a CSV without its run directory, nothing but its rounds is known.")
    return said
