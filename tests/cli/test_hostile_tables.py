"""The table and the picture of ``fedsim partition``: names of clients and labels that a spreadsheet or a font minds."""

import csv
import io
from pathlib import Path

import pytest

CLIENTS = (
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "-1",
    "+2.5",
    "-x",
    "\u5ba2\u6237",
    "$\\frac{$",
    "_c",
    "a\x1b[2J",
    "b\u202e",
)
LABELS = ("=1+1", "$\\frac{$", "\u5ba2" * 50)


@pytest.fixture
def table(elsewhere, monkeypatch):
    """Ten clients with twenty rows each, and sequences of one row with labels."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(elsewhere / "cache"))
    rows = [(name, k, LABELS[k % 3]) for name in CLIENTS for k in range(20)]
    with Path("t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("key", "x", "y"), *rows])
    keys = ("data.path=t.csv", "data.client_column=key", "data.target_column=y", "data.window=1")
    return ("data=csv", *keys, "partition=natural", "data.task=classification")


def test_a_spreadsheet_computes_no_name(fedsim, table):
    answer = fedsim("partition", *table, "--csv", "split.csv")
    assert answer.code == 0, answer
    content = Path("split.csv").read_bytes().decode()
    assert all(c.isprintable() or c == "\n" for c in content)
    rows = list(csv.DictReader(io.StringIO(content)))
    assert {row["name"] for row in rows} == {
        *("'=cmd|' /C calc'!A0", "'@SUM(1)", "-1", "+2.5", "'-x", "\u5ba2\u6237", "$\\frac{$", "_c"),
        *("a\\x1b[2J", "b\\u202e"),
    }
    assert {"share_=1+1", "share_$\\frac{$"} <= set(rows[0])  # no formula, for it does not begin with =
    assert all(float(row["total_variation"]) >= 0 for row in rows)


@pytest.mark.parametrize("command", [("partition",), ("run", "--dry-run", "model.hidden_size=2", "threads=1")])
def test_no_font_and_no_tex_minds_a_name(fedsim, table, monkeypatch, command):
    """Warnings are errors here: a glyph that is missing, or a label that is left out, would be one."""
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"text.usetex": True}):
        answer = fedsim(*command, *table, "--plot", "a.svg")
    assert (answer.code, answer.err) == (0, "")
    assert Path("a.svg").stat().st_size > 1000
