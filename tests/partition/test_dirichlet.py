"""Label skew: nothing lost, the same proportions in both splits, and an end to redrawing."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.dataset import Task
from fedsim.errors import FieldError, UserError
from fedsim.partition.dirichlet import Dirichlet, _balanced, apportion


def counts(split, members, labels):
    """``[labels, clients]`` samples of each label at each client."""
    return np.stack([np.bincount(split.targets[own], minlength=labels) for own in members], axis=1)


@given(
    train=st.integers(30, 200),
    test=st.integers(0, 60),
    labels=st.integers(1, 6),
    clients=st.integers(1, 6),
    alpha=st.sampled_from([0.1, 0.5, 10.0, 1e6]),
    min_samples=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_conserves_samples(make_dataset, check_conserved, train, test, labels, clients, alpha, min_samples, seed):
    dataset = make_dataset(train, test, labels)
    try:
        assignment = Dirichlet(alpha, min_samples).assign(dataset, clients, seed)
    except UserError as error:  # few labels and a small alpha may not do for many clients
        assert alpha <= 0.5
        assert "smallest client" in str(error)  # noqa: PT017
        return
    check_conserved(assignment, dataset)
    assert min(len(own) for own in assignment.train) >= min_samples


@given(seed=st.integers(0, 1000), alpha=st.sampled_from([0.1, 0.5, 5.0]))
def test_train_and_test_have_the_same_proportions(make_dataset, seed, alpha):
    """Each count is within one of p n, so the two estimates of p differ by at most 1/n_train + 1/n_test."""
    dataset = make_dataset(train=2000, test=1000, labels=5)
    assignment = Dirichlet(alpha).assign(dataset, 8, seed)
    train = counts(dataset.train, assignment.train, 5)
    test = counts(dataset.test, assignment.test, 5)
    n_train, n_test = train.sum(1, keepdims=True), test.sum(1, keepdims=True)
    assert (np.abs(train / n_train - test / n_test) <= 1 / n_train + 1 / n_test).all()


def test_share_out_by_hand():
    """Running sums 0.5, 0.75, 1 times 10: cuts at 5, 8 (7.5 to even), 10; times 3: 1.5 -> 2, 2.25 -> 2, 3."""
    shares = np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    assert apportion(shares, np.array([10, 3])).tolist() == [[5, 3, 2], [2, 0, 1]]


def test_alpha_sets_the_skew(make_dataset):
    """E[sum of p_k^2] of a symmetric Dirichlet is (alpha + 1) / (N alpha + 1); here N = 8, averaged over 50 labels."""
    dataset = make_dataset(train=20_000, labels=50)
    for alpha in (0.1, 1.0, 100.0):
        train = counts(dataset.train, Dirichlet(alpha).assign(dataset, 8, 0).train, 50)
        shares = train / train.sum(1, keepdims=True)
        assert (shares**2).sum(1).mean() == pytest.approx((alpha + 1) / (8 * alpha + 1), rel=0.15)


def test_seed_decides(make_dataset, same):
    dataset = make_dataset()
    a, b, c = (Dirichlet().assign(dataset, 5, seed) for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


def test_redraws_until_every_client_has_enough(make_dataset):
    """With one label per client almost surely (alpha=0.01) and as many labels as clients, few draws reach all."""
    dataset = make_dataset(train=270, labels=9)
    assignment = Dirichlet(alpha=0.01).assign(dataset, 9, 0)
    assert min(len(own) for own in assignment.train) >= 1
    largest = counts(dataset.train, assignment.train, 9).max(0)
    assert (largest / [len(own) for own in assignment.train]).mean() > 0.8


def test_gives_up_with_numbers(make_dataset):
    dataset = make_dataset(train=270, labels=9)
    start = time.perf_counter()
    with pytest.raises(UserError) as error:
        Dirichlet(alpha=0.001, min_samples=5).assign(dataset, 30, 0)
    assert time.perf_counter() - start < 5  # 0.2 s here
    for part in ("partition.alpha=0.001", "30 clients", "270", "min_samples=5", "at most 0", "lower num_clients"):
        assert part in str(error.value)


@pytest.mark.parametrize(("clients", "min_samples"), [(101, 1), (11, 10), (0, 1)])
def test_impossible_is_refused_at_once(make_dataset, clients, min_samples):
    with pytest.raises(UserError, match=rf"^num_clients={clients}: "):
        Dirichlet(min_samples=min_samples).assign(make_dataset(train=100), clients, 0)


def test_needs_a_label_per_sequence(make_dataset):
    task = Task.SEQUENCE_LABELLING
    with pytest.raises(UserError, match=r"partition=dirichlet: .*no label per sequence; use partition=iid$"):
        Dirichlet().assign(make_dataset(task=task), 5, 0)
    with pytest.raises(UserError, match=r"partition=iid or partition=natural$"):
        Dirichlet().assign(make_dataset(task=task, clients=3), 5, 0)


@pytest.mark.parametrize("quantiles", [None, 4])
def test_quantiles_of_the_target_take_the_place_of_labels(make_dataset, check_conserved, quantiles):
    """E[sum of p_k^2] as above, over as many labels as there are bins; averaged over seeds."""
    dataset = make_dataset(train=2000, test=1000, task=Task.REGRESSION)
    bins = quantiles or 10
    edges = np.quantile(dataset.train.targets[:, 0], np.arange(1, bins) / bins)
    squares = []
    for seed in range(20):
        assignment = Dirichlet(alpha=1.0, quantiles=quantiles).assign(dataset, 5, seed)
        check_conserved(assignment, dataset)
        shares = []
        for split, members in ((dataset.train, assignment.train), (dataset.test, assignment.test)):
            held = np.stack([np.bincount(np.digitize(split.targets[own, 0], edges), minlength=bins) for own in members])
            shares.append(held / held.sum(0))
        np.testing.assert_allclose(*shares, atol=0.05)  # bins of 200 and of about 100: 1/200 + 1/70 at most
        squares.append((shares[0] ** 2).sum(0).mean())
    assert np.mean(squares) == pytest.approx(2 / 6, rel=0.1)


def test_quantiles_have_no_effect_on_labels(make_dataset):
    with pytest.raises(UserError, match=r"^partition\.quantiles=10: .*no effect with toy"):
        Dirichlet(quantiles=10).assign(make_dataset(), 5, 0)


@pytest.mark.parametrize("alpha", [1e-300, 1e-6])
def test_tiny_alpha_gives_proportions(make_dataset, check_conserved, alpha):
    dataset = make_dataset(train=300, labels=6)
    check_conserved(Dirichlet(alpha).assign(dataset, 2, 0), dataset)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("alpha", {"alpha": 0.0}),
        ("alpha", {"alpha": float("inf")}),
        ("alpha", {"alpha": 1e7}),
        ("min_samples", {"min_samples": 0}),
        ("quantiles", {"quantiles": 1}),
    ],
)
def test_refused(field, values):
    with pytest.raises(FieldError) as error:
        Dirichlet(**values)
    assert error.value.field == field


# ---------------------------------------------------------------------------------------------------------------------
# balance


def stopped_where_full(shares, totals):
    """The shares of the code of NIID-Bench, client by client; its cuts are rounded as ours are."""
    labels, clients = shares.shape
    held, result = [0] * clients, []
    for label in range(labels):
        drawn = [p if held[k] < sum(totals) / clients else 0.0 for k, p in enumerate(shares[label])]
        result.append([p / sum(drawn) for p in drawn])
        cuts = [0, *(round(float(c) * totals[label]) for c in np.cumsum(result[-1])[:-1]), totals[label]]
        held = [h + b - a for h, a, b in zip(held, cuts[:-1], cuts[1:], strict=True)]
    return np.array(result), held


def test_balance_is_the_rule_of_the_code(make_dataset):
    dataset = make_dataset(train=600, test=90, labels=6)
    totals = np.bincount(dataset.train.targets, minlength=6)
    for seed in range(20):
        drawn = np.random.default_rng(seed).dirichlet(np.full(5, 0.1), (1, 6))
        shares, held = stopped_where_full(drawn[0], totals.tolist())
        found = _balanced(drawn, totals)[0]
        np.testing.assert_allclose(found, shares, rtol=1e-12)
        assert apportion(found, totals).sum(0).tolist() == held


def test_balance_makes_sizes_differ_less(make_dataset, check_conserved):
    """Standard deviation over mean of ten clients' sizes, over 40 seeds, with ten labels and alpha = 0.1.

    Without balance a size is the sum of ten shares of a Dirichlet, each of mean m = 1/10 and variance
    m (1 - m) / (10 alpha + 1) = 0.045: sqrt(10 * 0.045) / 1 = 0.67 (0.64 with the means of each seed).
    """
    dataset = make_dataset(train=5000, labels=10)
    spread = {}
    for balance in (False, True):
        sizes = []
        for seed in range(40):
            assignment = Dirichlet(0.1, balance=balance).assign(dataset, 10, seed)
            check_conserved(assignment, dataset)
            sizes.append([len(own) for own in assignment.train])
        spread[balance] = np.mean([np.std(one) / np.mean(one) for one in sizes])
    assert spread[False] == pytest.approx(0.64, abs=0.05)
    assert spread[True] == pytest.approx(0.44, abs=0.05)


def test_balance_without_a_drawn_share():
    """The second client alone is open, and drew nothing: it gets the rest."""
    shares = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    assert _balanced(shares, np.array([3, 3])).tolist() == [[[1.0, 0.0], [0.0, 1.0]]]
