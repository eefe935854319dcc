"""With the fused kernels and as many clients as go evenly onto the threads, their number changes no byte."""

import pytest
import torch

from fedsim.aggregation.rules import Spread, dot
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate

SETTINGS = (
    *("data=synthetic", "partition=natural", "data.clients=8", "data.samples_per_client=32", "data.length=20"),
    *("model=gru", "model.hidden_size=32", "client.batch_size=16", "engine.kernels=numba", "device=cpu", "rounds=2"),
)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_and_two_threads_give_the_same_bytes(compose):
    """Each call has 10 million multiply-adds or more, of which both threads take a part."""
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        simulation = prepare(compose(*SETTINGS))
        state = initial_state(simulation)
        found.append(([result.metrics for result in simulate(simulation, state)], state.row))
        assert torch.get_num_threads() == number
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_the_drift_of_many_parameters():
    """Sums of a million squares, for which a product would be shared out among threads."""
    deltas = torch.randn(20, 50_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        spread = Spread(torch.zeros(50_000, dtype=torch.float64))
        spread.add(deltas)
        found.append((spread.squares, spread.drift(deltas.mean(0))))
    assert found[0] == found[1]
    assert found[0][0] == pytest.approx(float(deltas.square().sum()), rel=1e-12)
    assert dot(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])) == 11
