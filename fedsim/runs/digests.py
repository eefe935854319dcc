"""Digests by which a resumed run checks that data and devices are those it began with."""

from __future__ import annotations

import hashlib

import numpy as np

from fedsim.data.population import Population
from fedsim.federation.prepare import Simulation


def data_hash(population: Population) -> str:
    """Return a digest of which client holds which samples: equal for equal data and partition."""
    digest = hashlib.blake2b(digest_size=16)
    for samples in (population.train, population.test, population.validation):
        if samples is not None:
            for tensor in (samples.inputs, samples.lengths, samples.targets, samples.offsets):
                digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def devices_hash(simulation: Simulation) -> str | None:
    """Return a digest of the clients' devices and anything else that parts have read or drawn; None if nothing."""
    found = [tensor for part in simulation.parts for tensor in part.fingerprint()]
    if not found:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for tensor in found:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()
