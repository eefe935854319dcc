"""Folders written as LEAF writes them, with a handful of users."""

import json

import numpy as np
import pytest

from fedsim.data.dataset import Task
from fedsim.data.fitted import Fitted
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
    assert data.notes == ("left out 1 of 4 windows, which a character follows that is not one of LEAF's 80",)
    assert data.fitted.vocabulary == (*LEAF_CHARACTERS, "<unknown>")
    assert data.fitted.labels == tuple(LEAF_CHARACTERS)


def test_windows_that_leaf_counts_and_leaves_out(write):
    """LEAF's split_data.py writes num_samples before it drops 79 windows of each role's test part."""
    assert len(Leaf(path=write(*WINDOWS, extra=79)).load(0).test) == 1
    with pytest.raises(UserError, match="user 'ANN' has 1 samples, but num_samples says 79"):
        Leaf(path=write(*WINDOWS, extra=78)).load(0)
    with pytest.raises(UserError, match="num_samples says 80"):
        Leaf(path=write(*TWEETS, extra=79), kind="sent140").load(0)


def test_sent140_by_hand(write):
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
    assert data.fitted.vocabulary == ("<padding>", "<unknown>", "bad", ",", "good", "!", "day")
    assert data.fitted.labels == ("not happy", "happy")
    assert data.notes == (  # "bad, BAD, bad" has 5 words; eve does not train
        "1 of 5 tweets have more than 4 words, of which the first are read (data.sequence_length)",
        "left out 1 of 2 test users with 1 test samples, because they have no training samples (data.split=user tests "
        "on users who do not train)",
    )


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
    assert (again.client_names, again.notes, again.fitted) == (first.client_names, first.notes, first.fitted)
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
        ("split", {"split": "time"}),
        ("test_fraction", {"test_fraction": 0.0}),
        ("test_fraction", {"test_fraction": 1.0}),
        ("test_fraction", {"test_fraction": float("nan")}),
        ("test_fraction", {"test_fraction": 0.2, "split": "user"}),
        ("vocabulary_size", {"kind": "synthetic", "vocabulary_size": 25}),
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


# Split by user: train and test have different users.

TRAIN_USERS = {"ann": [(tweet("one"), 1), (tweet("two"), 0)], "bob": [(tweet("three"), 0)]}
TEST_USERS = {"cid": [(tweet("one"), 1), (tweet("two"), 0)], "dee": [(tweet("three"), 1)]}


def test_split_by_user(write):
    """Test samples one, two (cid) and three (dee) go to ann, bob and ann in turn: ann gets one and three."""
    data = Leaf(path=write(TRAIN_USERS, TEST_USERS), kind="sent140", split="user").load(0)
    one, two, three = (data.fitted.vocabulary.index(word) for word in ("one", "two", "three"))
    assert data.client_names == ("ann", "bob")
    assert data.test.inputs[:, 0].tolist() == [one, three, two]
    assert data.test.targets.tolist() == [1, 1, 0]
    assert data.test.clients.tolist() == [0, 0, 1]
    assert data.train.clients.tolist() == [0, 0, 1]
    assert data.notes == (
        "the 3 test samples of 2 users who do not train are dealt out to the 2 clients in turn (data.split=user): test "
        "metrics over all clients are those of unseen users, and those of single clients say nothing about them",
    )


def test_wrong_way_of_splitting(write):
    path = write(TRAIN_USERS, TEST_USERS)
    with pytest.raises(UserError, match=r"has a test sample; if they were split by user, set data\.split=user"):
        Leaf(path=path, kind="sent140").load(0)
    path = write(TRAIN_USERS, TEST_USERS | {"ann": [(tweet("one"), 1)]})
    with pytest.raises(UserError, match=r"data\.split=user: 1 users have training and test samples, such as 'ann'"):
        Leaf(path=path, kind="sent140", split="user").load(0)
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.3: has an effect only with files that are not split"):
        Leaf(path=path, kind="sent140", test_fraction=0.3).load(0)


# Files that are not split, as LEAF writes them to all_data.


@pytest.fixture
def unsplit(tmp_path):
    def write(users, place="all_data/all_data.json"):
        file = tmp_path / "whole" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content(users)))
        return str(tmp_path / "whole")

    return write


@pytest.mark.parametrize(("place", "end"), [("all_data/all_data.json", ""), ("a.json", ""), ("a.json", "/a.json")])
def test_unsplit_shakespeare(unsplit, place, end):
    """ANN's 10 windows of 3: int(0.7 * 10) = 7 train, 2 share characters with them, the last tests. BOB only trains."""
    text = "abcdefghijklm"
    ann = [(text[k : k + 3], text[k + 3]) for k in range(10)]
    data = Leaf(path=unsplit({"ANN": ann, "BOB": [("xyz", "!")]}, place) + end, test_fraction=0.3).load(0)
    assert data.train.inputs.tolist() == [leaf(x) for x, _ in ann[:7]] + [leaf("xyz")]
    assert data.train.targets.tolist() == leaf("defghij!")
    assert data.test.inputs.tolist() == [leaf("jkl")]
    assert data.test.targets.tolist() == leaf("m")
    assert data.test.clients.tolist() == [0]
    assert data.notes == (
        "left out 2 of 11 windows, which share characters with training windows before them (split by "
        "data.test_fraction)",
    )


