"""What each attack does to rows or data, against NumPy and the papers' formulas."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from fedsim import seeding
from fedsim.attacks.alie import ALIE, largest_z
from fedsim.attacks.attack import NoAttack
from fedsim.attacks.backdoor import Backdoor
from fedsim.attacks.gaussian import Gaussian
from fedsim.attacks.ipm import IPM
from fedsim.attacks.label_flip import LabelFlip
from fedsim.attacks.min_max import MinMax
from fedsim.attacks.scale import Scale
from fedsim.attacks.sign_flip import SignFlip
from fedsim.data.dataset import IGNORE, Task
from fedsim.errors import FieldError, UserError
from fedsim.federation.prepare import prepare

pytestmark = pytest.mark.usefixtures("one_thread")
KEY = seeding.stream_key(0, "attack", 1)


@pytest.fixture
def benign():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(8, 30)) + 1)


def test_who_attacks():
    some = SignFlip(fraction=0.3)
    chosen = some.malicious(20, seed=0)
    assert int(chosen.sum()) == 6
    assert torch.equal(chosen, some.malicious(20, seed=0))
    assert any(not torch.equal(chosen, some.malicious(20, seed)) for seed in range(1, 4))
    assert SignFlip(fraction=None, clients=[3, 0]).malicious(5, 0).tolist() == [True, False, False, True, False]


def test_without_an_attack_updates_pass_as_they_are():
    updates = iter(())
    assert NoAttack().pass_on(updates, None) is updates
    assert NoAttack().columns == ()


def test_who_cannot():
    with pytest.raises(UserError, match=r"attack.fraction=0.1: of 4 client\(s\) nobody would attack"):
        SignFlip(fraction=0.1).malicious(4, 0)
    for wrong in ([5], [-1]):
        with pytest.raises(UserError, match="there are clients 0 to 4"):
            SignFlip(fraction=None, clients=wrong).malicious(5, 0)
    for changes in ({"clients": [1]}, {"fraction": None}, {"fraction": 1.5}, {"start_round": 0}):
        with pytest.raises(FieldError):
            SignFlip(**changes)
    for wrong in ([], [1, 1]):
        with pytest.raises(FieldError, match="must be different client numbers"):
            SignFlip(fraction=None, clients=wrong)


@pytest.mark.parametrize(
    ("attack", "factor"), [(SignFlip(factor=2), -2), (Scale(factor=7), 7), (Backdoor(factor=3), 3)]
)
def test_multiples(benign, attack, factor):
    np.testing.assert_allclose(attack.alter(benign, torch.arange(8), KEY), factor * benign)


def test_gaussian_is_noise_of_the_client(benign):
    clients = torch.arange(8)
    wide = torch.zeros(8, 20000)
    noise = Gaussian(std=3).alter(wide, clients, KEY)
    assert float(noise.std()) == pytest.approx(3, rel=0.02)
    assert abs(float(noise.mean())) < 0.05
    assert torch.equal(Gaussian(std=3).alter(wide[2:4], clients[2:4], KEY), noise[2:4])


def test_alie(benign):
    found = ALIE(z=1.5).forge(benign, 2)
    np.testing.assert_allclose(found, benign.numpy().mean(0) - 1.5 * benign.numpy().std(0))
    few = ALIE().forge(benign, 3)  # n = 11, s = 11 // 2 + 1 - 3 = 3, share = (8 - 3) / 8
    z = NormalDist().inv_cdf(5 / 8)
    np.testing.assert_allclose(few, benign.numpy().mean(0) - z * benign.numpy().std(0))


def test_z_max():
    """Baruch 2019, section 4: n = 50 with 24 % corrupted, m = 12: s = 26 - 12 = 14 of 38 honest, Phi(z) < 24 / 38."""
    assert largest_z(50, 12) == pytest.approx(NormalDist().inv_cdf(24 / 38))
    assert largest_z(10, 2) == 0  # s = 4 of 8 honest: one half
    assert largest_z(4, 4) == 0


def test_ipm(benign):
    np.testing.assert_allclose(IPM(epsilon=2).forge(benign, 2), -2 * benign.numpy().mean(0))


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
def test_min_max_is_as_far_as_it_may(benign, direction):
    """The largest distance to a benign row is the largest between two of them, and the row lies on the paper's line."""
    rows = benign.numpy()
    mean = rows.mean(0)
    p = {"std": -rows.std(0), "unit": -mean / np.linalg.norm(mean), "sign": -np.sign(mean)}[direction]
    found = MinMax(direction=direction).forge(benign, 2).numpy()
    assert cdist(found[None], rows).max() == pytest.approx(cdist(rows, rows).max())
    gamma = (found - mean) @ p / (p @ p)
    assert gamma > 0
    np.testing.assert_allclose(found, mean + gamma * p)


