"""The user's own files: identified by their content, with a one-line error for what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fedsim.errors import UserError, show


def existing(path: str | None, *files: Path) -> tuple[Path, ...]:
    """Return the files, or raise `UserError` naming the first that is not there."""
    for file in files:
        if not file.is_file():
            raise UserError(f"data.path={show(path)}: there is no file {file}")
    return files


def content_identity(path: str | None, files: Iterable[Path]) -> str:
    """Return a digest of the files' names and contents, which the cache of any other files does not have.

    Raises:
        UserError: if a file cannot be read.
    """
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "blake2b").digest()
        except OSError as error:
            raise UserError(f"data.path={show(path)}: {file} cannot be read ({error.strerror})") from error
        whole.update(file.name.encode() + b"\0" + digest)
    return whole.hexdigest()
