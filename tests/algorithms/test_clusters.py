"""Federations with several global models against the pseudocode of their papers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.clients.engine import SequentialEngine
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.personalization.clusters import purity
from fedsim.personalization.flhc import FLHCInRun
from fedsim.runs.clients_table import clients_table

pytestmark = pytest.mark.usefixtures("one_thread")


def models(found):
    return found.state.drawers["schedule"]["rows"]


def first_models(experiment):
    return initial_state(prepare(experiment)).drawers["schedule"]["rows"]


def best(p, theta, client):
    """The model with the lowest loss on a client's training samples."""
    losses = [float(p.loss(row, p.samples(client)).detach()) for row in theta]
    return losses.index(min(losses))


def ifca(p, theta, momentum=0.0):
    """Ghosh 2020, Algorithm 1, option II: each model becomes the mean of its own clients' local models."""
    theta, velocity, used = [*theta], [torch.zeros_like(row) for row in theta], []
    for number in range(1, p.rounds + 1):
        cohort = p.cohort(number)
        chosen = {i: best(p, theta, i) for i in cohort}
        local = {}
        for i in cohort:
            y = theta[chosen[i]]
            for batch in p.batches(i, number):
                y = y - p.lr * p.gradient(y, batch)
            local[i] = y
        for j in set(chosen.values()):
            own = [i for i in cohort if chosen[i] == j]
            velocity[j] = momentum * velocity[j] + p.weighted(own, [local[i] for i in own]) - theta[j]
            theta[j] = theta[j] + velocity[j]
        used.append(len(set(chosen.values())))
    return theta, used


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_ifca(tiny, run, paper, momentum):
    """With all clients, so that more than one model is taken; and with a server optimizer that has a state."""
    server = ("aggregator=fedavgm", f"aggregator.server_optimizer.beta={momentum}")
    settings = (*paper.settings, "client.optimizer.lr=0.2", "sampler.cohort_size=4", "seed=7", "schedule.models=3")
    experiment = tiny("schedule=ifca", *settings, *server)
    found = run(experiment)
    p, start = paper(found), first_models(experiment)
    assert torch.equal(start[0], p.row)
    assert not torch.allclose(start[1], start[2])
    theta, used = ifca(p, start, momentum)
    assert max(used) > 1
    torch.testing.assert_close(models(found), torch.stack(theta), rtol=1e-11, atol=1e-13)
    own = [theta[best(p, theta, i)] for i in range(p.clients)]
    assert found.metrics[-1]["personal_accuracy"] == p.accuracy(lambda i: own[i])
    tested = [i for i in range(p.clients) if len(p.samples(i, "test")[2])]
    choices = [best(p, theta, i) for i in tested]
    assert found.metrics[-1]["clusters"] == len(set(choices))
    assert found.metrics[-1]["largest_cluster"] == max(choices.count(j) for j in choices)


@pytest.mark.parametrize("aggregator", ["fedavg", "fedadam", "median", "fedprox"])
def test_one_cluster_is_the_aggregator_without(tiny, run, paper, aggregator):
    plain = run(tiny(f"aggregator={aggregator}", *paper.settings))
    found = run(tiny(f"aggregator={aggregator}", "schedule=ifca", "schedule.models=1", *paper.settings))
    assert all(torch.equal(a, b) for a, b in zip(found.rows, plain.rows, strict=True))
    assert torch.equal(models(found)[0], plain.rows[-1])
    for ours, theirs in zip(found.metrics, plain.metrics, strict=True):
        assert {name: ours[name] for name in theirs} == theirs
        assert ours["personal_loss"] == pytest.approx(ours["test_loss"], rel=1e-12)
        assert ours["clusters"] == 1


def test_engines_agree(tiny, run, paper):
    experiment = tiny("schedule=ifca", "seed=7", *paper.settings)
    ours, theirs = run(experiment), run(replace(experiment, engine=SequentialEngine()))
    torch.testing.assert_close(models(ours), models(theirs), rtol=1e-10, atol=1e-11)
    for a, b in zip(ours.metrics, theirs.metrics, strict=True):
        assert {k: v for k, v in a.items() if v is not None} == pytest.approx(
            {k: v for k, v in b.items() if v is not None}, rel=1e-9
        )


