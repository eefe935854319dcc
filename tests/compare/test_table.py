"""One row per group: what its settings are called, what it measured, and how it differs from a baseline."""

import math
import re

import pytest

from fedsim.compare.reading import load_runs
from fedsim.compare.table import Question, compare
from fedsim.errors import UserError


def comparison_of(*paths, **question):
    return compare(load_runs(paths)[0], Question(**question))


def table_of(*paths, **question):
    return comparison_of(*paths, **question).table


# Comparing


def test_only_the_settings_asked_for(make_run, tmp_path):
    make_run("a", {"aggregator.server_optimizer.lr": 0.01})
    make_run("b", {"aggregator.server_optimizer.lr": 0.1, "model.hidden_size": 8, "tags": ["x"]})
    found = comparison_of(tmp_path, keys=("model.hidden_size",))
    assert list(found.table.columns)[:2] == ["run", "model.hidden_size"]
    assert "not shown: the groups also differ in aggregator.server_optimizer.lr, tags" in found.notes
    both = comparison_of(tmp_path, keys=("tags", "model.hidden_size", "aggregator.server_optimizer.lr"))
    assert list(both.table.columns)[1:4] == ["tags", "model.hidden_size", "aggregator.server_optimizer.lr"]
    assert not [note for note in both.notes if note.startswith("not shown")]


def test_files_without_settings_need_no_distinguishing_setting(make_run, metrics, tmp_path):
    make_run("a", {"model.hidden_size": 8})
    make_run("b")
    for name in ("c.csv", "d.csv"):
        (tmp_path / name).write_text(metrics)
    table = table_of(tmp_path, tmp_path / "c.csv", tmp_path / "d.csv", keys=("model.hidden_size",))
    assert sorted(map(str, table["model.hidden_size"])) == ["", "", "64", "8"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("lr",), "--keys lr: these runs differ in rounds, model.hidden_size"),
        (("round",), "did you mean 'rounds'"),
        (("rounds",), "--keys rounds: two groups have rounds=4; they differ in model.hidden_size"),
    ],
)
def test_settings_that_do_not_distinguish_the_runs_are_refused(make_run, tmp_path, keys, message):
    make_run("a")
    make_run("b", {"model.hidden_size": 8})
    make_run("c", {"rounds": 5})
    with pytest.raises(UserError, match=re.escape(message)):
        comparison_of(tmp_path, keys=keys)


def test_final_best_and_rounds(make_run, tmp_path):
    make_run("a")
    table = table_of(tmp_path)
    assert table.to_dict("list") == {
        "run": ["a"],
        "status": ["done"],
        "rounds": [4],
        "final test_accuracy": [0.6],
        "best test_accuracy": [0.7123456],
        "best round": [2],
    }


def test_only_the_keys_that_differ(make_run, tmp_path):
    make_run("x/a", {"aggregator.server_optimizer.lr": 0.01, "format_version": 2})
    make_run("x/b", {"tags": ["slow", "gru"]})
    make_run("y/a", {"console": {"mode": "none"}})  # shows something else, and does the same
    table = table_of(tmp_path)
    assert list(table.columns)[:4] == ["run", "aggregator.server_optimizer.lr", "tags", "status"]
    assert table["run"].tolist() == ["x/a", "x/b", "y/a"]
    assert table["aggregator.server_optimizer.lr"].tolist() == [0.01, 0.1, 0.1]
    assert table["tags"].tolist() == ["[]", '["slow", "gru"]', "[]"]


def test_a_component_is_shown_by_its_class_and_not_by_the_keys_that_only_it_has(make_run, metrics, tmp_path):
    lstm = {"_target_": "fedsim.models.recurrent.LSTM", "hidden_size": 64, "forget_bias": 1.0}
    make_run("a")
    make_run("b", {"model": lstm})
    make_run("c", {"model": None})
    (tmp_path / "d.csv").write_text(metrics)
    table = table_of(tmp_path, tmp_path / "d.csv")
    assert table["model"].tolist() == ["GRU", "LSTM", "null", ""]
    assert "model.hidden_size" not in table  # 64 for both: it comes with the model
    assert "model.forget_bias" not in table
    make_run("e", {"model.hidden_size": 8})
    assert sorted(map(str, table_of(tmp_path)["model.hidden_size"])) == ["", "64", "64", "8"]


