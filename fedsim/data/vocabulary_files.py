"""A vocabulary that a file lists: a word a line, with or without how often it occurs."""

from __future__ import annotations

from pathlib import Path

from fedsim.data.contents import read_whole
from fedsim.errors import UserError


def read_vocabulary(path: str, size: int | None) -> tuple[str, ...]:
    """Return the words of a file, the most frequent first.

    Each line is a word, or a word, white space and a count, as in TensorFlow Federated's ``stackoverflow.word_count``.
    Where there are counts, the words with the highest come first; equal ones, and words without counts, stay in the
    order of the file.

    Args:
        path: ``data.vocabulary_file`` as the user wrote it.
        size: how many words are taken, the first of them; None takes all.

    Raises:
        UserError: if the file cannot be read, a line is something else, a word comes twice, or there are too few.
    """
    where = f"data.vocabulary_file={path}"
    try:
        text = read_whole(Path(path).expanduser()).decode().removeprefix("\ufeff")
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    except UnicodeError:
        raise UserError(f"{where}: is not UTF-8 text") from None
    counts: dict[str, int] = {}
    counted = None
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        if counted is None:
            counted = len(fields) == 2
        count = fields[1] if counted and len(fields) == 2 else "0"
        if len(fields) != 1 + counted or not (count.isascii() and count.isdigit() and len(count) < 19):
            form = "a word and a count" if counted else "a word"
            raise UserError(f"{where}: line {number} is not {form}, as the first line is: {line.strip()[:40]!r}")
        if fields[0] in counts:
            raise UserError(f"{where}: line {number} has the word {fields[0]!r} again")
        counts[fields[0]] = int(count)
    if not counts:
        raise UserError(f"{where}: has no words")
    if size is not None and len(counts) < size:
        raise UserError(f"data.vocabulary_size={size}: {path} has only {len(counts):,} words; null takes all")
    return tuple(sorted(counts, key=lambda word: -counts[word])[:size])
