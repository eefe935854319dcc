"""Sequences as samples, named by a column or by files, with labels of their own or in another table."""

import numpy as np
import pandas as pd
import pytest

from fedsim.data.dataset import Task

LABELLED = {"task": "classification", "target_column": "label"}


def recordings(table, count=20, folder="rec", ending=".csv"):
    """A file per recording, of 2 to 5 rows: recording k has x = k + 0.1 row."""
    for k in range(count):
        rows = "".join(f"{k + row / 10:.1f}\n" for row in range(2 + k % 4))
        path = table("x\n" + rows, f"{folder}/r{k:02d}{ending}")
    return path.rpartition("/")[0]


def labels(table, count=20, name="labels.csv", ending=".csv", column="file"):
    rows = "".join(f"r{k:02d}{ending},{'up' if k % 2 else 'down'},s{k % 4},{100 + k}\n" for k in range(count))
    return table(f"{column},label,subject,age\n{rows}", name)


def test_a_label_per_file(table, load):
    """20 recordings; a fifth of each label tests; each sample is its file, padded with zeros."""
    data = load(recordings(table), labels=labels(table), sequence_column="file", window=10, **LABELLED)
    assert (data.task, data.num_outputs, data.client_names) == (Task.CLASSIFICATION, 2, None)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert np.bincount(data.test.targets).tolist() == [2, 2]
    seen = []
    for split in (data.train, data.test):
        for inputs, length, target in zip(split.take()[..., 0], split.lengths, split.targets, strict=True):
            k = round(float(inputs[0]))
            seen.append(k)
            assert length == 2 + k % 4
            assert target == k % 2  # down is 0, up is 1
            expected = [k + row / 10 if row < length else 0 for row in range(5)]
            np.testing.assert_allclose(inputs, expected, rtol=1e-6)
    assert sorted(seen) == [*range(20)]
    assert "set data.client_column" in data.why_not_natural


@pytest.mark.parametrize("ending", ["", ".csv", ".wav"])
def test_how_the_table_names_the_files(table, load, refusal, ending):
    path = recordings(table)
    settings = {"labels": labels(table, ending=ending), "sequence_column": "file", **LABELLED}
    if ending == ".wav":
        said = refusal(path, **settings)
        assert "no file of data.path=" in said
        assert "the files are 'r00', 'r01', 'r02' and 17 more, the names 'r00.wav'" in said
    else:
        assert len(load(path, **settings).train) == 16


def test_files_in_folders(table, load, tmp_path):
    for who in ("ann", "bob"):
        for k in range(10):
            table(f"x\n{k}\n{k}\n", f"rec/{who}/{k}.csv")
    rows = "".join(f"data/{who}/{k}.csv,{k % 2},{who}\n" for who in ("ann", "bob") for k in range(10))
    settings = {"labels": table(f"file,label,who\n{rows}", "l.csv"), "client_column": "who", "sequence_column": "file"}
    data = load(str(tmp_path / "rec/*/*.csv"), **settings, **LABELLED)
    assert data.client_names == ("ann", "bob")
    assert np.bincount(data.train.clients).tolist() == [8, 8]


def test_the_client_of_each_file(table, load):
    """Four subjects of five recordings: one of each subject's five tests."""
    settings = {"labels": labels(table), "sequence_column": "file", "client_column": "subject"}
    data = load(recordings(table), **settings, **LABELLED)
    assert data.client_names == ("s0", "s1", "s2", "s3")
    assert np.bincount(data.train.clients).tolist() == [4] * 4
    assert np.bincount(data.test.clients).tolist() == [1] * 4
    for split in (data.train, data.test):
        k = np.round(split.take()[:, 0, 0]).astype(int)
        assert (k % 4 == split.clients).all()
        assert (k % 2 == split.targets).all()


