"""The arguments of ``fedsim report``, a command of `fedsim.cli.main`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.comparing import newest_sweep
from fedsim.cli.exit_codes import exit_codes

EXAMPLES = (
    "[b]Examples[/b]\n\n"
    "fedsim report outputs/2026-01-31/12-00-00-123456\n\n"
    "fedsim report outputs/multirun --baseline aggregator=fedavg --target test_accuracy=0.9 --out study.html"
)


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run directories, sweeps, globs or metrics.csv files; default: the newest sweep in outputs."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; - is stdout.")] = Path("report.html"),
    metric: Annotated[
        str | None, typer.Option(help="Column to judge by; default: the metric that judges the runs.")
    ] = None,
    better: Annotated[
        str | None,
        typer.Option(metavar="min|max", help="Whether low or high values are better; by default as the runs say."),
    ] = None,
    last: Annotated[
        int | None, typer.Option(metavar="K", help="Also show the mean of the last K evaluated rounds.")
    ] = None,
    at: Annotated[int | None, typer.Option(metavar="ROUND", help="Also show the value in this round.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="METRIC=VALUE", help="Also show the rounds and bytes it took to get there.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE|RUN", help="Show paired differences from these runs (repeatable)."),
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="KEY,KEY...", help="Settings to show; default: all that differ.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="final|chosen|best|last|at|target", help="The value to sort by and take differences of."),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Use what unfinished runs have, too.")] = False,
) -> None:
    """Write one HTML page on a run, a sweep or a comparison: results, curves, settings, and how to repeat it."""
    with exit_codes():
        from fedsim.compare.table import Question
        from fedsim.report import command

        shown = None if keys is None else tuple(keys.split(","))
        question = Question(metric, last, target, tuple(baseline or ()), by, shown, better, None, at, partial)
        command.write(runs or [newest_sweep("report")], question, out)
