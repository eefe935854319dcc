"""Files are written whole or not at all."""

import os

import pytest

from fedsim.errors import UserError
from fedsim.files import write_file


def test_a_file_is_replaced(tmp_path):
    file = tmp_path / "file"
    for content in (b"old and long", b"new"):
        write_file(file, content)
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_one(tmp_path):
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    write_file(link, b"content")
    assert link.is_symlink()
    assert target.read_bytes() == b"content"


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    file = tmp_path / "file"
    write_file(file, b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*file: No space left on device"):
        write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_file_is_written_to():
    write_file(os.devnull, b"content")
    assert not os.path.isfile(os.devnull)


@pytest.mark.parametrize("name", [".", "missing/file", "null\0byte"])
def test_what_cannot_be_written(tmp_path, name):
    with pytest.raises(UserError, match="cannot write"):
        write_file(tmp_path / name, b"")
