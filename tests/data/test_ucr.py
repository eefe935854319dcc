"""Archives' files in their own format: those that come with aeon, small ones, and a Zenodo on this machine."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fedsim.data import ucr
from fedsim.data.dataset import Task
from fedsim.data.fitted import Column, Fitted, Scaling
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
        target = ucr.cache_directories()[0] / folder / name
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


# The other kinds of files, in the archives' own layouts: UCR 2018, UCR 2015 and before, Weka.

TSV = ("2\t0.5\t-1.25\t3e-1\n1\t4\t5\tNaN\n", "1\t6\t7\t8\n")
OLD = (
    "  2.0000000e+00   5.0000000e-01  -1.2500000e+00   3.0000000e-01\n"
    "  1.0000000e+00   4.0000000e+00   5.0000000e+00\n",
    "   1.0000000e+00   6.0000000e+00   7.0000000e+00   8.0000000e+00\n",
)
COMMAS = ("2,0.5,-1.25,0.3\n1,4,5\n", "1.0,6,7,8\n")
WEKA = "% a comment\n@relation Tiny\n@attribute att0 numeric\n@attribute att1 numeric\n@attribute att2 real\n"
WEKA += "@attribute target {1,2}\n\n@data\n"
ARFF = (WEKA + "0.5,-1.25,0.3,2\n% another\n4,5,?,1\n", WEKA + "6,7,8,1\n")
SAME_TS = [ts(*lines, labels="1 2", univariate="true") for lines in (("0.5,-1.25,.3:2", "4,5:1"), ("6,7,8:1",))]

RELATION = """@relation Tiny
@attribute relationalAtt relational
   @attribute att0 numeric
   @attribute att1 numeric
   @attribute att2 numeric
@end relationalAtt
@attribute activity {'Stand Still',Walking}
@data
"""


@pytest.fixture
def write_as(tmp_path):
    def write(kind, train, test, folder="files"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for split, text in (("TRAIN", train), ("TEST", test)):
            (tmp_path / folder / f"Tiny_{split}{kind}").write_text(text)
        return str(tmp_path / "files")

    return write


@pytest.mark.parametrize(
    ("kind", "texts"),
    [(".tsv", TSV), (".txt", OLD), (".txt", COMMAS), ("", COMMAS), (".arff", ARFF), (".ts", SAME_TS)],
)
def test_kinds_of_files(write_as, kind, texts):
    """The same three series of one channel; the second of the training series has two values only."""
    data = Ucr(name="Tiny", path=write_as(kind, *texts), standardise=False).load(0)
    train = np.array([[0.5, -1.25, 0.3], [4, 5, 0]], np.float32)
    np.testing.assert_array_equal(data.train.inputs[..., 0], train)
    assert data.train.lengths.tolist() == [3, 2]
    assert data.test.inputs.tolist() == [[[6], [7], [8]]]
    assert (data.train.targets.tolist(), data.test.targets.tolist()) == ([1, 0], [0])
    assert data.fitted.labels == ("1", "2")
    assert [column.name for column in data.fitted.scaling.features] == ["channel_1"]
    assert len(data.notes) == (kind != ".ts")
    if data.notes:
        assert data.notes[0].startswith(f"Tiny_TRAIN{kind}: 1 of 2 series end in missing values, which are taken for")
    again = Ucr(name="Tiny", path=write_as(kind, *texts), standardise=False).load(0)
    assert again.notes == data.notes  # from the cache


def test_relational_arff(write_as):
    """A channel a row; the second series' last step has no value in any channel, and its second step one in one."""
    train = RELATION + "'1,2,3\\n10,20,30',Walking\n'4,?,?\\n40,50,?','Stand Still'\n"
    path = write_as(".arff", train, RELATION + "'7,8,9\\n70,80,90',Walking\n")
    with pytest.raises(UserError, match=r"missing values in 1 of 2 series; set data\.missing=interpolate"):
        Ucr(name="Tiny", path=path).load(0)
    data = Ucr(name="Tiny", path=path, missing="interpolate", standardise=False).load(0)
    assert data.train.inputs.tolist() == [[[1, 10], [2, 20], [3, 30]], [[4, 40], [4, 50], [0, 0]]]
    assert data.train.lengths.tolist() == [3, 2]
    assert data.test.inputs.tolist() == [[[7, 70], [8, 80], [9, 90]]]
    assert data.fitted.labels == ("stand still", "walking")
    assert data.train.targets.tolist() == [1, 0]
    assert len(data.notes) == 2
    assert data.notes[1] == (
        "Tiny_TRAIN.arff: missing values in 1 of 2 series are filled on straight lines (data.missing=interpolate)"
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("GunPoint", ".tsv"),
        ("GunPoint", ".arff"),
        ("ArrowHead", ".tsv"),
        ("ArrowHead", ".arff"),
        ("BasicMotions", ".arff"),
    ],
)
def test_published_files_that_come_with_aeon(name, kind, tmp_path):
    """The archives' own training files of other kinds hold the numbers and labels of the .ts file."""
    import aeon

    folder = Path(aeon.__file__).parent / "datasets" / "data" / name
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"{name}_{split}{kind}").symlink_to(folder / f"{name}_TRAIN{kind}")
    ours, its = Ucr(name=name, path=str(tmp_path)).load(0), Ucr(name=name).load(0)
    np.testing.assert_allclose(ours.train.inputs, its.train.inputs, atol=1e-5)  # files differ in the digits they keep
    np.testing.assert_array_equal(ours.train.targets, its.train.targets)
    np.testing.assert_array_equal(ours.train.lengths, its.train.lengths)
    assert ours.fitted.labels == its.fitted.labels
    assert ours.notes == ()


