"""Which tokens a client has, inferred from its update of the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from fedsim.audits.audit import UpdateAudit
from fedsim.audits.scores import auc
from fedsim.clients.task import LocalTask
from fedsim.core.setting import Setting
from fedsim.data.batches import batch_indices
from fedsim.errors import UserError
from fedsim.metrics import COLUMNS, Column
from fedsim.models.blocks import is_shared

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Tokens(UpdateAudit):
    """Guess that a client has the tokens whose embeddings its update moves most.

    Only tokens in a client's samples have gradients in the embedding (Melis 2019, section 4.1), however many local
    steps are taken; with ``model.tied_embeddings`` all others have some through the softmax. The score of a token is
    the norm of its row of the update, and ``tokens_auc`` the chance that a token that the client trained on scores
    higher than one that it did not: 1 reveals them all, 0.5 reveals nothing. Empty if the client trained on every token
    of the vocabulary.
    """

    columns: ClassVar[tuple[Column, ...]] = (COLUMNS["tokens_auc"],)

    def check_clients(self, setting: Setting) -> None:
        """Refuse data without tokens, and updates without an embedding."""
        if setting.population is not None and setting.population.vocabulary_size is None:
            raise UserError("audit=tokens: these data are numbers, not tokens; take audit=inversion")
        if not is_shared("embedding", setting.blocks):
            raise UserError(f"audit=tokens: aggregator.blocks={setting.blocks} keeps the embedding from the server")

    def inspect(
        self, task: LocalTask, sent: Tensor, clients: Tensor, updates: Tensor, round_number: int
    ) -> dict[str, float]:
        """Return ``tokens_auc``, the mean over the clients."""
        norms = task.arch.layout.views(updates)["embedding.weight"].double().norm(dim=2).cpu().numpy()
        found = []
        for client, scores in zip(clients, norms, strict=True):
            there = np.zeros(len(scores), bool)
            there[trained_tokens(task, client, round_number)] = True
            if not there.all() and np.isfinite(scores).all():
                found.append(auc(scores[there], scores[~there]))
        return {"tokens_auc": float(np.mean(found))} if found else {}


def trained_tokens(task: LocalTask, client: Tensor, round_number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The tokens in the samples that a client (its number, ``[]``) trains on in a round."""
    one, train = client.reshape(1), task.population.train
    plan = batch_indices(train, one, task.steps(one), task.config.batch_size, task.batch_key(round_number))
    used = torch.cat([index[0] for index, _ in plan]).unique()
    inputs, lengths = train.take(used.to(train.inputs.device)).cpu(), train.lengths[used]
    valid = torch.arange(inputs.shape[1]) < lengths[:, None]
    return np.asarray(inputs[valid].unique().numpy())
