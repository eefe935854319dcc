"""The best round, and when to stop."""

import pytest

from fedsim.core import stopping
from fedsim.core.stopping import Stop
from fedsim.errors import FieldError, UserError
from fedsim.metrics import COLUMNS, Column

RECORDED = tuple(COLUMNS.values())


def follow(stop, values, metric="test_accuracy"):
    """Feed values of rounds 0, 1, ...; return the progress and the round that it stopped at."""
    progress = stopping.start(stop, metric, RECORDED)
    for number, value in enumerate(values):
        progress.update(stop, number, value)
        if progress.reason:
            return progress, number
    return progress, None


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("test_accuracy", "max"),
        ("test_accuracy_p10", "max"),
        ("test_loss", "min"),
        ("train_loss", "min"),
        ("test_rmse", "min"),
        ("test_mae", "min"),
        ("delta_norm", "min"),
        ("client_drift", "min"),
    ],
)
def test_mode_by_the_column(metric, mode):
    assert stopping.start(Stop(), metric, RECORDED).mode == mode
    assert stopping.start(Stop(metric=metric), "other", RECORDED).mode == mode


def test_mode_by_hand():
    assert stopping.start(Stop(mode="max"), "test_loss", RECORDED).mode == "max"


def test_a_column_of_a_users_own_says_which_end_is_better():
    mine = [*RECORDED, Column("surprise", "max")]
    assert stopping.start(Stop(metric="surprise"), "test_accuracy", mine).mode == "max"


def test_a_metric_without_a_better_end_needs_a_mode():
    for metric in ("clip_norm", "malicious"):
        with pytest.raises(UserError, match=f"^stop.metric={metric}: neither end is the better one; set stop.mode to"):
            stopping.start(Stop(metric=metric), "test_accuracy", RECORDED)
        for mode in ("min", "max"):
            assert stopping.start(Stop(metric=metric, mode=mode), "test_accuracy", RECORDED).mode == mode


def test_the_best_round_is_the_first_of_equals():
    progress, stopped = follow(Stop(), [0.1, 0.5, 0.5, 0.3])
    assert (progress.best, progress.best_round, progress.since_best, stopped) == (0.5, 1, 2, None)
    progress, _ = follow(Stop(), [3.0, 1.0, 2.0], "test_loss")
    assert (progress.best, progress.best_round) == (1.0, 1)


def test_target():
    progress, stopped = follow(Stop(target=0.5), [0.1, 0.49, 0.5, 0.9])
    assert stopped == 2
    assert progress.reason == "test_accuracy=0.5 >= target 0.5"
    progress, stopped = follow(Stop(target=0.5), [0.9, 0.6, 0.2], "test_loss")
    assert stopped == 2
    assert progress.reason == "test_loss=0.2 <= target 0.5"


def test_patience():
    """Two evaluations without a new best: after 0.3 (round 1), 0.3 and 0.2 are none."""
    progress, stopped = follow(Stop(patience=2), [0.1, 0.3, 0.3, 0.2, 0.9])
    assert stopped == 3
    assert progress.reason == "no better test_accuracy than 0.3 in 2 evaluations"
    _, stopped = follow(Stop(patience=2), [0.1, 0.3, 0.3, 0.4, 0.4, 0.5])
    assert stopped is None


def test_a_target_reached_without_a_new_best_still_stops():
    _, stopped = follow(Stop(target=0.5, patience=9), [0.4, 0.4, 0.5])
    assert stopped == 2


@pytest.mark.parametrize("values", [{"mode": "up"}, {"patience": 0}, {"target": float("nan")}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(FieldError, match=next(iter(values))):
        Stop(**values)