def test_two_classes_of_the_same_name_are_shown_in_full(make_run, tmp_path):
    make_run("a")
    make_run("b", {"model._target_": "mine.GRU"})
    assert table_of(tmp_path)["model"].tolist() == ["fedsim.models.recurrent.GRU", "mine.GRU"]


def test_a_run_without_a_config_does_not_make_every_key_differ(make_run, tmp_path):
    make_run("a")
    make_run("b", None)
    assert list(table_of(tmp_path).columns)[:2] == ["run", "status"]


def test_rounds_asked_for_and_rounds_done(make_run, tmp_path):
    make_run("a")
    make_run("b", {"rounds": 50})
    table = table_of(tmp_path)
    assert table["config rounds"].tolist() == [4, 50]
    assert table["rounds"].tolist() == [4, 4]


def choices_of(aggregator, correction, **others):
    return {"aggregator": aggregator, "aggregator/correction": correction, "model": "gru", **others}


def test_options_stand_for_the_settings_that_come_with_them(make_run, tmp_path):
    prox = {"aggregator.correction": {"_target_": "fedsim.corrections.correction.Prox", "mu": 0.1}}
    make_run("a", choices=choices_of("fedavg", "none"))
    make_run("b", prox, choices=choices_of("fedprox", "prox"), typed=["aggregator=fedprox"])
    table = table_of(tmp_path)
    assert list(table.columns)[:3] == ["run", "aggregator", "status"]
    assert table["aggregator"].tolist() == ["fedavg", "fedprox"]


def test_settings_that_were_typed_or_do_not_follow_from_options_are_listed(make_run, tmp_path):
    mu = {"aggregator.correction": {"_target_": "fedsim.corrections.correction.Prox", "mu": 0.1}}
    more = {"aggregator.correction": {"_target_": "fedsim.corrections.correction.Prox", "mu": 1.0}, "rounds": 9}
    make_run("a", choices=choices_of("fedavg", "none"), typed=["rounds=4"])
    make_run("b", mu, choices=choices_of("fedprox", "prox"))
    make_run("c", more, choices=choices_of("fedprox", "prox"), typed=["rounds=9"])
    table = table_of(tmp_path)
    # rounds was typed; of the two values of mu, rounds=9 says which: nothing more is needed.
    assert list(table.columns)[:4] == ["run", "aggregator", "config rounds", "status"]
    make_run("d", more | {"rounds": 4}, choices=choices_of("fedprox", "prox"))
    assert "aggregator.correction.mu" in table_of(tmp_path)


# Seeds


def test_runs_that_differ_in_their_seed_alone_are_one_row(make_run, tmp_path):
    for seed, final in enumerate((0.5, 0.7, 0.9)):
        make_run(f"a{seed}", {"seed": seed}, accuracy=[0.1, 0.95, final])
    make_run("b", {"model.hidden_size": 8}, accuracy=[0.1, 0.2, 0.3])
    table = table_of(tmp_path)
    assert table["n"].tolist() == [3, 1]
    assert table["seeds"].tolist() == ["0 1 2", "0"]
    assert table["run"].tolist() == ["a0; a1; a2", "b"]
    assert "seed" not in table
    # Mean 0.7; deviations -0.2, 0, 0.2: sqrt(0.08 / (3 - 1)) = 0.2. One run alone has no spread.
    assert table["final test_accuracy"].tolist() == pytest.approx([0.7, 0.3])
    assert table["final test_accuracy std"].tolist() == pytest.approx([0.2, math.nan], nan_ok=True)
    assert table["best test_accuracy"].tolist() == pytest.approx([0.95, 0.3])