def test_min_max_of_equal_rows(benign):
    same = benign[:1].expand(4, -1)
    np.testing.assert_allclose(MinMax().forge(same, 1), same[0])


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.SEQUENCE_LABELLING])
def test_label_flip(tiny, task):
    population = prepare(tiny(task=task)).population
    bad = torch.zeros(population.num_clients, dtype=torch.bool)
    bad[1] = True
    found = LabelFlip().poison(population, bad, 0)
    own = slice(int(population.train.offsets[1]), int(population.train.offsets[2]))
    before, after = population.train.targets.clone(), found.train.targets
    flipped = torch.where(before[own] == IGNORE, IGNORE, population.num_outputs - 1 - before[own])
    assert torch.equal(after[own], flipped)
    assert not torch.equal(after, before)
    before[own] = flipped
    assert torch.equal(after, before)
    assert torch.equal(found.test.targets, population.test.targets)


def test_backdoor(tiny):
    population = prepare(tiny()).population
    bad = torch.tensor([False, True, False, False, False])
    attack = Backdoor(target=2, steps=2, value=9.0, poisoned=1.0)
    train, found = population.train, attack.poison(population, bad, 0).train
    owner = torch.repeat_interleave(torch.arange(5), train.sizes)
    for sample in range(len(train)):
        inputs, length = train.inputs[sample].clone(), int(train.lengths[sample])
        if owner[sample] == 1:
            inputs[max(0, length - 2) : length] = 9.0
        assert torch.equal(found.inputs[sample], inputs)
        assert found.targets[sample] == (2 if owner[sample] == 1 else train.targets[sample])
    some = replace(attack, poisoned=0.5).poison(population, bad, 0).train.inputs
    changed = (some != train.inputs).flatten(1).any(1)
    assert 0 < int(changed.sum()) < int((owner == 1).sum())
    trial = attack.trial(population.test)
    assert len(trial) == int((population.test.targets != 2).sum())
    assert trial.targets.unique().tolist() == [2]
    assert (trial.inputs == 9.0).all(2).any(1).all()


def test_what_cannot_be_poisoned(tiny):
    for task in (Task.REGRESSION, Task.SEQUENCE_LABELLING):
        population = prepare(tiny(task=task)).population
        with pytest.raises(UserError, match="attack=backdoor: needs labels of whole sequences"):
            Backdoor().poison(population, torch.ones(population.num_clients, dtype=torch.bool), 0)
    population = prepare(tiny(task=Task.REGRESSION)).population
    with pytest.raises(UserError, match="a regression has no labels"):
        LabelFlip().poison(population, torch.ones(5, dtype=torch.bool), 0)
    population = prepare(tiny()).population
    with pytest.raises(UserError, match=r"attack.target=4: there are classes 0 to 3"):
        Backdoor(target=4).poison(population, torch.ones(5, dtype=torch.bool), 0)


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        *((cls, "factor", 0) for cls in (SignFlip, Scale, Backdoor)),
        *(
            (Scale, "factor", 1),
            (Gaussian, "std", 0),
            (ALIE, "z", 0),
            (IPM, "epsilon", -1),
            (MinMax, "direction", "up"),
        ),
        *((Backdoor, "target", -1), (Backdoor, "steps", 0), (Backdoor, "poisoned", 0), (Backdoor, "poisoned", 2)),
        (Backdoor, "value", float("nan")),
    ],
)
def test_wrong_values(cls, field, value):
    with pytest.raises(FieldError, match=f"^{field}="):
        cls(**{field: value})


@pytest.mark.parametrize(
    ("base", "unwritten"),
    [("Attackers", "change"), ("DataAttackers", "poison"), ("RowAttackers", "alter"), ("CohortAttackers", "forge")],
)
def test_a_base_is_no_option(tiny, base, unwritten):
    with pytest.raises(UserError, match=f"attack: {base} is only the base of components, as it has no {unwritten}"):
        tiny(f"attack._target_=fedsim.attacks.attack.{base}")
