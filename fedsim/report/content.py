"""What the page says, as plain text in lists: nothing here is HTML, and the template escapes all of it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.compare import output
from fedsim.compare.best import best_rows
from fedsim.compare.groups import ABSENT, FINISHED, Group
from fedsim.compare.reading import NO_STATUS, Run
from fedsim.compare.records import Target
from fedsim.compare.table import Comparison
from fedsim.report import choices, repeat
from fedsim.report.clients import Spread, spread
from fedsim.report.summaries import at, duration, number, summary_of, text, texts, together

_LAST_ROWS = 12
_TELLS_NOTHING = ("none", "default", "-")  # options
_FEW = 5  # values that a heading lists


@dataclass(frozen=True)
class Card:
    """A number at the top of the page."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """A header of ``(lines, numeric)``, and rows of ``(cells, bold)``."""

    header: list[tuple[list[str], bool]]
    rows: list[tuple[list[str], bool]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Content:
    """All that the template fills in.

    Attributes:
        kind: one run, a sweep, ...
        title: what was run.
        lead: sentences on how many runs there are and how they ended.
        cards: the most important numbers.
        alerts: what was left out, ended early or does not agree.
        table: the comparison; None for a single run, whose results are the cards.
        clients: how the clients differ; None if nothing says.
        rounds: the last rounds of a single run; None for several.
        differing: setting to its values, where the runs differ.
        same: setting to its value, where they do not: the options chosen and what was typed.
        settings: every setting that all runs share.
        chosen: sentences on which number judges, and what it was measured on.
        data_notes: what was done to the data that its files do not say.
        runs: a row per run.
        commands: what to type, each with what it does.
        facts: versions, seeds, machine.
        repeating: sentences on what the record does not hold.
    """

    kind: str
    title: str
    lead: list[str]
    cards: list[Card]
    alerts: list[str]
    table: Table | None
    clients: Spread | None
    rounds: Table | None
    differing: list[tuple[str, str]]
    same: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    chosen: list[str]
    data_notes: list[str]
    runs: Table
    commands: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    repeating: list[str]


def content(comparison: Comparison, problems: Sequence[str], own_command: str) -> Content:
    """Put together what the page says.

    Args:
        comparison: of the runs.
        problems: sentences on what could not be read.
        own_command: what writes this page again.
    """
    groups = comparison.groups
    runs = [run for group in groups for run in group.runs]
    folder = os.path.commonpath([run.path.parent for run in runs])
    summaries = {run.path: summary_of(run) for run in runs}
    names = {run.path: run.path.relative_to(folder).as_posix() for run in runs}
    labels = [group.label if group.keys else names[group.runs[0].path] for group in groups]
    alerts = [_without(folder, sentence) for sentence in [*problems, *comparison.warnings]]
    if len(runs) > len({run.path.resolve() for run in runs}):
        alerts.append("several of these are the same run")
    return Content(
        kind=_kind(runs),
        title=_title(groups, runs, names),
        lead=_lead(comparison, runs),
        cards=_run_cards(comparison, runs[0], summaries[runs[0].path])
        if len(runs) == 1
        else _cards(comparison, runs, labels, summaries),
        alerts=alerts,
        table=_comparison_table(comparison, folder) if len(runs) > 1 else None,
        clients=spread(groups, labels, comparison.metric, comparison.mode),
        rounds=_rounds(runs[0]) if len(runs) == 1 else None,
        differing=_differing(groups, runs),
        same=_same(runs),
        settings=[(key, _shown(value)) for key, value in _shared_settings(runs).items()],
        chosen=choices.sentences(comparison, runs),
        data_notes=_data_notes(runs, names, summaries),
        runs=_runs_table(groups, labels, names, summaries),
        commands=[*repeat.commands(runs, names, Path(folder)), ("this page", own_command)],
        facts=repeat.facts(runs, summaries),
        repeating=repeat.sentences(runs, summaries),
    )


def _without(folder: str, sentence: str) -> str:
    """A sentence without the path to the folder of the runs, which is nobody's business."""
    return sentence.replace(f"{folder.rstrip('/')}/", "") if folder.strip("/") else sentence


