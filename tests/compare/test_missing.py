"""Seeds without a value: what counts as a failure, what is only missing, and what the table says of both."""

import math

import pytest

from fedsim.compare import output
from fedsim.compare.best import best_rows
from fedsim.compare.reading import load_runs
from fedsim.compare.table import Question, compare
from fedsim.errors import UserError

DIVERGED, STOPPED = {"status": "diverged"}, {"status": "stopped"}
T1 = 12.706204736  # the 0.975 quantile of Student's t with 1 degree of freedom: tan(0.475 pi)


@pytest.fixture
def runs(make_run, tmp_path):
    """Return ``runs(size, [accuracies, ...], [summary, ...])``, which makes a run per seed."""

    def make(size, curves, summaries=()):
        for seed, accuracy in enumerate(curves):
            summary = dict(enumerate(summaries)).get(seed, {"status": "done"})
            config = {"seed": seed, "model.hidden_size": size}
            make_run(f"{size}-{seed}", config, accuracy=accuracy, summary=summary)

    return make


@pytest.fixture
def ask(tmp_path):
    """Return ``ask(**question)``: the comparison of all runs with those of 8 units."""
    return lambda **question: compare(
        load_runs([tmp_path])[0], Question(**{"baseline": ("model.hidden_size=8",)} | question)
    )


def row_of(comparison, size):
    return comparison.table.set_index("model.hidden_size").loc[size]


def cell(comparison, size, header):
    shown = {column.header: column.cells for column in output.columns(comparison)}
    return shown[header][shown["model.hidden_size"].index(str(size))]


# Runs that diverged


@pytest.fixture
def diverging(runs):
    """A baseline of 0.5 for all seeds; 64 units are better by 0.1 and 0.2, and diverge with the third seed."""
    runs(8, [[0.1, 0.5]] * 3)
    runs(64, [[0.1, 0.6], [0.1, 0.7], [0.1, 0.9]], [{"status": "done"}, {"status": "done"}, DIVERGED])


def test_a_seed_that_diverged_counts_as_worse_than_any_value(diverging, ask):
    found = ask()
    row = row_of(found, 64)
    # Differences 0.1, 0.2 and worse than any: no mean, and a median of 0.1.
    assert row[["difference", "low", "high", "p"]].isna().all()
    assert row["difference median"] == pytest.approx(0.1)
    assert row[["pairs", "pairs wanted", "better", "worse"]].tolist() == [2, 3, 2, 1]
    # Of 0.6, 0.7 and worse than any, the median is 0.6.
    assert math.isnan(row["final test_accuracy"])
    assert row["final test_accuracy median"] == 0.6
    assert row["final test_accuracy n"] == 2
    assert cell(found, 64, "final test_accuracy") == "median 0.6000 (2 of 3)"
    assert cell(found, 64, "final test_accuracy vs baseline") == "median +0.1000 (2 of 3 seeds)"


def test_a_group_with_failures_is_neither_first_nor_bold(diverging, ask):
    for partial in (False, True):
        found = ask(partial=partial)
        assert found.table["model.hidden_size"].tolist() == [8, 64]
        assert best_rows(found) == [True, False]


def test_partial_results_are_given_if_asked_for_and_say_so(diverging, ask):
    found = ask(partial=True)
    row = row_of(found, 64)
    # 0.1 and 0.2: mean 0.15, standard deviation 0.1 / sqrt(2), error 0.05.
    assert row[["difference", "low", "high"]].tolist() == pytest.approx([0.15, 0.15 - 0.05 * T1, 0.15 + 0.05 * T1])
    assert cell(found, 64, "final test_accuracy") == "0.6500 ± 0.0707 (2 of 3)"
    assert cell(found, 64, "final test_accuracy vs baseline") == "+0.1500 (-0.4853, +0.7853) (2 of 3 seeds)"
    notes = output.notes(found)
    assert any(note.startswith("partial results, as asked for") for note in notes)
    assert any("which flatters" in note for note in notes)