def test_chunks_change_results_by_rounding_only(tiny, run, paper):
    ours, theirs = (run(tiny("schedule=ifca", "seed=7", *paper.settings), chunk_size=size) for size in (1, 5))
    torch.testing.assert_close(models(ours), models(theirs), rtol=1e-11, atol=1e-13)


def test_bytes(tiny, run, paper):
    """Three models down and one delta up, with a byte that says which."""
    found = run(tiny("schedule=ifca", "schedule.models=3", *paper.settings))
    row = 8 * found.state.row.numel()
    assert found.metrics[-1]["bytes_down"] == paper.rounds * 3 * 3 * row
    assert found.metrics[-1]["bytes_up"] == paper.rounds * 3 * (row + 1)


def test_purity():
    """The example of Manning et al. 2008, figure 16.4: clusters of 6, 6 and 5 points with 5, 4 and 3 of one class."""
    clusters = np.array([0] * 6 + [1] * 6 + [2] * 5)
    x, circle, diamond = 0, 1, 2
    groups = np.array([*[x] * 5, circle, x, *[circle] * 4, diamond, *[x] * 2, *[diamond] * 3])
    assert purity(clusters, groups) == (5 + 4 + 3) / 17
    assert purity(np.zeros(17, np.int64), groups) == 8 / 17
    assert purity(np.arange(17), groups) == 1


GROUPED = (
    *("data=synthetic", "data.clients=6", "data.groups=2", "data.length=4", "data.samples_per_client=60"),
    *("model.hidden_size=8", "device=cpu", "rounds=6", "dtype=float64", "engine.kernels=torch", "partition=natural"),
    *("client.optimizer.lr=1", "client.epochs=2"),
)


@pytest.mark.parametrize("schedule", [("ifca",), ("flhc", "schedule.after=3", "schedule.metric=cosine")])
def test_purity_of_clusters(compose, run, schedule):
    """Clients 0, 2, 4 are of one group and 1, 3, 5 of the other, whose labelling function is another one."""
    name, *more = schedule
    found = run(compose(*GROUPED, f"schedule={name}", *more))
    first, last = found.metrics[0], found.metrics[-1]
    taken = found.simulation.examine(found.state).clients["cluster"].astype(int).tolist()
    counts = [[taken[group::2].count(model) for group in (0, 1)] for model in sorted({*taken})]
    assert last["cluster_purity"] == sum(map(max, counts)) / 6
    assert last["cluster_purity"] == 1
    assert last["clusters"] == 2
    if name == "flhc":
        assert first["cluster_purity"] == 0.5  # one model of all


def test_purity_needs_groups(compose, run, tiny):
    """Of clients that mix samples of both groups nothing is known, nor of data without groups."""
    mixed = tuple(key for key in GROUPED if key != "partition=natural")
    for experiment in (
        compose(*mixed, "schedule=ifca", "partition=iid", "num_clients=6", "rounds=1"),
        tiny("schedule=ifca", "rounds=1"),
    ):
        found = run(experiment)
        assert "cluster_purity" not in [column.name for column in found.simulation.columns]
        assert "cluster_purity" not in found.metrics[-1]


def test_groups_of_unseen_clients(compose, run):
    """They choose by their own loss; purity is about the clients that train."""
    found = run(compose(*GROUPED, "schedule=ifca", "eval.unseen_clients=[client_4,client_5]"))
    assert found.simulation.population.groups.tolist() == [0, 1, 0, 1]
    assert found.simulation.population.unseen.groups.tolist() == [0, 1]
    evaluation = found.simulation.examine(found.state)
    assert found.metrics[-1]["cluster_purity"] == 1
    assert evaluation.unseen["cluster"].tolist() == evaluation.clients["cluster"][:2].tolist()
    header, rows = clients_table(found.simulation.population, evaluation)
    assert header[:6] == ("client", "name", "seen", "train_samples", "test_samples", "group")
    assert [row[1:6] for row in rows] == [
        *((f"client_{k}", 1, 60, 25, k % 2) for k in range(4)),
        *((f"client_{k}", 0, 60, 25, k % 2) for k in (4, 5)),
    ]