def test_a_run_that_repeats_another_is_left_out_with_a_warning(make_run, tmp_path):
    make_run("a", accuracy=[0.1, 0.2], summary=None)
    make_run("b", accuracy=[0.1, 0.2, 0.3])
    make_run("c", accuracy=[0.1, 0.2, 0.3])
    found = comparison_of(tmp_path)
    assert found.table["run"].tolist() == ["b"]
    assert found.warnings == [
        f"{tmp_path}/a: left out, because it has the same config and seed as {tmp_path}/b",
        f"{tmp_path}/c: left out, because it has the same config and seed as {tmp_path}/b",
    ]


def test_one_run_each_with_different_seeds(make_run, tmp_path):
    make_run("a", {"seed": 1})
    make_run("b", {"seed": 2, "rounds": 9})
    table = table_of(tmp_path)
    assert table["seed"].tolist() == [1, 2]
    assert "n" not in table


def test_runs_that_did_not_finish_are_reported(make_run, tmp_path):
    make_run("a", accuracy=[0.1, 0.9], summary={"status": "diverged"})
    make_run("b", {"seed": 1}, accuracy=[0.1, 0.5])
    make_run("c", {"seed": 2}, accuracy=[0.1, 0.7, 0.7], summary=None)
    found = comparison_of(tmp_path)
    assert found.table["status"].tolist() == ["1 diverged, 1 done, 1 incomplete"]
    assert found.warnings == [
        f"{tmp_path}/a: diverged after round 1",
        f"{tmp_path}/c: incomplete after round 2; its last value does not count as final (--partial counts it; "
        "--at ROUND compares in a round that all runs have)",
    ]
    assert found.notes[:2] == ["seed 0: diverged after round 1", "seed 2: incomplete after round 2"]
    assert comparison_of(tmp_path, partial=True).warnings == [
        f"{tmp_path}/a: diverged after round 1",
        f"{tmp_path}/c: incomplete after round 2; its last value counts as final (--partial)",
    ]


def test_the_best_comes_first(make_run, tmp_path):
    make_run("low", {"tags": ["a"]}, accuracy=[0.1, 0.8, 0.3])
    make_run("none", {"tags": ["b"]}, metrics="round,test_accuracy\n0,\n")
    make_run("high", {"tags": ["c"]}, accuracy=[0.1, 0.2, 0.5])
    assert table_of(tmp_path)["run"].tolist() == ["high", "low", "none"]
    assert table_of(tmp_path, by="best")["run"].tolist() == ["low", "high", "none"]


# What it took


def test_rounds_and_bytes_to_a_target(make_run, tmp_path):
    make_run("a0", {"seed": 0}, accuracy=[0.1, 0.5, 0.9, 0.7])  # at least 0.5 in round 1
    make_run("a1", {"seed": 1}, accuracy=[0.1, 0.2, 0.3, 0.5])  # in round 3
    make_run("a2", {"seed": 2}, accuracy=[0.1, 0.2, 0.3, 0.4])  # never
    table = table_of(tmp_path, target="test_accuracy=0.5", by="target")
    goal = "test_accuracy>=0.5"
    assert table["reached"].tolist() == [2]
    # 1, 3 and never: no mean, and a median of 3; in bytes, at 110 a round, 110, 330 and never.
    assert table[f"rounds to {goal}"].isna().all()
    assert table[f"rounds to {goal} median"].tolist() == [3]
    assert table[f"rounds to {goal} n"].tolist() == [2]
    assert table[f"bytes to {goal} median"].tolist() == [330]
    table = table_of(tmp_path, target="test_accuracy=0.5", by="target", partial=True)
    assert table[f"rounds to {goal}"].tolist() == [2.0]  # (1 + 3) / 2
    # Rounds 1 and 3 at 110 bytes a round, 100 of them down: 110 and 330; spread sqrt(2 * 110^2 / 1).
    assert table[f"bytes to {goal}"].tolist() == [220.0]
    assert table[f"bytes to {goal} std"].tolist() == pytest.approx([110 * math.sqrt(2)])
    assert table[f"bytes_down to {goal}"].tolist() == [200.0]
    assert table[f"bytes_up to {goal}"].tolist() == [20.0]
    assert not any("virtual_seconds" in name for name in table)


