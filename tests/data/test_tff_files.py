"""HDF5 files in the layout of TensorFlow Federated's Shakespeare, and files that try to be something else."""

import sys

import h5py
import numpy as np
import pytest

from fedsim.data.dataset import IGNORE, Task
from fedsim.data.shakespeare import TFF_CHARACTERS, Shakespeare
from fedsim.errors import UserError

LEAR, OTHELLO, GHOST = "THE_TRAGEDY_OF_KING_LEAR_CORDELIA", "OTHELLO_IAGO", "HAMLET_GHOST"
STRINGS = h5py.string_dtype("ascii")
TRAIN = {LEAR: [b"abcd", b"abcdef"], OTHELLO: [b"no"]}
TEST = {LEAR: [b"\xc3\r"], OTHELLO: [b"ab"], GHOST: [b"mark me"]}
UNKNOWN, BEGIN, END = 87, 88, 89


def ids(text):
    return [TFF_CHARACTERS.index(c) + 1 for c in text]


@pytest.fixture
def write(tmp_path):
    def write(train=TRAIN, test=TEST, dtype=STRINGS, **options):
        for part, clients in (("train", train), ("test", test)):
            with h5py.File(tmp_path / f"shakespeare_{part}.h5", "w") as file:
                for name, snippets in clients.items():
                    group = file.create_group(f"examples/{name}")
                    group.create_dataset("snippets", data=np.array(snippets, dtype), dtype=dtype, **options)
        return str(tmp_path)

    return write


@pytest.fixture
def spoil(write, tmp_path):
    """Replace LEAR's snippets in the training file by what a function puts there."""

    def spoil(put):
        path = write()
        with h5py.File(tmp_path / "shakespeare_train.h5", "a") as file:
            del file[f"examples/{LEAR}/snippets"]
            put(file[f"examples/{LEAR}"])
        return path

    return spoil


@pytest.mark.parametrize("options", [{}, {"dtype": "S8"}, {"chunks": (1,), "compression": "gzip"}])
def test_by_hand(write, options):
    """Pieces of 5 tokens, as in the test of the text: a client's number is its place in the order of the names.

    OTHELLO_IAGO comes before THE_TRAGEDY..., and "no" is B n o E. The two bytes of the test are an unknown character
    and a carriage return, which TFF's 86 have. HAMLET_GHOST does not train.
    """
    data = Shakespeare(path=write(**options), sequence_length=4).load(0)
    a, b, c, d, e, f = ids("abcdef")
    n, o = ids("no")
    (cr,) = ids("\r")
    assert data.task is Task.SEQUENCE_LABELLING
    assert (data.num_outputs, data.vocabulary_size, data.client_names) == (90, 90, (OTHELLO, LEAR))
    assert data.train.inputs.tolist() == [[BEGIN, n, o, 0], [BEGIN, a, b, c], [BEGIN, a, b, c], [e, f, 0, 0]]
    assert data.train.targets.tolist() == [
        [n, o, END, IGNORE],
        [a, b, c, d],
        [a, b, c, d],
        [f, END, IGNORE, IGNORE],
    ]
    assert data.train.clients.tolist() == [0, 1, 1, 1]
    assert data.test.inputs.tolist() == [[BEGIN, a, b, 0], [BEGIN, UNKNOWN, cr, 0]]
    assert data.test.targets.tolist() == [[a, b, END, IGNORE], [UNKNOWN, cr, END, IGNORE]]
    assert data.test.clients.tolist() == [0, 1]
    assert data.test.lengths.tolist() == [3, 3]
    assert data.notes == ("left out 1 of 3 clients, who have nothing to predict in shakespeare_train.h5",)


def test_what_has_no_effect_is_refused(write):
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.3: has an effect only with a text"):
        Shakespeare(path=write(), test_fraction=0.3).load(0)
    with pytest.raises(UserError, match=r"data\.form=last: TensorFlow Federated's files are for .*all_positions"):
        Shakespeare(path=write(), form="last").load(0)


def test_without_h5py(write, monkeypatch):
    path = write()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"shakespeare_train\.h5 needs h5py; .* -m pip install 'h5py>=.*\(the extra 'hdf5'\)$"
    ):
        Shakespeare(path=path).load(0)


