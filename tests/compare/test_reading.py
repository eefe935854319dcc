"""How runs are found and read, and what is reported about those that cannot be."""

import math
import re

import pytest
import yaml

from fedsim.compare.reading import load_runs
from fedsim.compare.statistics import best_value
from fedsim.errors import UserError


def names(runs):
    return [run.path.name for run in runs]


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        load_runs([path])
    assert "\n" not in str(caught.value)


# Finding


def test_a_sweep_directory_in_natural_order(make_run, tmp_path):
    for job in (10, 9, 0):
        make_run(f"sweep/{job}")
    (tmp_path / "sweep" / "multirun.yaml").write_text("{}")
    assert names(load_runs([tmp_path / "sweep"])[0]) == ["0", "9", "10"]
    assert names(load_runs([str(tmp_path)])[0]) == ["0", "9", "10"]


def test_the_order_of_the_paths_is_kept_and_duplicates_are_taken_once(make_run, tmp_path):
    for name in "abc":
        make_run(name)
    (tmp_path / "latest").symlink_to(tmp_path / "c")
    paths = [tmp_path / "c", tmp_path, tmp_path / "a" / "metrics.csv", tmp_path / "latest", tmp_path / "b" / ".." / "b"]
    assert names(load_runs(paths)[0]) == ["c", "a", "b"]


def test_a_glob_pattern_skips_what_is_not_a_run(make_run, tmp_path, monkeypatch):
    for job in (2, 10, 1):
        run = make_run(f"job{job}")
        (run / "timing.csv").write_text("round,seconds\n1,0.5\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes.txt").write_text("not a run")
    for pattern in ("*", "job*", "**/*.csv", "job*/metrics.csv"):
        assert names(load_runs([str(tmp_path / pattern)])[0]) == ["job1", "job2", "job10"], pattern
    monkeypatch.chdir(tmp_path)
    assert names(load_runs(["job?"])[0]) == ["job1", "job2"]


def test_a_folder_named_like_a_pattern(make_run, tmp_path):
    make_run("lr=[0.1]")
    assert names(load_runs([tmp_path / "lr=[0.1]"])[0]) == ["lr=[0.1]"]


def test_a_bare_csv(metrics, tmp_path):
    for name in ("b2.csv", "b10.csv"):
        (tmp_path / name).write_text(metrics)
    runs = load_runs([str(tmp_path / "*.csv")])[0]
    assert names(runs) == ["b2.csv", "b10.csv"]
    assert [(run.status, run.config, run.judge) for run in runs] == [("-", None, None)] * 2


def test_the_csv_of_a_run_directory_is_that_run(make_run, tmp_path):
    [run] = load_runs([make_run("a") / "metrics.csv"])[0]
    assert (run.path, run.status) == (tmp_path / "a", "done")


# Reading


@pytest.mark.parametrize("torn", ["5,4,0.9,0.1,0.99,20", "5", ""])
def test_a_killed_run_is_incomplete_and_its_torn_line_ignored(make_run, metrics, tmp_path, torn):
    make_run("a", metrics=metrics + torn, summary=None)
    [run] = load_runs([tmp_path])[0]
    assert (run.status, run.rounds, run.columns["test_accuracy"].iloc[-1]) == ("incomplete", 4, 0.6)


def test_a_run_that_has_only_started(make_run, metrics, tmp_path):
    make_run("b", metrics=metrics.splitlines(keepends=True)[0], summary=None)
    [run] = load_runs([tmp_path])[0]
    assert (run.status, run.rounds) == ("incomplete", None)
    assert run.columns["test_accuracy"].empty


def test_a_diverged_run_ends_in_nan_and_keeps_its_best(make_run, judged, tmp_path):
    metrics = "round,clients,train_loss,test_loss\n0,0,,2.0\n1,4,1.5,1.0\n2,4,nan,nan\n3,4,nan,\n"
    make_run("a", metrics=metrics, summary=judged("test_loss", "min") | {"status": "diverged"})
    [run] = load_runs([tmp_path])[0]
    assert run.status == "diverged"
    loss = run.columns["test_loss"]
    assert math.isnan(loss.iloc[-1])  # round 2 was evaluated, round 3 was not
    assert best_value(loss, "min") == (1.0, 1)


def test_what_hydra_recorded(make_run):
    choices = {"model": "gru", "experiment": None, "console": "plain", "hydra/launcher": "basic"}
    run = make_run("a", choices=choices, typed=["model=gru", "+x.y=2", "client.steps=5", "client.epochs=null"])
    [read] = load_runs([run])[0]
    assert read.choices == {"model": "gru", "experiment": "-"}
    assert read.typed == {"model", "x.y", "client.steps"}  # the null is what steps give epochs


