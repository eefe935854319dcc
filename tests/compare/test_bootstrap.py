"""Intervals over clients: with two clients, all resamples can be written down; with many, theory gives their width."""

import numpy as np
import pandas as pd
import pytest

from fedsim.compare import output
from fedsim.compare.bootstrap import FEW
from fedsim.compare.reading import load_runs
from fedsim.compare.table import Question, compare
from fedsim.errors import UserError

TEST = "test_accuracy"
INTERVAL, DIFFERENCE = ["clients low", "clients high"], [f"clients difference{end}" for end in ("", " low", " high")]


@pytest.fixture
def ask(tmp_path):
    return lambda **question: compare(load_runs([tmp_path])[0], Question(bootstrap=True, **question))


@pytest.fixture
def run(scored):
    """Return ``run(name, size, items, scores, ...)``: a run whose last value pools these scores of clients."""

    def make(name, size, items, scores, *, by=TEST, seed=0, pooled=None, **columns):
        items, scores = np.array(items, float), np.array(scores, float)
        power = 2 if "rmse" in by else 1
        final = float((items @ scores**power / items.sum()) ** (1 / power)) if pooled is None else pooled
        clients = {"client": range(len(items)), "name": [f"c{at}" for at in range(len(items))], "train_samples": 5}
        clients |= {"test_samples": items, "test_items": items, by: scores} | columns
        return scored(name, size, {by: [0.0, final]}, by=by, seed=seed, clients=clients)

    return make


@pytest.mark.parametrize(
    ("items", "scores", "by", "expected"),
    [
        # The first twice, one of each or the second twice: 0, 1/2 and 1, with chances of 1/4, 1/2 and 1/4.
        ((1, 1), (0, 1), TEST, (0.5, 0, 1)),
        # One of each: (1 * 0 + 3 * 1) / 4.
        ((1, 3), (0, 1), TEST, (0.75, 0, 1)),
        # Three times the first, with a chance of 1/27 = 3.7%, is more than 2.5%: the ends are the extremes again.
        ((1, 2, 1), (0.2, 0.5, 0.8), TEST, (0.5, 0.2, 0.8)),
        # Of errors, squares are pooled: sqrt((9 + 16) / 2).
        ((2, 2), (3, 4), "test_rmse", (12.5**0.5, 3, 4)),
    ],
)
def test_by_hand(run, ask, items, scores, by, expected):
    run("a", 8, items, scores, by=by)
    row = ask().table.iloc[0]
    assert row[[f"final {by}", *INTERVAL]].tolist() == pytest.approx(expected)
    assert row["clients n"] == len(items)


def test_the_ends_are_quantiles_of_resamples(run, ask):
    """300 clients of very different sizes, against the standard error of a ratio by the delta method.

    For the ratio r = sum(m x) / sum(m), resampling clients gives a variance of sum(m^2 (x - r)^2) / sum(m)^2; 95% of a
    normal variable are within 1.96 of its roots. 9999 resamples give the ends to a few percent of that.
    """
    random = np.random.default_rng(5)
    items, scores = random.integers(1, 100, 300), random.uniform(0.2, 0.9, 300)
    run("a", 8, items, scores)
    ratio = items @ scores / items.sum()
    half = 1.96 * np.sqrt((items**2 * (scores - ratio) ** 2).sum()) / items.sum()
    low, high = ask().table.loc[0, INTERVAL]
    assert [ratio - low, high - ratio] == pytest.approx([half, half], rel=0.08)


def test_the_same_clients_are_resampled_for_a_difference(run, ask):
    """Every client is better by 0.1: so is every resample, though the scores themselves spread from 0.1 to 0.8."""
    scores = np.array([0.1, 0.4, 0.8])
    run("a", 8, (1, 2, 5), scores)
    run("b", 64, (1, 2, 5), scores + 0.1)
    found = ask(baseline=("a",))
    table = found.table.set_index("run")
    assert table.loc["b", DIFFERENCE].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert table.loc["a", DIFFERENCE].isna().all()
    shown = {column.header: column.cells for column in output.columns(found)}
    assert shown[f"final {TEST} difference over clients"] == ["+0.1000 (+0.1000, +0.1000)", "-"]


