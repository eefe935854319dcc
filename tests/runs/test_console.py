"""What rounds look like on a terminal of 80 columns, in a pipe, and nowhere."""

import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedsim.runs.console import (
    SHOWN,
    PlainDisplay,
    RichDisplay,
    display,
    format_bytes,
    format_count,
    format_value,
    sparkline,
)

COLUMNS = (
    *("round", "clients", "train_loss", "validation_loss", "test_loss", "test_accuracy", "test_accuracy_p10"),
    *("test_accuracy_std", "delta_norm", "client_drift", "bytes_down", "bytes_up"),
)
EMPTY = dict.fromkeys(COLUMNS)


def row(number, **values):
    return EMPTY | {"round": number, "clients": 10, "bytes_down": 10**15, "bytes_up": 10**15} | values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (7, "7"),
        (0, "0"),
        (0.0, "0"),
        (0.5, "0.5000"),
        (-0.25, "-0.2500"),
        (1e-9, "1e-09"),
        (123456.0, "1.23e+05"),
    ],
)
def test_values(value, text):
    assert format_value(value) == text


def test_plain_lines():
    console = Console(file=io.StringIO(), soft_wrap=True, width=20)
    with PlainDisplay(console, ["round", "train_loss", "test_accuracy"], 3) as screen:
        screen.say("[bold]writing to[/bold] /a/rather/long/path/that/is/not/wrapped")
        screen.show(row(0, test_accuracy=0.1))
        screen.show(row(1, train_loss=12345.6))
        screen.show(row(2, train_loss=1.5, test_accuracy=0.5))
    assert console.file.getvalue().splitlines() == [
        "[bold]writing to[/bold] /a/rather/long/path/that/is/not/wrapped",
        "round 0/3  test_accuracy 0.1000",
        "round 1/3  train_loss 1.23e+04",
        "round 2/3  train_loss 1.5000  test_accuracy 0.5000",
    ]


@pytest.mark.parametrize("numbers", [dict.fromkeys(COLUMNS[2:], 0.123456), dict.fromkeys(COLUMNS[2:], 1.23456e-100)])
def test_a_live_table_fits_a_terminal(numbers):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system=None, record=True)
    shown = [name for name in SHOWN if name in COLUMNS]
    with RichDisplay(console, shown, 1000, "test_accuracy") as screen:
        screen.say("a path with [brackets] and :car: " + "x" * 100)
        for number in range(0, 1001, 25):
            screen.show(row(number, **numbers), 10**9, 1e-5)
    final = RichDisplay(console, shown, 1000, "test_accuracy")
    for number in range(0, 1001, 25):
        final.show(row(number, **numbers), 10**9, 1e-5)
    with console.capture() as capture:
        console.print(final._render())
    lines = capture.get().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) <= 24
    assert lines[0].split() == [
        "round",
        "clients",
        "train",
        "loss",
        "test",
        "loss",
        "test",
        "accuracy",
        "delta",
        "norm",
    ]
    assert lines[-4].split()[:2] == ["1000", "10"]
    assert "1000/1000" in lines[-1]
    assert "…" not in capture.get()
    assert "a path with [brackets] and :car: xxx" in console.export_text()


def facts(better, *rounds, width=80, ascii_only=False):
    """What stands below the table after rounds of (accuracy, samples, seconds)."""
    file = io.StringIO() if not ascii_only else io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=file, force_terminal=True, width=width, height=24)
    screen = RichDisplay(console, ["round", "test_accuracy"], 9, "test_accuracy", better)
    for number, (accuracy, samples, seconds) in enumerate(rounds):
        screen.show(
            row(number, test_accuracy=accuracy, bytes_down=2500 * number, bytes_up=700 * number), samples, seconds
        )
    return screen._facts()


def test_the_curve_the_best_the_pace_and_the_bytes():
    curve, rest = facts("max", (0.1, 0, 0.0), (0.9, 400, 2.0), (None, 200, 1.0), (0.6, 600, 1.0))
    # Of eight signs, 0.1 is the lowest, 0.9 the highest, and 0.6 has round(0.5 / 0.8 * 7) = 4 below it.
    assert curve == "test_accuracy ▁█▅  0.6000  best 0.9000 in round 1"
    # Ten clients in each of three rounds and 1,200 samples in four seconds; three rounds of bytes.
    assert rest == "7.5 clients/s  300 samples/s  7.5 kB down, 2.1 kB up"


