"""The arguments of ``fedsim list``, a command of `fedsim.cli.main`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedsim.cli import completion
from fedsim.cli.exit_codes import exit_codes

EXAMPLES = (
    "[b]Examples[/b]\n\n"
    "fedsim list\n\n"
    "fedsim list aggregator  (the options of a group)\n\n"
    "fedsim list client=default  (the keys of an option)\n\n"
    "fedsim list learning rate  (wherever these words occur)"
)


def list_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="GROUP|GROUP=OPTION|WORD",
            help="A group, such as aggregator/combine; an option, such as client=default; or words to search for.",
            autocompletion=completion.complete_listed,
        ),
    ] = None,
    config_dir: Annotated[str | None, typer.Option("--config-dir", help="List your own configs too.")] = None,
) -> None:
    """Print groups and options, or an option's keys; or search all of them, and what is said of them, for words."""
    with exit_codes():
        from fedsim.cli import listing

        listing.show(words or [], config_dir)
