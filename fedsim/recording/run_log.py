"""``run.log``: the messages of a run, appended to a file in its directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedsim.errors import printable


@contextmanager
def logging_to(directory: Path) -> Iterator[None]:
    """Append log messages to ``run.log`` in a run's directory while the context lasts, unless a handler already does.

    The file appears with the first message.
    """
    root, file = logging.getLogger(), (directory / "run.log").resolve()
    if any(getattr(handler, "baseFilename", None) == str(file) for handler in root.handlers):
        yield
        return
    level = root.level
    handler = _RunLog(file, encoding="utf-8", delay=True)
    handler.setFormatter(_OneLine("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError):  # a full disk, of which the run has told
            handler.close()


class _OneLine(logging.Formatter):
    """Writes a message as one line, because it may quote a stranger's file; the traceback of a bug keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        return printable(super().formatMessage(record)).replace("\n", "\\n")

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        return printable(super().formatException(ei))


class _RunLog(logging.FileHandler):
    """Leaves it to the run to say that its directory is gone or the disk full."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # the file is opened by the first message
            self.handleError(record)
