"""Windows, vocabulary and clients of small texts that can be checked by eye."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.dataset import IGNORE, Task
from fedsim.data.text import Text, code_points
from fedsim.data.text_clients import read_clients
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


def texts_of(path, **options):
    """Each client's text, by its name."""
    texts, _ = read_clients(path, **{"clients_by": "speaker"} | options)
    return {name: "\n".join(parts) for name, parts in texts.items()}


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


def test_windows_at_every_position(write):
    """ "abcabcab" trains with 7 predictions: windows of 4 start at 0, 1, 2, 3. "cab" tests: 2, in one padded window."""
    options = {"sequence_length": 4, "clients_by": "file", "test_fraction": 0.3}
    data = Text(path=write("abcabcabcab"), stride=1, **options).load(0)
    text = [2, 3, 4, 2, 3, 4, 2, 3]
    assert data.train.inputs.tolist() == [text[i : i + 4] for i in range(4)]
    assert data.train.targets.tolist() == [text[i + 1 : i + 5] for i in range(4)]
    assert data.train.lengths.tolist() == [4, 4, 4, 4]
    assert data.test.inputs.tolist() == [[4, 2, 0, 0]]
    assert data.test.targets.tolist() == [[2, 3, IGNORE, IGNORE]]
    assert data.overlap == 3  # windows that begin up to 3 later share characters
    wide = Text(path=write("abcabcabcab"), stride=2, **options).load(0)  # starts 0, 2 and, padded by one, 4
    assert wide.train.inputs.tolist() == [text[0:4], text[2:6], [*text[4:7], 0]]
    assert wide.train.lengths.tolist() == [4, 4, 3]
    assert wide.overlap == 1
    same = Text(path=write("abcabcabcab"), stride=4, **options).load(0)
    assert same.train.inputs.tolist() == Text(path=write("abcabcabcab"), **options).load(0).train.inputs.tolist()


def test_a_fixed_table_of_characters(write):
    """Ids follow code points: tab, line feed, vertical tab, form feed, return are 2 to 6, space 7, "!" 8, "a" 72."""
    data = Text(path=write("a!\na!aéa!a!"), clients_by="file", characters="printable", test_fraction=0.3).load(0)
    assert data.vocabulary_size == 102
    assert data.train.inputs[0, :7].tolist() == [72, 8, 3, 72, 8, 72, 1]
    assert data.train.targets[0, :7].tolist() == [8, 3, 72, 8, 72, IGNORE, 72]
    assert data.notes == ("1 characters are not among data.characters=printable, and count as unknown",)


def test_roles_of_a_play(write):
    """ "Mark this:" ends with a colon but follows no blank line, so it is speech."""
    path = write(PLAY)
    assert texts_of(path) == {
        "ANN": "Hello there, you.\nI did.",
        "Bob Smith": "Mark this:\nit is one speech.",
    }
    assert Text(path=path, sequence_length=5).load(0).client_names == ("ANN", "Bob Smith")


def test_line_ends_and_byte_order_mark_do_not_matter(write):
    windows = b"\xef\xbb\xbf" + PLAY.replace("\n", "\r\n").encode()
    assert texts_of(write(windows)) == texts_of(write(PLAY, "b.txt"))


def test_text_before_the_first_role_is_reported(write):
    """Without white space and names: "Atitle", "Hellothere,you.", "Markthis:itisonespeech.", "Idid."

    These are 6, 15, 23 and 5 characters, 49 in all: 6 / 49 is 12.2%.
    """
    data = Text(path=write("A title\n\n" + PLAY)).load(0)
    assert data.client_names == ("ANN", "Bob Smith")
    assert data.notes == (
        "read as a play with heads 'NAME:' on a line of its own: 2 roles (ANN 2, Bob Smith 1), 87.8% of the text kept; "
        "left out: 12.2% before the first name",
    )