def test_a_target_of_a_loss_and_simulated_time(make_run, tmp_path):
    make_run("a", metrics="round,test_loss,virtual_seconds\n0,2.0,0\n1,0.9,7.5\n2,0.5,9\n")
    table = table_of(tmp_path, target="test_loss=1")
    assert table["rounds to test_loss<=1"].tolist() == [1]
    assert table["virtual_seconds to test_loss<=1"].tolist() == [7.5]


def test_the_last_rounds(make_run, tmp_path):
    make_run("a", accuracy=[0.1, 0.2, 0.4, 0.6])
    found = comparison_of(tmp_path, last=2)
    assert found.table["last 2 test_accuracy"].tolist() == [0.5]  # (0.4 + 0.6) / 2
    assert found.sorted_by == "last 2 test_accuracy"
    found = comparison_of(tmp_path, last=4)  # round 0 was not trained
    assert found.table["last 4 test_accuracy"].isna().all()
    assert found.warnings == [f"{tmp_path}/a: fewer than 4 evaluated rounds (--last)"]


# Against a baseline


def test_a_baseline_equals_its_group_in_the_settings_asked_for(make_run, tmp_path):
    # Each of two algorithms has a learning rate of its own; both were run with 4 and 5 rounds.
    lr = "aggregator.server_optimizer.lr"
    for rounds in (4, 5):
        make_run(f"a{rounds}", {"rounds": rounds, lr: 0.1, "model.hidden_size": 8}, accuracy=(0.1, 0.2))
        make_run(f"b{rounds}", {"rounds": rounds, lr: 0.2}, accuracy=(0.1, 0.1 * rounds))
    question = {"baseline": ("model.hidden_size=8",)}
    assert any("no baseline equals it" in note for note in comparison_of(tmp_path, **question).notes)
    found = comparison_of(tmp_path, keys=("rounds", "model.hidden_size"), **question).table
    assert dict(zip(found["run"], found["difference"], strict=True)) == pytest.approx(
        {"b5": 0.5 - 0.2, "b4": 0.4 - 0.2, "a4": 0, "a5": 0}
    )


@pytest.fixture
def study(make_run, tmp_path):
    """Two models with two learning rates and four seeds; the larger model is better by 2, 5, 3 and 6 points."""
    for lr in (0.1, 0.5):
        for seed, more in enumerate((0.02, 0.05, 0.03, 0.06)):
            base = 0.5 + lr + seed / 100
            for size, value in ((8, base), (64, base + more)):
                config = {"seed": seed, "model.hidden_size": size, "aggregator.server_optimizer.lr": lr}
                make_run(f"{size}-{lr}-{seed}", config, accuracy=[0.1, value])
    return tmp_path


def test_paired_differences_to_the_baseline_with_equal_other_settings(study):
    found = comparison_of(study, baseline=("model.hidden_size=8",))
    table = found.table
    assert table["model.hidden_size"].tolist() == [64, 8, 64, 8]
    assert table["aggregator.server_optimizer.lr"].tolist() == [0.5, 0.5, 0.1, 0.1]
    # d = 0.02, 0.05, 0.03, 0.06: mean 0.04, squared deviations 4 + 1 + 1 + 4 = 10 (times 1e-4), variance 10e-4 / 3,
    # standard error sqrt(10e-4 / 3 / 4) = 0.009128709; t(0.975, 3) = 3.182446: 0.04 -+ 0.029051629.
    assert table["difference"].tolist() == pytest.approx([0.04, 0, 0.04, 0])
    assert table["low"].tolist() == pytest.approx([0.010948371, math.nan, 0.010948371, math.nan], nan_ok=True)
    assert table["high"].tolist() == pytest.approx([0.069051629, math.nan, 0.069051629, math.nan], nan_ok=True)
    assert table["pairs"].isna().tolist() == [False, True, False, True]
    assert found.warnings == []


