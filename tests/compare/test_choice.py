"""Rounds and rows that are chosen on validation data are reported on test data, and what test data chose is said."""

import json
import math

import pytest

from fedsim.compare import output
from fedsim.compare.best import best_rows
from fedsim.compare.reading import load_runs
from fedsim.compare.table import Question, compare
from fedsim.errors import UserError

VALIDATION, TEST, UNSEEN = "validation_accuracy", "test_accuracy", "unseen_accuracy"
CHOSEN = f"chosen {TEST}"


@pytest.fixture
def ask(tmp_path):
    return lambda **question: compare(load_runs([tmp_path])[0], Question(**question))


@pytest.fixture
def two(scored):
    """Validation data prefer 8 units after round 1, test data 64 units after round 1.

    8 units: chosen in round 1 by 0.6, which is 0.4 on test data. 64 units: chosen in round 2 by 0.55, which is 0.6.
    """
    scored("small", 8, {VALIDATION: [0.1, 0.6, 0.5], TEST: [0.1, 0.4, 0.7]}, by=VALIDATION)
    scored("large", 64, {VALIDATION: [0.1, 0.5, 0.55], TEST: [0.1, 0.9, 0.6]}, by=VALIDATION)


def shown(comparison):
    return {column.header: column.cells for column in output.columns(comparison)}


def optimistic(comparison):
    return [note for note in output.notes(comparison) if "optimistic" in note]


def test_rows_are_sorted_by_validation_and_differ_in_the_test_value_of_the_chosen_round(two, ask):
    found = ask(baseline=("model.hidden_size=8",))
    table = found.table.set_index("run")
    assert found.metric == TEST
    assert list(table.index) == ["small", "large"]  # 0.6 and 0.55 on validation data, whatever test data say
    assert table[f"chosen {VALIDATION}"].tolist() == [0.6, 0.55]
    assert table[CHOSEN].tolist() == [0.4, 0.6]
    assert table["chosen round"].tolist() == [1, 2]
    assert table[f"final {TEST}"].tolist() == [0.7, 0.6]
    assert table["difference"].tolist() == pytest.approx([0, 0.6 - 0.4])
    assert best_rows(found) == [True, False]
    header = [column.header for column in output.columns(found)]
    assert header[2:] == [f"final {TEST}", CHOSEN, f"chosen {VALIDATION}", "chosen round", f"{CHOSEN} vs baseline"]
    notes = output.notes(found)
    assert notes[:2] == [
        f"{TEST}; sorted by: chosen {VALIDATION}",
        f"chosen on {VALIDATION} (rounds 1 to 2), reported on {TEST}: a run's chosen round is the one with the best "
        f"{VALIDATION}",
    ]
    assert f"difference: mean over seeds of {CHOSEN} minus the baseline's" in " ".join(notes)
    assert not optimistic(found)


def test_the_best_on_test_data_is_not_shown_next_to_it_but_is_in_the_csv(two, ask):
    found = ask()
    assert not {f"best {TEST}", "best round"} & set(shown(found))
    assert found.table.set_index("run")[f"best {TEST}"].to_dict() == {"small": 0.7, "large": 0.9}


def test_asked_for_the_test_data_choose_and_it_says_so(two, ask):
    by_final, by_best = ask(by="final"), ask(by="best", baseline=("small",))
    assert by_final.table["run"].tolist() == ["small", "large"]
    assert optimistic(by_final) == [
        f"the best row is chosen on test data: optimistic (--by chosen goes by {VALIDATION})"
    ]
    assert by_best.table["run"].tolist() == ["large", "small"]
    assert by_best.table["difference"].tolist() == pytest.approx([0.2, 0])
    assert shown(by_best)[f"best {TEST}"] == ["0.9000", "0.7000"]
    assert optimistic(by_best) == [
        f"best rounds and the best row are chosen on test data: optimistic (--by chosen goes by {VALIDATION})"
    ]


def test_other_values_are_shown_and_do_not_choose(two, ask):
    found = ask(last=1, at=1)
    assert found.sorted_by == f"chosen {VALIDATION}"
    assert found.table[f"at 1 {TEST}"].tolist() == [0.4, 0.9]
    assert ask(at=1, by="at").table["run"].tolist() == ["large", "small"]


def test_another_metric_in_the_chosen_round(scored, ask):
    """The round with the best validation accuracy, 1, has a loss of 3; the lowest loss is that of round 2."""
    scored("a", 8, {VALIDATION: [0.1, 0.6, 0.5], TEST: [0.1, 0.4, 0.7], "test_loss": [9, 3, 2]}, by=VALIDATION)
    found = ask(metric="test_loss")
    assert found.table["chosen test_loss"].tolist() == [3]
    assert f"chosen on {VALIDATION} (round 1), reported on test_loss" in output.notes(found)[1]


