"""What `fedsim run` writes, and its exit codes."""

import csv
import errno
import json
import logging
import math
import os
import re
import resource
import signal
import time
from contextlib import suppress

import pandas as pd
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from fedsim.clients.stacked import StackedTrainer
from fedsim.config import compose as config
from fedsim.interrupts import after_the_round
from fedsim.recording.run_directory import CsvWriter
from fedsim.runs import run as runner
from fedsim.runs.checkpoints import load_checkpoint
from fedsim.runs.console import PlainDisplay

CLASSIFICATION = ["test_loss", "test_accuracy", "test_accuracy_p10", "test_accuracy_std"]
SPREAD = ["test_rmse_p90", "test_rmse_std"]
ENDS = ["delta_norm", "client_drift", "bytes_down", "bytes_up"]
INTEGERS = ("round", "clients", "bytes_down", "bytes_up")


def read(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def summary(directory):
    return json.loads((directory / "summary.json").read_text())


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The files of a run


def test_the_files_of_a_run(run_directory):
    directory = run_directory("rounds=3")
    assert sorted(path.name for path in directory.iterdir()) == [
        *(".hydra", "checkpoints", "clients.csv", "config.yaml", "metrics.csv", "run.log", "summary.json", "timing.csv")
    ]
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["round_000003.safetensors"]
    assert "done: round limit" in (directory / "run.log").read_text()


def test_a_notice_says_that_private_blocks_change_the_test_columns(fedsim, tiny):
    notice = "test columns pool the evaluations of the clients' own models"
    assert notice in fedsim("run", *tiny, "aggregator.blocks=[recurrent]", "hydra.run.dir=a").out
    assert notice in fedsim("run", *tiny, "baseline=local", "hydra.run.dir=b").out
    assert notice not in fedsim("run", *tiny, "hydra.run.dir=c").out


@pytest.mark.parametrize(
    ("overrides", "columns"),
    [
        ((), ["round", "clients", "train_loss", *CLASSIFICATION, *ENDS]),
        (
            ("client.validation_fraction=0.3",),
            ["round", "clients", "train_loss", "local_validation_loss", *CLASSIFICATION, *ENDS],
        ),
        (
            ("data.task=regression",),
            [
                "round",
                "clients",
                "train_loss",
                "test_loss",
                "test_rmse",
                "test_mae",
                "test_rmse_p90",
                "test_rmse_std",
                *ENDS,
            ],
        ),
    ],
)
def test_metrics(run_directory, overrides, columns):
    directory = run_directory(*overrides, "rounds=4", "eval.every=3")
    rows = read(directory / "metrics.csv")
    assert list(rows[0]) == columns
    assert [row["round"] for row in rows] == ["0", "1", "2", "3", "4"]
    tests = [name for name in columns if name.startswith("test_")]
    rest = [name for name in columns if name not in tests]
    for round_number, row in enumerate(rows):
        evaluated = round_number in (0, 3, 4)
        assert [row[name] != "" for name in tests] == [evaluated] * len(tests)
        assert [row[name] != "" for name in rest] == [round_number > 0 or name in INTEGERS for name in rest]
        for name in columns:
            if name in INTEGERS:
                assert row[name].isdecimal()
            elif row[name]:
                assert repr(float(row[name])) == row[name]  # in full: the shortest text that reads back the same
                assert math.isfinite(float(row[name]))
    assert rows[0]["clients"] == "0"
    assert {row["clients"] for row in rows[1:]} == {"3"}
    row_bytes = int(rows[1]["bytes_up"]) // 3
    assert [int(row["bytes_up"]) for row in rows] == [3 * row_bytes * round_number for round_number in range(5)]
    assert [row["bytes_down"] for row in rows] == [row["bytes_up"] for row in rows]


def test_columns_of_active_parts(run_directory):
    directory = run_directory("attack=backdoor", "attack.clients=[2]", "link/up=sign", "link/down=sign")
    rows = read(directory / "metrics.csv")
    assert list(rows[0])[-2:] == ["malicious", "attack_success"]
    assert [row["malicious"] for row in rows] == ["0", "1", "1"]
    assert all(0 <= float(row["attack_success"]) <= 1 for row in rows)
    assert int(rows[2]["bytes_up"]) < int(rows[2]["bytes_down"])


def test_privacy_is_printed_and_recorded(fedsim, elsewhere, tiny):
    pytest.importorskip("dp_accounting")
    private = ("privacy=central_dp", "aggregator=mean", "privacy.target_epsilon=9", "hydra.run.dir=run")
    answer = fedsim("run", *tiny, *private)
    assert (answer.code, answer.err) == (0, "")
    assert "differential privacy of clients (replace one client): noise multiplier" in answer.out
    summary = json.loads((elsewhere / "run" / "summary.json").read_text())
    assert summary["privacy"]["relation"] == "replace one client"
    assert summary["privacy"]["unit"] == "client"
    last = read(elsewhere / "run" / "metrics.csv")[-1]
    assert [*last][-4:] == ["epsilon", "delta", "participations_max", "rejected"]
    clients = read(elsewhere / "run" / "clients.csv")
    assert [row["participations"] for row in clients] == [last["round"]] * len(clients)
    assert float(last["epsilon"]) == pytest.approx(9, rel=1e-3)


def test_a_text_has_the_columns_of_a_classification(fedsim, elsewhere):
    (elsewhere / "play.txt").write_text("ANNA:\nthe sea is wide and the night is long.\n\nBORIS:\nno star at all\n")
    text = ("data=text", "data.path=play.txt", "data.sequence_length=5", "partition=natural", "rounds=1")
    answer = fedsim("run", *text, "model.hidden_size=2", "engine.kernels=torch", "hydra.run.dir=run")
    assert answer.code == 0, answer
    assert list(read(elsewhere / "run" / "metrics.csv")[0])[3:7] == CLASSIFICATION


def test_timing_and_clients(run_directory):
    directory = run_directory()
    timing = read(directory / "timing.csv")
    assert list(timing[0]) == ["round", "train", "evaluate", "elapsed"]
    assert [row["round"] for row in timing] == ["0", "1", "2"]
    clients = read(directory / "clients.csv")
    sizes = ("train_samples", "test_samples", "test_items")
    assert list(clients[0]) == ["client", "name", *sizes, "test_loss", "test_accuracy"]
    assert [(row["client"], *(row[name] for name in sizes)) for row in clients] == [
        (str(k), "4", "2", "2") for k in range(3)
    ]
    last = read(directory / "metrics.csv")[-1]
    pooled = sum(float(row["test_accuracy"]) for row in clients) / 3  # two test samples each
    assert float(last["test_accuracy"]) == pytest.approx(pooled, abs=1e-12)


def test_the_summary(run_directory):
    directory = run_directory("rounds=3", "seed=5")
    found = summary(directory)
    rows = read(directory / "metrics.csv")
    assert (found["status"], found["reason"], found["rounds"]) == ("done", "round limit", 3)
    assert (found["seed"], found["threads"], found["device"]) == (5, 1, "cpu")
    assert (found["hidden_size"], found["parameters"]) == (2, 3 * 2 * (2 + 2 + 2) + 5 * 3)
    assert found["format_version"] == 1
    assert {name: str(value) for name, value in found["final"].items()} == {k: v for k, v in rows[-1].items() if v}
    accuracies = [float(row["test_accuracy"]) for row in rows]
    assert found["best"] == {
        "metric": "test_accuracy",
        "mode": "max",
        "value": max(accuracies),
        "round": accuracies.index(max(accuracies)),
        "on": "test",
        "test": {
            name: float(value)
            for name, value in rows[accuracies.index(max(accuracies))].items()
            if name.startswith("test_")
        },
    }
    assert found["items"] == {"test": 6}
    assert found["versions"]["torch"] == torch.__version__
    assert re.fullmatch("[0-9a-f]{32}", found["data_hash"])


def test_the_data_hash_is_of_data_and_partition(run_directory):
    def digest(name, *overrides):
        return summary(run_directory(*overrides, "rounds=1", name=name))["data_hash"]

    first = digest("a")
    assert digest("b", "client.optimizer.lr=0.1") == first
    assert digest("c", "seed=1") != first
    assert digest("d", "partition=iid") != first


def test_the_record_of_a_run(run_directory):
    directory = run_directory("name=${seed}_trial", "tags=[a,b]", "client.steps=3", "client.epochs=null")
    written = yaml.safe_load((directory / "config.yaml").read_text())
    assert written["format_version"] == 1
    assert written["name"] == "0_trial"
    assert written["model"] == {
        "_target_": "fedsim.models.recurrent.GRU",
        **{"hidden_size": 2, "parameters": None, "num_layers": 1, "dropout": 0.0, "bias": True, "embedding_size": None},
        **{"initialisation": "torch", "gate_biases": 2, "bidirectional": False, "pooling": "last"},
        **{"head_projection": None, "head_activation": "none", "tied_embeddings": False},
    }
    assert (written["client"]["steps"], written["client"]["epochs"]) == (3, None)
    read_back = OmegaConf.load(directory / "config.yaml")
    del read_back["format_version"]
    experiment = config.build_experiment(read_back)
    assert config.record_of(experiment) == written


def test_checkpoints_the_last_two_and_the_best(run_directory):
    # Judged by a metric that is best in the first round with a checkpoint.
    directory = run_directory("rounds=7", "checkpoint.every=1", "stop.metric=bytes_up", "stop.mode=min")
    names = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert names == ["round_000001.safetensors", "round_000006.safetensors", "round_000007.safetensors"]
    state = load_checkpoint(directory / "checkpoints" / names[-1], torch.device("cpu"))
    assert state.round == 7
    assert int(state.drawers["traffic"]["up"]) == int(read(directory / "metrics.csv")[-1]["bytes_up"])


def test_no_checkpoints(run_directory):
    assert not (run_directory("checkpoint=none") / "checkpoints").exists()


def test_the_last_round_always_has_a_checkpoint(run_directory):
    directory = run_directory("rounds=5", "checkpoint.every=4")
    assert sorted(path.stem for path in (directory / "checkpoints").iterdir()) == ["round_000004", "round_000005"]


@pytest.mark.parametrize("overrides", [(), ("client/optimizer=adam", "aggregator=fedprox", "sampler.fraction=0.5")])
def test_the_same_command_twice(run_directory, overrides):
    first, second = (run_directory(*overrides, "rounds=3", name=name) for name in ("first", "second"))
    for name in ("metrics.csv", "clients.csv", "config.yaml"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (first / "metrics.csv").read_bytes() != (
        run_directory(*overrides, "rounds=3", "seed=1", name="third") / "metrics.csv"
    ).read_bytes()


def test_a_default_directory(fedsim, elsewhere, tiny):
    assert fedsim("run", *tiny).code == 0
    (file,) = elsewhere.glob("outputs/*/*/metrics.csv")
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{6}/metrics.csv", str(file.relative_to(elsewhere)))


def test_logging_is_left_as_it_was(run_directory):
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    run_directory()
    assert (root.level, list(root.handlers)) == before


def test_threads_are_left_as_they_were(run_directory):
    before = torch.get_num_threads()
    run_directory("threads=3")
    assert torch.get_num_threads() == before


# A directory that is in use


@pytest.mark.parametrize("file", ["metrics.csv", "config.yaml"])
def test_a_directory_that_holds_a_run(refused, elsewhere, tiny, file):
    (elsewhere / "old").mkdir()
    (elsewhere / "old" / file).write_text("old")
    line = refused("run", *tiny, "hydra.run.dir=old")
    assert line == (
        f"hydra.run.dir=old: already holds a run ({file}); choose another directory, "
        "or continue that run with fedsim resume old"
    )
    assert (elsewhere / "old" / file).read_text() == "old"


def test_a_finished_run_is_left_untouched(refused, run_directory, tiny):
    directory = run_directory()
    before = tree(directory)
    refused("run", *tiny, "seed=3", f"hydra.run.dir={directory}")
    assert tree(directory) == before


def test_a_sweep_directory_that_holds_a_run(refused, elsewhere, tiny):
    (elsewhere / "sweep" / "1").mkdir(parents=True)
    (elsewhere / "sweep" / "1" / "metrics.csv").write_text("old")
    line = refused("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep")
    assert line == (
        "hydra.sweep.dir=sweep/1: already holds a run (metrics.csv); choose another directory, "
        "or continue that run with fedsim resume sweep/1"
    )


def test_a_file_in_the_way(refused, elsewhere, tiny):
    (elsewhere / "file").write_text("")
    assert "file is a file" in refused("run", *tiny, "hydra.run.dir=file/run")
    assert "file is a file" in refused("run", *tiny, "hydra.run.dir=file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(refused, elsewhere, tiny):
    (elsewhere / "closed").mkdir(mode=0o500)
    assert "cannot be written to" in refused("run", *tiny, "hydra.run.dir=closed/run")


# Without training


def test_a_dry_run(fedsim, elsewhere, tiny):
    answer = fedsim("run", *tiny, "tags=['[/x]']", "name=':car: [b]'", "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    assert not list(elsewhere.iterdir())
    for words in (
        "tags=['[/x]']",
        "name=':car: [b]'",
        "training samples  ",
        "12 (per client: min 4",
        "nothing was written",
    ):
        assert words in answer.out


def test_the_work_in_a_dry_run(fedsim, tiny):
    """A GRU of 2 on 2 features: 3 * 2 * (2 + 2) a step, 3 steps, a head of 5 * 2; three passes of 3 * 4 samples."""
    lines = " ".join(fedsim("run", *tiny, "--dry-run").out.split())
    assert 3 * 24 + 10 == 82
    assert 3 * 82 * 12 == 2952
    assert "24 per time step, 82 per sequence of mean length 3; 2,952 in round 1, forward and backward" in lines
    twice = " ".join(fedsim("run", *tiny, "aggregator=fedsam", "--dry-run").out.split())  # a second gradient each
    assert "5,904 in round 1" in twice


def test_a_number_of_parameters(fedsim, elsewhere, tiny, refused):
    """A GRU of H on 2 features for 5 classes: 3 H (2 + H + 2) + 5 (H + 1) is 121 for H = 4 and 83 for H = 3."""
    wanted = (*tiny, "model.parameters=110", "model.hidden_size=null")
    assert 3 * 4 * (2 + 4 + 2) + 5 * 5 == 121
    assert 3 * 3 * (2 + 3 + 2) + 5 * 4 == 83
    shown = " ".join(fedsim("run", *wanted, "--dry-run").out.split())
    assert "GRU, hidden_size=4, the nearest to model.parameters=110 parameters 121 (" in shown
    answer = fedsim("run", *wanted, "hydra.run.dir=run")
    assert answer.out.startswith("GRU with 121 parameters (hidden_size=4), 3 clients")
    record = yaml.safe_load((elsewhere / "run" / "config.yaml").read_text())
    assert (record["model"]["parameters"], record["model"]["hidden_size"]) == (110, None)
    assert (summary(elsewhere / "run")["parameters"], summary(elsewhere / "run")["hidden_size"]) == (121, 4)
    same = fedsim("run", *tiny, "model.hidden_size=4", "hydra.run.dir=same")
    assert same.code == 0
    assert (elsewhere / "same/metrics.csv").read_bytes() == (elsewhere / "run/metrics.csv").read_bytes()
    assert "set exactly one" in refused("run", *tiny, "model.parameters=110")


def test_a_number_of_parameters_replaces_the_default_size(fedsim, tiny):
    plain = [text for text in tiny if not text.startswith("model.")]
    answer = fedsim("run", "-m", *plain, "model=rnn,lstm", "model.parameters=100,1000", "hydra.sweep.dir=sweep")
    found = re.findall(r"(RNN|LSTM) with ([\d,]+) parameters", answer.out)
    assert [name for name, _ in found] == ["RNN", "RNN", "LSTM", "LSTM"]
    assert [int(count.replace(",", "")) for _, count in found] == pytest.approx([100, 1000] * 2, rel=0.2)


def test_too_few_parameters_are_refused_before_anything_is_written(fedsim, tiny, elsewhere):
    answer = fedsim("run", *tiny, "model.parameters=24", "model.hidden_size=null", "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: model.parameters=24: GRU has at least 25 parameters on these data")


def test_a_dry_run_of_a_sweep(fedsim, elsewhere, tiny):
    answer = fedsim("run", "-m", *tiny, "seed=1,2", "model=rnn,gru", "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.count("nothing was written") == 4
    assert not list(elsewhere.iterdir())


def test_the_composed_config(fedsim, elsewhere, tiny):
    answer = fedsim("run", *tiny, "model=lstm", "--cfg", "job")
    assert (answer.code, answer.err) == (0, "")
    shown = yaml.safe_load(answer.out)
    assert shown["model"]["_target_"] == "fedsim.models.recurrent.LSTM"
    assert "hydra" not in shown
    assert list(yaml.safe_load(fedsim("run", *tiny, "--cfg", "hydra").out)) == ["hydra"]
    assert {"hydra", "model"} <= set(yaml.safe_load(fedsim("run", *tiny, "--cfg", "all").out))
    assert not list(elsewhere.iterdir())


# Exit codes

EXPLODES = ("model=rnn", "model.nonlinearity=relu", "data.task=regression", "rounds=20")


def test_done_and_stopped_early_exit_with_0(run_directory):
    directory = run_directory("rounds=50", "stop.metric=train_loss", "stop.mode=max", "stop.target=0")
    assert summary(directory)["status"] == "stopped"
    assert len(read(directory / "metrics.csv")) == 2
    assert (directory / "checkpoints" / "round_000001.safetensors").exists()


def test_diverged_exits_with_3(fedsim, elsewhere, tiny):
    answer = fedsim("run", *tiny, *EXPLODES, "client.optimizer.lr=1e6", "hydra.run.dir=run", "console=none")
    assert answer.code == 3
    assert answer.out == ""
    assert answer.err.startswith("error: diverged: round ")
    assert answer.err.count("\n") == 1
    assert "try a smaller client.optimizer.lr" in answer.err
    rows = read(elsewhere / "run" / "metrics.csv")
    assert rows[0]["round"] == "0"
    found = summary(elsewhere / "run")
    assert found["status"] == "diverged"
    assert found["rounds"] == len(rows) - 1
    assert found["final"]["round"] == len(rows) - 1
    assert "smaller" in found["reason"]
    assert (elsewhere / "run" / "clients.csv").exists()


def test_a_sweep_with_failed_jobs_exits_with_4(fedsim, elsewhere, tiny):
    answer = fedsim("run", "-m", *tiny, *EXPLODES, "client.optimizer.lr=1e6,1e-3", "hydra.sweep.dir=sweep")
    assert answer.code == 4
    assert [summary(elsewhere / "sweep" / str(job))["status"] for job in (0, 1)] == ["diverged", "done"]


def test_a_sweep_makes_a_directory_per_run(fedsim, elsewhere, tiny):
    answer = fedsim("run", "-m", *tiny, "model=rnn,lstm,gru", "seed=1,2", "hydra.sweep.dir=sweep")
    assert (answer.code, answer.err) == (0, "")
    runs = sorted(path for path in (elsewhere / "sweep").iterdir() if path.is_dir())
    assert [run.name for run in runs] == list("012345")
    records = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
    cells = [(record["model"]["_target_"].rpartition(".")[2], record["seed"]) for record in records]
    assert cells == [(model, seed) for model in ("RNN", "LSTM", "GRU") for seed in (1, 2)]
    for run in runs:
        assert len(read(run / "metrics.csv")) == 3
        assert "done" in (run / "run.log").read_text()
    table = fedsim("compare", "sweep", "--csv", "table.csv")
    assert (table.code, table.err) == (0, "")
    assert pd.read_csv(elsewhere / "table.csv")["n"].tolist() == [2, 2, 2]  # a row per model


def test_a_sweep_job_is_the_run_it_names(fedsim, elsewhere, tiny):
    assert fedsim("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=seed_${seed}").code == 0
    assert fedsim("run", *tiny, "seed=2", "hydra.run.dir=alone").code == 0
    alone = (elsewhere / "alone" / "metrics.csv").read_bytes()
    assert (elsewhere / "sweep" / "seed_2" / "metrics.csv").read_bytes() == alone


def test_a_bug_in_a_component_exits_with_1_and_a_sweep_continues(fedsim, elsewhere, tiny, monkeypatch):
    train = StackedTrainer.train

    def sometimes(self, *arguments):
        if self.task.seed == 1:
            raise KeyError("a bug of mine")
        return train(self, *arguments)

    monkeypatch.setattr(StackedTrainer, "train", sometimes)
    answer = fedsim("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep")
    assert answer.code == 4
    assert "KeyError: 'a bug of mine'" in answer.err
    assert [summary(elsewhere / "sweep" / str(job))["status"] for job in (0, 1)] == ["failed", "done"]
    assert "a bug of mine" in (elsewhere / "sweep" / "0" / "run.log").read_text()
    answer = fedsim("run", *tiny, "seed=1", "hydra.run.dir=run")
    assert answer.code == 1


def test_not_enough_memory_is_one_line(fedsim, tiny, monkeypatch):
    def full(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes.\nMore")

    monkeypatch.setattr("fedsim.runs.run.first_state", full)
    answer = fedsim("run", *tiny, "hydra.run.dir=run")
    assert answer.code == 1
    assert answer.err.startswith("error: not enough memory (DefaultCPUAllocator")
    assert answer.err.count("\n") == 1


@pytest.fixture
def small_files():
    """Return ``small_files(size)``, which limits the size of files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_exits_with_1(fedsim, elsewhere, tiny, small_files):
    small_files(20_000)
    answer = fedsim("run", *tiny, "rounds=2000", "hydra.run.dir=run", "console=none", "eval.every=10")
    small_files(-1)
    assert answer.code == 1
    assert answer.err.startswith(f"error: File too large: {elsewhere / 'run' / 'metrics.csv'}; ")
    assert answer.err.count("\n") == 1
    text = (elsewhere / "run" / "metrics.csv").read_text()
    assert text.endswith("\n")
    rows = read(elsewhere / "run" / "metrics.csv")
    assert [row["round"] for row in rows] == [str(number) for number in range(len(rows))]
    assert all(None not in row.values() for row in rows)
    checkpoints = sorted((elsewhere / "run" / "checkpoints").iterdir())
    assert [path.suffix for path in checkpoints] == [".safetensors"] * len(checkpoints)
    assert load_checkpoint(checkpoints[-1], torch.device("cpu")).round <= len(rows)
    assert summary(elsewhere / "run")["status"] == "failed"
    assert summary(elsewhere / "run")["rounds"] == len(rows) - 1


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (SystemExit(1), 141, "its output was closed"),  # what rich makes of a closed pipe
        (OSError(errno.EIO, "Input/output error"), 129, "stopped by SIGHUP"),  # of a terminal that is gone
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device: the console"),
    ],
)
def test_an_output_that_cannot_be_written(fedsim, elsewhere, tiny, monkeypatch, error, code, reason):
    def fail(self, text):
        raise error

    monkeypatch.setattr(PlainDisplay, "say", fail)
    assert fedsim("run", *tiny, "hydra.run.dir=run").code == code
    found = summary(elsewhere / "run")
    assert (found["status"], found["reason"]) == ("failed" if code == 1 else "interrupted", reason)


def test_a_disk_on_which_nothing_fits(fedsim, elsewhere, tiny, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")

    monkeypatch.setattr(CsvWriter, "_append", full)
    answer = fedsim("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep", "console=none")
    assert answer.code == 4
    assert answer.err.count("error: No space left on device: metrics.csv") == 2


# Signals


def wait_for_rows(file, process, count=5):
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text().count("\n") > count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_interrupt_ends_a_sweep_with_130(process, elsewhere, tiny):
    running = process("run", "-m", *tiny, "seed=1,2", "hydra.sweep.dir=sweep", "rounds=1000000")
    directory = elsewhere / "sweep" / "0"
    wait_for_rows(directory / "metrics.csv", running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    line = err.splitlines()[-1]
    assert line.startswith("note: interrupted; to go on: fedsim run -m data=synthetic ")
    assert " seed=1,2 rounds=1000000 " in line
    assert line.endswith(" --resume sweep")
    rows = read(directory / "metrics.csv")
    assert (directory / "metrics.csv").read_text().endswith("\n")
    assert summary(directory)["status"] == "interrupted"
    assert summary(directory)["rounds"] == len(rows) - 1
    assert (directory / "clients.csv").exists()
    assert not (elsewhere / "sweep" / "1").exists()


def test_an_interrupted_run_exits_with_130(fedsim, elsewhere, tiny, monkeypatch):
    record = runner.Recorder.record

    def interrupted(self, result, state):
        record(self, result, state)
        if state.round == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.Recorder, "record", interrupted)
    answer = fedsim("run", *tiny, "rounds=9", "hydra.run.dir=run")
    assert (answer.code, answer.err) == (130, f"note: interrupted; to go on: fedsim resume {elsewhere / 'run'}\n")
    assert len(read(elsewhere / "run" / "metrics.csv")) == 4
    assert summary(elsewhere / "run")["status"] == "interrupted"


def test_an_interrupt_that_python_lost_ends_the_run_after_the_round():
    before = signal.getsignal(signal.SIGINT)
    with after_the_round(print) as asked:
        asked.end()
        signal.raise_signal(signal.SIGINT)
        with suppress(KeyboardInterrupt):  # what a destructor does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            asked.end()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_killed_run_leaves_valid_files(process, elsewhere, tiny):
    running = process("run", *tiny, "rounds=1000000", "hydra.run.dir=run", "checkpoint.every=1")
    wait_for_rows(elsewhere / "run" / "metrics.csv", running, count=20)
    running.kill()
    running.communicate(timeout=60)
    text = (elsewhere / "run" / "metrics.csv").read_text()
    assert text.endswith("\n")
    rows = read(elsewhere / "run" / "metrics.csv")
    assert [row["round"] for row in rows] == [str(number) for number in range(len(rows))]
    assert not (elsewhere / "run" / "summary.json").exists()
    checkpoints = sorted((elsewhere / "run" / "checkpoints").glob("*.safetensors"))
    assert load_checkpoint(checkpoints[-1], torch.device("cpu")).round in (len(rows) - 2, len(rows) - 1, len(rows))
