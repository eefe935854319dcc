"""Mime and MimeLite against the pseudocode of their paper."""

import pytest
import torch

from fedsim.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def algorithm_1(p, beta, lite, private=False):
    """Karimireddy 2021, Algorithm 1 with SGDm as the base algorithm: U(g, m) = (1 - beta) g + beta m, V the same."""
    x, m, rows, heads = p.row, torch.zeros_like(p.row), [], {}
    for number in range(1, p.rounds + 1):
        cohort, local = p.cohort(number), []
        begin = {i: torch.where(p.head, heads.get(i, p.row), x) if private else x for i in cohort}
        c = torch.stack([p.gradient(begin[i], p.samples(i)) for i in cohort]).mean(0)
        for i in cohort:
            y = begin[i]
            for batch in p.batches(i, number):
                g = p.gradient(y, batch)
                direction = g if lite else g - p.gradient(begin[i], batch) + c
                direction = (1 - beta) * direction + beta * m
                y = y - p.lr * (torch.where(p.head, g, direction) if private else direction)
            local.append(y)
            heads[i] = y
        m = (1 - beta) * c + beta * m
        if private:
            m = torch.where(p.head, 0, m)
        x = torch.stack(local).mean(0)
        if private:
            x = torch.where(p.head, p.row, x)
        rows.append(x)
    return rows, m


@pytest.mark.parametrize("lite", [True, False])
@pytest.mark.parametrize("private", [False, True])
def test_algorithm_1(tiny, run, paper, close, lite, private):
    more = ("aggregator.blocks=[recurrent]",) if private else ()
    name = "mimelite" if lite else "mime"
    found = run(tiny(f"aggregator={name}", "aggregator.correction.beta=0.7", *more, *paper.settings))
    rows, m = algorithm_1(paper(found), 0.7, lite, private)
    close(found.rows, rows)
    torch.testing.assert_close(found.state.drawers["correction"]["momentum"], m, rtol=1e-11, atol=1e-13)


def test_mimelite_without_momentum_is_fedavg(tiny, run, paper):
    ours = run(tiny("aggregator=mimelite", "aggregator.correction.beta=0", *paper.settings))
    theirs = run(tiny("aggregator=mean", *paper.settings))
    assert all(torch.equal(a, b) for a, b in zip(ours.rows, theirs.rows, strict=True))


def test_mime_of_one_client_with_full_batches_is_gradient_descent(tiny, run, paper):
    """Then g(x) is c, and without momentum nothing is left but the gradient at y."""
    one = ("client.batch_size=null", "sampler.cohort_size=1", "rounds=4")
    ours = run(tiny("aggregator=mime", "aggregator.correction.beta=0", *one))
    theirs = run(tiny("aggregator=mean", *one))
    for a, b in zip(ours.rows, theirs.rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "down", "up"), [("mimelite", 2, 2), ("mime", 3, 2)])
@pytest.mark.parametrize("more", [(), ("aggregator.blocks=[recurrent]",)])
def test_bytes(tiny, run, paper, name, down, up, more):
    """The model and m (and c), the delta and a gradient: rows of the aggregated parameters, 8 bytes a number."""
    found = run(tiny(f"aggregator={name}", *more, *paper.settings))
    row = 8 * found.simulation.blocks.size
    assert found.metrics[-1]["bytes_down"] == paper.rounds * 3 * down * row
    assert found.metrics[-1]["bytes_up"] == paper.rounds * 3 * up * row


@pytest.mark.parametrize("name", ["mimelite", "mime"])
def test_a_round_without_clients_changes_nothing(tiny, run, name):
    """A Poisson sampler leaves rounds empty: neither model nor momentum moves in one."""
    found = run(tiny(f"aggregator={name}", "sampler=poisson", "sampler.probability=0.15", "rounds=12"))
    empty = [k for k in range(1, 12) if found.metrics[k + 1]["clients"] == 0]
    assert empty
    for k in empty:
        assert torch.equal(found.rows[k], found.rows[k - 1])


@pytest.mark.parametrize("name", ["mimelite", "mime"])
@pytest.mark.parametrize(
    "overrides",
    [("client/optimizer=adam",), ("client.optimizer.momentum=0.5",), ("client.clip_norm=1",)],
)
def test_other_steps_are_refused(tiny, name, overrides):
    with pytest.raises(UserError, match="needs plain steps, since the only momentum is the server's"):
        tiny(f"aggregator={name}", *overrides)
    with pytest.raises(UserError, match=r"correction\.beta=1"):
        tiny(f"aggregator={name}", "aggregator.correction.beta=1")


@pytest.mark.parametrize("clash", ["privacy=secure_aggregation", "privacy=local_dp", "schedule=fedbuff"])
def test_what_hides_gradients_is_refused(tiny, clash):
    more = ("system=devices",) if clash.startswith("schedule") else ()
    with pytest.raises(UserError, match="aggregator/correction=mime_lite"):
        tiny("aggregator=mimelite", clash, *more)
