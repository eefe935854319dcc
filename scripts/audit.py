"""What a curious server learns under each defence, as a table in Markdown.

    python scripts/audit.py                             # small noisy data that a model memorises
    python scripts/audit.py --rounds 5 --clients 1      # a quick look
    python scripts/audit.py data=japanese_vowels        # other arguments are overrides for every run

Membership is tested on the model after the last round, inversion on the updates of the first clients of round 1, with
the prior that works best: this attacker is lucky enough to know it.
"""

from __future__ import annotations

import argparse

import torch

from fedsim.config.compose import Request, check_request, normalise
from fedsim.errors import Diverged
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate

DATA = (
    *("data=synthetic", "data.clients=10", "data.samples_per_client=20", "data.test_samples_per_client=20"),
    *("data.length=8", "data.features=4", "data.noise=1", "partition=natural"),
)
BASE = ("aggregator=mean", "device=cpu", "threads=1", "eval.every=1000")
MEMBERSHIP = ("audit=membership", "model.hidden_size=32", "client.epochs=5")
INVERSION = (
    *("audit=inversion", "rounds=1", "model.hidden_size=16"),
    *("client.epochs=null", "client.steps=1", "client.batch_size=1"),
)
PRIORS = (0, 1e-4, 1e-2)
DEFENCES: dict[str, tuple[str, ...]] = {
    "none": (),
    "local_dp, z = 0.01": ("privacy=local_dp", "privacy.noise_multiplier=0.01"),
    "local_dp, z = 0.1": ("privacy=local_dp", "privacy.noise_multiplier=0.1"),
    "central_dp, z = 1": ("privacy=central_dp",),
    "8-bit quantize": ("link/up=quantize",),
    "topk, 5 %": ("link/up=topk",),
    "sign": ("link/up=sign",),
}


def last_row(overrides: tuple[str, ...]) -> dict[str, float]:
    """The metrics of the last round; none if the run diverges."""
    simulation = prepare(check_request(normalise(Request(overrides)))[0].experiment)
    torch.set_num_threads(1)
    metrics: dict[str, int | float | None] = {}
    try:
        for result in simulate(simulation, initial_state(simulation)):
            metrics = result.metrics
    except Diverged:
        return {}
    return {name: float(value) for name, value in metrics.items() if value is not None}


def cells(defence: tuple[str, ...], rounds: int, clients: int, overrides: tuple[str, ...]) -> list[str]:
    """One row of the table."""
    data = () if any(word.startswith("data=") for word in overrides) else DATA
    given = (*data, *BASE, *overrides, *defence)
    trained = last_row((*given, f"rounds={rounds}", *MEMBERSHIP))
    tried = [last_row((*given, *INVERSION, f"audit.clients={clients}", f"audit.prior={prior}")) for prior in PRIORS]
    best = min(tried, key=lambda row: row.get("inversion_error", float("inf")))
    names = ("test_accuracy", "epsilon", "membership_auc", "membership_tpr")
    found = [trained.get(name) for name in names] + [best.get(f"inversion_{name}") for name in ("error", "correlation")]
    return ["" if value is None else f"{value:.3g}" for value in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="overrides for every run, such as model=lstm")
    options = parser.parse_args()
    print("| defence | test accuracy | epsilon | membership AUC | TPR at 1 % FPR | inversion error | correlation |")
    print("|---|" + "---:|" * 6)
    for name, defence in DEFENCES.items():
        row = cells(defence, options.rounds, options.clients, tuple(options.overrides))
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
