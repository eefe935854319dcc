"""Each attack against each robust rule, as a table in Markdown: test accuracy after the last round.

    python scripts/robustness.py                       # twenty clients of japanese_vowels, four of them malicious
    python scripts/robustness.py --rounds 5 --seeds 1  # a quick look
    python scripts/robustness.py data=text data.path=play.txt partition=natural num_clients=20

Other arguments are overrides for every run. The column after ``backdoor`` is its attack success rate. Rules with a
parameter for the number of malicious clients, ``f`` or ``beta``, are given the true number.
"""

from __future__ import annotations

import argparse
from statistics import mean

import torch

from fedsim.config.compose import Request, check_request, normalise
from fedsim.errors import Diverged, UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate

CLIENTS, SHARE = 20, 0.2
MALICIOUS = round(CLIENTS * SHARE)
BASE = (f"num_clients={CLIENTS}", "device=cpu", "threads=1")
ATTACKS: dict[str, tuple[str, ...]] = {
    "none": (),
    "label_flip": ("attack=label_flip",),
    "sign_flip": ("attack=sign_flip", "attack.factor=5"),
    "gaussian": ("attack=gaussian",),
    "scale": ("attack=scale", "attack.factor=50"),
    "alie": ("attack=alie", "attack.z=1"),
    "ipm": ("attack=ipm", "attack.epsilon=0.5"),
    "ipm_far": ("attack=ipm", "attack.epsilon=10"),
    "min_max": ("attack=min_max",),
    "backdoor": ("attack=backdoor", "attack.factor=5"),
}
RULES: dict[str, tuple[str, ...]] = {
    "mean": ("aggregator=mean",),
    "median": ("aggregator=median",),
    "trimmed_mean": ("aggregator=trimmed_mean", f"aggregator.combine.beta={SHARE}"),
    "krum": ("aggregator=krum", f"aggregator.combine.f={MALICIOUS}"),
    "multi_krum": ("aggregator=multi_krum", f"aggregator.combine.f={MALICIOUS}"),
    "bulyan": ("aggregator=bulyan", f"aggregator.combine.f={MALICIOUS}"),
    "geometric_median": ("aggregator=geometric_median",),
    "centered_clipping": ("aggregator=centered_clipping", "aggregator.combine.tau=1"),
    "norm_clipping": ("aggregator=norm_clipping", "aggregator.combine.max_norm=1"),
}


def result(overrides: tuple[str, ...]) -> dict[str, float]:
    """The metrics of the last round; a run that diverges counts as accuracy 0."""
    simulation = prepare(check_request(normalise(Request(overrides)))[0].experiment)
    torch.set_num_threads(1)
    metrics: dict[str, int | float | None] = {}
    try:
        for round_result in simulate(simulation, initial_state(simulation)):
            metrics = round_result.metrics
    except Diverged:
        metrics |= {"test_accuracy": 0.0}
    return {name: float(value) for name, value in metrics.items() if value is not None}


def cell(attack: str, rule: str, seeds: int, overrides: tuple[str, ...]) -> str:
    """One cell of the table: the mean over the seeds."""
    try:
        runs = [result((*overrides, *ATTACKS[attack], *RULES[rule], f"seed={seed}")) for seed in range(seeds)]
    except UserError as error:
        return "- | -" if "backdoor" in str(error) else f"refused: {error}"
    accuracy = f"{mean(run['test_accuracy'] for run in runs):.3f}"
    if attack != "backdoor":
        return accuracy
    return f"{accuracy} | {mean(run.get('attack_success', 0.0) for run in runs):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="comma-separated list")
    parser.add_argument("--rules", default=",".join(RULES), help="comma-separated list")
    parser.add_argument("overrides", nargs="*", help="overrides for every run, such as partition=dirichlet")
    options = parser.parse_args()
    overrides = (*BASE, f"rounds={options.rounds}", *options.overrides)
    attacks, rules = options.attacks.split(","), options.rules.split(",")
    for name in (name for name in (*attacks, *rules) if name not in {**ATTACKS, **RULES}):
        parser.error(f"{name}: known are {', '.join((*ATTACKS, *RULES))}")
    header = [part for attack in attacks for part in (attack, *(["success"] if attack == "backdoor" else []))]
    print("| rule | " + " | ".join(header) + " |")
    print("|---|" + "---:|" * len(header))
    for rule in rules:
        cells = [cell(attack, rule, options.seeds, overrides) for attack in attacks]
        print(f"| {rule} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
