"""Devices as they are drawn."""

import math

import pytest
import torch

from fedsim.devices.drawn import Devices
from fedsim.errors import FieldError

NAMES = [f"c{k}" for k in range(20_000)]


def test_log_normal():
    """Median and standard deviation of the logarithms, to four standard errors of 20,000 draws."""
    fleet = Devices(gflops=3.0, gflops_spread=0.7, memory_mb=64.0, memory_spread=0.1, availability=0.9).fleet(NAMES, 0)
    for column, median, spread in (
        (fleet.gflops, 3.0, 0.7),
        (fleet.down_mbps, 20.0, 0.5),
        (fleet.up_mbps, 5.0, 0.5),
        (fleet.memory_mb, 64.0, 0.1),
    ):
        logs = column.log()
        assert float(logs.mean()) == pytest.approx(math.log(median), abs=4 * spread / math.sqrt(20_000))
        assert float(logs.std()) == pytest.approx(spread, rel=4 / math.sqrt(2 * 20_000))
    assert fleet.availability.unique().tolist() == [0.9]
    both = torch.stack([fleet.gflops.log(), fleet.down_mbps.log(), fleet.up_mbps.log(), fleet.memory_mb.log()])
    assert float((both.corrcoef() - torch.eye(4)).abs().max()) < 0.03  # drawn independently


def test_without_spread_all_are_equal():
    alike = {f"{name}_spread": 0.0 for name in ("gflops", "down", "up", "memory")}
    fleet = Devices(**alike, memory_mb=None).fleet(NAMES[:3], 0)
    assert fleet.gflops.tolist() == [1.0] * 3
    assert fleet.down_mbps.tolist() == [20.0] * 3
    assert fleet.up_mbps.tolist() == [5.0] * 3
    assert fleet.memory_mb.tolist() == [math.inf] * 3


def test_a_client_has_its_device_in_every_population_and_other_seeds_others():
    few, many, other = Devices().fleet(NAMES[:5], 1), Devices().fleet(NAMES[:9], 1), Devices().fleet(NAMES[:5], 2)
    assert torch.equal(few.gflops, many.gflops[:5])
    assert not torch.equal(few.gflops, other.gflops)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in ("gflops", "down_mbps", "up_mbps", "memory_mb") for value in (0.0, -1.0, 1e10)),
        *((name, math.nan) for name in ("gflops", "gflops_spread", "latency", "dropout", "deadline", "over_selection")),
        *(("gflops_spread", value) for value in (-0.1, 6.0)),
        *(("availability", value) for value in (0.0, 1.1)),
        *(("over_selection", value) for value in (0.9, math.inf)),
        *(("dropout", value) for value in (-0.1, 1.0)),
        *(("deadline", value) for value in (0.0, -1.0, 0.1, math.inf)),
        *(("min_clients", 0), ("latency", -1.0), ("late", "never"), ("late", "partial")),
    ],
)
def test_what_is_refused(field, value):
    with pytest.raises(FieldError) as info:
        Devices(**{field: value})
    assert info.value.field == field


def test_a_spread_of_no_limit():
    with pytest.raises(FieldError, match=r"memory_spread=0\.5: has no effect with memory_mb=null"):
        Devices(memory_mb=None)