def test_what_the_table_says_may_be_a_feature_or_a_number_to_predict(table, load):
    path, settings = recordings(table), {"labels": labels(table), "sequence_column": "file"}
    data = load(path, feature_columns=["x", "age"], **settings, **LABELLED)
    assert (data.train.take()[:, 0, 1] == 100 + np.round(data.train.take()[:, 0, 0])).all()
    data = load(path, task="regression", target_column="age", **settings)
    assert data.train.take().shape[2] == 1  # what nobody names is no feature
    assert (data.train.targets[:, 0] == 100 + np.round(data.train.take()[:, 0, 0])).all()


def test_sequences_named_by_a_column(table, load):
    """Trials 0 to 4 of two subjects are ten sequences; a label of its own in each row, the last of which counts."""
    rows = [(s, t, r, 10 * t + r, (t + 1) % 2 if r == 2 else 7) for s in "ab" for t in range(5) for r in range(3)]
    path = table(pd.DataFrame(rows, columns=["who", "trial", "t", "x", "label"]).to_csv(index=False))
    settings = {"client_column": "who", "sequence_column": "trial", "time_column": "t", "window": 2}
    data = load(path, **settings, **LABELLED)
    assert data.client_names == ("a", "b")
    assert (len(data.train), len(data.test), data.num_outputs) == (8, 2, 2)
    trial = data.train.take()[:, 0, 0] // 10
    assert (data.train.take()[:, :, 0] == trial[:, None] * 10 + [1, 2]).all()  # the last two of three rows
    assert (data.train.targets == (trial + 1) % 2).all()
    assert "10 of 10 sequences have more than 2 rows (the longest 3): the last 2 are taken (data.window)" in data.notes


def test_files_are_clients_of_sequences_that_a_column_names(table, load):
    for who in ("ann", "bob"):
        rows = "".join(f"{k // 2},{k},{k // 2 % 2}\n" for k in range(20))
        path = table(f"trial,x,label\n{rows}", f"f/{who}.csv")
    data = load(path.rpartition("/")[0], sequence_column="trial", **LABELLED)
    assert data.client_names == ("ann", "bob")
    assert np.bincount(data.train.clients).tolist() == [8, 8]


