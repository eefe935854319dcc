"""Edge servers and gossip against the pseudocode of their papers, written out for every client."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.clients.engine import SequentialEngine
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import play_round
from fedsim.runs.checkpoints import load_checkpoint, save_checkpoint
from fedsim.runs.dry_run import plan

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = 8 * 174
"""Bytes of the tiny classifier's parameters."""
ALL = ("sampler.cohort_size=null", "sampler.fraction=1")
GOSSIP = ("schedule=dpsgd", "aggregator=mean")


def models(found):
    return found.state.drawers["schedule"]["rows"]


def trained(p, row, client, number):
    """The model after a client's local steps of plain SGD."""
    for batch in p.batches(client, number):
        row = row - p.lr * p.gradient(row, batch)
    return row


def same_rows(a, b):
    return len(a.rows) == len(b.rows) and all(torch.equal(x, y) for x, y in zip(a.rows, b.rows, strict=True))


def close_metrics(a, b, rel=1e-9):
    for ours, theirs in zip(a.metrics, b.metrics, strict=True):
        assert {k: v for k, v in ours.items() if v is not None} == pytest.approx(
            {k: v for k, v in theirs.items() if v is not None}, rel=rel
        )


# ---------------------------------------------------------------------------------------------------------------------
# HierFAVG


def hierfavg(p, edge, every, by_clients=False):
    """Liu 2020, Algorithm 1: edges average after every round, the cloud after `every` rounds.

    Returns what the cloud would have after each round, and the models of the edges at the end.
    """
    size = (lambda i: 1) if by_clients else p.size
    edges, clients = range(max(edge) + 1), range(p.clients)
    w = [p.row for _ in edges]
    n = [sum(size(i) for i in clients if edge[i] == j) for j in edges]
    cloud = []
    for number in range(1, p.rounds + 1):
        local = {i: trained(p, w[edge[i]], i, number) for i in p.cohort(number)}
        for j in edges:
            own = [i for i in local if edge[i] == j]
            if own:
                w[j] = sum(size(i) * local[i] for i in own) / sum(size(i) for i in own)
        cloud.append(sum(n[j] * w[j] for j in edges) / sum(n))
        if number % every == 0:
            w = [cloud[-1] for _ in edges]
    return cloud, w


@pytest.mark.parametrize("who", [(), ALL])
@pytest.mark.parametrize(
    ("overrides", "edge", "every"),
    [
        ((), [0, 0, 0, 1, 1], 2),
        (("schedule.edges=3", "schedule.assignment=round_robin", "schedule.cloud_every=3"), [0, 1, 2, 0, 1], 3),
    ],
)
def test_hierfavg(tiny, run, paper, close, who, overrides, edge, every):
    found = run(tiny("schedule=hierfavg", *overrides, *paper.settings, *who))
    p = paper(found)
    cloud, w = hierfavg(p, edge, every)
    close(found.rows, cloud)
    torch.testing.assert_close(models(found), torch.stack(w), rtol=1e-11, atol=1e-13)
    assert found.metrics[-1]["test_accuracy"] == p.accuracy(lambda i: cloud[-1])


def test_edges_count_by_clients_where_clients_count_the_same(tiny, run, paper, close):
    found = run(tiny("schedule=hierfavg", "aggregator=mean", *paper.settings))
    close(found.rows, hierfavg(paper(found), [0, 0, 0, 1, 1], 2, by_clients=True)[0])


def test_edges_of_a_file(tiny, run, paper, close, tmp_path):
    """By the clients' names, in any order; of the edge ``z`` nobody takes part in this run."""
    file = tmp_path / "edges.csv"
    names = ("client_3,north", "client_0,south", "client_1, north", "", "client_4,mid", "other,z", "client_2,south")
    file.write_text("\n".join(("client,edge", *names)))
    found = run(tiny("schedule=hierfavg", f"schedule.assignment={file}", *paper.settings))
    close(found.rows, hierfavg(paper(found), [0, 1, 0, 1, 2], 2)[0])


