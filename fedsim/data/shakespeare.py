"""Shakespeare's roles, each a client that predicts the next character, in the two forms that papers mix up."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedsim.data.dataset import IGNORE, Dataset, Split, Task
from fedsim.data.download import fetch
from fedsim.data.fitted import Fitted
from fedsim.data.plays import NoRoles, describe, read_play
from fedsim.data.text import code_points
from fedsim.data.text_files import read_text, without_licence
from fedsim.data.tff_files import FILES, read_snippets
from fedsim.errors import FieldError, UserError, check_above, check_at_least, check_between, check_one_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

LEAF_CHARACTERS = (
    "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"  # 80, their place is their id
)
TFF_CHARACTERS = "\n\r" + "".join(c for c in map(chr, range(32, 127)) if c not in "+<=>\\^`{|}~")
"""The 86 of TensorFlow Federated, here in code point order; ids from 1 on."""

_PADDING = 0
_UNKNOWN, _BEGIN, _END = (len(TFF_CHARACTERS) + i for i in (1, 2, 3))
TFF_TOKENS = ("<padding>", *TFF_CHARACTERS, "<unknown>", "<begin>", "<end>")

_TEST_FRACTION = 0.2

Ids: TypeAlias = "NDArray[np.uint8]"


@dataclass(frozen=True)
class Shakespeare:
    """Next-character prediction with a client per speaking role (McMahan et al. 2017, section 3).

    The text is tiny Shakespeare (Karpathy 2015; 40,000 lines of several plays), fetched once, or the user's own in the
    same form. It does not say where a play ends, so roles of the same name, such as the First Citizens, are one
    client: there are 309, fewer than the 715 that TensorFlow Federated and the 1,129 that LEAF make of the whole
    works. Accuracies that papers report on those are not reached on this smaller text and are not comparable.

    ``form=all_positions`` is that of TensorFlow Federated (``tff.simulation.baselines.shakespeare``; Reddi et al. 2021,
    section 4): every speech begins and ends with a token of its own and is cut into pieces of ``sequence_length + 1``
    tokens, the last one padded; from each position of a piece the next token is predicted. 90 tokens: padding, 86
    characters, unknown, begin and end, which count as targets like any character. As there, the first token of a piece
    is not predicted. Padding counts neither in the loss nor in the accuracy (there it is masked in the accuracy alone).
    The last speeches of a role are for testing: `test_fraction` of them, rounded up to at least one (McMahan 2017, with
    0.2); a role with a single speech only trains.

    ``form=last`` is that of LEAF (Caldas et al. 2018, ``data/shakespeare``): the speeches of a role one after another,
    line ends and runs of spaces made one space, and windows of `sequence_length` characters, each with the one
    character that follows as its label (80 labels). Of a role's n windows at stride 1 the first
    ``max(1, int((1 - test_fraction) n))`` train; the next ``sequence_length - 1`` are left out, because they share
    characters with them; the rest are for testing (LEAF's ``split_data.py``). Its characters outside LEAF's 80 are one
    unknown input; windows that such a character follows are left out. LEAF drops a role without test windows; here it
    trains.

    A role with nothing to predict is left out, with a note.

    The files of TensorFlow Federated themselves (``shakespeare_train.h5`` and ``shakespeare_test.h5``, 715 roles) need
    ``form=all_positions`` and the extra ``hdf5``. They are split already, into the speeches of each role that train and
    those that test.

    Attributes:
        path: a UTF-8 text of blocks ``Name:``, speech, blank line; or the folder with TensorFlow Federated's two files;
            None means tiny Shakespeare.
        form: ``all_positions`` or ``last``.
        sequence_length: characters (tokens) that go into a sample.
        stride: every how many characters a window begins, only for ``form=last``; None means 1, as in LEAF, which
            makes a sample of each character and takes 80 times the memory of the text, as 64-bit numbers: 0.7 GB.
        test_fraction: share of each role to test on, above 0 and below 1; of no effect on files that are split.
    """

    path: str | None = None
    form: str = "all_positions"
    sequence_length: int = 80
    stride: int | None = None
    test_fraction: float = _TEST_FRACTION

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is out of range or has no effect with `form`.
        """
        if self.path == "":
            raise FieldError(
                "path", self.path, "name a text file or a folder, or leave it null to fetch tiny Shakespeare"
            )
        check_one_of(self, "form", ("all_positions", "last"))
        check_at_least(self, 1, "sequence_length", "stride")
        check_above(self, 0, "test_fraction")
        check_between(self, 0, 1, "test_fraction", open_high=True)
        if self.stride is not None and self.form != "last":
            raise FieldError("stride", self.stride, "has an effect only with form=last")

    def load(self, seed: int) -> Dataset:
        """Return tokens ``[S, sequence_length]`` uint8 and targets of the same shape, or labels ``[S]``, int64.

        Nothing is cached but the download: making the samples takes less time than reading them back.

        Args:
            seed: not used, the split is by position.

        Raises:
            UserError: if the text cannot be fetched or read, has no roles, or gives no test sample.
        """
        file = self._file()
        if file.is_dir():
            return self._snippets(file)
        text, licence = without_licence(read_text(file, self.path))
        try:
            play = read_play(text, "colon_line")
        except NoRoles as error:
            raise UserError(
                f"data.path={self.path}: {file.name} has no speaker blocks (a blank line, a line 'Name:', speech): "
                f"{error}; data=text reads other layouts of plays and, with data.clients_by=chunk, any text"
            ) from error
        roles = play.spoken
        notes = [f"cut off {licence:,} characters of Project Gutenberg's licence and notices"] if licence else []
        notes += describe({file.name: play})
        last = self.form == "last"
        names: list[str] = []
        parts: list[tuple[list[Split], list[Split]]] = []
        for name, said in roles.items():
            train, test = self._windows(said, len(names)) if last else self._speeches(said, len(names))
            if sum(map(len, train)):
                names.append(name)
                parts.append((train, test))
        if len(names) < len(roles):
            notes.append(f"left out {len(roles) - len(names)} of {len(roles)} roles, which say too little")
        train, test = ([split for part in parts for split in part[which]] for which in (0, 1))
        if not sum(map(len, test)):
            raise UserError(
                f"data.test_fraction={self.test_fraction}: no role says enough for a test sample; take a longer text, "
                "or a smaller data.sequence_length"
            )
        return self._dataset(train, test, names, notes)

    def _snippets(self, folder: Path) -> Dataset:
        """Read the two files of TensorFlow Federated."""
        path = self.path or ""
        files = [folder / name for name in FILES]
        if missing := [file.name for file in files if not file.is_file()]:
            raise UserError(
                f"data.path={path}: the folder has no {' and no '.join(missing)}, TensorFlow Federated's files; "
                "data=text reads folders of texts"
            )
        if self.form != "all_positions":
            raise UserError(f"data.form={self.form}: TensorFlow Federated's files are for data.form=all_positions")
        if self.test_fraction != _TEST_FRACTION:
            raise UserError(
                f"data.test_fraction={self.test_fraction}: has an effect only with a text; {FILES[0]} and {FILES[1]} "
                "are split already"
            )
        said, said_in_test = (read_snippets(file, path) for file in files)
        names: list[str] = []
        train: list[Split] = []
        test: list[Split] = []
        for name, snippets in said.items():
            pieces = [self._pieces(snippet, len(names)) for snippet in snippets]
            if sum(map(len, pieces)):
                train += pieces
                test += [self._pieces(snippet, len(names)) for snippet in said_in_test.get(name, ())]
                names.append(name)
        notes = []
        if lost := len({*said, *said_in_test} - {*names}):
            notes.append(
                f"left out {lost:,} of {len({*said, *said_in_test}):,} clients, who have nothing to predict in "
                f"{FILES[0]}"
            )
        if not sum(map(len, test)):
            raise UserError(f"data.path={path}: no client has something to predict in both {FILES[0]} and {FILES[1]}")
        return self._dataset(train, test, names, notes)

    def _dataset(self, train: list[Split], test: list[Split], names: list[str], notes: list[str]) -> Dataset:
        last = self.form == "last"
        characters = Fitted(labels=tuple(LEAF_CHARACTERS), vocabulary=(*LEAF_CHARACTERS, "<unknown>"))
        fitted = characters if last else Fitted(vocabulary=TFF_TOKENS)
        return Dataset(
            name="shakespeare",
            task=Task.CLASSIFICATION if last else Task.SEQUENCE_LABELLING,
            train=_join(train),
            test=_join(test),
            num_outputs=len(fitted.labels) if last else len(fitted.vocabulary),
            vocabulary_size=len(fitted.vocabulary),
            client_names=tuple(names),
            ordered=True,
            overlap=-(-(self.sequence_length + 1) // (self.stride or 1)) - 1 if last else 0,
            fitted=fitted,
            notes=tuple(notes),
            pooled=(),  # the characters are those of the papers
        )

    def _file(self) -> Path:
        if self.path is not None:
            return Path(self.path).expanduser()
        return fetch(
            URL,
            f"sha256:{SHA256}",
            "shakespeare",
            "tinyshakespeare.txt",
            "download it by hand, or take any play with speaker blocks, and set data.path=FILE",
        )

    def _speeches(self, said: list[str], client: int) -> tuple[list[Split], list[Split]]:
        """Cut one role's speeches into pieces (``form=all_positions``)."""
        held_out = min(math.ceil(self.test_fraction * len(said)), len(said) - 1)
        pieces = [self._pieces(speech, client) for speech in said]
        return pieces[: len(said) - held_out], pieces[len(said) - held_out :]

    def _pieces(self, speech: str, client: int) -> Split:
        width = self.sequence_length + 1
        tokens = [_BEGIN, *encode(speech, TFF_CHARACTERS, 1, _UNKNOWN).tolist(), _END]
        count = -(-len(tokens) // width)
        if len(tokens) - (count - 1) * width < 2:  # the last piece would be one token, which predicts nothing
            count -= 1
        padded = np.full(count * width, _PADDING, np.uint8)
        padded[: len(tokens)] = tokens[: len(padded)]
        pieces = padded.reshape(count, width)
        targets = np.where(pieces[:, 1:] == _PADDING, IGNORE, pieces[:, 1:].astype(np.int64))
        lengths = (targets != IGNORE).sum(1)
        inputs = np.where(np.arange(width - 1) < lengths[:, None], pieces[:, :-1], _PADDING)
        return Split(inputs, lengths, targets, np.full(count, client))

    def _windows(self, said: list[str], client: int) -> tuple[list[Split], list[Split]]:
        """Slide a window over one role's text (``form=last``)."""
        length, stride = self.sequence_length, self.stride or 1
        ids = encode(re.sub("[ \n]+", " ", "\n".join(said)), LEAF_CHARACTERS, 0, len(LEAF_CHARACTERS))
        count = max(0, len(ids) - length)
        first_test = max(1, int((1 - self.test_fraction) * count)) if count > 1 else count
        splits = []
        for start, stop in ((0, first_test), (first_test + length - 1, count)):
            at = np.arange(start, stop, stride)
            at = at[ids[at + length] < len(LEAF_CHARACTERS)]
            inputs = ids[at[:, None] + np.arange(length)]
            labels = ids[at + length].astype(np.int64)
            splits.append([Split(inputs, np.full(len(at), length), labels, np.full(len(at), client))])
        return splits[0], splits[1]


def encode(text: str, characters: str, first: int, unknown: int) -> Ids:
    """Return the id of each character: `first` and what follows in the order of `characters`, else `unknown`."""
    table = np.full(128, unknown, np.uint8)
    table[code_points(characters)] = np.arange(first, first + len(characters))
    ids: Ids = table[np.minimum(code_points(text), 127)]  # 127 is no character of either vocabulary
    return ids


def _join(splits: list[Split]) -> Split:
    """Put the samples of many splits with clients into one."""
    return Split(
        np.concatenate([split.inputs for split in splits]),
        np.concatenate([split.lengths for split in splits]),
        np.concatenate([split.targets for split in splits]),
        np.concatenate([split.clients for split in splits if split.clients is not None]),
    )
