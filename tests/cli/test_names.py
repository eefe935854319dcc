"""Names from files: none reaches a terminal, a picture or a spreadsheet as more than a name."""

import json
from pathlib import Path

import pytest

RUN = ("model.hidden_size=2", "rounds=1", "engine.kernels=torch", "device=cpu", "threads=1")
EVIL = ("\x1b[2J\x1b[31mgone", "\x07\x9b31m", "[bold]x[/]", "$\\frac{$", "=cmd|' /C calc'!A0", "a\u202eb")


@pytest.fixture
def table(elsewhere, monkeypatch):
    """Six clients with names that are more than names."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(elsewhere / "cache"))
    lines = [f'"{name}",{k % 5}' for name in EVIL for k in range(20)]
    Path("t.csv").write_text("key,y\n" + "\n".join(lines) + "\n")
    keys = ("data.path=t.csv", "data.client_column=key", "data.target_column=y", "data.window=3", "partition=natural")
    return ("data=csv", *keys)


@pytest.mark.parametrize("command", [("partition",), ("run", "--dry-run", *RUN), ("run", "console=plain", *RUN)])
def test_nothing_for_a_terminal_to_obey(fedsim, table, command):
    answer = fedsim(*command, *table)
    assert answer.code == 0, answer
    for text in (answer.out, answer.err):
        assert all(c.isprintable() or c == "\n" for c in text), [c for c in text if not c.isprintable()]
    if command == ("partition",):
        assert "\\x1b[2J\\x1b[31mgone" in answer.out
        assert "[bold]x[/]" in answer.out


@pytest.mark.parametrize("command", [("partition",), ("run", "--dry-run", *RUN)])
def test_names_are_no_mathematics(fedsim, table, command):
    answer = fedsim(*command, *table, "--plot", "a.svg")
    assert (answer.code, answer.err) == (0, "")
    assert Path("a.svg").stat().st_size > 1000


def test_formulas_are_said(fedsim, table):
    answer = fedsim("run", *table, *RUN, "hydra.run.dir=run", "console=plain")
    note = "1 of 6 names of clients look like formulas to a spreadsheet, such as \"=cmd|' /C calc'!A0\""
    assert f"data: {note}: import clients.csv as text" in answer.out
    assert any(text.startswith(note) for text in json.loads(Path("run/summary.json").read_text())["data"]["notes"])
    Path("n.csv").write_text("key,y\n" + "".join(f"{key},{k % 5}\n" for key in (-1, +2) for k in range(20)))
    answer = fedsim("run", *table, *RUN, "data.path=n.csv", "hydra.run.dir=numbers", "console=plain")
    assert answer.code == 0
    assert "look like formulas" not in answer.out
