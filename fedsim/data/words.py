"""Next-word prediction on the user's own texts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import chain

from fedsim.data.dataset import Dataset, Task
from fedsim.data.fitted import Fitted
from fedsim.data.play_heads import LAYOUTS
from fedsim.data.text_files import check_encoding
from fedsim.data.vocabulary import (
    TOKENIZERS,
    Rows,
    Sentence,
    Vocabulary,
    count_unknown,
    count_words,
    cut_sentences,
    join_rows,
    most_frequent,
    sentence_rows,
    window_rows,
)
from fedsim.data.vocabulary_files import read_vocabulary
from fedsim.data.word_texts import FORMS, TEST_FRACTION, Texts, read_texts
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_one_of, show
from fedsim.machine import refuse_larger

VOCABULARY_SIZE = 10_000
"""Words where ``data.vocabulary_size`` is not set."""


@dataclass(frozen=True)
class Words:
    """Words in, the next word out, at every position (Hard et al. 2018; Reddi et al. 2021, section 4).

    A client's texts are cut into samples; its last `test_fraction` of them, rounded up to at least one, is for testing,
    and a client with a single sample only trains. LEAF's files are split already, or by their own samples.

    Tokens are numbered as TensorFlow Federated numbers StackOverflow's: 0 is padding, then come the words of the
    vocabulary, the most frequent first, `oov_buckets` numbers that all other words share, the beginning and the end of
    a sentence. Unknown words and the end are predicted and counted like any other; ``test_accuracy_no_oov`` and
    ``test_accuracy_no_oov_no_eos`` leave them out. Padding counts nowhere.

    ``Dataset.notes`` says what was left out or cut off, and which share of the words is not in the vocabulary.

    Attributes:
        path: a text, or a folder of them; a table (CSV, TSV, JSON lines, Parquet) with a row per text; or LEAF's JSON;
            None means tiny Shakespeare, fetched once.
        form: ``text``, ``table`` or ``leaf`` (JSON of ``users`` and ``user_data``; texts, Sent140's tweets or Reddit's
            tokens); ``auto`` goes by the names of the files.
        length: tokens that are predicted per sample. Longer sentences are cut off, with a note.
        sample: what is a sample. ``sentence``: texts end sentences with a full stop, a question or exclamation mark
            before white space, or a blank line; ``line``: a line; ``text``: a whole text, such as a row of a table or a
            speech; ``window``: `length` tokens of a client's sentences one after another, so that nothing is cut off.
        tokenizer: ``words``: runs of letters and digits with apostrophes and hyphens within them, and every other
            character that is no white space; ``words_only``: these runs alone; ``whitespace``: what stands between
            white space.
        lowercase: whether capitals are made small.
        vocabulary_size: how many words have a number of their own; None means 10000, or all of `vocabulary_file`.
        vocabulary_file: a file of a word a line, with or without its count, such as TensorFlow Federated's
            ``stackoverflow.word_count``; None takes the most frequent words of the training samples, equally frequent
            ones in alphabetical order.
        oov_buckets: how many numbers the words that are not in the vocabulary share.
        max_samples: training samples of a client that are used, the first ones; None means all.
        test_fraction: share of each client's samples to test on, above 0 and below 1; None means 0.1. Of no effect on
            files that are split.
        clients_by: ``speaker``: a client per role of a play, ``file``: per file, ``chunk``: per `chunk_size`
            characters; only for texts. None means file for a folder and speaker for a file.
        chunk_size: characters per client, only for ``clients_by=chunk``; None means 10000.
        layout: how a play names who speaks, only for ``clients_by=speaker``; see `fedsim.data.text.Text`.
        client_column: the column that names the client, only for tables; None means ``client``.
        text_column: the column with the text, only for tables; None means ``text``.
        encoding: of texts and tables, as Python names it.
    """

    path: str | None = None
    form: str = "auto"
    length: int = 20
    sample: str = "sentence"
    tokenizer: str = "words"
    lowercase: bool = True
    vocabulary_size: int | None = None
    vocabulary_file: str | None = None
    oov_buckets: int = 1
    max_samples: int | None = None
    test_fraction: float | None = None
    clients_by: str | None = None
    chunk_size: int | None = None
    layout: str = "auto"
    client_column: str | None = None
    text_column: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is out of range or has no effect with others.
        """
        for name in ("path", "vocabulary_file"):
            if getattr(self, name) == "":
                raise FieldError(name, "", "name a file or a folder" if name == "path" else "name a file, or null")
        check_one_of(self, "form", FORMS)
        if self.path is None and self.form not in ("auto", "text"):
            raise FieldError(
                "form", self.form, "has an effect only with a path of your own; tiny Shakespeare is a text"
            )
        if self.path is None and self.encoding != "utf-8":
            raise FieldError("encoding", self.encoding, "has an effect only with a path of your own")
        check_one_of(self, "sample", ("sentence", "line", "text", "window"))
        check_one_of(self, "tokenizer", tuple(TOKENIZERS))
        check_at_least(self, 1, "length", "vocabulary_size", "oov_buckets", "max_samples")
        check_between(self, 1, 2**20, "oov_buckets")
        check_above(self, 0, "test_fraction")
        check_between(self, 0, 1, "test_fraction", open_high=True)
        if self.clients_by is not None:
            check_one_of(self, "clients_by", ("speaker", "file", "chunk"))
        check_at_least(self, 2, "chunk_size")
        if self.chunk_size is not None and self.clients_by != "chunk":
            raise FieldError("chunk_size", self.chunk_size, "has an effect only with clients_by=chunk")
        check_one_of(self, "layout", ("auto", *LAYOUTS))
        check_encoding(self.encoding)

    def load(self, seed: int) -> Dataset:
        """Return inputs and targets ``[S, length]`` in the order of the clients.

        Args:
            seed: not used, the split is by position.

        Raises:
            UserError: if the path or the vocabulary cannot be read, or there is no client or no test sample.
        """
        return self._load(None)

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data with the vocabulary of others; see `load`."""
        return self._load(fitted.vocabulary or None)

    def _load(self, tokens: tuple[str, ...] | None) -> Dataset:
        texts = read_texts(
            self.path,
            self.form,
            clients_by=self.clients_by,
            chunk_size=self.chunk_size,
            layout=self.layout,
            client_column=self.client_column,
            text_column=self.text_column,
            test_fraction=self.test_fraction,
            encoding=self.encoding,
        )
        if texts.tokens and (self.tokenizer != "whitespace" or self.sample in ("sentence", "line")):
            raise UserError(
                f"data.tokenizer={self.tokenizer}: the samples in data.path={self.path} are lists of tokens; take "
                "data.tokenizer=whitespace, and data.sample=text or window"
            )
        notes = [*texts.notes]
        train, test = self._split(texts, notes)
        vocabulary = self._vocabulary(train, tokens, notes)
        length, longest = self.length, max(map(len, chain(*train.values(), *test.values())))
        if self.sample != "window":
            count = sum(map(len, train.values())) + sum(map(len, test.values()))
            what = f"{count:,} samples of {length:,} tokens"
            refuse_larger(24 * count * (length + 1), "data.length", length, what, "take shorter ones")
            long = sum(len(sentence) > length for sentence in chain(*train.values(), *test.values()))
            if long:
                notes.append(
                    f"{long:,} of {count:,} {self.sample}s have more than {length} tokens (the longest {longest:,}), "
                    "of which the first are kept (data.length, or data.sample=window)"
                )
        rows = [[self._rows(part.get(name, []), vocabulary) for name in train] for part in (train, test)]
        if self.max_samples is not None:
            rows[0] = [Rows(*(part[: self.max_samples] for part in own)) for own in rows[0]]
        splits = [join_rows(own, length, vocabulary.dtype) for own in rows]
        if len(splits[1]) == 0:
            raise UserError(
                f"data.test_fraction={show(self.test_fraction)}: no client has a test sample: each has a single one; "
                "cut the texts into more, by data.sample or data.clients_by"
            )
        pairs = [count_unknown(split.targets, vocabulary.special) for split in splits]
        unknown = [found / max(words, 1) for found, words in pairs]
        if any(unknown):
            notes.append(
                f"{unknown[0]:.1%} of the training and {unknown[1]:.1%} of the test words are not among the "
                f"{len(vocabulary.words):,} words of the vocabulary (data.vocabulary_size, data.oov_buckets)"
            )
        return Dataset(
            name="words",
            task=Task.SEQUENCE_LABELLING,
            train=splits[0],
            test=splits[1],
            num_outputs=len(vocabulary),
            vocabulary_size=len(vocabulary),
            client_names=tuple(train),
            ordered=True,
            fitted=Fitted(vocabulary=vocabulary.tokens),
            words=vocabulary.special,
            notes=tuple(notes),
        )

    def _split(self, texts: Texts, notes: list[str]) -> tuple[dict[str, list[Sentence]], dict[str, list[Sentence]]]:
        """The sentences of training and testing of each client that has any to train on."""
        train = {name: self._sentences(own) for name, own in texts.train.items()}
        test = {name: self._sentences(own) for name, own in (texts.test or {}).items()}
        found = {name: own for name, own in train.items() if own}
        if len(found) < len(train):
            notes.append(f"left out {len(train) - len(found):,} of {len(train):,} clients, whose texts have no words")
        if not found:
            raise UserError(f"data.path={show(self.path)}: no client's text has a word (data.tokenizer)")
        if texts.test is None:
            share = self.test_fraction or TEST_FRACTION
            for name, own in found.items():
                first = len(own) - min(math.ceil(share * len(own)), len(own) - 1)
                found[name], test[name] = own[:first], own[first:]
        if self.max_samples is not None:
            lost = 0
            for name, own in found.items():
                found[name] = own[: self._enough(own)]
                lost += len(own) - len(found[name])
            if lost:
                notes.append(
                    f"left out {lost:,} of {sum(map(len, found.values())) + lost:,} training sentences, those behind "
                    f"each client's first {self.max_samples:,} samples (data.max_samples)"
                )
        return found, test

    def _enough(self, sentences: list[Sentence]) -> int:
        """How many of the sentences make `max_samples` samples, or all."""
        assert self.max_samples is not None
        if self.sample != "window":
            return self.max_samples
        tokens = 0
        for place, sentence in enumerate(sentences, 1):
            tokens += len(sentence) + 1
            if tokens >= self.max_samples * self.length:
                return place
        return len(sentences)

    def _sentences(self, texts: list[str]) -> list[Sentence]:
        find = TOKENIZERS[self.tokenizer].findall
        parts: list[str] = []
        for text in texts:
            if self.sample == "line":
                parts += text.splitlines()
            elif self.sample == "text":
                parts.append(text)
            else:
                parts += cut_sentences(text)
        return [words for part in parts if (words := find(part.lower() if self.lowercase else part))]

    def _vocabulary(
        self, train: dict[str, list[Sentence]], tokens: tuple[str, ...] | None, notes: list[str]
    ) -> Vocabulary:
        if tokens is not None:
            return Vocabulary.of_tokens(tokens, self.oov_buckets)
        if self.vocabulary_file is None:
            size = self.vocabulary_size or VOCABULARY_SIZE
            counts: Counter[str] = Counter()
            count_words(chain.from_iterable(train.values()), counts)
            return Vocabulary(most_frequent(counts, size), self.oov_buckets)
        words = read_vocabulary(self.vocabulary_file, self.vocabulary_size)
        if self.lowercase and (capitals := [word for word in words if word != word.lower()]):
            notes.append(
                f"{len(capitals):,} of the {len(words):,} words of {self.vocabulary_file} have capitals, such as "
                f"{capitals[0]!r}, and are never met (data.lowercase)"
            )
        return Vocabulary(words, self.oov_buckets)

    def _rows(self, sentences: list[Sentence], vocabulary: Vocabulary) -> Rows:
        if self.sample != "window":
            return sentence_rows(sentences, vocabulary, self.length)
        return window_rows(sentences, vocabulary, self.length)
