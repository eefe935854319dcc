"""What a run shows: a live table on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fedsim.state import Metrics

# Shown beside every round; the CSV has all columns. Per-client spread and traffic stay in the file at 80 columns.
SHOWN = (
    "round",
    "clients",
    "train_loss",
    "test_loss",
    "test_accuracy",
    "test_rmse",
    "test_mae",
    "delta_norm",
    "attack_success",
    "epsilon",
)


class Display(Protocol):
    """Shows rounds as they are made; a context manager, so that a terminal is left in order."""

    def __enter__(self) -> Display:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        ...

    def show(self, metrics: Metrics) -> None:
        """Show one round."""
        ...

    def say(self, text: str) -> None:
        """Print a line beside the rounds."""
        ...


def display(mode: str, columns: Sequence[str], rounds: int) -> Display:
    """Make the display for ``console.mode``; ``auto`` is rich on a terminal and plain elsewhere."""
    console = Console(highlight=False, soft_wrap=True)
    if mode == "auto":
        mode = "rich" if console.is_terminal else "plain"
    shown = [name for name in SHOWN if name in columns]
    if mode == "rich":
        return RichDisplay(Console(highlight=False), shown, rounds)
    return PlainDisplay(console if mode == "plain" else None, shown, rounds)


def format_value(value: int | float | None) -> str:
    """Four decimals for fractions, whole numbers as they are, nothing for an empty cell."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else (f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.3g}")


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

    def show(self, metrics: Metrics) -> None:
        """Print the cells that are not empty, with their names."""
        cells = [f"{name} {format_value(metrics[name])}" for name in self._shown[1:] if metrics[name] is not None]
        self.say(f"round {metrics['round']}/{self._rounds}  " + "  ".join(cells))

    def say(self, text: str) -> None:
        """Print a line."""
        if self._console is not None:
            self._console.print(text, markup=False, emoji=False)


class RichDisplay:
    """A table of the latest rounds with a progress bar below."""

    def __init__(self, console: Console, shown: Sequence[str], rounds: int) -> None:
        self._console, self._shown = console, shown
        # Title, header, rules and progress bar take eight lines; a taller table would scroll off the screen.
        self._rows: deque[list[str]] = deque(maxlen=max(5, min(20, console.height - 8)))
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
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in self._shown:
            table.add_column(name.replace("_", " "), justify="right")
        for row in self._rows:
            table.add_row(*row)
        return Group(table, self._progress)

    def __enter__(self) -> RichDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(self._render(), refresh=True)
        self._live.__exit__(kind, error, trace)

    def show(self, metrics: Metrics) -> None:
        """Add a row and move the bar."""
        self._rows.append([format_value(metrics[name]) for name in self._shown])
        number = metrics["round"]
        assert number is not None
        self._progress.update(self._task, completed=number)
        self._live.update(self._render())

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, markup=False, emoji=False, soft_wrap=True)
