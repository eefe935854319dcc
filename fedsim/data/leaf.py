"""Federated data sets in the JSON files that LEAF writes."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedsim.data.cache import Arrays, cached_arrays
from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.fitted import Fitted, Scaling, columns
from fedsim.data.leaf_files import CLASSES, GAP, KINDS, TWEET, User, Users, cut, find_files, read_users
from fedsim.data.shakespeare import LEAF_CHARACTERS, encode
from fedsim.data.user_files import content_identity
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_one_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = re.compile(r"[\w']+|[.,!?;]")
_NO_WORDS = ("<padding>", "<unknown>")
_PADDING, _UNKNOWN = range(len(_NO_WORDS))

_Encoded: TypeAlias = "tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]"
"""Tokens ``[n, T]`` or features ``[n, 1, D]``, labels ``[n]`` and lengths ``[n]``."""
_Encoder = Callable[[User], _Encoded]


@dataclass(frozen=True)
class Leaf:
    """Shakespeare or Sent140 as LEAF's ``preprocess.sh`` writes them (Caldas et al. 2018); a user is a client.

    ``kind=shakespeare``: windows of characters, each with the one that follows as its label, over LEAF's 80 characters
    (others are one unknown input; windows that such a character follows are left out, with a note).

    ``kind=sent140``: whether a tweet is happy (1) or not (0), from its first words. LEAF looks words up in the
    vocabulary of GloVe, pads with the unknown word and reads the state after the padding; here the vocabulary is that
    of the training tweets in lower case, the most frequent first, and the state after the last word is read.

    ``kind=synthetic``: the synthetic data of FedProx (Li et al. 2020; ``data/synthetic_1_1/data``): points of 60
    features in 10 classes. A point is a sequence of one step, so that a recurrent network is a network with one hidden
    layer; the paper's model is a logistic regression.

    Files in ``train`` and ``test`` were split by LEAF. Split by sample (``split=sample``), every user has both; test
    samples of users who have no training samples are left out, with a note. Split by user (``split=user``), test users
    are others than training users. As they do not train, they are no clients here: their samples are dealt out in turn
    to the test parts of all clients. So test metrics over all clients are those of unseen users, while those of one
    client say nothing about it. ``num_samples`` must agree with the samples, except in Shakespeare's test files, where
    LEAF counts the 79 windows that it leaves out after the training ones.

    Files that are not split (LEAF's ``all_data``) are split here by sample: the last `test_fraction` of a user's
    samples is for testing, tweets in the order of their dates (LEAF draws them at random). Shakespeare's windows that
    share characters with training ones are left out, as in LEAF.

    Users without test samples only train.

    Attributes:
        path: folder with ``train`` and ``test``, each with JSON files of ``users``, ``num_samples``, ``user_data``; or
            such a file that is not split, or a folder with some, directly in it or in ``all_data``.
        kind: ``shakespeare``, ``sent140`` or ``synthetic``.
        split: how the files were split, by ``sample`` or by ``user``.
        test_fraction: share of each user's samples to test on, above 0 and below 1, only for files that are not split;
            None means 0.1, as in LEAF.
        sequence_length: words of a tweet that are read, only for sent140; None means 25, as in LEAF.
        vocabulary_size: words in the vocabulary, only for sent140; None means 10000.
    """

    path: str | None = None
    kind: str = "shakespeare"
    split: str = "sample"
    test_fraction: float | None = None
    sequence_length: int | None = None
    vocabulary_size: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is missing, out of range or has no effect with `kind`.
        """
        if not self.path:
            raise FieldError("path", self.path, "name the folder that holds LEAF's train and test folders")
        check_one_of(self, "kind", KINDS)
        check_one_of(self, "split", ("sample", "user"))
        check_above(self, 0, "test_fraction")
        if self.test_fraction is not None:
            check_between(self, 0, 1, "test_fraction", open_high=True)
            if self.split == "user":
                raise FieldError("test_fraction", self.test_fraction, "has an effect only with split=sample")
        check_at_least(self, 1, "sequence_length", "vocabulary_size")
        for name in ("sequence_length", "vocabulary_size"):
            if self.kind != "sent140" and getattr(self, name) is not None:
                raise FieldError(name, getattr(self, name), "has an effect only with kind=sent140")

    def load(self, seed: int) -> Dataset:
        """Return tokens ``[S, T]`` or features ``[S, 1, D]`` and labels ``[S]`` int64, in the order of the users.

        Args:
            seed: not used, the split is LEAF's or by time.

        Raises:
            UserError: if a file is missing or not as LEAF writes it; names the file and the user.
        """
        return self._load(())

    def load_as(self, seed: int, fitted: Fitted) -> Dataset:
        """Return the data with the vocabulary of others; see `load`."""
        return self._load(fitted.vocabulary if self.kind == "sent140" else ())

    def _load(self, vocabulary: tuple[str, ...]) -> Dataset:
        train, test = find_files(self.path or "")
        if test is not None and self.test_fraction is not None:
            raise UserError(
                f"data.test_fraction={self.test_fraction}: has an effect only with files that are not split, and "
                f"data.path={self.path} has train and test"
            )
        if test is None and self.split == "user":
            raise UserError(
                f"data.split=user: the files in data.path={self.path} are not split; split them by LEAF's "
                "split_data.py, or take data.split=sample"
            )
        settings = (len(train), self.kind, self.split, self.test_fraction, self.sequence_length, self.vocabulary_size)
        words = hashlib.blake2b(json.dumps(vocabulary).encode(), digest_size=16).hexdigest()
        identity = f"{content_identity(self.path, (*train, *(test or ())))} {test is None} {settings} {words}"
        names = [f"{part}_{what}" for part in ("train", "test") for what in ("inputs", "lengths", "targets", "clients")]
        arrays = cached_arrays(
            "leaf", identity, [*names, "words"], partial(self._convert, train, test, list(vocabulary[len(_NO_WORDS) :]))
        )
        about = json.loads(arrays["words"].tobytes())
        splits = [
            Split(
                arrays[f"{part}_inputs"],
                arrays[f"{part}_lengths"].astype(np.int64),
                arrays[f"{part}_targets"],
                arrays[f"{part}_clients"].astype(np.int64),
            )
            for part in ("train", "test")
        ]
        fitted = self._fitted(about["vocabulary"], splits[0])
        return Dataset(
            name=f"leaf {self.kind}",
            task=Task.CLASSIFICATION,
            train=splits[0],
            test=splits[1],
            num_outputs=len(fitted.labels),
            vocabulary_size=len(fitted.vocabulary) or None,
            client_names=tuple(about["users"]),
            fitted=fitted,
            # A role's windows follow one another, a character apart.
            stretches=splits[0].clients if self.kind == "shakespeare" else None,
            overlap=GAP + 1 if self.kind == "shakespeare" else 0,
            notes=tuple(about["notes"]),
        )

    def _fitted(self, words: list[str], train: Split) -> Fitted:
        if self.kind == "shakespeare":
            return Fitted(labels=tuple(LEAF_CHARACTERS), vocabulary=(*LEAF_CHARACTERS, "<unknown>"))
        if self.kind == "sent140":
            return Fitted(labels=("not happy", "happy"), vocabulary=(*_NO_WORDS, *words))
        features = columns(f"feature_{k}" for k in range(1, train.features + 1))
        return Fitted(Scaling(features), labels=tuple(map(str, range(CLASSES))))

    def _convert(self, train: tuple[Path, ...], test: tuple[Path, ...] | None, words: list[str]) -> Arrays:
        path, notes = self.path or "", []
        parts: dict[str, Users] = {}
        if test is None:
            users = read_users(train, path, self.kind, 0)
            parts["train"], parts["test"], lost = cut(users, self.kind, self.test_fraction or 0.1, path)
            if lost:
                notes.append(
                    f"left out {lost:,} of {sum(len(user.y) for user in users.values()):,} windows, which share "
                    "characters with training windows before them (split by data.test_fraction)"
                )
        else:
            parts["train"] = read_users(train, path, self.kind, 0)
            parts["test"] = read_users(test, path, self.kind, GAP if self.kind == "shakespeare" else 0)
        encode = {"shakespeare": self._characters, "sent140": self._words, "synthetic": self._points}[self.kind]
        encode_user = encode(parts, words, notes)
        samples = {part: {name: encode_user(user) for name, user in users.items()} for part, users in parts.items()}
        names = [name for name, (_, labels, _) in samples["train"].items() if len(labels)]
        arrays: Arrays = {}
        for part, found in samples.items():
            own = self._owned(part, found, names, notes)
            clients, inputs, labels, lengths = zip(*own, strict=True)
            arrays[f"{part}_inputs"] = np.concatenate(inputs)
            arrays[f"{part}_targets"] = np.concatenate(labels)
            arrays[f"{part}_lengths"] = np.concatenate(lengths)
            arrays[f"{part}_clients"] = np.repeat(clients, [len(array) for array in labels])
        if self.split == "user":
            in_turn = np.arange(len(arrays["test_targets"])) % len(names)
            order = np.argsort(in_turn, kind="stable")
            arrays |= {f"test_{what}": arrays[f"test_{what}"][order] for what in ("inputs", "targets", "lengths")}
            arrays["test_clients"] = in_turn[order]
        about = {"users": names, "vocabulary": words, "notes": notes}
        arrays["words"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        return arrays

    def _owned(
        self, part: str, samples: dict[str, _Encoded], names: list[str], notes: list[str]
    ) -> list[tuple[int, NDArray[Any], NDArray[np.int64], NDArray[np.int64]]]:
        """The samples of one part that are kept, each user's with the number of its client."""
        number = {name: k for k, name in enumerate(names)}
        some = [name for name, (_, labels, _) in samples.items() if len(labels)]
        others = [name for name in some if name not in number]
        lost = sum(len(samples[name][1]) for name in others)
        if part == "test" and self.split == "user":
            if both := [name for name in some if name in number]:
                raise UserError(
                    f"data.split=user: {len(both)} users have training and test samples, such as {both[0]!r}; "
                    "data.split=sample is for such files"
                )
            notes.append(
                f"the {lost:,} test samples of {len(others):,} users who do not train are dealt out to the "
                f"{len(names):,} clients in turn (data.split=user): test metrics over all clients are those of unseen "
                "users, and those of single clients say nothing about them"
            )
            number = dict.fromkeys(others, 0)
        elif others and len(others) < len(some):
            notes.append(
                f"left out {len(others):,} of {len(some):,} test users with {lost:,} test samples, because they have "
                "no training samples (data.split=user tests on users who do not train)"
            )
        own = [(number[name], *samples[name]) for name in some if name in number]
        if not own:
            hint = "; if they were split by user, set data.split=user" if part == "test" and others and names else ""
            raise UserError(f"data.path={self.path}: no user with training samples has a {part} sample{hint}")
        return own

    def _characters(self, parts: dict[str, Users], words: list[str], notes: list[str]) -> _Encoder:
        """How a user's windows become tokens."""
        users = [user for part in parts.values() for user in part.values()]
        width = next((len(user.x[0]) for user in users if user.x), 1)
        lost = sum(label not in LEAF_CHARACTERS for user in users for label in user.y)
        if lost:
            notes.append(
                f"left out {lost:,} of {sum(len(user.y) for user in users):,} windows, which a character follows that "
                "is not one of LEAF's 80"
            )

        def encode_user(user: User) -> _Encoded:
            if any(len(window) != width for window in user.x):
                raise UserError(f"data.path={self.path}: {user.file} has windows of lengths other than {width}")
            labels = encode("".join(user.y), LEAF_CHARACTERS, 0, len(LEAF_CHARACTERS))
            known = labels < len(LEAF_CHARACTERS)
            inputs = encode("".join(user.x), LEAF_CHARACTERS, 0, len(LEAF_CHARACTERS)).reshape(-1, width)
            return inputs[known], labels[known].astype(np.int64), np.full(int(known.sum()), width, np.int64)

        return encode_user

    def _words(self, parts: dict[str, Users], words: list[str], notes: list[str]) -> _Encoder:
        """How a user's tweets become tokens; fills the list of words if it is empty."""
        length, given = self.sequence_length or 25, bool(words)
        if not given:
            train = (tweet for user in parts["train"].values() for tweet in user.x)
            counts = Counter(word for tweet in train for word in _split(tweet[TWEET]))
            words += sorted(counts, key=lambda word: (-counts[word], word))[: self.vocabulary_size or 10_000]
        number = {word: k for k, word in enumerate(words, len(_NO_WORDS))}
        tweets = [_split(tweet[TWEET]) for part in parts.values() for user in part.values() for tweet in user.x]
        unknown = sum(word not in number for tweet in tweets for word in tweet[:length])
        if given and unknown:
            notes.append(f"{unknown:,} words are not in the model's vocabulary, and count as unknown")
        if cut_off := sum(len(tweet) > length for tweet in tweets):
            notes.append(
                f"{cut_off:,} of {len(tweets):,} tweets have more than {length} words, of which the first are read "
                "(data.sequence_length)"
            )

        def encode_user(user: User) -> _Encoded:
            inputs = np.full((len(user.x), length), _PADDING, np.int32)
            lengths = np.ones(len(user.x), np.int64)
            for place, tweet in enumerate(user.x):
                ids = [number.get(word, _UNKNOWN) for word in _split(tweet[TWEET])[:length]] or [_UNKNOWN]
                inputs[place, : len(ids)] = ids
                lengths[place] = len(ids)
            return inputs, np.array(user.y, np.int64), lengths

        return encode_user

    def _points(self, parts: dict[str, Users], words: list[str], notes: list[str]) -> _Encoder:
        """How a user's points become sequences of one step."""
        users = chain.from_iterable(part.values() for part in parts.values())
        width = next((len(user.x[0]) for user in users if user.x), 1)

        def encode_user(user: User) -> _Encoded:
            if any(len(point) != width for point in user.x):
                raise UserError(f"data.path={self.path}: {user.file} has points of other than {width} features")
            inputs = np.array(user.x, np.float32).reshape(-1, 1, width)
            return inputs, np.array(user.y, np.int64), np.ones(len(user.y), np.int64)

        return encode_user


def _split(text: str) -> list[str]:
    return _WORD.findall(text.lower())
