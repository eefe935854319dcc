"""Archives' files in their own format: those that come with aeon, small ones, and a Zenodo on this machine."""

import hashlib
import json

import numpy as np
import pytest

from fedsim.data import ucr
from fedsim.data.dataset import Task
from fedsim.data.ucr import Ucr
from fedsim.errors import FieldError, UserError
from fedsim.partition.natural import Natural

HEADER = """# a comment
@problemName Tiny
@timeStamps false
@missing {missing}
@univariate {univariate}
@equalLength {equal}
@classLabel true {labels}
@data
"""


def ts(*lines, labels="9 10", missing="false", univariate="false", equal="false"):
    header = HEADER.format(labels=labels, missing=missing, univariate=univariate, equal=equal)
    return header + "".join(f"{line}\n" for line in lines)


TRAIN = ts("1,2,3:10,20,30:10", "4,5:40,50:9")
TEST = ts("6,7,8,9:60,70,80,90:9")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write(tmp_path):
    def write(train=TRAIN, test=TEST):
        folder = tmp_path / "files"
        folder.mkdir(exist_ok=True)
        (folder / "Tiny_TRAIN.ts").write_text(train)
        (folder / "Tiny_TEST.ts").write_text(test)
        return str(folder)

    return write


def test_series_of_unequal_length_by_hand(write):
    """Padded to the longest of both files; the label 9 comes before 10, as they are numbers."""
    data = Ucr(name="Tiny", path=write(), standardise=False).load(0)
    assert (data.name, data.task, data.num_outputs) == ("Tiny", Task.CLASSIFICATION, 2)
    assert data.train.inputs.tolist() == [[[1, 10], [2, 20], [3, 30], [0, 0]], [[4, 40], [5, 50], [0, 0], [0, 0]]]
    assert data.train.lengths.tolist() == [3, 2]
    assert data.train.targets.tolist() == [1, 0]
    assert data.test.inputs.tolist() == [[[6, 60], [7, 70], [8, 80], [9, 90]]]
    assert data.test.targets.tolist() == [0]


def test_standardised_over_training_steps(write):
    """Steps 1 to 5 have mean 3 and variance 2, so that 9 becomes 6 / sqrt 2."""
    data = Ucr(name="Tiny", path=write()).load(0)
    assert data.train.inputs[0, :, 0] == pytest.approx([-(2**0.5), -(0.5**0.5), 0, 0])
    assert data.test.inputs[0, 3] == pytest.approx([6 / 2**0.5, 6 / 2**0.5])


def test_words_as_labels(write):
    train = ts("1:b", "2:a", labels="a b", univariate="true")
    data = Ucr(name="Tiny", path=write(train, ts("3:a", labels="a b", univariate="true")), standardise=False).load(0)
    assert data.train.targets.tolist() == [1, 0]


def test_channel_that_never_varies_becomes_zero(write):
    same = ts("5,5:1,2:9", "5,5:3,4:10")
    data = Ucr(name="Tiny", path=write(same, same)).load(0)
    assert not data.train.inputs[..., 0].any()
    assert data.train.inputs[..., 1].any()


def test_missing_values(write):
    """In 1, ?, 3, ? the first gap lies half-way and the last takes the nearest value; the other channel has none."""
    path = write(ts("1,?,3,?:?,?,?,?:9", "1,2:3,4:10", missing="true"))
    with pytest.raises(UserError, match=r"missing values in 1 of 2 series; set data\.missing=interpolate"):
        Ucr(name="Tiny", path=path).load(0)
    data = Ucr(name="Tiny", path=path, missing="interpolate", standardise=False).load(0)
    assert data.train.inputs[0].tolist() == [[1, 0], [2, 0], [3, 0], [3, 0]]


def test_what_comes_with_aeon():
    """Sizes from https://timeseriesclassification.com: 40 and 40 cases of 6 channels and 100 steps, 4 classes."""
    data = Ucr().load(0)
    assert data.train.inputs.shape == data.test.inputs.shape == (40, 100, 6)
    assert data.train.inputs.dtype == np.float32
    assert np.bincount(data.train.targets).tolist() == [10] * 4


def test_unequal_lengths_that_come_with_aeon():
    data = Ucr(name="JapaneseVowels").load(0)
    assert data.train.inputs.shape == (270, 29, 12)
    assert (data.train.lengths.min(), data.test.lengths.max()) == (7, 29)


