"""`scripts/privacy_curve.py`: what it compares, how it chooses, and that it goes on where it stopped."""

import csv
import importlib.util
import random
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.errors import UserError
from fedsim.federation.prepare import prepare

SCRIPTS = Path(fedsim.__file__).parents[1] / "scripts"
SMALL = ("--populations", "8", "--cohort", "2", "--rounds", "5", "--seeds", "2", "--epsilons", "20")
QUICK = ("model.hidden_size=2", "client.steps=1", "engine.kernels=torch")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("privacy_curve", SCRIPTS / "privacy_curve.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "privacy_curve", module)  # where its dataclasses look up their names
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def text(tmp_path):
    """Eight clients of a thousand characters each."""
    draw = random.Random(0)  # noqa: S311  # not a secret
    path = tmp_path / "text.txt"
    path.write_text("".join(draw.choice("abc ") for _ in range(8000)))
    return path


@pytest.fixture
def task(script, text, tmp_path):
    return script.Task(text, tmp_path / "curve", 5, 2, QUICK)


@pytest.mark.parametrize("name", ["central_dp", "dp_ftrl", "matrix_factorisation"])
def test_all_mechanisms_are_given_the_same(script, task, name):
    """Eight clients, two in a round (in the mean), five rounds, one delta, one norm: epsilon is that asked for."""
    pytest.importorskip("dp_accounting")
    experiment = script.check_request(script.normalise(script.Request(task.settings(8, name, 20.0))))[0].experiment
    simulation = prepare(experiment)
    assert (simulation.population.num_clients, experiment.rounds) == (8, 5)
    budget, settings = simulation.privacy.budget, simulation.privacy.settings
    assert budget.expected == pytest.approx(2)
    assert (settings.clip_norm, settings.delta) == (1, 1e-5)
    assert budget.epsilon(5) == pytest.approx(20, rel=1e-2)
    if name == "dp_ftrl":
        assert settings.restart_every == 4  # clients are 8 / 2 rounds apart


def test_trees_are_as_long_as_clients_are_apart(script):
    """The next power of two, unless one tree holds all rounds."""
    assert [script.restarts(apart, 100) for apart in (10, 40, 64)] == [
        ("privacy.restart_every=16",),
        ("privacy.restart_every=64",),
        ("privacy.restart_every=64",),
    ]
    assert script.restarts(65, 100) == ()


def test_learning_rates_are_chosen_on_validation_data(script):
    """Test accuracy, which would choose 0.05, and the other seeds have no say."""

    class Made:
        def __init__(self):
            self.asked = []

        def point(self, clients, mechanism, epsilon, rate, seed):
            self.asked.append((rate, seed))
            validation = {0.05: 0.1, 0.2: 0.3, 0.8: 0.2}[rate]
            return script.Point(clients, mechanism, epsilon, rate, seed, validation, 1 - rate)

    made = Made()
    points = next(iter(script.curve(made, [8], [2.0], 3)))
    assert made.asked == [(0.05, 0), (0.2, 0), (0.8, 0), (0.2, 1), (0.2, 2)]
    assert [(one.server_lr, one.seed) for one in points] == [(0.2, 0), (0.2, 1), (0.2, 2)]


def test_it_goes_on_where_it_stopped(script, text, tmp_path, capsys, monkeypatch):
    pytest.importorskip("dp_accounting")
    pytest.importorskip("matplotlib")
    out = tmp_path / "curve"
    arguments = ["--data", str(text), "--out", str(out), *SMALL, *QUICK]
    assert script.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == [f"`{name}`" for name in script.NAMES]
    with (out / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"] * 4
    assert {round(float(row["epsilon"])) for row in rows if row["epsilon"]} == {20}
    scores = [float(row["test_accuracy"]) for row in rows[:2]]
    assert f"{sum(scores) / 2:.3f} | {min(scores):.3f} to {max(scores):.3f} |" in lines[2]
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")

    one = out / "8" / "none-lr0.8-seed0"
    (one / "summary.json").unlink()  # as if it had been killed
    made = []
    run = script.run_experiment
    monkeypatch.setattr(script, "run_experiment", lambda *given: made.append(given[-1]) or run(*given))
    assert script.main(arguments) == 0
    assert made == [one]
    assert capsys.readouterr().out.splitlines() == lines

    assert script.main([*arguments, "client.steps=2"]) == 2
    assert "remove it, or choose another --out" in capsys.readouterr().err


def test_what_fails_is_told(script, task, monkeypatch):
    monkeypatch.setattr(script, "run_experiment", lambda *_: "failed")
    with pytest.raises(UserError, match=r"none-lr0\.2-seed0: failed; remove it"):
        task.point(8, "none", None, 0.2, 0)
    monkeypatch.setattr(script, "run_experiment", lambda *_: "diverged")
    assert task.point(8, "none", None, 0.8, 0).validation_accuracy == 0