def dated(text, date):
    return [*tweet(text)[:1], date, *tweet(text)[2:]]


def test_unsplit_tweets_by_date(unsplit):
    """The file has the unhappy tweets first. In UTC: a May 1 07:00, b May 1 06:59, c Apr 30, d 2010; a tenth is one."""
    tweets = [
        (dated("a", "Fri May 01 00:00:00 PDT 2009"), 0),
        (dated("d", "Fri Jan 01 00:00:00 PST 2010"), 0),
        (dated("b", "Fri May 01 06:59:00 UTC 2009"), 1),
        (dated("c", "Thu Apr 30 00:00:00 PDT 2009"), 1),
    ]
    data = Leaf(path=unsplit({"ann": tweets}), kind="sent140").load(0)
    words = [data.fitted.vocabulary[k] for k in data.train.inputs[:, 0]]
    assert words == ["c", "b", "a"]
    assert (data.train.targets.tolist(), data.test.targets.tolist()) == ([1, 1, 0], [0])
    tweets[1] = (dated("d", "1 January 2010"), 0)
    with pytest.raises(UserError, match=r"user 'ann' has a tweet with the date '1 January 2010', by which"):
        Leaf(path=unsplit({"ann": tweets}), kind="sent140").load(0)


def test_unsplit_files_cannot_be_split_by_user(unsplit):
    with pytest.raises(UserError, match=r"data\.split=user: the files in .* are not split; split them by LEAF's"):
        Leaf(path=unsplit({"ANN": WINDOWS[0]["ANN"]}), split="user").load(0)


def test_half_a_folder(write, tmp_path):
    path = write(*WINDOWS)
    (tmp_path / "data" / "test" / "all_data_test_9.json").unlink()
    with pytest.raises(UserError, match=r"there are no JSON files in .*test$"):
        Leaf(path=path).load(0)


def test_the_vocabulary_of_a_model(write):
    """good is 2, morning 3; "Good good day!" has 2 others, the first 4 words of "bad, BAD, bad" 4, and the rest 1."""
    fitted = Fitted(labels=("not happy", "happy"), vocabulary=("<padding>", "<unknown>", "good", "morning"))
    data = Leaf(path=write(*TWEETS), kind="sent140", sequence_length=4).load_as(0, fitted)
    assert data.train.inputs.tolist() == [[2, 2, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert data.test.inputs.tolist() == [[1, 2, 3, 0]]
    assert data.fitted == fitted
    assert data.notes[0] == "8 words are not in the model's vocabulary, and count as unknown"  # 7, and eve's
    own = Leaf(path=write(*TWEETS), kind="sent140", sequence_length=4).load(0)
    assert own.vocabulary_size == 7  # the cache knows the two apart


# FedProx' synthetic data: data/synthetic_1_1/data/train/mytrain.json and test/mytest.json.


@pytest.fixture
def fedprox(tmp_path):
    def write(train, test):
        for part, users in (("train", train), ("test", test)):
            folder = tmp_path / "synthetic_1_1" / "data" / part
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"my{part}.json").write_text(json.dumps(content(users)))
        return str(tmp_path / "synthetic_1_1" / "data")

    return write


def test_synthetic(fedprox):
    """60 features a point; the script writes classes as 3.0."""
    points = np.random.default_rng(0).normal(size=(5, 60))
    classes = [3.0, 0.0, 9.0, 3, 1.0]
    pairs = list(zip(points.tolist(), classes, strict=True))
    path = fedprox({"f_00000": pairs[:2], "f_00001": pairs[2:3]}, {"f_00000": pairs[3:4], "f_00001": pairs[4:]})
    data = Leaf(path=path, kind="synthetic").load(0)
    assert data.client_names == ("f_00000", "f_00001")
    assert (data.task, data.num_outputs, data.vocabulary_size) == (Task.CLASSIFICATION, 10, None)
    np.testing.assert_array_equal(data.train.inputs, points[:3, None].astype(np.float32))
    np.testing.assert_array_equal(data.test.inputs, points[3:, None].astype(np.float32))
    assert (data.train.targets.tolist(), data.train.clients.tolist()) == ([3, 0, 9], [0, 0, 1])
    assert data.test.targets.tolist() == [3, 1]
    assert data.test.targets.dtype == np.int64
    assert data.train.lengths.tolist() == [1, 1, 1]
    assert data.fitted.labels == tuple("0123456789")
    assert len(data.fitted.scaling.features) == 60
    assert data.notes == ()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([1.0, 2.0], 10), "is not a sample of synthetic"),
        (([1.0, 2.0], 0.5), "is not a sample of synthetic"),
        (([1.0, 2.0], float("nan")), "is not a sample of synthetic"),
        (([1.0, 2.0], True), "is not a sample of synthetic"),
        (([1.0, float("nan")], 1), "is not a sample of synthetic"),
        (([1.0, 10**400], 1), "is not a sample of synthetic"),
        (([], 1), "is not a sample of synthetic"),
        (([1.0], 1), "has points of other than 2 features"),
    ],
)
def test_bad_synthetic(fedprox, pair, message):
    with pytest.raises(UserError) as error:
        Leaf(path=fedprox({"f_00000": [([0.0, 0.0], 0.0), pair]}, {}), kind="synthetic").load(0)
    assert message in str(error.value)
