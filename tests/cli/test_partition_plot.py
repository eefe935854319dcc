"""Pictures of splits: read back where a picture says something, and made for every kind of data."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fedsim.cli import partition_plot
from fedsim.cli.partition_report import describe
from fedsim.data.dataset import Assignment, Dataset, Split, Task
from fedsim.errors import UserError

pytest.importorskip("matplotlib")


def report_of(clients, labels, sizes=None, task=Task.CLASSIFICATION):
    rng = np.random.default_rng(0)
    sizes = np.full(clients, 4) if sizes is None else np.asarray(sizes)
    samples = int(sizes.sum())
    targets = rng.integers(0, labels, samples) if task is Task.CLASSIFICATION else rng.standard_normal((samples, 1))
    split = Split(np.zeros((samples, 1, 1), np.float32), np.ones(samples, np.int64), targets)
    members = np.split(np.arange(samples), np.cumsum(sizes)[:-1])
    names = tuple(f"client_{k}" for k in range(clients))
    return describe(Dataset("toy", task, split, split, labels), Assignment(members, members, names))


SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.mark.parametrize("kind", SIGNATURES)
def test_the_same_split_gives_the_same_file(kind):
    report = report_of(3, 2)
    content = partition_plot.draw(report, kind)
    assert content.startswith(SIGNATURES[kind])
    assert partition_plot.draw(report, kind) == content


@pytest.mark.parametrize(
    ("clients", "labels", "sizes", "task"),
    [
        (1, 1, [1], Task.CLASSIFICATION),
        (40, 30, None, Task.CLASSIFICATION),
        (31, 3, [1] * 30 + [5000], Task.CLASSIFICATION),
        (5, 1, [3, 9, 30, 50, 99], Task.REGRESSION),
    ],
)
def test_any_shape(clients, labels, sizes, task):
    assert partition_plot.draw(report_of(clients, labels, sizes, task), "png")


@pytest.fixture
def axes():
    """The axes of a figure of its own."""
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_the_heat_map_shows_the_shares(axes):
    report = report_of(5, 3)
    partition_plot._heat_map(axes, report, 20)
    np.testing.assert_array_equal(axes.images[0].get_array(), report.shares)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"client_{k}" for k in range(5)]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2"]


def test_many_clients_are_ordered_by_their_most_frequent_label(axes):
    report = report_of(50, 3)
    partition_plot._heat_map(axes, report, 20)
    shown = np.asarray(axes.images[0].get_array())
    assert (np.diff(shown.argmax(1)) >= 0).all()
    assert sorted(map(tuple, shown)) == sorted(map(tuple, report.shares))


@pytest.mark.parametrize("sizes", [[7], [3, 3, 4], [1, 500, 20, 20], [2] * 50 + [10_000], range(1, 400)])
def test_the_histogram_counts_every_client_once(axes, sizes):
    partition_plot._sizes(axes, np.array(sizes))
    assert sum(bar.get_height() for bar in axes.patches) == len(sizes)
    for bar in axes.patches:
        low, high = bar.get_x(), bar.get_x() + bar.get_width()
        assert bar.get_height() == sum(low < size < high for size in sizes)


@pytest.mark.parametrize("name", ["split", "split.jpg", "png"])
def test_other_formats_are_refused(name):
    with pytest.raises(UserError, match=r"must end in \.png, \.svg or \.pdf"):
        partition_plot.check(Path(name))


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"--plot: needs matplotlib; install with: .* \(the extra 'plot'\)$"):
        partition_plot.check(Path("split.PNG"))
