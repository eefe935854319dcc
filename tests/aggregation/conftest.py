"""Applying a rule to plain arrays."""

import numpy as np
import pytest
import torch

from fedsim.aggregation.rules import combine_chunks
from fedsim.clients.optimizers import SGD
from fedsim.clients.report import Report
from fedsim.clients.settings import ClientConfig
from fedsim.core.facts import facts_of
from fedsim.core.setting import Setting
from fedsim.corrections.none import NoCorrection


@pytest.fixture(scope="session")
def combined():
    """Return ``combined(rule, deltas, chunk=..., **columns)``, the combined delta of rows that come in chunks."""

    def combined(rule, deltas, chunk=3, dtype=torch.float64, **columns):
        rows = torch.tensor(np.asarray(deltas), dtype=dtype)
        samples = torch.as_tensor(np.asarray(columns.pop("samples", np.ones(len(rows)))), dtype=torch.int64)
        steps = torch.as_tensor(np.asarray(columns.pop("steps", np.ones(len(rows)))), dtype=torch.int64)
        more = {name: torch.tensor(np.asarray(values), dtype=torch.float64) for name, values in columns.items()}

        def part(which):
            ones = torch.ones(len(which), dtype=torch.float64)
            return Report(samples[which], steps[which], ones, **{name: values[which] for name, values in more.items()})

        chunks = [(rows[which], part(which)) for which in torch.arange(len(rows)).split(chunk)]
        return combine_chunks(rule, rows[0], chunks)[0].numpy()

    return combined


@pytest.fixture(scope="session")
def setting():
    """Return ``setting(smallest, largest=..., correction=..., **client)``: what a rule is asked about before a run."""

    def setting(smallest=10, largest=None, correction=None, optimizer=None, **client):
        config = ClientConfig(optimizer=optimizer or SGD(), **client)
        facts = facts_of("aggregator/correction", correction or NoCorrection())
        return Setting(1, 0, config, facts=facts, smallest=smallest, largest=largest or smallest)

    return setting