@pytest.mark.parametrize("name", ["8-0.1-2", "{0}/8-0.1-3", "{0}/8-0.1-0/metrics.csv"])
def test_a_baseline_by_name_or_path_is_that_of_all(study, name):
    table = comparison_of(study, baseline=(name.format(study),)).table
    assert table["difference"].tolist() == pytest.approx([0.44, 0.4, 0.04, 0])


def test_settings_that_only_one_group_has_make_it_the_baseline_of_all(study):
    settings = ("model.hidden_size=8", "aggregator.server_optimizer.lr=0.1")
    assert comparison_of(study, baseline=settings).table["difference"].tolist() == pytest.approx([0.44, 0.4, 0.04, 0])


def test_seeds_that_the_baseline_has_not_are_left_out(make_run, tmp_path):
    for seed in (0, 1):
        make_run(f"base{seed}", {"seed": seed}, accuracy=[0.1, 0.5])
    for seed in (1, 2):
        make_run(f"other{seed}", {"seed": seed, "model": None}, accuracy=[0.1, 0.6])
    (tmp_path / "bare.csv").write_text("round,test_accuracy\n0,0.3\n")
    found = comparison_of(tmp_path, tmp_path / "bare.csv", baseline=("base0",))
    assert found.table["pairs"].tolist()[0] == 1
    assert found.table["pairs wanted"].tolist()[0] == 3
    assert found.table["low"].isna().all()
    assert found.notes[-2:] == [
        "no interval for model=null: one seed in common with the baseline model=GRU",
        "no interval for bare.csv: no seed in common with the baseline model=GRU",
    ]
    assert "the groups do not all have the same seeds" in found.notes


def test_what_has_no_interval_is_reported_in_one_sentence(make_run, tmp_path):
    for rounds in range(4, 10):
        make_run(str(rounds), {"rounds": rounds, "seed": rounds})
    note = comparison_of(tmp_path, baseline=("rounds=9",)).notes[-1]
    message = "no interval for rounds=4, rounds=5, rounds=6 and 2 more: no seed in common with the baseline rounds=9"
    assert note == message


def test_a_name_that_several_runs_have(make_run, tmp_path):
    make_run("x/0")
    make_run("y/0", {"rounds": 9})
    with pytest.raises(UserError, match="--baseline 0: several of these runs have this name; give the path of one"):
        comparison_of(tmp_path, baseline=("0",))


def test_a_group_without_its_like_has_no_baseline(make_run, tmp_path):
    make_run("a", {"model.hidden_size": 8, "rounds": 4})
    make_run("b", {"model.hidden_size": 8, "rounds": 5})
    make_run("c", {"model.hidden_size": 64, "rounds": 6})
    found = comparison_of(tmp_path, baseline=("model.hidden_size=8",))
    message = "no difference for rounds=6 model.hidden_size=64: no baseline equals it in all other settings"
    assert message in found.notes


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (("modle.hidden_size=8",), r"no run has the key 'modle.hidden_size' \(did you mean 'model.hidden_size'\?\)"),
        (("model.hidden_size=9",), "no run has this setting; the runs have model.hidden_size=8, model.hidden_size=64$"),
        (("8-0.1",), r"must be the path of one of the runs, or KEY=VALUE \(did you mean '8-0."),
        (("seed=0",), "every run has this setting, so there is nothing to compare with it"),
        (("model=GRU",), "--baseline model=GRU: .* both fit; add another --baseline"),
    ],
)
def test_baselines_that_are_refused(study, make_run, baseline, message):
    make_run("lstm", {"model": {"_target_": "fedsim.models.recurrent.LSTM"}, "aggregator.server_optimizer.lr": 0.1})
    with pytest.raises(UserError, match=message):
        comparison_of(study, baseline=baseline)


