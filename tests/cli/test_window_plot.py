"""What `fedsim run --dry-run` says of the data, and its picture of a few samples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.cli import window_plot
from fedsim.data.dataset import Task
from fedsim.data.describe import describe
from fedsim.data.fitted import Fitted
from fedsim.federation.prepare import prepare

plain = ("model.hidden_size=2", "device=cpu", "threads=1")


@pytest.fixture
def table(elsewhere, monkeypatch):
    """Two clients of 40 rows, the second 100 higher."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(elsewhere / "cache"))
    lines = [f"{key},{k % 5 + 100 * (key == 'b')},{k % 3}" for key in "ab" for k in range(40)]
    Path("t.csv").write_text("key,load,$heat$\n" + "\n".join(lines) + "\n")
    names = ("data.path=t.csv", "data.client_column=key", "data.target_column=load", "partition=natural")
    return ("data=csv", "data.window=6", "data.horizon=2", *names, *plain)


def test_a_picture_of_a_forecast(fedsim, table):
    answer = fedsim("run", *table, "--dry-run", "--plot", "windows.png")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("a few samples: windows.png\n")
    assert Path("windows.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    first = fedsim("run", *table, "--dry-run", "--plot", "a.svg")
    assert first.code == fedsim("run", *table, "--dry-run", "--plot", "b.svg").code == 0
    assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plot", "a.png"), "needs --dry-run"),
        (("--dry-run", "-m", "--plot", "a.png"), "without -m"),
        (("--dry-run", "--plot", "a.txt"), "must end in .png, .svg or .pdf"),
        (("--dry-run", "--plot", "no/such/a.png"), "no/such/a.png"),
    ],
)
def test_bad_pictures(fedsim, tiny, arguments, message):
    answer = fedsim("run", *tiny, *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_what_is_drawn(table, compose, monkeypatch):
    """The dots are the two rows after the window, on the lines' scale, and the lines end at the last row seen."""
    from matplotlib.axes import Axes

    lines, dots = [], []

    def plot(self, x, y, *style, **more):
        (dots if "." in style else lines).append((list(x), np.asarray(y).tolist()))
        return original(self, x, y, *style, **more)

    original = Axes.plot
    monkeypatch.setattr(Axes, "plot", plot)
    population = prepare(compose(*table)).population
    window_plot.draw(population, "svg")
    sample = int(population.train.offsets[1]) // 2  # the middle one of the first client
    load = population.train.take(torch.tensor([sample]))[0, :, 0].double().tolist()
    assert lines[0] == ([-5, -4, -3, -2, -1, 0], load)
    assert dots[0] == ([1, 2], population.train.targets[sample].double().tolist())
    assert len(lines) == 2 * len(dots) == 4  # two features of two clients, one of which is predicted


@pytest.mark.parametrize("task", list(Task))
def test_every_task(compose, tmp_path, task):
    """Labels, numbers and text, with names that matplotlib would take for mathematics."""
    (tmp_path / "play.txt").write_text(
        "\n\n".join(f"{name}:\nsome $words\\frac{{$ here" for name in ("ANNA", "BO") * 3)
    )
    data = {
        Task.CLASSIFICATION: ("data=synthetic", "partition=natural"),
        Task.REGRESSION: ("data=synthetic", "data.task=regression", "data.outputs=3"),
        Task.SEQUENCE_LABELLING: ("data=text", f"data.path={tmp_path / 'play.txt'}", "data.sequence_length=5"),
    }[task]
    population = prepare(compose(*data, "num_clients=1", "partition=iid", *plain)).population
    names = tuple(f"$x_{{{k}$" for k in range(population.num_outputs))
    population = replace(population, client_names=("$\\frac{$",))
    for fitted in (population.fitted, Fitted(labels=names)):
        assert window_plot.draw(replace(population, fitted=fitted), "png").startswith(b"\x89PNG")


def test_the_plan_describes_the_data(fedsim, table):
    """Mean and deviation by hand: 40 rows, of which 8 test and 8 lie between; training targets are rows 6 to 23.

    Row k of client a is k mod 5, of b 100 more. Windows start at rows 0 to 16, and predict rows 6 to 23: 17 windows of
    two targets each.
    """
    targets = np.array([(start + 6 + h) % 5 + high for high in (0, 100) for start in range(17) for h in range(2)])
    text = " ".join(fedsim("run", *table, "--dry-run").out.split())
    assert "features 2: 'load', '$heat$'" in text
    assert "steps per sample 6" in text
    assert f"targets 'load', training mean {targets.mean():.4g}, standard deviation {targets.std():.4g}" in text
    assert "horizon 2 rows ahead" in text
    assert "errors test_rmse and test_mae are in the unit of 'load'" in text
    assert "features 2: 'load', '$heat$'" in " ".join(fedsim("partition", *table).out.split())


def test_labels_with_counts(tmp_path, compose, monkeypatch):
    """21 rows of each of two labels; window 3, the last 8 rows test: 6 windows, training rows before 42 - 8 - 3."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "l.csv").write_text("x,y\n" + "".join(f"{k},{'up' if k % 2 else 'down'}\n" for k in range(42)))
    settings = ("data=csv", f"data.path={tmp_path / 'l.csv'}", "data.target_column=y", "data.task=classification")
    population = prepare(compose(*settings, "data.window=3", "num_clients=1", *plain)).population
    # training windows end at rows 2 to 30, 15 of them even; test windows at rows 36 to 41
    assert describe(population)["labels"] == "down 15 + 3, up 14 + 3 (training + test)"


def test_rows_and_times_of_a_table(tmp_path, compose, monkeypatch):
    """Client a: 7 rows, hourly from 10:00; b: 6 rows, every half hour from 13:00, the last an hour late."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    times = {"a": [f"{h}:00" for h in range(10, 17)], "b": ["13:00", "13:30", "14:00", "14:30", "15:00", "16:00"]}
    lines = [f"{key},2024-05-01 {time},{k}" for key, own in times.items() for k, time in enumerate(own)]
    (tmp_path / "t.csv").write_text("key,time,y\n" + "\n".join(lines) + "\n")
    settings = ("data=csv", f"data.path={tmp_path / 't.csv'}", "data.target_column=y", "data.client_column=key")
    settings += ("data.time_column=time", "data.window=1", "data.test_fraction=0.4", "data.gaps=ignore")
    found = describe(prepare(compose(*settings, "data.short=drop", "partition=natural", *plain)).population)
    assert found["rows"] == "13 of 2 clients, 6 to 7, median 6.5"
    assert found["times"] == (
        "2024-05-01 10:00:00 to 2024-05-01 16:00:00 (clients begin until 2024-05-01 13:00:00 and end from "
        "2024-05-01 16:00:00 on)"
    )
    assert found["step"] == "1 h (1 client), 30 min (1 client)"