@pytest.mark.parametrize("aggregator", ["fedavg", "mean", "median", "fedprox", "fedexp"])
def test_one_edge_is_the_aggregator_without_to_the_byte(tiny, run, paper, aggregator):
    plain = run(tiny(f"aggregator={aggregator}", *paper.settings))
    found = run(tiny(f"aggregator={aggregator}", "schedule=hierfavg", "schedule.edges=1", *paper.settings))
    assert same_rows(found, plain)
    for ours, theirs in zip(found.metrics, plain.metrics, strict=True):
        assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize("aggregator", ["fedavg", "mean"])
def test_a_cloud_that_averages_every_round_is_fedavg(tiny, run, paper, aggregator):
    """If all clients take part: the mean of means is the mean."""
    plain = run(tiny(f"aggregator={aggregator}", *paper.settings, *ALL))
    always = ("schedule=hierfavg", "schedule.cloud_every=1", "schedule.edges=3")
    found = run(tiny(f"aggregator={aggregator}", *always, *paper.settings, *ALL))
    for a, b in zip(found.rows, plain.rows, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()
    for ours, theirs in zip(found.metrics, plain.metrics, strict=True):
        assert {k: ours[k] for k, v in theirs.items() if v is not None} == pytest.approx(
            {k: v for k, v in theirs.items() if v is not None}, rel=1e-9
        )
    seldom = run(tiny(f"aggregator={aggregator}", "schedule=hierfavg", "schedule.edges=3", *paper.settings, *ALL))
    assert (seldom.rows[-1] - plain.rows[-1]).norm() > 1e-6


def test_bytes_of_both_links(tiny, run, paper):
    """In four rounds three edges get a model from the cloud before rounds 1 and 4, and send theirs after round 3."""
    three = ("schedule=hierfavg", "schedule.edges=3", "schedule.cloud_every=3")
    found, plain = run(tiny(*three, *paper.settings)), run(tiny(*paper.settings))
    assert [row["bytes_cloud_down"] for row in found.metrics] == [0, 3 * ROW, 3 * ROW, 3 * ROW, 6 * ROW]
    assert [row["bytes_cloud_up"] for row in found.metrics] == [0, 0, 0, 3 * ROW, 3 * ROW]
    for name in ("bytes_down", "bytes_up"):
        assert [row[name] for row in found.metrics] == [row[name] for row in plain.metrics]
    assert found.metrics[-1]["bytes_up"] == 4 * 3 * ROW


def test_virtual_seconds_of_both_links(tiny, run, paper):
    """A model takes ``8e-6 * 1392 / 0.01`` s from or to the cloud: before rounds 1 and 3, and after 2 and 4."""
    devices = ("system=devices", "system.gflops_spread=1", *paper.settings)
    plain = [row["virtual_seconds"] for row in run(tiny(*devices)).metrics]
    found = run(tiny(*devices, "schedule=hierfavg", "schedule.backhaul_mbps=0.01"))
    more = [a["virtual_seconds"] - b for a, b in zip(found.metrics, plain, strict=True)]
    assert more == pytest.approx([8e-6 * ROW / 0.01 * k for k in (0, 1, 2, 3, 4)], rel=1e-9)
    every = run(tiny(*devices, "schedule=hierfavg", "schedule.backhaul_mbps=0.01", "schedule.cloud_every=1"))
    assert every.metrics[-1]["virtual_seconds"] - plain[-1] == pytest.approx(8e-6 * ROW / 0.01 * 8, rel=1e-9)


def test_an_edge_without_clients_in_a_round_keeps_its_model(tiny, paper):
    simulation = prepare(tiny(*paper.settings, "schedule=hierfavg", "schedule.edges=5", "sampler.cohort_size=1"))
    state = initial_state(simulation)
    first = state.row.clone()
    play_round(simulation, state)
    assert [torch.equal(row, first) for row in state.drawers["schedule"]["rows"]].count(False) == 1


# ---------------------------------------------------------------------------------------------------------------------
# both


@pytest.mark.parametrize("which", ["hierfavg", "dpsgd"])
def test_engines_and_chunks_agree(tiny, run, paper, which):
    overrides = (*GOSSIP, *ALL) if which == "dpsgd" else ("schedule=hierfavg",)
    experiment = tiny(*paper.settings, *overrides)
    ours, theirs = run(experiment), run(replace(experiment, engine=SequentialEngine()))
    torch.testing.assert_close(models(ours), models(theirs), rtol=1e-10, atol=1e-11)
    close_metrics(ours, theirs)
    for size in (1, 2):
        chunked = run(experiment, chunk_size=size)
        torch.testing.assert_close(models(chunked), models(ours), rtol=1e-11, atol=1e-13)
        close_metrics(chunked, ours)


@pytest.mark.parametrize("which", ["hierfavg", "dpsgd"])
def test_it_goes_on_from_a_checkpoint_to_the_byte(tiny, run, paper, which, tmp_path):
    """From round 1, where the edges have not met, and from round 3."""
    overrides = (*GOSSIP, *ALL) if which == "dpsgd" else ("schedule=hierfavg",)
    experiment = tiny(*paper.settings, *overrides)
    whole = run(experiment)
    for after in (1, 3):
        simulation = prepare(experiment)
        kept = initial_state(simulation)
        for _ in range(after):
            play_round(simulation, kept)
        assert len({tuple(row) for row in kept.drawers["schedule"]["rows"].tolist()}) > 1
        (tmp_path / str(after)).mkdir()
        state = load_checkpoint(save_checkpoint(tmp_path / str(after), kept), torch.device("cpu"))
        rest = run(experiment, state)
        assert rest.metrics == whole.metrics[after + 1 :]
        assert torch.equal(models(rest), models(whole))


@pytest.mark.parametrize("which", ["hierfavg", "dpsgd"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("aggregator=scaffold", "aggregator/combine=mean"), "correction=scaffold: is about one model that all"),
        (("aggregator.blocks=[recurrent]",), "is about one model that all clients get"),
        (("audit=membership",), "audit=membership: is about one model that all clients get"),
        (("sampler=power_of_choice", "sampler.fraction=0.2"), "sampler=power_of_choice: asks for losses of one model"),
        (("personalize=finetune",), "personalize=finetune: makes personal models from one model"),
        (("personalize=ditto",), "personalize=ditto: makes personal models from one model"),
        (("privacy=secure_aggregation",), "privacy=secure_aggregation: "),
        (("privacy=central_dp",), "privacy=central_dp: "),
        (("link/down=quantize",), "link/down=quantize: "),
        (("baseline=local",), "baseline=local: is no federation, in which schedule=.* would act"),
    ],
)
def test_refused_without_one_model(tiny, which, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny(f"schedule={which}", "aggregator=mean", *overrides)


@pytest.mark.parametrize("which", ["hierfavg", "dpsgd"])
def test_a_schedule_of_the_server_is_refused(tiny, which):
    falling = tiny(f"schedule={which}", "aggregator=mean", "aggregator/server_optimizer/schedule=cosine")
    with pytest.raises(UserError, match=f"schedule=cosine: is about the length .* schedule={which} averages models"):
        prepare(falling)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("schedule.edges=0",), "edges=0: must be at least 1"),
        (("schedule.backhaul_mbps=0", "system=devices"), "backhaul_mbps=0.*must be at least 1e-09"),
        (("schedule.assignment=rund_robin", "schedule.edges=2"), r"edges=2: has an effect only.*round_robin"),
        (("schedule.backhaul_mbps=1",), "backhaul_mbps=1: has an effect only with system=devices or profiles"),
        (("system=devices",), "schedule=hierfavg: system=devices counts virtual seconds.* take schedule.backhaul_mbps"),
        (("aggregator=fedadam",), "server_optimizer=adam: steps with one model"),
        (("aggregator.server_optimizer.lr=0.5",), "server_optimizer.lr=0.5: steps with one model"),
    ],
)
def test_hierfavg_refuses(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny("rounds=8", "schedule=hierfavg", *overrides)


@pytest.mark.parametrize(
    ("overrides", "text", "message"),
    [
        (("schedule.edges=6",), None, "schedule.edges=6: there are only 5 clients"),
        (("schedule.assignment=nowhere.csv",), None, "nowhere.csv: is none of blocks, round_robin, and no CSV that"),
        (("schedule.assignment=block",), None, r"block: is none of blocks, round_robin \(did you mean 'blocks'"),
        ((), "client,edge\nclient_0,a\n", r"no edge for client 'client_1' \(and for 3 more of 5\)"),
        ((), "client,edge\nclient_0,a\nclient_0,b\n", "line 3: client 'client_0' has an edge already"),
        ((), "client,place\nclient_0,a\n", "line 1: must name the columns client and edge"),
        ((), "client,edge\nclient_0\n", "line 2: must be two names"),
        ((), "", "line 1: must name the columns"),
    ],
)
def test_hierfavg_refuses_assignments(tiny, tmp_path, monkeypatch, overrides, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "edges.csv").write_text(text)
        overrides = ("schedule.assignment=edges.csv",)
    with pytest.raises(UserError, match=message):
        prepare(tiny("schedule=hierfavg", *overrides))


def test_rules_that_need_many_clients_are_refused_where_an_edge_may_have_one(tiny):
    with pytest.raises(UserError, match="krum"):
        prepare(tiny("schedule=hierfavg", "aggregator=krum", *ALL))
    prepare(tiny("schedule=hierfavg", "schedule.edges=1", "aggregator=krum", *ALL))


def test_noise_attacks_and_encodings_go_with_edges(tiny, run):
    """What happens to a client's row on its way to an edge."""
    pytest.importorskip("dp_accounting")
    plain = run(tiny("schedule=hierfavg", "aggregator=mean", "rounds=3"))
    for overrides in (("privacy=local_dp",), ("attack=sign_flip", "attack.clients=[1]"), ("link/up=topk",)):
        found = run(tiny("schedule=hierfavg", "aggregator=mean", "rounds=3", *overrides))
        assert (found.rows[-1] - plain.rows[-1]).norm() > 1e-6
    assert found.metrics[-1]["bytes_up"] < plain.metrics[-1]["bytes_up"]
    assert found.metrics[-1]["bytes_cloud_up"] == plain.metrics[-1]["bytes_cloud_up"] > 0


def test_an_attack_stays_in_its_edge_until_the_cloud_averages(tiny):
    """Client 4 belongs to the second edge."""
    rows = []
    for more in ((), ("attack=scale", "attack.clients=[4]", "attack.factor=50")):
        simulation = prepare(tiny("schedule=hierfavg", "rounds=3", *ALL, *more))
        state = initial_state(simulation)
        play_round(simulation, state)
        rows.append(state.drawers["schedule"]["rows"])
    honest, attacked = rows
    assert torch.equal(honest[0], attacked[0])
    assert not torch.allclose(honest[1], attacked[1])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "of the mean of 2 edges, which clients have after every 2 rounds only"),
        (("schedule.cloud_every=9",), "which clients never have: schedule.cloud_every=9 is more than rounds=4"),
        (("schedule.cloud_every=1",), None),
        (("schedule.edges=1",), None),
    ],
)
def test_what_is_judged_is_said(tiny, overrides, said):
    lines = prepare(tiny("schedule=hierfavg", "rounds=4", *overrides)).schedule.introduce()
    assert [said in line for line in lines] == ([] if said is None else [True])