def test_scores_are_averaged_over_seeds_before_clients_are_resampled(run, ask):
    """One client is right in one seed, the other in the other: on average they are alike, and the interval is a point.

    The intervals of the two runs are (0, 1) each, and so would be their average.
    """
    run("a0", 8, (2, 2), (0, 1), seed=0)
    run("a1", 8, (2, 2), (1, 0), seed=1)
    found = ask()
    assert found.table.loc[0, [*INTERVAL, "n"]].tolist() == [0.5, 0.5, 2]
    assert any("each client's scores are averaged first; seeds are not resampled" in note for note in found.notes)


def test_squares_are_pooled_for_each_seed(run, ask):
    """RMSEs (3, 4) and (5, 5): the ends are (3 + 5) / 2 and (4 + 5) / 2."""
    run("a0", 8, (2, 2), (3, 4), by="test_rmse", seed=0)
    run("a1", 8, (2, 2), (5, 5), by="test_rmse", seed=1)
    assert ask().table.loc[0, INTERVAL].tolist() == pytest.approx([4, 4.5])


def test_the_difference_of_errors_is_that_of_their_pooled_values(run, ask):
    """RMSEs (3, 4) pool to sqrt(12.5), and (1, 1) to 1; resamples reach from 3 - 1 to 4 - 1."""
    run("a", 8, (2, 2), (1, 1), by="test_rmse")
    run("b", 64, (2, 2), (3, 4), by="test_rmse")
    row = ask(baseline=("a",)).table.set_index("run").loc["b"]
    assert row[DIFFERENCE].tolist() == pytest.approx([12.5**0.5 - 1, 2, 3])


def test_the_difference_is_over_the_seeds_that_both_have(run, ask):
    """With seed 0, which both have, clients are better by 0.2 and by 0.4; the others' scores do not count."""
    run("a0", 8, (1, 1), (0.1, 0.3), seed=0)
    run("b0", 64, (1, 1), (0.3, 0.7), seed=0)
    run("b1", 64, (1, 1), (1, 1), seed=1)
    table = ask(baseline=("a0",)).table.set_index("model.hidden_size")
    assert table.loc[64, DIFFERENCE].tolist() == pytest.approx([0.3, 0.2, 0.4])


def test_the_same_files_give_the_same_intervals(run, ask):
    run("a", 8, range(1, 12), np.linspace(0.1, 0.9, 11))
    assert output.csv(ask()) == output.csv(ask())


@pytest.mark.parametrize(("clients", "said"), [(FEW - 1, 1), (FEW, 0)])
def test_few_clients_are_said_to_be_few(run, ask, clients, said):
    run("a", 8, [1] * clients, np.linspace(0.1, 0.9, clients))
    assert sum("too narrow" in note for note in ask().notes) == said


def test_old_files_are_weighted_by_samples_if_that_gives_the_pooled_value(run, ask):
    path = run("a", 8, (1, 3), (0, 1))
    file = path / "clients.csv"
    pd.read_csv(file).drop(columns="test_items").to_csv(file, index=False)
    assert ask().table.loc[0, INTERVAL].tolist() == [0, 1]


def test_unseen_clients_have_an_interval_of_their_own(scored, ask):
    """Two clients train and two never do; each score is that of its own two."""
    clients = pd.DataFrame({"client": range(4), "name": list("abcd"), "seen": [1, 1, 0, 0], "test_items": 1})
    clients = clients.assign(test_accuracy=[0.5, 0.7, None, None], unseen_accuracy=[None, None, 0.1, 0.3])
    columns = {TEST: [0.1, 0.6], "unseen_accuracy": [0.1, 0.2]}
    scored("a", 8, columns, by=TEST, clients=clients)
    assert ask().table.loc[0, INTERVAL].tolist() == [0.5, 0.7]
    assert ask(metric="unseen_accuracy").table.loc[0, INTERVAL].tolist() == [0.1, 0.3]


