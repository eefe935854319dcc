"""The arguments of ``fedsim compare``, a command of `fedsim.cli.main`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.exit_codes import exit_codes
from fedsim.errors import UserError, print_error

EXAMPLES = (
    "[b]Examples[/b]\n\n"
    "fedsim compare outputs/2026-01-31/12-00-00-123456 outputs/multirun\n\n"
    "fedsim compare outputs/multirun --target test_accuracy=0.9 --baseline aggregator=fedavg --last 5\n\n"
    "fedsim compare outputs/multirun --at 100 --baseline aggregator=fedavg\n\n"
    "fedsim compare 'outputs/multirun/*/*' --csv table.csv --latex - \n\n"
    "fedsim compare outputs/multirun --plot curves.pdf --x bytes_up"
)


def newest_sweep(command: str = "compare") -> str:
    """The newest sweep in ``outputs/multirun``, which is said as a message of `command`.

    Raises:
        UserError: if there is none.
    """
    found = {file.parent: file.lstat().st_mtime for file in Path("outputs", "multirun").glob("**/sweep.yaml")}
    if not found:
        raise UserError(
            f"{command}: name runs or sweeps, such as fedsim {command} outputs/multirun; there is no sweep here yet"
        )
    newest = max(found, key=lambda folder: found[folder])
    print_error(f"{command}: the newest sweep, {newest}", "note")
    return str(newest)


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run directories, sweeps, globs or metrics.csv files; default: the newest sweep in outputs."
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Column to compare; default: the metric that judges the runs.")
    ] = None,
    better: Annotated[
        str | None,
        typer.Option(
            metavar="min|max", help="Whether low or high values of it are better; by default as the runs say."
        ),
    ] = None,
    last: Annotated[
        int | None, typer.Option("--last", metavar="K", help="Also show the mean of the last K evaluated rounds.")
    ] = None,
    last_rounds: Annotated[
        int | None,
        typer.Option("--last-rounds", metavar="K", help="Also show the mean of what the last K rounds evaluated."),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option("--at", metavar="ROUND", help="Also show the value in this round, for runs of different length."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="METRIC=VALUE", help="Also show the rounds and bytes it took to get there.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE|RUN",
            help="Show paired differences from these runs over common seeds (KEY=VALUE is repeatable).",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,KEY...", help="Settings to show and to match baselines by; default: all that differ."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="final|chosen|best|last|at|target",
            help="The value to sort by and take differences of; default: chosen, if validation data were held back.",
        ),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Use what there is: intervals over seeds that have a value, and the last value of unfinished runs.",
        ),
    ] = False,
    bootstrap_clients: Annotated[
        bool,
        typer.Option(
            "--bootstrap-clients",
            help="Also show 95% intervals over clients (and of differences), from each run's clients.csv.",
        ),
    ] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every number to a CSV; - is stdout.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table in Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table for LaTeX (booktabs).")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw learning curves: .png, .svg or .pdf (needs matplotlib)."),
    ] = None,
    x: Annotated[
        str | None,
        typer.Option("--x", metavar="round|bytes_up|bytes_down|virtual_seconds", help="The x axis of the curves."),
    ] = None,
    heatmap: Annotated[
        bool | None,
        typer.Option(
            "--heatmap/--curves", help="Draw a heat map or curves; default: a heat map if exactly two numbers differ."
        ),
    ] = None,
) -> None:
    """Compare runs, grouping those that differ only in their seed: the settings that differ, and the results."""
    with exit_codes():
        from fedsim.compare import command
        from fedsim.compare.table import Question

        files = {"csv": csv, "markdown": markdown, "latex": latex}
        picture = command.picture(plot, x, heatmap)
        shown = None if keys is None else tuple(keys.split(","))
        question = Question(
            metric,
            last,
            target,
            tuple(baseline or ()),
            by,
            shown,
            better,
            last_rounds,
            at,
            partial,
            bootstrap_clients,
        )
        command.show(
            runs or [newest_sweep()],
            question,
            {kind: file for kind, file in files.items() if file is not None},
            picture,
        )
