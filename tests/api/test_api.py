"""`fedsim.run`, `sweep` and `load`: the same bytes and words as the commands."""

import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch

import fedsim
from fedsim.cli import main as cli

TINY = {
    **{"data": "synthetic", "data.clients": 3, "data.samples_per_client": 4, "data.test_samples_per_client": 2},
    **{"data.length": 3, "data.features": 2, "partition": "natural", "model.hidden_size": 2, "client.epochs": 1},
    **{"rounds": 2, "engine.kernels": "torch", "device": "cpu", "threads": 1, "console": "none"},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def typed(settings):
    return [f"{key}={value}" for key, value in settings.items()]


def command(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fedsim", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code


def test_a_run_is_that_of_the_command():
    run = fedsim.run(TINY, "model=lstm", seed=3, directory="one")
    assert command("run", *typed(TINY), "model=lstm", "seed=3", "hydra.run.dir=two") == 0
    for name in ("metrics.csv", "config.yaml", "clients.csv"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    assert (run.directory, run.status) == (Path("one"), "done")
    expected = pd.read_csv("two/metrics.csv").set_index("round")
    pd.testing.assert_frame_equal(run.metrics, expected)
    assert list(run.clients["client"]) == list(pd.read_csv("two/clients.csv")["client"])
    assert run.summary["status"] == "done"


def test_the_last_setting_counts_and_values_are_typed_as_they_are():
    run = fedsim.run(TINY, "seed=3", {"seed": 4, "name": "a, b='c' \\ ${x}".replace("${x}", "x")}, tags=["1", "b c"])
    import yaml

    record = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert (record["seed"], record["name"], record["tags"]) == (4, "a, b='c' \\ x", ["1", "b c"])
    assert run.directory.parts[0] == "outputs"


def test_threads_are_honoured_and_put_back(monkeypatch):
    seen = []
    from fedsim.runs import run as runner

    record = runner.record_run
    monkeypatch.setattr(runner, "record_run", lambda *given: seen.append(torch.get_num_threads()) or record(*given))
    before = torch.get_num_threads()
    wanted = 2 if before == 1 else 1
    fedsim.run(TINY, threads=wanted)
    assert seen == [wanted]
    assert torch.get_num_threads() == before


def test_the_model_is_the_saved_one():
    run = fedsim.run(TINY, model="gru", directory="one")
    module = run.model()
    from safetensors.torch import load_file

    (newest,) = sorted(Path("one/checkpoints").glob("*2.safetensors"))
    row = load_file(newest)["row"]
    assert torch.equal(torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters_in_order()]), row)
    outputs = module(torch.zeros(5, 3, 2), torch.tensor([3, 3, 2, 1, 3]))
    assert outputs.shape[0] == 5
    assert not module.training
    gru = torch.nn.GRU(2, 2, batch_first=True)  # the same numbers in a plain module
    gru.load_state_dict(module.layers[0].state_dict())
    inputs = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0))
    by_hand = module.head(gru(inputs)[0][:, -1])
    torch.testing.assert_close(module(inputs, torch.tensor([3])), by_hand)


def test_resume_in_place_and_as_a_fork():
    run = fedsim.run(TINY, directory="one")
    more = run.resume(rounds=4)
    assert more.directory == run.directory
    assert len(more.metrics) == 5
    fork = more.resume("client.optimizer.lr=0.01", rounds=5)
    assert fork.directory == Path("one-fork-1").absolute()
    named = more.resume({"client.optimizer.lr": 0.02, "hydra.run.dir": "elsewhere", "rounds": 5})
    assert named.directory == Path("elsewhere")
    assert len(named.metrics) == 6


def test_a_sweep_and_one_tidy_table():
    runs = fedsim.sweep({"aggregator": ["fedavg", "median"], "seed": [1, 2]}, TINY, directory="grid")
    assert [run.status for run in runs] == ["done"] * 4
    assert [run.directory for run in runs] == [Path("grid", str(n)) for n in range(4)]
    table = fedsim.load("grid")
    assert list(table.columns[:5]) == ["run", "status", "seed", "aggregator", "round"]
    assert len(table) == 12
    parts = [pd.read_csv(f"grid/{n}/metrics.csv") for n in range(4)]
    for number, (part, (rule, seed)) in enumerate(
        zip(parts, [("fedavg", 1), ("fedavg", 2), ("median", 1), ("median", 2)], strict=True)
    ):
        own = table[table["run"] == str(Path("grid", str(number)).absolute())].reset_index(drop=True)
        assert (set(own["aggregator"]), set(own["seed"])) == ({rule}, {seed})
        pd.testing.assert_frame_equal(own[list(part.columns)], part, check_dtype=False)
    assert fedsim.load(*runs[:2])["run"].nunique() == 2
    mean = table.groupby(["aggregator", "round"])["test_accuracy"].mean()
    assert mean.index.nlevels == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0.1}, "lr=0.1: no such key; write client.optimizer.lr=0.1"),
        ({"device": "gpu"}, "device=gpu: must be one of auto, cpu, cuda; write device=cuda"),
        ({"num_clients": 0}, "num_clients=0: must be at least 1"),
        ({"data": "csv", "data.path": "nothing.csv", "data.target_column": "y"}, "nothing.csv"),
    ],
)
def test_mistakes_are_exceptions_with_the_words_of_the_command(capsys, settings, words):
    small = {key: value for key, value in TINY.items() if not key.startswith(("data", "partition"))}
    with pytest.raises(fedsim.UserError) as raised:
        fedsim.run(small, settings)
    assert words in str(raised.value)
    assert "error:" not in capsys.readouterr().err
    assert not list(Path().rglob("metrics.csv"))


def test_mistakes_found_late_and_files_that_cannot_be_written(monkeypatch):
    from fedsim.runs import run as runner

    def late(simulation, directory, start):
        raise fedsim.UserError("found late")

    monkeypatch.setattr(runner, "record_run", late)
    with pytest.raises(fedsim.UserError, match="found late"):
        fedsim.run(TINY)
    monkeypatch.setattr(runner, "record_run", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fedsim.run(TINY)
    assert command("run", *typed(TINY)) == 1  # the command still reports it


@pytest.mark.parametrize("grid", [{"seed": "12"}, {"seed": []}, {"seed": 3}])
def test_a_grid_is_lists(grid):
    with pytest.raises(fedsim.UserError, match="must be a list of values"):
        fedsim.sweep(grid, TINY)


def test_settings_are_texts_or_mappings():
    with pytest.raises(fedsim.UserError, match="must be a setting, such as"):
        fedsim.run(TINY, 5)


def test_a_run_that_diverges_is_a_result():
    run = fedsim.run(TINY, {"client.optimizer.lr": 1e30, "client.clip_norm": None, "data.task": "regression"})
    assert run.status == "diverged"
    assert len(run.metrics) >= 1


def test_from_a_thread():
    """Signals are left to the main thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(fedsim.run(TINY, directory="one").status))
    thread.start()
    thread.join()
    assert found == ["done"]


def test_importing_fedsim_is_light():
    code = "import sys, fedsim; assert 'torch' not in sys.modules and 'hydra' not in sys.modules; print(dir(fedsim))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"'{name}'" in printed for name in fedsim.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fedsim.nothing
