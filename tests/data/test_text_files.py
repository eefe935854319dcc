"""Encodings, byte order marks, binary files and Project Gutenberg's notices."""

import codecs

import pytest

from fedsim.data.text import Text
from fedsim.data.text_clients import read_clients
from fedsim.data.text_files import without_licence
from fedsim.errors import UserError

PLAY = "ANNÉ:\nWho\u2019s there?\n\nBÖB:\nIt is I.\n\nANNÉ:\nCome in.\n"
ROLES = ("ANNÉ", "BÖB")


@pytest.fixture
def write(tmp_path):
    def write(content, name="a.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (PLAY.encode(), "utf-8"),
        (codecs.BOM_UTF8 + PLAY.encode(), "utf-8"),
        (PLAY.replace("\n", "\r\n").encode(), "utf-8"),
        (PLAY.replace("\n", "\r").encode(), "UTF8"),
        (codecs.BOM_UTF8 + PLAY.replace("\n", "\r\n").encode(), "utf-8-sig"),
        (PLAY.encode("cp1252"), "cp1252"),
        (PLAY.replace("\u2019", "'").encode("latin-1"), "latin-1"),
        (PLAY.encode("utf-16"), "utf-16"),
    ],
)
def test_encodings_and_line_ends_do_not_matter(write, content, encoding):
    data = Text(path=write(content), encoding=encoding).load(0)
    assert data.client_names == ROLES
    assert data.notes == (
        "read as a play with heads 'NAME:' on a line of its own: 2 roles (ANNÉ 2, BÖB 1), 100.0% of the text kept",
    )


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (
            PLAY.replace("\u2019", "'").encode("latin-1"),
            "utf-8",
            r"is not UTF-8 text \(byte 3\); set data\.encoding=latin-1$",
        ),
        (PLAY.encode("cp1252"), "utf-8", r"is not UTF-8 text \(byte 3\); set data\.encoding=cp1252$"),
        (PLAY.encode("utf-16"), "utf-8", r"is not UTF-8 text \(byte 0\); set data\.encoding=utf-16$"),
        (PLAY.encode(), "ascii", r"is not ascii text \(byte 3\); set data\.encoding=utf-8$"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "utf-8", r"is not text \(NUL at byte 8\)$"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "latin-1", r"is not text \(NUL at character 8\)$"),
        (bytes(range(1, 256)), "utf-8", r"is not text \(25 control characters\)$"),
        (bytes(range(1, 256)), "latin-1", r"is not text \(25 control characters\)$"),
        (b"", "utf-8", "is empty$"),
        (codecs.BOM_UTF8 + b"\r\n", "utf-8", "is empty$"),
    ],
)
def test_what_cannot_be_read_is_one_line(write, content, encoding, message):
    """Of the bytes 1 to 31, all but tab to carriage return (9 to 13) and escape (27) are taken for no text: 25."""
    path = write(content)
    with pytest.raises(UserError, match=message) as error:
        Text(path=path, encoding=encoding).load(0)
    assert str(error.value).startswith(f"data.path={path}: {path} ")
    assert "\n" not in str(error.value)


def test_one_bad_file_of_a_folder_is_named(write, tmp_path):
    write(PLAY.encode())
    write(b"\0\1", "picture.bin")
    with pytest.raises(UserError, match=r"picture\.bin is not text"):
        Text(path=str(tmp_path)).load(0)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("*** START OF THE PROJECT GUTENBERG EBOOK A FARCE ***", "*** END OF THE PROJECT GUTENBERG EBOOK A FARCE ***"),
        ("***START OF THIS PROJECT GUTENBERG EBOOK***", "***END OF THIS PROJECT GUTENBERG EBOOK***"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK A\nFARCE ***", "End of Project Gutenberg's A Farce\n\n*** END OF"),
    ],
)
def test_gutenberg_notices_are_cut_off(write, start, end):
    before, after = f"License: all of it.\n\n{start}", f"{end}\n\nSection 1:\nGeneral terms."
    text = f"{before}\n\n{PLAY}\n{after}\n"
    assert without_licence(text) == (PLAY, len(before) + len(after) + 1)
    data = Text(path=write(text.encode())).load(0)
    assert data.client_names == ROLES
    assert (
        data.notes[0] == f"cut off {len(before) + len(after) + 1} characters of Project Gutenberg's licence and notices"
    )
    for clients_by in ("file", "chunk"):
        (client,) = read_clients(write(text.encode()), clients_by)[0].values()
        assert client == [PLAY]


def test_only_one_mark_and_none(write):
    assert without_licence("Licence\n*** START OF THIS EBOOK ***\nHo.\n") == ("Ho.\n", 35)
    assert without_licence("Ho.\n*** END OF THE PROJECT GUTENBERG EBOOK ***\n") == ("Ho.\n", 43)
    assert without_licence("\n*** START OF THE WAR ***\n") == ("\n*** START OF THE WAR ***\n", 0)
    path = write(b"*** START OF THIS EBOOK ***\n\n*** END OF THIS EBOOK ***\n")
    with pytest.raises(UserError, match=r"is empty between Project Gutenberg's marks"):
        Text(path=path).load(0)