def test_plans(tiny):
    found = plan(prepare(tiny("schedule=hierfavg", "schedule.cloud_every=2")))
    assert found["schedule"] == "hierfavg: 2 edge(s) of 2 to 3 clients (blocks), averaged by the cloud every 2 rounds"
    assert found["bytes to the cloud"] == f"{2 * ROW:,} down and {2 * ROW:,} up every 2 rounds, all edges together"
    found = plan(prepare(tiny(*GOSSIP, *ALL)))
    # The eigenvalues of a ring with thirds are (1 + 2 cos(2 pi k / 5)) / 3; the second largest absolute value is k = 1.
    gap = 1 - (1 + 2 * math.cos(2 * math.pi / 5)) / 3
    assert found["schedule"] == f"dpsgd: ring of 5 clients with 2 neighbours each, 5 edges, spectral gap {gap:.3g}"
    assert found["bytes of the graph"] == f"{2 * ROW:,} on each edge in a round, {4 * ROW:,} at the client with most"
    assert found["bytes in round 1"] == f"{10 * ROW:,} down, {10 * ROW:,} up"


# ---------------------------------------------------------------------------------------------------------------------
# D-PSGD

RING = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]
STAR = [(2, 0), (2, 1), (2, 3), (2, 4)]
PATH = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 3)]