# The metric


REGRESSION = "round,clients,train_loss,test_loss,test_rmse\n0,0,,4.0,2.0\n1,4,2.0,1.0,1.0\n"


def test_the_judge_of_the_summary_decides(make_run, judged, tmp_path):
    make_run("a", summary=judged("test_loss", "min"))
    make_run("b", {"rounds": 9}, summary={"status": "done"})  # no judge of its own: follows a
    found = comparison_of(tmp_path)
    assert found.table.loc[0, ["final test_loss", "best test_loss", "best round"]].tolist() == [0.9, 0.9, 3]
    assert (found.mode, found.notes) == ("min", [])


@pytest.mark.parametrize(
    ("text", "metric", "mode"),
    [
        (None, "test_accuracy", "max"),
        (REGRESSION, "test_rmse", "min"),
        ("round,train_loss,test_loss\n0,,1\n", "test_loss", "min"),
    ],
)
def test_without_a_judge(make_run, metrics, tmp_path, text, metric, mode):
    make_run("a", metrics=text or metrics, summary={"status": "stopped", "best": None})
    found = comparison_of(tmp_path)
    assert (found.metric, found.mode) == (metric, mode)


def test_runs_that_disagree_are_compared_by_what_they_share(make_run, judged, tmp_path):
    make_run("a")
    make_run("b", {"rounds": 9}, metrics=REGRESSION, summary=judged("test_rmse", "min"))
    found = comparison_of(tmp_path)
    assert found.table["best test_loss"].tolist() == [0.9, 1.0]
    assert found.notes == [
        "not all runs are judged by the same metric (test_accuracy, test_rmse): "
        "compared by test_loss (min), the first column that all runs share",
        "final values are those of rounds 1 to 3, where the runs ended; --at ROUND compares them in the same round",
    ]


def test_runs_that_share_nothing(make_run, tmp_path):
    make_run("a", metrics="round,test_loss\n0,1\n", summary=None)
    make_run("b", metrics="round,test_accuracy\n0,1\n", summary=None)
    with pytest.raises(UserError, match="share no column"):
        table_of(tmp_path)


def test_a_run_without_the_metric_of_all_others_does_not_end_their_comparison(make_run, tmp_path):
    make_run("a")
    make_run("b", {"rounds": 9}, accuracy=[0.1, 0.3])
    make_run("odd", {"rounds": 7}, metrics="round,clients\n0,1\n", summary={"status": "done"})
    found = comparison_of(tmp_path)
    assert found.table["run"].tolist() == ["a", "b", "odd"]
    assert found.table["final test_accuracy"].tolist()[:2] == [0.6, 0.3]
    assert math.isnan(found.table["final test_accuracy"].iloc[2])
    assert found.notes[0] == (
        "compared by test_accuracy, which not all runs have; they share no column that is better low or high"
    )
    assert f"{tmp_path}/odd: no column test_accuracy" in found.warnings


def test_a_strange_summary_does_not_make_a_score_a_cost(make_run, tmp_path):
    """`test_accuracy` has a best, whatever one run of several says of it."""
    make_run("a")
    make_run("odd", {"rounds": 9}, summary={"status": "done", "cumulative": ["test_accuracy"]})
    assert comparison_of(tmp_path).table["best test_accuracy"].tolist() == [0.7123456] * 2


@pytest.mark.parametrize("metric", ["membership_auc", "staleness"])
def test_costs_put_the_lowest_first(make_run, tmp_path, metric):
    for name, rounds, value in (("high", 1, 9.0), ("low", 2, 3.0), ("middle", 3, 5.0)):
        make_run(name, {"rounds": rounds}, metrics=f"round,test_accuracy,{metric}\n0,0.1,4\n1,0.2,{value}\n")
    found = comparison_of(tmp_path, metric=metric)
    assert found.mode == "min"
    assert found.table["run"].tolist() == ["low", "middle", "high"]
    assert found.table[f"best {metric}"].tolist() == [3, 4, 4]
    assert found.notes == [f"best {metric}: that of 2 of 3 runs is from round 0, before training"]


