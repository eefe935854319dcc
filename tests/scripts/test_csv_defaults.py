"""The study of optimizers on tables: what is held out, and how runs are counted."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fedsim
from fedsim.data.csv import Csv

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "csv_defaults.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("csv_defaults", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["csv_defaults"] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["csv_defaults"]


@pytest.fixture
def table(tmp_path, monkeypatch, study):
    """A sine, of which each next value is known."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    frame = pd.DataFrame({"y": np.sin(np.arange(200) / 3).round(3)})
    monkeypatch.setitem(study.TABLES, "sine", study.Table(lambda: frame, ("data.target_column=y", "data.window=6")))
    frame.to_csv(tmp_path / "sine.csv", index=False)
    return tmp_path / "sine.csv"


def test_test_rows_decide_nothing(table, study):
    """200 rows, 40 of them test, 7 between: 147 training windows start at rows 0 to 146; four fifths are 117.6."""
    data = Csv(path=str(table), target_column="y", window=6).load(0)
    held = study.held_out(data)
    assert len(data.train) == 147
    assert held.train.starts.tolist() == [*range(118)]
    assert held.test.starts.tolist() == [*range(118, 147)]
    assert np.array_equal(held.test.targets, data.train.targets[118:])


def test_a_study_of_one_table(table, capsys, study):
    found = study.study(["sine"], ["adam 0.01"], 1, ("rounds=8", "model.hidden_size=8", "num_clients=2"))
    assert 0 < found.loc["sine", "adam 0.01"] < 0.7
    assert capsys.readouterr().err.startswith("sine  adam 0.01: 0.")


def test_summary_by_hand(study):
    """Of 0.5, 2 and a run that diverged, which counts as 10: the third root of 10."""
    found = pd.DataFrame({"a": [0.5, 2.0, math.inf]}, index=["x", "y", "z"])
    expected = {"mean": 10 ** (1 / 3), "worst": math.inf, "diverged": 1, "not below 1": 2}
    assert study.summary(found).loc["a"].to_dict() == pytest.approx(expected)