def weights_of(edges, count):
    """Metropolis and Hastings: neighbours count 1 / (1 + the larger degree), and the rest is the client's own."""
    w = np.zeros((count, count))
    degree = [sum(k in edge for edge in edges) for k in range(count)]
    for a, b in edges:
        w[a, b] = w[b, a] = 1 / (1 + max(degree[a], degree[b]))
    return w + np.diag(1 - w.sum(1))


def dpsgd(p, w):
    """Lian 2017, Algorithm 1, with local steps first: the rows after each round, ``[N, P]`` each."""
    x, rounds = np.stack([p.row.numpy()] * p.clients), []
    for number in range(1, p.rounds + 1):
        local = [trained(p, torch.from_numpy(x[i]), i, number).numpy() for i in range(p.clients)]
        x = w @ np.stack(local)
        rounds.append(x)
    return rounds


@pytest.mark.parametrize(("graph", "edges"), [("ring", RING), ("star", STAR), ("path", PATH)])
def test_dpsgd(tiny, run, paper, close, tmp_path, graph, edges):
    """On graphs of equal and unequal degrees; the latter from a file."""
    if graph != "ring":
        file = tmp_path / f"{graph}.csv"
        file.write_text("neighbour,client\n" + "".join(f"client_{a},client_{b}\n" for a, b in edges))
        graph = str(file)
    found = run(tiny(*GOSSIP, f"schedule.graph={graph}", *paper.settings, *ALL))
    p = paper(found)
    rounds = dpsgd(p, weights_of(edges, 5))
    close(found.rows, [torch.from_numpy(x.mean(0)) for x in rounds])
    torch.testing.assert_close(models(found), torch.from_numpy(rounds[-1]), rtol=1e-11, atol=1e-13)
    apart = [np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean()) for x in rounds]
    assert [row["consensus_distance"] for row in found.metrics] == pytest.approx([0, *apart], rel=1e-9)
    assert min(apart) > 0.01
    own = torch.from_numpy(rounds[-1])
    assert found.metrics[-1]["personal_accuracy"] == p.accuracy(lambda i: own[i])
    assert found.metrics[-1]["test_accuracy"] == p.accuracy(lambda i: own.mean(0))


