"""`scripts/reproduce.py`: how it runs, resumes and judges; its data and parts; short versions where they are slow."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from fedsim.corrections.none import NoCorrection
from fedsim.corrections.proximal import Prox
from fedsim.corrections.scaffold import Scaffold
from fedsim.errors import UserError
from fedsim.federation.prepare import initial_state, prepare
from fedsim.federation.round import simulate

SCRIPTS = Path(__file__).parents[2] / "scripts"
LR, ROUNDS = 0.1, 50
SMALL = ("data=synthetic", "data.samples_per_client=8", "data.length=3", "model.hidden_size=3", "engine.kernels=torch")


@pytest.fixture(autouse=True)
def scripts(monkeypatch, one_thread):
    """Put the scripts' folder on the path, as if one of them were run."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def reproduce():
    import reproduce

    return reproduce


@pytest.fixture
def tiny():
    """A reproduction of two cases that takes a second; the second cell needs both."""
    from reproductions.frame import Case, Cell, Reproduction, Version, difference, final, last

    def loss(run):
        return final(run, "test_loss")

    version = Version(
        cells=(
            Cell("first", "accuracy", 0.5, 0, 1, last("first", "test_accuracy")),
            Cell("second", "loss less the first's", "> 99", 99, np.inf, difference("second", "first", loss)),
        ),
        tolerance="made up",
        cases=(Case("first", ("client.optimizer.lr=0.1",)), Case("second", ("client.optimizer.lr=0.2",))),
        common=(*SMALL, "rounds=3", "checkpoint.every=1"),
        seeds=(0, 1),
    )
    return Reproduction("tiny", "made up", "nobody", "everything", short=version, full=version)


def job(tiny, folder, **options):
    from reproductions.frame import Job

    return Job(tiny, tiny.short, folder, **options)


def test_a_part_is_run_and_judged(tiny, tmp_path):
    """With the first case only, the cell that needs both is not run; its value is the last one of ``metrics.csv``."""
    one = job(tiny, tmp_path / "short", only=["first"])
    one.run(lambda _: None)
    first, second = one.judge()
    assert (first.verdict, second.verdict) == ("within", "not run")
    files = [tmp_path / f"short/first/seed_{seed}/metrics.csv" for seed in (0, 1)]
    assert first.values == tuple(pd.read_csv(file)["test_accuracy"].iloc[-1] for file in files)
    text = one.store([first, second])
    assert "| second | loss less the first's | > 99 | at least 99.00 | - | - | not run |" in text
    stored = json.loads((tmp_path / "short/result.json").read_text())
    assert [cell["verdict"] for cell in stored["cells"]] == ["within", "not run"]
    assert stored["fedsim"]
    assert (tmp_path / "short/result.md").read_text() == text


def test_the_same_command_goes_on(tiny, tmp_path, monkeypatch):
    """Stopped in the middle of the second run, it leaves the first alone and resumes the second to the same rows."""
    from reproductions import frame

    whole = job(tiny, tmp_path / "whole")
    whole.run(lambda _: None)

    class Stop(Exception):
        pass

    def stopping(*texts, **options):
        run = original(*texts, **options)
        if "lr=0.2" in " ".join(texts):  # take back the last round, as if it had been stopped before it
            place = run.directory
            (place / "summary.json").unlink()
            (place / "checkpoints/round_000003.safetensors").unlink()
            raise Stop
        return run

    original = frame.fedsim.run
    monkeypatch.setattr(frame.fedsim, "run", stopping)
    one = job(tiny, tmp_path / "short")
    with pytest.raises(Stop):
        one.run(lambda _: None)
    assert [place.parent.name for _, _, place in one.todo()] == ["second", "first", "second"]
    assert frame.rounds_done(one.folder / "second/seed_0") == 2
    monkeypatch.setattr(frame.fedsim, "run", original)
    before = (one.folder / "first/seed_0/summary.json").stat().st_mtime_ns
    one.run(lambda _: None)
    assert one.todo() == []
    assert (one.folder / "first/seed_0/summary.json").stat().st_mtime_ns == before
    for case in ("first", "second"):
        rows = [folder / case / "seed_0/metrics.csv" for folder in (one.folder, whole.folder)]
        assert rows[0].read_bytes() == rows[1].read_bytes()
    assert [found.verdict for found in one.judge()] == ["within", "outside"]


def test_how_long_it_takes_is_said_per_case(tiny, tmp_path):
    said = []
    one = job(tiny, tmp_path / "short")
    assert one.seconds(said.append) > 0
    assert [line.split(":")[0].strip() for line in said] == ["first", "second"]
    assert not (tmp_path / "short/first").exists()


