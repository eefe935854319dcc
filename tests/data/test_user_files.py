"""Files identified by content, and a one-line error for those that cannot be read."""

import pytest

from fedsim.data.user_files import content_identity, existing
from fedsim.errors import UserError


def test_identity_is_that_of_names_and_contents(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("one")
    b.write_text("two")
    first = content_identity("x", [a, b])
    assert content_identity("y", [a, b]) == first
    assert content_identity("x", [b, a]) != first
    b.write_text("twi")
    assert content_identity("x", [a, b]) != first
    (tmp_path / "c").mkdir()
    moved = a.rename(tmp_path / "c" / "a")
    b.write_text("two")
    assert content_identity("x", [moved, b]) == first


def test_missing_and_unreadable_files(tmp_path):
    there = tmp_path / "there"
    there.touch()
    assert existing("x", there) == (there,)
    with pytest.raises(UserError, match=r"data\.path=x: there is no file .*gone"):
        existing("x", there, tmp_path / "gone")
    with pytest.raises(UserError, match=r"data\.path=null: .* cannot be read"):
        content_identity(None, [tmp_path])
