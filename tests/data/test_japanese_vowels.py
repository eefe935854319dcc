"""The shipped utterances, compared with their source file read by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.data.dataset import Task
from fedsim.data.japanese_vowels import JapaneseVowels
from fedsim.errors import UserError
from fedsim.partition.labels_per_client import LabelsPerClient
from fedsim.partition.natural import Natural

SCRIPT = Path(fedsim.__file__).parents[1] / "scripts" / "japanese_vowels.py"


@pytest.fixture(scope="module")
def dataset():
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


def test_all_values_are_those_that_aeon_reads(dataset):
    """What `scripts/japanese_vowels.py` would write is what is there."""
    spec = importlib.util.spec_from_file_location("made", SCRIPT)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    for name, expected in made.arrays().items():
        split, _, part = name.partition("_")
        found = getattr(dataset, split)
        if part == "frames":
            valid = np.arange(29) < found.lengths[:, None]
            np.testing.assert_array_equal(found.inputs[valid], expected)
        else:
            np.testing.assert_array_equal(getattr(found, part), expected)


def test_what_is_loaded_is_not_shared(dataset):
    again = JapaneseVowels(standardise=False).load(1)
    again.train.inputs[:] = 0
    assert JapaneseVowels(standardise=False).load(1).train.inputs.any()


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
