"""How a command ends.

Exit codes: 0 done (early stop included), 1 bug or I/O failure, 2 user error, 3 diverged, 4 some jobs of a sweep failed,
130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP (the terminal was closed), 141 because the output was closed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fedsim.errors import UserError
from fedsim.parallel.environment import print_once

EXIT_FAILED, EXIT_USER, EXIT_DIVERGED, EXIT_SOME_FAILED, EXIT_SIGNAL = 1, 2, 3, 4, 128
_STATUS_CODES = {"done": 0, "stopped": 0, "diverged": EXIT_DIVERGED, "refused": EXIT_USER}


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn expected errors into one line and an exit code; only a bug ends in a traceback."""
    try:
        yield
    except UserError as error:
        print_once(str(error))
        raise typer.Exit(EXIT_USER) from None
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        words = {signal.SIGINT: "interrupted", signal.SIGPIPE: "interrupted, because the output was closed"}
        ways = getattr(error, "__notes__", [])  # how to go on
        print_once("; ".join([words.get(number, f"interrupted by {error}"), *ways[:1]]), "note")
        raise typer.Exit(EXIT_SIGNAL + number) from None
    except OSError as error:
        print_once(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        raise typer.Exit(EXIT_FAILED) from None
    except MemoryError as error:
        print_once(f"not enough memory: {error}")
        raise typer.Exit(EXIT_FAILED) from None


def exit_code(statuses: list[str], sweep: bool = False) -> int:
    """The exit code for the statuses of a run, or of the jobs of a sweep."""
    codes = [_STATUS_CODES.get(status, EXIT_FAILED) for status in statuses]
    if sweep and any(codes):
        return EXIT_SOME_FAILED
    return codes[0] if codes else 0
