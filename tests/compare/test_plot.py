"""Pictures: read back where they say something, and made of every kind of comparison."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fedsim.compare import command, curves, heat_map, plot
from fedsim.compare.escape import drawn_names
from fedsim.compare.groups import Group
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
    found = curves.curve(group, "test_accuracy", "bytes_down")
    np.testing.assert_allclose(found.x, [0, 100])
    np.testing.assert_allclose(found.mean, [0.1, 0.3])
    np.testing.assert_allclose(found.std, [0, 0.1 * np.sqrt(2)])  # deviations -0.1 and 0.1, divisor 2 - 1
    assert curves.curve(group, "test_accuracy", "virtual_seconds") is None


def drawn_lines(axes):
    """The curves of a panel, without what names them."""
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def names(axes):
    """What is written at the ends of lines, from the top; last the key, if it is named."""
    texts = [text for text in axes.texts if text.get_text()]
    keys = [text.get_text() for text in texts if text.get_weight() == "bold"]
    rest = sorted((text for text in texts if text.get_weight() != "bold"), key=lambda text: -text.get_position()[1])
    return [text.get_text().strip() for text in rest] + keys


def test_lines_differ_in_style_too_and_their_ends_are_named(compare_sizes, figure):
    comparison = compare_sizes(sizes=(8, 16, 32))
    curves.curves(figure, comparison, ["model.hidden_size"], "round")
    (axes,) = figure.axes
    lines = drawn_lines(axes)
    assert len(lines) == 3
    assert len(axes.collections) == 3  # the bands
    assert len({line.get_color() for line in lines}) == 3
    assert len({str(line._dash_pattern) for line in lines}) == 3
    assert len({line.get_marker() for line in lines}) == 3
    assert names(axes) == ["32", "16", "8", "model.hidden_size"]  # accuracies of 0.42, 0.26 and 0.18
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("round", "test accuracy (share)\nmean ± std over seeds")


def test_equal_lines_show_in_places_of_their_own(make_run, tmp_path, figure):
    """Of four runs with the same numbers, each has a marker where no other has one."""
    for size in range(4):
        make_run(str(size), {"model.hidden_size": size}, accuracy=[at / 50 for at in range(50)])
    curves.curves(figure, compare(load_runs([tmp_path])[0]), ["model.hidden_size"], "round")
    places = [
        set(range(50)[start::step]) for start, step in (line.get_markevery() for line in drawn_lines(figure.axes[0]))
    ]
    assert all(places)
    assert len(set.union(*places)) == sum(map(len, places))


def test_of_many_groups_each_has_a_panel_with_the_others_behind(compare_sizes, figure):
    curves.curves(figure, compare_sizes(sizes=range(1, 31)), ["model.hidden_size"], "round")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"hidden_size={size}" for size in range(30, 0, -1)]
    assert figure.get_suptitle() == "model.hidden_size: best final test accuracy first"
    for axes, size in zip(figure.axes, range(30, 0, -1), strict=True):
        (line,) = drawn_lines(axes)
        assert line.get_ydata()[-1] == pytest.approx(size / 100 + 0.1 + 0.0005)  # the mean of two seeds
        behind, band = axes.collections
        assert len(behind.get_segments()) == 30
        assert band.get_facecolor().any()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"schedule": "fedbuff", "rounds": 170, "schedule.buffer_size": 4}, "fedbuff, rounds=170, buffer_size=4"),
        ({"system.deadline": 0.6, "system.late": "drop", "tags": ""}, "deadline=0.6, late=drop"),
        ({"system.deadline": "null", "aggregator": "none"}, "deadline=null, aggregator=none"),
        ({"client.optimizer.lr": 0.1, "a.optimizer.lr": 1.0}, "client.optimizer.lr=0.1, a.optimizer.lr=1"),
    ],
)
def test_names_of_several_settings_say_what_the_values_are(make_run, settings, name):
    (run,), _ = load_runs([make_run("a")])
    assert curves.label(Group((run,), settings), list(settings)) == name


@pytest.mark.parametrize(
    ("key", "others", "short"),
    [
        ("client.optimizer.lr", (), "lr"),
        ("client.optimizer.lr", ("aggregator.server_optimizer.lr",), "optimizer.lr"),
        ("client.optimizer.lr", ("server.optimizer.lr",), "client.optimizer.lr"),
        ("aggregator/combine", (), "combine"),
        ("seed", ("data.seed",), "seed"),
    ],
)
def test_keys_are_as_short_as_they_can_be(key, others, short):
    assert curves._short(key, [key, *others]) == short


def test_a_cross_marks_where_a_run_diverged(make_run, tmp_path, figure):
    make_run("good", {"model.hidden_size": 8}, accuracy=[0.1, 0.2, 0.3, 0.35])
    for seed, status in ((0, "diverged"), (1, "done")):
        accuracy = [0.1, 0.3] if status == "diverged" else [0.1, 0.5, 0.6, 0.7]
        config = {"model.hidden_size": 4, "seed": seed}
        make_run(f"bad{seed}", config, accuracy=accuracy, summary={"status": status})
    curves.curves(figure, compare(load_runs([tmp_path])[0]), ["model.hidden_size"], "round")
    (axes,) = figure.axes
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == pytest.approx((1, 0.4))  # the mean of 0.3 and 0.5
    assert names(axes) == ["4 (× 1 of 2 diverged)", "8", "model.hidden_size"]


def test_a_loss_that_explodes_leaves_the_others_to_be_seen(make_run, tmp_path, figure):
    for size, last in ((8, 0.5), (16, 2e5)):
        text = f"round,test_loss\n0,2\n1,1\n2,{last}\n"
        make_run(str(size), {"model.hidden_size": size}, metrics=text, summary={"status": "done"})
    comparison = compare(load_runs([tmp_path])[0])
    curves.curves(figure, comparison, ["model.hidden_size"], "round")
    assert figure.axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("wanted", "room", "places"),
    [
        ([0.2, 0.8], 0.1, [0.2, 0.8]),  # there is room
        ([0.5, 0.5], 0.1, [0.55, 0.45]),  # the first of two equal ones is above
        ([0.5, 0.52, 0.54], 0.1, [0.42, 0.52, 0.62]),  # about their mean
        ([1.0, 0.98], 0.1, [1.0, 0.9]),  # not above the axes
        ([0.0, 0.01], 0.1, [0.0, 0.1]),  # nor below
        ([0.9, 0.1], 1.0, [1.0, 0.0]),
    ],
)
def test_names_keep_their_distance(wanted, room, places):
    assert curves.spread_out(wanted, room) == pytest.approx(places)


def test_names_that_are_shortened_stay_different():
    alike = [
        "x" * 80,
        "x" * 79 + "y",
        "y" + "x" * 79,
        "a" * 40 + "b" + "a" * 40,
        "a" * 40 + "c" + "a" * 40,
        "short",
        "short",
    ]
    shown = drawn_names(alike, 30)
    assert max(map(len, shown)) <= 30
    assert len(set(shown)) == 6  # the last two are the same
    assert "b" in shown[3]
    assert "c" in shown[4]
    assert shown[5:] == ["short", "short"]


def test_many_groups_of_two_settings_get_panels(compare_sizes, figure):
    comparison = compare_sizes(sizes=(8, 16, 32, 64), lrs=(0.1, 0.2, 0.3))
    curves.curves(figure, comparison, ["model.hidden_size", "aggregator.server_optimizer.lr"], "bytes_up")
    assert [axes.get_title() for axes in figure.axes] == [
        f"aggregator.server_optimizer.lr = {lr}" for lr in (0.1, 0.2, 0.3)
    ]
    assert [len(drawn_lines(axes)) for axes in figure.axes] == [4, 4, 4]
    assert figure.axes[0].get_xlabel() == "sent by all clients (B)"
    assert len(figure.legends) == 1


def test_bytes_have_a_unit(make_run, tmp_path, figure):
    make_run("a", metrics="round,test_accuracy,bytes_up\n0,0.1,0\n1,0.2,2500000\n")
    curves.curves(figure, compare(load_runs([tmp_path])[0]), [], "bytes_up")
    assert figure.axes[0].get_xlabel() == "sent by all clients (MB)"
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), [0, 2.5])
    assert not figure.legends


def test_the_heat_map_shows_the_table(compare_sizes, figure):
    comparison = compare_sizes(sizes=(8, 16, 32), lrs=(0.1, 0.2), seeds=(0,))
    heat_map.heat_map(figure, comparison, ["model.hidden_size", "aggregator.server_optimizer.lr"])
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
    heat_map.heat_map(figure, comparison, ["model.hidden_size", "aggregator.server_optimizer.lr"])
    assert len(figure.axes[0].patches) == 1
    assert len(figure.axes[0].texts) == 3


def test_the_heat_map_says_which_seeds_failed_or_are_missing(compare_sizes, make_run, tmp_path, figure):
    compare_sizes(sizes=(8, 16), lrs=(0.1, 0.2), seeds=(0,))
    for size, status in ((8, "diverged"), (16, "interrupted")):
        config = {"seed": 1, "model.hidden_size": size, "aggregator.server_optimizer.lr": 0.1}
        make_run(status, config, accuracy=[0.1, 0.2], summary={"status": status})
    heat_map.heat_map(
        figure, compare(load_runs([tmp_path])[0]), ["model.hidden_size", "aggregator.server_optimizer.lr"]
    )
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
    curves.curves(figure, comparison, [], "round")
    assert sorted(names(figure.axes[0])) == ["a.csv", "b.csv"]


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
    with pytest.raises(UserError, match=r"--plot: needs matplotlib; install with: .* \(the extra 'plot'\)$"):
        plot.draw(None, "png")  # before it looks at anything


@pytest.mark.parametrize("length", [10, 80, 400])
def test_names_are_within_the_picture(make_run, tmp_path, figure, length):
    for number in range(4):
        make_run(str(number), {"tags": [f"{'long ' * (length // 5)} {number}"]}, accuracy=[0.1, 0.2 + number / 50])
    curves.curves(figure, compare(load_runs([tmp_path])[0]), ["tags"], "round")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert all(0 <= box.x0 < box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    assert all(0 <= box.y0 < box.y1 <= figure.bbox.y1 + 1 for box in boxes)
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])
    assert figure.axes[0].get_position().width > 0.35
