"""FedRep, FedBABU, FedPer and LG-FedAvg against the pseudocode of their papers."""

import pytest
import torch

from fedsim.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def fedrep(p, share):
    """Collins 2021, Algorithm 1: heads h_i on the clients, the representation phi averaged by the server."""
    phi, h, rows = p.row, {}, []
    for number in range(1, p.rounds + 1):
        cohort, local = p.cohort(number), []
        for i in cohort:
            y = torch.where(p.head, h.get(i, p.row), phi)
            for_head = round(share * p.steps(i))
            for k, batch in enumerate(p.batches(i, number)):
                now = p.head if k < for_head else ~p.head
                y = y - p.lr * torch.where(now, p.gradient(y, batch), 0)
            h[i] = y
            local.append(y)
        phi = torch.where(p.head, p.row, p.weighted(cohort, local))
        rows.append(phi)
    return rows, h


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_fedrep(tiny, run, paper, close, share):
    found = run(
        tiny("aggregator=fedrep", f"aggregator.correction.private_share={share}", *paper.settings, "model.num_layers=2")
    )
    p = paper(found)
    rows, h = fedrep(p, share)
    close(found.rows, rows)
    assert found.metrics[-1]["test_accuracy"] == p.accuracy(lambda i: torch.where(p.head, h.get(i, p.row), rows[-1]))
    assert found.metrics[-1]["bytes_up"] == p.rounds * 3 * 8 * int((~p.head).sum())

    def tuned(i):
        """Five more steps of the head, as its newcomers take (section 3), here from the client's own head."""
        y = torch.where(p.head, h.get(i, p.row), rows[-1])
        for batch in p.batches(i, p.rounds, "finetune", 5):
            y = y - p.lr * torch.where(p.head, p.gradient(y, batch), 0)
        return y

    assert found.metrics[-1]["personal_accuracy"] == p.accuracy(tuned)


def test_fedbabu(tiny, run, paper, close):
    """Oh 2022, Algorithm 1: the head is never updated; a client's model is fine-tuned from the result."""
    found = run(tiny("aggregator=fedbabu", *paper.settings))
    p = paper(found)
    x, rows = p.row, []
    for number in range(1, p.rounds + 1):
        cohort, local = p.cohort(number), []
        for i in cohort:
            y = x
            for batch in p.batches(i, number):
                y = y - p.lr * torch.where(p.head, 0, p.gradient(y, batch))
            local.append(y)
        x = p.weighted(cohort, local)
        rows.append(x)
    close(found.rows, rows)
    assert torch.equal(found.rows[-1][p.head], p.row[p.head])
    assert found.metrics[-1]["test_accuracy"] == p.accuracy(lambda i: x)

    def tuned(i):
        y = x
        for batch in p.batches(i, p.rounds, "finetune", 5):
            y = y - p.lr * p.gradient(y, batch)
        return y

    assert found.metrics[-1]["personal_accuracy"] == p.accuracy(tuned)
    assert found.metrics[-1]["bytes_up"] == p.rounds * 3 * 8 * int((~p.head).sum())


def test_fedbabu_is_fedrep_without_steps_for_the_head(tiny, run, paper):
    """Of a share so small that it rounds to no step."""
    ours = run(tiny("aggregator=fedbabu", *paper.settings))
    theirs = run(tiny("aggregator=fedrep", "aggregator.correction.private_share=1e-6", *paper.settings))
    assert all(torch.equal(a, b) for a, b in zip(ours.rows, theirs.rows, strict=True))


@pytest.mark.parametrize(("name", "blocks"), [("fedper", "[recurrent]"), ("lg_fedavg", "[head]")])
def test_presets_of_private_blocks(tiny, run, paper, name, blocks):
    ours = run(tiny(f"aggregator={name}", *paper.settings))
    theirs = run(tiny(f"aggregator.blocks={blocks}", *paper.settings))
    assert all(torch.equal(a, b) for a, b in zip(ours.rows, theirs.rows, strict=True))
    assert ours.metrics == theirs.metrics


@pytest.mark.parametrize("personalize", ["finetune", "finetune_head"])
def test_unseen_clients_fine_tune_the_representation_that_they_get(compose, run, personalize):
    """Their head is the one with which all began; with ``finetune_head`` the representation stays at rest."""
    found = run(
        compose(
            *("data=synthetic", "data.clients=6", "data.length=4", "model.hidden_size=4", "device=cpu", "rounds=2"),
            *("dtype=float64", "engine.kernels=torch", "eval.unseen_clients=2", "partition=natural"),
            *("aggregator=fedrep", f"personalize={personalize}"),
        )
    )
    assert found.metrics[-1]["unseen_personal_loss"] < found.metrics[-1]["unseen_loss"]
    trainer, unseen = found.simulation.personal.newcomers, torch.arange(2)
    anchors = found.state.row.expand(2, -1)
    rows = found.simulation.personal.settings.rows(trainer, anchors, unseen, 2, found.state.store)
    slices = found.simulation.task.arch.layout.slices
    for name, place in slices.items():
        moved = not torch.equal(rows[:, place], anchors[:, place])
        assert moved == (personalize == "finetune" or name.startswith("head"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("aggregator=fedrep", "aggregator.blocks=null"), r"fedrep: trains .*; set aggregator.blocks=\[-head\]"),
        (("aggregator=fedbabu", "aggregator.blocks=null"), r"fedbabu: trains .*; set aggregator.blocks=\[-head\]"),
        (("aggregator=fedrep", "client/optimizer=adam"), "fedrep: needs plain steps, which leave a block at rest"),
        (("aggregator=fedrep", "client.optimizer.momentum=0.5"), "fedrep: needs plain steps"),
        (("aggregator=fedbabu", "client.optimizer.weight_decay=0.1"), "weight_decay=0.1: shrinks the head"),
        (("personalize=finetune_head", "client.optimizer.weight_decay=0.1"), "weight_decay=0.1: moves all"),
        (("personalize=finetune_head", "personalize.blocks=[]"), r"personalize.blocks=\[\]: must name at least one"),
        (("aggregator=fedrep", "aggregator.correction.private_share=1"), "private_share=1"),
        (("aggregator=fedrep", "aggregator.correction.private_share=0"), "private_share=0"),
    ],
)
def test_refused(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny(*overrides)


def test_blocks_that_the_model_does_not_have(tiny, run):
    with pytest.raises(UserError, match=r"personalize.blocks=\['heads'\]: this model has recurrent, head, not 'heads'"):
        run(tiny("personalize=finetune_head", "personalize.blocks=[heads]"))
    with pytest.raises(UserError, match=r"this model has recurrent, head, not 'embedding'"):
        run(tiny("aggregator.blocks=[-embedding]"))
    with pytest.raises(UserError, match="names the blocks to aggregate or, with a minus before each, those not to"):
        run(tiny("aggregator.blocks=[recurrent,-head]"))


def test_clipping_goes_with_fedrep(tiny, run, paper):
    """It is of the block that trains: nothing else has a gradient."""
    found = run(tiny("aggregator=fedrep", "client.clip_norm=0.05", *paper.settings))
    assert found.metrics[-1]["delta_norm"] > 0