# What has no interval


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns=TEST), "clients.csv: no column test_accuracy$"),
        (lambda table: table.rename(columns={TEST: "test_loss"}), "no column test_accuracy; it has test_loss"),
        (lambda table: table.drop(columns=["test_items", "test_samples"]), "no column test_samples"),
        (lambda table: table.iloc[:1], "fewer than two clients have test_accuracy"),
        (lambda table: table.assign(client=0, name="c"), "a client is there twice"),
        (lambda table: table.assign(test_items=0), "fewer than two clients"),
        (lambda table: table.assign(test_accuracy=np.inf), "test_accuracy is not finite for every client"),
        (lambda table: table.assign(test_accuracy="high"), "fewer than two clients"),
        (
            lambda table: table.assign(test_items=1),
            "test_accuracy, weighted by test_items, is 0.5 over the clients, and metrics.csv ends with 0.75: it is no ",
        ),
    ],
)
def test_files_that_give_none(run, ask, change, message):
    path = run("a", 8, (1, 3), (0, 1))
    file = path / "clients.csv"
    change(pd.read_csv(file)).to_csv(file, index=False)
    with pytest.raises(UserError, match=f"--bootstrap-clients: .*{message}"):
        ask()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"client\n0\n", b'"'])
def test_files_that_are_damaged(run, ask, content):
    (run("a", 8, (1, 3), (0, 1)) / "clients.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"--bootstrap-clients: .*clients\.csv: "):
        ask()


def test_no_file(run, ask):
    (run("a", 8, (1, 3), (0, 1)) / "clients.csv").unlink()
    with pytest.raises(UserError, match=r"--bootstrap-clients: .*a: no clients\.csv"):
        ask()


@pytest.mark.parametrize("metric", ["test_samples", "name"])
def test_what_is_no_score(make_run, ask, metric):
    path = make_run("a", metrics=f"round,{metric}\n0,1\n1,2\n")
    (path / "clients.csv").write_text("client,name,test_samples\n0,a,1\n1,b,3\n")
    with pytest.raises(UserError, match=f"--bootstrap-clients: .*no column {metric}"):
        ask(metric=metric, better="max")


def test_one_run_without_does_not_end_the_others(run, ask):
    run("a", 8, (1, 1), (0, 1))
    (run("b", 64, (1, 1), (0, 0.5)) / "clients.csv").unlink()
    found = ask(baseline=("a",))
    assert found.table.set_index("run").loc["b", INTERVAL].isna().all()
    assert "clients difference" not in found.table
    assert "--bootstrap-clients: model.hidden_size=64: no clients.csv" in found.notes


def test_seeds_with_other_clients_are_refused(run, ask):
    run("a0", 8, (1, 3), (0, 1), seed=0)
    run("a1", 8, (3, 1), (0, 1), seed=1)
    with pytest.raises(UserError, match="its seeds do not have the same clients with the same number of test items"):
        ask()


def test_a_difference_needs_the_same_clients(run, ask):
    run("a", 8, (1, 3), (0, 1))
    run("b", 64, (3, 1), (0, 1))
    run("c", 16, (1, 3), (1, 1), seed=1)
    found = ask(baseline=("a",))
    assert found.table[INTERVAL].notna().all(axis=None)
    assert "clients difference" not in found.table
    for size, why in (
        (64, "its baseline does not have the same clients with the same number of test items each"),
        (16, "no seed in common with its baseline"),
    ):
        note = f"--bootstrap-clients: no difference over clients for model.hidden_size={size}: {why}"
        assert any(text.startswith(note) for text in found.notes)


def test_a_run_that_diverged(scored, ask):
    scored("a", 8, {TEST: [0.1, 0.5]}, by=TEST, status="diverged", clients={"client": [0, 1]})
    with pytest.raises(UserError, match=r"--bootstrap-clients: .*diverged after round 1"):
        ask()
