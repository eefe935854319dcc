"""Windows share the rows of their table: what is computed from them is what copies of them would give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.clients.engine import SequentialEngine, StackedEngine
from fedsim.data.csv import Csv
from fedsim.data.dataset import Task
from fedsim.data.population import build_population
from fedsim.federation.prepare import initial_state, prepare
from fedsim.partition.natural import Natural
from fedsim.runs.digests import data_hash


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Three clients of 40, 50 and 60 rows, with a gap in the second, two features and a target that is none."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    lines = []
    for key, count in (("a", 40), ("b", 50), ("c", 60)):
        for t in range(count):
            late = t + 100 * (key == "b" and t >= 25)
            lines.append(f"{key},{late},{rng.normal():.6f},{rng.normal():.6f},{rng.normal():.6f}")
    (tmp_path / "t.csv").write_text("key,t,x,z,y\n" + "\n".join(lines) + "\n")
    return Csv(
        path=str(tmp_path / "t.csv"),
        client_column="key",
        time_column="t",
        feature_columns=["x", "z"],
        target_column="y",
        window=5,
        horizon=2,
        stride=2,
    )


def copied(split):
    return replace(split, inputs=np.ascontiguousarray(split.take()), starts=None)


def test_the_rows_are_held_once(source):
    data = source.load(0)
    assert data.train.inputs is data.test.inputs
    assert data.train.inputs.shape == (150, 2)
    assert data.train.take().shape == (len(data.train), 5, 2)
    assignment = Natural().assign(data, None, 0)
    population = build_population(data, assignment, validation_fraction=0.2, seed=0, dtype=torch.float32)
    held = {part.inputs.data_ptr() for part in (population.train, population.test, population.local_validation)}
    assert held == {data.train.inputs.__array_interface__["data"][0]}


@pytest.mark.parametrize("engine", [StackedEngine(kernels="torch"), SequentialEngine()])
def test_a_round_is_that_of_copied_windows(source, tiny, engine, monkeypatch):
    """Deltas, scores and the digest of the data are bit for bit those of windows with rows of their own."""
    data = source.load(0)
    whole = replace(data, train=copied(data.train), test=copied(data.test))
    experiment = replace(tiny(task=Task.REGRESSION), data=source, partition=Natural(), num_clients=None, engine=engine)
    experiment = replace(experiment, client=replace(experiment.client, validation_fraction=0.3))
    found = []
    for one in (data, whole):
        monkeypatch.setattr("fedsim.federation.prepare.load_dataset", lambda *_, one=one: one)
        sim = prepare(experiment)
        state = initial_state(sim)
        deltas, report = sim.trainer.train(state.row, torch.arange(3), 1, state.store)
        scored = sim.trainer.score_samples(state.row, sim.population.test)
        own = sim.trainer.score_clients(state.row.expand(3, -1), torch.arange(3), sim.population.test)
        part = sim.trainer.score_samples(state.row, sim.population.test.part(3, 9))
        torch.testing.assert_close(part.outputs, scored.outputs[3:9], rtol=1e-13, atol=1e-14)
        found.append([deltas, report.validation_loss, *scored.columns(), *own.columns(), data_hash(sim.population)])
    for shared, alone in zip(*found, strict=True):
        assert shared == alone if isinstance(shared, str) else torch.equal(shared, alone)


def test_windows_begin_where_they_say(source):
    """By pandas: the windows of each client's stretches, every second row, with x and z scaled by their columns."""
    import pandas as pd

    data = source.load(0)
    frame = pd.read_csv(source.path)
    scaled = [(frame[c.name] - c.shift) / c.scale for c in data.fitted.scaling.features]
    rows = np.stack(scaled, 1).astype(np.float32)
    for split in (data.train, data.test):
        for sample in range(len(split)):
            start = split.starts[sample]
            assert frame["key"][start] == frame["key"][start + 6] == data.client_names[split.clients[sample]]
            assert (np.diff(frame["t"][start : start + 7]) == 1).all()  # no gap within window and horizon
            np.testing.assert_array_equal(split.take(np.array([sample]))[0], rows[start : start + 5])