def test_the_best_of_a_loss_is_the_lowest_and_the_first_of_equals():
    assert facts("min", (0.3, 0, 0.0), (0.2, 1, 1.0), (0.2, 1, 1.0))[0].endswith("0.2000  best 0.2000 in round 1")


def test_the_pace_is_that_of_the_last_rounds():
    slow = [(0.1, 10, 100.0)] * 5  # as the first ones are, while kernels are compiled
    assert facts("max", *slow, *[(0.1, 10, 0.1)] * 10)[1].startswith("100 clients/s  100 samples/s")


def test_before_the_first_evaluation_and_on_a_terminal_that_knows_ascii_only():
    assert facts("max", (None, 0, 0.0)) == ["", "0 B down, 0 B up"]
    assert facts("max", (float("nan"), 0, 0.0))[0] == ""
    assert facts("max", (0.1, 0, 0.0), (0.8, 1, 1.0), ascii_only=True)[0].isascii()


def test_a_curve_on_a_narrow_terminal_gives_way_to_the_numbers():
    curve, _ = facts("max", *[(number / 200, 1, 1.0) for number in range(100)], width=60)
    assert len(curve) <= 60
    assert curve.endswith("0.4950  best 0.4950 in round 99")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 60))
def test_a_sparkline_has_a_sign_for_every_value_that_fits(values, width):
    drawn = sparkline(values, width)
    assert len(drawn) == min(width, len(values))
    assert set(drawn) <= set("▁▂▃▄▅▆▇█")


def test_a_sparkline_averages_what_does_not_fit():
    # Means of pairs: 0, 7, 3: the span of 7 over eight signs makes each its own number.
    assert sparkline([-1, 1, 6, 8, 2, 4], 3) == "▁█▄"
    assert sparkline([0.5] * 4, 10) == "▄▄▄▄"
    assert sparkline([1, 2], 0) == ""


def test_a_sparkline_leaves_room_for_what_comes_after_the_jump_of_the_first_rounds():
    # The second lowest of six is the bottom, 0.80, and 0.94 the top: 0.02 is one of the seven steps between.
    assert sparkline([0.10, 0.80, 0.86, 0.90, 0.92, 0.94], 10) == "▁▁▄▆▇█"
    assert sparkline([9.00, 0.94, 0.90, 0.86, 0.82, 0.80], 10) == "██▆▄▂▁"
    assert sparkline([0.10, 0.90], 10) == "▁█"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (12_300_000, "12.3 MB"), (10**15, "1.0 PB")]
)
def test_bytes(value, text):
    assert format_bytes(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.523, "0.52"), (7.44, "7.4"), (123.4, "123"), (45_612.0, "45,600")])
def test_rates(value, text):
    assert format_count(value) == text


def test_an_error_leaves_the_terminal_in_order():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with suppress(KeyboardInterrupt), RichDisplay(console, ["round", "train_loss"], 5) as screen:
        screen.show(row(1, train_loss=1.0))
        raise KeyboardInterrupt
    assert console.file.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is shown again


@pytest.mark.parametrize(
    ("mode", "kind", "silent"),
    [
        ("rich", RichDisplay, False),
        ("plain", PlainDisplay, False),
        ("auto", PlainDisplay, False),
        ("none", PlainDisplay, True),
    ],
)
def test_modes(capsys, mode, kind, silent):
    with display(mode, COLUMNS, 2) as screen:
        assert isinstance(screen, kind)
        screen.say("hello")
        screen.show(row(1, train_loss=0.5))
    assert (capsys.readouterr().out == "") == silent


def test_regressions_are_shown_by_their_own_metrics(capsys):
    columns = ("round", "clients", "train_loss", "test_loss", "test_rmse", "test_mae", "delta_norm")
    with display("plain", columns, 2) as screen:
        screen.show(dict.fromkeys(columns, 1.0) | {"round": 1, "clients": 2})
    assert "test_rmse 1.0000  test_mae 1.0000" in capsys.readouterr().out
