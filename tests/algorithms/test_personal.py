"""APFL, Per-FedAvg and pFedMe against the pseudocode of their papers."""

import pytest
import torch

from fedsim.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def by_client(found, block, width):
    """What the store has for every client, by number."""
    everyone = torch.arange(found.simulation.population.num_clients)
    nothing = torch.full((len(everyone), width), torch.nan, dtype=torch.float64)
    return found.state.store.read(block, everyone, nothing)


# ---------------------------------------------------------------------------------------------------------------------
# APFL


def apfl(p, first, learn, lr, decay=1.0, mu=0.0, momentum=0.0):
    """Deng 2020, Algorithm 1, with the rule for alpha (their eq. 11) in the first step of each round."""
    w, v, alpha, rows = p.row, {}, {}, []
    for number in range(1, p.rounds + 1):
        cohort, local = p.cohort(number), []
        for i in cohort:
            w_i, rate, velocity = w, decay ** (number - 1), 0.0
            v.setdefault(i, w), alpha.setdefault(i, first)
            for k, batch in enumerate(p.batches(i, number)):
                a = alpha[i]
                g = p.gradient(a * v[i] + (1 - a) * w_i, batch)
                if learn and k == 0:
                    alpha[i] = min(max(a - lr * rate * float((v[i] - w_i) @ g), 0.0), 1.0)
                v[i] = v[i] - lr * rate * a * g
                velocity = momentum * velocity + p.gradient(w_i, batch) + mu * (w_i - w)
                w_i = w_i - p.lr * rate * velocity
            local.append(w_i)
        w = p.weighted(cohort, local)
        rows.append(w)
    return rows, v, alpha


@pytest.mark.parametrize(("first", "learn", "lr"), [(0.5, True, 0.2), (0.3, False, 0.2), (0.7, True, 0.9)])
def test_apfl(tiny, run, paper, close, first, learn, lr):
    keys = (f"personalize.alpha={first}", f"personalize.learn={learn}", f"personalize.lr={lr}", "client.lr_decay=0.9")
    found = run(tiny("personalize=apfl", *keys, *paper.settings))
    p = paper(found)
    rows, v, alpha = apfl(p, first, learn, lr, 0.9)
    close(found.rows, rows)
    kept, weights = by_client(found, "personalize.own", len(p.row)), by_client(found, "personalize.alpha", 1)[:, 0]
    for i in range(p.clients):
        assert bool(kept[i].isnan().all()) == (i not in v)
        if i in v:
            torch.testing.assert_close(kept[i], v[i], rtol=1e-11, atol=1e-13)
            assert float(weights[i]) == pytest.approx(alpha[i], rel=1e-11)
    assert (len(set(alpha.values())) > 1) == learn
    mixed = [alpha.get(i, first) * v.get(i, rows[-1]) + (1 - alpha.get(i, first)) * rows[-1] for i in range(p.clients)]
    assert found.metrics[-1]["personal_accuracy"] == p.accuracy(lambda i: mixed[i])
    tested = [i for i in range(p.clients) if len(p.samples(i, "test")[2])]
    total = sum(float(p.loss(mixed[i], p.samples(i, "test")).detach()) * len(p.samples(i, "test")[2]) for i in tested)
    assert found.metrics[-1]["personal_loss"] == pytest.approx(total / len(p.population.test), rel=1e-10)
    plain = run(tiny(*paper.settings, "client.lr_decay=0.9"))
    assert all(torch.equal(a, b) for a, b in zip(found.rows, plain.rows, strict=True))  # the federation does not notice


def test_apfl_without_weight_is_the_global_model(tiny, run, paper):
    found = run(tiny("personalize=apfl", "personalize.alpha=0", "personalize.learn=false", *paper.settings))
    for row in found.metrics:
        for name in ("loss", "accuracy"):
            assert row[f"personal_{name}"] == pytest.approx(row[f"test_{name}"], rel=1e-12)