@pytest.mark.parametrize("form", [output.markdown, output.latex])
def test_tables_for_papers_say_what_the_terminal_says(diverging, ask, form):
    found = ask()
    text = form(found).replace("\\", "")
    for fact in (
        "model.hidden_size=64, seed 2: diverged after round 1",
        "groups with seeds that failed come after those without",
        "best: a diverged run's is from before it diverged",
        "(k of n seeds): in the others, the run or its baseline has no value; so there is no interval",
        "1 diverged",
        "(2 of 3 seeds)",
    ):
        assert fact in text, fact


def test_a_baseline_that_diverged(runs, ask):
    runs(8, [[0.1, 0.5]] * 3, [DIVERGED, DIVERGED])
    runs(64, [[0.1, 0.6], [0.1, 0.7], [0.1, 0.4]], [{"status": "done"}, DIVERGED])
    row = row_of(ask(), 64)
    # Better than a failure; both failed, which says nothing; -0.1. The median is -0.1 or infinite.
    assert math.isnan(row["difference median"])
    assert row[["pairs", "pairs wanted", "better", "worse"]].tolist() == [1, 3, 1, 1]


def test_single_runs_that_diverged(runs, ask):
    runs(8, [[0.1, 0.5]])
    runs(64, [[0.1, 0.6]], [DIVERGED])
    found = ask(baseline=())
    assert cell(found, 64, "final test_accuracy") == "diverged"
    assert "model.hidden_size=64: diverged after round 1" in found.notes


def test_many_reasons_are_cut_short(runs, ask):
    for size in range(1, 16):
        runs(size, [[0.1, 0.5]], [DIVERGED])
    said = [note for note in ask(baseline=()).notes if "diverged after" in note or "more like these" in note]
    assert len(said) == 13
    assert said[-1] == "and 3 more like these (see the columns n of --csv)"


# Targets that were not reached