def test_seeds_are_averaged(scored, ask):
    """Chosen in rounds 1 and 2 by 0.6 and 0.8; 0.4 and 0.5 on test data: means 0.7 and 0.45, spread 0.1 / sqrt(2)."""
    scored("a", 8, {VALIDATION: [0.1, 0.6, 0.5], TEST: [0.1, 0.4, 0.7]}, by=VALIDATION, seed=0)
    scored("b", 8, {VALIDATION: [0.1, 0.6, 0.8], TEST: [0.1, 0.9, 0.5]}, by=VALIDATION, seed=1)
    row = ask().table.iloc[0]
    assert row[[f"chosen {VALIDATION}", CHOSEN, f"{CHOSEN} std"]].tolist() == pytest.approx([0.7, 0.45, 0.05 * 2**0.5])


def test_errors_are_chosen_by_their_lowest(scored, ask):
    columns = {"validation_rmse": [9.0, 3.0, 4.0], "test_rmse": [9.0, 5.0, 2.0], "unseen_rmse": [9.0, 7.5, 2.5]}
    scored("a", 8, columns, by="validation_rmse")
    scored("b", 64, columns | {"validation_rmse": [9.0, 4.0, 3.5]}, by="validation_rmse")
    found = ask()
    assert (found.metric, found.mode) == ("test_rmse", "min")
    assert found.table[["run", "chosen test_rmse"]].values.tolist() == [["a", 5.0], ["b", 2.0]]  # 3.0 before 3.5
    assert found.table["gap to unseen"].tolist() == [2.5, 0.5]  # 7.5 - 5 and 2.5 - 2: unseen clients are worse


def test_the_first_of_equal_rounds_is_chosen_and_that_is_said(scored, ask):
    scored("a", 8, {VALIDATION: [0.1, 0.6, 0.6], TEST: [0.1, 0.4, 0.7]}, by=VALIDATION)
    scored("b", 64, {VALIDATION: [0.1, 0.5, 0.4], TEST: [0.1, 0.4, 0.7]}, by=VALIDATION)
    found = ask()
    assert found.table["chosen round"].tolist() == [1, 1]
    assert output.notes(found)[1].endswith("; in 1 of 2 runs several rounds have it, and the first is chosen")


def test_a_diverged_and_an_unfinished_run(scored, ask):
    columns = {VALIDATION: [0.1, 0.6, 0.5], TEST: [0.1, 0.4, 0.7]}
    scored("a", 8, columns, by=VALIDATION, status="diverged")
    scored("b", 64, columns, by=VALIDATION, status="running")
    found = ask()
    table = found.table.set_index("run")
    assert table.loc["a", CHOSEN] == 0.4
    assert "chosen: a diverged run's is from before it diverged" in found.notes
    assert math.isnan(table.loc["b", CHOSEN])
    assert ask(partial=True).table.set_index("run").loc["b", CHOSEN] == 0.4


def test_round_0_may_be_the_chosen_one(scored, ask):
    scored("a", 8, {VALIDATION: [0.7, 0.6], TEST: [0.5, 0.4]}, by=VALIDATION)
    assert f"{CHOSEN}: that of 1 of 1 runs is from round 0, before training" in ask().notes


def test_a_test_value_that_is_missing_in_the_chosen_round(scored, ask):
    scored("a", 8, {VALIDATION: [0.1, 0.6], TEST: [0.1, ""]}, by=VALIDATION)
    found = ask()
    assert math.isnan(found.table.loc[0, CHOSEN])
    assert any(f"no {TEST} in the chosen round 1" in text for text in found.warnings)


# Nothing was held back


def test_what_is_chosen_on_test_data_is_said_once(make_run, ask):
    make_run("a", accuracy=[0.1, 0.5])
    one = ask()
    assert optimistic(one) == [
        "best rounds are chosen on test data: optimistic (eval.validation_fraction=0.2 holds data back for that)"
    ]
    make_run("b", {"rounds": 9}, accuracy=[0.1, 0.4])
    assert optimistic(ask()) == [
        "best rounds and the best row are chosen on test data: optimistic (eval.validation_fraction=0.2 holds data "
        "back for that)"
    ]
    assert output.markdown(ask()).count("optimistic") == output.latex(ask()).count("optimistic") == 1


@pytest.mark.parametrize("metric", ["bytes_up", "train_loss"])
def test_what_is_not_of_test_data_is_not_optimistic_about_them(make_run, ask, metric):
    make_run("a")
    make_run("b", {"rounds": 9})
    assert not optimistic(ask(metric=metric))


def test_an_old_run_that_is_judged_by_its_clients_validation_reads_as_before(make_run, judged, ask):
    metrics = "round,validation_loss,test_loss\n0,2,2\n1,1,3\n"
    make_run("a", metrics=metrics, summary=judged("validation_loss", "min"))
    found = ask()
    assert found.choice is None
    assert found.table[["final validation_loss", "best validation_loss", "best round"]].values.tolist() == [[1, 1, 1]]
    assert not optimistic(found)
    with pytest.raises(UserError, match=r"--by chosen: no run chose its round on validation data \(eval.validation"):
        ask(by="chosen")