def test_a_complete_graph_is_fedavg_in_which_all_count_the_same(tiny, run, paper):
    found = run(tiny(*GOSSIP, "schedule.graph=complete", *paper.settings, *ALL))
    plain = run(tiny("aggregator=mean", *paper.settings, *ALL))
    for a, b in zip(found.rows, plain.rows, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()
    skipped = ("bytes_down", "bytes_up")
    for ours, theirs in zip(found.metrics, plain.metrics, strict=True):
        known = {k: v for k, v in theirs.items() if v is not None and k not in skipped}
        assert {k: ours[k] for k in known} == pytest.approx(known, rel=1e-9)
        assert ours["personal_loss"] == pytest.approx(ours["test_loss"], rel=1e-9)
        assert ours["consensus_distance"] < 1e-12


def test_equal_samples_make_it_fedavg(tiny, run, paper, uneven):
    """Then weights by samples are equal weights: the aggregator is FedAvg itself."""
    equal = uneven((6,) * 5, (2,) * 5)
    gossip = replace(tiny(*GOSSIP, "schedule.graph=complete", *paper.settings, *ALL), partition=equal)
    plain = replace(tiny("aggregator=fedavg", *paper.settings, *ALL), partition=equal)
    for a, b in zip(run(gossip).rows, run(plain).rows, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()


def test_bytes_of_the_graph(tiny, run, tmp_path):
    """A star of five sends a row each way over four edges; eight of them are its centre's."""
    file = tmp_path / "star.csv"
    file.write_text("client,neighbour\n" + "".join(f"client_{a},client_{b}\n" for a, b in STAR))
    found = run(tiny(*GOSSIP, f"schedule.graph={file}", "rounds=3", *ALL))
    for number, row in enumerate(found.metrics):
        assert row["bytes_down"] == row["bytes_up"] == 8 * ROW * number
        assert row["bytes_busiest"] == 8 * ROW * number
    ring = run(tiny(*GOSSIP, "rounds=3", *ALL)).metrics[-1]
    assert (ring["bytes_up"], ring["bytes_busiest"]) == (3 * 10 * ROW, 3 * 4 * ROW)


def test_unseen_clients_get_the_mean(compose, run):
    found = run(
        compose(
            *("data=synthetic", "data.clients=6", "data.length=4", "model.hidden_size=4", "device=cpu", "rounds=2"),
            *("dtype=float64", "engine.kernels=torch", "eval.unseen_clients=2", "partition=natural", "num_clients=6"),
            *(*GOSSIP, "sampler.fraction=1"),
        )
    ).metrics[-1]
    assert found["unseen_personal_loss"] == found["unseen_loss"] > 0
    assert found["personal_loss"] != found["test_loss"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("aggregator=fedavg",), r"^schedule=dpsgd: there is no server.*weighted.*; take aggregator=mean sampler.frac"),
        (("aggregator=fedadam",), r"no server, which aggregator/combine=weighted and .*server_optimizer=adam would be"),
        (("aggregator=median",), "no server, which aggregator/combine=median would be about"),
        (("aggregator.server_optimizer.lr=0.5",), "no server, which aggregator.server_optimizer.lr=0.5 would"),
        (("attack=sign_flip",), "attack=sign_flip: acts on what clients and server send each other"),
        (("link/up=topk",), "link/up=topk: acts on what clients and server send each other"),
        (("privacy=local_dp",), "privacy=local_dp: acts on what clients and server send each other"),
        (("system=devices",), "system=devices: its virtual clock knows .*; take system=none"),
        (("schedule.degree=3",), "degree=3: has an effect only with graph=random_regular, not ring"),
        (("schedule.graph=",), "graph="),
    ],
)
def test_dpsgd_refuses(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        tiny(*GOSSIP, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("sampler.fraction=0.6",),
            "all take part in every round; the sampler draws 3 of 5: take .*sampler.fraction=1",
        ),
        (("sampler=poisson", "sampler.probability=0.5"), "the sampler draws 0 to 5 of 5"),
    ],
)
def test_dpsgd_refuses_samplers(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        prepare(tiny(*GOSSIP, *overrides))


def test_rows_that_do_not_fit_are_refused(tiny, monkeypatch):
    """Five rows of 1392 bytes, three times: kept, trained and mixed."""
    monkeypatch.setattr("fedsim.machine.available_bytes", lambda: 3 * 5 * ROW)
    prepare(tiny(*GOSSIP, *ALL))
    monkeypatch.setattr("fedsim.machine.available_bytes", lambda: 3 * 5 * ROW - 1)
    with pytest.raises(UserError, match=r"num_clients=5: a row of 174 parameters for each client, kept, trained and"):
        prepare(tiny(*GOSSIP, *ALL))


def test_another_graph_is_another_run(tiny, tmp_path):
    """What a file says is part of what a resumed run must find again."""
    marks = []
    for edges in (STAR, RING):
        (tmp_path / "graph.csv").write_text(
            "client,neighbour\n" + "".join(f"client_{a},client_{b}\n" for a, b in edges)
        )
        part = prepare(tiny(*GOSSIP, f"schedule.graph={tmp_path / 'graph.csv'}", *ALL)).schedule
        marks.append(json.dumps([one.tolist() for one in part.fingerprint()]))
    assert marks[0] != marks[1]
