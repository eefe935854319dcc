"""``privacy=matrix_factorisation``: noise correlated by a Toeplitz matrix (Choquette-Choo 2023; McMahan 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from fedsim.core.part import Bound
from fedsim.core.state import Drawer
from fedsim.errors import FieldError, UserError, check_at_least, check_between, check_one_of
from fedsim.machine import refuse_larger
from fedsim.privacy import streams, toeplitz
from fedsim.privacy.correlated import Correlated, CorrelatedInRun
from fedsim.privacy.streams import Draw
from fedsim.samplers.participation import Participation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUFFERS = 4
"""The largest number of buffers of a BLT if none is given; more gain little for any number of rounds (McMahan 2024)."""


@dataclass(frozen=True, kw_only=True)
class MatrixFactorisation(Correlated):
    """The running sums A X are published as ``A C^-1 (C X + Z)``, with the best C of a form (DP-MF).

    A round's sum gets ``C^-1 Z``: fresh noise of standard deviation ``noise_multiplier * clip_norm``, minus part of the
    noise of earlier rounds. C is found for `rounds` before the run begins, and kept with the run.

    Attributes:
        matrix: ``banded`` (Choquette-Choo 2023), which holds one row of noise per band, or ``blt`` (McMahan 2024),
            which holds one per buffer and is nearly as good.
        bands: number of bands, with ``banded``; None is the clients' separation, which is also the most.
        buffers: largest number of buffers, with ``blt``; None is 4.
    """

    matrix: str = "banded"
    bands: int | None = None
    buffers: int | None = None

    depends_on_rounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(self, "matrix", ("banded", "blt"))
        check_at_least(self, 1, "bands", "buffers")
        check_between(self, 1, 10, "buffers")
        for name, matrix in (("bands", "banded"), ("buffers", "blt")):
            if getattr(self, name) is not None and self.matrix != matrix:
                raise FieldError(name, getattr(self, name), f"has an effect only with privacy.matrix={matrix}")

    def bind(self, bound: Bound) -> CorrelatedInRun:
        """Find C and the noise; refuse more bands than there is memory for their rows."""
        mechanism = super().bind(bound)
        if isinstance(kept := mechanism.fresh.encoder, Banded):
            bands = len(kept.column)
            rows = f"{bands} rows of noise of {bound.blocks.size:,} numbers"
            refuse_larger(
                8 * bands * bound.blocks.size, "privacy.bands", bands, rows, "take fewer, or privacy.matrix=blt"
            )
        return mechanism

    def encoder(self, rounds: int, where: Participation) -> Banded | Buffered:
        """Find the best C.

        Raises:
            UserError: if there are more bands than rounds, or than the clients' separation.
        """
        if self.matrix == "blt":
            buffers = self.buffers or BUFFERS
            return Buffered(where, rounds, *toeplitz.best_buffered(rounds, where, buffers), buffers)
        for most, what in ((where.separation, "the rounds that clients are apart"), (rounds, "rounds")):
            if self.bands is not None and self.bands > most:
                raise UserError(f"privacy.bands={self.bands}: must be at most {most}, {what}")
        return Banded(where, toeplitz.best_banded(rounds, self.bands or min(where.separation, rounds)))


@dataclass(frozen=True, eq=False)
class Banded:
    """A banded Toeplitz matrix.

    Attributes:
        where: how often and how far apart a client takes part.
        column: ``[bands]``, its first column, beginning with 1.
    """

    where: Participation
    column: NDArray[np.float64]

    def sensitivity(self, rounds: int) -> float:
        """Return how far one client moves the first rows of C X, in units of the clipping norm."""
        return toeplitz.sensitivity(self.column, rounds, self.where)

    def noise(self, draw: Draw) -> Iterator[NDArray[np.float64]]:
        """Yield the rows of ``C^-1 Z``."""
        return streams.banded(self.column.tolist(), draw)

    def kept(self) -> Drawer:
        """Return the column."""
        return {"column": torch.from_numpy(self.column.copy())}

    def restored(self, drawer: Drawer) -> Banded:
        """Return the matrix with the column that a run has kept."""
        return replace(self, column=drawer["column"].cpu().numpy())

    def facts(self) -> dict[str, str | int]:
        """Return the name of the mechanism and the number of bands."""
        return {"mechanism": "banded Toeplitz matrix", "bands": len(self.column)}


@dataclass(frozen=True, eq=False)
class Buffered:
    """A BLT matrix.

    Attributes:
        where: how often and how far apart a client takes part.
        rounds: R.
        decays: ``[d]``, what is left of each buffer after a round.
        scales: ``[d]``, with which the buffers are subtracted.
        most: the number of buffers that there may be.
    """

    where: Participation
    rounds: int
    decays: NDArray[np.float64]
    scales: NDArray[np.float64]
    most: int

    def sensitivity(self, rounds: int) -> float:
        """Return how far one client moves the first rows of C X, in units of the clipping norm."""
        return toeplitz.sensitivity(toeplitz.buffered(self.decays, self.scales, self.rounds), rounds, self.where)

    def noise(self, draw: Draw) -> Iterator[NDArray[np.float64]]:
        """Yield the rows of ``C^-1 Z``."""
        return streams.buffered(self.decays.tolist(), self.scales.tolist(), draw)

    def kept(self) -> Drawer:
        """Return decays and scales, with zeros for buffers that there might be."""
        both = torch.zeros(2, self.most, dtype=torch.float64)
        both[:, : len(self.decays)] = torch.tensor([self.decays.tolist(), self.scales.tolist()], dtype=torch.float64)
        return {"decays": both[0].clone(), "scales": both[1].clone()}

    def restored(self, drawer: Drawer) -> Buffered:
        """Return the matrix with the numbers that a run has kept."""
        used = (drawer["scales"] != 0).cpu()
        decays, scales = (drawer[name].cpu()[used].numpy() for name in ("decays", "scales"))
        return replace(self, decays=decays, scales=scales)

    def facts(self) -> dict[str, str | int]:
        """Return the name of the mechanism and the number of buffers."""
        return {"mechanism": "buffered linear Toeplitz matrix (BLT)", "buffers": len(self.decays)}
