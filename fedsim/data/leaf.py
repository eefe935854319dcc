"""Federated data sets in the JSON files that LEAF writes."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.cache import Arrays, cached_arrays
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.shakespeare import LEAF_CHARACTERS, encode
from fedsim.data.user_files import content_identity
from fedsim.errors import FieldError, UserError, check_at_least, check_one_of

_LEAF_GAP = 79
"""Windows that LEAF leaves out between a Shakespeare role's training and test samples, but counts in num_samples."""
_TWEET = 4
"""Place of the text in a Sent140 sample: id, date, query, user, text, which part of Sentiment140 it is from."""
_WORD = re.compile(r"[\w']+|[.,!?;]")
_PADDING, _UNKNOWN, _FIRST_WORD = 0, 1, 2


@dataclass(frozen=True)
class _User:
    """One user's samples and the file that they are from."""

    file: Path
    x: list[Any]
    y: list[Any]


_Encoded = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]
"""Tokens ``[n, T]``, labels ``[n]`` and lengths ``[n]``."""
_Encoder = Callable[[_User], _Encoded]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leaf:
    """Shakespeare or Sent140 as LEAF's ``preprocess.sh`` writes them (Caldas et al. 2018); a user is a client.

    ``kind=shakespeare``: windows of characters, each with the one that follows as its label, over LEAF's 80 characters
    (others are one unknown input; windows that such a character follows are left out).

    ``kind=sent140``: whether a tweet is happy (1) or not (0), from its first words. LEAF looks words up in the
    vocabulary of GloVe, pads with the unknown word and reads the state after the padding; here the vocabulary is that
    of the training tweets in lower case, the most frequent first, and the state after the last word is read.

    Users without training samples (all test users, after LEAF's split by user) are left out, with a warning; users
    without test samples only train. ``num_samples`` must agree with the samples, except in Shakespeare's test files,
    where LEAF counts the 79 windows that it leaves out after the training ones.

    Attributes:
        path: folder with ``train`` and ``test``, each with JSON files of ``users``, ``num_samples``, ``user_data``.
        kind: ``shakespeare`` or ``sent140``.
        sequence_length: words of a tweet that are read, only for sent140; None means 25, as in LEAF.
        vocabulary_size: words in the vocabulary, only for sent140; None means 10000.
    """

    path: str | None = None
    kind: str = "shakespeare"
    sequence_length: int | None = None
    vocabulary_size: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is missing, out of range or has no effect with `kind`.
        """
        if not self.path:
            raise FieldError("path", self.path, "name the folder that holds LEAF's train and test folders")
        check_one_of(self, "kind", ("shakespeare", "sent140"))
        check_at_least(self, 1, "sequence_length", "vocabulary_size")
        for name in ("sequence_length", "vocabulary_size"):
            if self.kind == "shakespeare" and getattr(self, name) is not None:
                raise FieldError(name, getattr(self, name), "has an effect only with kind=sent140")

    def load(self, seed: int) -> Dataset:
        """Return tokens ``[S, T]`` and labels ``[S]`` int64, in the order of the users in the training files.

        Args:
            seed: not used, the split is LEAF's.

        Raises:
            UserError: if a file is missing or not as LEAF writes it; names the file and the user.
        """
        train, test = self._files("train"), self._files("test")
        identity = content_identity(self.path, (*train, *test))
        identity += f" {len(train)} {self.kind} {self.sequence_length} {self.vocabulary_size}"
        names = [f"{part}_{what}" for part in ("train", "test") for what in ("inputs", "lengths", "targets", "clients")]
        arrays = cached_arrays("leaf", identity, [*names, "users", "tokens"], partial(self._convert, train, test))
        splits = [
            Split(
                arrays[f"{part}_inputs"],
                arrays[f"{part}_lengths"].astype(np.int64),
                arrays[f"{part}_targets"],
                arrays[f"{part}_clients"].astype(np.int64),
            )
            for part in ("train", "test")
        ]
        return Dataset(
            name=f"leaf {self.kind}",
            task=Task.CLASSIFICATION,
            train=splits[0],
            test=splits[1],
            num_outputs=len(LEAF_CHARACTERS) if self.kind == "shakespeare" else 2,
            vocabulary_size=int(arrays["tokens"]),
            client_names=tuple(arrays["users"].tolist()),
        )

    def _files(self, part: str) -> tuple[Path, ...]:
        folder = Path(self.path or "").expanduser() / part
        files = tuple(sorted(folder.glob("*.json")))
        if not files:
            raise UserError(f"data.path={self.path}: there are no JSON files in {folder}")
        return files

    def _convert(self, train: tuple[Path, ...], test: tuple[Path, ...]) -> Arrays:
        gap = _LEAF_GAP if self.kind == "shakespeare" else 0
        parts = {"train": self._users(train, 0), "test": self._users(test, gap)}
        encode, tokens = self._characters(parts) if gap else self._words(parts["train"])
        samples = {part: {name: encode(user) for name, user in users.items()} for part, users in parts.items()}
        names = [name for name, (_, labels, _) in samples["train"].items() if len(labels)]
        number = {name: k for k, name in enumerate(names)}
        lost = sum(bool(len(labels)) for name, (_, labels, _) in samples["test"].items() if name not in number)
        if lost:
            _log.warning("leaf: left out %d user(s), who have test samples but no training samples", lost)
        arrays: Arrays = {"users": np.array(names), "tokens": np.array(tokens)}
        for part, users in samples.items():
            own = [(number[name], *sample) for name, sample in users.items() if name in number and len(sample[1])]
            if not own:
                raise UserError(f"data.path={self.path}: no user with training samples has a {part} sample")
            clients, inputs, labels, lengths = zip(*own, strict=True)
            arrays[f"{part}_inputs"] = np.concatenate(inputs)
            arrays[f"{part}_targets"] = np.concatenate(labels)
            arrays[f"{part}_lengths"] = np.concatenate(lengths)
            arrays[f"{part}_clients"] = np.repeat(clients, [len(array) for array in labels])
        return arrays

    def _users(self, files: tuple[Path, ...], gap: int) -> dict[str, _User]:
        """Read and check all users of one part."""
        users: dict[str, _User] = {}
        for file in files:
            where = f"data.path={self.path}: {file}"
            try:
                content = json.loads(file.read_bytes())
                names, counts, data = content["users"], content["num_samples"], content["user_data"]
                listed = list(zip(names, counts, (data[name] for name in names), strict=True))
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"{where} is not a file of LEAF, with as many users as num_samples and user_data ({reason})"
                ) from error
            for name, count, samples in listed:
                user = f"{where}: user {name!r}"
                x, y = (samples.get(key) if isinstance(samples, dict) else None for key in "xy")
                if not (isinstance(name, str) and isinstance(x, list) and isinstance(y, list) and len(x) == len(y)):
                    raise UserError(f"{user} must have a list x and a list y of the same length")
                if count not in (len(y), len(y) + gap):
                    raise UserError(f"{user} has {len(y)} samples, but num_samples says {count}")
                if name in users:
                    raise UserError(f"{user} is also in {users[name].file.name}")
                good = _is_window if self.kind == "shakespeare" else _is_tweet
                for place, pair in enumerate(zip(x, y, strict=True)):
                    if not good(*pair):
                        raise UserError(f"{user}, sample {place}: is not a sample of {self.kind}: {str(pair)[:80]}")
                users[name] = _User(file, x, y)
        return users

    def _characters(self, parts: dict[str, dict[str, _User]]) -> tuple[_Encoder, int]:
        """How a user's windows become tokens, and how many tokens there are."""
        width = next((len(user.x[0]) for users in parts.values() for user in users.values() if user.x), 1)

        def encode_user(user: _User) -> _Encoded:
            if any(len(window) != width for window in user.x):
                raise UserError(f"data.path={self.path}: {user.file} has windows of lengths other than {width}")
            labels = encode("".join(user.y), LEAF_CHARACTERS, 0, len(LEAF_CHARACTERS))
            known = labels < len(LEAF_CHARACTERS)
            inputs = encode("".join(user.x), LEAF_CHARACTERS, 0, len(LEAF_CHARACTERS)).reshape(-1, width)
            return inputs[known], labels[known].astype(np.int64), np.full(int(known.sum()), width, np.int64)

        return encode_user, len(LEAF_CHARACTERS) + 1

    def _words(self, train: dict[str, _User]) -> tuple[_Encoder, int]:
        """How a user's tweets become tokens, and how many tokens there are."""
        length = self.sequence_length or 25
        counts = Counter(word for user in train.values() for tweet in user.x for word in _split(tweet[_TWEET]))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[: self.vocabulary_size or 10_000]
        number = {word: k for k, word in enumerate(ranked, _FIRST_WORD)}

        def encode_user(user: _User) -> _Encoded:
            inputs = np.full((len(user.x), length), _PADDING, np.int32)
            lengths = np.ones(len(user.x), np.int64)
            for place, tweet in enumerate(user.x):
                ids = [number.get(word, _UNKNOWN) for word in _split(tweet[_TWEET])[:length]] or [_UNKNOWN]
                inputs[place, : len(ids)] = ids
                lengths[place] = len(ids)
            return inputs, np.array(user.y, np.int64), lengths

        return encode_user, _FIRST_WORD + len(ranked)


def _is_window(x: Any, y: Any) -> bool:
    return isinstance(x, str) and bool(x) and isinstance(y, str) and len(y) == 1


def _is_tweet(x: Any, y: Any) -> bool:
    text = isinstance(x, list) and len(x) > _TWEET and isinstance(x[_TWEET], str)
    return text and type(y) is int and y in (0, 1)


def _split(text: str) -> list[str]:
    return _WORD.findall(text.lower())
