"""Ctrl-C, SIGTERM and SIGHUP end a run after its current round; a second one ends it at once."""

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
        number: of the signal; the exit code is 128 plus it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def reason(self) -> str:
        """Why the run ended, in words for its summary."""
        words = {signal.SIGINT: "stopped by the user", signal.SIGPIPE: "its output was closed"}
        return words.get(signal.Signals(self.number), f"stopped by {self}")


@dataclass
class Asked:
    """The signals received so far."""

    numbers: list[int] = field(default_factory=list)

    def end(self) -> None:
        """Raise `Interrupted` if there were any."""
        if self.numbers:
            raise Interrupted(self.numbers[0])


@contextmanager
def after_the_round(say: Callable[[str], None]) -> Iterator[Asked]:
    """Collect signals in the yielded `Asked` until the round ends; a second one raises `Interrupted` at once.

    Python loses an exception that a signal raises in a destructor or another callback; `Asked.end` raises it again.
    Signals that are ignored, or have another handler already, are left alone.
    """
    asked = Asked()

    def handle(number: int, frame: FrameType | None) -> None:
        asked.numbers.append(number)
        if len(asked.numbers) > 1:
            raise Interrupted(number)
        with suppress(OSError, RuntimeError):  # from a console that is in the middle of another line
            say("ending after this round; interrupt again to end at once")

    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
    usual |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number, handler in usual.items() if main and signal.getsignal(number) is handler]
    for number in ours:
        signal.signal(number, handle)
    try:
        yield asked
    finally:
        for number in ours:
            signal.signal(number, usual[number])
