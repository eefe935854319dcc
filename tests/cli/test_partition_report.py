"""A split in numbers, and how it is shown."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.spatial import distance

from fedsim.cli.partition_report import describe, jensen_shannon, render, summary, total_variation
from fedsim.data.dataset import IGNORE, Assignment, Dataset, Split, Task
from fedsim.errors import UserError


def split_of(targets, inputs=None, lengths=None):
    targets = np.array(targets)
    inputs = np.zeros((len(targets), 2, 1), np.float32) if inputs is None else np.array(inputs, np.float32)
    return Split(inputs, np.full(len(targets), 2) if lengths is None else np.array(lengths), targets)


def assignment_of(train, test):
    names = tuple(f"c{k}" for k in range(len(train)))
    return Assignment([np.array(own, np.int64) for own in train], [np.array(own, np.int64) for own in test], names)


@pytest.fixture
def labelled():
    """Labels 0 0 1 1 2 of five training samples; sample 1 is shorter."""
    inputs = np.zeros((5, 2, 1))
    inputs[:, :, 0] = [[1, 1], [3, 0], [0, 0], [0, 2], [1, 1]]
    train = split_of([0, 0, 1, 1, 2], inputs, [2, 1, 2, 2, 2])
    return Dataset("toy", Task.CLASSIFICATION, train, split_of([0, 1, 2]), 3)


@given(data=st.data(), labels=st.integers(1, 6), clients=st.integers(1, 5))
def test_distances_are_those_of_scipy(data, labels, clients):
    counts = st.lists(st.integers(0, 9), min_size=labels, max_size=labels).filter(any)
    drawn = np.array(data.draw(st.lists(counts, min_size=clients + 1, max_size=clients + 1)), float)
    shares = drawn / drawn.sum(1, keepdims=True)
    p, q = shares[:-1], shares[-1]
    np.testing.assert_allclose(jensen_shannon(p, q), [distance.jensenshannon(one, q, 2) for one in p], atol=1e-7)
    np.testing.assert_allclose(total_variation(p, q), [distance.cityblock(one, q) / 2 for one in p], atol=1e-12)


def test_distances_at_their_ends():
    p = np.array([[1.0, 0, 0], [0, 0.5, 0.5]])
    np.testing.assert_allclose(total_variation(p, p[1]), [1, 0])
    np.testing.assert_allclose(jensen_shannon(p, p[1]), [1, 0])


def test_labels_by_hand(labelled):
    """All together hold (2 2 1)/5; c0 holds (2 1 0)/3, |2/3 - 2/5| = 4/15 and 1/15 and 3/15: half of 8/15."""
    table = describe(labelled, assignment_of([[0, 1, 2], [3, 4]], [[0, 1], []])).table
    assert [*table.columns] == [
        *("client", "name", "train_samples", "test_samples", "total_variation", "jensen_shannon"),
        *("mean_length", "input_mean", "input_std", "share_0", "share_1", "share_2"),
    ]
    assert table["client"].tolist() == [0, 1]
    assert table["name"].tolist() == ["c0", "c1"]
    assert table["train_samples"].tolist() == [3, 2]
    assert table["test_samples"].tolist() == [2, 0]
    np.testing.assert_allclose(table["total_variation"], [4 / 15, 4 / 10])
    np.testing.assert_allclose(table.filter(like="share").to_numpy(), [[2 / 3, 1 / 3, 0], [0, 1 / 2, 1 / 2]])
    np.testing.assert_allclose(table["mean_length"], [5 / 3, 2])
    steps = [[1, 1, 3, 0, 0], [0, 2, 1, 1]]  # without the padding
    np.testing.assert_allclose(table["input_mean"], [np.mean(own) for own in steps])
    np.testing.assert_allclose(table["input_std"], [np.std(own) for own in steps])


def test_unassigned_samples_are_reported(labelled):
    report = describe(labelled, assignment_of([[0], [3]], [[0], []]))
    assert report.left_over == (3, 2)
    lines = summary(report)
    assert lines["held by no client"] == "3 training and 2 test samples"
    assert lines["clients"] == "2, of which 1 without test samples"
    assert lines["training samples"] == "2, per client min 1, median 1, max 1"
    # Both together are (1 1 0)/2, so each is half away.
    assert "mean total variation 0.500 (max 0.500)" in lines["heterogeneity"]
    assert "held by no client" not in summary(describe(labelled, assignment_of([[0, 1, 2, 3, 4]], [[0, 1, 2]])))


def test_what_the_clients_see_is_measured(labelled):
    def observe(split, members, number):
        return replace(split, inputs=split.inputs + np.float32(10))

    table = describe(labelled, replace(assignment_of([[4]], [[0]]), observe=observe)).table
    assert table["input_mean"].tolist() == [11]


def test_a_regression():
    dataset = Dataset("toy", Task.REGRESSION, split_of(np.arange(20.0)[:, None]), split_of([[0.0]]), 1)
    report = describe(dataset, assignment_of([range(10), range(10, 20)], [[0], []]))
    np.testing.assert_allclose(report.table["target_mean"], [4.5, 14.5])
    np.testing.assert_allclose(report.table["target_std"], np.std(np.arange(10)))
    assert (report.kind, report.categories) == ("quantile", (*"123456789", "10"))
    np.testing.assert_allclose(report.shares, np.repeat([[0.2, 0], [0, 0.2]], 5, axis=1))
    np.testing.assert_allclose(report.table["total_variation"], 0.5)


def test_tokens():
    """c0 predicts 5 5 5 3, c1 predicts 5 3; what is ignored does not count, and the most frequent token comes first."""
    targets = [[5, 5, 5], [3, IGNORE, IGNORE], [5, 3, IGNORE]]
    train = Split(np.zeros((3, 3), np.int64), np.array([3, 1, 2]), np.array(targets))
    dataset = Dataset("toy", Task.SEQUENCE_LABELLING, train, train, 6, vocabulary_size=6)
    report = describe(dataset, assignment_of([[0, 1], [2]], [[0, 1], [2]]))
    assert report.kind == "token"
    assert report.categories[:2] == ("5", "3")
    np.testing.assert_allclose(report.shares[:, :2], [[3 / 4, 1 / 4], [1 / 2, 1 / 2]])
    np.testing.assert_allclose(report.table["total_variation"], [3 / 4 - 4 / 6, 4 / 6 - 1 / 2])
    assert "input_mean" not in report.table


def test_true_groups_are_named(labelled):
    """The data's own clients 0 and 2 are of group 1, client 1 of group 0; of a client with both nothing is known."""
    owners = np.array([0, 0, 1, 1, 2])
    dataset = replace(labelled, train=replace(labelled.train, clients=owners), groups=np.array([1, 0, 1]))
    report = describe(dataset, assignment_of([[0, 4], [3, 2]], [[0], [1]]))
    assert report.table["group"].tolist() == [1, 0]
    assert [*report.table.columns][2:5] == ["train_samples", "test_samples", "group"]
    lines = shown(report).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("client "))
    assert lines[at].split()[:4] == ["client", "train", "test", "group"]
    assert [line.split()[:4] for line in lines[at + 2 : at + 4]] == [["c0", "2", "1", "1"], ["c1", "2", "1", "0"]]
    assert "group" not in describe(dataset, assignment_of([[0, 1, 2], [3]], [[0], [1]])).table