@pytest.mark.parametrize("metric", ["virtual_seconds", "bytes_up", "bytes_down", "epsilon", "spent"])
def test_columns_that_only_grow_have_a_final_value_and_no_best(make_run, judged, tmp_path, metric):
    summary = judged("test_accuracy", "max", {"spent": "min"}) | {"cumulative": ["spent"]}
    for name, rounds, value in (("high", 1, 9.0), ("low", 2, 3.0), ("middle", 3, 5.0)):
        text = f"round,test_accuracy,{metric}\n0,0.1,0\n1,0.2,{value}\n"
        make_run(name, {"rounds": rounds}, metrics=text, summary=summary)
    found = comparison_of(tmp_path, metric=metric)
    assert found.table["run"].tolist() == ["low", "middle", "high"]
    assert not any("best" in name for name in found.table)
    assert found.notes == [f"{metric} only grows: its final value counts, and there is no best"]
    for options in ({"by": "best"}, {"last": 1}, {"last_rounds": 1}):
        with pytest.raises(UserError, match=f"--.*: {metric} only grows, so only its value at the end, or --at"):
            comparison_of(tmp_path, metric=metric, **options)
    with pytest.raises(UserError, match=f"--target {metric}=4: {metric} only grows, so every run begins below any"):
        comparison_of(tmp_path, target=f"{metric}=4")
    spent = table_of(tmp_path, metric=metric, better="max", target=f"{metric}=4")  # when a budget was used up
    rounds = spent.set_index("run")[f"rounds to {metric}>=4"].to_dict()
    assert rounds == pytest.approx({"high": 1, "middle": 1, "low": math.nan}, nan_ok=True)


def own_column(make_run, summary=None, others=None):
    """Two runs with a column that is none of fedsim's, the first with the lower values of it."""
    for name, rounds, value, said in (("low", 1, 3, summary), ("high", 2, 9, others or summary)):
        make_run(name, {"rounds": rounds}, metrics=f"round,test_accuracy,score\n0,0.1,4\n1,0.2,{value}\n", summary=said)


def first_by_score(tmp_path, **question):
    return table_of(tmp_path, metric="score", **question)["run"].tolist()[0]


@pytest.mark.parametrize("way", ["min", "max"])
def test_a_run_declares_which_way_is_better(make_run, judged, tmp_path, way):
    expected = {"min": "low", "max": "high"}[way]
    own_column(make_run, judged("test_accuracy", "max", {"score": way}), {"status": "done"})
    assert first_by_score(tmp_path) == expected
    sign = {"min": "<=", "max": ">="}[way]
    assert f"rounds to score{sign}5" in table_of(tmp_path, target="score=5")


def test_what_a_run_is_judged_by_goes_before_what_it_declares(make_run, judged, tmp_path):
    own_column(make_run, judged("score", "max", {"score": "min"}))
    assert first_by_score(tmp_path) == "high"


def test_what_a_run_declares_goes_before_the_table_of_columns(make_run, judged, tmp_path):
    make_run("a", summary=judged("test_accuracy", "max", {"test_loss": "max"}))
    assert comparison_of(tmp_path, metric="test_loss").mode == "max"


def test_runs_that_contradict_each_other_follow_the_table_of_columns(make_run, judged, tmp_path):
    make_run("a", summary=judged("test_loss", "max"))
    make_run("b", {"rounds": 9}, summary=judged("test_loss", "min"))
    assert comparison_of(tmp_path).mode == "min"


DIRECTION = "give the direction with --better min or --better max"


