"""A few windows in the archive's own files: a folder, the zip in it, and the zip in the zip."""

import io
import zipfile

import numpy as np
import pytest

from fedsim.data import har
from fedsim.data.dataset import Task
from fedsim.data.har import SIGNALS, Har
from fedsim.errors import FieldError, UserError

TRAIN_LABELS, TRAIN_SUBJECTS = [5] * 5 + [1] * 2 + [1] * 3, [7] * 7 + [2] * 3
TEST_LABELS, TEST_SUBJECTS = [6] * 3, [4] * 3
"""Stretches of 5, 2, 3 and 3 windows of subjects 7, 7, 2 and 4."""


def lines(rows):
    return "".join("  " + "  ".join(f"{value: .7e}" for value in row) + "\n" for row in rows)


def files():
    """Signal s of window w, counted over both parts, is 100 w + s, rising by 0.1 a step."""
    contents, first = {}, 0
    for part, labels, subjects in (("train", TRAIN_LABELS, TRAIN_SUBJECTS), ("test", TEST_LABELS, TEST_SUBJECTS)):
        windows = np.arange(first, first + len(labels))
        first += len(labels)
        for s, name in enumerate(SIGNALS):
            rows = 100 * windows[:, None] + s + 0.1 * np.arange(128)
            contents[f"{part}/Inertial Signals/{name}_{part}.txt"] = lines(rows)
        contents[f"{part}/y_{part}.txt"] = "".join(f"{label}\n" for label in labels)
        contents[f"{part}/subject_{part}.txt"] = "".join(f"{subject}\n" for subject in subjects)
    return contents


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """The folder that holds "UCI HAR Dataset"."""
    for name, text in files().items():
        file = tmp_path / "archive" / "UCI HAR Dataset" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "archive"


def zipped(contents):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return packed.getvalue()


@pytest.fixture
def archive(tmp_path):
    inner = zipped({f"UCI HAR Dataset/{name}": text for name, text in files().items()})
    (tmp_path / "inner.zip").write_bytes(inner)
    (tmp_path / "outer.zip").write_bytes(zipped({"UCI HAR Dataset.names": b"", "UCI HAR Dataset.zip": inner}))
    return tmp_path


def load(path, **options):
    return Har(path=str(path), standardise=False, **options).load(0)


def test_stretches_by_hand(folder):
    """Of 5 windows 0.4 are 2: 0 and 1 train, 2 is the gap. Of 2 one would test and one be the gap: both train.

    Of 3, 1.2 are 1: the first trains. Subjects 2, 4, 7 are clients 0, 1, 2.
    """
    data = load(folder, test_fraction=0.4)
    assert data.task is Task.CLASSIFICATION
    assert (data.num_outputs, data.client_names) == (6, ("subject_2", "subject_4", "subject_7"))
    assert (data.train.inputs[:, 0, 0] / 100).tolist() == [0, 1, 5, 6, 7, 10]
    assert (data.test.inputs[:, 0, 0] / 100).tolist() == [3, 4, 9, 12]
    assert data.train.targets.tolist() == [4, 4, 0, 0, 0, 5]
    assert data.test.targets.tolist() == [4, 4, 0, 5]
    assert data.train.clients.tolist() == [2, 2, 2, 2, 0, 1]
    assert data.test.clients.tolist() == [2, 2, 0, 1]
    assert set(data.train.lengths) == {128}
    expected = 100 + np.arange(9) + 0.1 * np.arange(128)[:, None]
    np.testing.assert_allclose(data.train.inputs[1], expected, rtol=1e-6)


def test_every_form_of_the_archive_is_the_same(folder, archive):
    expected = load(folder, test_fraction=0.4)
    for path in (folder / "UCI HAR Dataset", archive / "inner.zip", archive / "outer.zip"):
        data = load(path, test_fraction=0.4)
        np.testing.assert_array_equal(data.train.inputs, expected.train.inputs)
        np.testing.assert_array_equal(data.test.clients, expected.test.clients)


def test_standardised(folder):
    train = Har(path=str(folder), test_fraction=0.4).load(0).train.inputs.astype(np.float64)
    np.testing.assert_allclose(train.mean((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(train.std((0, 1)), 1, rtol=1e-6)


def test_second_load_does_not_convert(archive, monkeypatch):
    first = load(archive / "outer.zip", test_fraction=0.4)

    def convert(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(Har, "_convert", convert)
    again = load(archive / "outer.zip", test_fraction=0.4)
    np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
    with pytest.raises(AssertionError, match="converted again"):
        load(archive / "inner.zip")


def test_fetched_if_no_path_is_given(archive, monkeypatch):
    def fetch(url, known_hash, *rest):
        assert (url, known_hash) == (har.URL, f"sha256:{har.SHA256}")
        return archive / "outer.zip"

    monkeypatch.setattr(har, "fetch", fetch)
    assert len(Har(test_fraction=0.4).load(0).train) == 6


def test_damaged_zip(archive):
    whole = (archive / "outer.zip").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>404</html>"):
        (archive / "bad.zip").write_bytes(content)
        with pytest.raises(UserError, match=r"data\.path=.*bad\.zip is damaged or not the data's zip") as error:
            load(archive / "bad.zip")
        assert "\n" not in str(error.value)


def test_other_zip(archive):
    (archive / "bad.zip").write_bytes(zipped({"a.txt": b"a"}))
    with pytest.raises(UserError, match=r"zip has no UCI HAR Dataset/train/Inertial Signals/body_acc_x_train\.txt"):
        load(archive / "bad.zip")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train/y_train.txt", "5\n", "body_acc_x_train.txt has 10 rows of 128 numbers and must have 1 of 128"),
        ("train/y_train.txt", "9\n" * 10, "labels in train must be 1 to 6"),
        ("test/subject_test.txt", "4\n4\n", "subject_test.txt has 2 rows of 1 numbers and must have 3 of 1"),
        ("test/subject_test.txt", "", "subject_test.txt is not a table of numbers"),
        ("test/Inertial Signals/total_acc_z_test.txt", "1 2\n3\n5 6\n", "total_acc_z_test.txt has a value"),
        ("test/Inertial Signals/total_acc_z_test.txt", "1 2\n3 x\n5 6\n", "total_acc_z_test.txt is not a table"),
        ("test/Inertial Signals/total_acc_z_test.txt", "1 2\n3 4\n5 6\n", "has 3 rows of 2 numbers"),
    ],
)
def test_bad_files(folder, name, text, message):
    (folder / "UCI HAR Dataset" / name).write_text(text)
    with pytest.raises(UserError) as error:
        load(folder)
    assert message in str(error.value)
    assert f"data.path={folder}" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files(tmp_path, folder):
    with pytest.raises(UserError, match=r"data\.path=.*no file or folder"):
        load(tmp_path / "nothing")
    (folder / "UCI HAR Dataset" / "test" / "y_test.txt").unlink()
    with pytest.raises(UserError, match=r"data\.path=.*there is no file .*y_test\.txt"):
        load(folder)


def test_no_stretch_is_long_enough(folder):
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.05: no stretch"):
        load(folder, test_fraction=0.05)


@pytest.mark.parametrize(
    ("field", "values"),
    [("path", {"path": ""}), ("test_fraction", {"test_fraction": 0.0}), ("test_fraction", {"test_fraction": 1.0})],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Har(**values)
    assert error.value.field == field