def test_rows_and_labels_in_two_tables(table, load):
    """As the robots of CareerCon: rows of series in one table, label and group of each in another."""
    path = table("series,x\n" + "".join(f"{s},{s}\n{s},{s}\n" for s in range(20)), "X.csv")
    label = table("series,group,label\n" + "".join(f"{s},g{s % 2},{s // 2 % 2}\n" for s in range(20)), "y.csv")
    data = load(path, labels=label, sequence_column="series", client_column="group", **LABELLED)
    assert data.client_names == ("g0", "g1")
    x = data.train.take()[:, 0, 0].astype(int)
    assert (x // 2 % 2 == data.train.targets).all()


def test_sequences_of_several_rows_are_in_the_order_of_their_times(table, load, refusal):
    text = "s,t,x,label\n" + "".join(f"{s},{t},{t},{s % 2}\n" for s in range(10) for t in (2, 1))
    path, settings = table(text), {"sequence_column": "s", "time_column": "t", **LABELLED}
    assert "sequence '0': a.csv, line 3 (1) has an earlier 't' than a.csv, line 2" in refusal(path, **settings)
    assert load(path, sort=True, **settings).train.take()[0].ravel().tolist() == [1, 2]


def test_the_scale_is_that_of_training_rows_of_the_client(table, load):
    rows = "".join(f"{who},{s},{x},{s % 2}\n" for who in "ab" for s in range(10) for x in (s + 100 * (who == "b"), 3))
    path, columns = table(f"who,s,x,label\n{rows}"), {"client_column": "who", "sequence_column": "s"}
    raw = load(path, **columns, **LABELLED)
    data = load(path, scale="client", **columns, **LABELLED)
    for client in (0, 1):
        own = raw.train.take()[raw.train.clients == client].astype(np.float64)
        for one, two in ((data.train, raw.train), (data.test, raw.test)):
            expected = (two.inputs[two.clients == client] - own.mean()) / own.std()
            np.testing.assert_allclose(one.inputs[one.clients == client], expected, rtol=1e-5)


def test_sequences_that_cannot_be_used_are_counted(table, load, refusal):
    path = recordings(table)
    settings = {"sequence_column": "file", **LABELLED}
    data = load(path, labels=labels(table, count=10), **settings)
    assert len(data.train) + len(data.test) == 10
    where = f"10 sequences of 10 files have no row in data.labels={labels(table, count=10)}, and are left out"
    assert where in data.notes
    holes = labels(table).replace("labels", "holes")
    table("file,label\n" + "".join(f"r{k:02d},{'' if k < 2 else k % 2}\n" for k in range(20)), "holes.csv")
    assert "the value is missing" in refusal(path, labels=holes, **settings)
    for missing, note in (("drop", "5 of 70 rows dropped"), ("mask", "left out 2 of 20 sequences")):
        data = load(path, labels=holes, missing=missing, **settings)
        assert len(data.train) + len(data.test) == 18
        assert any(n.startswith(note) for n in data.notes)
        assert "left out 2 of 20 sequences without rows or target: 'r00', 'r01'" in data.notes


def test_one_sequence_of_a_client_trains(table, load, refusal):
    text = "who,s,x,label\n" + "".join(f"{'b' if s == 9 else 'a'},{s},{s},{s % 2}\n" for s in range(10))
    path, columns = table(text), {"client_column": "who", "sequence_column": "s", **LABELLED}
    data = load(path, test_fraction=0.5, **columns)
    assert 9 in data.train.take()[:, 0, 0]
    assert any(
        n.startswith("1 of 2 clients have too few sequences to test on (data.test_fraction=0.5)") for n in data.notes
    )
    alone = table("who,s,x,label\na,0,1,0\nb,1,2,1\n", "b.csv")
    assert "data.test_fraction=0.2: no client has enough sequences to test on" in refusal(alone, **columns)


def test_refused_tables_of_labels(table, refusal):
    path, settings = recordings(table), {"sequence_column": "file", **LABELLED}
    assert "data.labels=no.csv: no.csv cannot be read" in refusal(path, labels="no.csv", **settings)
    said = refusal(path, labels=labels(table, column="name"), **settings)
    assert "data.sequence_column=file: data.labels=" in said
    assert "has no such column; it has 'name', 'label', 'subject', 'age'" in said
    twice = table("file,label\nr00,1\nr01,2\nr00.csv,1\n", "twice.csv")
    assert "twice.csv, line 4 names 'r00.csv' again, as twice.csv, line 2" in refusal(path, labels=twice, **settings)
    empty = table("file,label\nr00,1\n,2\n", "empty.csv")
    assert "empty.csv, line 3, column 'file': the sequence is missing" in refusal(path, labels=empty, **settings)
    said = refusal(path, labels=labels(table), **settings | {"target_column": "lable"})
    assert "data.target_column=lable: r00.csv has no such column, nor has data.labels=" in said


def test_the_table_of_labels_may_lie_among_the_files(table, load):
    path = recordings(table)
    for place in (path, f"{path}/*.csv"):
        data = load(place, labels=labels(table, name="rec/labels.csv"), sequence_column="file", **LABELLED)
        assert len(data.train) + len(data.test) == 20


def test_other_labels_are_read_again(table, load):
    """The table of labels is part of what is cached."""
    path, settings = recordings(table), {"sequence_column": "file", **LABELLED}
    one = load(path, labels=labels(table), **settings)
    rows = "".join(f"r{k:02d},{'down' if k % 2 else 'up'}\n" for k in range(20))
    two = load(path, labels=table(f"file,label\n{rows}", "labels.csv"), **settings)
    k = np.round(two.train.take()[:, 0, 0]).astype(int)
    assert (two.train.targets == 1 - k % 2).all()
    assert (one.train.targets == np.round(one.train.take()[:, 0, 0]).astype(int) % 2).all()