@pytest.mark.parametrize(
    ("ways", "why"),
    [
        ((None, None), "nothing says whether lower or higher values are better"),
        (("", ""), "neither lower nor higher values are better"),
        (("min", "max"), "these runs contradict each other on whether lower or higher values are better"),
        (("", "max"), "these runs contradict each other on whether lower or higher values are better"),
    ],
)
def test_a_column_without_one_better_end_is_refused_unless_the_direction_is_given(
    make_run, judged, tmp_path, ways, why
):
    own_column(make_run, *(judged("test_accuracy", "max", {} if way is None else {"score": way}) for way in ways))
    with pytest.raises(UserError, match=re.escape(f"--metric score: {why}; {DIRECTION}")):
        first_by_score(tmp_path)
    direction = "give the direction with --metric score and --better min or --better max"
    with pytest.raises(UserError, match=re.escape(f"--target score=5: {why}; {direction}")):
        table_of(tmp_path, target="score=5")
    assert first_by_score(tmp_path, better="min") == "low"
    assert first_by_score(tmp_path, better="max") == "high"
    assert "rounds to score>=5" in table_of(tmp_path, metric="score", better="max", target="score=5")


def test_neutral_columns_of_fedsim_are_refused(make_run, tmp_path):
    make_run("a")
    with pytest.raises(
        UserError, match=re.escape(f"--metric clients: neither lower nor higher values are better; {DIRECTION}")
    ):
        table_of(tmp_path, metric="clients")


def test_the_direction_that_is_given_goes_before_every_other(make_run, tmp_path):
    make_run("a")  # judged by test_accuracy, max
    found = comparison_of(tmp_path, better="min")
    assert (found.metric, found.mode) == ("test_accuracy", "min")
    # The target is a target of another column, which keeps its own direction.
    assert "rounds to test_loss<=5" in table_of(tmp_path, better="max", target="test_loss=5")


def test_no_shared_column_has_a_better_end(make_run, tmp_path):
    make_run("a", metrics="round,clients,score\n0,0,1\n", summary=None)
    with pytest.raises(
        UserError, match=r"share \(clients, score\) is known .* choose one with --metric and --better min"
    ):
        table_of(tmp_path)


def test_a_metric_by_name(make_run, tmp_path):
    make_run("a")
    make_run("b", {"rounds": 9}, metrics=REGRESSION)
    table = table_of(tmp_path, metric="train_loss")
    assert table.loc[0, ["final train_loss", "best train_loss", "best round"]].tolist() == [1.0, 1.0, 4]
    assert table_of(tmp_path, metric="test_rmse")["best round"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"metric": "test_acuracy"}, "--metric test_acuracy: must be one of .*did you mean 'test_accuracy'"),
        ({"target": "test_accuracy"}, "--target test_accuracy: must be METRIC=NUMBER"),
        ({"target": "test_accuracy=high"}, "must be METRIC=NUMBER"),
        ({"target": "test_accuracy=nan"}, "must be METRIC=NUMBER"),
        ({"target": "test_rmse=1"}, "--target test_rmse: must be one of "),
        ({"last": 0}, "--last 0: must be at least 1"),
        (
            {"by": "finale"},
            r"--by finale: must be one of final, chosen, best, last, at, target \(did you mean 'final'\?\)",
        ),
        ({"by": "last"}, "--by last: needs --last"),
        ({"better": "low"}, r"--better low: must be min \(lower is better\) or max"),
        ({"by": "target"}, "--by target: needs --target"),
        ({"by": "at"}, "--by at: needs --at"),
        ({"at": -1}, "--at -1: must be at least 0"),
        ({"last_rounds": 0}, "--last-rounds 0: must be at least 1"),
        ({"last": 1, "last_rounds": 1}, "--last-rounds: not together with --last"),
        ({"at": 1}, "--at 1: no run has test_accuracy in this round; all have it in 0, 2, 3$"),
    ],
)
def test_questions_that_are_refused(make_run, tmp_path, question, message):
    make_run("a")
    with pytest.raises(UserError, match=message):
        comparison_of(tmp_path, **question)


def test_nothing_to_compare():
    with pytest.raises(UserError, match="no runs"):
        load_runs([])
    with pytest.raises(UserError, match="no runs"):
        compare([])
