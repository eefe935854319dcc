"""Arguments and options shared by several commands of `fedsim.cli.main`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigDir = Annotated[
    str | None, typer.Option("--config-dir", help="A folder with configs of your own, laid out like fedsim's.")
]

AllowModule = Annotated[
    list[str] | None,
    typer.Option("--allow-module", help="A module of yours whose classes configs may name (repeatable)."),
]

SavedRun = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The directory of a run that saved checkpoints.")]

Checkpoint = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="last|best",
        help="The newest saved model, or the best of those kept, by the run's metric.",
    ),
]
