"""Training away from the CPU: nothing waits for the device within a round, and a GPU gives the CPU's numbers."""

from dataclasses import replace

import pytest
import torch

from fedsim.clients.engine import StackedEngine
from fedsim.clients.stacked import StackedTrainer
from fedsim.data.dataset import Task
from fedsim.data.population import to_device
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate
from fedsim.models.blocks import divide_parameters

VARIANTS = [
    (Task.CLASSIFICATION, ("client/optimizer=adam", "client.clip_norm=1")),
    (Task.CLASSIFICATION, ("model=lstm", "model.num_layers=2", "model.dropout=0.2", "aggregator=fedprox")),
    (Task.REGRESSION, ("model=rnn", "client.optimizer.momentum=0.9")),
    (Task.SEQUENCE_LABELLING, ("model=gru_reset_before",)),
    (Task.CLASSIFICATION, ("aggregator=fedsam", "model.num_layers=2", "model.dropout=0.2")),
    (Task.CLASSIFICATION, ("aggregator=fedprox", "aggregator.blocks=[recurrent]")),
    (Task.CLASSIFICATION, ("model=cifg", "model.recurrent_projection=3", "model.pooling=attention")),
    (Task.REGRESSION, ("model=lstm", "model.pooling=max", "model.head_projection=3", "model.gate_biases=1")),
    (Task.REGRESSION, ("model.bidirectional=true", "model.num_layers=2")),
    (Task.SEQUENCE_LABELLING, ("model.tied_embeddings=true", "model.embedding_size=5")),
]


@pytest.mark.parametrize(("task", "overrides"), VARIANTS)
def test_no_step_waits_for_the_device(tiny, monkeypatch, task, overrides):
    """On the device "meta", tensors have no values: whatever looks at one to decide what to do next would raise."""
    experiment = replace(tiny(*overrides, task=task), engine=StackedEngine(kernels="torch"))
    sim = prepare(experiment)
    meta = torch.device("meta")
    blocks = divide_parameters(sim.task.arch.layout, experiment.aggregator.blocks, meta)
    sim_task = replace(sim.task, population=to_device(sim.population, meta), blocks=blocks)
    seen = []
    monkeypatch.setattr(StackedTrainer, "_report", lambda self, rows, *rest: seen.append(rows.device))
    trainer = replace(sim.trainer, task=sim_task)
    row, store = initial_state(sim).row.to(meta), initial_state(sim).store
    deltas, _ = trainer.train(row, torch.arange(5), 1, store)
    assert seen == [meta]
    assert deltas.device == meta
    assert deltas.shape == (5, len(row))
    gradients = trainer.full_gradients(row, torch.arange(5))
    assert gradients.device == meta
    assert gradients.shape == (5, len(row))


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["torch", "cuda_graphs"])
@pytest.mark.parametrize(("task", "overrides"), VARIANTS)
def test_a_gpu_gives_the_numbers_of_the_cpu(tiny, task, overrides, kernels):
    """Two rounds in float64: products sum up in another order there, so the last digits may differ."""
    rows = {}
    for device in ("cpu", "cuda"):
        engine = StackedEngine(kernels=kernels if device == "cuda" else "torch")
        experiment = replace(tiny(*overrides, task=task), engine=engine, device=device, dtype="float64", rounds=2)
        sim = prepare(experiment)
        state = initial_state(sim)
        results = list(simulate(sim, state))
        rows[device] = state.row.cpu(), results[-1].metrics["test_loss"]
    torch.testing.assert_close(rows["cuda"][0], rows["cpu"][0], rtol=1e-9, atol=1e-12)
    assert rows["cuda"][1] == pytest.approx(rows["cpu"][1], rel=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["torch", "cuda_graphs"])
@pytest.mark.parametrize("task", list(Task))
def test_a_gpu_repeats_its_bytes(tiny, task, kernels):
    """Whatever order its threads come in, so nothing may be added up by atomic operations."""
    experiment = replace(tiny(task=task), engine=StackedEngine(kernels=kernels), device="cuda", dtype="float32")
    rows = []
    for _ in range(3):
        sim = prepare(experiment)
        state = initial_state(sim)
        list(simulate(sim, state))
        rows.append(state.row.cpu())
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("graphs", [False, True])
def test_local_steps_do_not_synchronise_a_gpu(tiny, graphs):
    experiment = replace(tiny(), engine=StackedEngine(kernels="cuda_graphs" if graphs else "torch"), device="cuda")
    sim = prepare(experiment)
    state = initial_state(sim)
    task = sim.task
    clients = torch.arange(5)
    sim.trainer.train(state.row, clients, 1, state.store)  # warm up: libraries may synchronise when they are loaded
    before = torch.cuda.get_sync_debug_mode()
    trained = []

    class Marked(StackedTrainer):
        def _report(self, rows, *rest):
            torch.cuda.set_sync_debug_mode(before)  # the report is read once per chunk, which has to wait
            trained.append(len(rows))
            return super()._report(rows, *rest)

    torch.cuda.set_sync_debug_mode("error")
    try:
        Marked(task, sim.trainer.kernels, 1, sim.trainer.graphs).train(state.row, clients, 2, state.store)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert trained == [len(clients)]
