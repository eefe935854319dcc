"""Which rule withstands which attack: a table of rules and attacks over three seeds.

python examples/robust_study.py             # about a minute
"""

import fedsim

COMMON = {"partition": "dirichlet", "partition.alpha": 1.0, "num_clients": 20, "rounds": 20, "threads": 1}


def main(seeds=(0, 1, 2), **settings):
    """Print the mean accuracy of every rule under every attack by a fifth of the clients."""
    grid = {"aggregator": ["fedavg", "median", "trimmed_mean", "multi_krum"], "seed": list(seeds)}
    tables = {}
    for attack in ("none", "sign_flip", "gaussian"):
        chosen = {"attack": attack} if attack == "none" else {"attack": attack, "attack.fraction": 0.2}
        table = fedsim.load(*fedsim.sweep(grid, COMMON, chosen, settings))
        last = table[table["round"] == table["round"].max()]
        tables[attack] = last.groupby("aggregator")["test_accuracy"].mean()
    print(f"{'':14}" + "".join(f"{attack:>12}" for attack in tables))
    for rule in grid["aggregator"]:
        print(f"{rule:14}" + "".join(f"{column[rule]:12.3f}" for column in tables.values()))
    return tables


if __name__ == "__main__":
    main()
