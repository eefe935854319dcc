"""The optimizer that data=csv brings along, and what comes before it."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.clients.optimizers import SGD, Adam

TABLE = ("data=csv", "data.path=t.csv", "data.target_column=y")


@pytest.mark.parametrize(
    ("overrides", "optimizer"),
    [
        (TABLE, Adam(lr=0.01)),
        ((*TABLE, "client.optimizer.lr=0.05"), Adam(lr=0.05)),
        ((*TABLE, "client/optimizer=sgd"), SGD(lr=0.3)),
        (("client/optimizer=sgd", "client.optimizer.lr=0.1", *TABLE), SGD(lr=0.1)),
        ((*TABLE, "client/optimizer=adam"), Adam(lr=0.001)),
        ((*TABLE, "aggregator=fedsgd"), SGD(lr=0.3)),
        (("aggregator=fedsgd", *TABLE), SGD(lr=0.3)),
        ((*TABLE, "aggregator=scaffold"), SGD(lr=0.3)),
        ((*TABLE, "aggregator=fednova"), SGD(lr=0.3)),
        ((*TABLE, "aggregator=qffedavg", "client.optimizer.lr=0.1"), SGD(lr=0.1)),
        ((*TABLE, "aggregator=scaffold", "client/optimizer=sgd", "client.optimizer.lr=0.2"), SGD(lr=0.2)),
        (("experiment=energy_forecast", "data.path=t.csv"), Adam(lr=0.001)),
        (
            ("experiment=energy_forecast", "data.path=t.csv", "client/optimizer=sgd", "client.optimizer.lr=1"),
            SGD(lr=1.0),
        ),
        (("experiment=patient_pressure", "data.path=t.csv"), Adam(lr=0.005)),
        ((), SGD(lr=0.3)),
        (("data=synthetic",), SGD(lr=0.3)),
    ],
)
def test_who_decides(compose, overrides, optimizer):
    """The command line, then experiments, then algorithms that mean SGD, then the data, then the default of all."""
    assert compose(*overrides).client.optimizer == optimizer


def test_in_a_sweep(fedsim, elsewhere):
    """Of two jobs only the one on a table has Adam."""
    Path("t.csv").write_text("y\n" + "".join(f"{k % 7}\n" for k in range(100)))
    small = ("data.window=5", "num_clients=2", "model.hidden_size=2", "rounds=1", "threads=1", "device=cpu")
    answer = fedsim(
        "run", "-m", *TABLE, *small, "client/optimizer=adam_tables,sgd", "hydra.sweep.dir=sweep", "console=none"
    )
    assert answer.code == 0, answer
    assert [Path(f"sweep/{k}/config.yaml").read_text().count("optimizers.Adam") for k in (0, 1)] == [1, 0]


def test_a_table_on_which_sgd_diverges(fedsim, elsewhere):
    """A random walk that goes on rising: its test values lie far from what was scaled, and SGD at 0.3 blows up."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(1 + 5 * rng.standard_normal((4, 400)), 1) * [[1], [10], [100], [1000]]
    lines = [f"{key},{value:.3f}" for key, row in zip("abcd", walk, strict=True) for value in row]
    Path("t.csv").write_text("key,y\n" + "\n".join(lines) + "\n")
    run = (
        "run",
        *TABLE,
        "data.client_column=key",
        "partition=natural",
        "rounds=10",
        "threads=1",
        "device=cpu",
        "console=none",
    )
    assert fedsim(*run, "client/optimizer=sgd", "model=rnn", "hydra.run.dir=sgd").code == 3
    assert fedsim(*run, "model=rnn", "hydra.run.dir=adam").code == 0
