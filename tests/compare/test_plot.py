"""Pictures: read back where they say something, and made of every kind of comparison."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fedsim.compare import command, plot
from fedsim.compare.reading import load_runs
from fedsim.compare.table import compare
from fedsim.errors import UserError

pytest.importorskip("matplotlib")


@pytest.fixture
def figure():
    """An empty figure."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained")


@pytest.fixture
def compare_sizes(make_run, tmp_path):
    """Return ``compare_sizes(sizes, lrs, seeds)``: a run of each, the last accuracy being size/100 + lr + seed/1000."""

    def make(sizes=(8, 16), lrs=(0.1,), seeds=(0, 1)):
        for size in sizes:
            for lr in lrs:
                for seed in seeds:
                    config = {"seed": seed, "model.hidden_size": size, "aggregator.server_optimizer.lr": lr}
                    accuracy = [0.1, 0.2, size / 100 + lr + seed / 1000]
                    make_run(f"{size}-{lr}-{seed}", config, accuracy=accuracy)
        return compare(load_runs([tmp_path])[0])

    return make


SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.mark.parametrize("kind", SIGNATURES)
def test_the_same_runs_give_the_same_file(compare_sizes, kind):
    comparison = compare_sizes()
    content = plot.draw(comparison, kind)
    assert content.startswith(SIGNATURES[kind])
    assert plot.draw(comparison, kind) == content


def test_a_curve_is_the_mean_over_seeds_of_the_rounds_they_share(make_run, tmp_path):
    make_run("a", {"seed": 0}, accuracy=[0.1, 0.2, 0.3])
    make_run("b", {"seed": 1}, accuracy=[0.1, 0.4])
    (group,) = compare(load_runs([tmp_path])[0]).groups
    found = plot.curve(group, "test_accuracy", "bytes_down")
    np.testing.assert_allclose(found.x, [0, 100])
    np.testing.assert_allclose(found.mean, [0.1, 0.3])
    np.testing.assert_allclose(found.std, [0, 0.1 * np.sqrt(2)])  # deviations -0.1 and 0.1, divisor 2 - 1
    assert plot.curve(group, "test_accuracy", "virtual_seconds") is None


def test_lines_differ_in_style_too_and_the_legend_names_them(compare_sizes, figure):
    comparison = compare_sizes(sizes=(8, 16, 32))
    plot.curves(figure, comparison, ["model.hidden_size"], "round")
    (axes,) = figure.axes
    assert len(axes.lines) == 3
    assert len(axes.collections) == 3  # the bands
    assert len({line.get_color() for line in axes.lines}) == 3
    assert len({str(line._dash_pattern) for line in axes.lines}) == 3
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "model.hidden_size"
    assert [text.get_text() for text in legend.texts] == ["8", "16", "32"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("round", "test accuracy (share)\nmean ± std over seeds")


def test_no_two_lines_look_alike(compare_sizes, figure):
    plot.curves(figure, compare_sizes(sizes=range(1, 31)), ["model.hidden_size"], "round")
    looks = {(line.get_color(), str(line._dash_pattern)) for line in figure.axes[0].lines}
    assert len(looks) == 30
    assert not figure.axes[0].collections  # thirty bands would hide each other


def test_many_groups_of_two_settings_get_panels(compare_sizes, figure):
    comparison = compare_sizes(sizes=(8, 16, 32, 64), lrs=(0.1, 0.2, 0.3))
    plot.curves(figure, comparison, ["model.hidden_size", "aggregator.server_optimizer.lr"], "bytes_up")
    assert [axes.get_title() for axes in figure.axes] == [
        f"aggregator.server_optimizer.lr = {lr}" for lr in (0.1, 0.2, 0.3)
    ]
    assert [len(axes.lines) for axes in figure.axes] == [4, 4, 4]
    assert figure.axes[0].get_xlabel() == "sent by all clients (B)"
    assert len(figure.legends) == 1


def test_bytes_have_a_unit(make_run, tmp_path, figure):
    make_run("a", metrics="round,test_accuracy,bytes_up\n0,0.1,0\n1,0.2,2500000\n")
    plot.curves(figure, compare(load_runs([tmp_path])[0]), [], "bytes_up")
    assert figure.axes[0].get_xlabel() == "sent by all clients (MB)"
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), [0, 2.5])
    assert not figure.legends


