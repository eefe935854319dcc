"""Runs made by hand: how they are found and read, where they differ, what is final and best, and what is refused."""

import copy
import functools
import io
import json
import operator
import os

import pandas as pd
import pytest
import yaml
from rich.console import Console

from fedsim.compare import compare, load_runs, render, write_csv
from fedsim.errors import UserError

# Evaluated in rounds 0, 2 and 3 of 4. Final: the last evaluated row, round 3: 0.6. Best: round 2: 0.7123456.
METRICS = """\
round,clients,train_loss,test_loss,test_accuracy,bytes_up
0,0,,2.0,0.1,0
1,4,1.5,,,400
2,4,1.2,1.0,0.7123456,800
3,4,1.1,0.9,0.6,1200
4,4,1.0,,,1600
"""
REGRESSION = "round,clients,train_loss,test_loss,test_rmse\n0,0,,4.0,2.0\n1,4,2.0,1.0,1.0\n"
CONFIG = {
    "format_version": 1,
    "seed": 0,
    "rounds": 4,
    "model": {"_target_": "fedsim.models.recurrent.GRU", "hidden_size": 64},
    "aggregator": {"server_optimizer": {"_target_": "fedsim.server.Adam", "lr": 0.1}},
    "tags": [],
}
SUMMARY = {"format_version": 1, "status": "done", "best": {"metric": "test_accuracy", "mode": "max", "round": 2}}