def test_only_some_runs_held_data_back(scored, ask):
    columns = {VALIDATION: [0.1, 0.6, 0.5], TEST: [0.1, 0.4, 0.7]}
    scored("a", 8, columns, by=VALIDATION)
    scored("b", 64, {TEST: [0.1, 0.9, 0.6]}, by=TEST)
    found = ask()
    assert found.table["run"].tolist() == ["a", "b"]  # 0.7 and 0.6 at the end
    assert "only 1 of 2 runs chose their rounds on validation data" in found.notes
    assert len(optimistic(found)) == 1
    with pytest.raises(UserError, match="--by chosen: only 1 of 2 runs chose their rounds on validation data"):
        ask(by="chosen")


def test_runs_that_chose_by_different_metrics(scored, ask):
    columns = {VALIDATION: [0.1, 0.6], "validation_loss": [2, 1], TEST: [0.1, 0.4], "test_loss": [2, 1]}
    scored("a", 8, columns, by=VALIDATION)
    scored("b", 64, columns, by="validation_loss")
    different = rf"the runs chose their rounds by different metrics \({VALIDATION}, validation_loss\)"
    assert ask().choice is None
    with pytest.raises(UserError, match=f"--by chosen: {different}"):
        ask(by="chosen")


@pytest.mark.parametrize("metric", [VALIDATION, "train_loss"])
def test_a_chosen_round_is_reported_on_test_data(scored, ask, metric):
    scored("a", 8, {VALIDATION: [0.1, 0.6], TEST: [0.1, 0.4], "train_loss": [2, 1]}, by=VALIDATION)
    assert ask(metric=metric, better="max").sorted_by == f"final {metric}"
    message = f"--by chosen: a chosen round is reported by what is measured on test data, and {metric} is not"
    with pytest.raises(UserError, match=message):
        ask(metric=metric, better="max", by="chosen")


def test_scores_of_the_best_round_that_are_not_those_of_the_file(scored, ask, tmp_path):
    path = scored("a", 8, {VALIDATION: [0.1, 0.6], TEST: [0.1, 0.4]}, by=VALIDATION)
    summary = json.loads((path / "summary.json").read_text())
    summary["best"]["test"][TEST] = 0.9
    (path / "summary.json").write_text(json.dumps(summary))
    (run,) = load_runs([tmp_path])[0]
    assert run.fault == f"metrics.csv has 0.4 for {TEST} in round 1, but summary.json has 0.9"


# Clients that never train


def test_the_gap_is_positive_where_unseen_clients_are_worse(scored, ask):
    """Round 1 is chosen: 0.4 - 0.3 and 0.5 - 0.35, a mean of 0.125 and a spread of 0.05 / sqrt(2)."""
    for seed, (test, unseen) in enumerate([(0.4, 0.3), (0.5, 0.35)]):
        columns = {VALIDATION: [0.1, 0.6, 0.5], TEST: [0.1, test, 0.9], UNSEEN: [0.1, unseen, 0.2]}
        scored(f"a{seed}", 8, columns, by=VALIDATION, seed=seed)
    found = ask()
    row = found.table.iloc[0]
    assert row[[f"chosen {UNSEEN}", "gap to unseen", "gap to unseen std"]].tolist() == pytest.approx(
        [0.325, 0.125, 0.05 / 2**0.5]
    )
    assert f"gap to unseen: {TEST} minus {UNSEEN}; clients that never train fare worse by it if it is positive" in (
        found.notes
    )


def test_the_gap_of_final_values_where_nothing_was_chosen(scored, ask):
    """Only 64 units have unseen clients: 0.6 - 0.7, which are better. The other row has no value and no complaint."""
    scored("a", 8, {TEST: [0.1, 0.9, 0.7]}, by=TEST)
    scored("b", 64, {TEST: [0.1, 0.9, 0.6], UNSEEN: [0.1, 0.2, 0.7]}, by=TEST)
    found = ask()
    cells = shown(found)
    assert cells["run"] == ["a", "b"]
    assert cells[f"final {UNSEEN}"] == ["-", "0.7000"]
    assert cells["gap to unseen"] == ["-", "-0.1000"]
    assert found.warnings == []


def test_personal_scores_have_unseen_ones_of_their_own(scored, ask):
    columns = {TEST: [0.1, 0.4], "personal_accuracy": [0.2, 0.8], "unseen_personal_accuracy": [0.2, 0.5]}
    scored("a", 8, columns, by=TEST)
    table = ask(metric="personal_accuracy").table
    assert table["gap to unseen"].tolist() == pytest.approx([0.3])
    assert "gap to unseen" not in ask().table  # there is no unseen_accuracy


def test_a_diverged_run_has_no_gap(scored, ask):
    scored("a", 8, {TEST: [0.1, 0.9], UNSEEN: [0.1, 0.2]}, by=TEST, status="diverged")
    assert shown(ask())["gap to unseen"] == ["diverged"]


def test_a_sample_of_the_clients_has_a_standard_error(scored, ask):
    scored("a", 8, {TEST: [0.1, 0.9], f"{TEST}_se": [0.1, 0.0234]}, by=TEST)
    assert f"{TEST} is of a sample of the clients (eval.clients): its last standard error is 0.023" in ask().notes
