"""Engines of a few cycles, in the files' own format, against windows and scores worked out by hand."""

import math

import numpy as np
import pytest
import torch

from fedsim.data import cmapss
from fedsim.data.cmapss import Cmapss, nasa_score
from fedsim.data.dataset import Task
from fedsim.errors import FieldError, UserError

SENSOR_2, SENSOR_3 = 6, 7
"""Columns: engine, cycle, three settings, then sensor 1."""


def engines(*lengths, constant=False):
    """Rows of 26 columns; sensor 2 counts all rows from 0, sensor 3 is twice that, the others stay the same."""
    rows = np.full((sum(lengths), 26), 7.0)
    rows[:, 0] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    rows[:, 1] = np.concatenate([np.arange(1, n + 1) for n in lengths])
    if not constant:
        rows[:, SENSOR_2] = np.arange(len(rows))
        rows[:, SENSOR_3] = 2 * np.arange(len(rows))
    return rows


def text(rows):
    return "".join(" ".join(f"{value:g}" for value in row) + "  \n" for row in rows)  # NASA's lines end in two spaces


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path):
    def write(train=None, test=None, left="4\n1\n", subset="FD001", folder="turbofan"):
        folder = tmp_path / folder
        folder.mkdir(exist_ok=True)
        (folder / f"train_{subset}.txt").write_text(text(engines(5, 3, 2)) if train is None else train)
        (folder / f"test_{subset}.txt").write_text(text(engines(4, 1)) if test is None else test)
        (folder / f"RUL_{subset}.txt").write_text(left)
        return str(folder)

    return write


def test_windows_by_hand(write):
    """Engines of 5, 3 and 2 cycles in windows of 3: ends 3, 4, 5; 3; and the whole of the third, which is shorter.

    Left after these ends are 2, 1, 0; 0; 0 cycles, at most 1: 1, 1, 0; 0; 0 of a cap of 1.
    Sensor 2 runs from 0 to 9, so that value v is scaled to (v - 4.5) / 4.5; constant sensors become 0.
    """
    data = Cmapss(path=write(), window=3, rul_cap=1).load(0)
    assert data.task is Task.REGRESSION
    assert data.client_names == ("engine_1", "engine_2", "engine_3")
    assert data.train.inputs.shape == (5, 3, 14)
    assert data.train.lengths.tolist() == [3, 3, 3, 3, 2]
    assert data.train.clients.tolist() == [0, 0, 0, 1, 2]
    assert data.train.targets.tolist() == [[1], [1], [0], [0], [0]]
    counts = [[0, 1, 2], [1, 2, 3], [2, 3, 4], [5, 6, 7], [8, 9]]
    for row, count in zip(data.train.inputs, counts, strict=True):
        expected = (np.array(count) - 4.5) / 4.5
        np.testing.assert_allclose(row[: len(count), 0], expected, rtol=1e-6)
        np.testing.assert_allclose(row[: len(count), 1], expected, rtol=1e-6)
        assert not row[:, 2:].any()
        assert not row[len(count) :].any()


def test_test_engines(write):
    """Engine 1 has 4 cycles, of which the last 3 test; engine 2 has one; the third client has no test sample.

    Scaled as the training data are, they have 4 and 1 cycles left: of a cap of 2, 2 / 2 and 1 / 2, or else 4 / 2.
    """
    data = Cmapss(path=write(), window=3, rul_cap=2).load(0)
    assert data.test.lengths.tolist() == [3, 1]
    assert data.test.clients.tolist() == [0, 1]
    np.testing.assert_allclose(data.test.inputs[0, :, 0], (np.array([1, 2, 3]) - 4.5) / 4.5, rtol=1e-6)
    np.testing.assert_allclose(data.test.inputs[1, :, 0], [(4 - 4.5) / 4.5, 0, 0], rtol=1e-6)
    assert data.test.targets.tolist() == [[1], [0.5]]
    assert data.fitted.scaling.targets[0].scale == 2
    assert Cmapss(path=write(), window=3, rul_cap=2, cap_test=False).load(0).test.targets.tolist() == [[2], [0.5]]


def test_no_cap(write):
    """The longest life after a window of 1 is 4 cycles."""
    data = Cmapss(path=write(), window=1, rul_cap=None).load(0)
    assert data.fitted.scaling.targets[0].scale == 4
    assert data.train.targets[:5, 0].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert data.test.targets.tolist() == [[1], [0.25]]


