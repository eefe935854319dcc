"""Windows, vocabulary and clients of small texts that can be checked by eye."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.dataset import IGNORE, Task
from fedsim.data.text import Text, _follows_blank_line, code_points
from fedsim.errors import FieldError, UserError

PLAY = """\
ANN:
Hello there, you.

Bob Smith:
Mark this:
it is one speech.

ANN:
I did.
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="a.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_windows_by_hand(write):
    """12 characters, a quarter tests: "abcabcabc" trains, "adb" tests; d is unknown.

    Ids: a=2 b=3 c=4. Windows of 4 inputs: abca|bcab predict bcab|cabc, all 8 predictions, so no padding.
    The test part has 2 predictions: inputs a, d(unknown) and targets d (ignored), b.
    """
    data = Text(path=write("abcabcabcadb"), sequence_length=4, clients_by="file", test_fraction=0.25).load(0)
    assert data.task is Task.SEQUENCE_LABELLING
    assert (data.num_outputs, data.vocabulary_size, data.client_names) == (5, 5, ("a.txt",))
    assert data.train.inputs.tolist() == [[2, 3, 4, 2], [3, 4, 2, 3]]
    assert data.train.targets.tolist() == [[3, 4, 2, 3], [4, 2, 3, 4]]
    assert data.train.lengths.tolist() == [4, 4]
    assert data.test.inputs.tolist() == [[2, 1, 0, 0]]
    assert data.test.targets.tolist() == [[IGNORE, 3, IGNORE, IGNORE]]
    assert data.test.lengths.tolist() == [2]


def test_last_window_is_padded(write):
    """ "abcdef" and a test part "fe": 5 predictions in windows of 3, so the second has 2 and one padded step."""
    data = Text(path=write("abcdeffe"), sequence_length=3, clients_by="file", test_fraction=0.25).load(0)
    assert data.train.inputs.tolist() == [[2, 3, 4], [5, 6, 0]]
    assert data.train.targets.tolist() == [[3, 4, 5], [6, 7, IGNORE]]
    assert data.train.lengths.tolist() == [3, 2]
    assert data.test.inputs.tolist() == [[7, 0, 0]]


@given(
    text=st.text(st.characters(exclude_characters="\0\r", codec="utf-8"), min_size=20, max_size=200),
    length=st.integers(1, 30),
    chunk=st.integers(10, 60),
)
def test_every_character_but_a_parts_first_is_predicted_once(tmp_path_factory, text, length, chunk):
    """Reference: plain Python over each chunk's characters."""
    text = "ab" * 30 + text  # the first chunk, at least, has a test part of known characters
    path = tmp_path_factory.getbasetemp() / "generated.txt"
    path.write_bytes(text.encode())
    data = Text(path=str(path), sequence_length=length, clients_by="chunk", chunk_size=chunk, test_fraction=0.3).load(0)
    chunks = [c for i in range(0, len(text), chunk) if len(c := text[i : i + chunk]) > 1]
    cuts = []
    for c in chunks:
        held_out = int(0.3 * len(c))
        cuts.append(len(c) - (held_out if held_out >= 2 else 0))
    vocabulary = sorted({letter for c, cut in zip(chunks, cuts, strict=True) for letter in c[:cut]})
    ids = {letter: i for i, letter in enumerate(vocabulary, 2)}
    assert data.num_outputs == len(vocabulary) + 2
    for client, (c, cut) in enumerate(zip(chunks, cuts, strict=True)):
        for split, part in ((data.train, c[:cut]), (data.test, c[cut:])):
            pairs = [(ids.get(a, 1), ids.get(b, IGNORE)) for a, b in pairwise(part)]
            windows = [pairs[i : i + length] for i in range(0, len(pairs), length)]
            windows = [w for w in windows if any(target != IGNORE for _, target in w)]
            rows = np.flatnonzero(split.clients == client)
            got = [
                list(zip(split.inputs[r][:n].tolist(), split.targets[r][:n].tolist(), strict=True))
                for r, n in zip(rows, split.lengths[rows], strict=True)
            ]
            assert got == windows
    for split in (data.train, data.test):
        padded = np.arange(length) >= split.lengths[:, None]
        assert (split.inputs[padded] == 0).all()
        assert (split.targets[padded] == IGNORE).all()


