"""A keyboard that predicts the next character, learnt by the roles of a play, each of which keeps its lines.

python examples/keyboard.py [PLAY.txt]      # without a file, Shakespeare's plays are fetched once
"""

import sys

import fedsim


def main(path=None, **settings):
    """Compare a federation with roles that learn alone, and with all text in one place."""
    found = {}
    for baseline in ("none", "local", "centralised"):
        common = {"experiment": "keyboard_shakespeare", "baseline": baseline, "data.path": path, "eval.every": 10}
        if baseline == "centralised":
            common |= {"client.batch_size": 32}  # one client with all samples takes larger steps
        run = fedsim.run(common, {"rounds": 5 if baseline == "centralised" else 40}, settings)
        found[baseline] = run.metrics["test_accuracy"].dropna().iloc[-1]
    for baseline, accuracy in found.items():
        print(f"{baseline:12} next characters right: {accuracy:.3f}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:2])
