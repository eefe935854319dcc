"""Which parameters of a row are aggregated, and which stay with each client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedsim.client_store import ClientStore
from fedsim.errors import UserError, did_you_mean
from fedsim.models.parameters import ParameterLayout

if TYPE_CHECKING:
    from torch import Tensor

PRIVATE = "private"
"""The block of the client store that holds private parameters."""


@dataclass(frozen=True)
class Blocks:
    """Which of the P parameters of a row are aggregated (n of them) and which are private (Q).

    Attributes:
        num_parameters: P.
        shared: ``[n]`` int64, the parameters that are aggregated, or None for all.
        private: ``[Q]`` int64, the parameters that stay with each client, or None for none.
    """

    num_parameters: int
    shared: Tensor | None = None
    private: Tensor | None = None

    @property
    def size(self) -> int:
        """n, how many parameters are aggregated."""
        return self.num_parameters if self.shared is None else len(self.shared)

    def cut(self, rows: Tensor) -> Tensor:
        """The aggregated parameters ``[..., n]`` of rows ``[..., P]``."""
        return rows if self.shared is None else rows[..., self.shared]

    def slices(self, layout: ParameterLayout) -> dict[str, slice]:
        """Where each aggregated parameter of a model lies in the rows ``[..., n]`` that `cut` returns, by name."""
        if self.shared is None:
            return layout.slices
        shared = torch.zeros(self.num_parameters, dtype=torch.bool)
        shared[self.shared.cpu()] = True
        slices, offset = {}, 0
        for name, place in layout.slices.items():
            if bool(shared[place.start]):
                slices[name] = slice(offset, offset + place.stop - place.start)
                offset = slices[name].stop
        return slices

    def scatter(self, rows: Tensor) -> Tensor:
        """Rows ``[..., P]`` with the aggregated parameters ``[..., n]`` in their places, and zeros elsewhere."""
        if self.shared is None:
            return rows
        whole = rows.new_zeros((*rows.shape[:-1], self.num_parameters))
        whole[..., self.shared] = rows
        return whole

    def only_shared(self, rows: Tensor) -> Tensor:
        """Rows ``[..., P]`` with zeros in the place of private parameters."""
        return rows if self.shared is None else self.scatter(self.cut(rows))

    def models(self, store: ClientStore, clients: Tensor, row: Tensor) -> Tensor:
        """A global `row` ``[P]`` as clients ``[c]`` have it: itself, or ``[c, P]`` with their private parameters."""
        if self.private is None:
            return row
        rows = row.repeat(len(clients), 1)
        rows[:, self.private] = store.read(PRIVATE, clients, rows[:, self.private])
        return rows

    def keep(self, anchors: Tensor, deltas: Tensor, clients: Tensor, store: ClientStore) -> None:
        """Store the private parameters of clients ``[c]`` after local training."""
        if self.private is not None:
            store.write(PRIVATE, clients, (anchors + deltas)[:, self.private])


ALL_BUT = "-"
"""What a name in ``aggregator.blocks`` begins with, if the block is to stay with each client and all others not."""


def is_shared(block: str, names: list[str] | None) -> bool:
    """Whether ``aggregator.blocks``, given by `names`, has a block aggregated."""
    if not names:
        return names is None
    return block in names or (names[0].startswith(ALL_BUT) and ALL_BUT + block not in names)


def divide_parameters(layout: ParameterLayout, names: list[str] | None, device: torch.device) -> Blocks:
    """Divide a model's parameters.

    Args:
        layout: of the model.
        names: the blocks to aggregate; with a minus before each, the blocks not to aggregate; None for all.
        device: where rows lie.

    Raises:
        UserError: if the model has no such block, or some names have a minus and others have none.
    """
    count = layout.num_parameters
    for name in names or ():
        if (block := name.removeprefix(ALL_BUT)) not in layout.blocks:
            raise UserError(
                f"aggregator.blocks={names}: this model has {', '.join(layout.blocks)}, not {block!r}"
                + did_you_mean(block, layout.blocks)
            )
    if len({name.startswith(ALL_BUT) for name in names or ()}) > 1:
        raise UserError(
            f"aggregator.blocks={names}: names the blocks to aggregate or, with a minus before each, those not to; not "
            "both"
        )
    if all(is_shared(block, names) for block in layout.blocks):
        return Blocks(count)
    shared = torch.zeros(count, dtype=torch.bool)
    for name, place in layout.slices.items():
        shared[place] = is_shared(name.split(".")[0], names)
    return Blocks(count, shared.nonzero()[:, 0].to(device), (~shared).nonzero()[:, 0].to(device))