def test_blocks_do_not_matter(labelled, monkeypatch):
    whole = describe(labelled, assignment_of([[0], [3, 1], [2]], [[0], [], []])).table
    monkeypatch.setattr("fedsim.cli.partition_report._BLOCK", 1)
    assert describe(labelled, assignment_of([[0], [3, 1], [2]], [[0], [], []])).table.equals(whole)


def test_an_empty_client_is_refused(labelled):
    with pytest.raises(UserError, match="'c1' would have no training samples"):
        describe(labelled, assignment_of([[0], []], [[0], [1]]))


def shown(report):
    console = Console(file=io.StringIO(), width=80, highlight=False, color_system=None)
    for part in render(report, "title", {}):
        console.print(part)
    return console.file.getvalue()


def test_few_clients_in_80_columns():
    dataset = Dataset("toy", Task.CLASSIFICATION, split_of(np.arange(9_000) % 9), split_of([0] * 20), 9)
    text = shown(describe(dataset, assignment_of(np.split(np.arange(9_000), 20), [[0]] * 20)))
    assert max(map(len, text.splitlines())) <= 80
    assert re.findall(r"^c\d+ ", text, re.MULTILINE) == [f"c{k} " for k in range(20)]
    (line,) = [line for line in text.splitlines() if line.startswith("c3 ")]
    assert line.split() == ["c3", "450", "1", *["11"] * 9, "0.00", "0.00"]


def test_shares_are_rounded_in_words(labelled):
    train = split_of([0] * 999 + [1])
    text = shown(describe(replace(labelled, train=train), assignment_of([range(1000)], [[0]])))
    assert ["c0", "1000", "1", "100", "<1", "-", "0.00", "0.00"] in [line.split() for line in text.splitlines()]


def test_many_clients_are_shown_by_their_extremes(labelled):
    """Sizes 1, 2, ..., 30 of label 0, and client 7 with label 1."""
    owners = np.repeat(np.arange(30), np.arange(1, 31))
    dataset = replace(labelled, train=split_of((owners == 7).astype(int)))
    members = [np.flatnonzero(owners == k) for k in range(30)]
    lines = shown(describe(dataset, assignment_of(members, [[0]] * 30))).splitlines()
    extremes = ("smallest", "largest", "most skewed")
    chosen = [
        line.split(" c")[0].strip() + " c" + line.split(" c")[1].split()[0]
        for line in lines
        if line.startswith(extremes)
    ]
    assert chosen[:6] == [
        "smallest, most skewed c0",
        "smallest, most skewed c1",
        "smallest c2",
        *(f"largest c{k}" for k in (29, 28, 27)),
    ]
    assert chosen[6:] == ["most skewed c7"]
    assert "7 of 30 clients; --csv FILE has all of them" in lines


def test_many_labels_are_shown_by_the_largest(labelled):
    dataset = replace(labelled, train=split_of([19] * 5 + [3] * 3 + [0] * 2), num_outputs=20)
    text = shown(describe(dataset, assignment_of([range(10)], [[0]])))
    assert "19: 50 %, 3: 30 %, 0: 20 %" in text


def test_equal_clients_have_no_extremes(labelled):
    dataset = replace(labelled, train=split_of([0] * 40))
    text = shown(describe(dataset, assignment_of(np.arange(40)[:, None], [[0]] * 40)))
    assert "first c0" in " ".join(text.split())
    assert "smallest" not in text


def test_brackets_are_not_markup(labelled):
    report = describe(labelled, replace(assignment_of([[0]], [[0]]), client_names=("[bold]x[/red]",)))
    assert "[bold]x[/red]" in shown(report)
