"""What a run prints: a live table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedsim.core.results import Metrics
from fedsim.errors import printable

# Columns shown for every round; the CSV has all of them. Per-client spread and traffic would not fit 80 columns.
SHOWN = (
    "round",
    "clients",
    "train_loss",
    "validation_accuracy",
    "validation_rmse",
    "test_loss",
    "test_accuracy",
    "test_rmse",
    "test_mae",
    "delta_norm",
    "attack_success",
    "epsilon",
    "dropped",
    "virtual_seconds",
    "staleness",
    "personal_accuracy",
    "personal_rmse",
    "unseen_accuracy",
    "unseen_rmse",
)
MANY, SPARK_WIDTH = 8, 40
PACE = 10  # rounds over which clients/s and samples/s are measured


class Display(Protocol):
    """Shows rounds as they are completed; a context manager, so that the terminal is always restored."""

    def __enter__(self) -> Display:
        """Start the display."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display and restore the terminal."""
        ...

    def show(self, metrics: Metrics, samples: int = 0, seconds: float = 0.0) -> None:
        """Show one round, whose training processed `samples` samples in `seconds` seconds."""
        ...

    def say(self, text: str) -> None:
        """Print a line of text between the rounds."""
        ...


def display(mode: str, columns: Sequence[str], rounds: int, metric: str | None = None, better: str = "max") -> Display:
    """Make the display for ``console.mode``; ``auto`` is rich on a terminal or in a notebook, plain elsewhere.

    Args:
        mode: ``rich``, ``plain``, ``none`` or ``auto``.
        columns: the columns of ``metrics.csv``.
        rounds: the round limit.
        metric: the column that judges the run, drawn as a curve; None draws none.
        better: whether lower (``min``) or higher (``max``) values of the metric are better.
    """
    console = Console(highlight=False, soft_wrap=True)
    if mode == "auto":
        mode = "rich" if console.is_terminal or console.is_jupyter else "plain"
    shown = [name for name in SHOWN if name in columns]
    if mode == "rich":
        return RichDisplay(Console(highlight=False), shown, rounds, metric, better)
    return PlainDisplay(console if mode == "plain" else None, shown, rounds)


def format_value(value: int | float | None) -> str:
    """Format with four decimals, or three digits if very small or large; integers as they are, None as nothing."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else (f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.3g}")


def format_count(value: float) -> str:
    """Format a rate with two or three significant digits: 0.52, 7.4, 123, 45,600."""
    return f"{value:.2g}" if value < 10 else f"{float(f'{value:.3g}'):,.0f}"


def format_bytes(value: float) -> str:
    """Format bytes with a decimal prefix: 999 B, 1.5 kB, 12.3 MB."""
    for scale, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{value:.0f} B"


def sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """Draw values in at most `width` characters; values that share one are averaged.

    The lowest fifth share the bottom, so that the jump of the first rounds does not press all later ones to the top; a
    curve that falls is one whose highest fifth share the top.
    """
    if width < 1 or not values:
        return ""
    count = min(width, len(values))
    edges = [at * len(values) // count for at in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high, ordered = min(means), max(means), sorted(means)
    if means[0] == low:
        low = ordered[len(means) // 5]
    elif means[0] == high:
        high = ordered[-1 - len(means) // 5]
    span = high - low
    signs = " .:-=+*#" if ascii_only else "▁▂▃▄▅▆▇█"
    return "".join(signs[round((min(max(mean, low), high) - low) / span * 7) if span > 0 else 3] for mean in means)


class PlainDisplay:
    """One line per round, for files, pipes and logs; silent without a console."""

    def __init__(self, console: Console | None, shown: Sequence[str], rounds: int) -> None:
        self._console, self._shown, self._rounds = console, shown, rounds

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, metrics: Metrics, samples: int = 0, seconds: float = 0.0) -> None:
        """Print the round's non-empty cells in one line, with their names."""
        cells = [f"{name} {format_value(metrics[name])}" for name in self._shown[1:] if metrics[name] is not None]
        self.say(f"round {metrics['round']}/{self._rounds}  " + "  ".join(cells))

    def say(self, text: str) -> None:
        """Print a line of text."""
        if self._console is not None:
            self._console.print(printable(text), markup=False, emoji=False)


class RichDisplay:
    """A table of the latest rounds; below it the judged metric as a curve, the pace, the traffic and a progress bar."""

    def __init__(
        self, console: Console, shown: Sequence[str], rounds: int, metric: str | None = None, better: str = "max"
    ) -> None:
        self._console, self._shown = console, shown
        self._metric, self._better = metric, better
        self._curve: list[tuple[int, float]] = []  # round and value of the metric
        self._pace: deque[tuple[int, int, float]] = deque(maxlen=PACE)  # clients, samples, seconds of training
        self._traffic = ""
        # Header, rules, curve, pace and progress bar take ten lines; a taller table would scroll off the screen.
        self._rows: deque[list[str]] = deque(maxlen=max(5, min(20, console.height - 10)))
        self._progress = Progress(
            TextColumn("round"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("rounds", total=rounds)
        self._live = Live(console=console, refresh_per_second=8)

    def _render(self) -> Group:
        # More columns fit 80 characters only with one space between them.
        table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=len(self._shown) > MANY)
        for name in self._shown:
            table.add_column(name.replace("_", " "), justify="right")
        for row in self._rows:
            table.add_row(*row)
        lines = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._facts() if line]
        return Group(table, *lines, self._progress)

    def _facts(self) -> list[str]:
        """The curve with its last and best value; the pace and the bytes so far."""
        curve = ""
        if self._curve:
            values = [value for _, value in self._curve]
            best = (min if self._better == "min" else max)(values)
            best_round = next(at for at, value in self._curve if value == best)  # the first, if several are equal
            summary = f"  {format_value(values[-1])}  best {format_value(best)} in round {best_round}"
            room = self._console.width - len(f"{self._metric}  {summary}") - 1
            drawn = sparkline(values, min(room, SPARK_WIDTH), ascii_only=self._console.options.ascii_only)
            curve = f"{self._metric} {drawn}{summary}"
        pace = []
        if self._pace:
            clients, samples, seconds = (sum(column) for column in zip(*self._pace, strict=True))
            pace = [f"{format_count(clients / seconds)} clients/s", f"{format_count(samples / seconds)} samples/s"]
        return [curve, "  ".join([*pace, self._traffic])]

    def __enter__(self) -> RichDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(self._render(), refresh=True)
        self._live.__exit__(kind, error, trace)

    def show(self, metrics: Metrics, samples: int = 0, seconds: float = 0.0) -> None:
        """Add a row to the table, and update curve, pace, traffic and progress bar."""
        value = None if self._metric is None else metrics.get(self._metric)
        if value is not None and math.isfinite(value):
            self._curve.append((int(metrics["round"] or 0), float(value)))
        if seconds > 0:
            self._pace.append((int(metrics["clients"] or 0), samples, seconds))
        down, up = metrics.get("bytes_down"), metrics.get("bytes_up")
        if down is not None and up is not None:
            self._traffic = f"{format_bytes(down)} down, {format_bytes(up)} up"
        self._rows.append([format_value(metrics[name]) for name in self._shown])
        round_number = metrics["round"]
        assert round_number is not None
        self._progress.update(self._task, completed=round_number)
        self._live.update(self._render())

    def say(self, text: str) -> None:
        """Print a line of text above the table."""
        self._console.print(printable(text), markup=False, emoji=False, soft_wrap=True)
