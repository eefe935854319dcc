"""Flower: its simulation runtime on Ray with the message API and `FedAvg`, one client per CPU at a time.

Tried with flwr[simulation] 1.41 and torch 2.13.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import torch

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # before the imports that read them
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from bench.plain import Model, mean_loss, shuffled, tensors, train_client
from bench.workloads import Spec, Turns, Workload


class Clock(FedAvg):
    """FedAvg that waits for its turn before each round."""

    def __init__(self, turns: Turns, w: Workload) -> None:
        super().__init__(
            # Flower truncates clients * share; half a client more guards against rounding errors
            fraction_train=1.0 if w.cohort == w.clients else (w.cohort + 0.5) / w.clients,
            fraction_evaluate=0.0,
            min_train_nodes=1,
            min_available_nodes=w.clients,
        )
        self.turns = turns

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin a round."""
        self.turns.begin()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """End the round."""
        result = super().aggregate_train(server_round, replies)
        self.turns.end()
        return result


def client_app(w: Workload) -> ClientApp:
    """The client's side."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        inputs, targets = tensors(w)
        model = Model(w)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        order = shuffled(w)
        epochs = [order(0, client, epoch) for epoch in range(w.epochs)]
        loss = train_client(w, model, inputs[client], targets[client], epochs)
        metrics = MetricRecord({"num-examples": w.samples, "train_loss": float(loss)})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


def main(spec: Spec) -> None:
    """Run the rounds that the benchmark asks for."""
    w, turns = spec.workload, Turns()
    server_app = ServerApp()
    final: list[dict[str, torch.Tensor]] = []

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        result = Clock(turns, w).start(grid, ArrayRecord(Model(w).state_dict()), num_rounds=spec.rounds)
        final.append(result.arrays.to_torch_state_dict())

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app(w), num_supernodes=w.clients, backend_config=resources)

    def loss() -> float:
        model = Model(w)
        model.load_state_dict(final[0])
        return mean_loss(w, model, *tensors(w))

    turns.finish(loss)


if __name__ == "__main__":
    main(Spec.from_json(sys.argv[1]))
