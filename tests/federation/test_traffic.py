"""Between clients and server in whole runs: what arrives, what it costs; chunks and resuming change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.data.dataset import Task
from fedsim.errors import UserError
from fedsim.federation.prepare import prepare
from fedsim.runs.checkpoints import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

P = 174
"""Parameters of the tiny classifier, 8 bytes each."""
ON = {
    "topk": ("link/up=topk",),
    "topk down": ("link/down=topk",),
    "randk": ("link/up=randk", "link.up.fraction=0.2"),
    "quantize both ways": ("link/up=quantize", "link/down=quantize", "link.up.bits=4"),
    "sign": ("link/up=sign", "link/down=sign"),
    "sign flip": ("attack=sign_flip", "attack.clients=[1]"),
    "gaussian": ("attack=gaussian", "attack.clients=[1,3]"),
    "scale": ("attack=scale", "attack.clients=[1]"),
    "alie": ("attack=alie", "attack.clients=[0]", "attack.z=1"),
    "ipm": ("attack=ipm", "attack.clients=[2]"),
    "min max": ("attack=min_max", "attack.clients=[2]"),
    "label flip": ("attack=label_flip", "attack.clients=[1]"),
    "backdoor": ("attack=backdoor", "attack.clients=[1]"),
    "all": ("link/up=topk", "link/down=quantize", "attack=min_max", "attack.clients=[3]", "aggregator=median"),
}


def close(a, b):
    assert len(a.rows) == len(b.rows)
    for x, y in zip(a.rows, b.rows, strict=True):
        assert (x - y).norm() <= 1e-10 * y.norm()
    for x, y in zip(a.metrics[1:], b.metrics[1:], strict=True):
        assert x == pytest.approx(y, rel=1e-9)


@pytest.mark.parametrize("name", ON)
def test_it_does_something_and_chunks_do_not(tiny, run, name):
    on = tiny(*ON[name], "rounds=3")
    plain = [override for override in ON[name] if override.startswith("aggregator")]
    off, whole = run(tiny(*plain, "rounds=3")), run(on)
    assert (whole.rows[-1] - off.rows[-1]).norm() > 1e-6
    for size in (1, 2):
        close(run(on, chunk_size=size), whole)


@pytest.mark.parametrize("name", ON)
def test_it_goes_on_from_a_checkpoint(tiny, run, name, tmp_path):
    on = tiny(*ON[name], "rounds=4", "sampler.cohort_size=3")
    whole, short = run(on), run(replace(on, rounds=2))
    state = load_checkpoint(save_checkpoint(tmp_path, short.state), torch.device("cpu"))
    rest = run(on, state)
    assert rest.metrics == whole.metrics[3:]
    assert torch.equal(rest.state.row, whole.state.row)


@pytest.mark.parametrize("aggregator", ["scaffold", "feddyn", "fedadam", "fednova", "krum"])
def test_with_every_kind_of_aggregator(tiny, run, aggregator):
    overrides = ("link/up=quantize", "link/down=quantize", "attack=sign_flip", "attack.clients=[1]", "rounds=3")
    on = tiny(f"aggregator={aggregator}", *overrides)
    close(run(on, chunk_size=2), run(on))


def test_private_blocks_are_not_sent(tiny, run):
    shared = int(prepare(tiny("aggregator.blocks=[recurrent]")).blocks.shared.numel())
    result = run(tiny("aggregator.blocks=[recurrent]", "link/up=sign", "link/down=sign", "attack=gaussian", "rounds=3"))
    assert result.metrics[1]["bytes_up"] == 5 * (8 + -(-shared // 8))
    assert result.metrics[1]["bytes_down"] == 5 * 8 * shared
    head = prepare(tiny()).task.arch.layout.slices["head.weight"]
    assert torch.equal(result.rows[-1][head], result.rows[0][head])  # the server's own, which nobody trains


# ---------------------------------------------------------------------------------------------------------------------
# bytes


def test_bytes_of_a_run(tiny, run):
    """Up: 9 positions of 8 bits and 9 numbers. Down: the model whole, then 174 codes of a byte and a norm."""
    result = run(tiny("link/up=topk", "link/down=quantize", "rounds=3"))
    up, down = 9 + 9 * 8, 174 + 8
    assert [m["bytes_up"] for m in result.metrics] == [0, 5 * up, 10 * up, 15 * up]
    assert [m["bytes_down"] for m in result.metrics] == [0, 5 * P * 8, 5 * (P * 8 + down), 5 * (P * 8 + 2 * down)]


def test_who_was_away_gets_what_it_missed(tiny, run):
    """One client a round in turn: whole models at first, then five messages, or a model where that is shorter."""
    turns = ("sampler=round_robin", "sampler.cohort_size=1", "rounds=6")
    result = run(tiny(*turns, "link/down=sign"))
    assert result.metrics[5]["bytes_down"] == 5 * P * 8
    assert result.metrics[6]["bytes_down"] == 5 * P * 8 + 5 * (8 + 22)
    result = run(tiny(*turns, "link/down=quantize", "link.down.bits=16"))
    assert result.metrics[6]["bytes_down"] == 6 * P * 8  # 5 * (2 * 174 + 8) is more


def test_control_variates_travel_beside_the_link(tiny, run):
    result = run(tiny("aggregator=scaffold", "link/up=sign", "rounds=1"))
    assert result.metrics[1]["bytes_up"] == 5 * (8 + 22 + P * 8)


def test_clients_train_from_the_decoded_model(tiny, run):
    """With feedback the copy stays near the model; what was sent is the copy's change."""
    result = run(tiny("link/down=quantize", "link.down.bits=2", "link.down.error_feedback=true", "rounds=12"))
    copy, before = result.state.drawers["link"]["copy"], result.rows[-2]
    assert not torch.equal(copy, before)  # before the last round it was brought near to this row
    assert (copy - before).norm() < (result.rows[0] - before).norm()


