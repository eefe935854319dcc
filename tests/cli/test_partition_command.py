"""`fedsim partition`: shows a split and trains nothing."""

import csv
import re
import sys

import pytest

from fedsim.config.compose import list_options

SMALL = ("data=synthetic", "data.clients=3", "data.samples_per_client=20", "data.test_samples_per_client=8")


def test_what_it_shows(fedsim, elsewhere):
    answer = fedsim("partition", *SMALL, "partition=dirichlet", "num_clients=4", "partition.alpha=0.5")
    assert (answer.code, answer.err) == (0, "")
    first = "partition Dirichlet alpha=0.5 min_samples=1 quantiles=null balance=false; synthetic (classification)"
    assert answer.out.splitlines()[0] == first
    assert re.search(r"^clients +4", answer.out, re.MULTILINE)
    assert re.search(r"^training samples +60, per client min \d+, median [\d.]+, max \d+", answer.out, re.MULTILINE)
    assert re.search(r"mean total variation 0\.\d+ .*mean Jensen-Shannon distance 0\.\d+", answer.out)
    assert [line.split()[0] for line in answer.out.splitlines() if line.startswith("client_")] == [
        *(f"client_{k}" for k in range(4))
    ]
    assert answer.out.endswith("nothing was trained\n")
    assert not list(elsewhere.iterdir())


def test_the_csv_is_the_split_of_the_run(fedsim, elsewhere, tiny):
    assert fedsim("partition", *tiny, "--csv", "split.csv").code == 0
    assert [path.name for path in elsewhere.iterdir()] == ["split.csv"]
    with (elsewhere / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert fedsim("run", *tiny, "hydra.run.dir=run").code == 0
    with (elsewhere / "run" / "clients.csv").open() as file:
        clients = list(csv.DictReader(file))
    for row, client in zip(rows, clients, strict=True):
        for name in ("client", "name", "train_samples", "test_samples"):
            assert row[name] == client[name]
        assert sum(float(value) for name, value in row.items() if name.startswith("share_")) == pytest.approx(1)


def test_files_are_replaced(fedsim, elsewhere):
    pytest.importorskip("matplotlib")
    for name in ("split.csv", "split.SVG"):
        (elsewhere / name).write_text("old")
    assert fedsim("partition", *SMALL, "--csv", "split.csv", "--plot", "split.SVG").code == 0
    assert (elsewhere / "split.csv").read_text().startswith("client,name,train_samples,test_samples,total_variation,")
    assert (elsewhere / "split.SVG").read_text().startswith("<?xml")
    assert len(list(elsewhere.iterdir())) == 2


@pytest.mark.parametrize("option", list_options()["partition"])
def test_every_partition_is_shown_or_refused_with_a_reason(fedsim, option):
    answer = fedsim("partition", *SMALL, "data.min_length=5", f"partition={option}", "num_clients=3")
    if option == "time_blocks":
        assert answer.code == 2
        assert "the samples of synthetic do not follow one another in time" in answer.err
    else:
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.endswith("nothing was trained\n")


def test_text_in_the_order_of_time(fedsim, elsewhere):
    (elsewhere / "play.txt").write_text("the sea is wide and the night is long, so row. " * 50)
    text = ("data=text", "data.path=play.txt", "data.clients_by=file", "data.sequence_length=20")
    answer = fedsim("partition", *text, "partition=time_blocks", "num_clients=5", "partition.gap=2")
    assert (answer.code, answer.err) == (0, "")
    assert re.search(r"^held by no client +8 training and 0 test samples", answer.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_clients=61"], "num_clients=61: that many clients need 61 training samples, but synthetic has 60"),
        (["partition=shards", "partition.shards_per_client=7"], "partition.shards_per_client=7: 10 clients"),
        (["partition=dirichlet", "partition.alpa=1"], "partition.alpa=1: no such key"),
        (["partition=dirichlet", "partition.quantiles=5"], "partition.quantiles=5: is for the targets of a regression"),
        (["partition=feature_shift", "partition.noise=0"], "partition.noise=0.0: noise, scale and bias are all 0"),
        (["partition=length"], "partition=length: all 60 training sequences of synthetic have 20 steps"),
        (["partition=shard"], "partition=shard: no such option; write partition=shards"),
        (["partition=iid", "partition.spread=often"], "partition.spread=often: must be a number"),
        (["--csv", "missing/split.csv"], "cannot write missing/split.csv: No such file or directory"),
        (["--plot", "split.gif"], "--plot split.gif: must end in .png, .svg or .pdf"),
        (["seed=1,2"], "seed=1,2: several values make a sweep"),
    ],
)
def test_mistakes(refused, arguments, message):
    assert refused("partition", *SMALL, *arguments).startswith(message)


def test_a_plot_without_matplotlib(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "python -m pip install 'matplotlib>=" in refused("partition", *SMALL, "--plot", "split.png")