def test_silent_role_is_left_out_with_a_note(write):
    data = Text(path=write(PLAY + "\nGhost:\n")).load(0)
    assert data.client_names == ("ANN", "Bob Smith")
    assert data.notes[1] == (
        "left out 1 of 3 roles, which have fewer than data.min_speeches=1 speeches: 0.0% of the text"
    )


def test_client_of_one_character_is_left_out_with_a_note(write):
    data = Text(path=write(PLAY + "\nGhost:\nO\n")).load(0)
    assert data.client_names == ("ANN", "Bob Smith")
    assert data.notes[1] == "left out 1 of 3 clients, which have fewer than 2 characters each"


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
    assert list(texts_of(folder)) == ["a.txt/ANN", "a.txt/Bob Smith", "b.txt/ANN", "b.txt/Bob Smith"]
    assert list(texts_of(folder, clients_by="file")) == ["a.txt", "b.txt"]
    chunks = texts_of(folder, clients_by="chunk", chunk_size=50)
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
        ("stride", {"stride": 0}),
        ("stride", {"stride": 81}),
        ("characters", {"characters": "ascii"}),
        ("clients_by", {"clients_by": "speakers"}),
        ("chunk_size", {"chunk_size": 100}),
        ("chunk_size", {"clients_by": "chunk", "chunk_size": 1}),
        ("test_fraction", {"test_fraction": 0.0}),
        ("test_fraction", {"test_fraction": 1.0}),
        ("layout", {"layout": "colons"}),
        ("layout", {"layout": "dot", "clients_by": "file"}),
        ("min_speeches", {"min_speeches": 0}),
        ("min_speeches", {"min_speeches": 2, "clients_by": "chunk"}),
        ("encoding", {"encoding": "latin-2000"}),
        ("encoding", {"encoding": "base64"}),
        ("encoding", {"encoding": ""}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Text(**({"path": "a.txt"} | values))
    assert error.value.field == field


def test_roles_with_few_speeches_are_left_out(write):
    """Ann says Hellothere,you. and Idid. (15 + 5 characters), Bob Markthis:itisonespeech. (23): 23 / 43 is 53.5%."""
    data = Text(path=write(PLAY), min_speeches=2).load(0)
    assert data.client_names == ("ANN",)
    assert data.notes[1:] == (
        "left out 1 of 2 roles, which have fewer than data.min_speeches=2 speeches: 53.5% of the text",
    )
    with pytest.raises(UserError, match=r"^data\.min_speeches=3: no role has that many speeches; the most is 2$"):
        Text(path=write(PLAY), min_speeches=3).load(0)


def test_notes_on_a_folder(tmp_path, write):
    """ANN is in both files, of which b.txt has another layout. All four speeches of b.txt are said: none is lost."""
    write(PLAY, "a.txt")
    write("ANN.--One.\n\nEVE.--Two.\n\nANN.--Three.\n\nEVE.--Four.\n", "b.txt")
    data = Text(path=str(tmp_path), min_speeches=2).load(0)
    assert data.client_names == ("a.txt/ANN", "b.txt/ANN", "b.txt/EVE")
    assert data.notes == (
        "read as 2 plays with heads 'NAME:' on a line of its own (1 file) and 'Name.--' (1 file): "
        "4 roles (a.txt/ANN 2, b.txt/ANN 2, b.txt/EVE 2, a.txt/Bob Smith 1), 100.0% of the text kept",
        "1 name of several files (ANN): a client of its own in each file",
        "left out 1 of 4 roles, which have fewer than data.min_speeches=2 speeches: 37.1% of the text",
    )
    write("Just prose.", "c.txt")
    with pytest.raises(UserError, match=r"data\.path=.*: c\.txt: no line looks like the name of a role; .*file"):
        Text(path=str(tmp_path)).load(0)
    assert Text(path=str(tmp_path), clients_by="file", test_fraction=0.3).load(0).notes == ()
