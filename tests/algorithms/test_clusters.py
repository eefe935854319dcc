"""Federations with several global models against the pseudocode of their papers."""

from dataclasses import replace

import pytest
import torch

from fedsim.clients.engine import SequentialEngine
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare

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
    settings = (*paper.settings, "client.optimizer.lr=0.2", "sampler.cohort_size=4", "seed=7", "schedule.clusters=3")
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
    found = run(tiny(f"aggregator={aggregator}", "schedule=ifca", "schedule.clusters=1", *paper.settings))
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
    found = run(tiny("schedule=ifca", "schedule.clusters=3", *paper.settings))
    row = 8 * found.state.row.numel()
    assert found.metrics[-1]["bytes_down"] == paper.rounds * 3 * 3 * row
    assert found.metrics[-1]["bytes_up"] == paper.rounds * 3 * (row + 1)


def test_unseen_clients_take_the_best_model(compose, run, paper):
    found = run(
        compose(
            *("data=synthetic", "data.clients=6", "data.length=4", "model.hidden_size=4", "device=cpu", "rounds=2"),
            *("dtype=float64", "engine.kernels=torch", "eval.unseen_clients=2", "partition=natural"),
            *("schedule=ifca", "schedule.clusters=4"),
        )
    )
    part, unseen = found.simulation.schedule, found.simulation.population.unseen
    choice = part.choose(models(found), torch.arange(2), part.other, unseen)
    losses = torch.stack(
        [part.other.score_clients(row.expand(2, -1), torch.arange(2), unseen.train).loss for row in models(found)]
    )
    assert choice.tolist() == losses.argmin(0).tolist()
    scored = part.other.score_clients(models(found)[choice], torch.arange(2), unseen.test)
    assert found.metrics[-1]["unseen_personal_loss"] == pytest.approx(float(scored.loss.sum() / scored.count.sum()))


def test_a_model_without_clients_stays(tiny, run, paper):
    """Of many models some are nobody's."""
    experiment = tiny("schedule=ifca", "schedule.clusters=12", *paper.settings)
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
        (("schedule.clusters=0",), "clusters=0"),
    ],
)
def test_refused(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny("schedule=ifca", *overrides)
