"""Devices from a CSV, and what is wrong with it."""

import math
from collections import Counter

import pytest

from fedsim.devices.profiles import Profiles
from fedsim.errors import FieldError, UserError

NAMES = ["ann", "bob", "cem"]


@pytest.fixture
def profiles(tmp_path):
    """Return ``profiles(text, **settings)``: a system whose file holds the text."""

    def write(text, **settings):
        file = tmp_path / "d.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Profiles(path=str(file), **settings)

    return write


def test_by_name(profiles):
    text = "up_mbps,client,gflops,down_mbps\n1,cem,2,3\n4, ann ,5,6\n\n7,dan,8,9\n10,bob,11,12\n"
    system = profiles(text)
    fleet = system.fleet(NAMES, 0)
    assert fleet.gflops.tolist() == [5, 11, 2]
    assert fleet.down_mbps.tolist() == [6, 12, 3]
    assert fleet.up_mbps.tolist() == [4, 10, 1]
    assert fleet.memory_mb.tolist() == [math.inf] * 3
    assert fleet.availability.tolist() == [1] * 3
    assert system.always_there()


def test_by_place_where_there_are_as_many(profiles):
    system = profiles("gflops,down_mbps,up_mbps,memory_mb,availability\r\n1,2,3,4,0.5\r\n6,7,8,9,1\r\n1e1,1,1,1,1\r\n")
    fleet = system.fleet(NAMES, 0)
    assert fleet.gflops.tolist() == [1, 6, 10]
    assert fleet.memory_mb.tolist() == [4, 9, 1]
    assert fleet.availability.tolist() == [0.5, 1, 1]
    assert not system.always_there()


def test_dealt_evenly_by_the_seed(profiles):
    system = profiles("gflops,down_mbps,up_mbps\n1,1,1\n2,2,2\n3,3,3\n")
    names = [f"c{k}" for k in range(20)]
    dealt = system.fleet(names, 0).gflops.tolist()
    assert sorted(Counter(dealt).values()) == [6, 7, 7]
    assert system.fleet(names, 0).gflops.tolist() == dealt != system.fleet(names, 1).gflops.tolist()
    assert dealt != sorted(dealt)


def test_of_more_rows_some_are_left_out(profiles):
    rows = "".join(f"{k},1,1\n" for k in range(1, 10))
    system = profiles(f"gflops,down_mbps,up_mbps\n{rows}")
    drawn = [system.fleet(NAMES, seed).gflops.tolist() for seed in range(20)]
    assert all(len({*three}) == 3 for three in drawn)
    assert len({speed for three in drawn for speed in three}) == 9  # none is left out always


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"d\.csv: is empty; its first line must name"),
        ("\n\n", r"d\.csv: is empty"),
        ("gflops,down_mbps,up_mbps\n", r"d\.csv: has no rows"),
        ("gflops,down_mbps\n1,2\n", r"line 1: no column 'up_mbps'; required: gflops, down_mbps, up_mbps"),
        ("gflops,down_mbps,up_mbsp\n1,2,3\n", r"line 1: no such column 'up_mbsp' \(did you mean 'up_mbps'\?\)"),
        ("gflops,gflops,down_mbps,up_mbps\n1,1,2,3\n", r"line 1: two columns 'gflops'"),
        ("gflops,down_mbps,up_mbps\n1,2\n", r"line 2: 2 cells in the place of 3"),
        ("gflops,down_mbps,up_mbps\n1,2,3,\n", r"line 2: 4 cells in the place of 3"),
        ("gflops,down_mbps,up_mbps\n1,2,3\n1,nan,3\n", r"line 3, column down_mbps: 'nan' must be a number above 0"),
        ("gflops,down_mbps,up_mbps\n1,-2,3\n", r"line 2, column down_mbps: '-2' must"),
        ("gflops,down_mbps,up_mbps\n1,2,0\n", r"line 2, column up_mbps: '0' must"),
        ("gflops,down_mbps,up_mbps\n1,2,inf\n", r"line 2, column up_mbps: 'inf' must .* at most 1e\+09"),
        ("gflops,down_mbps,up_mbps\nfast,2,3\n", r"line 2, column gflops: 'fast' must"),
        ("gflops,down_mbps,up_mbps\n,2,3\n", r"line 2, column gflops: '' must"),
        ("gflops,down_mbps,up_mbps,availability\n1,2,3,1.5\n", r"column availability: '1.5' must .* at most 1$"),
        ("gflops,down_mbps,up_mbps,availability\n1,2,3,0\n", r"column availability: '0' must"),
        ("client,gflops,down_mbps,up_mbps\n,1,2,3\n", r"line 2, column client: is empty"),
        ("client,gflops,down_mbps,up_mbps\na,1,2,3\nb,1,2,3\na,1,2,3\n", r"line 4: client 'a' has a row already, in l"),
        ("client,gflops,down_mbps,up_mbps\nann,1,2,3\nbop,1,2,3\n", r"no row for client 'bob' \(and for 1 more of 3\)"),
        ('gflops,down_mbps,up_mbps\n"1,2,3\n', r"line 2: unexpected end of data"),
        (b"gflops,down_mbps,up_mbps\n\xff,2,3\n", r"is not UTF-8 text \(byte 25\)"),
    ],
)
def test_what_is_refused(profiles, text, message):
    with pytest.raises(UserError, match=message):
        profiles(text).fleet(NAMES, 0)


def test_files_that_are_none(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv", "a\0b"):
        with pytest.raises(UserError, match=r"system\.path=.*: cannot be read"):
            Profiles(path=str(path)).read()
    with pytest.raises(FieldError, match="path=null: name a CSV"):
        Profiles()


def test_a_byte_order_mark_is_no_part_of_a_name(profiles):
    assert profiles("\ufeffgflops,down_mbps,up_mbps\n1,2,3\n").fleet(["a"], 0).gflops.tolist() == [1]