def test_roles_of_a_play(write):
    """ "Mark this:" ends with a colon but follows no blank line, so it is speech."""
    path = write(PLAY)
    assert Text(path=path)._client_texts() == {
        "ANN": "Hello there, you.\nI did.",
        "Bob Smith": "Mark this:\nit is one speech.",
    }
    assert Text(path=path, sequence_length=5).load(0).client_names == ("ANN", "Bob Smith")


def test_line_ends_and_byte_order_mark_do_not_matter(write):
    windows = b"\xef\xbb\xbf" + PLAY.replace("\n", "\r\n").encode()
    assert Text(path=write(windows))._client_texts() == Text(path=write(PLAY, "b.txt"))._client_texts()


def test_text_before_the_first_role_is_reported(write, caplog):
    path = write("A title\n\n" + PLAY)
    assert list(Text(path=path)._client_texts()) == ["ANN", "Bob Smith"]
    assert "9 characters before the first role" in caplog.text


def test_silent_role_is_left_out_with_a_warning(write, caplog):
    data = Text(path=write(PLAY + "\nGhost:\n")).load(0)
    assert data.client_names == ("ANN", "Bob Smith")
    assert "left out 1 of 3 clients" in caplog.text


def test_short_client_trains_and_does_not_test(write):
    """ "Hm." has 3 characters: a tenth of them is no test part."""
    data = Text(path=write(PLAY + "\nEve:\nHm.\n"), test_fraction=0.2).load(0)
    assert data.client_names[2] == "Eve"
    assert (data.train.clients == 2).sum() == 1
    assert (data.test.clients == 2).sum() == 0
    assert set(data.train.clients) == {0, 1, 2}


def test_folder(tmp_path, write):
    write(PLAY, "b.txt")
    write(PLAY, "a.txt")
    write("ignored", ".hidden")
    folder = str(tmp_path)
    assert list(Text(path=folder)._client_texts()) == ["a.txt/ANN", "a.txt/Bob Smith", "b.txt/ANN", "b.txt/Bob Smith"]
    assert list(Text(path=folder, clients_by="file")._client_texts()) == ["a.txt", "b.txt"]
    chunks = Text(path=folder, clients_by="chunk", chunk_size=50)._client_texts()
    assert list(chunks) == ["a.txt/chunk_0", "a.txt/chunk_1", "b.txt/chunk_0", "b.txt/chunk_1"]
    assert chunks["a.txt/chunk_0"] + chunks["a.txt/chunk_1"] == PLAY


def test_characters_beyond_the_basic_plane_are_one_id_each(write):
    data = Text(path=write("🎵é🎵é🎵é🎵é"), clients_by="file", sequence_length=10, test_fraction=0.3).load(0)
    assert data.num_outputs == 4  # é = 2, 🎵 = 3
    assert data.train.inputs[0, :5].tolist() == [3, 2, 3, 2, 3]
    assert code_points("🎵").tolist() == [0x1F3B5]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"\xff\xfe\x00a", {}, "not UTF-8"),
        (b"abc\x00def", {}, "not text"),
        (b"", {}, "is empty"),
        (b" \n\n", {}, "is empty"),
        (b"Just prose, with nobody speaking.", {}, "clients_by=chunk"),
        (b"x", {"clients_by": "file"}, "no client"),
    ],
)
def test_bad_file(write, content, options, message):
    path = write(content)
    with pytest.raises(UserError) as error:
        Text(path=path, **options).load(0)
    assert message in str(error.value)
    assert f"data.path={path}" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"data\.path=.*no file or folder"):
        Text(path=str(tmp_path / "nothing.txt")).load(0)
    with pytest.raises(UserError, match=r"data\.path=.*no files"):
        Text(path=str(tmp_path)).load(0)


def test_no_test_part_anywhere(write):
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.1"):
        Text(path=write("abcdefgh"), clients_by="file").load(0)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("path", {"path": None}),
        ("path", {"path": ""}),
        ("sequence_length", {"sequence_length": 0}),
        ("clients_by", {"clients_by": "speakers"}),
        ("chunk_size", {"chunk_size": 100}),
        ("chunk_size", {"clients_by": "chunk", "chunk_size": 1}),
        ("test_fraction", {"test_fraction": 0.0}),
        ("test_fraction", {"test_fraction": 1.0}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Text(**({"path": "a.txt"} | values))
    assert error.value.field == field


def test_blank_line_check():
    text = "a\n \nb\nc"
    assert [_follows_blank_line(text, text.index(letter)) for letter in "abc"] == [True, True, False]
