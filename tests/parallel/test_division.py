"""Dividing clients among processes and adding up sums, as far as no second process is needed."""

from dataclasses import dataclass

import torch

from fedsim.parallel.division import add_up, divide
from fedsim.parallel.processes import World


class Twins(World):
    """Two processes that hold the same values, so that every sum is twice the own one."""

    def add_up(self, values):
        values *= 2


@dataclass
class Sums:
    total: torch.Tensor
    weight: float
    count: int


def test_whole_numbers_are_added_up_as_whole_numbers():
    """2^53 + 1 is not a float64, and 2^62 * 2 wraps around modulo 2^64; floats keep their 53 bits."""
    held = Sums(torch.tensor([2**53 + 1, 2**62]), 0.1, 3), [torch.tensor([0.1], dtype=torch.float64)]
    (found, (floats,)) = add_up(Twins(size=2), held)
    assert found.total.tolist() == [2**54 + 2, -(2**63)]
    assert (found.weight, found.count) == (0.2, 6)
    assert floats.tolist() == [0.2]
    assert held[0].count == 3  # the input is unchanged


def test_each_client_goes_to_the_process_with_the_least_work():
    """Work 5, 4, 3, 3, 3, longest first: 5 | 4, then 5 | 7, 8 | 7 and 8 | 10."""
    work = torch.tensor([3, 5, 3, 4, 3])
    shares = [divide(World(rank=rank, size=2), work) for rank in (0, 1)]
    assert [share.own.tolist() for share in shares] == [[1, 2], [0, 3, 4]]
    assert torch.cat([share.of(work) for share in shares])[shares[0].back].tolist() == work.tolist()
    assert [share.first(3) for share in shares] == [2, 1]
