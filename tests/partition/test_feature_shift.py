"""The clients' sensors: what they do to inputs, and to nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.data.dataset import Dataset, Split, Task
from fedsim.data.population import build_population, observed
from fedsim.errors import FieldError, UserError
from fedsim.partition.feature_shift import FeatureShift
from fedsim.partition.iid import Iid

STEPS = 6


@pytest.fixture(scope="module")
def dataset():
    """Three features of deviation 1, 10 and 0 (always 4)."""

    def split(samples, seed):
        rng = np.random.default_rng(seed)
        inputs = rng.standard_normal((samples, STEPS, 3)) * [1, 10, 0] + [0, 0, 4]
        lengths = rng.integers(1, STEPS + 1, samples)
        inputs[np.arange(STEPS) >= lengths[:, None]] = 0
        return Split(inputs.astype(np.float32), lengths, rng.integers(0, 3, samples))

    return Dataset("toy", Task.CLASSIFICATION, split(4000, 0), split(2000, 1), 3)


def valid(split):
    return np.arange(STEPS) < split.lengths[:, None]


def differences(partition, dataset, clients, seed=0):
    """What each client sees and what there was, ``[steps, 3]``, of train and test."""
    assignment = partition.assign(dataset, clients, seed)
    seen = observed(dataset, assignment)
    for was, now, members in (
        (dataset.train, seen.train, assignment.train),
        (dataset.test, seen.test, assignment.test),
    ):
        assert now.inputs.dtype == np.float32
        assert (now.inputs[~valid(was)] == 0).all()
        assert now.targets is was.targets
        yield [(was.inputs[own][valid(was)[own]], now.inputs[own][valid(was)[own]]) for own in members]


def test_samples_are_dealt_as_in_iid(dataset, same):
    assert same(FeatureShift().assign(dataset, 7, 3), Iid().assign(dataset, 7, 3))


def test_noise_grows_with_the_clients_number(dataset):
    """Client n of 4 has noise 0.8 n/4 times the feature's deviation; of 1500 draws, to within 4 / sqrt(3000) = 7 %."""
    deviation = dataset.train.inputs[valid(dataset.train)].std(0)
    for split in differences(FeatureShift(noise=0.8), dataset, 4):
        for client, (was, now) in enumerate(split):
            assert len(was) > 1500
            np.testing.assert_allclose((now - was)[:, :2].std(0), 0.2 * (client + 1) * deviation[:2], rtol=0.07)
            np.testing.assert_array_equal(now[:, 2], 4)  # a feature that never changes has no noise either


@pytest.mark.parametrize(
    ("ramp", "levels"),
    [("from_zero", (0, 0.8 / 3, 1.6 / 3, 0.8)), ("variance", (0.2**0.5, 0.4**0.5, 0.6**0.5, 0.8**0.5))],
)
def test_ramps_of_the_text_and_of_the_code(dataset, ramp, levels):
    """Of four clients: 0.8 (n - 1) / 3, or a variance of 0.8 n / 4."""
    deviation = dataset.train.inputs[valid(dataset.train)].std(0)
    for split in differences(FeatureShift(noise=0.8, ramp=ramp), dataset, 4):
        for level, (was, now) in zip(levels, split, strict=True):
            np.testing.assert_allclose((now - was)[:, :2].std(0), level * deviation[:2], rtol=0.07)
    with pytest.raises(UserError, match=r"partition.ramp=from_zero: .* there is only one"):
        FeatureShift(ramp="from_zero").assign(dataset, 1, 0)


def test_scale_and_bias_belong_to_the_client(dataset):
    train, test = differences(FeatureShift(noise=0, scale=0.5, bias=0.3), dataset, 5)
    lines = []
    for (was, now), (was_test, now_test) in zip(train, test, strict=True):
        for feature in (0, 1):
            slope, offset = np.polyfit(was[:, feature], now[:, feature], 1)
            np.testing.assert_allclose(now[:, feature], slope * was[:, feature] + offset, atol=1e-3)
            np.testing.assert_allclose(now_test[:, feature], slope * was_test[:, feature] + offset, atol=1e-3)
            assert slope > 0
            lines.append((slope, offset))
    assert len(set(lines)) == 10


def test_sizes_of_scale_and_bias(dataset):
    """Logs of 400 gains have deviation 0.5 and offsets 0.3 std, each to within 4 / sqrt(2 * 400) = 14 %."""
    train, _ = differences(FeatureShift(noise=0, scale=0.5, bias=0.3), dataset, 400)
    gains = [(now[:, 0].max() - now[:, 0].min()) / (was[:, 0].max() - was[:, 0].min()) for was, now in train]
    offsets = [now[0, 1] - gain * was[0, 1] for was, now in train for gain in [np.polyfit(was[:, 1], now[:, 1], 1)[0]]]
    assert np.std(np.log(gains)) == pytest.approx(0.5, rel=0.14)
    assert np.std(offsets) == pytest.approx(0.3 * 10, rel=0.14)


def test_the_seed_decides(dataset):
    def seen(seed):
        return observed(dataset, FeatureShift(bias=1.0).assign(dataset, 5, seed))

    a, b, c = seen(0), seen(0), seen(1)
    np.testing.assert_array_equal(a.train.inputs, b.train.inputs)
    np.testing.assert_array_equal(a.test.inputs, b.test.inputs)
    assert not np.array_equal(a.train.inputs, c.train.inputs)


def test_the_population_holds_what_is_seen(dataset):
    """A validation split takes samples away and leaves the others as they were."""
    assignment = FeatureShift().assign(dataset, 5, 0)
    seen = observed(dataset, assignment)
    whole, split = (
        build_population(dataset, assignment, validation_fraction=fraction, seed=0, dtype=torch.float32)
        for fraction in (0.0, 0.25)
    )
    np.testing.assert_array_equal(whole.train.inputs.numpy(), seen.train.inputs[np.concatenate(assignment.train)])
    np.testing.assert_array_equal(whole.test.inputs.numpy(), seen.test.inputs[np.concatenate(assignment.test)])

    def rows(*parts):
        return sorted(row.numpy().tobytes() for part in parts for row in part.inputs)

    assert rows(split.train, split.local_validation) == rows(whole.train)
    assert not np.array_equal(whole.train.inputs.numpy(), dataset.train.inputs[np.concatenate(assignment.train)])


def test_tokens_have_no_sensors(dataset):
    with pytest.raises(UserError, match=r"partition=feature_shift: .*the inputs of toy are tokens"):
        FeatureShift().assign(replace(dataset, vocabulary_size=9), 5, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise": 0.0}, "noise=0.0: noise, scale and bias are all 0"),
        ({"noise": -1.0}, "noise="),
        ({"scale": 11.0}, "scale="),
        ({"ramp": "steep"}, "ramp=steep"),
        ({"ramp": "variance", "noise": 0.0, "bias": 1.0}, "ramp=variance: has an effect only with noise"),
        ({"bias": float("nan")}, "bias="),
    ],
)
def test_refused(values, message):
    with pytest.raises(FieldError, match=f"^{message}"):
        FeatureShift(**values)