def test_stride(write):
    """Of the ends 2, 3, 4, 5 of the first engine every other one, of the second (3 cycles) the first."""
    data = Cmapss(path=write(), window=2, stride=2, rul_cap=None).load(0)
    assert data.train.clients.tolist() == [0, 0, 1, 2]
    assert (data.train.targets[:, 0] * data.fitted.scaling.targets[0].scale).tolist() == [3, 1, 1, 0]


def test_standard_scale_and_varying_sensors(write):
    """Only sensors 2 and 3 vary; over the ten training rows each has mean 0 and variance 1."""
    data = Cmapss(path=write(), window=1, sensors="varying", scale="standard").load(0)
    assert data.train.inputs.shape == (10, 1, 2)
    np.testing.assert_allclose(data.train.inputs[:, 0].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.inputs[:, 0].std(0), 1, rtol=1e-6)


def test_usual_sensors_are_fourteen():
    assert [column - 4 for column in cmapss._USUAL] == [2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21]


def test_score_by_hand():
    """13 cycles early costs e - 1, 10 cycles late e - 1, and nothing in time."""
    expected = [math.e - 1, math.e**0.1 - 1, 0, math.e**0.1 - 1, math.e - 1]
    assert nasa_score(torch.tensor([-13, -1.3, 0, 1, 10]).double()).tolist() == pytest.approx(expected, rel=1e-6)


def test_second_load_does_not_parse_again(write, monkeypatch):
    data = Cmapss(path=write(), window=2).load(0)

    def read(*_):
        raise AssertionError("parsed again")

    monkeypatch.setattr(cmapss, "_read", read)
    again = Cmapss(path=write(), window=2).load(0)
    np.testing.assert_array_equal(again.train.inputs, data.train.inputs)
    np.testing.assert_array_equal(again.test.targets, data.test.targets)
    write(left="3\n1\n")
    with pytest.raises(AssertionError, match="parsed again"):  # a changed file is another one
        Cmapss(path=write(left="3\n1\n"), window=2).load(0)


def test_other_subset(write):
    path = write(subset="FD003")
    assert len(Cmapss(path=path, subset="FD003").load(0).client_names) == 3
    with pytest.raises(UserError, match=r"data\.path=.*no file .*train_FD001\.txt"):
        Cmapss(path=path).load(0)


def shuffled():
    rows = engines(5, 3, 2)
    rows[[1, 2]] = rows[[2, 1]]
    return text(rows)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": ""}, "train_FD001.txt is empty"),
        ({"train": "1 2 x\n"}, "train_FD001.txt is not a table of numbers"),
        ({"train": "1 1 3\n"}, "train_FD001.txt has 3 columns and must have 26"),
        ({"train": text(engines(3))[:-60]}, "train_FD001.txt is not a table of numbers"),
        ({"train": shuffled()}, "train_FD001.txt row 2 (1 3 7 ...): must be finite numbers, with engines"),
        ({"train": text(engines(3)).replace("7", "nan")}, "train_FD001.txt row 1 (1 1 nan ...): must be finite"),
        ({"test": text(engines(2))}, "RUL_FD001.txt has 2 rows and must have one for each of the 1 engines"),
        ({"left": "4\n-1\n"}, "RUL_FD001.txt row 2 (-1 ...): must be a number of at least 0"),
        ({"train": text(engines(5))}, "test_FD001.txt has 2 engines and train_FD001.txt 1"),
    ],
)
def test_bad_files(write, files, message):
    path = write(**files)
    with pytest.raises(UserError) as error:
        Cmapss(path=path).load(0)
    assert message in str(error.value)
    assert f"data.path={path}" in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_varies(write):
    constant = text(engines(5, 3, constant=True))
    with pytest.raises(UserError, match="no setting or sensor"):
        Cmapss(path=write(train=constant), sensors="varying").load(0)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("path", {"path": None}),
        ("path", {"path": ""}),
        ("subset", {"subset": "FD005"}),
        ("window", {"window": 0}),
        ("stride", {"stride": 0}),
        ("rul_cap", {"rul_cap": 0}),
        ("cap_test", {"rul_cap": None, "cap_test": False}),
        ("sensors", {"sensors": "all"}),
        ("scale", {"scale": "none"}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Cmapss(**({"path": "turbofan"} | values))
    assert error.value.field == field
