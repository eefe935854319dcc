"""The shipped utterances, compared with their source file read by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fedsim.data import japanese_vowels
from fedsim.data.dataset import Task
from fedsim.data.japanese_vowels import JapaneseVowels
from fedsim.errors import UserError
from fedsim.partition.labels_per_client import LabelsPerClient
from fedsim.partition.natural import Natural


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("cache")
        patch.setenv("FEDSIM_CACHE_DIR", str(directory))
        yield directory


@pytest.fixture(scope="module")
def dataset(cache_dir):
    return JapaneseVowels(standardise=False).load(0)


def test_sizes(dataset):
    assert dataset.task is Task.CLASSIFICATION
    assert (dataset.num_outputs, dataset.vocabulary_size) == (9, None)
    assert dataset.train.inputs.shape == (270, 29, 12)
    assert dataset.test.inputs.shape == (370, 29, 12)
    assert dataset.train.inputs.dtype == np.float32
    assert np.bincount(dataset.train.targets).tolist() == [30] * 9
    assert np.bincount(dataset.test.targets).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]


def test_values_and_padding_follow_the_file(dataset):
    """A line of the .ts file is one utterance: the 12 features' values, separated by colons, then the label."""
    package = importlib.util.find_spec("aeon").submodule_search_locations[0]
    file = Path(package, "datasets", "data", "JapaneseVowels", "JapaneseVowels_TEST.ts")
    lines = [line for line in file.read_text().splitlines() if line and line[0] not in "#@"]
    for index in (0, 200, 369):
        *features, label = lines[index].split(":")
        expected = np.array([[float(v) for v in feature.split(",")] for feature in features], np.float32).T
        length = dataset.test.lengths[index]
        assert length == len(expected)
        np.testing.assert_array_equal(dataset.test.inputs[index, :length], expected)
        assert not dataset.test.inputs[index, length:].any()
        assert dataset.test.targets[index] == int(label) - 1


def test_second_load_is_the_same_and_does_not_convert(dataset, monkeypatch):
    def convert():
        raise AssertionError("converted again")

    monkeypatch.setattr(japanese_vowels, "_convert", convert)
    again = JapaneseVowels(standardise=False).load(1)
    np.testing.assert_array_equal(again.train.inputs, dataset.train.inputs)
    np.testing.assert_array_equal(again.test.targets, dataset.test.targets)
    np.testing.assert_array_equal(again.test.lengths, dataset.test.lengths)


def test_standardised_over_training_frames_alone(dataset):
    scaled = JapaneseVowels().load(0)
    valid = np.arange(29) < scaled.train.lengths[:, None]
    frames = scaled.train.inputs[valid]
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-6)  # float32 frames
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-6)
    assert not scaled.train.inputs[~valid].any()
    raw = dataset.train.inputs[valid].astype(np.float64)
    first_test_frame = (dataset.test.inputs[0, 0] - raw.mean(0)) / raw.std(0)  # the training frames' mean and deviation
    np.testing.assert_allclose(scaled.test.inputs[0, 0], first_test_frame, rtol=1e-5)


def test_natural_is_refused_with_the_way_out(dataset):
    with pytest.raises(UserError, match=r"the label is the speaker.*partition=labels_per_client partition\.labels=1"):
        Natural().assign(dataset, None, 0)
    assignment = LabelsPerClient(labels=1).assign(dataset, 9, 0)
    speakers = [np.unique(dataset.train.targets[own]).tolist() for own in assignment.train]
    assert sorted(speakers) == [[speaker] for speaker in range(9)]
