"""What one client can change in the trees of DP-FTRL: against all choices of rounds, and against published figures."""

import itertools
import math

import numpy as np
import pytest

from fedsim.core.origin import Spending
from fedsim.privacy.budget import epsilon_of
from fedsim.privacy.correlated import Mechanism
from fedsim.privacy.dp_ftrl import Trees
from fedsim.privacy.trees import Forest
from fedsim.samplers.participation import ZERO_OUT, Participation


def nodes(rounds, restart_every=None):
    """Every node of the trees, as the rounds below it: in each tree the complete ones of every height."""
    found, tree = [], restart_every or rounds
    for first in range(0, rounds, tree):
        count = min(tree, rounds - first)
        sizes = [2**height for height in range(count.bit_length())]
        found += [range(first + i * size, first + (i + 1) * size) for size in sizes for i in range(count // size)]
    return found


def by_trying_all(rounds, where, restart_every=None):
    """The largest sum over nodes of the squared number of a client's rounds, over all rounds that are b apart."""
    best, every = 0, nodes(rounds, restart_every)
    for count in range(min(where.most, rounds) + 1):
        for chosen in itertools.combinations(range(rounds), count):
            if all(b - a >= where.separation for a, b in itertools.pairwise(chosen)):
                best = max(best, sum(sum(c in node for c in chosen) ** 2 for node in every))
    return best


@pytest.mark.parametrize("restart_every", [None, 3, 4, 5])
@pytest.mark.parametrize("separation", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("most", [1, 2, 3, None])
def test_the_worst_rounds_of_a_client(separation, most, restart_every):
    """Up to 11 rounds, in runs that are just as long and in longer ones, whose first rounds spend the same."""
    for rounds in range(1, 12):
        where = Participation(separation, most or math.ceil(rounds / separation))
        expected = by_trying_all(rounds, where, restart_every)
        assert Forest(where, rounds, restart_every).sensitivity(rounds) == pytest.approx(math.sqrt(expected))
    longer = Forest(where, 11, restart_every)
    spent = [longer.sensitivity(number) for number in range(12)]
    assert spent[0] == 0
    assert spent == sorted(spent)
    for number in (3, 6, 9):
        assert spent[number] == pytest.approx(math.sqrt(by_trying_all(number, where, restart_every)))


def test_a_client_that_takes_part_once():
    """It is in a node of each height: floor(log2 R) + 1 of them (Kairouz 2021, Theorem 4.1); with restarts, so in each
    tree, of which it may be once in every one."""
    for rounds in (1, 2, 3, 1000, 1600, 4096):
        forest = Forest(Participation(rounds, 1), rounds)
        assert forest.sensitivity(rounds) ** 2 == pytest.approx(math.floor(math.log2(rounds)) + 1)
    epochs = Forest(Participation(400, 4), 1600, restart_every=400)
    assert epochs.sensitivity(1600) ** 2 == pytest.approx(4 * 9)


def test_everybody_all_the_time():
    """b = 1: a node of 2^h rounds changes by 2^h, so that those of 8 rounds give 8 + 4 * 4 + 2 * 16 + 64."""
    assert Forest(Participation(1, 8), 8).sensitivity(8) ** 2 == pytest.approx(8 + 16 + 32 + 64)


def renyi_to_epsilon(rho, delta):
    """As the first publications: Renyi's ``rho a + (log(1 / delta) + (a - 1) log(1 - 1 / a) - log a) / (a - 1)``
    (Canonne 2020, proposition 12), over the orders that they tried."""
    orders = np.array([1 + x / 10 for x in range(1, 100)] + list(range(12, 64)))
    return float((rho * orders + np.log1p(-1 / orders) - (np.log(delta) + np.log(orders)) / (orders - 1)).min())


def test_the_spanish_next_word_model_of_gboard():
    """The published accounting of the first production model (google-research/federated,
    dp_ftrl/blogpost_supplemental_privacy_accounting.ipynb): noise multiplier 7, 2000 rounds, 313 rounds between two of
    a client's (314 apart), at most 6 of them, no restarts: rho = 0.81, and epsilon = 8.90 at delta = 1e-10."""
    pytest.importorskip("dp_accounting")
    trees = Trees(Forest(Participation(314, 6), 2000))
    mechanism = Mechanism(trees, 7.0, 1e-10)
    assert trees.sensitivity(2000) ** 2 == pytest.approx(79)
    assert round(mechanism.zcdp(2000), 2) == 0.81
    assert round(mechanism.epsilon(2000), 2) == 8.90
    assert renyi_to_epsilon(mechanism.zcdp(2000), 1e-10) == pytest.approx(mechanism.epsilon(2000), rel=1e-3)


@pytest.mark.parametrize(("multiplier", "published"), [(1.13, 19.74), (8.83, 2.04)])
def test_stackoverflow_in_the_paper(multiplier, published):
    """Kairouz 2021, StackOverflow: 1600 rounds in which a client takes part once, delta = 1e-6. The paper's figures are
    ``rho + 2 sqrt(rho log(1 / delta))`` (Bun and Steinke 2016, proposition 1.3); the accountant's bound is tighter."""
    pytest.importorskip("dp_accounting")
    mechanism = Mechanism(Trees(Forest(Participation(1600, 1), 1600)), multiplier, 1e-6)
    rho = mechanism.zcdp(1600)
    assert rho + 2 * math.sqrt(rho * math.log(1e6)) == pytest.approx(published, abs=0.005)
    assert mechanism.epsilon(1600) == pytest.approx(renyi_to_epsilon(rho, 1e-6), rel=1e-3)
    assert mechanism.epsilon(1600) < published


def test_the_tree_event_of_dp_accounting():
    """What dp-accounting has for trees in which a client takes part once, with and without restarts."""
    dp = pytest.importorskip("dp_accounting")
    rdp = pytest.importorskip("dp_accounting.rdp")
    for steps in ([1600], [400, 400, 400, 400], [64, 64]):
        forest = Forest(Participation(steps[0], len(steps)), sum(steps), steps[0] if len(steps) > 1 else None)
        multiplier = 5.0 / forest.sensitivity(sum(steps))
        accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_SPECIAL)
        for count in steps:
            accountant.compose(dp.SingleEpochTreeAggregationDpEvent(5.0, count))
        assert epsilon_of([Spending(ZERO_OUT, multiplier, 1)], 1e-6) == pytest.approx(
            accountant.get_epsilon(1e-6), rel=1e-6
        )
