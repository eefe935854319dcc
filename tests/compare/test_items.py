"""An accuracy over n predictions changes in steps of 1/n, and what differs by less is not better."""

import json

import pytest

from fedsim.compare import output
from fedsim.compare.best import best_rows
from fedsim.compare.reading import load_runs
from fedsim.compare.table import Question, compare

VALIDATION, TEST = "validation_accuracy", "test_accuracy"


@pytest.fixture
def ask(tmp_path):
    return lambda **question: compare(load_runs([tmp_path])[0], Question(**question))


def test_how_many_stand_behind_it(scored, ask):
    columns = {VALIDATION: [0.1, 0.5], TEST: [0.1, 0.5], "unseen_accuracy": [0.1, 0.5]}
    scored("a", 8, columns, by=VALIDATION, items={"test": 370, "validation": 80, "unseen": 1200})
    notes = output.notes(ask())
    # 1 / 370 = 0.002703, 1 / 80 = 0.0125, 1 / 1200 = 0.000833
    assert f"{TEST} is over 370 test items: one is worth 0.0027" in notes
    assert f"{VALIDATION} is over 80 validation items: one is worth {1 / 80:.2g}" in notes
    assert "unseen_accuracy is over 1,200 items of unseen clients: one is worth 0.00083" in notes


def test_groups_with_other_numbers_are_named(scored, ask):
    scored("a", 8, {TEST: [0.1, 0.5]}, by=TEST, items={"test": 100})
    scored("b", 64, {TEST: [0.1, 0.7]}, by=TEST, items={"test": 400})
    scored("c", 16, {TEST: [0.1, 0.3]}, by=TEST)
    assert (
        f"{TEST} is over 100 to 400 test items (400 for model.hidden_size=64; 100 for model.hidden_size=8): one is "
        "worth 0.0025 to 0.01"
    ) in output.notes(ask())


@pytest.mark.parametrize(
    "items", [None, [370], {"test": "370"}, {"test": 0}, {"test": -3}, {"test": True}, {"test": 1.5}, {"test": 2**60}]
)
def test_numbers_that_are_none_are_not_used(scored, ask, items):
    path = scored("a", 8, {TEST: [0.1, 0.5]}, by=TEST)
    summary = json.loads((path / "summary.json").read_text()) | {"items": items}
    (path / "summary.json").write_text(json.dumps(summary))
    assert not [note for note in output.notes(ask()) if "items" in note]


def test_losses_and_errors_have_no_smallest_step(scored, ask):
    scored("a", 8, {"test_rmse": [9.0, 1.0]}, by="test_rmse", items={"test": 10})
    scored("b", 64, {"test_rmse": [9.0, 1.01]}, by="test_rmse", items={"test": 10})
    found = ask()
    assert best_rows(found) == [True, False]
    assert not [note for note in output.notes(found) if "items" in note]


@pytest.mark.parametrize(("second", "bold"), [(221, True), (222, False)])
def test_one_item_more_is_the_best_row(scored, ask, second, bold):
    """222 of 370 right against 221: one item, though 222/370 - 221/370 is below 1/370 in floats; or against 222."""
    assert 222 / 370 - 221 / 370 < 1 / 370
    scored("a", 8, {TEST: [0.1, 222 / 370]}, by=TEST, items={"test": 370})
    scored("b", 64, {TEST: [0.1, second / 370]}, by=TEST, items={"test": 370})
    assert best_rows(ask()) == [bold, False]


def test_means_over_seeds_within_one_item_are_a_tie(scored, ask):
    """60, 60 and 61 of 100 right, against 60, 60 and 60: means that differ by a third of an item."""
    for size, counts in ((8, (60, 60, 61)), (64, (60, 60, 60))):
        for seed, right in enumerate(counts):
            scored(f"{size}-{seed}", size, {TEST: [0.1, right / 100]}, by=TEST, items={"test": 100}, seed=seed)
    found = ask(baseline=("model.hidden_size=64",))
    assert best_rows(found) == [False, False]
    assert "**" not in output.markdown(found)
    assert "no row is best: the final test_accuracy of the first two differs by less than one test item (0.01)" in (
        output.notes(found)
    )
    assert "less than one test item (0.01) from the baseline, so neither better nor worse: model.hidden_size=8" in (
        found.notes
    )
    row = found.table.set_index("model.hidden_size").loc[8]
    assert row[["better", "worse"]].tolist() == [1, 0]  # one item in the third seed, none in the others
    assert row["difference"] == pytest.approx(0.01 / 3)
    assert not [note for note in output.notes(found) if "the best row" in note]  # there is none


def test_half_an_item_counts_neither_way(scored, ask):
    """Accuracies over 100 and 200 items: 0.605 against 0.6 is one of 200, and half of one of 100."""
    scored("a", 8, {TEST: [0.1, 0.6]}, by=TEST, items={"test": 100})
    scored("b", 64, {TEST: [0.1, 0.605]}, by=TEST, items={"test": 200})
    row = ask(baseline=("a",)).table.set_index("run").loc["b"]
    assert row[["better", "worse"]].tolist() == [0, 0]


def test_a_choice_by_less_than_one_validation_item_is_a_tie(scored, ask):
    """0.600 and 0.605 on 80 validation items are within 1/80 = 0.0125; the test values differ by many of 370."""
    items = {"test": 370, "validation": 80}
    scored("a", 8, {VALIDATION: [0.1, 0.6], TEST: [0.1, 0.5]}, by=VALIDATION, items=items)
    scored("b", 64, {VALIDATION: [0.1, 0.605], TEST: [0.1, 0.9]}, by=VALIDATION, items=items)
    found = ask(baseline=("a",))
    assert best_rows(found) == [False, False]
    assert (
        f"no row is best: the chosen {VALIDATION} of the first two differs by less than one validation item "
        f"({1 / 80:.2g})"
    ) in output.notes(found)
    assert not [note for note in found.notes if "from the baseline" in note]  # 0.4 is more than a test item
    assert found.table.set_index("run").loc["b", ["better", "worse"]].tolist() == [1, 0]


def test_what_only_one_of_two_runs_says_is_used(scored, ask):
    scored("a", 8, {TEST: [0.1, 0.6]}, by=TEST, items={"test": 100})
    scored("b", 64, {TEST: [0.1, 0.605]}, by=TEST)
    assert best_rows(ask()) == [False, False]


def test_rounds_to_a_target_have_no_items(scored, ask):
    scored("a", 8, {TEST: [0.1, 0.6, 0.6]}, by=TEST, items={"test": 2})
    scored("b", 64, {TEST: [0.1, 0.1, 0.6]}, by=TEST, items={"test": 2})
    found = ask(target="test_accuracy=0.5", by="target", baseline=("b",))
    assert best_rows(found) == [True, False]
    assert found.table.set_index("run").loc["a", "better"] == 1
