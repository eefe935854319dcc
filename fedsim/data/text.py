"""Next-character prediction on the user's own text: a play with a client per role, or any text."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import IGNORE, Dataset, Split, Task
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_one_of

_DEFAULT_CHUNK = 10_000
_UNKNOWN = 1
_FIRST_CHARACTER = 2
_ROLE = re.compile(r"^([^\W\d_][^\n:]{0,39}):[ \t]*$", re.MULTILINE)

Ids = NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Text:
    """Characters in, the next character out, at every position (McMahan et al. 2017, section 3; LEAF, Caldas 2018).

    Each client's text is cut by position: its last `test_fraction` is for testing and the rest for training, so the two
    never overlap. Each part becomes consecutive windows of ``sequence_length + 1`` characters, whose last character is
    the next window's first, so that every character but the first is predicted exactly once. A part's last window is
    padded (input 0, target `IGNORE`).

    Ids: 0 is padding, 1 an unknown character, then the characters of the training text in code point order. A
    character that occurs only in test text is 1 as an input and `IGNORE` as a target: it counts neither in the loss
    nor in the accuracy. A client too short for a test part of two characters trains on all its text; one with fewer
    than two characters is left out, with a warning.

    Attributes:
        path: a UTF-8 text file, or a folder of them (files directly in it, in the order of their names; hidden files
            are left out).
        sequence_length: characters per window, the steps of a sample.
        clients_by: ``speaker``: one client per role of each play, read from blocks that start with a line ``Name:``
            after a blank line, the speeches of a role one after another; ``file``: one client per file; ``chunk``: one
            client per `chunk_size` characters of a file.
        chunk_size: characters per client, only for ``clients_by=chunk``; None means 10000.
        test_fraction: share of each client's text to test on, above 0 and below 1.
    """

    path: str | None = None
    sequence_length: int = 80
    clients_by: str = "speaker"
    chunk_size: int | None = None
    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is missing, out of range or has no effect with `clients_by`.
        """
        if not self.path:
            raise FieldError("path", self.path, "name a text file or a folder of text files")
        check_at_least(self, 1, "sequence_length")
        check_one_of(self, "clients_by", ("speaker", "file", "chunk"))
        check_at_least(self, 2, "chunk_size")
        check_above(self, 0, "test_fraction")
        check_between(self, 0, 1, "test_fraction", open_high=True)
        if self.chunk_size is not None and self.clients_by != "chunk":
            raise FieldError("chunk_size", self.chunk_size, "has an effect only with clients_by=chunk")

    def load(self, seed: int) -> Dataset:
        """Return inputs and targets ``[S, sequence_length]`` int64, S windows in the order of the clients.

        Args:
            seed: not used, the split is by position.

        Raises:
            UserError: if the path cannot be read as text, or gives no client or no test window.
        """
        texts = self._client_texts()
        usable = {name: code_points(text) for name, text in texts.items() if len(text) > 1}
        if len(usable) < len(texts):
            _log.warning(
                "text: left out %d of %d clients, which have fewer than 2 characters each",
                len(texts) - len(usable),
                len(texts),
            )
        if not usable:
            raise UserError(f"data.path={self.path}: no client has the 2 characters it takes to predict one")
        train, test = [], []
        for codes in usable.values():
            held_out = int(len(codes) * self.test_fraction)
            if held_out < 2 or len(codes) - held_out < 2:
                held_out = 0
            train.append(codes[: len(codes) - held_out])
            test.append(codes[len(codes) - held_out :])
        vocabulary = np.flatnonzero(np.bincount(np.concatenate(train)))
        size = _FIRST_CHARACTER + len(vocabulary)
        splits = [self._windows([_encode(part, vocabulary) for part in parts]) for parts in (train, test)]
        if len(splits[1]) == 0:
            raise UserError(
                f"data.test_fraction={self.test_fraction}: no client's text gives a test window: the test "
                "parts are too short, or have no character of the training text; raise it, or change data.clients_by"
            )
        return Dataset(
            name="text",
            task=Task.SEQUENCE_LABELLING,
            train=splits[0],
            test=splits[1],
            num_outputs=size,
            vocabulary_size=size,
            client_names=tuple(usable),
            ordered=True,
        )

    def _windows(self, parts: list[Ids]) -> Split:
        """Cut the parts of all clients into windows."""
        length = self.sequence_length
        predictions = np.array([max(len(part) - 1, 0) for part in parts])
        counts = -(-predictions // length)
        inputs = np.zeros((counts.sum(), length), np.int64)
        targets = np.full((counts.sum(), length), IGNORE, np.int64)
        last = np.cumsum(counts)
        for part, start, count, steps in zip(parts, last - counts, counts, predictions, strict=True):
            inputs[start : start + count].reshape(-1)[:steps] = part[:-1]
            targets[start : start + count].reshape(-1)[:steps] = np.where(part[1:] == _UNKNOWN, IGNORE, part[1:])
        owners = np.repeat(np.arange(len(parts)), counts)
        place = np.arange(len(inputs)) - np.repeat(last - counts, counts)
        lengths = np.minimum(predictions[owners] - place * length, length)
        counted = (targets != IGNORE).any(1)  # a window of unknown characters only has nothing to measure
        return Split(inputs[counted], lengths[counted], targets[counted], owners[counted])

    def _client_texts(self) -> dict[str, str]:
        """Read the files and return each client's text by its name."""
        files = self._files()
        texts: dict[str, str] = {}
        for file in files:
            text = read_text(file, self.path)
            prefix = f"{file.name}/" if len(files) > 1 else ""
            if self.clients_by == "file":
                texts[file.name] = text
            elif self.clients_by == "chunk":
                size = self.chunk_size or _DEFAULT_CHUNK
                texts |= {f"{prefix}chunk_{i // size}": text[i : i + size] for i in range(0, len(text), size)}
            else:
                roles = {role: "\n".join(parts) for role, parts in speeches(text, file).items()}
                if not roles:
                    raise UserError(
                        f"data.path={self.path}: {file.name} has no speaker blocks (a blank line, a line 'Name:', "
                        "speech); use data.clients_by=chunk"
                    )
                texts |= {f"{prefix}{role}": speech for role, speech in roles.items()}
        return texts

    def _files(self) -> list[Path]:
        path = Path(self.path or "").expanduser()
        try:
            if not path.is_dir():
                return [path]
            files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
        except OSError as error:
            raise UserError(f"data.path={self.path}: cannot be read ({error.strerror})") from error
        if not files:
            raise UserError(f"data.path={self.path}: the folder has no files directly in it")
        return files


def read_text(file: Path, path: str | None) -> str:
    """Return a text file's content, its line ends made one character.

    Args:
        file: the file.
        path: ``data.path`` as the user wrote it, for messages.

    Raises:
        UserError: if it is not there, not UTF-8 text or empty.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"data.path={path}: there is no file or folder {file}") from error
    except OSError as error:
        raise UserError(f"data.path={path}: {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"data.path={path}: {file} is not UTF-8 text (byte {error.start})") from error
    if "\0" in text:
        raise UserError(f"data.path={path}: {file} is not text (NUL at character {text.index(chr(0))})")
    if not text.strip():
        raise UserError(f"data.path={path}: {file} is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def speeches(text: str, file: Path) -> dict[str, list[str]]:
    """Return each role's speeches of a play, in the order in which the roles first speak."""
    # A speech may have a line that ends with a colon too: only one after a blank line names a role.
    heads = [head for head in _ROLE.finditer(text) if _follows_blank_line(text, head.start())]
    if not heads:
        return {}
    if text[: heads[0].start()].strip():
        _log.warning("text: %d characters before the first role of %s are left out", heads[0].start(), file.name)
    ends = [head.start() for head in heads[1:]] + [len(text)]
    spoken: dict[str, list[str]] = {}
    for head, end in zip(heads, ends, strict=True):
        parts = spoken.setdefault(head[1].strip(), [])
        if part := text[head.end() : end].strip():
            parts.append(part)
    return spoken


def _follows_blank_line(text: str, start: int) -> bool:
    """Whether the line that starts there is the first one, or the one before it is blank."""
    return start == 0 or not text[text.rfind("\n", 0, start - 1) + 1 : start].strip()


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the Unicode number of each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _encode(codes: NDArray[np.uint32], vocabulary: NDArray[np.int64]) -> Ids:
    """Return the id of each code point."""
    at = np.searchsorted(vocabulary, codes).clip(max=len(vocabulary) - 1)
    return np.where(vocabulary[at] == codes, at + _FIRST_CHARACTER, _UNKNOWN)
