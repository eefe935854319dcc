"""Runs whose ``metrics.csv`` is not the one that their ``summary.json`` describes."""

import pytest

from fedsim.compare.reading import load_runs
from fedsim.compare.table import Question, compare

ROWS = [[0, 0.1, 0], [1, 0.3, 10], [2, 0.7, 20], [3, 0.6, 30]]
SUMMARY = {
    "status": "done",
    "rounds": 3,
    "final": {"round": 3, "test_accuracy": 0.6, "bytes_up": 30, "test_loss": None},
    "best": {"metric": "test_accuracy", "mode": "max", "value": 0.7, "round": 2},
}


def text_of(rows):
    return "\n".join(["round,test_accuracy,bytes_up", *(",".join(map(str, row)) for row in rows), ""])


def test_files_that_agree(make_run, tmp_path):
    make_run("a", metrics=text_of(ROWS), summary=SUMMARY)
    [run] = load_runs([tmp_path])[0]
    assert (run.status, run.fault) == ("done", "")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (ROWS[:2], "metrics.csv ends with round 1, but summary.json with round 3"),
        (ROWS[:0], "metrics.csv has no rounds, but summary.json with round 3"),
        ([*ROWS, [4, 0.9, 40]], "metrics.csv ends with round 4, but summary.json with round 3"),
        ([ROWS[0], *ROWS[2:]], "metrics.csv has no row of round 1"),
        ([*ROWS[:2], *ROWS[1:]], "metrics.csv has round 1 out of order"),
        ([*ROWS[:3], [3, 0.8, 30]], "metrics.csv has 0.8 for test_accuracy in round 3, but summary.json has 0.6"),
        ([*ROWS[:3], [3, 0.6, 31]], "metrics.csv has 31 for bytes_up in round 3, but summary.json has 30"),
        ([*ROWS[:3], [3, "", 30]], "metrics.csv has nothing for test_accuracy in round 3, but summary.json has 0.6"),
        (
            [*ROWS[:2], [2, 0.5, 20], ROWS[3]],
            "metrics.csv has 0.5 for test_accuracy in round 2, but summary.json has 0.7",
        ),
        (
            [ROWS[0], [1, 0.9, 10], *ROWS[2:]],
            "metrics.csv has 0.9 for test_accuracy in round 1, better than summary.json's best, 0.7",
        ),
    ],
)
def test_files_that_disagree_are_warned_of_and_their_numbers_not_used(make_run, tmp_path, rows, fault):
    make_run("a", metrics=text_of(rows), summary=SUMMARY)
    make_run("b", {"seed": 1}, metrics=text_of(ROWS), summary=SUMMARY)
    runs = load_runs([tmp_path])[0]
    found = compare(runs, Question(at=0, target="test_accuracy=0.3"))
    assert found.warnings[0] == f"{tmp_path}/a: {fault}; its numbers are not used"
    assert f"seed 0: damaged ({fault})" in found.notes
    assert found.table["status"].tolist() == ["1 damaged, 1 done"]
    measures = ("final test_accuracy", "best test_accuracy", "at 0 test_accuracy", "rounds to test_accuracy>=0.3")
    # All are of the undamaged run alone.
    assert found.table[list(measures)].to_numpy().tolist() == [[0.6, 0.7, 0.1, 1]]
    assert found.table[[f"{name} n" for name in measures]].to_numpy().tolist() == [[1, 1, 1, 1]]
    used = compare(runs, Question(partial=True)).warnings[0]
    assert used == f"{tmp_path}/a: {fault}; its numbers are used as they are (--partial)"


def test_numbers_that_are_not_finite_are_null_in_a_summary(make_run, tmp_path):
    final = SUMMARY["final"] | {"test_accuracy": None}
    make_run("a", metrics=text_of([*ROWS[:3], [3, "nan", 30]]), summary=SUMMARY | {"final": final})
    assert load_runs([tmp_path])[0][0].fault == ""


@pytest.mark.parametrize("damage", [{"rounds": "3"}, {"final": [1]}, {"final": {"round": "x"}}, {"rounds": None}])
def test_summaries_of_another_kind_are_not_compared(make_run, tmp_path, damage):
    make_run("a", metrics=text_of(ROWS), summary=SUMMARY | damage)
    assert load_runs([tmp_path])[0][0].fault == ""
