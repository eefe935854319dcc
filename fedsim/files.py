"""Writing a result that may be read meanwhile, or that replaces an older one."""

from __future__ import annotations

import os
from pathlib import Path

from fedsim.errors import UserError


def write_file(file: str | Path, content: bytes) -> None:
    """Write a file whole: a reader of `file` sees the old content or the new, never a part.

    Raises:
        UserError: if it cannot be written.
    """
    path = Path(file)
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)  # a pipe or a terminal is written to, not replaced
            return
        path = path.resolve()  # a link stays one
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as out:  # never through a link
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # already gone if it was renamed
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UserError(f"cannot write {file}: {getattr(error, 'strerror', None) or error}") from error