def test_second_load_does_not_convert(write, monkeypatch):
    data = Ucr(name="Tiny", path=write()).load(0)

    def convert(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(ucr, "_convert", convert)
    np.testing.assert_array_equal(Ucr(name="Tiny", path=write()).load(1).train.inputs, data.train.inputs)
    with pytest.raises(AssertionError, match="converted again"):  # a changed file is another one
        Ucr(name="Tiny", path=write(TRAIN.replace("4,5", "4,6"))).load(0)


def test_natural_is_refused(write):
    with pytest.raises(UserError, match="does not say who was measured in Tiny"):
        Natural().assign(Ucr(name="Tiny", path=write()).load(0), None, 0)


@pytest.fixture
def zenodo(monkeypatch):
    """Stands in for the archive: `fetch` and `fetch_json` answer from a dictionary of files."""
    import aeon.datasets.tsc_datasets as known

    files = {"Tiny_TRAIN.ts": TRAIN, "Tiny_TEST.ts": TEST}
    monkeypatch.setitem(known.tsc_zenodo, "Tiny", 123)

    def record(url, by_hand):
        assert url == f"{ucr.RECORDS}/123"
        digests = {name: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for name, text in files.items()}
        entries = [
            {"key": k, "checksum": f"md5:{v}", "links": {"self": f"https://x/{k}/content"}} for k, v in digests.items()
        ]
        return json.loads(json.dumps({"files": entries}))

    def fetch(url, known_hash, folder, name, by_hand):
        text = files[url.split("/")[-2]]
        assert known_hash == f"md5:{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}"
        target = ucr.cache_directory() / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    monkeypatch.setattr(ucr, "fetch_json", record)
    monkeypatch.setattr(ucr, "fetch", fetch)
    return files


def test_fetched_once(zenodo, cache, monkeypatch):
    assert len(Ucr(name="Tiny").load(0).train) == 2
    names = {path.name for path in (cache / "ucr" / "Tiny").iterdir()}
    assert names == {"Tiny_TRAIN.ts", "Tiny_TEST.ts", "digests.json"}

    def download(*_):
        raise AssertionError("downloaded again")

    monkeypatch.setattr(ucr, "_download", download)
    assert len(Ucr(name="Tiny").load(0).train) == 2
    file = cache / "ucr" / "Tiny" / "Tiny_TEST.ts"
    file.write_text(file.read_text().replace("60,70", "61,70"))
    with pytest.raises(UserError, match=r"Tiny_TEST.ts is not what was fetched \(its MD5 has changed\); delete it"):
        Ucr(name="Tiny").load(0)


def test_record_without_the_files(zenodo):
    del zenodo["Tiny_TEST.ts"]
    with pytest.raises(UserError, match=r"does not list Tiny_TRAIN\.ts.*zenodo\.org/records/123 and set data\.path"):
        Ucr(name="Tiny").load(0)


def test_no_network_is_one_line(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(ucr, "RECORDS", "http://127.0.0.1:9/api/records")  # a port without a server
    with pytest.raises(UserError) as error:
        Ucr(name="ECG5000").load(0)
    assert "cannot be reached; download ECG5000_TRAIN.ts and ECG5000_TEST.ts from https://zenodo.org/" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_unknown_name():
    with pytest.raises(UserError, match=r"data\.name=ECG500: is not in .* \(did you mean 'ECG5000'\?\)"):
        Ucr(name="ECG500").load(0)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": ""}, "Tiny_TRAIN.ts has no series"),
        ({"train": ts()}, "Tiny_TRAIN.ts has no series"),
        ({"train": ts("1,x:3,4:9")}, "Tiny_TRAIN.ts cannot be read as a .ts file"),
        ({"train": ts("1,2:3:9")}, "Tiny_TRAIN.ts cannot be read as a .ts file"),
        ({"test": ts("1,2:9")}, "Tiny_TEST.ts has series of 1 channels and of 2"),
        ({"test": ts("1,inf:3,4:9")}, "Tiny_TEST.ts has infinite values"),
        ({"test": TEST.replace("@classLabel true 9 10", "@targetlabel true")}, "Tiny_TEST.ts has no class labels"),
    ],
)
def test_bad_files(write, files, message):
    with pytest.raises(UserError) as error:
        Ucr(name="Tiny", path=write(**files)).load(0)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"data\.path=.*: there is no file .*Tiny_TRAIN\.ts"):
        Ucr(name="Tiny", path=str(tmp_path)).load(0)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "../etc"}),
        ("name", {"name": "a/b"}),
        ("path", {"path": ""}),
        ("missing", {"missing": "zero"}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Ucr(**values)
    assert error.value.field == field


# ---------------------------------------------------------------------------------------------------------------------
# other kinds of files


def files(tmp_path, ending, train, test):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / f"Tiny_TRAIN.{ending}").write_text(train)
    (folder / f"Tiny_TEST.{ending}").write_text(test)
    return str(folder)


