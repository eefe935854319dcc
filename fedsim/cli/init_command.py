"""The arguments of ``fedsim init``, a command of `fedsim.cli.main`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.exit_codes import exit_codes

EXAMPLES = (
    "[b]Examples[/b]\n\n"
    "fedsim init  (an experiment of your own, configs/experiment/mine.yaml)\n\n"
    "fedsim init configs/experiment/trial.yaml\n\n"
    "fedsim init --rule same_length  (an aggregation rule: its module, its YAML and its test)\n\n"
    "fedsim init --data sines  (a data source, likewise)"
)


def init(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="FOLDER/experiment/NAME.yaml; default: configs/experiment/mine.yaml."),
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="NAME", help="Write an aggregation rule of this name instead.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME", help="Write a data source of this name instead.")
    ] = None,
    config_dir: Annotated[
        Path | None, typer.Option("--config-dir", help="The folder for the YAML; default: configs.")
    ] = None,
) -> None:
    """Write an experiment's YAML, or a rule or a data source of your own, to start from; print how to run it."""
    with exit_codes():
        from fedsim.cli import scaffold

        scaffold.write(file, rule, data, config_dir)