def test_a_target_never_reached_is_later_than_any_that_was(runs, ask):
    runs(8, [[0.1, 0.5, 0.5, 0.5]] * 3)
    runs(64, [[0.1, 0.2, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
    found = ask(target="test_accuracy=0.5", by="target")
    row = row_of(found, 64)
    assert row[["pairs", "pairs wanted", "better", "worse"]].tolist() == [1, 3, 0, 3]  # 2 - 1, never, never
    assert math.isnan(row["difference"])
    assert cell(found, 64, "reached") == "1/3"
    assert cell(found, 64, "rounds to test_accuracy>=0.5") == "median > 3"  # of 2, never, never
    assert cell(found, 64, "rounds to test_accuracy>=0.5 vs baseline") == "worse (1 of 3 seeds)"


def test_two_groups_that_both_fail_are_ranked_by_their_medians(runs, ask):
    never = [0.1, 0.2, 0.3, 0.4]
    runs(8, [[0.1, 0.2, 0.5, 0.5], [0.1, 0.2, 0.5, 0.5], never])
    runs(16, [[0.1, 0.5, 0.5, 0.5], [0.1, 0.5, 0.5, 0.5], never])
    runs(32, [never] * 3)
    runs(64, [[0.1, 0.2, 0.3, 0.5]] * 3)
    found = ask(target="test_accuracy=0.5", by="target")
    assert found.table["model.hidden_size"].tolist() == [64, 16, 8, 32]  # the only one without failures comes first
    # Differences -1, -1 and both never, wherever that stands: a median of -1.
    assert cell(found, 16, "rounds to test_accuracy>=0.5 vs baseline").startswith("median -1")


def test_a_run_that_ended_earlier_might_have_reached_the_target_yet(runs, ask):
    runs(8, [[0.1, 0.2, 0.3, 0.5]] * 2)
    runs(16, [[0.1, 0.2]] * 2)
    runs(64, [[0.1, 0.2]] * 2, [STOPPED] * 2)
    found = ask(target="test_accuracy=0.5", by="target")
    assert row_of(found, 16)[["better", "worse"]].tolist() == [0, 0]  # not in 1 round, where the baseline took 3
    assert row_of(found, 64)[["better", "worse"]].tolist() == [0, 2]  # its own rule ended it
    assert cell(found, 16, "rounds to test_accuracy>=0.5") == "> 1"
    assert cell(found, 64, "rounds to test_accuracy>=0.5") == "never"


def test_an_unfinished_run_may_yet_reach_the_target(runs, ask):
    runs(8, [[0.1, 0.5]] * 3)
    runs(64, [[0.1, 0.5], [0.1, 0.4], [0.1, 0.4]], [{"status": "done"}, None, {"status": "done"}])
    found = ask(target="test_accuracy=0.5")
    assert cell(found, 64, "reached") == "1/3 (1 unknown)"
    assert "model.hidden_size=64, seed 1: incomplete after round 1" in found.notes


def test_a_target_that_is_reached_before_training(runs, ask):
    runs(8, [[0.1, 0.5], [0.5, 0.6]])
    assert (
        "test_accuracy>=0.5: 1 of 2 runs are there in round 0, before training"
        in ask(baseline=(), target="test_accuracy=0.5").notes
    )


# Values that are only missing


def test_an_unfinished_run_has_no_final_value(runs, ask):
    runs(8, [[0.1, 0.5]] * 3)
    runs(64, [[0.1, 0.6], [0.1, 0.7], [0.1, 0.2]], [{"status": "done"}, {"status": "done"}, {"status": "interrupted"}])
    found = ask()
    row = row_of(found, 64)
    assert row["final test_accuracy"] == pytest.approx(0.65)
    assert row["difference"] == pytest.approx(0.15)
    assert row[["final test_accuracy std", "low", "high", "p"]].isna().all()
    assert cell(found, 64, "final test_accuracy") == "0.6500 (2 of 3)"
    assert cell(found, 64, "final test_accuracy vs baseline") == "+0.1500 (2 of 3 seeds)"
    assert best_rows(found) == [False, False]  # the first is a mean of two seeds
    # With its last value, differences are 0.1, 0.2 and -0.3: mean 0, a complete one.
    row = row_of(ask(partial=True), 64)
    assert row["difference"] == pytest.approx(0)
    assert row["pairs"] == 3


def test_a_number_that_is_not_one(make_run, ask):
    for size, last in ((8, "0.5"), (64, "nan")):
        text = f"round,test_accuracy\n0,0.1\n1,{last}\n"
        make_run(str(size), {"model.hidden_size": size}, metrics=text)
    found = ask()
    assert found.table["model.hidden_size"].tolist() == [8, 64]
    assert "model.hidden_size=64: nan in round 1" in found.notes
    assert cell(found, 64, "final test_accuracy") == "-"


def test_a_column_that_a_run_does_not_have(make_run, ask):
    make_run("a", {"model.hidden_size": 8}, accuracy=[0.1, 0.5])
    make_run("b", {"model.hidden_size": 64}, metrics="round,test_loss\n0,2\n1,1\n")
    found = ask(metric="test_accuracy", target="test_accuracy=0.5")
    assert "model.hidden_size=64: no column test_accuracy" in found.notes
    assert cell(found, 64, "reached") == "0/1 (1 unknown)"


def test_groups_of_other_seeds(make_run, ask):
    for size, seeds in ((8, (0, 1, 2)), (64, (1, 2, 3))):
        for seed in seeds:
            make_run(f"{size}-{seed}", {"seed": seed, "model.hidden_size": size}, accuracy=[0.1, 0.5 + size / 1000])
    found = ask()
    assert "the groups do not all have the same seeds" in found.notes
    assert cell(found, 64, "final test_accuracy vs baseline") == "+0.0560 (2 of 4 seeds)"  # 0.064 - 0.008


# Runs of other length


def test_the_value_in_one_round(runs, ask, tmp_path):
    runs(8, [[0.1, 0.2, 0.5, 0.6], [0.1, 0.3, 0.5], [0.1, 0.4]], [{"status": "done"}, None, {"status": "done"}])
    runs(64, [[0.1, 0.4, 0.9], [0.1, 0.9], [0.1, 0.6, 0.8]], [{"status": "done"}, DIVERGED, DIVERGED])
    found = ask(at=2)
    assert found.sorted_by == "at 2 test_accuracy"
    # 0.5, 0.5 (of a run that goes on), and none: 64 has 0.9, a failure, and 0.8 from before one.
    assert cell(found, 8, "at 2 test_accuracy") == "0.5000 (2 of 3)"
    assert cell(found, 64, "at 2 test_accuracy") == "median 0.8000 (2 of 3)"
    assert f"{tmp_path}/8-2: no round 2 (--at)" in found.warnings
    assert cell(found, 64, "at 2 test_accuracy vs baseline") == "- (1 of 3 seeds)"  # 0.4, worse, not known


def test_a_round_in_which_a_run_was_not_evaluated(make_run, ask, tmp_path):
    make_run("a", {"model.hidden_size": 8}, accuracy=[0.1, 0.2, 0.3])
    make_run("b", {"model.hidden_size": 64})  # evaluated in rounds 0, 2 and 3
    found = ask(at=1)
    assert found.warnings == [f"{tmp_path}/b: not evaluated in round 1 (--at)"]
    assert cell(found, 64, "at 1 test_accuracy") == "-"
    with pytest.raises(UserError, match=r"--at 9: no run has test_accuracy in this round; all have it in 0, 2$"):
        ask(at=9)


def test_the_last_rounds_and_the_last_evaluations(make_run, ask, tmp_path):
    make_run("a")  # evaluated in rounds 0, 2 and 3 of 4: 0.7123456 and 0.6
    for rounds, expected in ((1, math.nan), (2, 0.6), (3, (0.7123456 + 0.6) / 2), (4, (0.7123456 + 0.6) / 2)):
        found = ask(baseline=(), last_rounds=rounds)
        name = f"last {rounds} rounds test_accuracy"
        assert found.table[name].tolist() == pytest.approx([expected], nan_ok=True)
        assert found.sorted_by == name
    for rounds, why in ((1, "not evaluated in its last 1 rounds"), (5, "fewer than 5 rounds")):
        assert ask(baseline=(), last_rounds=rounds).warnings == [f"{tmp_path}/a: {why} (--last-rounds)"]


def test_runs_of_other_length_are_pointed_out(runs, ask):
    runs(8, [[0.1, 0.2], [0.1, 0.2, 0.3, 0.4]])
    runs(64, [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    found = ask()
    assert any(note.startswith("final values are those of rounds 1 to 3,") for note in found.notes)
    assert not any(note.startswith("all runs are done after") for note in output.notes(found))  # 2 is only the mean
    assert (cell(found, 8, "rounds"), cell(found, 64, "rounds")) == ("1 to 3", "2")


def test_runs_that_were_evaluated_in_other_rounds_are_pointed_out(make_run, ask):
    text = "not all runs were evaluated in the same rounds"
    make_run("a", {"model.hidden_size": 8}, accuracy=[0.1, 0.2, 0.3, 0.4, 0.5])
    make_run("b", {"model.hidden_size": 16}, accuracy=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert not any(note.startswith(text) for note in ask().notes)
    make_run("c", {"model.hidden_size": 64})
    assert any(note.startswith(text) for note in ask().notes)


# Several comparisons


def test_several_comparisons_have_corrected_p_values(runs, ask):
    runs(8, [[0.1, 0.5]] * 3)
    runs(16, [[0.1, 0.5 + more] for more in (0.01, 0.02, 0.03)])
    alone = ask()
    assert "p (Holm)" not in [column.header for column in output.columns(alone)]
    runs(64, [[0.1, 0.5 + more] for more in (0.09, 0.10, 0.11)])
    found = ask()
    # t = mean / (0.01 / sqrt(3)) = 2 sqrt(3) and 10 sqrt(3); with 2 degrees of freedom, p = 1 - t / sqrt(2 + t^2).
    p16, p64 = (1 - t / math.sqrt(2 + t * t) for t in (2 * math.sqrt(3), 10 * math.sqrt(3)))
    assert row_of(alone, 16)["p"] == pytest.approx(p16)
    assert row_of(found, 64)["p"] == pytest.approx(2 * p64)
    assert row_of(found, 16)["p"] == pytest.approx(p16)  # the larger of the two, times 1
    assert cell(found, 16, "p (Holm)") == "0.074"
    assert cell(found, 8, "p (Holm)") == "-"
    assert "p (Holm): of the paired t tests, corrected for the 2 in this table by Holm's method" in found.notes
    assert any("not corrected for the number of intervals" in note for note in found.notes)