def test_the_heat_map_shows_the_table(compare_sizes, figure):
    comparison = compare_sizes(sizes=(8, 16, 32), lrs=(0.1, 0.2), seeds=(0,))
    plot.heat_map(figure, comparison, ["model.hidden_size", "aggregator.server_optimizer.lr"])
    axes = figure.axes[0]
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shown, [[0.28, 0.36, 0.52], [0.18, 0.26, 0.42]])  # size/100 + lr, lr growing upwards
    assert [text.get_text() for text in axes.texts] == ["0.2800", "0.3600", "0.5200", "0.1800", "0.2600", "0.4200"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["8", "16", "32"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("model.hidden_size", "aggregator.server_optimizer.lr")
    assert figure.axes[1].get_ylabel() == "final test accuracy (share)"


def test_a_hole_in_the_grid_is_hatched(compare_sizes, make_run, tmp_path, figure):
    compare_sizes(sizes=(8, 16), lrs=(0.1,), seeds=(0,))
    make_run("odd", {"model.hidden_size": 8, "aggregator.server_optimizer.lr": 0.7})
    comparison = compare(load_runs([tmp_path])[0])
    plot.heat_map(figure, comparison, ["model.hidden_size", "aggregator.server_optimizer.lr"])
    assert len(figure.axes[0].patches) == 1
    assert len(figure.axes[0].texts) == 3


def test_the_heat_map_says_which_seeds_failed_or_are_missing(compare_sizes, make_run, tmp_path, figure):
    compare_sizes(sizes=(8, 16), lrs=(0.1, 0.2), seeds=(0,))
    for size, status in ((8, "diverged"), (16, "interrupted")):
        config = {"seed": 1, "model.hidden_size": size, "aggregator.server_optimizer.lr": 0.1}
        make_run(status, config, accuracy=[0.1, 0.2], summary={"status": status})
    plot.heat_map(figure, compare(load_runs([tmp_path])[0]), ["model.hidden_size", "aggregator.server_optimizer.lr"])
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["0.2800", "0.3600", "1 of 2\nfailed", "0.2600\n1 of 2"]


def test_curves_that_end_with_their_shortest_run_are_pointed_out(make_run, tmp_path):
    make_run("a", {"seed": 0}, accuracy=[0.1, 0.2, 0.3])
    make_run("b", {"seed": 1}, accuracy=[0.1, 0.4])
    make_run("c", {"model.hidden_size": 8}, accuracy=[0.1, 0.4])
    said = plot.cut_short(compare(load_runs([tmp_path])[0]).groups)
    assert said == [
        "--plot: the curve of model.hidden_size=64 ends with round 1, the last that all its seeds have (of 2)"
    ]


@pytest.mark.parametrize(
    ("sizes", "lrs", "grid"), [((8, 16), (0.1, 0.2), True), ((8, 16), (0.1,), False), ((8,), (0.1,), False)]
)
def test_two_numeric_settings_make_a_heat_map_by_default(compare_sizes, sizes, lrs, grid):
    comparison = compare_sizes(sizes, lrs)
    assert plot.is_grid(comparison) == grid
    assert plot.draw(comparison, "png")


def test_a_heat_map_of_something_else(compare_sizes):
    with pytest.raises(UserError, match=r"--heatmap: .* exactly two settings besides the seed, not in 1 \(model.hidd"):
        plot.draw(compare_sizes(), "png", heatmap=True)


def test_an_axis_that_the_runs_do_not_have(compare_sizes):
    with pytest.raises(UserError, match=r"no run has both test_accuracy and virtual_seconds \(--x may be round, bytes"):
        plot.draw(compare_sizes(), "png", x="virtual_seconds")


def test_runs_without_a_config(tmp_path, figure):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("round,test_loss\n0,2\n1,1\n")
    comparison = compare(load_runs([str(tmp_path / "*.csv")])[0])
    plot.curves(figure, comparison, [], "round")
    assert [text.get_text() for text in figure.legends[0].texts] == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((Path("split.jpg"), None, None), r"must end in \.png, \.svg or \.pdf"),
        ((None, "rounds", None), "--x round: needs --plot FILE"),
        ((None, None, True), "--heatmap: needs --plot FILE"),
        ((Path("a.png"), "byte_up", None), r"--x byte_up: must be one of .* \(did you mean 'bytes_up'\?\)"),
        ((Path("a.png"), "bytes_up", True), "--x bytes_up: a heat map has no such axis"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_read(options, message):
    with pytest.raises(UserError, match=message):
        command.picture(*options)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="--plot: needs matplotlib; install it with: python -m pip install matplotlib"):
        plot.check(Path("curves.PNG"))


def test_long_names_are_listed_below_the_picture(make_run, tmp_path, figure):
    for number in range(3):
        make_run(str(number), {"tags": [f"a rather long description {number}"]}, accuracy=[0.1, 0.2])
    plot.curves(figure, compare(load_runs([tmp_path])[0]), ["tags"], "round")
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.y1 <= figure.axes[0].get_tightbbox().y0
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
