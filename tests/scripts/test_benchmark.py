import csv
import math
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from fedsim.data.dataset import Task
from fedsim.models import recurrent
from fedsim.models.macs import forward_macs
from fedsim.models.recurrent import Architecture

SCRIPTS = Path(__file__).parents[2] / "scripts"

TOY = "W1:clients=3,cohort=2,samples=5,steps=4,features=3,hidden=4,outputs=3,batch_size=2"
TOKENS = "W3:clients=3,cohort=2,samples=3,steps=4,hidden=4,vocabulary=7,outputs=7,embedding=2,batch_size=2"
ADAM = "W4:clients=2,cohort=2,samples=3,steps=4,features=3,hidden=4,epochs=2,batch_size=2"

CONTENDER = """
import sys
from bench.workloads import Spec, Turns

turns = Turns()
print("what libraries say")
for number in turns.rounds(Spec.from_json(sys.argv[1]).rounds):
    if sys.argv[1].count('"lr": 7.0'):
        raise RuntimeError("seven is too much")
turns.finish(lambda: 1.5)
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Put the scripts' folder on the path, as if one of them were run."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def contender(tmp_path, monkeypatch):
    """A contender that does nothing."""
    from bench.measure import Contender

    (tmp_path / "toy_contender.py").write_text(CONTENDER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Contender("toy", "toy_contender")


def test_parse_changes_a_workload():
    from bench.workloads import WORKLOADS, parse

    w = parse("W1:cohort=7,lr=0.5,cell=lstm")
    assert (w.cohort, w.lr, w.cell, w.clients) == (7, 0.5, "lstm", WORKLOADS["W1"].clients)


@pytest.mark.parametrize("text", ["W9", "W1:size=3", "W1:cohort=101", "W1:cell=tree", "W1:cohort=x"])
def test_parse_refuses(text):
    from bench.workloads import parse

    with pytest.raises(ValueError, match=r"W1|size|cohort|cell|invalid"):
        parse(text)


@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W4"])
def test_operations_are_counted_as_in_fedsim(name):
    from bench.workloads import WORKLOADS

    w = WORKLOADS[name]
    model = {"gru": recurrent.GRU, "lstm": recurrent.LSTM}[w.cell](
        hidden_size=w.hidden, num_layers=w.layers, embedding_size=w.embedding or None
    )
    arch = Architecture(model, w.features, w.vocabulary or None, w.outputs, Task(w.task))
    assert 2 * forward_macs(arch, w.steps) == w.flops_per_sample


def test_operations_of_w1():
    from bench.workloads import WORKLOADS

    # 29 steps of 2 (12 + 64) 3 64 and a head of 2 64 9, times 3 for backward, 50 clients of 64 samples
    assert WORKLOADS["W1"].flops_per_round == 3 * (29 * 2 * 76 * 192 + 2 * 64 * 9) * 50 * 64


@pytest.mark.parametrize("text", [TOY, TOKENS, ADAM])
def test_fedsim_and_the_loop_do_the_same(text):
    from bench.ours import compare_with_loop
    from bench.workloads import Spec, parse

    apart = compare_with_loop(Spec(parse(text), rounds=2, device="cpu", kernels="torch"))
    assert apart["loss"] < 1e-5
    assert apart["weights"] < 1e-3
    assert apart["flops"] == 1


@pytest.mark.parametrize("text", [TOY, TOKENS, ADAM, f"{TOY},cell=rnn,layers=2"])
def test_stacked_clients_learn_what_the_loop_teaches_each(text):
    import torch
    from bench.plain import Model, loss_of, tensors, train_client
    from bench.workloads import parse
    from peers.functional import Layers, train_cohort, with_layers

    w = parse(text).full_batch()  # so that the order of the samples does not matter
    inputs, targets = tensors(w)
    model = with_layers(w, Layers(w))

    def loss(weights, x, y):
        return loss_of(w, torch.func.functional_call(model, weights, (x,)), y)

    rows = train_cohort(w, model, torch.vmap(torch.func.grad(loss)), inputs, targets)
    for client in range(w.clients):
        alone = Model(w)  # with torch's own layers
        train_client(w, alone, inputs[client], targets[client], [[torch.arange(w.samples)]] * w.epochs)
        for name, value in alone.state_dict().items():
            assert not torch.equal(value, model.state_dict()[name])  # all of them learn
            torch.testing.assert_close(rows[name][client], value, rtol=1e-4, atol=1e-6)


def test_a_peer_runs_in_its_own_python_or_in_this_one(tmp_path):
    import argparse

    import benchmark

    assert benchmark.peer("functional").python == sys.executable
    (tmp_path / "python").touch()
    assert benchmark.peer(f"jax={tmp_path}/python").python == f"{tmp_path}/python"
    for text in ("nobody", "functional=", "nobody=python"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME one of fedjax, flower, fluke, functional, jax"):
            benchmark.peer(text)
    with pytest.raises(argparse.ArgumentTypeError, match="there is no nowhere"):
        benchmark.peer("jax=nowhere")


def test_the_peak_is_made_of_multiply_adds_in_registers():
    from bench.peak import LANES, SUMS, loop

    # x -> x / 2 + 1 halves the distance to 2 in every step; the sums start at 0, 1, 2, ...
    for steps in (0, 1, 3):
        assert loop(steps, 0.5, 1.0) == LANES * sum(2 + (k - 2) / 2**steps for k in range(SUMS))
    (code,) = loop.inspect_asm().values()
    fused = [line for line in code.splitlines() if re.search(r"vfn?madd\d+ps|fmla", line)]
    assert len(fused) >= SUMS
    assert not [line for line in fused if "(" in line or "[" in line]  # no operand in memory


def test_speeds_of_the_machine(capsys):
    import benchmark
    from bench.peak import FLOPS_PER_CORE

    # 2 2048^3 operations in 0.1 s are 171.8 GFLOP/s
    gpu = benchmark.speeds_of("W1", 2, [[0.1]])
    assert gpu.matmul == pytest.approx(171.8, abs=0.1)
    assert math.isnan(gpu.peak)
    both = benchmark.speeds_of("W1", 2, [[0.1], [0.02, 0.03, 0.01], [0.04]])
    assert both.peak == pytest.approx(2 * FLOPS_PER_CORE / 0.04 / 1e9)
    alone = FLOPS_PER_CORE / 0.02 / 1e9
    assert f"multiply-adds {alone:.0f} GFLOP/s on one core, {both.peak:.0f} with 2 threads" in capsys.readouterr().out
    assert benchmark.speeds_of("W1", 1, [[0.1], [0.02]]).peak == pytest.approx(alone)


def test_profile_names_the_stages():
    from bench.stages import profile
    from bench.workloads import Spec, parse

    text = profile(Spec(parse(TOY), rounds=2, kernels="torch"))
    stages = text[text.index(":\n") : text.index("everything outside")]
    for label in (
        *("recurrent kernels, forward", "recurrent kernels, backward", "embedding, head, loss, copies of gradients"),
        *("batch order", "gather of batches", "local optimizer", "local training, the rest", "combine and spread"),
        "server step and record",
    ):
        assert label in stages


def test_contenders_take_turns(contender, monkeypatch):
    from bench import measure
    from bench.measure import MOST_ROUNDS, Worker, interleaved, rounds_needed
    from bench.workloads import WORKLOADS, Spec

    monkeypatch.setattr(measure, "HOPELESS", float("inf"))  # on a busy machine one of two equals may look so
    spec = Spec(WORKLOADS["W1"], rounds_needed(repeats=2, warm_up=1))
    assert spec.rounds == 1 + 2 * MOST_ROUNDS
    with Worker(contender, spec) as one, Worker(contender, spec) as other:
        seconds = interleaved([one, other], repeats=2, warm_up=1)  # its rounds take no time: the most per turn
        assert [len(own) for own in seconds] == [2, 2]
        assert one.loss() == 1.5
        assert other.peak_rss_mb() > 1


def test_a_failure_is_reported(contender):
    from bench.measure import Failed, Worker
    from bench.workloads import Spec, parse

    with (
        Worker(contender, Spec(parse("W1:lr=7"), rounds=1)) as worker,
        pytest.raises(Failed, match="seven is too much"),
    ):
        worker.turn()


def test_csv_and_table(tmp_path):
    from bench import report

    rows = [report.Row("W1", "fedsim", 0.1, 81.4, 8.0, 0.5, 0.2, 400.0, 2.5)]
    report.write_csv(tmp_path / "results.csv", rows)
    with (tmp_path / "results.csv").open() as stream:
        read = list(csv.reader(stream))
    assert read[0] == [f.name for f in fields(report.Row)]
    assert read[1][:3] == ["W1", "fedsim", "0.1"]
    assert len({len(line) for line in report.table(rows).splitlines()}) == 1


@pytest.mark.slow
def test_whole_benchmark(tmp_path, capsys):
    import benchmark

    file = tmp_path / "results.csv"
    options = ["--repeats", "2", "--warm-up", "1", "--starts", "1", "--kernels", "torch", "--csv", str(file)]
    assert benchmark.main(["--workload", TOY, TOKENS, "--peer", "functional", *options]) == 0
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["who"] for row in rows] == ["fedsim", "loop", "functional"] * 2
    assert all(0 < float(row["fraction_of_peak"]) < 1 for row in rows)
    assert all(float(row["first_round_s"]) > float(row["seconds_per_round"]) > 0 for row in rows)
    assert "fedsim run" in capsys.readouterr().out
    assert benchmark.main(["--workload", TOY, "--check", "--kernels", "torch", "--peer", "functional"]) == 0


@pytest.mark.slow
def test_growth(tmp_path):
    import growth

    file = tmp_path / "growth.csv"
    sizes = ["--clients", "2", "4", "--samples", "3", "--epochs", "1", "--repeats", "1"]
    assert growth.main([*sizes, "--csv", str(file)]) == 0
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["varied"] for row in rows] == ["clients", "clients", "samples", "local_steps"]


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    import benchmark
    import growth
    from bench import report

    report.bar_chart(
        tmp_path / "bars.png", [report.Row("W1", "fedsim", 0.1, 81.4, 8.0, 0.5, 0.2, 400.0, 2.5)], {"W1": 190.0}
    )
    rows = [
        report.Row("W1", "fedsim", 0.1, 81.4, 8.0, 0.5, 0.2, 400.0, 2.5),
        report.Row("W1:hidden=8", "loop", *[1.0] * 7),
    ]
    report.write_csv(tmp_path / "rows.csv", rows)
    assert report.read_csv(tmp_path / "rows.csv") == rows
    assert benchmark.main(["--from", str(tmp_path / "rows.csv"), "--plot", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").stat().st_size > 1000
    (tmp_path / "other.csv").write_text("a\n1\n")
    with pytest.raises(SystemExit, match="must be a table that --csv wrote, with the columns workload, who"):
        benchmark.main(["--from", str(tmp_path / "other.csv"), "--plot", str(tmp_path / "b.png")])
    points = [growth.Point("clients", n, 20, 2, n * 0.1, 1.0, 60.0, 1.0, 400.0) for n in (1, 10)]
    assert growth.exponent(points) == pytest.approx(1)
    growth.plot(tmp_path / "growth.png", points)
    assert (tmp_path / "bars.png").stat().st_size > 1000
    assert "matplotlib" in sys.modules