def test_unseen_clients_take_the_best_model(compose, run, paper):
    found = run(
        compose(
            *("data=synthetic", "data.clients=6", "data.length=4", "model.hidden_size=4", "device=cpu", "rounds=2"),
            *("dtype=float64", "engine.kernels=torch", "eval.unseen_clients=2", "partition=natural"),
            *("schedule=ifca", "schedule.models=4"),
        )
    )
    part, unseen = found.simulation.schedule, found.simulation.population.unseen
    choice = part.choose(models(found), torch.arange(2), part.other, unseen, None)
    losses = torch.stack(
        [part.other.score_clients(row.expand(2, -1), torch.arange(2), unseen.train).loss for row in models(found)]
    )
    assert choice.tolist() == losses.argmin(0).tolist()
    scored = part.other.score_clients(models(found)[choice], torch.arange(2), unseen.test)
    assert found.metrics[-1]["unseen_personal_loss"] == pytest.approx(float(scored.loss.sum() / scored.count.sum()))


def test_a_model_without_clients_stays(tiny, run, paper):
    """Of many models some are nobody's."""
    experiment = tiny("schedule=ifca", "schedule.models=12", *paper.settings)
    found, start = run(experiment), first_models(experiment)
    same = [torch.equal(a, b) for a, b in zip(models(found), start, strict=True)]
    assert any(same)
    assert not all(same)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("personalize=finetune",), "personalize=finetune: makes personal models, and so does schedule=ifca"),
        (("personalize=apfl",), "personalize=apfl: makes personal models"),
        (("aggregator=scaffold",), "correction=scaffold: is about one model that all clients get"),
        (("aggregator.blocks=[recurrent]",), "is about one model that all clients get"),
        (("link/down=quantize",), "link/down=quantize: is about one model"),
        (("sampler=power_of_choice",), "sampler=power_of_choice: asks for losses of one model"),
        (("audit=membership",), "audit=membership: is about one model"),
        (("privacy=secure_aggregation",), "schedule=ifca"),
        (("baseline=local",), "schedule=ifca|baseline=local"),
        (("schedule.models=0",), "models=0"),
    ],
)
def test_refused(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny("schedule=ifca", *overrides)


# ---------------------------------------------------------------------------------------------------------------------
# FL+HC

APART = {
    "euclidean": lambda a, b: np.sqrt(((a - b) ** 2).sum()),
    "cityblock": lambda a, b: np.abs(a - b).sum(),
    "cosine": lambda a, b: 1 - a @ b / np.sqrt((a @ a) * (b @ b)),
}
NEAR = {"average": np.mean, "complete": np.max, "single": np.min}


def agglomerate(rows, linkage, metric, clusters=None, threshold=np.inf):
    """Join the two nearest clusters until there are few enough, or none are nearer than the threshold."""
    groups = [[k] for k in range(len(rows))]
    while len(groups) > (clusters or 1):
        pairs = [
            (NEAR[linkage]([APART[metric](rows[a], rows[b]) for a in one for b in other]), i, j)
            for i, one in enumerate(groups)
            for j, other in enumerate(groups[:i])
        ]
        near, i, j = min(pairs)
        if near > threshold:
            break
        groups[j] += groups.pop(i)
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize("linkage", [*NEAR])
@pytest.mark.parametrize("metric", [*APART])
def test_clusters_of_updates(linkage, metric):
    rows = np.random.default_rng(3).normal(size=(9, 4))
    for how in ({"clusters": 3}, {"clusters": None, "threshold": 1.1}):
        part = FLHCInRun(**how, linkage=linkage, metric=metric, num_clients=9)
        found = part.clustered(torch.tensor(rows)).tolist()
        groups = [[k for k in range(9) if found[k] == number] for number in range(max(found) + 1)]
        assert groups == agglomerate(rows, linkage, metric, **how)  # numbered by their first client, too


def test_ward_joins_what_spreads_least():
    """Two pairs, each closer than they are to one another."""
    rows = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.1, 0.0], [5.2, 0.0]], dtype=torch.float64)
    part = FLHCInRun(linkage="ward", num_clients=4)
    assert part.clustered(rows).tolist() == [0, 1, 0, 1]


