"""A comparison as a table for the terminal, for Markdown, for LaTeX, and as a CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedsim.compare import bootstrap, escape, items
from fedsim.compare.best import best_rows, of_choice, of_optimism, of_ties
from fedsim.compare.groups import FINISHED, Group
from fedsim.compare.measures import COSTS, DIVERGED, ROUNDS
from fedsim.compare.seeds import Summary
from fedsim.compare.table import Comparison

if TYPE_CHECKING:
    from rich.table import Table

EMPTY = "-"  # nothing was measured, or nothing that is a number
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


@dataclass(frozen=True)
class Column:
    """A column as it is shown: its header, one text per row, and whether the texts are numbers."""

    header: str
    cells: list[str]
    numeric: bool


def columns(comparison: Comparison) -> list[Column]:
    """The columns to show: means with their spreads, intervals in one cell, and none that would be redundant.

    Each text is one line, without anything that a terminal might obey.
    """
    table = comparison.table
    hidden = {"seeds", "difference median", "low", "high", "pairs", "pairs wanted", "better", "worse"}
    hidden |= {f"{name} {extra}" for row in comparison.summaries for name in row for extra in ("std", "median", "n")}
    hidden |= set() if comparison.shows_best else {f"best {comparison.metric}", "best round"}
    hidden |= {bootstrap.HIGH, bootstrap.CLIENTS, bootstrap.DIFFERENCE_LOW, bootstrap.DIFFERENCE_HIGH}
    if "p" in table and table["p"].notna().sum() < 2:
        hidden.add("p")  # its interval says it
    hidden |= {
        name for name in map(str, table) if name.startswith(("bytes_down to", "bytes_up to"))
    }  # their sum is shown
    if "n" in table and any(group.keys for group in comparison.groups):
        hidden |= set(ROUNDS)
        if all(run.config is not None for group in comparison.groups for run in group.runs):
            hidden.add("run")  # the settings identify it
    if _uniform(comparison) is not None:
        hidden |= {"status", "rounds"}
    shown = []
    for name in table.columns:
        if name in hidden:
            continue
        if name == "difference":
            shown.append(Column(f"{comparison.reported} vs baseline", _intervals(comparison), True))
        elif name == bootstrap.LOW:
            shown.append(Column(f"final {comparison.metric} over clients", _over_clients(comparison), True))
        elif name == bootstrap.DIFFERENCE:
            header = f"final {comparison.metric} difference over clients"
            shown.append(Column(header, _differences_over_clients(comparison), True))
        elif name == "p":
            shown.append(Column("p (Holm)", [_probability(p) for p in table[name]], True))
        elif name == "rounds":
            shown.append(Column(name, [_rounds_of(group) for group in comparison.groups], True))
        elif name == "reached":
            goals = [next(one for key, one in row.items() if _is_cost(key)) for row in comparison.summaries]
            shown.append(Column(name, [_reached(one) for one in goals], True))
        elif name.startswith("bytes to "):
            medians = [found[name].median for found in comparison.summaries if name in found]
            scale, word = unit([*table[name], *medians])
            shown.append(Column(f"{word}{name.removeprefix('bytes')}", _numbers(comparison, name, scale, 2), True))
        elif name.startswith("rounds to "):
            shown.append(Column(str(name), _numbers(comparison, name, places=1), True))
        else:
            numeric = all(_is_missing(cell) or isinstance(cell, (int, float)) for cell in table[name].astype(object))
            shown.append(Column(str(name), _numbers(comparison, name), numeric))
    return [Column(escape.one_line(one.header), list(map(escape.one_line, one.cells)), one.numeric) for one in shown]


def _is_cost(name: str) -> bool:
    """Whether a column is about what it took to reach the target."""
    return name.startswith(tuple(f"{what} to " for what in ("rounds", "bytes", *COSTS)))


def notes(comparison: Comparison, choices: bool = True) -> list[str]:
    """The sentences below a table, each in one line, without anything that a terminal might obey.

    Args:
        comparison: what the table is of.
        choices: whether to say on which data something was chosen.
    """
    table, said = comparison.table, [f"{comparison.metric}; sorted by: {comparison.sorted_by}"]
    said += of_choice(comparison) if choices else []
    if (rounds := _uniform(comparison)) is not None:
        said.append(f"all runs are done after {rounds} rounds")
    if "n" in table:
        said.append("mean ± sample standard deviation over n seeds")
        said += _on_incomplete(comparison)
    if any(str(name).startswith("bytes to") for name in table):
        said.append("bytes: received and sent by all clients")
    said += of_optimism(comparison) if choices else []
    accuracies = [comparison.metric, *([comparison.choice.column] if comparison.choice else [])]
    shown = (str(name).partition(" ")[2] for name in table)
    accuracies += [name for name in shown if name.startswith("unseen_")]
    said += items.sentences(comparison.groups, list(dict.fromkeys(accuracies))) + of_ties(comparison)
    return list(map(escape.one_line, said + comparison.notes))


def _on_incomplete(comparison: Comparison) -> list[str]:
    """How to read cells of groups in which some seeds have no value."""
    said = []
    for to_target in (False, True):
        found = [
            one
            for row in comparison.summaries
            for name, one in row.items()
            if one.n < one.total > 1 and _is_cost(name) == to_target
        ]
        without = [one for one in found if one.failed and math.isnan(one.mean)]
        if to_target and without:
            said.append(
                "rounds, bytes and time to the target: where not all seeds reached it, the median of all, never "
                "counting as later than any; a mean would leave out just these"
            )
        elif without:
            said.append(
                "median (k of n): of all seeds, with those that diverged counted as worse than any value (- if that is "
                "the median); a mean would leave out just these"
            )
        if not to_target and any(not math.isnan(one.mean) for one in found):
            said.append("mean (k of n): over the k seeds that have a value")
    if any(one.failed and not math.isnan(one.mean) for row in comparison.summaries for one in row.values()):
        said.append("means leave out the seeds that failed (diverged, or never reached the target), which flatters")
    if any(row[comparison.sorted_by].failed for row in comparison.summaries):
        said.append("groups with seeds that failed come after those without")
    return said


def render(comparison: Comparison, width: int) -> list[Table]:
    """The table for a terminal of `width` columns, the best row in bold.

    Numbers are never cut off or wrapped: what does not fit goes into a second table with the same settings in front.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text  # not plain strings, in which rich reads [brackets] as markup

    measured = comparison.table.columns.get_loc("rounds")  # settings and state before it, results behind it
    assert isinstance(measured, int)
    settings = {escape.one_line(str(name)) for name in comparison.table.columns[: measured + 1]}
    metric = escape.one_line(comparison.metric)
    shown = [(column, header_lines(column.header, metric)) for column in columns(comparison)]
    fixed = [pair for pair in shown if pair[0].header in settings]
    results = [pair for pair in shown if pair[0].header not in settings]
    room = width - min(sum(_width(*pair) for pair in fixed), width // 2)
    blocks: list[list[tuple[Column, str]]] = [[]]
    for pair in results:
        if blocks[-1] and sum(_width(*other) for other in [*blocks[-1], pair]) > room:
            blocks.append([])
        blocks[-1].append(pair)
    tables = []
    for block in blocks:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for column, header in [*fixed, *block]:
            justify: Literal["right", "left"] = "right" if column.numeric else "left"
            least = _width(column, header) - 2 if (column, header) in block else None
            table.add_column(Text(header), justify=justify, overflow="fold", min_width=least)
        for at, bold in enumerate(best_rows(comparison)):
            cells = (Text(column.cells[at]) for column, _ in [*fixed, *block])
            table.add_row(*cells, style="bold" if bold else "")
        tables.append(table)
    return tables


def header_lines(name: str, metric: str) -> str:
    """A column's name in narrow lines, without the metric, which the note below names."""
    if name.endswith(" vs baseline"):
        return "difference to\nthe baseline"
    if name.endswith(" over clients"):
        return "difference\nover clients" if "difference" in name else "final, 95%\nover clients"
    if found := re.match(r"(chosen) ((?:test|validation|unseen|personal)_)|(final) (unseen_)", name):
        word, data = found[1] or found[3], found[2] or found[4]
        return f"{word}:\n{data.removesuffix('_')}" + ("\npersonal" if f"{data}personal_" in name else "")
    for word in ("final", "best", "last", "at"):
        if name.startswith(f"{word} ") and name.endswith(f" {metric}"):
            return name.removesuffix(f" {metric}")
    if name in ROUNDS:
        return name.replace(" ", "\n")
    if re.match(r"\w+ to ", name):  # what it took to reach the target
        what, _, target = name.partition(" to ")
        return f"{what} to\n" + re.sub(r"(?=[<>]=)", "\n", target).replace(f"{metric}\n", "")
    return re.sub(r"([._/])", r"\1\n", name) if len(name) >= 10 else name


def _width(column: Column, header: str) -> int:
    return 2 + max(map(len, [*header.splitlines(), *column.cells]))


def markdown(comparison: Comparison) -> str:
    """A table in GitHub's Markdown, the best row in bold, the notes below."""
    shown = columns(comparison)
    lines = [[escape.markdown(column.header) for column in shown]]
    lines.append(["---:" if column.numeric else "---" for column in shown])
    for at, bold in enumerate(best_rows(comparison)):
        cells = [escape.markdown(column.cells[at]) for column in shown]
        lines.append([f"**{cell}**" if bold and cell else cell for cell in cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = escape.markdown("; ".join(notes(comparison)))
    said = re.sub(r"^(\d*)([-+.)]\s)", r"\1\\\2", said)  # else the paragraph would be a list
    return f"{text}\n\n{said}.\n"


def latex(comparison: Comparison) -> str:
    """A ``tabular`` with the rules of the package booktabs, the best row in bold, the notes as comments."""
    shown = columns(comparison)
    lines = [f"% {escape.latex(note)}" for note in notes(comparison)]
    lines += [rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in shown)}}}", r"\toprule"]
    lines += [" & ".join(escape.latex(column.header) for column in shown) + r" \\", r"\midrule"]
    for at, bold in enumerate(best_rows(comparison)):
        cells = [escape.latex(column.cells[at]) for column in shown]
        lines.append(" & ".join(rf"\textbf{{{cell}}}" if bold and cell else cell for cell in cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def csv(comparison: Comparison) -> str:
    """Every column, also those not shown, in full precision."""
    return escape.csv(comparison.table)


def number(value: float, decimals: int | None = None) -> str:
    """Four decimals for fractions, whole numbers as they are, three digits for what is very small or large."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:.0f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def _numbers(comparison: Comparison, name: str, scale: float = 1.0, places: int = 4) -> list[str]:
    """A column's cells, with their spreads where there are any; measured fractions all have the same decimals."""
    table, summaries = comparison.table, [found.get(name) for found in comparison.summaries]
    cells = list(table[name].astype(object))
    is_measure = any(found is not None for found in summaries)
    stds = list(table[f"{name} std"]) if is_measure and f"{name} std" in table else [math.nan] * len(cells)
    medians = [math.nan if found is None else found.median for found in summaries]
    values = [float(cell) / scale for cell in cells if not _is_missing(cell) and isinstance(cell, (int, float))]
    values += [value / scale for value in medians if math.isfinite(value)]
    decimals = None
    if values and is_measure:
        fractional = any(not value.is_integer() for value in values) or any(std > 0 for std in stds)
        largest = max(map(abs, values))
        if not fractional:
            decimals = 0
        elif 1e-3 <= largest < 1e4 or largest == 0:
            decimals = places if largest < 10 else 1 if largest < 1000 else 0
    texts = []
    for cell, std, found in zip(cells, stds, summaries, strict=True):
        if found is not None and found.n < found.total:
            texts.append(_incomplete(found, name, scale, decimals))
        elif _is_missing(cell):
            texts.append(EMPTY)
        elif not isinstance(cell, (int, float)):
            texts.append(str(cell))
        elif not is_measure and isinstance(cell, float):
            texts.append(f"{cell:g}")  # a setting
        else:
            texts.append(_with_spread(cell, std, scale, decimals))
    return texts


def _with_spread(mean: float, std: float, scale: float, decimals: int | None) -> str:
    return number(mean / scale, decimals) + ("" if math.isnan(std) else f" ± {number(std / scale, decimals)}")


def _incomplete(found: Summary, name: str, scale: float, decimals: int | None) -> str:
    """The cell of a group in which not every seed has a value."""
    never = _is_cost(name) and found.n + found.failed == found.total  # the column `reached` says how many
    of = "" if found.total == 1 or never or name in ROUNDS else f" ({found.n} of {found.total})"
    if not math.isnan(found.mean):
        return _with_spread(found.mean, found.std, scale, decimals) + of
    median = "median " if found.n > 0 else ""
    if math.isfinite(found.median):
        return f"{median}{number(found.median / scale, decimals)}{of}"
    if found.failed and math.isinf(found.median) and name.startswith("rounds to "):
        return "never" if math.isinf(found.until) else f"{median}> {found.until:g}"
    if found.failed == found.total and not _is_cost(name):
        return DIVERGED + (f" ({found.total} of {found.total})" if found.total > 1 else "")
    return EMPTY + of


def _reached(found: Summary) -> str:
    """How many seeds reached the target; of a run that has not ended it is not known."""
    unknown = found.total - found.n - found.failed
    return f"{found.n}/{found.total}" + (f" ({unknown} unknown)" if unknown else "")


def _probability(p: float) -> str:
    return EMPTY if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _rounds_of(group: Group) -> str:
    """The rounds that a group's runs have done."""
    done = [run.rounds for run in group.runs if run.rounds is not None]
    if not done:
        return EMPTY
    return str(done[0]) if len(set(done)) == 1 else f"{min(done)} to {max(done)}"


def _intervals(comparison: Comparison) -> list[str]:
    """Differences to the baseline with their intervals; the baseline's own cell says so."""
    table, texts = comparison.table, []
    low_is_better = comparison.mode == "min" or comparison.by == "target"
    names = ["difference", "difference median", "low", "high", "pairs", "pairs wanted"]
    digits = _digits(table[names[:4]].to_numpy(float).ravel(), "+")
    for difference, median, low, high, pairs, wanted in table[names].itertuples(index=False):
        if _is_missing(pairs):
            texts.append(EMPTY if math.isnan(difference) else "baseline")
            continue
        text = EMPTY
        if not math.isnan(difference):
            interval = "" if math.isnan(low) else f" ({low:{digits}}, {high:{digits}})"
            text = f"{difference:{digits}}{interval}"
        elif math.isfinite(median):
            text = f"median {median:{digits}}"
        elif not math.isnan(median):
            text = "worse" if (median > 0) == low_is_better else "better"
        texts.append(text if pairs == wanted else f"{text} ({pairs} of {wanted} seeds)")
    return texts


def _over_clients(comparison: Comparison) -> list[str]:
    """Intervals over clients."""
    found = comparison.table[[bootstrap.LOW, bootstrap.HIGH]].astype(float)
    digits = _digits(found.to_numpy().ravel(), "")
    pairs = found.itertuples(index=False)
    return [EMPTY if math.isnan(low) else f"({low:{digits}}, {high:{digits}})" for low, high in pairs]


def _differences_over_clients(comparison: Comparison) -> list[str]:
    """Differences of final values to the baseline, with their intervals over clients."""
    found = comparison.table[[bootstrap.DIFFERENCE, bootstrap.DIFFERENCE_LOW, bootstrap.DIFFERENCE_HIGH]].astype(float)
    digits = _digits(found.to_numpy().ravel(), "+")
    rows = found.itertuples(index=False)
    return [EMPTY if math.isnan(d) else f"{d:{digits}} ({low:{digits}}, {high:{digits}})" for d, low, high in rows]


def _digits(values: Iterable[float], sign: str) -> str:
    """How values of this size are formatted."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0)
    return sign + (".4f" if largest < 10 else ".1f" if largest < 1e4 else ".3g")


def unit(values: Iterable[float]) -> tuple[float, str]:
    """The number of bytes by which to divide these, and the unit that they have then."""
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    return next(((scale, word) for scale, word in _UNITS if largest >= scale), (1, "B"))


def _uniform(comparison: Comparison) -> int | None:
    """The number of rounds, if every run is done after the same number."""
    runs = [run for group in comparison.groups for run in group.runs]
    rounds = {run.rounds for run in runs}
    if len(comparison.groups) < 2 or {run.status for run in runs} - set(FINISHED[:1]) or len(rounds) > 1:
        return None
    (only,) = rounds
    return only


def _is_missing(cell: object) -> bool:
    import pandas as pd

    return cell is pd.NA or cell is None or (isinstance(cell, float) and math.isnan(cell))
