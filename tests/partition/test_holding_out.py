"""Clients that never train, samples that are held back, and a sample of clients to evaluate."""

from dataclasses import replace

import numpy as np
import pytest

from fedsim.baselines.baseline import Pooled
from fedsim.data.dataset import Assignment, Dataset, Split, Task
from fedsim.errors import UserError
from fedsim.partition.holding_out import HeldOut, hold_back, unseen_clients

NAMES = tuple("abcdefghij")


def dataset(samples, clients=None, **facts):
    """Samples that hold their own number, of which every tenth is a test sample as well."""
    numbers = np.arange(samples)
    inputs = numbers[:, None, None].astype(np.float32)
    owners = None if clients is None else np.array(clients)
    train = Split(inputs, np.ones(samples, np.int64), numbers, owners)
    test = Split(inputs[::10], np.ones(len(numbers[::10]), np.int64), numbers[::10])
    return Dataset("toy", Task.CLASSIFICATION, train, test, samples, **facts)


class Given:
    """A partition into given members."""

    def __init__(self, train, test=None, observe=None):
        self.train = [np.array(own, np.int64) for own in train]
        self.test = [np.array(own, np.int64) for own in (test or [[k] for k in range(len(train))])]
        self.observe = observe

    def assign(self, dataset, num_clients, seed):
        return Assignment(self.train, self.test, NAMES[: len(self.train)], self.observe, ("a note",))


def lists(members):
    return [own.tolist() for own in members]


# ---------------------------------------------------------------------------------------------------------------------
# samples


def test_the_last_samples_in_time_are_held_back_and_what_overlaps_with_them_is_left_out():
    """Ten samples in time, a fifth is two: 8 and 9. With overlap 3, sample 5 to 7 share steps with 8; 4 does not."""
    data = dataset(10, ordered=True, overlap=3)
    train, held, left_out = hold_back(data, [np.arange(10)], 0.2, seed=0)
    assert (lists(train), lists(held), left_out) == ([[0, 1, 2, 3, 4]], [[8, 9]], 3)


def test_what_another_client_holds_back_is_left_out_too():
    """Two clients deal one series: a holds back 6, b 7; 5 is near both (overlap 1), 4 is near none."""
    data = dataset(8, ordered=True, overlap=1)
    train, held, left_out = hold_back(data, [np.array([6, 0, 2, 4]), np.array([1, 3, 5, 7])], 0.25, seed=0)
    assert (lists(train), lists(held), left_out) == ([[0, 2, 4], [1, 3]], [[6], [7]], 1)


def test_clients_of_their_own_are_series_of_their_own():
    """The last sample of the first series is held back, and the first of the second is not near it."""
    data = dataset(8, clients=[0] * 4 + [1] * 4, ordered=True, overlap=2)
    train, held, left_out = hold_back(data, [np.arange(4), np.arange(4, 8)], 0.25, seed=0)
    assert (lists(train), lists(held), left_out) == ([[0], [4]], [[3], [7]], 4)


def test_every_stretch_of_time_gives_its_last_samples():
    data = dataset(9, stretches=np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]), overlap=1)
    train, held, left_out = hold_back(data, [np.arange(9)], 0.25, seed=0)  # round(5 / 4) and round(4 / 4)
    assert (lists(train), lists(held), left_out) == ([[0, 1, 2, 5, 6]], [[4, 8]], 2)


def test_a_stretch_anywhere_leaves_out_what_is_near_on_both_sides():
    data = dataset(40, ordered=True, overlap=2, held_anywhere=True)
    firsts = set()
    for seed in range(30):
        train, held, left_out = hold_back(data, [np.arange(40)], 0.1, seed)
        first, last = held[0][0], held[0][-1]
        assert (last - first, len(held[0])) == (3, 4)
        near = [k for k in range(40) if first - 2 <= k <= last + 2]
        assert train[0].tolist() == [k for k in range(40) if k not in near]
        assert left_out == len(near) - 4
        firsts.add(first)
    assert len(firsts) > 10


def test_samples_without_an_order_are_drawn_by_seed_and_client():
    data = dataset(60)
    members = [np.arange(20), np.arange(20, 60)]
    train, held, left_out = hold_back(data, members, 0.3, seed=1)
    assert ([len(own) for own in held], left_out) == ([6, 12], 0)
    for own, rest, all_of_it in zip(held, train, members, strict=True):
        assert sorted([*own, *rest]) == all_of_it.tolist()
    assert lists(held) != lists(hold_back(data, members, 0.3, seed=2)[1])
    alone = hold_back(data, [members[0], np.arange(20, 30)], 0.3, seed=1)[1]
    assert alone[0].tolist() == held[0].tolist()  # whatever the others hold


def test_a_client_keeps_a_sample_to_train_on():
    train, held, _ = hold_back(dataset(3), [np.array([0]), np.array([1, 2])], 0.9, seed=0)
    assert ([len(own) for own in train], [len(own) for own in held]) == ([1, 1], [0, 1])


