"""Keyed random streams: the same draw for the same (seed, purpose, round, client, ...), wherever it is made.

Nothing in fedsim uses a global random generator. Small draws (partition, initial weights, cohort) come from a
NumPy generator per key (`generator`). Cohort-wide draws (batch order, dropout, noise) come from a stateless,
counter-based integer hash (`random_bits`), vectorised over clients and positions: a draw depends on the client's
number and never on its place in the cohort, so chunking, engines and resuming do not change it.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# Those of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
_GOLDEN, _MULTIPLY_1, _MULTIPLY_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MAX_INT64 = (1 << 63) - 1


def _digest(seed: int, purpose: str, numbers: tuple[int, ...]) -> bytes:
    text = "/".join([str(seed), purpose, *map(str, numbers)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def stream_key(seed: int, purpose: str, *numbers: int) -> int:
    """Return the 64-bit key of a stream, for instance ``stream_key(seed, "batches", round)``."""
    return int.from_bytes(_digest(seed, purpose, numbers)[:8], "little", signed=True)


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return a NumPy generator for one purpose. Costs tens of microseconds: too slow for one per client and round."""
    entropy = int.from_bytes(_digest(seed, purpose, numbers), "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _hash(key: int, counters: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Hash with NumPy, whose loops over unsigned numbers take a fifth of the time of `_hash_on_device`."""
    bits: NDArray[np.uint64] = np.array([key], np.int64).view(np.uint64)
    for counter in counters:
        bits = bits + (counter + np.uint64(1)) * np.uint64(_GOLDEN)
        bits ^= bits >> np.uint64(30)
        bits *= np.uint64(_MULTIPLY_1)
        bits ^= bits >> np.uint64(27)
        bits *= np.uint64(_MULTIPLY_2)
        bits ^= bits >> np.uint64(31)
    return bits


def _hash_on_device(key: int, counters: tuple[Tensor, ...]) -> Tensor:
    """Hash with torch, which multiplies signed 64-bit integers on every device, to the same bits."""
    bits = torch.tensor(key, dtype=torch.int64, device=counters[0].device)
    for counter in counters:
        x = bits + (counter + 1) * _signed(_GOLDEN)
        x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_MULTIPLY_1)
        x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_MULTIPLY_2)
        bits = x ^ ((x >> 31) & ((1 << 33) - 1))
    return bits


def _signed(number: int) -> int:
    """The negative number with the same 64 bits."""
    return number - (1 << 64)


def random_bits(key: int, *counters: Tensor) -> Tensor:
    """Hash a key and broadcastable int64 counters to uniform 64-bit integers.

    Args:
        key: from `stream_key`.
        counters: int64 tensors that broadcast together, for instance clients ``[C, 1]`` and positions ``[n]``.

    Returns:
        int64 tensor of the broadcast shape; every bit pattern is equally likely.
    """
    if any(counter.device.type != "cpu" for counter in counters):
        return _hash_on_device(key, counters)
    with np.errstate(over="ignore"):  # of which NumPy warns where no counter has a dimension
        bits = _hash(key, [counter.numpy().view(np.uint64) for counter in counters])
    scalar = all(counter.dim() == 0 for counter in counters)
    return torch.from_numpy(bits.view(np.int64)).reshape(() if scalar else bits.shape)


def uniforms(key: int, *counters: Tensor) -> Tensor:
    """Return float64 numbers in ``[0, 1)``, one per counter combination: the upper 53 of 64 random bits."""
    return ((random_bits(key, *counters) >> 11) & ((1 << 53) - 1)).double() / (1 << 53)


def normals(key: int, *counters: Tensor) -> Tensor:
    """Return standard normal float64 numbers, one per counter combination (Box and Muller 1958, the cosine)."""
    first = 1 - uniforms(key, *counters, torch.zeros_like(counters[0]))  # above zero
    second = uniforms(key, *counters, torch.ones_like(counters[0]))
    return (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()


def keep_mask(key: int, rate: float, *counters: Tensor) -> Tensor:
    """Return a boolean tensor, False with probability `rate` (dropout), one draw per counter combination."""
    upper = (random_bits(key, *counters) >> 32) & ((1 << 32) - 1)
    return upper >= round(rate * (1 << 32))


def permutations(key: int, clients: Tensor, sizes: Tensor, epochs: Tensor) -> Tensor:
    """Return one random order per client.

    Args:
        key: stream key of the round.
        clients: ``[C]`` int64 client numbers.
        sizes: ``[C]`` int64 number of samples of each client.
        epochs: ``[C]`` int64 local epoch that the order is for.

    Returns:
        ``[C, max(sizes)]`` int64; the first ``sizes[c]`` entries of row c are a permutation of its samples, the rest
        are the positions beyond them.
    """
    fewest, most = (int(bound) for bound in sizes.aminmax())
    position = torch.arange(most, device=clients.device)
    keys = random_bits(key, clients[:, None], epochs[:, None], position[None, :]) >> 1  # they stay below the filler
    if fewest < most:
        keys = torch.where(position[None, :] < sizes[:, None], keys, _MAX_INT64)
    return torch.argsort(keys, dim=1, stable=True)
