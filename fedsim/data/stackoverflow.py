"""StackOverflow's questions and answers, a client per user, as TensorFlow Federated and FedJAX distribute them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fedsim.data.array_files import Writer, mapped_arrays
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.fitted import Fitted
from fedsim.data.stackoverflow_files import PARTS, Source, find_source
from fedsim.data.vocabulary import Sentence, Vocabulary, count_unknown, count_words, most_frequent, sentence_rows
from fedsim.data.vocabulary_files import read_vocabulary
from fedsim.errors import FieldError, UserError, check_at_least, check_between

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOCABULARY_SIZE = 10_000
"""Words where ``data.vocabulary_size`` is not set."""

_AT_A_TIME = 20_000
"""Sentences that are numbered and written together."""


@dataclass(frozen=True)
class StackOverflow:
    """Next-word prediction on StackOverflow (Reddi et al. 2021, section 4): 342,477 users, 136 million sentences.

    The files are what ``tff.simulation.datasets.stackoverflow`` and ``fedjax.datasets.stackoverflow`` download:
    sentences of one user's questions and answers, words and punctuation marks separated by spaces, in small letters.
    What was written before 2018 trains, what came later tests; the users that are held out are not read. Test sentences
    of users who do not train are left out, with a note.

    Tokens are numbered and sentences cut off as in TensorFlow Federated (see `fedsim.data.words.Words`): 10,004 tokens
    with the usual 10,000 words. There, the `max_samples` sentences of a user are drawn anew in each round; here they
    are the first of the file.

    The files are converted once, which takes an hour or so and is shown, into arrays in the cache that are mapped into
    memory afterwards: 4 bytes per token and sentence of `length` tokens, 11 GB for all. They are made again if a file
    has another size or date, or a setting another value.

    Attributes:
        path: ``stackoverflow.sqlite`` of TensorFlow Federated (unpacked); or the folder with ``stackoverflow_train``
            and ``stackoverflow_test``, as ``.h5`` (older files of TensorFlow Federated; needs the extra ``hdf5``) or
            ``.sqlite`` (FedJAX).
        length: tokens that are predicted per sentence.
        vocabulary_file: TensorFlow Federated's ``stackoverflow.word_count``, or any file of a word a line, with or
            without its count; None counts the training sentences, which takes another pass.
        vocabulary_size: how many words have a number of their own; None means 10000.
        oov_buckets: how many numbers the words that are not in the vocabulary share.
        max_samples: training sentences of a user that are used, the first ones; None means all.
        max_test_samples: test sentences of a user that are used, the first ones; None means all.
    """

    path: str | None = None
    length: int = 20
    vocabulary_file: str | None = None
    vocabulary_size: int | None = None
    oov_buckets: int = 1
    max_samples: int | None = None
    max_test_samples: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is missing or out of range.
        """
        if not self.path:
            raise FieldError("path", self.path, "name stackoverflow.sqlite, or the folder with the files of both parts")
        if self.vocabulary_file == "":
            raise FieldError("vocabulary_file", "", "name a file, or null")
        check_at_least(self, 1, "vocabulary_size", "max_samples", "max_test_samples")
        check_between(self, 1, 10_000, "length")
        check_between(self, 1, 2**20, "oov_buckets")

    def load(self, seed: int) -> Dataset:
        """Return inputs and targets ``[S, length]``, mapped from the cache, in the order of the users.

        Args:
            seed: not used, the split is by time.

        Raises:
            UserError: if a file is missing or not as it is distributed, or the cache cannot be written.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data with the vocabulary of others; see `load`."""
        return self._load(fitted.vocabulary or None)

    def _load(self, tokens: tuple[str, ...] | None) -> Dataset:
        source = find_source(self.path or "")
        words: tuple[str, ...] | None = None
        if tokens is not None:
            words = Vocabulary.of_tokens(tokens, self.oov_buckets).words
        elif self.vocabulary_file is not None:
            words = read_vocabulary(self.vocabulary_file, self.vocabulary_size or VOCABULARY_SIZE)
        size = self.vocabulary_size or VOCABULARY_SIZE if words is None else len(words)
        dtype = Vocabulary(("",) * size, self.oov_buckets).dtype.__name__
        settings = (self.length, size, self.oov_buckets, self.max_samples, self.max_test_samples, words)
        shapes = {f"{part}_{what}": (dtype, self.length) for part in PARTS for what in ("inputs", "targets")}
        shapes |= {f"{part}_{what}": ("int32", 1) for part in PARTS for what in ("lengths", "owners", "sizes")}
        arrays, about = mapped_arrays(
            "stackoverflow",
            f"{[_stamp(file) for file in source.files]} {settings}",
            shapes,
            lambda writer: self._convert(source, words, size, writer),
        )
        vocabulary = Vocabulary(tuple(about["words"]), self.oov_buckets)
        train, test = (_split(arrays, part) for part in PARTS)
        return Dataset(
            name="stackoverflow",
            task=Task.SEQUENCE_LABELLING,
            train=train,
            test=test,
            num_outputs=len(vocabulary),
            vocabulary_size=len(vocabulary),
            client_names=tuple(about["users"]),
            fitted=Fitted(vocabulary=vocabulary.tokens),
            words=vocabulary.special,
            notes=tuple(about["notes"]),
        )

    def _convert(self, source: Source, words: tuple[str, ...] | None, size: int, writer: Writer) -> None:
        """Write the samples of both parts, the users in the order of the training file."""
        if words is None:
            counts: Counter[str] = Counter()
            for _, sentences in self._clients(source, "train", "counting words"):
                count_words(sentences[: self.max_samples], counts)
            words = most_frequent(counts, size)
        vocabulary = Vocabulary(words, self.oov_buckets)
        users: dict[str, int] = {}
        notes: list[str] = []
        for part in PARTS:
            notes += self._write(source, part, vocabulary, users, writer)
            if not users:
                raise UserError(f"data.path={self.path}: no user has a training sentence")
        writer.about |= {"users": [*users], "words": words, "notes": notes}

    def _write(
        self, source: Source, part: str, vocabulary: Vocabulary, users: dict[str, int], writer: Writer
    ) -> list[str]:
        """Write the samples of a part, and return notes on it; users of training get a number each."""
        most = self.max_samples if part == "train" else self.max_test_samples
        key = "max_samples" if part == "train" else "max_test_samples"
        runs: list[tuple[int, int]] = []
        waiting: list[Sentence] = []
        whole = long = many = strangers = lost = unknown = words = 0

        def flush() -> None:
            nonlocal unknown, words
            rows = sentence_rows(waiting, vocabulary, self.length)
            for name, values in zip(("inputs", "targets", "lengths"), rows, strict=True):
                writer.append(f"{part}_{name}", values)
            found, of = count_unknown(rows.targets, vocabulary.special)
            unknown, words = unknown + found, words + of
            waiting.clear()

        for user, sentences in self._clients(source, part, f"converting {part}"):
            if part == "train" and sentences:
                users[user] = len(users)
            if user not in users:
                strangers += bool(sentences)
                lost += len(sentences)
                continue
            if most is not None and len(sentences) > most:
                many += 1
                del sentences[most:]
            runs.append((users[user], len(sentences)))
            waiting += sentences
            whole += len(sentences)
            long += sum(len(sentence) > self.length for sentence in sentences)
            if len(waiting) >= _AT_A_TIME:
                flush()
        flush()
        owners = np.array(runs, np.int32).reshape(-1, 2)
        writer.append(f"{part}_owners", owners[:, 0])
        writer.append(f"{part}_sizes", owners[:, 1])
        name = {"train": "training", "test": "test"}[part]
        if not whole:
            raise UserError(f"data.path={self.path}: there is no {name} sentence of a user who trains")
        notes = []
        if strangers:
            notes.append(f"left out {lost:,} test sentences of {strangers:,} users who have no training sentences")
        if many:
            notes.append(f"of {many:,} users only the first {most:,} {name} sentences are used (data.{key})")
        if long:
            notes.append(
                f"{long:,} of {whole:,} {name} sentences have more than {self.length} tokens, of which the first are "
                "kept (data.length)"
            )
        if unknown:
            notes.append(
                f"{unknown / words:.1%} of the {name} words are not among the {len(vocabulary.words):,} words of the "
                "vocabulary (data.vocabulary_size, data.oov_buckets)"
            )
        return notes

    def _clients(self, source: Source, part: str, what: str) -> Iterator[tuple[str, list[Sentence]]]:
        """Yield each user with its sentences that have a word, one more than are used at most; shows how far it is."""
        most = self.max_samples if part == "train" else self.max_test_samples
        file, path = source.files[PARTS.index(part)], self.path or ""
        clients = source.clients(file, part, path, None if most is None else most + 1)
        for user, sentences in _shown(clients, source.count(file, part, path), f"{what} of {source.form}"):
            try:
                yield user, [words for sentence in sentences if (words := sentence.decode().split())]
            except UnicodeError:
                raise UserError(f"data.path={path}: {file}: a sentence of the client {user!r} is not UTF-8") from None


_T = TypeVar("_T")


def _shown(clients: Iterable[_T], count: int, what: str) -> Iterator[_T]:
    """Show how many of `count` users are done, on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(clients, what, count, console=console, transient=True, disable=not console.is_terminal)


def _stamp(file: Path) -> str:
    """What tells a file from others without reading it: it may have tens of gigabytes."""
    found = file.resolve().stat()
    return f"{file.resolve()} {found.st_size} {found.st_mtime_ns}"


def _split(arrays: Mapping[str, NDArray[Any]], part: str) -> Split:
    owners = np.repeat(arrays[f"{part}_owners"].astype(np.int64), arrays[f"{part}_sizes"])
    lengths = arrays[f"{part}_lengths"].astype(np.int64)
    return Split(arrays[f"{part}_inputs"], lengths, arrays[f"{part}_targets"], owners, compact=True)
