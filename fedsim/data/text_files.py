"""Text files: what encoding they are in, and what Project Gutenberg puts around a book."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from fedsim.data.contents import read_whole
from fedsim.errors import FieldError, UserError

_START = re.compile(r"^\*\*\* ?START OF [^*\n]*(?:GUTENBERG|EBOOK)[^*]{0,300}(?:\*\*\*[^\n]*)?$", re.MULTILINE)
_END = re.compile(r"^(?:\*\*\* ?END OF [^*\n]*(?:GUTENBERG|EBOOK)|End of (?:the )?Project Gutenberg)", re.MULTILINE)
_FEW_CONTROLS = 0.02
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_encoding(encoding: str) -> None:
    """Require the name of an encoding of text.

    Raises:
        FieldError: if Python knows no such encoding.
    """
    try:
        "a".encode(encoding).decode(encoding)
    except (LookupError, UnicodeError, ValueError, TypeError) as error:
        raise FieldError(
            "encoding", encoding, "must be an encoding that Python knows, such as utf-8, latin-1, cp1252 or utf-16"
        ) from error


def read_text(file: Path, path: str | None, encoding: str | None = None) -> str:
    """Return a text file's content without a byte order mark, its line ends made one character.

    Args:
        file: the file.
        path: ``data.path`` as the user wrote it, for messages.
        encoding: ``data.encoding``, or None for a source of UTF-8 that has no such key.

    Raises:
        UserError: if it is not there, not text in this encoding or empty.
    """
    try:
        content = read_whole(file)
    except FileNotFoundError as error:
        raise UserError(f"data.path={path}: there is no file or folder {file}") from error
    except OSError as error:
        raise UserError(f"data.path={path}: {file} cannot be read ({error.strerror})") from error
    try:
        text = content.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise UserError(f"data.path={path}: {file} {_why_not(content, at, encoding)}") from error
    if "\0" in text:
        raise UserError(f"data.path={path}: {file} is not text (NUL at character {text.index(chr(0))})")
    if not _is_utf_8(encoding) and _controls(text) > _FEW_CONTROLS * len(text):  # any byte is text in latin-1
        raise UserError(f"data.path={path}: {file} is not text ({_controls(text)} control characters)")
    if not text.strip():
        raise UserError(f"data.path={path}: {file} is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def without_licence(text: str) -> tuple[str, int]:
    """Return the text between Project Gutenberg's marks of start and end, and how many characters are cut off."""
    start = _START.search(text)
    end = _END.search(text, start.end() if start else 0)
    inner = text[start.end() if start else 0 : end.start() if end else len(text)]
    return (inner.strip("\n") + "\n", len(text) - len(inner)) if start or end else (text, 0)


def _is_utf_8(encoding: str | None) -> bool:
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _controls(text: str) -> int:
    return sum(text.count(chr(code)) for code in (*range(1, 9), *range(14, 27), *range(28, 32)))


def _why_not(content: bytes, at: int, encoding: str | None) -> str:
    """Say what bytes that cannot be decoded may be instead."""
    name = "UTF-8" if _is_utf_8(encoding) else encoding
    what = f"is not {name} text (byte {at})"
    if content[:2] in _UTF_16:
        other = "utf-16"
    elif b"\0" in content:
        return f"is not text (NUL at byte {content.index(0)})"
    else:
        other = "cp1252" if any(0x80 <= byte < 0xA0 for byte in content) else "latin-1"
        controls = _controls(content.decode("latin-1"))
        if controls > _FEW_CONTROLS * len(content):
            return f"is not text ({controls} control characters)"
        try:
            content.decode("utf-8")
            other = "utf-8"
        except UnicodeError:
            pass
    return f"{what}; " + (f"save it as UTF-8 (it may be {other})" if encoding is None else f"set data.encoding={other}")
