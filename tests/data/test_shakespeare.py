"""Both forms on small plays, against windows written down by hand and against plain Python."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data import shakespeare
from fedsim.data.dataset import IGNORE, Task
from fedsim.data.shakespeare import LEAF_CHARACTERS, TFF_CHARACTERS, Shakespeare
from fedsim.errors import FieldError, UserError

UNKNOWN, BEGIN, END = 87, 88, 89
TEXT = st.text(st.sampled_from("ab C.,\n;é"), max_size=40).filter(lambda s: ":" not in s)


def tff(text):
    """The ids of characters: 1 for the first of the vocabulary."""
    return [TFF_CHARACTERS.index(c) + 1 for c in text]


def leaf(text):
    return [LEAF_CHARACTERS.index(c) for c in text]


@pytest.fixture
def play(tmp_path):
    def write(roles):
        """A play of roles and their speeches, one role after another."""
        blocks = [f"{role}:\n{speech}\n" for role, said in roles.items() for speech in said]
        path = tmp_path / "play.txt"
        path.write_text("\n".join(blocks), encoding="utf-8")
        return str(path)

    return write


def test_vocabularies():
    """86 characters and 4 tokens make 90 (Reddi 2021); LEAF has 80."""
    assert len(set(TFF_CHARACTERS)) == len(TFF_CHARACTERS) == 86
    assert len(set(LEAF_CHARACTERS)) == len(LEAF_CHARACTERS) == 80
    assert all(len(text.encode()) == len(text) for text in (TFF_CHARACTERS, LEAF_CHARACTERS))


def test_all_positions_by_hand(play):
    """Pieces of 5 tokens. "abcd" is B a b c d | E: a whole piece, and one of a single token, which predicts nothing.

    "abcdef" is B a b c d | e f E and 2 of padding: the e is not predicted, f and E are.
    Of 3 speeches a fifth, rounded up, is one: the last one, "é", tests.
    """
    data = Shakespeare(path=play({"Ann": ["abcd", "abcdef", "é"]}), sequence_length=4).load(0)
    a, b, c, d, e, f = tff("abcdef")
    assert data.task is Task.SEQUENCE_LABELLING
    assert (data.num_outputs, data.vocabulary_size, data.client_names) == (90, 90, ("Ann",))
    assert data.fitted.vocabulary == ("<padding>", *TFF_CHARACTERS, "<unknown>", "<begin>", "<end>")
    assert [data.fitted.vocabulary[k] for k in (a, UNKNOWN, BEGIN, END)] == ["a", "<unknown>", "<begin>", "<end>"]
    assert data.train.inputs.tolist() == [[BEGIN, a, b, c], [BEGIN, a, b, c], [e, f, 0, 0]]
    assert data.train.targets.tolist() == [[a, b, c, d], [a, b, c, d], [f, END, IGNORE, IGNORE]]
    assert data.train.lengths.tolist() == [4, 4, 2]
    assert data.test.inputs.tolist() == [[BEGIN, UNKNOWN, 0, 0]]
    assert data.test.targets.tolist() == [[UNKNOWN, END, IGNORE, IGNORE]]
    assert data.test.lengths.tolist() == [2]


@given(speeches=st.lists(TEXT.filter(str.strip), min_size=1, max_size=8), length=st.integers(1, 12))
def test_all_positions_against_plain_python(tmp_path_factory, speeches, length):
    path = tmp_path_factory.getbasetemp() / "all_positions.txt"
    roles = {"Ann": speeches, "Bob": ["a speech", "another"]}
    path.write_text(
        "\n\n".join(f"{role}:\n{speech}" for role, said in roles.items() for speech in said), encoding="utf-8"
    )
    data = Shakespeare(path=str(path), sequence_length=length, test_fraction=0.3).load(0)
    assert data.client_names == ("Ann", "Bob")
    for client, said in enumerate(roles.values()):
        tests = 0 if len(said) == 1 else -(-3 * len(said) // 10)
        for split, part in ((data.train, said[: len(said) - tests]), (data.test, said[len(said) - tests :])):
            expected = []
            for speech in part:
                known = [TFF_CHARACTERS.index(c) + 1 if c in TFF_CHARACTERS else UNKNOWN for c in speech.strip()]
                tokens = [BEGIN, *known, END]
                pieces = [tokens[i : i + length + 1] for i in range(0, len(tokens), length + 1)]
                expected += [(piece[:-1], piece[1:]) for piece in pieces if len(piece) > 1]
            rows = np.flatnonzero(split.clients == client)
            got = [
                (split.inputs[r][: split.lengths[r]].tolist(), split.targets[r][: split.lengths[r]].tolist())
                for r in rows
            ]
            assert got == expected
    for split in (data.train, data.test):
        padded = np.arange(length) >= split.lengths[:, None]
        assert (split.inputs[padded] == 0).all()
        assert (split.targets[padded] == IGNORE).all()


def test_last_by_hand(play):
    """ "ab, cd ef, gh" has 13 characters and 10 windows of 3, of which int(0.6 * 10) = 6 train, 2 are left out, 2 test.

    Bob has 4 characters and 1 window, which trains.
    """
    data = Shakespeare(
        path=play({"Ann": ["ab,  cd", "ef, gh"], "Bob": ["yes!"]}), form="last", sequence_length=3, test_fraction=0.4
    ).load(0)
    assert data.task is Task.CLASSIFICATION
    assert (data.num_outputs, data.vocabulary_size) == (80, 81)
    assert data.fitted.vocabulary == (*LEAF_CHARACTERS, "<unknown>")
    assert data.fitted.labels == tuple(LEAF_CHARACTERS)
    windows = ["ab,", "b, ", ", c", " cd", "cd ", "d e", "yes"]
    assert data.train.inputs.tolist() == [leaf(w) for w in windows]
    assert data.train.targets.tolist() == leaf(" cd ef!")
    assert data.train.lengths.tolist() == [3] * 7
    assert data.train.clients.tolist() == [0] * 6 + [1]
    assert data.test.inputs.tolist() == [leaf("f, "), leaf(", g")]
    assert data.test.targets.tolist() == leaf("gh")
    assert data.test.clients.tolist() == [0, 0]


@given(text=st.text(st.sampled_from("abcé \n."), min_size=1, max_size=60), stride=st.integers(1, 5))
def test_last_against_plain_python(tmp_path_factory, text, stride):
    """LEAF's split at stride 1, of which every stride-th window is used."""
    path = tmp_path_factory.getbasetemp() / "last.txt"
    path.write_text(f"Ann:\n{text}\n\nBob:\n{'a long text, long enough. ' * 3}", encoding="utf-8")
    data = Shakespeare(path=str(path), form="last", sequence_length=4, stride=stride, test_fraction=0.25).load(0)
    clean = re.sub("[ \n]+", " ", text.strip())
    windows = [(clean[i : i + 4], clean[i + 4]) for i in range(len(clean) - 4)]
    cut = 1 if len(windows) in (1, 2) else max(1, int(0.75 * len(windows))) if windows else 0
    for split, part in ((data.train, windows[:cut][::stride]), (data.test, windows[cut + 3 :][::stride])):
        expected = [
            ([LEAF_CHARACTERS.index(c) if c in LEAF_CHARACTERS else 80 for c in x], LEAF_CHARACTERS.index(y))
            for x, y in part
            if y in LEAF_CHARACTERS
        ]
        rows = split.clients == data.client_names.index("Ann") if "Ann" in data.client_names else []
        assert list(zip(split.inputs[rows].tolist(), split.targets[rows].tolist(), strict=True)) == expected or (
            "Ann" not in data.client_names and not [x for x in windows[:cut][::stride] if x[1] in LEAF_CHARACTERS]
        )