def test_nothing_held_back_and_nothing_left_are_errors():
    with pytest.raises(UserError, match=r"eval\.validation_fraction=0\.1: holds no sample back"):
        HeldOut(Given([[0, 1], [2, 3]]), 0.1).assign(dataset(4), None, 0)
    data = dataset(4, ordered=True, overlap=3)
    with pytest.raises(UserError, match="client 'a' would have no training samples left"):
        HeldOut(Given([[0, 1], [2, 3]]), 0.5).assign(data, None, 0)


def test_notes_say_what_was_held_back():
    found = HeldOut(Given([range(10)]), 0.2).assign(dataset(10, ordered=True, overlap=3), None, 0)
    assert found.notes == (
        "a note",
        "2 of 10 training samples are held back, the last in time, and validation_* columns are about them "
        "(eval.validation_fraction=0.2)",
        "3 training samples share time steps with those held back, and are left out",
    )


# ---------------------------------------------------------------------------------------------------------------------
# clients


def test_how_many_clients_are_unseen():
    assert len(unseen_clients(NAMES, 3, seed=0)) == 3
    assert len(unseen_clients(NAMES, 0.26, seed=0)) == 3
    assert len(unseen_clients(NAMES, 0.01, seed=0)) == 1
    assert unseen_clients(NAMES, ["j", "b"], seed=0).tolist() == [1, 9]
    assert len({tuple(unseen_clients(NAMES, 3, seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize("wanted", [10, 0.99, list(NAMES)])
def test_somebody_must_train(wanted):
    with pytest.raises(UserError, match="leaves none of the 10 clients to train"):
        unseen_clients(NAMES, wanted, seed=0)


def test_unseen_clients_are_an_assignment_of_their_own():
    whole = Given([[0, 1], [2], [3, 4]], [[0], [1], [2]])
    found = HeldOut(whole, unseen=["b"]).assign(dataset(30), None, 0)
    assert (found.client_names, lists(found.train), lists(found.test)) == (("a", "c"), [[0, 1], [3, 4]], [[0], [2]])
    apart = found.unseen
    assert (apart.client_names, lists(apart.train), lists(apart.test)) == (("b",), [[2]], [[1]])
    assert "1 of 3 clients never train" in found.notes[1]


def test_unseen_clients_need_test_samples():
    with pytest.raises(UserError, match=r"eval\.unseen_clients=\[a\]: these clients have no test samples"):
        HeldOut(Given([[0], [1]], [[], [1]]), unseen=["a"]).assign(dataset(20), None, 0)


def test_an_unknown_client_is_named():
    with pytest.raises(UserError, match=r"there is no client 'aa' \(did you mean 'a'\?\)"):
        HeldOut(Given([[0], [1]]), unseen=["aa"]).assign(dataset(20), None, 0)


def test_a_sample_of_clients_is_evaluated():
    train = [[k, k + 10] for k in range(10)]
    found = HeldOut(Given(train, [[k] for k in range(9)] + [[]]), 0.5, None, 4).assign(dataset(100), None, 0)
    tested = [k for k, own in enumerate(found.test) if len(own)]
    assert (len(tested), found.sampled_from) == (4, 9)  # client j has nothing to test on
    assert [k for k, own in enumerate(found.validation) if len(own)] == tested
    assert [len(own) for own in found.train] == [1] * 10  # all hold back alike
    with pytest.raises(UserError, match=r"eval\.clients=9: has no effect, as 9 clients have test samples"):
        HeldOut(Given(train, [[k] for k in range(9)] + [[]]), evaluated=9).assign(dataset(100), None, 0)


# ---------------------------------------------------------------------------------------------------------------------
# together with other ways to change an assignment


def test_samples_look_as_they_did_to_the_clients_of_the_partition():
    """`observe` adds 100 (k + 1) to what client k holds, in training and test, whatever is held out later."""
    given = []

    def observe(split, members, number):
        given.append((lists(members), number))
        inputs = split.inputs.copy()
        for client, own in enumerate(members):
            inputs[own] += 100 * (client + 1)
        return replace(split, inputs=inputs)

    whole = Given([[0, 1], [2, 3], [4, 5]], [[0], [1], [2]], observe)
    found = HeldOut(whole, 0.5, ["b"]).assign(dataset(30, ordered=True), None, 0)
    seen = found.observe(dataset(30).train, found.train, 0).inputs[:, 0, 0]
    assert seen[:6].tolist() == [100, 101, 202, 203, 304, 305]
    assert given == [([[0, 1], [2, 3], [4, 5]], 0)]


def test_pooling_keeps_what_is_held_out():
    held = HeldOut(Given([[0, 1], [2, 3], [4, 5]], [[0], [1], [2]]), 0.5, ["b"])
    found = Pooled(held).assign(dataset(30, ordered=True), None, 0)
    assert (lists(found.train), lists(found.validation), lists(found.test)) == ([[0, 4]], [[1, 5]], [[0, 2]])
    assert (found.client_names, found.unseen.client_names) == (("everyone",), ("b",))
