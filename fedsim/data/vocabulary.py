"""Words as numbers: how a text is cut into words, which of them have a number, and samples made of them."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fedsim.data.dataset import IGNORE, Split, WordTokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

PADDING = 0
Sentence: TypeAlias = "Sequence[str]"

_WORD = r"[^\W_]+(?:['\u2019-][^\W_]+)*"
TOKENIZERS = {
    "words": re.compile(rf"{_WORD}|[^\s]"),
    "words_only": re.compile(_WORD),
    "whitespace": re.compile(r"\S+"),
}
"""What a token is: a word, apostrophes and hyphens within it included, or a single other character that is no white
space; a word only; or whatever stands between white space."""

_END = re.compile(r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019)\]]*+(?=\s)|\n(?=[ \t]*\n)")


def cut_sentences(text: str) -> list[str]:
    """Cut a text after its marks, with the quotes and brackets that they close, before white space; and at blank lines.

    Nothing is known of abbreviations: ``Mr. Hyde`` is cut, too.
    """
    ends = [match.end() for match in _END.finditer(text)]
    return [text[first:last] for first, last in zip([0, *ends], [*ends, len(text)], strict=True)]


@dataclass(frozen=True)
class Vocabulary:
    """The words that have a number of their own.

    The numbers are those of TensorFlow Federated (``tff.simulation.baselines.stackoverflow``): 0 is padding, then come
    the words, the buckets of words that are not among them, the beginning and the end of a sentence.

    Attributes:
        words: in the order of their numbers, from 1 on.
        buckets: how many numbers are shared by words that have none.
    """

    words: tuple[str, ...]
    buckets: int = 1

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.words, 1)}

    @property
    def begin(self) -> int:
        """The number of the token before a sentence's first word."""
        return len(self.words) + self.buckets + 1

    @property
    def end(self) -> int:
        """The number of the token after a sentence's last word."""
        return self.begin + 1

    def __len__(self) -> int:
        return self.end + 1

    @property
    def special(self) -> WordTokens:
        """Which of the numbers stand for no word."""
        return WordTokens((len(self.words) + 1, self.begin), self.end)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens in the order of their numbers."""
        several = self.buckets > 1
        unknown = (f"<unknown {k + 1}>" if several else "<unknown>" for k in range(self.buckets))
        return ("<padding>", *self.words, *unknown, "<begin>", "<end>")

    @property
    def dtype(self) -> type[np.signedinteger[Any]]:
        """The smallest type that holds every number, and `IGNORE`."""
        return np.int16 if len(self) < 2**15 else np.int32

    def number_all(self, sentence: Sentence) -> list[int]:
        """Return the number of each word; words without one share buckets by their checksum (CRC-32)."""
        numbers, first = self.numbers, len(self.words) + 1
        if self.buckets == 1:
            return [numbers.get(word, first) for word in sentence]
        return [
            numbers[word] if word in numbers else first + zlib.crc32(word.encode("utf-8", "replace")) % self.buckets
            for word in sentence
        ]

    @classmethod
    def of_tokens(cls, tokens: tuple[str, ...], buckets: int) -> Vocabulary:
        """Take the words out of `tokens`, what another vocabulary with as many buckets has as its own `tokens`."""
        return cls(tokens[1 : max(1, len(tokens) - buckets - 2)], buckets)


def count_words(sentences: Iterable[Sentence], counts: Counter[str]) -> None:
    """Add the words of sentences to the counts."""
    for sentence in sentences:
        counts.update(sentence)


def most_frequent(counts: Mapping[str, int], size: int) -> tuple[str, ...]:
    """Return the words with the highest counts, the highest first; equal ones in alphabetical order."""
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size])


class Rows(NamedTuple):
    """Samples, as in `Split`: inputs and targets ``[n, T]``, and lengths ``[n]``."""

    inputs: NDArray[Any]
    targets: NDArray[Any]
    lengths: NDArray[np.int64]


def sentence_rows(sentences: Iterable[Sentence], vocabulary: Vocabulary, length: int) -> Rows:
    """Make a sample of each sentence.

    The first word is predicted from the beginning, each other one from those before it, and then the end. Of a
    sentence of `length` words or more the first `length` are predicted, and no end (as in TensorFlow Federated).
    """
    flat: list[int] = []
    count, begin, end = 0, vocabulary.begin, vocabulary.end
    for sentence in sentences:
        numbers = vocabulary.number_all(sentence[:length])
        flat.append(begin)
        flat += numbers
        if len(numbers) < length:
            flat.append(end)
            flat += [PADDING] * (length - len(numbers) - 1)
        count += 1
    rows = np.array(flat, vocabulary.dtype).reshape(count, length + 1)
    return _shifted(rows)


def window_rows(sentences: Iterable[Sentence], vocabulary: Vocabulary, length: int) -> Rows:
    """Make samples of `length` tokens of the sentences one after another, each followed by an end.

    The last sample is padded. Each sample begins with the last target of the one before, the first with a beginning.
    """
    stream = [vocabulary.begin]
    for sentence in sentences:
        stream += vocabulary.number_all(sentence)
        stream.append(vocabulary.end)
    count = -(-(len(stream) - 1) // length)
    padded = np.full(count * length + 1, PADDING, vocabulary.dtype)
    padded[: len(stream)] = stream
    rows = np.lib.stride_tricks.sliding_window_view(padded, length + 1)[::length] if count else padded[:0]
    return _shifted(rows.reshape(count, length + 1))


def _shifted(rows: NDArray[Any]) -> Rows:
    """Targets one token after the inputs, ``[n, T + 1] -> [n, T]``."""
    valid = rows[:, 1:] != PADDING
    inputs = np.where(valid, rows[:, :-1], PADDING).astype(rows.dtype)
    targets = np.where(valid, rows[:, 1:], IGNORE).astype(rows.dtype)
    return Rows(inputs, targets, valid.sum(1, dtype=np.int64))


def join_rows(rows: Sequence[Rows], length: int, dtype: type[np.signedinteger[Any]]) -> Split:
    """Put the samples of all clients, one after another, into a split."""
    none = Rows(np.zeros((0, length), dtype), np.zeros((0, length), dtype), np.zeros(0, np.int64))
    inputs, targets, lengths = (np.concatenate(parts) for parts in zip(none, *rows, strict=True))
    owners = np.repeat(np.arange(len(rows)), [len(own.lengths) for own in rows])
    return Split(inputs, lengths, targets, owners, compact=True)


def count_unknown(targets: NDArray[Any], special: WordTokens) -> tuple[int, int]:
    """How many of the words that are to be predicted are unknown, and how many words these are."""
    first, last = special.unknown
    unknown = int(((targets >= first) & (targets < last)).sum())
    words = int(((targets > PADDING) & (targets != special.end)).sum())
    return unknown, words
