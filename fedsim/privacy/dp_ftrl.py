"""``privacy=dp_ftrl``: noise by binary trees over rounds (DP-FTRL, Kairouz 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.core.state import Drawer
from fedsim.errors import UserError, check_at_least
from fedsim.privacy import streams
from fedsim.privacy.correlated import Correlated
from fedsim.privacy.streams import Draw
from fedsim.privacy.trees import Forest
from fedsim.samplers.participation import Participation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class DPFTRL(Correlated):
    """Tree aggregation: the sum of the first t rounds has the noise of log2 t nodes at most (Kairouz 2021).

    A node is a sum over ``2^h`` rounds, with noise of standard deviation ``noise_multiplier * clip_norm``; estimates of
    it use all noisy nodes below (Honaker 2015). Nothing is optimised, and nothing depends on the number of rounds,
    unless `target_epsilon` is set.

    Attributes:
        restart_every: rounds after which a new tree begins; None is never. Fewer of a client's rounds then meet in a
            node, but noise adds up over the trees; a power of two leaves one node of each.
    """

    option: ClassVar[str] = "dp_ftrl"

    restart_every: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "restart_every")

    def encoder(self, rounds: int, where: Participation) -> Trees:
        """Return the trees of a run.

        Raises:
            UserError: if it ends before the first restart.
        """
        if self.restart_every is not None and self.restart_every >= rounds:
            raise UserError(
                f"privacy.restart_every={self.restart_every}: has no effect in rounds={rounds}; take fewer rounds per "
                "tree, or null"
            )
        return Trees(Forest(where, rounds, self.restart_every))


@dataclass(frozen=True)
class Trees:
    """The trees of a run, as a tall C: its rows are nodes.

    Attributes:
        forest: which nodes there are.
    """

    forest: Forest

    def sensitivity(self, rounds: int) -> float:
        """Return how far one client moves the nodes of the first rounds, in units of the clipping norm."""
        return self.forest.sensitivity(rounds)

    def noise(self, draw: Draw) -> Iterator[NDArray[np.float64]]:
        """Yield what each round adds to the noise of the running sum."""
        return streams.tree(self.forest.restart_every, draw)

    def kept(self) -> Drawer:
        """Return nothing: the settings say all."""
        return {}

    def restored(self, drawer: Drawer) -> Trees:
        """Return the same trees."""
        return self

    def facts(self) -> dict[str, str | int]:
        """Return the name of the mechanism."""
        return {"mechanism": "tree aggregation"}
