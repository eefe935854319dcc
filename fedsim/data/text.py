"""Next-character prediction on the user's own text: a play with a client per role, or any text."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.dataset import IGNORE, Dataset, Pooled, Split, Task
from fedsim.data.fitted import Fitted
from fedsim.data.play_heads import LAYOUTS
from fedsim.data.text_clients import read_clients
from fedsim.data.text_files import check_encoding
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_one_of
from fedsim.machine import refuse_larger

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNKNOWN = 1
_NO_CHARACTERS = ("<padding>", "<unknown>")
_FIRST_CHARACTER = len(_NO_CHARACTERS)

Ids: TypeAlias = "NDArray[np.int64]"


@dataclass(frozen=True)
class Text:
    """Characters in, the next character out, at every position (McMahan et al. 2017, section 3; LEAF, Caldas 2018).

    Each client's text is cut by position: its last `test_fraction` is for testing and the rest for training, so the two
    never overlap. Each part becomes consecutive windows of ``sequence_length + 1`` characters, whose last character is
    the next window's first, so that every character but the first is predicted exactly once. A part's last window is
    padded (input 0, target `IGNORE`). With a `stride` below `sequence_length` windows overlap, and characters are
    predicted several times.

    Ids: 0 is padding, 1 an unknown character, then the characters of the training text, or those that `characters`
    names, in code point order. A character that is not among them, as one that occurs only in test text, is 1 as an
    input and `IGNORE` as a target: it counts neither in the loss nor in the accuracy. A client too short for a test
    part of two characters trains on all its text; one with fewer than two characters is left out. What Project
    Gutenberg puts before ``*** START OF`` and after ``*** END OF`` is cut off. ``Dataset.notes`` says what was left
    out, and which roles were read.

    Attributes:
        path: a text file, or a folder of them (files directly in it, in the order of their names; hidden files are left
            out). A client of one of several files is called ``file/client``.
        sequence_length: characters per window, the steps of a sample.
        stride: characters from one window to the next, at most `sequence_length`, which None means.
        characters: None: those of the training text; ``printable``: the 100 of Python's ``string.printable``, as in the
            code of Marfoq et al. 2022, so that the size of the model does not depend on the text.
        clients_by: ``speaker``: one client per role of each play, the speeches of a role one after another; ``file``:
            one client per file; ``chunk``: one client per `chunk_size` characters of a file, for texts without roles.
        chunk_size: characters per client, only for ``clients_by=chunk``; None means 10000.
        test_fraction: share of each client's text to test on, above 0 and below 1.
        layout: how a play names who speaks, only for ``clients_by=speaker``: ``auto`` takes the layout whose names come
            back most often and refuses a text where too few do; ``colon_line`` (``NAME:`` on a line of its own),
            ``colon`` (``NAME: speech``), ``capitals_dot`` (``NAME.``), ``dot`` (``Ham.``), ``capitals`` (``NAME``),
            ``dash`` (``Name.--``) and ``italic`` (``_Name._``) force one.
        min_speeches: roles with fewer speeches are left out, only for ``clients_by=speaker``; at least 1.
        encoding: of the files, as Python names it.
    """

    path: str | None = None
    sequence_length: int = 80
    stride: int | None = None
    characters: str | None = None
    clients_by: str = "speaker"
    chunk_size: int | None = None
    test_fraction: float = 0.1
    layout: str = "auto"
    min_speeches: int = 1
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is missing, out of range or has no effect with `clients_by`.
        """
        if not self.path:
            raise FieldError("path", self.path, "name a text file or a folder of text files")
        check_at_least(self, 1, "sequence_length", "stride")
        if self.stride is not None and self.stride > self.sequence_length:
            most = f"data.sequence_length={self.sequence_length}"
            raise FieldError("stride", self.stride, f"must be at most {most}, so that no text is skipped")
        if self.characters is not None:
            check_one_of(self, "characters", ("printable",))
        check_one_of(self, "clients_by", ("speaker", "file", "chunk"))
        check_at_least(self, 2, "chunk_size")
        check_above(self, 0, "test_fraction")
        check_between(self, 0, 1, "test_fraction", open_high=True)
        if self.chunk_size is not None and self.clients_by != "chunk":
            raise FieldError("chunk_size", self.chunk_size, "has an effect only with clients_by=chunk")
        check_one_of(self, "layout", ("auto", *LAYOUTS))
        check_at_least(self, 1, "min_speeches")
        for name, default in (("layout", "auto"), ("min_speeches", 1)):
            if self.clients_by != "speaker" and getattr(self, name) != default:
                raise FieldError(name, getattr(self, name), "has an effect only with clients_by=speaker")
        check_encoding(self.encoding)

    def load(self, seed: int) -> Dataset:
        """Return inputs and targets ``[S, sequence_length]`` int64, S windows in the order of the clients.

        Args:
            seed: not used, the split is by position.

        Raises:
            UserError: if the path cannot be read as text or, for ``clients_by=speaker``, as a play, or gives no client
                or no test window.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data with the vocabulary of others; see `load`."""
        return self._load(fitted)

    def _load(self, fitted: Fitted | None) -> Dataset:
        parts, notes = read_clients(
            self.path or "", self.clients_by, self.chunk_size, self.layout, self.min_speeches, self.encoding
        )
        texts = {name: "\n".join(own) for name, own in parts.items()}
        usable = {name: code_points(text) for name, text in texts.items() if len(text) > 1}
        if len(usable) < len(texts):
            notes.append(
                f"left out {len(texts) - len(usable)} of {len(texts)} clients, which have fewer than 2 characters each"
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
        if fitted is not None and fitted.vocabulary:
            vocabulary = np.array([ord(c) for c in fitted.vocabulary if len(c) == 1], np.int64)
            if unknown := sum(int((~np.isin(part, vocabulary)).sum()) for part in train + test):
                notes.append(f"{unknown:,} characters are not in the model's vocabulary, and count as unknown")
        elif self.characters == "printable":
            vocabulary = np.sort(code_points(string.printable).astype(np.int64))
            if unknown := sum(int((~np.isin(part, vocabulary)).sum()) for part in train + test):
                notes.append(f"{unknown:,} characters are not among data.characters=printable, and count as unknown")
        else:
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
            overlap=-(-self.sequence_length // self._stride) - 1,
            fitted=Fitted(vocabulary=(*_NO_CHARACTERS, *map(chr, vocabulary.tolist()))),
            notes=tuple(notes),
            pooled=() if fitted is not None and fitted.vocabulary else (Pooled("the vocabulary"),),
        )

    @property
    def _stride(self) -> int:
        return self.sequence_length if self.stride is None else self.stride

    def _windows(self, parts: list[Ids]) -> Split:
        """Cut the parts of all clients into windows."""
        length, stride = self.sequence_length, self._stride
        predictions = np.array([max(len(part) - 1, 0) for part in parts])
        counts = np.where(predictions > 0, 1 + -(-np.maximum(predictions - length, 0) // stride), 0)
        windows = int(counts.sum())
        what = f"{windows:,} windows of {length:,} characters"
        key, value = ("sequence_length", length) if self.stride is None else ("stride", stride)
        advice = "take shorter ones" if self.stride is None else "take a larger one"
        refuse_larger(32 * windows * length, f"data.{key}", value, what, advice)
        inputs = np.zeros((windows, length), np.int64)
        targets = np.full((windows, length), IGNORE, np.int64)
        last = np.cumsum(counts)
        for part, start, count, steps in zip(parts, last - counts, counts, predictions, strict=True):
            padded = np.zeros((2, max(count - 1, 0) * stride + length), np.int64)
            padded[1] = IGNORE
            padded[0, :steps] = part[:-1]
            padded[1, :steps] = np.where(part[1:] == _UNKNOWN, IGNORE, part[1:])
            if count:
                cut = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)[:, ::stride]
                inputs[start : start + count], targets[start : start + count] = cut
        owners = np.repeat(np.arange(len(parts)), counts)
        place = np.arange(len(inputs)) - np.repeat(last - counts, counts)
        lengths = np.minimum(predictions[owners] - place * stride, length)
        counted = (targets != IGNORE).any(1)  # a window of unknown characters only has nothing to measure
        return Split(inputs[counted], lengths[counted], targets[counted], owners[counted])


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the Unicode number of each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _encode(codes: NDArray[np.uint32], vocabulary: NDArray[np.int64]) -> Ids:
    """Return the id of each code point."""
    at = np.searchsorted(vocabulary, codes).clip(max=len(vocabulary) - 1)
    return np.where(vocabulary[at] == codes, at + _FIRST_CHARACTER, _UNKNOWN)
