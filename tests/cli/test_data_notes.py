"""What was done to the rows is said before training, in the plan and the split, and stands in the summary."""

import json
from pathlib import Path

import pytest

from fedsim.data.source import load_dataset


@pytest.fixture
def gap(elsewhere, monkeypatch):
    """60 rows with a gap before row 30."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(elsewhere / "cache"))
    times = [*range(30), *range(130, 160)]
    Path("a.csv").write_text("t,y\n" + "".join(f"{t},{t % 7}\n" for t in times))
    data = ("data=csv", "data.path=a.csv", "data.target_column=y", "data.time_column=t", "data.window=3")
    return (*data, "num_clients=2", "partition=iid")


RUN = ("model.hidden_size=2", "rounds=1", "engine.kernels=torch", "device=cpu", "threads=1", "console=plain")
NOTE = "1 gap in time in 1 of 1 clients (the longest, 101 instead of 1, before a.csv, line 32): windows do not cross it"


def test_a_run_says_it_before_training_and_in_its_summary(fedsim, gap):
    for folder in ("first", "from the cache"):
        answer = fedsim("run", *gap, *RUN, f"hydra.run.dir='{folder}'")
        assert answer.code == 0
        assert answer.out.index(f"data: {NOTE}") < answer.out.index("round ")
        (note,) = json.loads(Path(folder, "summary.json").read_text())["data"]["notes"]
        assert note.startswith(NOTE)
        assert NOTE in Path(folder, "run.log").read_text()
    assert NOTE in fedsim("evaluate", "first").err


def test_the_plan_and_the_split_say_it(fedsim, gap):
    plan = " ".join(fedsim("run", *gap, *RUN, "--dry-run").out.split())
    assert f"data notes {NOTE}" in plan
    assert f"data: {NOTE}" in fedsim("partition", *gap).out


def test_data_without_notes(fedsim, gap, tiny):
    assert fedsim("run", *tiny, "hydra.run.dir=run").code == 0
    assert json.loads(Path("run/summary.json").read_text())["data"]["notes"] == []
    assert "data notes" not in fedsim("run", *tiny, "--dry-run").out


def test_a_relative_path_resumed_elsewhere(fedsim, gap, elsewhere, tmp_path, monkeypatch):
    assert fedsim("run", *gap, *RUN, "hydra.run.dir=run").code == 0
    monkeypatch.chdir(tmp_path)
    load_dataset.cache_clear()  # as in another process
    answer = fedsim("resume", elsewhere / "run", "rounds=2")
    assert answer.code == 2
    assert "data.path=a.csv: there is no such file, folder or glob; the run was started in" in answer.err
    assert str(elsewhere) in answer.err
    monkeypatch.chdir(elsewhere)
    assert fedsim("resume", "run", "rounds=2").code == 0