def _kind(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return "One run"
    folders = {repeat.sweep_folder(run) for run in runs}
    kind = "A sweep" if len(folders) == 1 and None not in folders else "A comparison"
    return f"{kind} of {len(runs)} runs"


def _title(groups: Sequence[Group], runs: Sequence[Run], names: Mapping[Path, str]) -> str:
    """What differs, or what the runs have in common."""
    given = {str((run.config or {}).get("name", "null")) for run in runs}
    if len(given) == 1 and given.isdisjoint({"null", ""}):
        return given.pop()
    keys = list(groups[0].keys)
    if len(groups) > 1 and keys:
        values = list(dict.fromkeys(_shown(group.keys[keys[0]]) for group in groups if group.keys[keys[0]] != ABSENT))
        if len(keys) == 1 and len(values) <= _FEW and max(map(len, values)) <= 30:
            return f"{keys[0]}: {', '.join(values)}"
        if len(keys) <= 3:
            return f"{len(groups)} settings of {', '.join(keys[:-1])}{' and ' if keys[1:] else ''}{keys[-1]}"
        return f"{len(groups)} settings of {keys[0]}, {keys[1]} and {len(keys) - 2} more"
    if len(groups) > 1:
        return f"{len(groups)} runs side by side"
    return _what(runs) or names[runs[0].path]


def _what(runs: Sequence[Run]) -> str:
    """Model, data and rule that all runs have, in words; empty if that is not known."""
    model, data, rule = (_option(runs, group) for group in ("model", "data", "aggregator"))
    words = [word for word in (model, f"on {data}" if data else "") if word]
    return ", ".join([*([" ".join(words)] if words else []), *([rule] if rule else [])])


def _option(runs: Sequence[Run], group: str) -> str:
    """The option that all runs chose, or the class where that is not recorded; empty where they differ."""
    options = {(run.choices or {}).get(group) or _class(run, group) for run in runs}
    return options.pop() or "" if len(options) == 1 else ""


def _class(run: Run, group: str) -> str | None:
    found = (run.config or {}).get(group)
    return found.rpartition(".")[2] if isinstance(found, Target) else None


def _lead(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    groups = comparison.groups
    said = []
    if len(runs) > 1:
        seeds = sorted({len(group.runs) for group in groups})
        each = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        what = _what(runs)
        counted = f"{len(groups)} settings" if len(groups) > 1 else "One setting"
        said.append(
            f"{counted} with {each} {'seed' if each == '1' else 'seeds'} each" + (f", {what}." if what else ".")
        )
    statuses = ["without a status" if run.status == NO_STATUS else run.status for run in runs]
    ends = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    rounds = sorted({run.rounds for run in runs if run.rounds is not None})
    span = "" if not rounds else f" after {rounds[0]}{f' to {rounds[-1]}' if rounds[1:] else ''} rounds"
    if len(runs) == 1:
        said.append(f"{statuses[0].capitalize()}{span}.")
    elif len(ends) == 1 and statuses[0] in FINISHED:
        said.append(f"All are {statuses[0]}{span}.")
    else:
        said.append(f"Status: {', '.join(ends)};{span or ' no rounds'}.")
    end = "lower" if comparison.mode == "min" else "higher"
    choice = comparison.choice if comparison.by == "chosen" else None
    by = "" if choice is None else f", in the round with the best {choice.column}"
    said.append(f"Judged by {comparison.metric}{by}: {end} is better.")
    return said


def _cards(
    comparison: Comparison, runs: Sequence[Run], labels: Sequence[str], summaries: Mapping[Path, Mapping[str, Any]]
) -> list[Card]:
    shown = {column.header: column.cells for column in output.columns(comparison)}
    cards = []
    best = best_rows(comparison)
    if any(best) and comparison.sorted_by in shown:
        winners = [label for label, one in zip(labels, best, strict=True) if one]
        remark = winners[0] if len(winners) == 1 else f"{len(winners)} settings have it"
        if comparison.reported != comparison.sorted_by:
            value = shown[comparison.sorted_by][best.index(True)]
            remark += f", the best by {comparison.sorted_by}: {value}"
        label = comparison.reported if comparison.reported != comparison.sorted_by else f"best {comparison.sorted_by}"
        cards.append(Card(label, shown[comparison.reported][best.index(True)], remark))
    groups = comparison.groups
    cards.append(Card("runs", str(len(runs)), f"{len(groups)} settings" if len(groups) < len(runs) else ""))
    return [*cards, *_shared_cards(runs, summaries)]


def _shared_cards(runs: Sequence[Run], summaries: Mapping[Path, Mapping[str, Any]]) -> list[Card]:
    """Cards on what runs cost and what they must beat, as far as they say it."""
    found = [summaries[run.path] for run in runs]
    cards = []
    parameters = {number(one, "parameters") for one in found} - {math.nan}
    parameters = {value for value in parameters if math.isfinite(value)}
    if parameters:
        low, high = min(parameters), max(parameters)
        cards.append(Card("parameters", f"{low:,.0f}" + (f" to {high:,.0f}" if high > low else "")))
    sent = [number(one, "bytes_down") + number(one, "bytes_up") for one in found]
    if all(map(math.isfinite, sent)) and max(sent) > 0:
        scale, unit = output.unit(sent)
        least, most = (f"{value / scale:.3g}" for value in (min(sent), max(sent)))
        span = least if least == most else f"{least} to {most}"
        cards.append(Card("sent and received", f"{span} {unit}", "by all clients"))
    seconds = [number(one, "seconds") for one in found]
    if all(map(math.isfinite, seconds)):
        cards.append(Card("computing time", duration(sum(seconds)), "all runs" if len(runs) > 1 else ""))
    return cards


def _run_cards(comparison: Comparison, run: Run, summary: Mapping[str, Any]) -> list[Card]:
    """Cards of a single run: its results and what they must be compared with."""
    shown = {column.header: column.cells[0] for column in output.columns(comparison) if column.numeric}
    shown = {header: cell for header, cell in shown.items() if header not in ("rounds", "reached")}
    metric = comparison.metric
    rounds = {f"{word} {metric}": shown.pop(f"{word} round", "") for word in ("best", "chosen")}
    cards = [
        Card(header, cell, f"round {rounds[header]}" if rounds.get(header) else "") for header, cell in shown.items()
    ]
    if math.isfinite(beaten := number(summary, "data", "to_beat", "scores", metric)):
        cards.append(Card("without a model", output.number(beaten), text(summary, "data", "to_beat", "what")))
    return [*cards, *_shared_cards([run], {run.path: summary})]


def _comparison_table(comparison: Comparison, folder: str) -> Table:
    columns = output.columns(comparison)
    header = [
        (output.header_lines(column.header, comparison.metric).splitlines(), column.numeric) for column in columns
    ]
    rows = [([column.cells[at] for column in columns], bold) for at, bold in enumerate(best_rows(comparison))]
    return Table(header, rows, [_without(folder, note) for note in output.notes(comparison, choices=False)])


def _rounds(run: Run) -> Table:
    """The last rounds of a run, as its ``metrics.csv`` has them."""
    rounds = sorted({at for values in run.columns.values() for at in values.index})[-_LAST_ROWS:]
    columns = {name: values for name, values in run.columns.items() if not values.empty}
    scales = {name: output.unit(values) if name.startswith("bytes_") else (1, "") for name, values in columns.items()}
    header = [(["round"], True)]
    header += [
        (re.sub(r"_", "_\n", name).splitlines() + ([f"({unit})"] if unit else []), True)
        for name, (_, unit) in scales.items()
    ]
    rows = []
    for at_round in rounds:
        cells = [str(at_round)]
        for name, values in columns.items():
            there = at_round in values.index
            cells.append(_measured(name, float(values.loc[at_round]) / scales[name][0]) if there else "")
        rows.append((cells, False))
    return Table(header, rows)


def _measured(name: str, value: float) -> str:
    return f"{value:.3g}" if name.startswith("bytes_") else output.number(value)


def _differing(groups: Sequence[Group], runs: Sequence[Run]) -> list[tuple[str, str]]:
    found = []
    for key in dict.fromkeys(key for group in groups for key in group.keys):
        values = dict.fromkeys(_shown(group.keys.get(key, ABSENT)) or "(not set)" for group in groups)
        found.append((key, ", ".join(values)))
    seeds = list(dict.fromkeys(str(run.seed) for run in runs if run.seed is not None))
    return [*found, ("seed", ", ".join(seeds))] if len(seeds) > 1 else found


def _same(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The options and typed settings that all runs share; the components and plain numbers where no record says."""
    settings = _shared_settings(runs)
    chosen = runs[0].choices or {}
    places = {key: place for place, key in enumerate(settings)}  # the order of the record is that of the documentation
    options: dict[str, object] = {
        group: chosen[group]
        for group in sorted(chosen, key=lambda group: places.get(group.replace("/", "."), len(places)))
        if chosen[group] not in _TELLS_NOTHING and all((run.choices or {}).get(group) == chosen[group] for run in runs)
    }
    typed = {name for run in runs for name in run.typed}
    main = ("seed", "rounds", "num_clients")
    if not options:
        parts = {key: value.rpartition(".")[2] for key, value in settings.items() if isinstance(value, Target)}
        options = {key: name for key, name in parts.items() if not name.startswith("No")}
    rest = {
        key: value
        for key, value in settings.items()
        if (key in typed or key in main) and key not in options and value != "null"
    }
    return [(key, _shown(value)) for key, value in (options | rest).items()]


def _shared_settings(runs: Sequence[Run]) -> dict[str, object]:
    first = runs[0].config or {}
    return {
        key: value for key, value in first.items() if all((run.config or {}).get(key, ABSENT) == value for run in runs)
    }


def _shown(value: object) -> str:
    if isinstance(value, Target):
        return value.rpartition(".")[2]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data_notes(
    runs: Sequence[Run], names: Mapping[Path, str], summaries: Mapping[Path, Mapping[str, Any]]
) -> list[str]:
    """What the runs say about their data, each sentence once, with the runs that say it unless all do."""
    found: dict[str, list[str]] = {}
    for run in runs:
        summary = summaries[run.path]
        said = texts(summary, "data", "notes")
        if (unit := text(summary, "data", "errors")) != "":
            said.append(f"errors: {unit}")
        what, scores = text(summary, "data", "to_beat", "what"), at(summary, "data", "to_beat", "scores")
        if what and isinstance(scores, Mapping):
            beat = ", ".join(f"{name} {output.number(number(scores, name))}" for name in map(str, scores))
            said.append(f"to beat, without a model ({what}): {beat}")
        for sentence in said:
            found.setdefault(sentence, []).append(names[run.path])
    return [
        sentence if len(where) == len(runs) else f"{sentence} ({together(where, 4)})"
        for sentence, where in found.items()
    ]


def _runs_table(
    groups: Sequence[Group],
    labels: Sequence[str],
    names: Mapping[Path, str],
    summaries: Mapping[Path, Mapping[str, Any]],
) -> Table:
    header = [(["run"], False), (["seed"], True), (["status"], False), (["rounds"], True), (["time"], True)]
    header.append((["data"], False))
    several = len(groups) > 1 and any(group.keys for group in groups)
    header[1:1] = [(["settings"], False)] if several else []
    rows = []
    for group, label in zip(groups, labels, strict=True):
        for run in group.runs:
            summary = summaries[run.path]
            reason = text(summary, "reason")
            cells = [names[run.path], *([label] if several else []), "" if run.seed is None else str(run.seed)]
            cells += [f"{run.status} ({reason})" if reason and run.status in (*FINISHED, "diverged") else run.status]
            cells += ["" if run.rounds is None else str(run.rounds), duration(number(summary, "seconds"))]
            rows.append(([*cells, text(summary, "data_hash")], False))
    return Table(header, rows, ["data: the hash of the data after loading and splitting; equal data have equal hashes"])
