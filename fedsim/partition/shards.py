"""The pathological label skew of the first paper on federated averaging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.data.dataset import Assignment, Dataset
from fedsim.errors import UserError, check_at_least
from fedsim.partition.common import (
    check_labels,
    deal_in_order,
    deal_test_like_train,
    even_sizes,
    made_clients,
    made_names,
)
from fedsim.seeding import generator


@dataclass(frozen=True)
class Shards:
    """Sort the training samples by label, cut them into equal shards, and give each client a few at random.

    McMahan et al. 2017, section 3, "Pathological Non-IID": 60,000 digits, 200 shards of 300, two per client. A client
    sees about as many labels as it has shards, a few more where a shard spans two labels. Shards differ by at most
    one sample, and the order within a label is random.

    Each label's test samples are shared out in proportion to the training samples of it that the clients hold, so a
    client is tested on its own labels; with few test samples, some clients get none.

    If the data have clients of their own, their samples are pooled first.

    Attributes:
        shards_per_client: shards that each client gets, at least 1.
    """

    shards_per_client: int = 2

    def __post_init__(self) -> None:
        check_at_least(self, 1, "shards_per_client")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample.

        Args:
            dataset: a classification task.
            num_clients: number of clients; None means 10.
            seed: for the streams ``partition``.

        Raises:
            UserError: if the data have no label per sequence, or fewer training samples than shards.
        """
        check_labels(dataset, "shards")
        clients = made_clients(dataset, num_clients)
        samples, shards = len(dataset.train), clients * self.shards_per_client
        if shards > samples:
            raise UserError(
                f"partition.shards_per_client={self.shards_per_client}: {clients} clients with that many need {shards} "
                f"shards, but {dataset.name} has {samples} training samples; take at most {samples // clients} shards "
                f"per client or {samples // self.shards_per_client} clients"
            )
        rng = generator(seed, "partition", 0)
        shuffled = rng.permutation(samples)
        by_label = shuffled[np.argsort(dataset.train.targets[shuffled], kind="stable")]
        pieces = deal_in_order(by_label, even_sizes(samples, shards))
        dealt = rng.permutation(shards).reshape(clients, -1)
        train = [np.sort(np.concatenate([pieces[shard] for shard in own])) for own in dealt]
        test = deal_test_like_train(dataset, train, generator(seed, "partition", 1))
        return Assignment(train, test, made_names(clients))
