"""What a comparison looks like: on terminals of any width, in Markdown, in LaTeX, and as a CSV."""

import io

import pytest
from rich.console import Console

from fedsim.compare import escape, output
from fedsim.compare.reading import load_runs
from fedsim.compare.table import Question, compare


@pytest.fixture
def comparison(make_run, tmp_path):
    """Three seeds of two models: 0.50, 0.52, 0.54 and 0.60, 0.61, 0.62 in round 2; the target 0.6 is reached twice."""
    for seed in range(3):
        make_run(f"small{seed}", {"seed": seed, "model.hidden_size": 8}, accuracy=[0.1, 0.3, 0.5 + 0.02 * seed])
        make_run(f"large{seed}", {"seed": seed}, accuracy=[0.1, 0.3, 0.595 + 0.01 * seed])
    question = Question(target="test_accuracy=0.6", baseline=("model.hidden_size=8",), last=1)
    return compare(load_runs([tmp_path])[0], question)


def text_of(comparison, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for table in output.render(comparison, width):
        console.print(table)
    return console.file.getvalue()


def test_means_spreads_and_intervals(comparison):
    shown = {column.header: column.cells for column in output.columns(comparison)}
    # d = 0.095, 0.085, 0.075: mean 0.085, standard error 0.01 / sqrt(3), t(0.975, 2) = 4.3027: -+ 0.0248.
    assert shown == {
        "model.hidden_size": ["64", "8"],
        "n": ["3", "3"],
        "final test_accuracy": ["0.6050 ± 0.0100", "0.5200 ± 0.0200"],
        "best test_accuracy": ["0.6050 ± 0.0100", "0.5200 ± 0.0200"],
        "last 1 test_accuracy": ["0.6050 ± 0.0100", "0.5200 ± 0.0200"],
        "reached": ["2/3", "0/3"],
        "rounds to test_accuracy>=0.6": ["median 2", "> 2"],
        "B to test_accuracy>=0.6": ["median 220", "-"],
        "last 1 test_accuracy vs baseline": ["+0.0850 (+0.0602, +0.1098)", "baseline"],
    }
    assert output.notes(comparison)[:4] == [
        "test_accuracy; sorted by: last 1 test_accuracy",
        "all runs are done after 2 rounds",
        "mean ± sample standard deviation over n seeds",
        "rounds, bytes and time to the target: where not all seeds reached it, the median of all, never counting as "
        "later than any; a mean would leave out just these",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 140, 500])
def test_no_number_is_cut_off_at_any_width(comparison, width):
    text = text_of(comparison, width)
    assert max(map(len, text.splitlines())) <= width
    for column in output.columns(comparison):
        assert all(cell in text for cell in column.cells)
    assert "…" not in text


def test_one_run_each_at_80_columns(make_run, metrics, tmp_path):
    make_run("sweep/9", {"model.hidden_size": 128, "aggregator.server_optimizer.lr": 0.001})
    metrics = metrics.replace("0.7123456", "0.5")  # the best is then the 0.6 of round 3
    make_run("sweep/10", {"model": {"_target_": "m.LSTM"}, "tags": ["a"]}, metrics=metrics)
    found = compare(load_runs([tmp_path])[0])
    lines = text_of(found, 80).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.startswith(("9 ", "10 "))]
    assert rows[0] == ["9", "GRU", "0.001", "[]", "0.6000", "0.7123", "2"]
    assert rows[1] == ["10", "LSTM", "0.1", '["a"]', "0.6000", "0.6000", "3"]
    assert "all runs are done after 4 rounds" in output.notes(found)


def test_the_best_row_is_bold(comparison):
    (table,) = output.render(comparison, 500)
    assert [row.style for row in table.rows] == ["bold", ""]


def test_brackets_are_not_markup(make_run, tmp_path):
    make_run("[bold]a")
    make_run("b", {"rounds": 9})
    assert "[bold]a" in text_of(compare(load_runs([tmp_path])[0]), 80)


def test_markdown(comparison):
    lines = output.markdown(comparison).splitlines()
    assert lines[0].startswith(r"| model.hidden\_size | n | final test\_accuracy |")
    assert lines[1] == "| " + " | ".join(["---:"] * 9) + " |"
    assert lines[2].startswith("| **64** | **3** | **0.6050 ± 0.0100** |")
    assert len({line.count(" | ") for line in lines[:4]}) == 1
    assert lines[5].startswith(r"test\_accuracy; sorted by:")


def test_latex(comparison):
    text = output.latex(comparison)
    assert r"\begin{tabular}{rrrrrrrrr}" in text
    assert r"model.hidden\_size & n & final test\_accuracy &" in text
    assert r"rounds to test\_accuracy$\geq$0.6" in text
    assert r"\textbf{64} & \textbf{3} & \textbf{0.6050 $\pm$ 0.0100}" in text
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert all(line.endswith(r"\\") for line in body if "&" in line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50%_#&{}$", r"50\%\_\#\&\{\}\$"),
        (r"a\b~^", r"a\textbackslash{}b\textasciitilde{}\textasciicircum{}"),
        ("[x]", "{[}x]"),
        ("-0.5 to 3-4", "$-$0.5 to 3-4"),
        ("x<=1", r"x$\leq$1"),
    ],
)
def test_characters_that_are_special_in_latex(text, expected):
    assert escape.latex(text) == expected


def test_the_csv_has_every_number_in_full(make_run, tmp_path):
    make_run("runs/a")
    make_run("runs/b", {"model": {"_target_": "m.GRU2"}})
    assert output.csv(compare(load_runs([tmp_path / "runs"])[0])) == (
        "run,model,status,rounds,final test_accuracy,best test_accuracy,best round\n"
        "a,GRU,done,4,0.6,0.7123456,2\n"
        "b,GRU2,done,4,0.6,0.7123456,2\n"
    )


def test_the_csv_of_a_study_has_spreads_and_intervals(comparison):
    header = output.csv(comparison).splitlines()[0].split(",")
    for name in ("seeds", "final test_accuracy std", "bytes_up to test_accuracy>=0.6", "low", "high", "pairs"):
        assert name in header
