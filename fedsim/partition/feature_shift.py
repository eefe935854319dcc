"""Clients whose sensors differ: the same world, measured with other noise, scale and bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data.dataset import Assignment, Dataset, Split
from fedsim.errors import FieldError, UserError, check_between, check_one_of
from fedsim.partition.common import made_clients
from fedsim.partition.iid import Iid
from fedsim.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST = 100.0

_RAMPS: Mapping[str, Callable[[float, NDArray[np.float64], NDArray[np.int64], int], NDArray[np.float64]]] = {
    "linear": lambda noise, deviation, n, clients: noise * deviation * (n / clients),
    "from_zero": lambda noise, deviation, n, clients: noise * deviation * ((n - 1) / (clients - 1)),
    "variance": lambda noise, deviation, n, clients: deviation * np.sqrt(noise * n / clients),
}
"""Standard deviations ``[N, D]`` of the noise, from the features' ``[D]`` and the clients' numbers ``[N, 1]``."""


@dataclass(frozen=True)
class FeatureShift:
    """Deal samples at random, and let every client see its share through its own sensors.

    Client n of N (counted from 1) sees feature d of a sample as

        ``scale[n, d] * x + bias[n, d] + level[n] * std[d] * e``

    with ``level[n] = noise * n / N``, ``scale = exp(self.scale * z)``, ``bias = self.bias * std[d] * z'``, z, z' and e
    standard normal, and std[d] the feature's standard deviation over the valid steps of the training samples. Scale and
    bias belong to a client and are the same in training and test; e is drawn for every value. Padding stays 0.

    Noise that grows with the client's number is the "noise-based feature imbalance" of Li et al. 2022, "Federated
    Learning on Non-IID Data Silos" (NIID-Bench), section 4.2. Text and code differ there, and `ramp` has both: their
    text makes ``sigma * n / N`` the variance (``variance``); their code makes ``sigma * (n - 1) / (N - 1)`` the
    standard deviation, so that the first client has none (``from_zero``), and draws it anew when a sample is read. They
    add it to pictures as they are, we in units of each feature. Real sensors have gain and offset errors as well.

    If the data have clients of their own, their samples are pooled first.

    Attributes:
        noise: standard deviation of the last client's noise, in standard deviations of a feature, 0 to 100; with
            ``ramp=variance`` its square.
        scale: standard deviation of the logarithm of a sensor's gain, 0 to 10.
        bias: standard deviation of a sensor's offset, in standard deviations of a feature, 0 to 100.
        ramp: how noise grows from client to client. ``linear``: ``noise * n / N``. ``from_zero``:
            ``noise * (n - 1) / (N - 1)``. ``variance``: ``sqrt(noise * n / N)``.
    """

    noise: float = 0.5
    scale: float = 0.0
    bias: float = 0.0
    ramp: str = "linear"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            FieldError: if a value is out of range, or all are 0.
        """
        check_between(self, 0, _MOST, "noise", "bias")
        check_between(self, 0, 10, "scale")
        if self.noise == self.scale == self.bias == 0:
            raise FieldError("noise", self.noise, "noise, scale and bias are all 0, which is partition=iid")
        check_one_of(self, "ramp", tuple(_RAMPS))
        if self.ramp != "linear" and self.noise == 0:
            raise FieldError("ramp", self.ramp, "has an effect only with noise above 0")

    def assign(self, dataset: Dataset, num_clients: int | None, seed: int) -> Assignment:
        """Return who holds which sample, and how it is seen.

        Args:
            dataset: sequences of real features.
            num_clients: number of clients; None means 10.
            seed: for the streams ``partition`` and ``sensors``.

        Raises:
            UserError: if the inputs are tokens, if there are more clients than training samples, or if the ramp is to
                begin at zero and there is one client.
        """
        if dataset.vocabulary_size is not None:
            raise UserError(
                f"partition=feature_shift: changes what sensors measure, but the inputs of {dataset.name} are tokens"
            )
        clients, features = made_clients(dataset, num_clients), dataset.train.features
        if self.ramp == "from_zero" and clients == 1:
            raise UserError("partition.ramp=from_zero: leads from the first client to the last, and there is only one")
        inputs = dataset.train.take()
        deviation = inputs[_valid(dataset.train)].std(0, dtype=np.float64)
        rng = generator(seed, "sensors")
        scale = np.exp(self.scale * rng.standard_normal((clients, features)))
        bias = self.bias * deviation * rng.standard_normal((clients, features))
        noise = _RAMPS[self.ramp](self.noise, deviation, np.arange(1, clients + 1)[:, None], clients)
        observe = partial(_observe, scale=scale, bias=bias, noise=noise, seed=seed)
        return replace(Iid().assign(dataset, clients, seed), observe=observe)


def _observe(
    split: Split,
    members: Sequence[NDArray[np.int64]],
    number: int,
    *,
    scale: NDArray[np.float64],
    bias: NDArray[np.float64],
    noise: NDArray[np.float64],
    seed: int,
) -> Split:
    """Pass inputs ``[S, T, D]`` through the sensors ``[N, D]`` of their owners; the type of the numbers stays."""
    inputs = np.asarray(split.take(), np.promote_types(split.inputs.dtype, np.float32))
    owners = np.empty(len(split), np.int64)
    owners[np.concatenate(members)] = np.repeat(np.arange(len(members)), [len(own) for own in members])
    gain, offset, level = (part.astype(inputs.dtype)[owners, None] for part in (scale, bias, noise))
    seen = gain * inputs + offset
    if noise.any():
        # A number per value of the split, whoever holds it: more clients do not change a sample's draw.
        seen += level * generator(seed, "sensors", number).standard_normal(inputs.shape, np.float32)
    seen[~_valid(split)] = 0
    return replace(split, inputs=seen, starts=None)


def _valid(split: Split) -> NDArray[np.bool_]:
    """Which steps are real, ``[S, T]``."""
    mask: NDArray[np.bool_] = np.arange(split.steps) < split.lengths[:, None]
    return mask
