"""Digests by which a resumed run checks that data and devices are those it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsim.data.population import Population, Samples
from fedsim.federation.prepare import Simulation

if TYPE_CHECKING:
    from torch import Tensor


def data_hash(population: Population) -> str:
    """Return a digest of which client holds which samples: equal for equal data and partition."""
    digest = hashlib.blake2b(digest_size=16)
    unseen = population.unseen
    kept = (population.local_validation, population.validation, *((unseen.train, unseen.test) if unseen else ()))
    for samples in (population.train, population.test, *kept):
        if samples is not None:
            for inputs in _inputs(samples):
                digest.update(np.ascontiguousarray(inputs.cpu().numpy()).data)
            for tensor in (samples.lengths, samples.targets, samples.offsets):
                digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def _inputs(samples: Samples) -> Iterator[Tensor]:
    """The inputs of all samples; windows that share rows a few at a time, so that they never take the memory of all."""
    if samples.starts is None:
        yield samples.inputs
        return
    for some in torch.arange(len(samples), device=samples.inputs.device).split(100_000):
        yield samples.take(some)


def devices_hash(simulation: Simulation) -> str | None:
    """Return a digest of the clients' devices and anything else that parts have read or drawn; None if nothing."""
    found = [tensor for part in simulation.parts for tensor in part.fingerprint()]
    if not found:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for tensor in found:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()
