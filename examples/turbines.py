"""How many flights a turbofan engine has left, learnt by engines that send no sensor readings (NASA C-MAPSS).

python examples/turbines.py CMAPSS_FOLDER   # with train_FD001.txt, test_FD001.txt and RUL_FD001.txt
"""

import sys

import fedsim


def main(folder, **settings):
    """Compare rules that combine the engines' models, and print the error in flights."""
    rules = {"aggregator": ["fedavg", "fedadam", "median"]}
    runs = fedsim.sweep(rules, {"experiment": "turbofan_cmapss", "data.path": folder}, settings)
    table = fedsim.load(*runs)
    final = table[table["round"] == table["round"].max()].set_index("aggregator")["test_rmse"].sort_values()
    for rule, error in final.items():
        print(f"{rule:10} off by {error:.1f} flights (root mean square)")
    return final


if __name__ == "__main__":
    main(sys.argv[1])
