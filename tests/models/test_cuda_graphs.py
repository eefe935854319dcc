"""CUDA graphs of a local step, with a stand-in for the recording, so that the copying is tested without a GPU."""

from dataclasses import replace

import pytest
import torch

from fedsim.clients.engine import StackedEngine
from fedsim.clients.stacked import StackedTrainer
from fedsim.data.dataset import Task
from fedsim.errors import FieldError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.models import cuda_graphs, torch_kernels

VARIANTS = [
    (Task.CLASSIFICATION, ("model=lstm", "model.num_layers=2")),
    (Task.CLASSIFICATION, ("aggregator=fedsam",)),
    (Task.REGRESSION, ("model=rnn",)),
    (Task.SEQUENCE_LABELLING, ("model=gru_reset_before",)),
]


class Replayed:
    """What a graph does, by running the step again into the same result."""

    def __init__(self, step, result):
        self.step, self.result, self.times = step, result, 0

    def replay(self):
        self.times += 1
        self.result.copy_(self.step())


@pytest.fixture
def recorded(monkeypatch):
    """The graphs that are recorded, in order; their first result is made unusable, as a recording computes nothing."""
    graphs = []

    def record(step, device, sharing):
        assert sharing is (graphs[0] if graphs else None)
        graphs.append(Replayed(step, torch.full_like(step(), torch.nan)))
        return graphs[-1], graphs[-1].result

    monkeypatch.setattr(cuda_graphs, "record", record)
    return graphs


@pytest.mark.parametrize(("task", "overrides"), VARIANTS)
def test_graphs_train_as_single_launches_do(tiny, recorded, task, overrides):
    """Uneven clients: the active ones, the widest batch and the longest sequence change from step to step."""
    experiment = replace(tiny(*overrides, task=task), engine=StackedEngine(kernels="torch"))
    sim = prepare(experiment)
    state = initial_state(sim)
    clients = torch.arange(5)
    graphs = cuda_graphs.Graphs(sim.task.arch, torch_kernels)
    trainer = StackedTrainer(sim.task, torch_kernels, 1, graphs)
    for round_number in (1, 2):
        expected, report = sim.trainer.train(state.row, clients, round_number, state.store)
        deltas, same = trainer.train(state.row, clients, round_number, state.store)
        torch.testing.assert_close(deltas, expected, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(same.train_loss, report.train_loss, rtol=1e-10, atol=1e-13)
    assert sum(graph.times for graph in recorded) > len(recorded)
    expected = sim.trainer.full_gradients(state.row, clients)
    torch.testing.assert_close(trainer.full_gradients(state.row, clients), expected, rtol=1e-10, atol=1e-13)


def test_what_an_earlier_batch_left_does_not_count(tiny, recorded):
    """A wide batch with a number that is not finite, then a narrower one in the same graph."""
    sim = prepare(replace(tiny(), engine=StackedEngine(kernels="torch")))
    row = initial_state(sim).row
    arch = sim.task.arch
    graphs = cuda_graphs.Graphs(arch, torch_kernels)
    generator = torch.Generator().manual_seed(0)

    def batch(clients, width, steps):
        inputs = torch.randn(clients, width, steps, arch.input_size, generator=generator, dtype=row.dtype)
        lengths = torch.full((clients, width), steps)
        return cuda_graphs.Batch(inputs, lengths, torch.zeros(clients, width, dtype=torch.int64), None, padded=False)

    wide, narrow = batch(18, 20, 22), batch(17, 19, 21)
    wide.inputs[:] = torch.nan
    for one in (wide, narrow):
        rows = row.expand(len(one.inputs), -1).contiguous()
        gradient, expected = torch.empty_like(rows), torch.empty_like(rows)
        loss = graphs.loss_and_gradient(rows, one, gradient)
    views, slopes = arch.layout.views(rows), arch.layout.views(expected)
    assert len(recorded) == 1
    assert loss.isfinite().all()
    alone = cuda_graphs.stacked.loss_and_gradient(arch, views, narrow, torch_kernels, None, slopes)
    torch.testing.assert_close(loss, alone, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)


def test_few_sizes_serve_many():
    """Eight sizes between a power of two and the next: 1 to 16 as they are, then 18, 20, ..., 32, 36, 40, ..."""
    assert [cuda_graphs.rounded_up(count) for count in range(1, 17)] == list(range(1, 17))
    assert [cuda_graphs.rounded_up(count) for count in (17, 18, 31, 32, 33, 1000, 1025)] == [
        18,
        18,
        32,
        32,
        36,
        1024,
        1152,
    ]
    sizes = {cuda_graphs.rounded_up(count) for count in range(1, 1025)}
    assert len(sizes) == 16 + 6 * 8  # and eight for each of the doublings from 16 to 1,024
    assert all(cuda_graphs.rounded_up(count) <= count * 9 / 8 for count in range(1, 1025))


def test_graphs_need_a_gpu(tiny):
    with pytest.raises(FieldError, match="kernels=cuda_graphs: needs device=cuda"):
        prepare(replace(tiny(), engine=StackedEngine(kernels="cuda_graphs")))
