"""The columns of ``metrics.csv``: which way is better, and whether rounds or evaluations fill them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Column(NamedTuple):
    """One column of ``metrics.csv``.

    "Better" is meant for whoever runs the federation: an audit that finds out less, or an attack that achieves less, is
    the better result.

    Attributes:
        name: as in the header.
        better: ``min`` where lower values are better, ``max`` where higher ones are, empty where neither is.
        evaluated: whether evaluations fill the column in, rather than every round.
        cumulative: whether it counts from the beginning of the run and only grows. Then its last value is what counts:
            the least of all rounds is that of round 0.
        grouped: whether it judges by the clients' true groups; only runs on data that know them have the column.
    """

    name: str
    better: str
    evaluated: bool = False
    cumulative: bool = False
    grouped: bool = False


def _columns(better: str, names: str, evaluated: bool = False, cumulative: bool = False) -> tuple[Column, ...]:
    return tuple(Column(name, better, evaluated, cumulative) for name in names.split())


_SCORES = (
    *_columns(
        "min", "loss rmse mae rmse_p90 rmse_std accuracy_std nasa_score loss_se rmse_se accuracy_se", evaluated=True
    ),
    *_columns("min", "mape smape mase pinball", evaluated=True),
    *_columns("min", "perplexity", evaluated=True),
    *_columns("max", "accuracy accuracy_p10", evaluated=True),
    *_columns("max", "accuracy_no_oov accuracy_no_oov_no_eos recall_at_3", evaluated=True),
    *_columns("", "coverage", evaluated=True),
)
_ALL = (
    *_columns("", "round clients malicious rejected clip_norm"),
    *_columns("min", "train_loss local_validation_loss delta_norm client_drift"),
    *_columns("min", "bytes_down bytes_up epsilon virtual_seconds", cumulative=True),
    *_columns("", "participations_max", cumulative=True),
    *_columns("min", "delta clipped_values aborted dropped staleness staleness_max"),
    *_columns("min", "inversion_correlation tokens_auc"),
    *_columns("max", "inversion_error"),
    *_columns("min", "attack_success membership_auc membership_tpr", evaluated=True),
    *(
        column._replace(name=f"{prefix}_{column.name}")
        for prefix in ("test", "validation", "unseen", "personal", "validation_personal", "unseen_personal")
        for column in _SCORES
    ),
)
COLUMNS: Mapping[str, Column] = {column.name: column for column in _ALL}
"""The columns of fedsim's own parts, by name. A run records those of other parts in its ``summary.json``."""
