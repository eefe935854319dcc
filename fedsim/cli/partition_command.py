"""``fedsim partition``: print an experiment's split, and write it as a table and a picture."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from fedsim.cli.partition_plot import check, draw
from fedsim.cli.partition_report import describe, render
from fedsim.compare import escape
from fedsim.data.describe import describe as describe_data
from fedsim.data.source import load_dataset
from fedsim.errors import printable
from fedsim.errors import show as as_config
from fedsim.federation.experiment import Experiment
from fedsim.files import write_file


def show(experiment: Experiment, csv: Path | None, plot: Path | None) -> None:
    """Print an experiment's split; write its table to `csv` and its picture to `plot` if asked.

    Raises:
        UserError: if data and partition do not go together, or a file cannot be written.
    """
    from rich.console import Console  # here because importing it takes long
    from rich.text import Text

    if plot is not None:
        check(plot)
    dataset = load_dataset(experiment.data, experiment.seed)
    assignment = experiment.dividing().assign(dataset, experiment.num_clients, experiment.seed)
    report = describe(dataset, assignment)
    if csv is not None:
        write_file(csv, escape.csv(report.table).encode())
    if plot is not None:
        write_file(plot, draw(report, plot.suffix[1:].lower()))
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 500  # a line per client, for grep
    title = f"{_in_words(experiment.partition)}; {dataset.name} ({dataset.task})"
    for part in render(report, title, describe_data(dataset)):
        console.print(part)
    for note in (*dataset.notes, *assignment.notes):
        # Text, because rich reads [brackets] in strings as markup
        console.print(Text(printable(f"data: {note}")), soft_wrap=True)


def _in_words(component: object) -> str:
    """A partition and its settings, as on the command line."""
    values = (f"{field.name}={as_config(getattr(component, field.name))}" for field in fields(component))  # type: ignore[arg-type]
    return " ".join([type(component).__name__, *values])