def make_run(path, *, metrics=METRICS, config=CONFIG, summary=SUMMARY):
    path.mkdir(parents=True)
    (path / "metrics.csv").write_text(metrics)
    if config is not None:
        (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def changed(changes):
    """CONFIG with dotted keys set."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *parents, last = key.split(".")
        functools.reduce(operator.getitem, parents, config)[last] = value
    return config


def judged(metric, mode):
    return {"status": "done", "best": {"metric": metric, "mode": mode}}


def names(runs):
    return [run.path.name for run in runs]


def shown(table):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(render(table))
    return console.file.getvalue()


# Finding


def test_a_sweep_directory_in_natural_order(tmp_path):
    for job in (10, 9, 0):
        make_run(tmp_path / "sweep" / str(job))
    (tmp_path / "sweep" / "multirun.yaml").write_text("{}")
    assert names(load_runs([tmp_path / "sweep"])) == ["0", "9", "10"]
    assert names(load_runs([str(tmp_path)])) == ["0", "9", "10"]


def test_the_order_of_the_paths_is_kept_and_duplicates_are_taken_once(tmp_path):
    for name in "abc":
        make_run(tmp_path / name)
    (tmp_path / "latest").symlink_to(tmp_path / "c")
    paths = [tmp_path / "c", tmp_path, tmp_path / "a" / "metrics.csv", tmp_path / "latest", tmp_path / "b" / ".." / "b"]
    assert names(load_runs(paths)) == ["c", "a", "b"]


def test_a_glob_pattern_passes_over_what_is_not_a_run(tmp_path, monkeypatch):
    for job in (2, 10, 1):
        run = make_run(tmp_path / f"job{job}")
        (run / "timing.csv").write_text("round,seconds\n1,0.5\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes.txt").write_text("not a run")
    for pattern in ("*", "job*", "**/*.csv", "job*/metrics.csv"):
        assert names(load_runs([str(tmp_path / pattern)])) == ["job1", "job2", "job10"], pattern
    monkeypatch.chdir(tmp_path)
    assert names(load_runs(["job?"])) == ["job1", "job2"]


def test_a_folder_named_like_a_pattern(tmp_path):
    make_run(tmp_path / "lr=[0.1]")
    assert names(load_runs([tmp_path / "lr=[0.1]"])) == ["lr=[0.1]"]


def test_a_bare_csv(tmp_path):
    for name in ("b2.csv", "b10.csv"):
        (tmp_path / name).write_text(METRICS)
    runs = load_runs([str(tmp_path / "*.csv")])
    assert names(runs) == ["b2.csv", "b10.csv"]
    assert [(run.status, run.config, run.judge) for run in runs] == [("-", None, None)] * 2
    table = compare(runs)
    assert list(table.columns) == [
        "run",
        "status",
        "rounds",
        "final test_accuracy",
        "best test_accuracy",
        "best round",
    ]


def test_the_csv_of_a_run_directory_is_that_run(tmp_path):
    [run] = load_runs([make_run(tmp_path / "a") / "metrics.csv"])
    assert (run.path, run.status) == (tmp_path / "a", "done")


# Reading


@pytest.mark.parametrize("torn", ["5,4,0.9,0.1,0.99,20", "5", ""])
def test_a_killed_run_is_incomplete_and_its_torn_line_ignored(tmp_path, torn):
    make_run(tmp_path / "a", metrics=METRICS + torn, summary=None)
    table = compare(load_runs([tmp_path]))
    assert table.loc[0, ["status", "rounds", "final test_accuracy"]].tolist() == ["incomplete", 4, 0.6]


def test_a_run_that_has_only_begun(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", metrics=METRICS.splitlines(keepends=True)[0], summary=None)
    table = compare(load_runs([tmp_path]))
    assert table["status"].tolist() == ["done", "incomplete"]
    assert table.loc[1, ["rounds", "final test_accuracy", "best test_accuracy", "best round"]].isna().all()
    assert shown(table).splitlines()[-1].split() == ["b", "incomplete", "-", "-", "-", "-"]


def test_a_diverged_run_ends_in_nan_and_keeps_its_best(tmp_path):
    metrics = "round,clients,train_loss,test_loss\n0,0,,2.0\n1,4,1.5,1.0\n2,4,nan,nan\n3,4,nan,\n"
    make_run(tmp_path / "a", metrics=metrics, summary=judged("test_loss", "min") | {"status": "diverged"})
    row = compare(load_runs([tmp_path])).loc[0]
    assert row["status"] == "diverged"
    assert pd.isna(row["final test_loss"])  # round 2 was evaluated, round 3 was not
    assert (row["best test_loss"], row["best round"]) == (1.0, 1)


# Comparing


def test_final_best_and_rounds(tmp_path):
    make_run(tmp_path / "a")
    table = compare(load_runs([tmp_path]))
    assert table.to_dict("list") == {
        "run": ["a"],
        "status": ["done"],
        "rounds": [4],
        "final test_accuracy": [0.6],
        "best test_accuracy": [0.7123456],
        "best round": [2],
    }
    assert table.attrs["note"] is None


def test_only_the_keys_that_differ(tmp_path):
    make_run(tmp_path / "x" / "a", config=changed({"aggregator.server_optimizer.lr": 0.01, "format_version": 2}))
    make_run(tmp_path / "x" / "b", config=changed({"tags": ["slow", "gru"]}))
    make_run(tmp_path / "y" / "a", config=changed({"seed": 0.0}))
    table = compare(load_runs([tmp_path]))
    assert list(table.columns)[:4] == ["run", "aggregator.server_optimizer.lr", "tags", "status"]
    assert table["run"].tolist() == ["x/a", "x/b", "y/a"]
    assert table["aggregator.server_optimizer.lr"].tolist() == [0.01, 0.1, 0.1]
    assert table["tags"].tolist() == ["[]", '["slow", "gru"]', "[]"]


def test_a_component_is_shown_by_its_class_and_an_absent_key_is_empty(tmp_path):
    lstm = {"_target_": "fedsim.models.recurrent.LSTM", "hidden_size": 64, "forget_bias": 1.0}
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config=changed({"model": lstm}))
    make_run(tmp_path / "c", config=changed({"model": None}))
    (tmp_path / "d.csv").write_text(METRICS)
    table = compare(load_runs([tmp_path, tmp_path / "d.csv"]))
    assert table["model"].tolist() == ["GRU", "LSTM", "null", ""]
    assert table["model.hidden_size"].tolist() == [64, 64, "", ""]
    assert table["model.forget_bias"].tolist() == ["", 1.0, "", ""]


def test_two_classes_of_one_name_are_told_apart(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config=changed({"model._target_": "mine.GRU"}))
    assert compare(load_runs([tmp_path]))["model"].tolist() == ["fedsim.models.recurrent.GRU", "mine.GRU"]


def test_a_run_without_a_config_does_not_make_every_key_differ(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config=None)
    assert list(compare(load_runs([tmp_path])).columns)[:2] == ["run", "status"]


def test_rounds_asked_for_and_rounds_done(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config=changed({"rounds": 50}))
    table = compare(load_runs([tmp_path]))
    assert table["config rounds"].tolist() == [4, 50]
    assert table["rounds"].tolist() == [4, 4]


# The metric


def test_the_judge_of_the_summary_decides(tmp_path):
    make_run(tmp_path / "a", summary=judged("test_loss", "min"))
    make_run(tmp_path / "b", summary=None)  # has not said, and follows
    table = compare(load_runs([tmp_path]))
    assert table.loc[0, ["final test_loss", "best test_loss", "best round"]].tolist() == [0.9, 0.9, 3]
    assert table.attrs == {"mode": "min", "note": None}


@pytest.mark.parametrize(
    ("metrics", "metric", "mode"),
    [
        (METRICS, "test_accuracy", "max"),
        (REGRESSION, "test_rmse", "min"),
        ("round,train_loss,test_loss\n0,,1\n", "test_loss", "min"),
    ],
)
def test_without_a_judge(tmp_path, metrics, metric, mode):
    make_run(tmp_path / "a", metrics=metrics, summary={"status": "stopped", "best": None})
    table = compare(load_runs([tmp_path]))
    assert f"best {metric}" in table
    assert table.attrs["mode"] == mode


def test_runs_that_disagree_are_compared_by_what_they_share(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", metrics=REGRESSION, summary=judged("test_rmse", "min"))
    table = compare(load_runs([tmp_path]))
    assert table["best test_loss"].tolist() == [0.9, 1.0]
    assert table.attrs["note"] == (
        "not all runs are judged by the same metric (test_accuracy, test_rmse): "
        "compared by test_loss (min), the first column that all runs share"
    )
    assert "compared by test_loss (min)" in shown(table).replace("\n", " ")


def test_runs_that_share_nothing(tmp_path):
    make_run(tmp_path / "a", metrics="round,test_loss\n0,1\n", summary=None)
    make_run(tmp_path / "b", metrics="round,test_accuracy\n0,1\n", summary=None)
    with pytest.raises(UserError, match="share no column"):
        compare(load_runs([tmp_path]))


def test_a_metric_by_name(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", metrics=REGRESSION)
    runs = load_runs([tmp_path])
    table = compare(runs, "train_loss")
    assert table.loc[0, ["final train_loss", "best train_loss", "best round"]].tolist() == [1.0, 1.0, 4]
    assert compare(runs, "bytes_up")["best bytes_up"].tolist()[0] == 1600
    assert compare(runs, "test_rmse")["best round"].isna().tolist() == [True, False]
    with pytest.raises(UserError, match=r"'test_acuracy'.*must be one of .*did you mean 'test_accuracy'"):
        compare(runs, "test_acuracy")


def test_the_first_of_equal_rounds_is_the_best(tmp_path):
    make_run(tmp_path / "a", metrics="round,test_accuracy\n0,0.5\n1,0.9\n2,0.9\n")
    assert compare(load_runs([tmp_path]))["best round"].tolist() == [1]


def test_nothing_to_compare():
    with pytest.raises(UserError, match="no runs"):
        compare(load_runs([]))


# Mistakes


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ("", "the file is empty"),
        ("round,test_l", "the file is empty"),  # torn in the header
        ("name,age\nx,3\n", "no column 'round'"),
        ("round,test_loss\n0,1\n1,abc\n", "'test_loss' holds something else than numbers .*abc"),
        ("round,test_loss\n0.5,1\n", "'round' holds something else than numbers"),
        ("round,test_loss\n0,1,2\n", "more cells than its header"),
        ("round,test_loss\n0,1\n1,2,3\n", "not a readable CSV"),
        (b"round,test_loss\n0,\xff\n", "not a readable CSV"),
    ],
)
def test_csvs_that_are_refused(tmp_path, metrics, told):
    run = make_run(tmp_path / "a")
    (run / "metrics.csv").write_bytes(metrics if isinstance(metrics, bytes) else metrics.encode())
    refused(tmp_path, rf"a/metrics\.csv: .*{told}")


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.yaml", "model: [unclosed\nseed: 0\n", "malformed YAML"),
        ("config.yaml", "model: !!python/object/apply:os.getcwd []\n", "malformed YAML"),
        ("config.yaml", "day: 2024-13-01\n", "malformed YAML"),
        ("config.yaml", "model: &again {model: *again}\n", "malformed YAML"),
        ("config.yaml", "", "not a mapping"),
        ("summary.json", '{"status": ', "malformed JSON"),
        ("summary.json", "[]", "no 'status'"),
        ("summary.json", '{"status": "done", "best": {"metric": "test_loss"}}', "needs a 'metric' and a 'mode'"),
    ],
)
def test_damaged_records_are_refused(tmp_path, file, content, told):
    (make_run(tmp_path / "a") / file).write_text(content)
    refused(tmp_path, rf"a/{file}: .*{told}")


def test_paths_that_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun.csv").write_text("round,test_loss\n")
    refused(tmp_path / "nowhere", "nowhere: no such file or folder")
    refused(tmp_path / "empty", "empty: no runs here")
    refused(tmp_path / "emp*", r"emp\*: no runs match")
    refused(tmp_path / "begun.csv", r"begun\.csv: there are no rounds")
    refused(tmp_path / ("long" * 100), "File name too long")


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        load_runs([path])
    assert "\n" not in str(caught.value)


# Showing and keeping


def test_the_table_at_80_columns(tmp_path):
    make_run(
        tmp_path / "sweep" / "9", config=changed({"model.hidden_size": 128, "aggregator.server_optimizer.lr": 0.001})
    )
    metrics = METRICS.replace("0.7123456", "0.5")  # the best is then the 0.6 of round 3
    make_run(
        tmp_path / "sweep" / "10", metrics=metrics, config=changed({"model": {"_target_": "m.LSTM"}, "tags": ["a"]})
    )
    table = compare(load_runs([tmp_path]))
    lines = shown(table).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if "done" in line]
    assert rows[0] == ["9", "GRU", "128", "0.001", "[]", "done", "4", "0.6", "0.7123", "2"]
    assert rows[1] == ["10", "LSTM", "0.1", '["a"]', "done", "4", "0.6", "0.6", "3"]
    assert next(column for column in render(table).columns if "hidden" in str(column.header)).justify == "right"


@pytest.mark.parametrize(
    ("judge", "bold"), [(("test_accuracy", "max"), [True, False]), (("test_loss", "min"), [False, True])]
)
def test_the_best_run_is_bold(tmp_path, judge, bold):
    make_run(tmp_path / "a", summary=judged(*judge))
    metrics = METRICS.replace("0.7123456", "0.5").replace("0.9,0.6", "0.8,0.6")  # less accurate, smaller loss
    make_run(tmp_path / "b", metrics=metrics, summary=judged(*judge))
    table = render(compare(load_runs([tmp_path])))
    assert [row.style == "bold" for row in table.rows] == bold


def test_brackets_are_not_markup(tmp_path):
    make_run(tmp_path / "[bold]a")
    make_run(tmp_path / "b")
    assert "[bold]a" in shown(compare(load_runs([tmp_path])))


def test_the_csv_keeps_full_precision(tmp_path):
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b", config=changed({"model": {"_target_": "m.GRU2"}}))
    file = tmp_path / "table.csv"
    file.write_text("old")
    write_csv(compare(load_runs([tmp_path / "runs"])), file)
    assert file.read_text() == (
        "run,model,model.hidden_size,status,rounds,final test_accuracy,best test_accuracy,best round\n"
        "a,GRU,64,done,4,0.6,0.7123456,2\n"
        "b,GRU2,,done,4,0.6,0.7123456,2\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "table.csv"]
    write_csv(compare(load_runs([tmp_path / "runs"])), os.devnull)
    assert not os.path.isfile(os.devnull)


def test_a_csv_that_cannot_be_written(tmp_path):
    make_run(tmp_path / "a")
    table = compare(load_runs([tmp_path]))
    for file in (tmp_path, tmp_path / "missing" / "t.csv", tmp_path / "a" / "metrics.csv" / "t.csv"):
        with pytest.raises(UserError, match="cannot write"):
            write_csv(table, file)
