"""One process per directory, and the message that says so."""

import errno
import fcntl
import json
import os
import platform

import pytest

from fedsim.errors import UserError
from fedsim.recording import lock
from fedsim.recording.lock import holder, locked


def test_only_one_process_holds_it(tmp_path):
    with locked(tmp_path):
        assert holder(tmp_path).startswith(f"process {os.getpid()} on {platform.node()} since ")
        with pytest.raises(UserError, match=rf"^{tmp_path}: in use by process {os.getpid()} on "), locked(tmp_path):
            pass
        assert holder(tmp_path) is not None
    assert holder(tmp_path) is None
    assert not list(tmp_path.iterdir())
    with locked(tmp_path):
        pass


def test_an_error_releases_it(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert holder(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "host": 3}'])
def test_what_a_killed_process_left(tmp_path, content):
    (tmp_path / lock.NAME).write_text(content)
    assert holder(tmp_path) is None
    with locked(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_a_lock_that_its_holder_deletes_meanwhile(tmp_path, monkeypatch):
    """The file that was opened is not the one that others see any more: it is opened again."""
    flock, opened = fcntl.flock, []

    def late(descriptor, kind):
        if not opened:
            (tmp_path / lock.NAME).unlink()
        opened.append(descriptor)
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert len(opened) == 2
        assert holder(tmp_path) is not None


@pytest.fixture
def _without_locks(monkeypatch):
    def unsupported(descriptor, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)


@pytest.mark.usefixtures("_without_locks")
@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({}, True),
        ({"host": "elsewhere"}, True),  # cannot be checked here
        ({"process": "12"}, False),  # another process got its number
        ({"pid": 2**22 + 1}, False),
        ({"pid": "x"}, False),
    ],
)
def test_where_the_file_system_has_no_locks(tmp_path, change, held):
    with locked(tmp_path):
        me = json.loads((tmp_path / lock.NAME).read_text())
    (tmp_path / lock.NAME).write_text(json.dumps(me | change))
    assert (holder(tmp_path) is not None) == held
    if held:
        with pytest.raises(UserError, match="in use by"), locked(tmp_path):
            pass
        hint = "if that process no longer runs, delete .lock in the directory"
        assert (hint in holder(tmp_path)) == ("host" in change)
    else:
        with locked(tmp_path):
            pass


def test_other_errors_do_not_mean_that_it_is_free(tmp_path, monkeypatch):
    def broken(descriptor, kind):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path):
        pass
