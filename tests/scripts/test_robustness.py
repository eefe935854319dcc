"""`scripts/robustness.py`: fedsim accepts every one of its runs, and the table has the right shape."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.config.compose import Request, check_request, normalise
from fedsim.federation.prepare import prepare

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "robustness.py"
SMALL = (
    *("data=synthetic", "data.clients=20", "data.samples_per_client=3", "data.length=3", "model.hidden_size=3"),
    "engine.kernels=torch",
)


@pytest.fixture(scope="module")
def robustness():
    spec = importlib.util.spec_from_file_location("robustness", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_attack_and_every_rule_is_accepted(robustness):
    for attack, rule in itertools.zip_longest(robustness.ATTACKS.values(), robustness.RULES.values(), fillvalue=()):
        prepare(check_request(normalise(Request((*robustness.BASE, *SMALL, *attack, *rule))))[0].experiment)


@pytest.mark.usefixtures("one_thread")
def test_the_table(robustness, monkeypatch, capsys):
    options = ("--rounds", "1", "--seeds", "1", "--attacks", "none,backdoor", "--rules", "mean,median")
    monkeypatch.setattr(sys, "argv", ["robustness.py", *options, *SMALL])
    robustness.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| rule | none | backdoor | success |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| mean", "| median"]
    assert all(0 <= float(value) <= 1 for line in lines[2:] for value in line.strip("| ").split(" | ")[1:])