SHORT = ("3\t0.5\t1.5\t-2\n12\t7\t8\tNaN\n", "12\t1\tNaN\tNaN\n")
OLD = ("   3.0000000e+00   5.0000000e-01   1.5000000e+00  -2.0\n  12.0e+00 7 8 NaN\n", "12,1,NaN,NaN\n")
WEKA = (
    "@relation Tiny\n"
    + "".join(f"@attribute att{k} numeric\n" for k in range(3))
    + "@attribute target {3,12}\n\n@data\n"
)


@pytest.mark.parametrize(
    ("ending", "train", "test"),
    [("tsv", *SHORT), ("txt", *OLD), ("arff", WEKA + "0.5,1.5,-2,3\n7,8,?,12\n", WEKA + "1,?,?,12\n")],
)
def test_other_kinds_of_files(tmp_path, ending, train, test):
    """Series 0.5, 1.5, -2 with label 3 and 7, 8 with label 12, whose third value is padding; a test series of 1."""
    data = Ucr(name="Tiny", path=files(tmp_path, ending, train, test), standardise=False).load(0)
    assert data.train.inputs[:, :, 0].tolist() == [[0.5, 1.5, -2], [7, 8, 0]]
    assert data.train.lengths.tolist() == [3, 2]
    assert data.test.lengths.tolist() == [1]
    assert data.test.inputs[0, 0, 0] == 1
    assert data.fitted.labels == ("3", "12")  # by value
    assert data.train.targets.tolist() == [0, 1]
    assert data.test.targets.tolist() == [1]


def test_several_channels_in_a_relation(tmp_path):
    """Weka's form of the UEA archive: the channels of a series in quotes, with \\n between them."""
    head = "@relation Tiny\n@attribute both relational\n@attribute t0 numeric\n@attribute t1 numeric\n@end both\n"
    head += "@attribute class {up,down}\n@data\n"
    folder = files(tmp_path, "arff", head + "'1,2\\n10,20',up\n'3,4\\n30,40',down\n", head + "'5,6\\n50,60',up\n")
    data = Ucr(name="Tiny", path=folder, standardise=False).load(0)
    assert data.train.inputs.tolist() == [[[1, 10], [2, 20]], [[3, 30], [4, 40]]]
    assert data.fitted.labels == ("down", "up")
    assert data.train.targets.tolist() == [1, 0]


def test_a_value_that_is_missing_inside_a_series(tmp_path):
    folder = files(tmp_path, "tsv", "1\t2\tNaN\t4\n2\t1\t1\t1\n", "1\t1\t2\t3\n")
    with pytest.raises(UserError, match=r"missing values in 1 of 2 series; set data.missing=interpolate"):
        Ucr(name="Tiny", path=folder).load(0)
    data = Ucr(name="Tiny", path=folder, standardise=False, missing="interpolate").load(0)
    assert data.train.inputs[0, :, 0].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("ending", "train", "message"),
    [
        ("tsv", "1\n2\n", "a label and at least one value"),
        ("tsv", "", "cannot be read as a .tsv file"),
        ("tsv", "1\tx\t2\n", "cannot be read as a .tsv file"),
        ("tsv", "1\tNaN\t2\n2\t\t\n", "has a series without values"),
        ("txt", "1 2 3\n1 2 3 4 5\n", "cannot be read as a .txt file"),
        ("arff", WEKA + "1,2,3\n1,2,3,12\n", "cannot be read as a .arff file"),
        ("arff", WEKA, "has no series"),
    ],
)
def test_damaged_files(tmp_path, ending, train, message):
    with pytest.raises(UserError) as caught:
        Ucr(name="Tiny", path=files(tmp_path, ending, train, train)).load(0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ts_comes_first(tmp_path, write):
    folder = write()
    (tmp_path / "files" / "Tiny_TRAIN.tsv").write_text(SHORT[0])
    (tmp_path / "files" / "Tiny_TEST.tsv").write_text(SHORT[1])
    assert Ucr(name="Tiny", path=folder).load(0).fitted.labels == ("9", "10")


def test_prepared_as_a_model_knows_them(tmp_path, write):
    """Labels keep their numbers, and channels their scale; a label that the model does not know is refused."""
    data = Ucr(name="Tiny", path=write()).load(0)
    later = Ucr(name="Tiny", path=write(train=ts("9,9:9,9:10", "4,5:40,50:10", labels="10"), test=TEST))
    again = later.load_as(0, data.fitted)
    assert again.train.targets.tolist() == [1, 1]
    assert again.fitted == data.fitted
    shift, scale = data.fitted.scaling.features[0].shift, data.fitted.scaling.features[0].scale
    assert again.train.inputs[0, 0, 0] == pytest.approx((9 - shift) / scale)
    other = Ucr(name="Tiny", path=write(train=ts("9,9:9,9:11", "4,5:40,50:10", labels="10 11"), test=TEST))
    with pytest.raises(UserError, match="labels that the model does not know: '11'; it knows '9', '10'"):
        other.load_as(0, data.fitted)