def test_one_file_is_missing(write, tmp_path):
    path = write()
    (tmp_path / "shakespeare_test.h5").unlink()
    with pytest.raises(UserError, match=r"data\.path=.*: the folder has no shakespeare_test\.h5, TensorFlow"):
        Shakespeare(path=path).load(0)


def test_no_client_in_both(write):
    with pytest.raises(UserError, match="no client has something to predict in both"):
        Shakespeare(path=write({LEAR: [b"a"]}, {GHOST: [b"a"]})).load(0)


def other_file(tmp_path):
    """A file whose content must not be read through a link or as raw data."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("snippets", data=np.array([b"secret"], "S8"))
    return str(tmp_path / "other.h5")


def virtual(group, tmp_path):
    layout = h5py.VirtualLayout((1,), "S8")
    layout[:] = h5py.VirtualSource(other_file(tmp_path), "snippets", (1,))
    group.create_virtual_dataset("snippets", layout)


def references(group, _):
    group.create_dataset("snippets", data=np.array([group.ref], h5py.ref_dtype), dtype=h5py.ref_dtype)


HOSTILE = {
    "external link": (
        lambda group, tmp: group.__setitem__("snippets", h5py.ExternalLink(other_file(tmp), "snippets")),
        "is a link to elsewhere",
    ),
    "soft link": (
        lambda group, _: group.__setitem__("snippets", h5py.SoftLink(f"/examples/{OTHELLO}/snippets")),
        "is a link to elsewhere",
    ),
    "raw data elsewhere": (
        lambda group, tmp: group.create_dataset("snippets", (1,), "S8", external=[(other_file(tmp), 0, 8)]),
        "is stored in another file",
    ),
    "virtual": (virtual, "is stored in another file"),
    "references": (references, "is not one dimension of strings"),
    "numbers": (lambda group, _: group.create_dataset("snippets", data=[1, 2]), "is not one dimension of strings"),
    "a table": (lambda group, _: group.create_dataset("snippets", (1, 1), "S8"), "is not one dimension of strings"),
    "a group": (lambda group, _: group.create_group("snippets"), "is not a dataset"),
    "nothing": (lambda group, _: None, "has no snippets"),
    "many": (lambda group, _: group.create_dataset("snippets", (10**12,), STRINGS), "more than the file can hold"),
    "long": (lambda group, _: group.create_dataset("snippets", (1,), "S1000000"), "more than the file can hold"),
    "a large chunk": (
        lambda group, _: group.create_dataset(
            "snippets", (1,), "S1", maxshape=(None,), chunks=(10**8,), compression="gzip"
        ),
        "more than the file can hold",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(spoil, tmp_path, kind):
    put, message = HOSTILE[kind]
    with pytest.raises(UserError) as error:
        Shakespeare(path=spoil(lambda group: put(group, tmp_path))).load(0)
    assert message in str(error.value)
    assert "shakespeare_train.h5 is not one of TensorFlow Federated's files" in str(error.value)
    assert "\n" not in str(error.value)


def test_clients_that_share_one_long_snippet(write, tmp_path):
    """A megabyte under a hundred names is not read a hundred times."""
    path = write({LEAR: [b"a" * 10**6]})
    with h5py.File(tmp_path / "shakespeare_train.h5", "a") as file:
        for k in range(100):
            file[f"examples/client_{k}"] = file[f"examples/{LEAR}"]
    with pytest.raises(UserError, match="its snippets are longer than the file"):
        Shakespeare(path=path).load(0)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_no_hdf5(write, tmp_path, content):
    path = write()
    (tmp_path / "shakespeare_test.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"shakespeare_test\.h5 is not one of TensorFlow Federated's files"):
        Shakespeare(path=path).load(0)


def test_truncated(write, tmp_path):
    path = write()
    file = tmp_path / "shakespeare_train.h5"
    whole = file.read_bytes()
    for size in range(0, len(whole), 97):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError):
            Shakespeare(path=path).load(0)


def test_no_clients(write):
    with pytest.raises(UserError, match=r"has no examples"):
        Shakespeare(path=write({})).load(0)
    with pytest.raises(UserError, match=r"shakespeare_train\.h5 has no snippets"):
        Shakespeare(path=write({LEAR: []})).load(0)
