"""Folders written as LEAF writes them, with a handful of users."""

import json

import numpy as np
import pytest

from fedsim.data.dataset import Task
from fedsim.data.leaf import Leaf
from fedsim.data.shakespeare import LEAF_CHARACTERS
from fedsim.errors import FieldError, UserError


def tweet(text, user="someone"):
    return ["1467810369", "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", user, text, "training"]


def leaf(text):
    return [LEAF_CHARACTERS.index(c) for c in text]


WINDOWS = ({"ANN": [("abc", "d"), ("bcd", "é")], "BOB": [("x é", "!")]}, {"ANN": [("cde", "f")], "BOB": []})
TWEETS = (
    {"ann": [(tweet("Good good day!"), 1), (tweet("bad, BAD, bad"), 0)], "bob": [(tweet("@@"), 0)]},
    {"bob": [(tweet("a good morning"), 1)], "eve": [(tweet("nothing"), 0)]},
)


def content(users, extra=0):
    data = {name: {"x": [x for x, _ in pairs], "y": [y for _, y in pairs]} for name, pairs in users.items()}
    counts = [len(pairs) + extra for pairs in users.values()]
    return {"users": [*users], "num_samples": counts, "user_data": data}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path):
    def write(train, test, extra=0):
        """Contents, or text as it stands, of one file per part."""
        for part, users in (("train", train), ("test", test)):
            folder = tmp_path / "data" / part
            folder.mkdir(parents=True, exist_ok=True)
            if not isinstance(users, str):
                users = json.dumps(content(users, extra if part == "test" else 0))
            (folder / f"all_data_{part}_9.json").write_text(users, encoding="utf-8")
        return str(tmp_path / "data")

    return write


def test_shakespeare_by_hand(write):
    """The second window of ANN is followed by no character of LEAF's; BOB's é is the unknown input, 80."""
    data = Leaf(path=write(*WINDOWS)).load(0)
    assert data.task is Task.CLASSIFICATION
    assert (data.num_outputs, data.vocabulary_size, data.client_names) == (80, 81, ("ANN", "BOB"))
    assert data.train.inputs.tolist() == [leaf("abc"), [*leaf("x "), 80]]
    assert data.train.targets.tolist() == leaf("d!")
    assert data.train.clients.tolist() == [0, 1]
    assert data.train.lengths.tolist() == [3, 3]
    assert data.test.inputs.tolist() == [leaf("cde")]
    assert data.test.clients.tolist() == [0]


def test_windows_that_leaf_counts_and_leaves_out(write):
    """LEAF's split_data.py writes num_samples before it drops 79 windows of each role's test part."""
    assert len(Leaf(path=write(*WINDOWS, extra=79)).load(0).test) == 1
    with pytest.raises(UserError, match="user 'ANN' has 1 samples, but num_samples says 79"):
        Leaf(path=write(*WINDOWS, extra=78)).load(0)
    with pytest.raises(UserError, match="num_samples says 80"):
        Leaf(path=write(*TWEETS, extra=79), kind="sent140").load(0)


def test_sent140_by_hand(write, caplog):
    """Words by frequency, then alphabet: bad 3, good 2, "," 2, then "!" and day; ids from 2.

    The tie of "," and good goes to ",", which comes first. BOB's tweet has no word: it is one unknown word.
    """
    data = Leaf(path=write(*TWEETS), kind="sent140", sequence_length=4).load(0)
    bad, comma, good, mark, day = 2, 3, 4, 5, 6
    assert (data.num_outputs, data.vocabulary_size, data.client_names) == (2, 7, ("ann", "bob"))
    assert data.train.inputs.tolist() == [[good, good, day, mark], [bad, comma, bad, comma], [1, 0, 0, 0]]
    assert data.train.lengths.tolist() == [4, 4, 1]
    assert data.train.targets.tolist() == [1, 0, 0]
    assert data.train.clients.tolist() == [0, 0, 1]
    assert data.test.inputs.tolist() == [[1, good, 1, 0]]
    assert data.test.clients.tolist() == [1]
    assert "left out 1 user(s)" in caplog.text  # eve


def test_vocabulary_size(write):
    data = Leaf(path=write(*TWEETS), kind="sent140", vocabulary_size=1).load(0)
    assert data.vocabulary_size == 3
    assert data.train.inputs.shape == (3, 25)
    assert data.train.inputs.max() == 2