def test_runs_with_other_settings_are_not_mixed(tiny, tmp_path):
    """A case that was not run may change; one that was may not."""
    from dataclasses import replace

    job(tiny, tmp_path, only=["first"], seeds=[0]).run(lambda _: None)
    first, second = tiny.short.cases
    more = ("dtype=float64",)
    job(replace(tiny, short=replace(tiny.short, cases=(first, replace(second, overrides=more)))), tmp_path)
    with pytest.raises(UserError, match="first: holds runs with other settings"):
        job(replace(tiny, short=replace(tiny.short, cases=(replace(first, overrides=more), second))), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"), [({"only": ["third"]}, "--only third: tiny has first, second"), ({"data": "x"}, "no data")]
)
def test_mistakes(tiny, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        job(tiny, tmp_path, **options)


def test_a_run_that_never_arrives_or_diverged_is_outside():
    from reproductions.frame import NOT_JUDGED, Cell

    def cell(low, high):
        return Cell("a", "b", 1.0, low, high, lambda _: values)

    values = [1.0, float("nan")]
    assert cell(0, 2).judged({}).verdict == "outside"
    values = [1.0, float("inf")]
    assert cell(0, 2).judged({}).verdict == "outside"
    values = [0.5, 3.4]  # the mean, 1.95, is judged
    assert cell(0, 2).judged({}).verdict == "within"
    assert cell(*NOT_JUDGED).judged({}).verdict == "not judged"


def test_every_reproduction_composes(reproduce, tmp_path):
    """fedsim accepts all settings of both versions; none names a case twice, or measures one that is not there."""
    from reproductions.frame import experiment_of

    for one in reproduce.ALL.values():
        for version in (one.short, one.full):
            labels = [case.label for case in version.cases]
            assert len({*labels}) == len(labels)
            data = ("data.path=x",) if one.data else ()
            data = one.make(tmp_path) if one.make and labels else data
            for case in version.cases:
                experiment = experiment_of((*version.common, *data, *case.overrides, "seed=1"))
                assert experiment.rounds > 0
            assert version.tolerance
        assert one.source


def test_the_command(reproduce, tmp_path, monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
        return reproduce.main()

    assert command("list") == 0
    assert "quadratics" in capsys.readouterr().out
    assert command("run", "quadratics", "--output", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert out.count(" within |\n") == 11
    assert "outside" not in out
    assert "| 1 | 5.2e-03 | 5.6e-02 |" in out
    assert command("run", "turbofan", "--output", str(tmp_path)) == 2
    assert "--data" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# SCAFFOLD's quadratics


@pytest.mark.parametrize("dissimilarity", [1, 10, 100])
@pytest.mark.parametrize(("steps", "mu"), [(1, 0.0), (2, 0.0), (10, 0.0), (10, 0.5)])
def test_local_steps_by_hand(dissimilarity, steps, mu):
    """Gradients ``2 y + G`` and ``-G``, and the pull ``mu (y - x)``; the server takes the mean of both ends."""
    from reproductions.scaffold import quadratic

    x, expected = 1.0, []
    for _ in range(ROUNDS):
        first = second = x
        for _ in range(steps):
            first -= LR * (2 * first + dissimilarity + mu * (first - x))
            second -= LR * (-dissimilarity + mu * (second - x))
        x = (first + second) / 2
        expected.append(abs(x))
    found = quadratic(Prox(mu=mu) if mu else NoCorrection(), dissimilarity, steps, LR, ROUNDS)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dissimilarity", [1, 10, 100])
def test_scaffold_by_hand(dissimilarity):
    """Karimireddy 2020, Algorithm 1 with option II: it comes to the minimum whatever G is."""
    from reproductions.scaffold import quadratic

    x, controls, steps, expected = 1.0, [0.0, 0.0], 2, []
    for _ in range(ROUNDS):
        mean, ends = sum(controls) / 2, []
        for k, (curvature, slope) in enumerate(((2, dissimilarity), (0, -dissimilarity))):
            y = x
            for _ in range(steps):
                y -= LR * (curvature * y + slope - controls[k] + mean)
            controls[k] += (x - y) / (steps * LR) - mean
            ends.append(y)
        x = sum(ends) / 2
        expected.append(abs(x))
    found = quadratic(Scaffold(), dissimilarity, steps, LR, ROUNDS)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert found[-1] < 1e-4
    assert quadratic(NoCorrection(), dissimilarity, steps, LR, ROUNDS)[-1] > 0.05 * dissimilarity


# ---------------------------------------------------------------------------------------------------------------------
# FedProx' data and stragglers, McMahan's rounds


def test_users_differ_as_in_the_paper():
    """Inputs have variances j^-1.2 around each user's centre, which is N(B, 1) with B ~ N(0, beta)."""
    from reproductions.fedprox import users

    found = users(1, 1, 0)
    assert len(found) == 30
    assert min(len(y) for _, y in found) >= 50
    big = max(found, key=lambda one: len(one[1]))[0]
    wanted = np.arange(1, 61) ** -1.2
    assert np.allclose(big.var(0) / wanted, 1, atol=6 * np.sqrt(2 / len(big)))
    centres = np.array([x.mean(0) for x, _ in found])
    assert centres.mean(1).std() == pytest.approx(1, abs=0.4)  # B of 30 users, N(0, 1)
    assert (centres - centres.mean(1, keepdims=True)).std() == pytest.approx(1, abs=0.1)


def experiment(*texts):
    from reproductions.frame import experiment_of

    return experiment_of((*SMALL, "partition=natural", "sampler.fraction=null", "sampler.cohort_size=5", *texts))


@pytest.mark.parametrize("late", ["drop", "partial"])
def test_stragglers(late):
    """Eight samples in batches of 2 and 5 epochs are 20 steps; of five clients round(0.6 * 5) = 3 straggle."""
    own = ("system=stragglers", "system.share=0.6", f"system.late={late}")
    simulation = prepare(experiment("client.epochs=5", "client.batch_size=2", *own))
    state = initial_state(simulation)
    cohorts = [simulation.system.cohort(simulation, state, number) for number in (1, 2, 1)]
    assert torch.equal(cohorts[0].clients, cohorts[2].clients)
    for cohort in cohorts:
        if late == "drop":
            assert (len(cohort.clients), cohort.dropped) == (2, 3)
            assert cohort.steps.tolist() == [20, 20]
        else:
            assert sorted(cohort.steps.tolist())[3:] == [20, 20]
            assert {*sorted(cohort.steps.tolist())[:3]} <= {4, 8, 12, 16}  # 1 to 4 whole epochs
    rows = list(simulate(simulation, state))
    assert rows[1].metrics["clients"] == (2 if late == "drop" else 5)


def test_the_same_clients_straggle_whatever_is_done_with_them():
    kept = []
    for late in ("drop", "partial"):
        simulation = prepare(
            experiment("client.epochs=5", "system=stragglers", f"system.late={late}", "system.share=0.4")
        )
        cohort = simulation.system.cohort(simulation, initial_state(simulation), 3)
        kept.append(cohort.clients[cohort.steps == cohort.steps.max()].tolist())
    assert kept[0] == kept[1]


def test_rounds_to_a_target():
    """The best so far is 0.1, 0.3, 0.3, 0.5: 0.4 lies half-way between rounds 2 and 3."""
    from reproductions.mcmahan import rounds

    run = SimpleNamespace(metrics=pd.DataFrame({"test_accuracy": [0.1, 0.3, 0.2, 0.5]}))
    assert rounds(run, 0.4) == pytest.approx(2.5)
    assert rounds(run, 0.05) == 0
    assert rounds(run, 0.6) == np.inf


# ---------------------------------------------------------------------------------------------------------------------
# Short versions


def outside(reproduce, monkeypatch, folder, name):
    """Run a short version; what is outside its limits, by row and column."""
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "run", name, "--output", str(folder)])
    code = reproduce.main()
    cells = json.loads((folder / name / "short/result.json").read_text())["cells"]
    assert all(cell["verdict"] != "not run" for cell in cells)
    found = {(cell["row"], cell["column"]) for cell in cells if cell["verdict"] == "outside"}
    assert code == bool(found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("fedprox", {("90% stragglers", "unrest of the loss, mu = 0 less mu = 1")}),
        ("alie", {("ALIE, Krum", "points below no defence")}),
    ],
)
def test_short_versions(reproduce, tmp_path, monkeypatch, name, known):
    """All is within but what docs/reproductions.md explains."""
    assert outside(reproduce, monkeypatch, tmp_path, name) == known


@pytest.mark.slow
@pytest.mark.network
def test_short_versions_on_a_text_that_is_fetched(reproduce, tmp_path, monkeypatch):
    """FedAdam and FedYogi are level with FedAvg, to one side or the other."""
    assert outside(reproduce, monkeypatch, tmp_path, "mcmahan") == set()
    level = {(f"{name} less FedAvg", "accuracy in round 100, points") for name in ("FedAdam", "FedYogi")}
    assert outside(reproduce, monkeypatch, tmp_path, "reddi") <= level
