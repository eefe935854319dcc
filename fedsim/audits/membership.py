"""Whether the global model reveals what it was trained on: membership inference by the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fedsim.audits.scores import Floats, auc, true_positive_rate
from fedsim.clients.trainer import Trainer
from fedsim.core.facts import Fact, Facts
from fedsim.core.part import Audit, Federation
from fedsim.core.results import Evaluation
from fedsim.core.state import State
from fedsim.data.population import Samples
from fedsim.metrics import COLUMNS, Column

if TYPE_CHECKING:
    from torch import Tensor

RATE, FEWEST = 0.01, 100
"""The false positive rate, and the number of test samples needed for it to allow a single false positive."""


@dataclass(frozen=True)
class Membership(Audit):
    """Guess that the samples of low loss are those trained on (Yeom 2018, section 3.2).

    Every evaluation judges the server's model of that round, so the last row is about the final model. Members are the
    training samples of all clients (not their validation samples), non-members are the test samples; a sample's score
    is its negative loss, for sequences the mean over their steps. ``membership_auc`` is the chance that a member scores
    higher than a non-member; ``membership_tpr`` is the share of members found at a false positive rate of at most 1%
    (Carlini 2022, section III); it is empty with fewer than 100 test samples.

    Round 0 is the control: an untrained model cannot distinguish members, so any deviation from 0.5 and 0.01 there is a
    difference between training and test data. An attack with shadow models (Carlini 2022) finds more. If malicious
    clients poison their samples, the members are the samples as they were before.
    """

    facts: ClassVar[Facts] = frozenset({Fact.JUDGES_MODEL})
    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["membership_auc"], COLUMNS["membership_tpr"])

    def examine(self, federation: Federation, state: State) -> Evaluation:
        """Score all training and test samples, and return the columns that can be computed."""
        population = federation.population
        members, others = (_scores(federation.trainer, state.row, s) for s in (population.train, population.test))
        found = {"membership_auc": auc(members, others)} if len(members) else {}
        if found and len(others) >= FEWEST:
            found["membership_tpr"] = true_positive_rate(members, others, RATE)
        return Evaluation(found)


def _scores(trainer: Trainer, row: Tensor, samples: Samples) -> Floats:
    """Minus the mean loss of each sample that has any targets."""
    sums = trainer.score_samples(row, samples)
    counts = sums.count > 0
    return np.asarray(-(sums.loss[counts] / sums.count[counts]).numpy())
