"""Ctrl-C and SIGTERM end a run after the round that it is in; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal ended a run.

    Attributes:
        number: of the signal; the exit code is 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def reason(self) -> str:
        """For the summary of the run."""
        return "stopped by the user" if self.number == signal.SIGINT else f"stopped by {self}"


@dataclass
class Asked:
    """The signals that came."""

    numbers: list[int] = field(default_factory=list)

    def end(self) -> None:
        """Raise `Interrupted` if there was one."""
        if self.numbers:
            raise Interrupted(self.numbers[0])


@contextmanager
def after_the_round(say: Callable[[str], None]) -> Iterator[Asked]:
    """Keep signals in what this yields, for the end of the round; a second one raises `Interrupted` where it comes.

    Python loses an exception that a signal raises in a destructor or another callback; `Asked.end` raises it again.
    Signals that somebody else handles, or ignores, are left alone.
    """
    asked = Asked()

    def handle(number: int, frame: FrameType | None) -> None:
        asked.numbers.append(number)
        if len(asked.numbers) > 1:
            raise Interrupted(number)
        with suppress(OSError, RuntimeError):  # of a console that is in the middle of another line
            say("ending after this round; once more ends it at once")

    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number, handler in usual.items() if main and signal.getsignal(number) is handler]
    for number in ours:
        signal.signal(number, handle)
    try:
        yield asked
    finally:
        for number in ours:
            signal.signal(number, usual[number])
