"""What rounds look like on a terminal of 80 columns, in a pipe, and nowhere."""

import io
from contextlib import suppress

import pytest
from rich.console import Console

from fedsim.recording.console import SHOWN, PlainDisplay, RichDisplay, display, format_value

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
    with RichDisplay(console, shown, 1000) as screen:
        screen.say("a path with [brackets] and :car: " + "x" * 100)
        for number in range(0, 1001, 25):
            screen.show(row(number, **numbers))
    final = RichDisplay(console, shown, 1000)
    for number in range(0, 1001, 25):
        final.show(row(number, **numbers))
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
    assert lines[-2].split()[:2] == ["1000", "10"]
    assert "1000/1000" in lines[-1]
    assert "…" not in capture.get()
    assert "a path with [brackets] and :car: xxx" in console.export_text()


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
