"""`scripts/reproduce.py`: the two quadratics of SCAFFOLD's figure 3."""

import importlib.util
from pathlib import Path

import pytest

import fedsim
from fedsim.corrections.none import NoCorrection
from fedsim.corrections.proximal import Prox
from fedsim.corrections.scaffold import Scaffold

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "reproduce.py"
LR, ROUNDS = 0.1, 50


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dissimilarity", [1, 10, 100])
@pytest.mark.parametrize(("steps", "mu"), [(1, 0.0), (2, 0.0), (10, 0.0), (10, 0.5)])
def test_local_steps_by_hand(study, dissimilarity, steps, mu):
    """Gradients ``2 y + G`` and ``-G``, and the pull ``mu (y - x)``; the server takes the mean of both ends."""
    x, expected = 1.0, []
    for _ in range(ROUNDS):
        first = second = x
        for _ in range(steps):
            first -= LR * (2 * first + dissimilarity + mu * (first - x))
            second -= LR * (-dissimilarity + mu * (second - x))
        x = (first + second) / 2
        expected.append(abs(x))
    found = study.quadratic(Prox(mu=mu) if mu else NoCorrection(), dissimilarity, steps, LR, ROUNDS)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dissimilarity", [1, 10, 100])
def test_scaffold_by_hand(study, dissimilarity):
    """Karimireddy 2020, Algorithm 1 with option II: it comes to the minimum whatever G is."""
    x, controls, steps, expected = 1.0, [0.0, 0.0], 2, []
    for _ in range(ROUNDS):
        mean, ends = sum(controls) / 2, []
        for k, (curvature, slope) in enumerate(((2, dissimilarity), (0, -dissimilarity))):
            y = x
            for _ in range(steps):
                y -= LR * (curvature * y + slope - controls[k] + mean)
            controls[k] += (x - y) / (steps * LR) - mean
            ends.append(y)
        x = sum(ends) / 2
        expected.append(abs(x))
    found = study.quadratic(Scaffold(), dissimilarity, steps, LR, ROUNDS)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert found[-1] < 1e-4
    assert study.quadratic(NoCorrection(), dissimilarity, steps, LR, ROUNDS)[-1] > 0.05 * dissimilarity


def test_the_table(study, capsys):
    study.quadratics()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1")]
    assert [row.count("|") for row in rows] == [7, 7, 7]
    assert rows[0].startswith("| 1 | 5.2e-03 | 5.6e-02 |")