@pytest.mark.parametrize("blocks", ["[recurrent]", "null"])
def test_the_models_that_are_judged_are_the_servers(tiny, run, blocks):
    """Not the copies that clients had before the round."""
    options = ("personalize=finetune", "link/down=sign", "rounds=3", f"aggregator.blocks={blocks}")
    result = run(tiny(*options))
    sim, clients = result.simulation, torch.arange(5)
    models = sim.blocks.models(result.state.store, clients, result.state.row).expand(5, -1)
    sums = sim.trainer.score_clients(models, clients, sim.population.test)
    assert result.metrics[-1]["test_loss"] == pytest.approx(float(sums.loss.sum() / sums.count.sum()))


# ---------------------------------------------------------------------------------------------------------------------
# attacks


def test_nothing_happens_before_the_attack_starts(tiny, run):
    honest = run(tiny("rounds=4"))
    for attack in ("sign_flip", "label_flip", "min_max"):
        attacked = run(tiny("rounds=4", f"attack={attack}", "attack.clients=[1]", "attack.start_round=3"))
        assert [m["malicious"] for m in attacked.metrics] == [0, 0, 0, 1, 1]
        assert torch.equal(attacked.rows[1], honest.rows[1])
        assert not torch.equal(attacked.rows[2], honest.rows[2])


def test_flipped_signs_by_hand(tiny, run):
    """Mean of five deltas of which two are turned around."""
    result = run(tiny("aggregator=mean", "attack=sign_flip", "attack.clients=[0,4]", "attack.factor=2", "rounds=1"))
    deltas = result.deltas[0].numpy()
    start = run(tiny("aggregator=mean", "rounds=1"))
    expected = (start.rows[0] - start.deltas[0].mean(0)).numpy() + np.array([-2, 1, 1, 1, -2]) @ deltas / 5
    np.testing.assert_allclose(result.rows[0], expected, rtol=1e-12, atol=1e-14)


def test_a_cohort_of_attackers_alone_forges_from_its_own_rows(tiny, run):
    result = run(tiny("attack=ipm", "attack.clients=[0,1,2,3,4]", "attack.epsilon=1", "aggregator=mean", "rounds=1"))
    honest = run(tiny("aggregator=mean", "rounds=1"))
    start = honest.rows[0] - honest.deltas[0].mean(0)
    torch.testing.assert_close(result.rows[0], start - honest.deltas[0].mean(0))


def test_a_backdoor_is_learnt(tiny, run):
    options = ("rounds=12", "client.optimizer.lr=0.3", "attack=backdoor", "attack.clients=[1,4]", "attack.target=3")
    rates = [m["attack_success"] for m in run(tiny(*options, "attack.poisoned=1", "attack.value=5")).metrics]
    assert rates[-1] > 0.9
    assert rates[-1] > rates[0]


def test_what_has_nothing_to_act_on_is_refused(tiny, compose):
    cases = {
        ("aggregator=local", "link/up=sign"): "nothing is sent",
        ("aggregator=local", "attack=scale"): "nothing is sent",
        ("aggregator.blocks=[recurrent]", "attack=backdoor"): "attack=backdoor judges a whole global model",
        ("attack=scale", "attack.start_round=9"): "after the last of rounds=2",
        ("attack=alie",): "attack.z=null: the paper's z_max is 0",
        ("attack=backdoor", "attack.target=4"): "attack.target=4: there are classes 0 to 3",
        ("attack=scale", "attack.clients=[5]"): "there are clients 0 to 4",
    }
    for overrides, text in cases.items():
        with pytest.raises(UserError, match=text.replace(".", r"\.")):
            prepare(tiny(*overrides))
    with pytest.raises(UserError, match="a regression has no labels"):
        prepare(tiny("attack=label_flip", task=Task.REGRESSION))