def test_ts_first_and_both_files_of_one_kind(write_as, tmp_path):
    write_as(".tsv", *TSV)
    path = write_as(".ts", TRAIN, TEST)
    assert Ucr(name="Tiny", path=path).load(0).train.features == 2
    (tmp_path / "files" / "Tiny_TEST.ts").unlink()
    assert Ucr(name="Tiny", path=path).load(0).train.features == 1
    (tmp_path / "files" / "Tiny_TEST.tsv").unlink()
    with pytest.raises(UserError, match=r"no file .*Tiny_TEST\.ts, nor are there both files in another kind \(\.tsv, "):
        Ucr(name="Tiny", path=path).load(0)


def test_folder_of_the_whole_archive(write_as):
    assert len(Ucr(name="Tiny", path=write_as(".tsv", *TSV, folder="files/Tiny")).load(0).train) == 2


@pytest.mark.parametrize(
    ("kind", "train", "message"),
    [
        (".tsv", "", "Tiny_TRAIN.tsv has no series"),
        (".tsv", "1\n", "has no values in line 1, only '1'"),
        (
            ".tsv",
            "label\tv1\tv2\n",
            "has a value in line 1 that is not a number (could not convert string to float: 'v1')",
        ),
        (".tsv", "1\t0,5\t0,6\n", "not a number"),
        (".tsv", "1\t2\t\t3\n", "not a number"),
        (".tsv", "1\t2\n2\tNaN\tNaN\n", "series 2 has no value"),
        (".tsv", "NaN\t2\n", "series 1 has no label"),
        (".tsv", "1\tinf\n", "infinite values"),
        (".tsv", "1\t2\nA\t3\na\t3\n", "labels that differ only in upper and lower case: ['1', 'A', 'a']"),
        (".txt", "\x80", "has no values in line 1"),
        (".arff", ARFF[0].replace("4,5,?,1", "4,5,1"), "cannot be read as a .arff file"),
        (".arff", ARFF[0].replace("4,5,?,1", "4,5,?,3"), "cannot be read as a .arff file"),
        (".arff", ARFF[0].replace("4,5,?,1", "{0 4,1 5}"), "cannot be read as a .arff file"),
        (".arff", ARFF[0].replace("4,5,?,1", "4,5,?,?"), "series 2 has no label"),
        (".arff", ARFF[0].replace("{1,2}", "numeric"), "its last attribute, 'target', is numeric"),
        (".arff", ARFF[0].replace("real", "{0.3}").replace("?", "0.3"), "neither numbers nor one relation"),
        (".arff", RELATION + "'1,2,3\\n10,20',Walking\n", "cannot be read as a .arff file"),
        (".arff", "", "cannot be read as a .arff file"),
        (".ts", TRAIN.replace("@timeStamps false", "@timeStamps true"), "@timeStamps true"),
    ],
)
def test_bad_files_of_other_kinds(write_as, kind, train, message):
    with pytest.raises(UserError) as error:
        Ucr(name="Tiny", path=write_as(kind, train, train)).load(0)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_prepared_as_a_model_was(write_as):
    """A model of labels 1, 2 and 3 whose channel has mean 2 and deviation 4: 6, 7, 8 become 1, 1.25, 1.5."""
    fitted = Fitted(Scaling((Column("channel_1", 2.0, 4.0),)), labels=("3", "1", "2"))
    data = Ucr(name="Tiny", path=write_as(".tsv", *TSV)).load_as(0, fitted)
    assert data.test.inputs[0, :, 0].tolist() == [1, 1.25, 1.5]
    assert (data.train.targets.tolist(), data.test.targets.tolist(), data.num_outputs) == ([2, 1], [1], 3)
    assert data.fitted == fitted
    with pytest.raises(UserError, match=r"data\.name=Tiny: .* labels that the model does not know: '2'; it knows '1'$"):
        Ucr(name="Tiny", path=write_as(".tsv", *TSV)).load_as(0, Fitted(labels=("1",)))


def test_scales_are_recorded(write):
    """Steps 1 to 5 of the first channel, ten times that in the second; see above."""
    first, second = Ucr(name="Tiny", path=write()).load(0).fitted.scaling.features
    assert (first.name, first.shift, first.scale) == ("channel_1", 3, pytest.approx(2**0.5))
    assert (second.name, second.shift, second.scale) == ("channel_2", 30, pytest.approx(10 * 2**0.5))
    plain = Ucr(name="Tiny", path=write(), standardise=False).load(0).fitted.scaling.features
    assert plain == (Column("channel_1"), Column("channel_2"))