def test_an_update_of_length_zero_has_no_direction():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.1]], dtype=torch.float64)
    assert FLHCInRun(metric="cosine", num_clients=3).clustered(rows).tolist() == [0, 1, 1]
    assert FLHCInRun(num_clients=3).clustered(rows[:1]).tolist() == [0]


FLHC_SETTINGS = ("schedule=flhc", "schedule.after=2", "schedule.clusters=3")


def flhc(p, after, clusters):
    """Briggs 2020, Algorithm 1: FedAvg, clusters of all clients' updates, then FedAvg within each cluster."""
    theta, member, sizes = [p.row], dict.fromkeys(range(p.clients), 0), []
    for number in range(1, p.rounds + 1):
        cohort = range(p.clients)
        local = {}
        for i in cohort:
            y = theta[member[i]]
            for batch in p.batches(i, number):
                y = y - p.lr * p.gradient(y, batch)
            local[i] = y
        if number == after + 1:
            updates = np.stack([(local[i] - theta[0]).numpy() for i in cohort])
            groups = agglomerate(updates, "average", "euclidean", clusters)
            member = {i: j for j, group in enumerate(groups) for i in group}
            theta = theta * len(groups)
        for j in range(len(theta)):
            own = [i for i in cohort if member[i] == j]
            theta[j] = p.weighted(own, [local[i] for i in own])
        sizes.append(len(theta))
    return theta, member, sizes


def test_flhc(tiny, run, paper):
    found = run(tiny(*FLHC_SETTINGS, *paper.settings, "sampler.cohort_size=null", "sampler.fraction=1"))
    p = paper(found)
    theta, member, sizes = flhc(p, 2, 3)
    assert sizes == [1, 1, 3, 3]
    torch.testing.assert_close(models(found), torch.stack(theta), rtol=1e-11, atol=1e-13)
    assert found.state.drawers["schedule"]["member"].tolist() == [member[i] for i in range(p.clients)]
    assert found.metrics[-1]["personal_accuracy"] == p.accuracy(lambda i: theta[member[i]])
    assert [row["clusters"] for row in found.metrics[:3]] == [1, 1, 1]
    plain = run(tiny(*paper.settings, "sampler.cohort_size=null", "sampler.fraction=1"))
    assert all(torch.equal(a, b) for a, b in zip(found.rows[:2], plain.rows[:2], strict=True))
    assert found.metrics[-1]["bytes_up"] == plain.metrics[-1]["bytes_up"]
    assert found.metrics[-1]["bytes_down"] == plain.metrics[-1]["bytes_down"]


def test_one_cluster_is_fedavg(tiny, run, paper):
    for how in (("schedule.clusters=1",), ("schedule.threshold=1e9",)):
        found = run(tiny("schedule=flhc", "schedule.after=1", *how, *paper.settings))
        plain = run(tiny(*paper.settings))
        assert all(torch.equal(a, b) for a, b in zip(found.rows, plain.rows, strict=True))
        assert torch.equal(models(found)[0], plain.rows[-1])


def test_clients_without_a_cluster_take_the_best_model(tiny, run, paper):
    """Of five clients three take part in the round in which they are clustered."""
    found = run(tiny(*FLHC_SETTINGS, *paper.settings))
    p, member = paper(found), found.state.drawers["schedule"]["member"]
    others = (member < 0).nonzero()[:, 0]
    assert len(others) == p.clients - 3
    assert sorted(p.cohort(3)) == (member >= 0).nonzero()[:, 0].tolist()
    part, rows = found.simulation.schedule, models(found)
    choice = part.choose(rows, others, found.simulation.trainer, found.simulation.population, member)
    assert choice.tolist() == [best(p, rows, int(i)) for i in others]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("rounds=5",), "schedule.after=5: has an effect only with more rounds than that, and rounds=5"),
        (("schedule.linkage=ward", "schedule.metric=cosine"), "linkage=ward: needs schedule.metric=euclidean"),
        (("schedule.clusters=2", "schedule.threshold=1"), "exactly one of clusters and threshold"),
        (("schedule.clusters=null",), "exactly one of clusters and threshold"),
        (("schedule.linkage=near",), "linkage=near"),
        (("aggregator=scaffold",), "correction=scaffold: is about one model that all clients get"),
    ],
)
def test_flhc_refuses(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny("rounds=9", "schedule=flhc", *overrides)