def test_apfl_with_all_weight_is_local_training(tiny, run, paper):
    """Then v takes the steps of plain SGD on the client's own samples from the model of its first round."""
    found = run(tiny("personalize=apfl", "personalize.alpha=1", "personalize.learn=false", *paper.settings))
    p, kept = paper(found), by_client(found, "personalize.own", found.state.row.numel())
    v, rows = {}, [p.row, *found.rows]
    for number in range(1, p.rounds + 1):
        for i in p.cohort(number):
            y = v.get(i, rows[number - 1])
            for batch in p.batches(i, number):
                y = y - p.lr * p.gradient(y, batch)
            v[i] = y
    for i, y in v.items():
        torch.testing.assert_close(kept[i], y, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("mu", "momentum"), [(0.7, 0.0), (0.0, 0.5)])
def test_apfl_follows_the_training_of_the_federation(tiny, run, paper, close, mu, momentum):
    """w_i takes the steps that the global training takes, with its proximal term or momentum; v takes plain ones."""
    keys = ("personalize.lr=0.3", "aggregator=fedprox", f"aggregator.correction.mu={mu}")
    found = run(tiny("personalize=apfl", *keys, f"client.optimizer.momentum={momentum}", *paper.settings))
    p = paper(found)
    rows, v, _ = apfl(p, 0.5, True, 0.3, mu=mu, momentum=momentum)
    close(found.rows, rows)
    kept = by_client(found, "personalize.own", len(p.row))
    for i, own in v.items():
        torch.testing.assert_close(kept[i], own, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("personalize.alpha=0",), "alpha=0.*has no slope"),
        (("personalize.alpha=1.5",), "alpha=1.5"),
        (("client/optimizer=adam",), "client/optimizer=adam: personalize=apfl trains .*set personalize.lr"),
        (("aggregator=scaffold",), "correction=scaffold: clients keep more"),
        (("client.optimizer.momentum=0.5", "client.keep_optimizer_state=true"), "keep_optimizer_state=true: clients"),
        (("aggregator.blocks=[recurrent]",), "personalize=finetune"),
        (("schedule=fedbuff", "system=devices", "client.lr_decay=0.5"), "lr_decay=0.5: under schedule=fedbuff"),
    ],
)
def test_apfl_refuses(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny("personalize=apfl", *overrides)


def test_apfl_refuses_corrections_with_notes(tiny, run):
    with pytest.raises(UserError, match="aggregator/correction=delta_sgd needs more"):
        run(tiny("personalize=apfl", "aggregator=delta_sgd"))


# ---------------------------------------------------------------------------------------------------------------------
# Per-FedAvg


def per_fedavg(p, alpha, decay):
    """Fallah 2020, Algorithm 1 with first-order gradients: two minibatches for each local update."""
    w, rows = p.row, []
    for number in range(1, p.rounds + 1):
        rate, cohort, local = decay ** (number - 1), p.cohort(number), []
        for i in cohort:
            y, batches = w, list(p.batches(i, number))
            for k in range(0, len(batches), 2):
                inner, outer = batches[k], batches[min(k + 1, len(batches) - 1)]
                y = y - p.lr * rate * p.gradient(y - alpha * rate * p.gradient(y, inner), outer)
            local.append(y)
        w = torch.stack(local).mean(0)
        rows.append(w)
    return rows


@pytest.mark.parametrize("alpha", [None, 0.5])
@pytest.mark.parametrize("steps", [(), ("client.epochs=null", "client.steps=3")])
def test_per_fedavg(tiny, run, paper, close, alpha, steps, monkeypatch):
    keys = () if alpha is None else (f"aggregator.correction.alpha={alpha}",)
    found = run(tiny("aggregator=per_fedavg", *keys, *paper.settings, *steps, "client.lr_decay=0.8"))
    p = paper(found)
    if steps:
        monkeypatch.setattr(p, "steps", lambda i: 3)
    alpha = p.lr if alpha is None else alpha
    rows = per_fedavg(p, alpha, 0.8)
    close(found.rows, rows)

    def adapted(i):
        """One step on one minibatch from the global model."""
        (batch,) = p.batches(i, p.rounds, "per_fedavg", 1)
        return rows[-1] - alpha * 0.8 ** (p.rounds - 1) * p.gradient(rows[-1], batch)

    assert found.metrics[-1]["personal_accuracy"] == p.accuracy(adapted)


def test_per_fedavg_with_tiny_inner_steps_is_fedavg(tiny, run):
    """With full batches, so that D = D': of 2 K steps K are left."""
    full = ("client.batch_size=null", "rounds=3", "client.epochs=null")
    ours = run(tiny("aggregator=per_fedavg", "aggregator.correction.alpha=1e-14", *full, "client.steps=6"))
    theirs = run(tiny("aggregator=mean", *full, "client.steps=3"))
    for a, b in zip(ours.rows, theirs.rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


# ---------------------------------------------------------------------------------------------------------------------
# pFedMe


@pytest.mark.parametrize(("mu", "steps", "lr"), [(1.0, 5, None), (3.0, 2, 0.1)])
def test_pfedme(tiny, run, paper, close, mu, steps, lr):
    """Dinh 2020, Algorithm 1: theta by gradient descent on F(theta; D) + mu / 2 |theta - w|^2, by autograd."""
    keys = (f"aggregator.correction.mu={mu}", f"aggregator.correction.steps={steps}")
    keys += () if lr is None else (f"aggregator.correction.lr={lr}",)
    beta = 0.8
    found = run(tiny("aggregator=pfedme", *keys, *paper.settings, f"aggregator.server_optimizer.lr={beta}"))
    p = paper(found)
    length = p.lr if lr is None else lr

    def nearby(w, batches):
        theta = w.clone()
        for batch in batches:
            free = theta.clone().requires_grad_()
            (mu / 2 * (free - w).square().sum()).backward()
            theta = theta - length * (p.gradient(theta, batch) + free.grad)
        return theta

    w, rows = p.row, []
    for number in range(1, p.rounds + 1):
        local = []
        for i in p.cohort(number):
            y = w
            for batch in p.batches(i, number):
                y = y - p.lr * mu * (y - nearby(y, [batch] * steps))
            local.append(y)
        w = (1 - beta) * w + beta * torch.stack(local).mean(0)
        rows.append(w)
    close(found.rows, rows)
    accuracy = p.accuracy(lambda i: nearby(w, p.batches(i, p.rounds, "pfedme", steps)))
    assert found.metrics[-1]["personal_accuracy"] == accuracy


def test_pfedme_with_one_step_is_fedavg(tiny, run, paper):
    """theta = w - lr * g then, and w moves by lr * mu * lr * g: with mu * lr = 1 as in FedAvg."""
    keys = ("aggregator.correction.steps=1", "aggregator.correction.mu=4", "aggregator.correction.lr=0.25")
    ours, theirs = run(tiny("aggregator=pfedme", *keys, *paper.settings)), run(tiny("aggregator=mean", *paper.settings))
    for a, b in zip(ours.rows, theirs.rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


def test_what_pfedme_costs(tiny):
    assert tiny("aggregator=pfedme", "aggregator.correction.steps=7").aggregator.correction.gradients == 7


@pytest.mark.parametrize("name", ["per_fedavg", "pfedme"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("personalize=finetune",), "personalize=finetune: aggregator/correction={name} makes the personal models"),
        (("schedule=ifca",), "schedule=ifca: aggregator/correction={name} makes the personal .*take schedule=synchron"),
        (("client/optimizer=adam",), "{name}: needs plain steps"),
        (("schedule=fedbuff", "system=devices", "client.lr_decay=0.5"), "lr_decay=0.5: under schedule=fedbuff"),
        (("aggregator.correction.steps=0",), "steps=0"),
    ],
)
def test_refused(tiny, name, overrides, message):
    with pytest.raises(UserError, match=message.format(name=name)):
        tiny(f"aggregator={name}", *overrides)


@pytest.mark.parametrize("choice", ["personalize=apfl", "aggregator=per_fedavg", "aggregator=pfedme"])
def test_unseen_clients(compose, run, choice):
    """They get what a newcomer gets, which is not the global model, and are not trained on for anybody else."""
    settings = (
        *("data=synthetic", "data.clients=6", "data.length=4", "model.hidden_size=4", "device=cpu", "rounds=2"),
        *("dtype=float64", "engine.kernels=torch", "eval.unseen_clients=2", "partition=natural"),
    )
    found = run(compose(*settings, choice))
    last = found.metrics[-1]
    assert last["unseen_personal_loss"] < last["unseen_loss"]
    assert last["personal_loss"] != last["test_loss"]
    assert found.state.store.num_clients == 4