def test_users_in_several_files(write, tmp_path):
    path = write(*WINDOWS)
    more = content({"CID": [("abc", "d")]})
    (tmp_path / "data" / "train" / "b.json").write_text(json.dumps(more))
    assert Leaf(path=path).load(0).client_names == ("ANN", "BOB", "CID")
    (tmp_path / "data" / "train" / "c.json").write_text(json.dumps(more))
    with pytest.raises(UserError, match=r"c\.json: user 'CID' is also in b\.json"):
        Leaf(path=path).load(0)


def test_second_load_does_not_convert(write, monkeypatch):
    first = Leaf(path=write(*WINDOWS)).load(0)

    def convert(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(Leaf, "_convert", convert)
    again = Leaf(path=write(*WINDOWS)).load(0)
    assert again.client_names == first.client_names
    np.testing.assert_array_equal(again.train.inputs, first.train.inputs)
    for path, kind in ((write(*TWEETS), "sent140"), (write(WINDOWS[0], {"ANN": [("cde", "g")]}), "shakespeare")):
        with pytest.raises(AssertionError, match="converted again"):
            Leaf(path=path, kind=kind).load(0)


GOOD = json.dumps(content(WINDOWS[0]))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("", "is not a file of LEAF"),
        (GOOD[: len(GOOD) // 2], "is not a file of LEAF"),
        ("[]", "is not a file of LEAF"),
        ("[" * 100_000, "is not a file of LEAF"),
        ('{"users": ["ANN"], "num_samples": [1], "user_data": {}}', "is not a file of LEAF"),
        ('{"users": ["ANN"], "num_samples": [], "user_data": {"ANN": {}}}', "is not a file of LEAF"),
        ('{"users": ["ANN"], "num_samples": [1], "user_data": {"ANN": 3}}', "user 'ANN' must have a list x"),
        ('{"users": ["ANN"], "num_samples": [1], "user_data": {"ANN": {"x": ["a"], "y": []}}}', "of the same length"),
        ('{"users": [3], "num_samples": [1], "user_data": {"3": {"x": ["a"], "y": ["a"]}}}', "is not a file of LEAF"),
        ({"ANN": [("abc", "de")]}, "user 'ANN', sample 0: is not a sample of shakespeare: ('abc', 'de')"),
        ({"ANN": [("abc", 3)]}, "user 'ANN', sample 0: is not a sample of shakespeare"),
        ({"ANN": [("abc", "d"), ("ab", "d")]}, "has windows of lengths other than 3"),
        ({"ANN": [("abc", "é")]}, "no user with training samples has a train sample"),
        ({}, "no user with training samples has a train sample"),
    ],
)
def test_bad_shakespeare(write, train, message):
    path = write(train, WINDOWS[1])
    with pytest.raises(UserError) as error:
        Leaf(path=path).load(0)
    assert message in str(error.value)
    assert f"data.path={path}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pair", [("a text", 1), (tweet("a text"), 4), (tweet("a text"), "1"), (["1", "text"], 0)])
def test_bad_sent140(write, pair):
    with pytest.raises(UserError, match="user 'ann', sample 0: is not a sample of sent140"):
        Leaf(path=write({"ann": [pair]}, {}), kind="sent140").load(0)


def test_half_a_character_is_unknown(write):
    """JSON can hold half of a surrogate pair, and Python then does so too."""
    data = Leaf(path=write({"ANN": [("ab\ud83d", "d"), ("abc", "\ud83d")]}, {"ANN": [("abc", "d")]})).load(0)
    assert data.train.inputs.tolist() == [[*leaf("ab"), 80]]


def test_no_user_has_test_samples(write):
    with pytest.raises(UserError, match="no user with training samples has a test sample"):
        Leaf(path=write(WINDOWS[0], {})).load(0)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"data\.path=.*: there are no JSON files in .*train"):
        Leaf(path=str(tmp_path)).load(0)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("path", {"path": None}),
        ("kind", {"kind": "femnist"}),
        ("sequence_length", {"sequence_length": 25}),
        ("vocabulary_size", {"vocabulary_size": 25}),
        ("sequence_length", {"kind": "sent140", "sequence_length": 0}),
        ("vocabulary_size", {"kind": "sent140", "vocabulary_size": 0}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Leaf(**({"path": "data"} | values))
    assert error.value.field == field
