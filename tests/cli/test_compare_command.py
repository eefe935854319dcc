"""``fedsim compare`` from the command line: tables, files and pictures of a sweep."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest


@pytest.fixture
def sweep(fedsim, elsewhere, tiny):
    """A sweep of two aggregators and three seeds."""
    answer = fedsim("run", "-m", *tiny, "aggregator=fedavg,fedprox", "seed=0,1,2", "hydra.sweep.dir=sweep")
    assert answer.code == 0, answer
    return elsewhere / "sweep"


def test_options_are_named_and_seeds_are_grouped(fedsim, sweep):
    answer = fedsim("compare", "sweep", "--csv", "table.csv")
    assert (answer.code, answer.err) == (0, "")
    table = pd.read_csv("table.csv")
    assert list(table.columns[:4]) == ["run", "aggregator", "n", "seeds"]
    assert sorted(table["aggregator"]) == ["fedavg", "fedprox"]
    assert table["n"].tolist() == [3, 3]
    assert "mean ± sample standard deviation over n seeds" in answer.out
    finals = [pd.read_csv(sweep / str(job) / "metrics.csv")["test_accuracy"].iloc[-1] for job in range(3)]
    fedavg = table.set_index("aggregator").loc["fedavg"]
    assert fedavg["final test_accuracy"] == pytest.approx(sum(finals) / 3)


def test_everything_at_once(fedsim, sweep, elsewhere):
    pytest.importorskip("matplotlib")
    answer = fedsim(
        *("compare", "sweep", "--metric", "test_loss", "--last", 2, "--target", "test_loss=100", "--by", "last"),
        *("--baseline", "aggregator=fedavg", "--markdown", "t.md", "--latex", "t.tex", "--csv", "-"),
        *("--plot", "curves.svg", "--x", "bytes_up"),
    )
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()  # the CSV, and nothing else
    assert len(lines) == 3
    assert lines[0].startswith("run,aggregator,n,seeds,status,rounds,final test_loss,")
    assert {path.name for path in elsewhere.iterdir()} == {"sweep", "t.md", "t.tex", "curves.svg"}
    assert "fedprox" in (elsewhere / "t.md").read_text()
    assert r"\begin{tabular}" in (elsewhere / "t.tex").read_text()


def test_the_direction_of_a_column(fedsim, sweep):
    """`clients` has no better end of its own: both aggregators have the same, and the table is sorted as asked."""
    answer = fedsim("compare", "sweep", "--metric", "clients", "--better", "min", "--csv", "-")
    assert (answer.code, answer.err) == (0, "")
    assert "best clients" in answer.out


def test_problems_are_warned_of_next_to_the_table(fedsim, sweep):
    (sweep / "3" / "metrics.csv").unlink()
    summary = sweep / "4" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"status": "diverged"}))
    answer = fedsim("compare", "sweep")
    assert answer.code == 0
    assert "fedprox" in answer.out
    lines = answer.err.splitlines()
    assert all(line.startswith("warning: ") for line in lines)
    assert [line.split(":")[1].strip()[-7:] for line in lines] == ["sweep/3", "sweep/4"]
    assert "not in this table: 1 run that could not be read" in answer.out
    assert "aggregator=fedprox, seed 1: diverged after round" in answer.out


def test_a_cut_file_is_warned_of(fedsim, sweep):
    metrics = sweep / "4" / "metrics.csv"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    answer = fedsim("compare", "sweep", "--baseline", "aggregator=fedavg", "--latex", "-")
    assert answer.code == 0
    (line,) = answer.err.splitlines()
    assert "sweep/4: metrics.csv ends with round 0, but summary.json with round" in line
    assert "% aggregator=fedprox, seed 1: damaged (metrics.csv ends with round 0" in answer.out
    assert "(2 of 3 seeds)" in answer.out


def test_what_a_real_run_records_agrees_with_its_metrics(fedsim, sweep):
    summary = json.loads((sweep / "0" / "summary.json").read_text())
    assert summary["cumulative"] == ["bytes_down", "bytes_up"]
    last = pd.read_csv(sweep / "0" / "metrics.csv").iloc[-1]
    answer = fedsim("compare", "sweep", "--metric", "bytes_up", "--csv", "table.csv")
    assert (answer.code, answer.err) == (0, "")
    table = pd.read_csv("table.csv").set_index("aggregator")
    assert table.loc["fedavg", "final bytes_up"] == last["bytes_up"]  # the same for each seed
    assert not any(name.startswith("best") for name in table)


def test_runs_by_rounds(fedsim, sweep):
    runs = [pd.read_csv(sweep / str(job) / "metrics.csv").set_index("round")["test_accuracy"] for job in range(3)]
    answer = fedsim("compare", "sweep", "--at", 1, "--last-rounds", 1, "--partial", "--by", "at", "--csv", "table.csv")
    assert (answer.code, answer.err) == (0, "")
    fedavg = pd.read_csv("table.csv").set_index("aggregator").loc["fedavg"]
    assert fedavg["at 1 test_accuracy"] == pytest.approx(sum(run[1] for run in runs) / 3)
    assert fedavg["last 1 rounds test_accuracy"] == pytest.approx(sum(run.iloc[-1] for run in runs) / 3)


def test_intervals_over_the_clients_of_real_runs(fedsim, sweep):
    """The scores in `clients.csv`, weighted by samples, pool to the last row of `metrics.csv`; seeds share no split."""
    answer = fedsim("compare", "sweep/0", "sweep/3", "--bootstrap-clients", "--baseline", "0", "--csv", "table.csv")
    assert (answer.code, answer.err) == (0, "")
    assert "over clients: 95% percentile interval of final test_accuracy" in answer.out
    table = pd.read_csv("table.csv")
    assert (table["clients low"] <= table["final test_accuracy"]).all()
    assert (table["final test_accuracy"] <= table["clients high"]).all()
    assert table["clients difference"].notna().sum() == 1


def test_what_was_chosen_on_test_data_is_said(fedsim, sweep):
    assert fedsim("compare", "sweep").out.count("chosen on test data: optimistic") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--by chosen", "--by chosen: no run chose its round on validation data (eval.validation_fraction=0.2 holds"),
        ("--bootstrap-clients --metric train_loss", "seed 0: clients.csv: no column train_loss; it has test_loss"),
        ("--csv - --latex -", "--latex -: standard output is already used by --csv"),
        ("--plot curves.jpg", "--plot curves.jpg: must end in .png, .svg or .pdf"),
        ("--x bytes_up", "--x bytes_up: needs --plot FILE"),
        ("--plot a.png --x byte", "--x byte: must be one of round, bytes_up"),
        (
            "--baseline aggregator=median",
            "--baseline aggregator=median: no run has this setting; the runs have aggregator=fedavg",
        ),
        ("--baseline agregator=fedavg", "did you mean 'aggregator'?"),
        ("--target 0.9", "--target 0.9: must be METRIC=NUMBER"),
        ("--last 0", "--last 0: must be at least 1"),
        ("--metric clients", "--metric clients: neither lower nor higher values are better; give the direction with"),
        ("--better low", "--better low: must be min (lower is better) or max (higher is better)"),
        ("--last x", "--last"),
        ("--at 400", "--at 400: no run has test_accuracy in this round; all have it in 0, 1"),
        ("--last 1 --last-rounds 1", "--last-rounds: not together with --last"),
        ("--target bytes_up=5", "--target bytes_up=5: bytes_up only grows, so every run begins below any target"),
        ("--metric bytes_up --by best", "--by best: bytes_up only grows"),
        ("--by best_", "--by best_: must be one of final, chosen, best, last, at, target (did you mean 'best'?)"),
        ("--csv missing/t.csv", "cannot write missing/t.csv"),
        ("nowhere", "nowhere: no such file or folder"),
    ],
)
def test_mistakes(refused, sweep, arguments, expected):
    assert expected in refused("compare", "sweep", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--plot a.png --heatmap", "--heatmap: needs runs that differ in exactly two settings"),
        ("--plot a.png --x virtual_seconds", "no run has both test_accuracy and virtual_seconds"),
    ],
)
def test_the_table_is_there_when_the_picture_cannot_be(fedsim, sweep, arguments, expected):
    answer = fedsim("compare", "sweep", *arguments.split())
    assert answer.code == 2
    assert expected in answer.err
    assert answer.out.startswith("aggregator ")
    assert not Path("a.png").exists()


def test_the_table_is_there_without_matplotlib(fedsim, sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    answer = fedsim("compare", "sweep", "--plot", "a.png")
    assert answer.code == 2
    assert "--plot: needs matplotlib; install with: python -m pip install 'matplotlib>=3.8'" in answer.err
    assert answer.out.startswith("aggregator ")


def test_simulated_time_to_a_target(fedsim, elsewhere, tiny):
    """The virtual seconds to a target that every run reaches by its second round are those in `metrics.csv`."""
    pytest.importorskip("matplotlib")
    options = ("system=devices", "sampler.cohort_size=1", "system.over_selection=1.0,3.0", "seed=0,1", "rounds=3")
    assert fedsim("run", "-m", *tiny, *options, "hydra.sweep.dir=sweep").code == 0
    runs = [pd.read_csv(elsewhere / "sweep" / str(job) / "metrics.csv") for job in range(4)]
    target = max(run["test_loss"].iloc[2] for run in runs) + 1e-9
    reached = [run.loc[run["test_loss"] <= target, "virtual_seconds"].iloc[0] for run in runs]
    answer = fedsim("compare", "sweep", "--metric", "test_loss", "--target", f"test_loss={target}", "--csv", "t.csv")
    assert (answer.code, answer.err) == (0, "")
    assert "virtual_seconds to" in " ".join(answer.out.split())
    table = pd.read_csv("t.csv").sort_values("system.over_selection")
    (name,) = (name for name in table if re.fullmatch(r"virtual_seconds to test_loss<=[\d.]+", name))
    assert table[name].tolist() == pytest.approx([(reached[0] + reached[1]) / 2, (reached[2] + reached[3]) / 2])
    assert fedsim("compare", "sweep", "--plot", "time.svg", "--x", "virtual_seconds").code == 0
    assert (elsewhere / "time.svg").exists()
