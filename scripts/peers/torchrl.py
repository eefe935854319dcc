"""TorchRL: its `LSTM` and `GRU`, which are written in Python so that `vmap` can pass through them.

All else is as in `functional.py`: `torch.func`, all clients of a round at once. Tried with torchrl 0.14.1, tensordict
0.14.3 and torch 2.13.
"""

from __future__ import annotations

import sys

from torch import nn
from torchrl.modules import GRU, LSTM

from bench.workloads import Spec, Workload
from peers.functional import run, with_layers


def layers(w: Workload) -> nn.Module:
    """TorchRL's layers of the workload's sizes."""
    if w.cell not in ("gru", "lstm"):
        raise SystemExit(f"cell={w.cell}: TorchRL has only gru and lstm")
    kind = {"gru": GRU, "lstm": LSTM}[w.cell]
    return kind(w.embedding or w.features, w.hidden, num_layers=w.layers, batch_first=True)


if __name__ == "__main__":
    given = Spec.from_json(sys.argv[1])
    run(given, with_layers(given.workload, layers(given.workload)))