def test_hydras_record_of_another_run_is_not_believed(make_run):
    """A second run was started in the directory and refused, but its record had replaced the first one's."""
    run = make_run("a", {"model.hidden_size": 8}, choices={"model": "lstm"}, typed=["model=lstm"])
    composed = yaml.safe_load((run / "config.yaml").read_text())
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(composed))
    assert load_runs([run])[0][0].choices == {"model": "lstm"}
    composed["model"]["hidden_size"] = "8.0"  # the record has what was made of it
    composed["rounds"] = -1  # and may be resumed for more
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(composed))
    assert load_runs([run])[0][0].choices == {"model": "lstm"}
    composed["model"]["hidden_size"] = 9
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(composed))
    read = load_runs([run])[0][0]
    assert (read.choices, read.typed) == (None, frozenset())


@pytest.mark.parametrize("record", ["", "hydra: null", "hydra: {runtime: {}}", "[]"])
def test_a_hydra_record_without_choices(make_run, record):
    run = make_run("a", choices={})
    (run / ".hydra" / "hydra.yaml").write_text(record)
    assert load_runs([run])[0][0].choices is None


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": "min", "b": "max", "c": ""}, {"a": "min", "b": "max", "c": ""}),
        ({"a": "low", "b": None, "c": ["min"], "d": {"min": "max"}, "e": 0, "f": "max"}, {"f": "max"}),
        (["a", "min"], {}),
        ("min", {}),
        (None, {}),
    ],
)
def test_the_columns_that_a_run_declares(make_run, columns, expected):
    run = make_run("a", summary={"status": "done", "columns": columns})
    assert load_runs([run])[0][0].better == expected


# What cannot be used is reported, and the rest is read


def test_a_damaged_run_among_others_is_reported(make_run, tmp_path):
    make_run("a")
    (make_run("b") / "summary.json").write_text("{")
    runs, problems = load_runs([tmp_path])
    assert names(runs) == ["a"]
    assert len(problems) == 1
    assert re.search(r"b/summary\.json: cannot be read as JSON", problems[0])


def test_a_run_without_metrics_is_reported(make_run, tmp_path):
    make_run("sweep/0")
    (make_run("sweep/1") / "metrics.csv").unlink()
    runs, problems = load_runs([tmp_path / "sweep"])
    assert names(runs) == ["0"]
    assert problems == [f"{tmp_path}/sweep/1: a run without metrics.csv (it ended before its first round)"]


def test_foreign_files_among_the_paths_are_reported(make_run, tmp_path):
    make_run("0")
    (tmp_path / "multirun.yaml").write_text("a: 1\n")
    (tmp_path / "empty").mkdir()
    runs, problems = load_runs(sorted(tmp_path.iterdir()))  # as a shell expands *
    assert names(runs) == ["0"]
    assert [problem.split(":")[0].rpartition("/")[2] for problem in problems] == ["empty", "multirun.yaml"]
    runs, problems = load_runs([str(tmp_path / "*")])
    assert names(runs) == ["0"]
    assert problems == [f"{tmp_path}/*: skipped what is not a run (empty, multirun.yaml)"]


def test_no_run_can_be_read(make_run, tmp_path):
    for name in "ab":
        (make_run(name) / "metrics.csv").write_text("")
    refused(tmp_path, r"a/metrics\.csv: the file is empty \(and 1 more like it; no run can be read\)")


# Mistakes


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("", "the file is empty"),
        ("round,test_l", "the file is empty"),  # torn in the header
        ("name,age\nx,3\n", "no column 'round'"),
        ("round,test_loss\n0,1\n1,abc\n", "'test_loss' holds something other than numbers .*abc"),
        ("round,test_loss\n0.5,1\n", "'round' holds something other than numbers"),
        ("round,test_loss\n0,1,2\n", "more cells than its header"),
        ("round,test_loss\n0,1\n1,2,3\n", "not a readable CSV"),
        (b"round,test_loss\n0,\xff\n", "not a readable CSV"),
    ],
)
def test_csvs_that_are_refused(make_run, tmp_path, metrics, message):
    run = make_run("a")
    (run / "metrics.csv").write_bytes(metrics if isinstance(metrics, bytes) else metrics.encode())
    refused(tmp_path, rf"a/metrics\.csv: .*{message}")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", "model: [unclosed\nseed: 0\n", "cannot be read as YAML"),
        ("config.yaml", "model: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
        ("config.yaml", "day: 2024-13-01\n", "cannot be read as YAML"),
        ("config.yaml", "model: &again {model: *again}\n", "is a part of itself"),
        ("config.yaml", "", "not a mapping"),
        ("summary.json", '{"status": ', "cannot be read as JSON"),
        ("summary.json", "[]", "no 'status'"),
        ("summary.json", '{"status": "done", "best": {"metric": "test_loss"}}', "needs a 'metric' and a 'mode'"),
    ],
)
def test_damaged_records_are_refused(make_run, tmp_path, file, content, message):
    (make_run("a") / file).write_text(content)
    refused(tmp_path, rf"a/{file}: .*{message}")


def test_paths_that_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun.csv").write_text("round,test_loss\n")
    refused(tmp_path / "nowhere", "nowhere: no such file or folder")
    refused(tmp_path / "empty", "empty: no runs here")
    refused(tmp_path / "emp*", r"emp\*: no runs match")
    refused(tmp_path / "begun.csv", r"begun\.csv: this file has no rounds")
    refused(tmp_path / ("long" * 100), "File name too long")