def test_role_that_says_too_little_is_left_out(play):
    path = play({"Ann": ["a long speech, " * 5], "Bob": ["Ho."]})
    data = Shakespeare(path=path, form="last", sequence_length=5).load(0)
    assert data.client_names == ("Ann",)
    assert data.notes == (
        "read as a play with heads 'NAME:' on a line of its own: 2 roles (Ann 1, Bob 1), 100.0% of the text kept",
        "left out 1 of 2 roles, which say too little",
    )


def test_fetched_if_no_path_is_given(play, monkeypatch):
    asked = []

    def fetch(url, known_hash, *rest):
        asked.append((url, known_hash))
        return shakespeare.Path(play({"Ann": ["to be", "or not to be"]}))

    monkeypatch.setattr(shakespeare, "fetch", fetch)
    assert Shakespeare().load(0).client_names == ("Ann",)
    assert asked == [(shakespeare.URL, f"sha256:{shakespeare.SHA256}")]


def test_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(shakespeare, "URL", "http://127.0.0.1:9/input.txt")  # a port without a server
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(UserError, match=r"cannot be reached.*set data\.path=FILE \(SHA-256 86c4e6aa") as error:
        Shakespeare().load(0)
    assert "\n" not in str(error.value)


@pytest.mark.network
def test_tiny_shakespeare_has_309_roles(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path))
    assert len(Shakespeare().load(0).client_names) == 299  # the other ten never say anything


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("Only prose.", {}, "no speaker blocks"),
        ("", {}, "is empty"),
        ("She said:\nOnly prose.", {}, r"no speaker blocks .* 1 line looks like a head .*data=text"),
        ("Ann:\nHo.\n\nBob:\nHa.\n", {}, r"data\.test_fraction=0\.2: no role says enough"),
        ("Ann:\nHo.\n\nBob:\nHa.\n", {"form": "last"}, r"data\.test_fraction=0\.2: no role says enough"),
    ],
)
def test_unusable_text(tmp_path, content, options, message):
    path = tmp_path / "a.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        Shakespeare(path=str(path), **options).load(0)
    assert "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"data\.path=.*no file or folder"):
        Shakespeare(path=str(tmp_path / "nothing.txt")).load(0)
    with pytest.raises(UserError, match=r"data\.path=.*no shakespeare_train\.h5 and no shakespeare_test\.h5"):
        Shakespeare(path=str(tmp_path)).load(0)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("path", {"path": ""}),
        ("form", {"form": "first"}),
        ("sequence_length", {"sequence_length": 0}),
        ("stride", {"stride": 2}),
        ("stride", {"form": "last", "stride": 0}),
        ("test_fraction", {"test_fraction": 0.0}),
        ("test_fraction", {"test_fraction": 1.0}),
        ("test_fraction", {"test_fraction": float("nan")}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Shakespeare(**values)
    assert error.value.field == field
