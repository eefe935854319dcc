"""The display of a run, whose loss ends the run as Ctrl-C does: the round is finished and saved."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from types import TracebackType

from fedsim.core.results import Metrics
from fedsim.runs.console import Display


class Screen:
    """A display that notices when nobody reads it any more, as after ``| head -1`` or in a terminal that was closed.

    Attributes:
        lost: called once with the signal that the system would have sent, when the output is found closed; after that,
            nothing is shown.
    """

    def __init__(self, shown: Display) -> None:
        self._shown, self._closed = shown, False
        self.lost: Callable[[int], object] = lambda number: None

    def __enter__(self) -> Screen:
        self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._try(lambda: self._shown.__exit__(kind, error, trace))

    def show(self, metrics: Metrics, samples: int = 0, seconds: float = 0.0) -> None:
        """Show one round, whose training processed `samples` samples in `seconds` seconds."""
        self._try(lambda: self._shown.show(metrics, samples, seconds))

    def say(self, text: str) -> None:
        """Print a line of text between the rounds."""
        self._try(lambda: self._shown.say(text))

    def _try(self, show: Callable[[], None]) -> None:
        if self._closed:
            return
        try:
            show()
        except (BrokenPipeError, SystemExit):  # rich raises the latter when its pipe is closed
            self._lose(signal.SIGPIPE)
        except OSError as error:
            if error.errno != errno.EIO:  # which is what a terminal that is gone says
                error.filename = error.filename or "the console"
                raise
            self._lose(signal.SIGHUP)

    def _lose(self, number: int) -> None:
        self._closed = True
        self.lost(number)
