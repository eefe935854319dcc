"""``fedsim report`` from the command line, of runs that fedsim made."""

import re
from pathlib import Path

import pytest


def test_a_sweep_with_seeds(fedsim, elsewhere, tiny):
    assert fedsim("run", "-m", *tiny, "aggregator=fedavg,fedprox", "seed=0,1", "hydra.sweep.dir=sweep").code == 0
    answer = fedsim("report", "sweep", "--baseline", "aggregator=fedavg", "--last", 2, "--target", "test_accuracy=0.1")
    assert (answer.code, answer.out, answer.err) == (0, "report.html: 4 runs\n", "")
    text = Path("report.html").read_text(encoding="utf-8")
    assert "fedsim run -m data=synthetic" in text
    assert "aggregator=fedavg,fedprox seed=0,1" in text
    assert "A sweep of 4 runs" in text
    assert not re.search(r"https?:|src=", text)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_one_run(fedsim, tiny, task):
    assert fedsim("run", *tiny, f"data.task={task}", "hydra.run.dir=run").code == 0
    answer = fedsim("report", "run", "--out", "-")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("<!DOCTYPE html>")
    assert "gru on synthetic, fedavg" in answer.out
    metric = {"classification": "test_accuracy", "regression": "test_rmse"}[task]
    assert f"final {metric}" in answer.out


def test_a_run_that_diverged(fedsim, tiny):
    words = ("data.task=regression", "client.optimizer.lr=1e30", "rounds=4", "hydra.run.dir=run")
    assert fedsim("run", *tiny, *words).code == 3
    answer = fedsim("report", "run")
    assert answer.code == 0
    assert "diverged" in answer.err
    assert "Diverged after" in Path("report.html").read_text(encoding="utf-8")


def test_the_newest_sweep(fedsim, tiny):
    assert fedsim("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=outputs/multirun/a").code == 0
    answer = fedsim("report")
    assert answer.err == "note: report: the newest sweep, outputs/multirun/a\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "report: name runs or sweeps, such as fedsim report outputs/multirun; there is no sweep here yet"),
        (("run", "--out", "report.pdf"), "--out report.pdf: must end in .html"),
        (("missing",), "missing: no such file or folder"),
        (("run", "--last", "0"), "--last 0: must be at least 1"),
        (("run", "--by", "at"), "--by at: needs --at"),
        (("run", "--metric", "nonsense"), "--metric nonsense: must be one of "),
        (("run", "--baseline", "nonsense"), "--baseline nonsense: must be the path of one of the runs, or KEY=VALUE"),
    ],
)  # fmt: skip
def test_refusals_are_those_of_compare(fedsim, refused, tiny, words, line):
    if "run" in words:
        assert fedsim("run", *tiny, "hydra.run.dir=run").code == 0
    assert refused("report", *words).startswith(line)
